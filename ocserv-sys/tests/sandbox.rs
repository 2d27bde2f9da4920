//! What a restricted process can still do. Needs root, as the server does.
//!
//! Each probe runs in a child of its own, made by fork while this program has one thread; so there is
//! no test harness.

use std::io::{self, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, UnlinkatFlags, fork, unlinkat};
use ocserv_sys::sandbox::{
    FileRestriction, Role, SandboxError, drop_capabilities, drop_privileges,
    drop_ruling_capabilities, forbid_dumps, leave_file_systems, restrict, restrict_files,
};

type Check = Result<(), String>;
type Test = fn() -> Check;

fn main() {
    let tests: [(&str, Test); 10] = [
        ("no_path_leads_anywhere", no_path_leads_anywhere),
        (
            "files_are_gone_by_landlock_alone",
            files_are_gone_by_landlock_alone,
        ),
        ("a_gate_can_reach_nothing", || reaches_nothing(Role::Gate)),
        ("a_dataplane_can_reach_nothing", || {
            reaches_nothing(Role::Dataplane)
        }),
        ("a_dataplane_with_sockets_can_reach_nothing", || {
            reaches_nothing(Role::DataplaneWithSockets)
        }),
        ("sockets_past_the_stack_work_with_that_role", || {
            socket_calls(
                Role::DataplaneWithSockets,
                &[libc::EOPNOTSUPP; 2],
                libc::EBADF,
            )
        }),
        ("and_with_no_other", || {
            socket_calls(Role::Dataplane, &[libc::EPERM; 2], libc::EPERM)
        }),
        (
            "what_a_role_needs_still_works",
            what_a_role_needs_still_works,
        ),
        ("privileges_are_gone", privileges_are_gone),
        (
            "root_without_ruling_capabilities_rules_no_devices",
            root_without_ruling_capabilities_rules_no_devices,
        ),
    ];
    let mut failed = false;
    for role in [Role::Gate, Role::Dataplane, Role::DataplaneWithSockets] {
        let result = other_abi_kills(role);
        println!(
            "a_call_of_the_i386_abi_ends_a_{role:?} ... {}",
            result.as_ref().err().map_or("ok", String::as_str)
        );
        failed |= result.is_err();
    }
    for (name, test) in tests {
        let result = in_child(test);
        println!(
            "{name} ... {}",
            result.as_ref().err().map_or("ok", String::as_str)
        );
        failed |= result.is_err();
    }
    if failed {
        std::process::exit(1);
    }
}

/// Runs `test` in a child; its message comes through standard error, its success as the status.
fn in_child(test: Test) -> Check {
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }.map_err(|e| e.to_string())? {
        ForkResult::Child => {
            let status = match test() {
                Ok(()) => 0,
                Err(message) => {
                    eprintln!("{message}");
                    1
                }
            };
            std::process::exit(status);
        }
        ForkResult::Parent { child } => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            other => Err(format!("failed: {other:?}")),
        },
    }
}

/// `int 0x80` reaches other calls by the same numbers: 20 is getpid there, and writev for us.
fn other_abi_kills(role: Role) -> Check {
    const GETPID_I386: u64 = 20;
    // SAFETY: this program has one thread, so the child may do anything.
    match unsafe { fork() }.map_err(|e| e.to_string())? {
        ForkResult::Child => {
            if restrict(role).is_err() {
                std::process::exit(1);
            }
            let _pid: u64;
            // SAFETY: getpid(2) touches no memory; the kernel may change r8 to r11.
            unsafe {
                std::arch::asm!(
                    "int 0x80",
                    inlateout("rax") GETPID_I386 => _pid,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                )
            };
            std::process::exit(0);
        }
        ForkResult::Parent { child } => match waitpid(child, None) {
            // The second: a kernel without this ABI.
            Ok(WaitStatus::Signaled(_, Signal::SIGSYS | Signal::SIGSEGV, _)) => Ok(()),
            other => Err(format!("not killed: {other:?}")),
        },
    }
}

