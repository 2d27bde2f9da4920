//! What an attacker inside a gate or the dataplane might try, and what it would bring.

use std::path::Path;

use nix::libc::{self, c_long};
use ocserv_tests::injection::Argument;

/// A system call that must fail.
pub struct Probe {
    /// The call as the table has it, for messages.
    pub text: &'static str,
    /// What it would bring the attacker.
    pub gain: &'static str,
    /// Its number.
    pub call: c_long,
    /// Its arguments.
    pub arguments: Vec<Argument>,
}

/// What the calls of the table name.
pub struct Surroundings<'a> {
    /// The bed's directory, with key, passwords and sockets.
    pub directory: &'a Path,
    /// The privileged first process.
    pub supervisor: i32,
    /// A socket of the probed process: a connection, or a port of the dataplane.
    pub socket: i32,
    /// Its tun queue, if it has one; else the same socket.
    pub tun: i32,
}

macro_rules! probes {
    ($($call:ident($($argument:expr),*) => $gain:literal;)*) => {
        vec![$(Probe {
            text: stringify!($call($($argument),*)),
            gain: $gain,
            call: libc::$call,
            arguments: vec![$(Argument::from($argument)),*],
        }),*]
    };
}

const HERE: i32 = libc::AT_FDCWD;
const NULL: i32 = 0;
const STDERR: i32 = 2;
const READ_EXECUTE: i32 = libc::PROT_READ | libc::PROT_EXEC;
const PRIVATE_MEMORY: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
/// Bits that the kernel ignores in 32-bit arguments, and a careless filter compares.
const HIGH: u64 = 1 << 32;
/// Marks a call of the x32 ABI.
const X32: c_long = 0x4000_0000;
/// `127.0.0.1:9`.
const LOOPBACK: [u8; 16] = [2, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
/// `CAP_SYS_ADMIN` and all others in a set of capset(2), version 3.
const CAPABILITY_HEADER: [u8; 8] = [0x22, 0x05, 0x08, 0x20, 0, 0, 0, 0];

/// Calls that work in a process that is not isolated, whoever its user is, and do no harm there:
/// without these the test could not fail.
pub fn harmless() -> Vec<Probe> {
    probes! {
        SYS_open("/etc/passwd", libc::O_RDONLY) => "files";
        SYS_openat(HERE, "/etc/passwd", libc::O_RDONLY, 0) => "files";
        SYS_openat2(HERE, "/etc/passwd", [0; 24], 24) => "files";
        SYS_newfstatat(HERE, "/etc/passwd", [0; 144], 0) => "which files there are";
        SYS_newfstatat(HERE, "/etc/passwd", [0; 144], libc::AT_EMPTY_PATH)
            => "which files there are, in the form for descriptors";
        SYS_statx(HERE, "/etc/passwd", libc::AT_EMPTY_PATH, libc::STATX_BASIC_STATS, [0; 256])
            => "which files there are, in the form for descriptors";
        SYS_access("/etc/passwd", libc::R_OK) => "which files there are";
        SYS_readlink("/proc/self/exe", [0; 256], 256) => "where programs are";
        SYS_getcwd([0; 256], 256) => "where the process is";
        SYS_chdir("/") => "relative paths";
        SYS_inotify_init1(0) => "what others do with files";
        SYS_socket(libc::AF_INET, libc::SOCK_STREAM, 0) => "the networks of the host";
        SYS_socket(libc::AF_INET6, libc::SOCK_DGRAM, 0) => "the networks of the host";
        SYS_socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) => "services of the host, occtl";
        SYS_socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0) => "made-up log lines of others";
        SYS_socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE) => "routes, kernel code";
        SYS_socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, [0; 8]) => "a socket for named ones";
        SYS_mmap(NULL, 4096, READ_EXECUTE, PRIVATE_MEMORY, -1, 0) => "code of its own";
        SYS_mmap(NULL, 4096, HIGH | READ_EXECUTE as u64, PRIVATE_MEMORY, -1, 0)
            => "code of its own, past a filter of 64 bits";
        SYS_memfd_create("probe", 0) => "files to execute";
        SYS_dup(STDERR) => "nothing, but nobody needs it";
        SYS_pipe2([0; 8], 0) => "nothing, but nobody needs it";
        SYS_timerfd_create(libc::CLOCK_MONOTONIC, 0) => "nothing, but nobody needs it";
        SYS_sysinfo([0; 112]) => "the state of the host";
        SYS_uname([0; 390]) => "which kernel it is, to choose an exploit";
        SYS_getppid() => "whom to attack";
        SYS_sched_getscheduler(0) => "nothing, but nobody needs it";
        SYS_fcntl(STDERR, libc::F_SETOWN, 0) => "signals to others by descriptors";
        SYS_prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) => "other uses of prctl";
    }
}