fn expect_errno(what: &str, result: i64, wanted: i32) -> Check {
    let error = io::Error::last_os_error();
    if result == -1 && error.raw_os_error() == Some(wanted) {
        Ok(())
    } else {
        Err(format!("{what}: returned {result}, {error}"))
    }
}

fn check(what: &str, holds: bool) -> Check {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn text<E: std::fmt::Debug>(error: E) -> String {
    format!("{error:?}")
}

fn files_are_gone_by_landlock_alone() -> Check {
    if restrict_files().map_err(text)? == FileRestriction::Absent {
        return Err("this kernel has no Landlock".into());
    }
    for path in ["/etc/passwd", "/dev/null", "/"] {
        let error = std::fs::read_dir(path)
            .map(|_| ())
            .or_else(|_| std::fs::File::open(path).map(|_| ()));
        let error = error.err().and_then(|e| e.raw_os_error());
        check(path, error == Some(libc::EACCES))?;
    }
    let created = std::fs::File::create("/tmp/ocserv-sandbox-probe").map_err(|e| e.raw_os_error());
    check("create", created.err() == Some(Some(libc::EACCES)))?;
    let run = std::process::Command::new("/bin/true")
        .status()
        .map_err(|e| e.raw_os_error());
    check("execute", run.err() == Some(Some(libc::EACCES)))
}

/// Without Landlock and seccomp.
fn no_path_leads_anywhere() -> Check {
    let parent = std::fs::File::open(std::env::temp_dir()).map_err(text)?;
    let file = format!("ocserv-sandbox-{}", std::process::id());
    let name = std::env::temp_dir().join(&file);
    let _log = UnixDatagram::bind(&name).map_err(text)?;
    let socket = UnixDatagram::unbound().map_err(text)?;
    let before = socket.send_to(b"x", &name).is_ok();
    leave_file_systems().map_err(text)?;
    let after = socket.send_to(b"x", &name).is_ok();
    unlinkat(&parent, file.as_str(), UnlinkatFlags::NoRemoveDir).map_err(text)?;
    check("named socket, before", before)?;
    check("named socket", !after)?;
    check("upwards", std::fs::metadata("/../etc").is_err())
}

fn reaches_nothing(role: Role) -> Check {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
    let fd = socket.as_raw_fd();
    let parent = nix::unistd::getppid().as_raw();
    restrict(role).map_err(text)?;
    for (what, call, arguments) in forbidden(fd, parent) {
        let [a, b, c, d] = arguments;
        // SAFETY: the calls are refused before the kernel looks at an argument, and all pointers
        // among them are NUL-terminated strings or null.
        let result = unsafe { libc::syscall(call, a, b, c, d) };
        expect_errno(what, result, libc::EPERM)?;
    }
    // SAFETY: as above.
    let result = unsafe { libc::syscall(libc::SYS_clone3, 0, 0) };
    expect_errno("clone3", result, libc::ENOSYS)?;
    // SAFETY: the child of a fork that must not succeed would end below.
    expect_errno(
        "fork",
        unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) },
        libc::EPERM,
    )
}

/// The calls that sockets past the stack need reach the kernel, which has its own answer to these, or do
/// not.
fn socket_calls(role: Role, options: &[i32; 2], run: i32) -> Check {
    const PROGRAM_LOAD: libc::c_long = 5;
    const PROGRAM_RUN: libc::c_long = 10;
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
    let fd = libc::c_long::from(socket.as_raw_fd());
    restrict(role).map_err(text)?;
    let names = [libc::XDP_MMAP_OFFSETS, libc::XDP_STATISTICS];
    for (name, wanted) in names.into_iter().zip(options) {
        let mut value = [0_u8; 128];
        let mut len = value.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, which the value has.
        let result = unsafe {
            libc::syscall(
                libc::SYS_getsockopt,
                fd,
                libc::SOL_XDP,
                name,
                value.as_mut_ptr(),
                &raw mut len,
            )
        };
        expect_errno("option of a socket past the stack", result, *wanted)?;
    }
    // No descriptor has this number.
    let mut attributes = [0_u32; 16];
    attributes[0] = u32::MAX;
    for (command, wanted) in [(PROGRAM_RUN, run), (PROGRAM_LOAD, libc::EPERM)] {
        // SAFETY: the kernel reads the attributes, as many bytes as it is told.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                attributes.as_ptr(),
                size_of_val(&attributes),
            )
        };
        expect_errno("bpf", result, wanted)?;
    }
    Ok(())
}

type Call = (&'static str, libc::c_long, [libc::c_long; 4]);

/// Marks a call of the x32 ABI.
const X32: libc::c_long = 0x4000_0000;

fn forbidden(fd: i32, parent: i32) -> Vec<Call> {
    let path = c"/etc/passwd".as_ptr() as libc::c_long;
    let (fd, parent) = (libc::c_long::from(fd), libc::c_long::from(parent));
    let long = libc::c_long::from;
    let read_execute = long(libc::PROT_READ | libc::PROT_EXEC);
    vec![
        ("open", libc::SYS_open, [path, 0, 0, 0]),
        (
            "openat",
            libc::SYS_openat,
            [long(libc::AT_FDCWD), path, 0, 0],
        ),
        (
            "openat2",
            libc::SYS_openat2,
            [long(libc::AT_FDCWD), path, 0, 0],
        ),
        ("unlink", libc::SYS_unlink, [path, 0, 0, 0]),
        (
            "socket",
            libc::SYS_socket,
            [long(libc::AF_INET), long(libc::SOCK_STREAM), 0, 0],
        ),
        (
            "unix socket",
            libc::SYS_socket,
            [long(libc::AF_UNIX), long(libc::SOCK_STREAM), 0, 0],
        ),
        (
            "datagram pair",
            libc::SYS_socketpair,
            [long(libc::AF_UNIX), long(libc::SOCK_DGRAM), 0, 0],
        ),
        ("read of the x32 ABI", X32 | libc::SYS_read, [fd, 0, 0, 0]),
        (
            "status of a file",
            libc::SYS_newfstatat,
            [long(libc::AT_FDCWD), path, 0, long(libc::AT_EMPTY_PATH)],
        ),
        (
            "handle on the peer",
            libc::SYS_getsockopt,
            [fd, long(libc::SOL_SOCKET), long(libc::SO_PEERPIDFD), 0],
        ),
        (
            "thread in another namespace",
            libc::SYS_clone,
            [long(libc::CLONE_THREAD | libc::CLONE_NEWNET), 0, 0, 0],
        ),
        (
            "process with a thread's bit above",
            libc::SYS_clone,
            [
                (long(libc::CLONE_THREAD) << 32) | long(libc::SIGCHLD),
                0,
                0,
                0,
            ],
        ),
        ("connect", libc::SYS_connect, [fd, 0, 0, 0]),
        ("bind", libc::SYS_bind, [fd, 0, 0, 0]),
        ("listen", libc::SYS_listen, [fd, 1, 0, 0]),
        ("accept", libc::SYS_accept4, [fd, 0, 0, 0]),
        ("execve", libc::SYS_execve, [path, 0, 0, 0]),
        (
            "execveat",
            libc::SYS_execveat,
            [long(libc::AT_FDCWD), path, 0, 0],
        ),
        ("vfork", libc::SYS_vfork, [0; 4]),
        (
            "ptrace",
            libc::SYS_ptrace,
            [long(libc::PTRACE_ATTACH as i32), parent, 0, 0],
        ),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            [parent, 0, 0, 0],
        ),
        ("kill", libc::SYS_kill, [parent, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [parent, parent, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0]),
        ("mmap of code", libc::SYS_mmap, [0, 4096, read_execute, 0]),
        (
            "mprotect of code",
            libc::SYS_mprotect,
            [0, 4096, read_execute, 0],
        ),
        (
            "ioctl",
            libc::SYS_ioctl,
            [fd, libc::SIOCGIFCONF as libc::c_long, 0, 0],
        ),
        (
            "tun ioctl",
            libc::SYS_ioctl,
            [fd, libc::TUNSETIFF as libc::c_long, 0, 0],
        ),
        ("bpf", libc::SYS_bpf, [0; 4]),
        ("setuid", libc::SYS_setuid, [0; 4]),
        (
            "prctl",
            libc::SYS_prctl,
            [long(libc::PR_SET_DUMPABLE), 1, 0, 0],
        ),
        ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0, 0]),
        ("mount", libc::SYS_mount, [path, path, 0, 0]),
        (
            "unshare",
            libc::SYS_unshare,
            [long(libc::CLONE_NEWUSER), 0, 0, 0],
        ),
    ]
}