/// Calls that would do harm, or that only root may make.
pub fn harmful(around: &Surroundings<'_>) -> Vec<Probe> {
    let mut all = files(around.directory);
    all.extend(sockets(around));
    all.extend(processes(around.supervisor));
    all.extend(identity());
    all.extend(memory());
    all.extend(kernel());
    all.extend(x32());
    all
}

fn files(directory: &Path) -> Vec<Probe> {
    let key = directory.join("server.key");
    let (key, passwords) = (key.as_path(), &*directory.join("passwd"));
    let new = &*directory.join("probe");
    probes! {
        SYS_open("/etc/shadow", libc::O_RDONLY) => "password hashes of the host";
        SYS_openat(HERE, key, libc::O_RDONLY, 0) => "the server's private key";
        SYS_openat(HERE, passwords, libc::O_RDONLY, 0) => "password hashes of the users";
        SYS_openat(HERE, passwords, libc::O_WRONLY, 0) => "users of its own";
        SYS_openat(HERE, "/proc/1/environ", libc::O_RDONLY, 0) => "secrets of other processes";
        SYS_openat(HERE, "/proc/self/mem", libc::O_RDWR, 0) => "writing to code";
        SYS_openat(HERE, "/proc/self/environ", libc::O_RDONLY, 0) => "the supervisor's environment";
        SYS_openat(HERE, "/dev/net/tun", libc::O_RDWR, 0) => "tun devices";
        SYS_openat(HERE, directory, libc::O_TMPFILE | libc::O_RDWR, 0o600) => "nameless files";
        SYS_creat("/tmp/ocserv-probe", 0o600) => "files in common directories";
        SYS_open_by_handle_at(HERE, [0; 64], libc::O_RDONLY) => "files past directory rights";
        SYS_name_to_handle_at(HERE, key, [0; 64], [0; 8], 0) => "handles of files";
        SYS_unlink(key) => "destroying files";
        SYS_rename(key, new) => "destroying files";
        SYS_truncate(passwords, 0) => "destroying files";
        SYS_link(key, new) => "files under other names";
        SYS_symlink("/etc/shadow", new) => "traps for other processes";
        SYS_mkdir(new, 0o700) => "traps for other processes";
        SYS_mknod(new, libc::S_IFCHR | 0o600, 0x0101) => "devices";
        SYS_chmod(key, 0o666) => "rights on files";
        SYS_fchmod(STDERR, 0o666) => "rights on the log";
        SYS_chown(key, 65534, 65534) => "files of others";
        SYS_fchown(STDERR, 65534, 65534) => "the log's ownership";
        SYS_ftruncate(STDERR, 0) => "an empty log";
        SYS_chroot("/") => "another root directory";
        SYS_pivot_root("/", "/") => "another root directory";
        SYS_mount("none", "/mnt", "tmpfs", 0, NULL) => "file systems";
        SYS_umount2("/proc", libc::MNT_DETACH) => "file systems";
        SYS_fsopen("tmpfs", 0) => "file systems, the new way";
        SYS_open_tree(HERE, "/", 1) => "file systems, the new way";
        SYS_fanotify_init(0, 0) => "files that others open";
    }
}

fn sockets(around: &Surroundings<'_>) -> Vec<Probe> {
    let (socket, tun) = (around.socket, around.tun);
    probes! {
        SYS_socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300) => "packets of the host";
        SYS_socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) => "packets of any source";
        SYS_socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0) => "kernel code";
        SYS_socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) => "the hypervisor";
        SYS_connect(socket, LOOPBACK, 16) => "services of the host";
        SYS_bind(socket, LOOPBACK, 16) => "acting as another service";
        SYS_listen(socket, 1) => "connections past the supervisor";
        SYS_accept4(socket, NULL, NULL, 0) => "connections past the supervisor";
        SYS_sendto(socket, "x", 1, 0, LOOPBACK, 16) => "datagrams to whom it likes";
        SYS_sendto(socket, "x", 1, 0, HIGH, 16) => "the same, past a filter of 32 bits";
        SYS_setsockopt(socket, libc::SOL_SOCKET, libc::SO_MARK, [1; 4], 4) => "policy routing";
        SYS_setsockopt(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, [1; 4], 4) => "ports of others";
        SYS_setsockopt(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, "lo", 3) => "other networks";
        SYS_setsockopt(socket, libc::SOL_SOCKET, libc::SO_LINGER, [1; 8], 8)
            => "making whoever closes a descriptor that it was sent wait";
        SYS_setsockopt(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, [0; 16], 16) => "kernel code";
        SYS_setsockopt(socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, [1; 4], 4) => "any source";
        SYS_setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_ULP, "tls", 4) => "kernel code";
        SYS_getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERPIDFD, [0; 4], [4, 0, 0, 0])
            => "a handle on the process at the other end";
        SYS_getsockopt(socket, libc::IPPROTO_IP, 64, [0; 84], [84, 0, 0, 0]) => "firewall rules";
        SYS_ioctl(tun, libc::TUNSETIFF, [0; 40]) => "other tun devices";
        SYS_ioctl(tun, libc::TUNSETPERSIST, 1) => "a device that stays";
        SYS_ioctl(tun, HIGH | libc::TUNSETIFF, [0; 40]) => "the same, past a filter of 64 bits";
        SYS_ioctl(socket, libc::SIOCGIFCONF, [0; 16]) => "addresses of the host";
        SYS_ioctl(STDERR, libc::TIOCSTI, "x") => "typing into the administrator's terminal";
        SYS_ioctl(STDERR, libc::TIOCLINUX, [2; 1]) => "typing by the console's clipboard";
    }
}