fn what_a_role_needs_still_works() -> Check {
    let one = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
    let two = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
    one.connect(two.local_addr().map_err(text)?).map_err(text)?;
    restrict(Role::Gate).map_err(text)?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("probe".into())
        .spawn(move || {
            let mut random = [0u8; 16];
            // SAFETY: the buffer is writable for its length.
            let len = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
            let _ = sender.send((len, vec![1u8; 8 << 20].len(), std::time::Instant::now()));
        });
    thread.map_err(text)?.join().map_err(text)?;
    check("thread", receiver.recv().map_err(text)?.0 == 16)?;
    one.send(b"x").map_err(text)?;
    check("datagram", two.recv(&mut [0; 8]).map_err(text)? == 1)?;
    one.set_nonblocking(true).map_err(text)?;
    let (a, _b) = std::os::unix::net::UnixStream::pair().map_err(text)?;
    a.shutdown(std::net::Shutdown::Both).map_err(text)?;
    check(
        "write to standard error",
        io::stderr().write_all(b"").is_ok(),
    )
}

fn privileges_are_gone() -> Check {
    ocserv_sys::process::die_with_parent(nix::unistd::getppid().as_raw()).map_err(text)?;
    drop_privileges(65534, 65534).map_err(text)?;
    forbid_dumps().map_err(text)?;
    let status = std::fs::read_to_string("/proc/self/status").map_err(text)?;
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "Groups:\t \n",
    ] {
        check(line, status.contains(line))?;
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        check(set, status.contains(&format!("{set}:\t0000000000000000")))?;
    }
    check("NoNewPrivs", status.contains("NoNewPrivs:\t1"))?;
    let death_signal = nix::sys::prctl::get_pdeathsig().map_err(text)?;
    check(
        "death signal",
        death_signal == Some(nix::sys::signal::Signal::SIGKILL),
    )?;
    check("dumpable", nix::sys::prctl::get_dumpable() == Ok(false))?;
    check(
        "back to root",
        nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_err(),
    )?;
    let again: Result<(), SandboxError> = drop_capabilities();
    again.map_err(text)
}

fn root_without_ruling_capabilities_rules_no_devices() -> Check {
    const RULING: u64 = 1 << 12 | 1 << 21 | 1 << 38 | 1 << 39;
    let sets = || -> Result<Vec<u64>, String> {
        let status = std::fs::read_to_string("/proc/self/status").map_err(text)?;
        let lines = status.lines().filter_map(|line| {
            let (name, value) = line.split_once(":\t")?;
            ["CapPrm", "CapEff"].contains(&name).then_some(value)
        });
        lines
            .map(|value| u64::from_str_radix(value, 16).map_err(text))
            .collect()
    };
    check(
        "rights at first",
        sets()?.iter().all(|set| set & RULING == RULING),
    )?;
    drop_ruling_capabilities().map_err(text)?;
    let after = sets()?;
    check(
        "rights afterwards",
        after.iter().all(|set| set & RULING == 0 && *set != 0),
    )?;
    check(
        "a namespace of its own",
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err(),
    )?;
    check("root still", nix::unistd::geteuid().is_root())
}