fn processes(supervisor: i32) -> Vec<Probe> {
    let process = libc::SIGCHLD as u64;
    let thread = (libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM) as u64;
    probes! {
        SYS_execve("/bin/true", NULL, NULL) => "programs of the host";
        SYS_execveat(HERE, "/bin/true", NULL, NULL, 0) => "programs of the host";
        SYS_fork() => "processes that outlive it";
        SYS_vfork() => "processes that outlive it";
        SYS_clone(process, 0, 0, 0, 0) => "processes that outlive it";
        SYS_clone(process | (libc::CLONE_THREAD as u64) << 32, 0, 0, 0, 0)
            => "the same, past a filter of 64 bits";
        SYS_clone(process | libc::CLONE_NEWUSER as u64, 0, 0, 0, 0) => "root in a user namespace";
        SYS_clone(thread | libc::CLONE_NEWNET as u64, 0, 0, 0, 0) => "a thread in other namespaces";
        SYS_clone(thread | libc::CLONE_NEWNS as u64, 0, 0, 0, 0) => "a thread in other namespaces";
        SYS_unshare(libc::CLONE_NEWUSER) => "root in a user namespace";
        SYS_unshare(libc::CLONE_FILES) => "threads that differ";
        SYS_setns(STDERR, 0) => "other namespaces";
        SYS_kill(1, 0) => "signals to others";
        SYS_kill(supervisor, 0) => "signals to the supervisor";
        SYS_kill(-1, 0) => "signals to all of its user";
        SYS_tkill(supervisor, 0) => "signals to the supervisor";
        SYS_tgkill(supervisor, supervisor, 0) => "signals to the supervisor";
        SYS_rt_sigqueueinfo(supervisor, 0, [0; 128]) => "signals to the supervisor";
        SYS_pidfd_open(supervisor, 0) => "a handle on the supervisor";
        SYS_pidfd_getfd(STDERR, 0, 0) => "descriptors of others";
        SYS_pidfd_send_signal(STDERR, 0, NULL, 0) => "signals by handle";
        SYS_ptrace(libc::PTRACE_SEIZE, supervisor, 0, 0) => "the supervisor's memory";
        SYS_ptrace(libc::PTRACE_TRACEME, 0, 0, 0) => "a tracer of its own choice";
        SYS_process_vm_readv(supervisor, [0; 16], 1, [0; 16], 1, 0) => "the supervisor's memory";
        SYS_process_vm_writev(supervisor, [0; 16], 1, [0; 16], 1, 0) => "the supervisor's memory";
        SYS_kcmp(supervisor, supervisor, 0, 0, 0) => "the kernel's addresses";
        SYS_prlimit64(supervisor, libc::RLIMIT_NOFILE, [0; 16], NULL) => "a supervisor without files";
        SYS_setrlimit(libc::RLIMIT_CORE, [0; 16]) => "cores";
        SYS_setpriority(libc::PRIO_PROCESS, supervisor, 19) => "a slow supervisor";
        SYS_sched_setaffinity(supervisor, 8, [1; 8]) => "a slow supervisor";
        SYS_setsid() => "leaving its process group";
        SYS_setpgid(0, 0) => "leaving its process group";
    }
}

fn identity() -> Vec<Probe> {
    probes! {
        SYS_setuid(0) => "root";
        SYS_setreuid(0, 0) => "root";
        SYS_setresuid(0, 0, 0) => "root";
        SYS_setgid(0) => "root's group";
        SYS_setresgid(0, 0, 0) => "root's group";
        SYS_setgroups(1, [0; 4]) => "root's group";
        SYS_setfsuid(0) => "root's files";
        SYS_capset(CAPABILITY_HEADER, [0xff; 24]) => "capabilities";
        SYS_personality(libc::READ_IMPLIES_EXEC) => "executable memory by reading";
        SYS_prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) => "cores, ptrace by others of its user";
        SYS_prctl(libc::PR_SET_PTRACER, u64::MAX, 0, 0, 0) => "ptrace by others of its user";
        SYS_prctl(libc::PR_SET_PDEATHSIG, 0, 0, 0, 0) => "outliving the supervisor";
        SYS_prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) => "capabilities";
        SYS_prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 21, 0, 0) => "capabilities";
        SYS_prctl(libc::PR_SET_MM, libc::PR_SET_MM_EXE_FILE, STDERR, 0, 0) => "another name";
        SYS_keyctl(0, -3, 0) => "root's session keyring, which it inherits";
        SYS_add_key("user", "probe", "x", 1, -3) => "keys of others";
        SYS_request_key("user", "probe", NULL, 0) => "a program that the kernel starts";
    }
}

fn memory() -> Vec<Probe> {
    probes! {
        SYS_mprotect(0x1000, 4096, READ_EXECUTE) => "code of its own";
        SYS_mprotect(0x1000, 4096, HIGH | READ_EXECUTE as u64) => "past a filter of 64 bits";
        SYS_pkey_mprotect(0x1000, 4096, READ_EXECUTE, -1) => "code of its own";
        SYS_remap_file_pages(0, 4096, 0, 0, 0) => "memory in odd forms";
        SYS_userfaultfd(0) => "kernel code that waits for it";
        SYS_shmget(0, 4096, 0o600) => "memory of others, memory that stays";
        SYS_shmat(0, 0, libc::SHM_EXEC) => "code in memory of others";
        SYS_msgget(0, 0o600) => "channels to others";
        SYS_mq_open("probe", libc::O_CREAT, 0o600, NULL) => "channels to others";
        SYS_memfd_secret(0) => "memory that others cannot look at";
        SYS_process_madvise(STDERR, NULL, 0, 0, 0) => "memory of others";
    }
}

fn kernel() -> Vec<Probe> {
    probes! {
        SYS_bpf(0, [0; 64], 64) => "kernel code";
        SYS_perf_event_open([0; 112], 0, -1, -1, 0) => "kernel code, what others compute";
        SYS_io_uring_setup(1, [0; 120]) => "calls past this filter";
        SYS_io_uring_enter(STDERR, 0, 0, 0, NULL, 0) => "calls past this filter";
        SYS_io_setup(1, [0; 8]) => "kernel code";
        SYS_seccomp(libc::SECCOMP_SET_MODE_STRICT, 0, NULL) => "another filter";
        SYS_landlock_create_ruleset(NULL, 0, 1) => "the kernel's version";
        SYS_init_module(NULL, 0, "") => "kernel modules";
        SYS_finit_module(STDERR, "", 0) => "kernel modules";
        SYS_kexec_load(0, 0, NULL, 0) => "another kernel";
        SYS_reboot(0, 0, 0, NULL) => "the end of the host";
        SYS_swapon("/dev/null", 0) => "secrets on disk";
        SYS_syslog(2, [0; 16], 16) => "the kernel's addresses";
        SYS_sethostname("probe", 5) => "another host name";
        SYS_clock_settime(libc::CLOCK_REALTIME, [0xff; 16]) => "cookies that do not expire";
        SYS_iopl(3) => "hardware";
        SYS_ioperm(0x80, 1, 1) => "hardware";
        SYS_modify_ldt(1, [0; 16], 16) => "odd segments";
        SYS_arch_prctl(0x1012, 0) => "traps at instructions";
        SYS_quotactl(0, NULL, 0, NULL) => "kernel code";
        SYS_acct(NULL) => "no records";
    }
}

/// Calls of the x32 ABI, whose numbers a filter may overlook.
fn x32() -> Vec<Probe> {
    let mut all = probes! {
        SYS_openat(HERE, "/etc/passwd", libc::O_RDONLY, 0) => "files by the x32 ABI";
        SYS_socket(libc::AF_INET, libc::SOCK_STREAM, 0) => "networks by the x32 ABI";
        SYS_fork() => "processes by the x32 ABI";
        SYS_read(STDERR, NULL, 0) => "the x32 ABI, even for what is allowed";
    };
    for probe in &mut all {
        probe.call |= X32;
    }
    all
}
