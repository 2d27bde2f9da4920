//! Seccomp: the system calls that gate and dataplane may make, each with its reason.
//!
//! What is not listed fails with EPERM. There is no socket(2), open(2), execve(2), fork(2), kill(2),
//! ptrace(2): both roles live from the descriptors that the supervisor gives them.

use std::collections::BTreeMap;

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use super::{Role, SandboxError};

/// When a call is allowed. Arguments count from 0.
enum Allowed {
    /// Whatever its arguments.
    Always,
    /// If the 32-bit argument has one of these values.
    Argument(u8, &'static [i32]),
    /// If two 32-bit arguments have one of these pairs of values.
    Pair(u8, u8, &'static [(i32, i32)]),
    /// If the argument has all of the first bits and none of the second.
    Bits(u8, i32, i32),
    /// If the pointer argument is null.
    Null(u8),
    /// If the first argument is this process.
    OwnProcess,
}

use Allowed::{Always, Argument, Bits, Null, OwnProcess, Pair};

struct Rule(libc::c_long, Allowed, &'static str);

/// Domain and type that the standard library asks for.
const STREAM_PAIR: (i32, i32) = (libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
const STREAM_PAIR_NONBLOCKING: (i32, i32) = (libc::AF_UNIX, STREAM_PAIR.1 | libc::SOCK_NONBLOCK);

/// What a thread may not have of its own.
const NAMESPACES: i32 = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// Both roles.
const COMMON: &[Rule] = &[
    // Memory.
    Rule(libc::SYS_brk, Always, "heap"),
    Rule(
        libc::SYS_mmap,
        Bits(2, 0, libc::PROT_EXEC),
        "heap, thread stacks; never code",
    ),
    Rule(
        libc::SYS_mprotect,
        Bits(2, 0, libc::PROT_EXEC),
        "guard pages, heap; never code",
    ),
    Rule(libc::SYS_munmap, Always, "heap, thread stacks"),
    Rule(libc::SYS_mremap, Always, "growing large buffers"),
    Rule(
        libc::SYS_madvise,
        Always,
        "heap trimming, end of a thread's stack",
    ),
    // Threads of this process, never processes: clone3 gets ENOSYS, so that libc uses clone, whose
    // flags can be seen.
    Rule(
        libc::SYS_clone,
        Bits(0, libc::CLONE_THREAD, NAMESPACES),
        "thread pools",
    ),
    Rule(libc::SYS_set_robust_list, Always, "libc, start of a thread"),
    Rule(libc::SYS_rseq, Always, "libc, start of a thread"),
    Rule(libc::SYS_sched_getaffinity, Always, "number of cores"),
    Rule(libc::SYS_sched_yield, Always, "spinning locks"),
    Rule(libc::SYS_futex, Always, "locks"),
    Rule(libc::SYS_gettid, Always, "thread names in logs"),
    Rule(
        libc::SYS_getpid,
        Always,
        "logs; OpenSSL's random generator notices forks by it",
    ),
    Rule(
        libc::SYS_prctl,
        Argument(0, &[libc::PR_SET_NAME]),
        "thread names",
    ),
    Rule(libc::SYS_exit, Always, "end of a thread"),
    Rule(libc::SYS_exit_group, Always, "end of the process"),
    // Signals: none to others.
    Rule(
        libc::SYS_rt_sigaction,
        Always,
        "stack overflow handler, abort",
    ),
    Rule(libc::SYS_rt_sigprocmask, Always, "start of a thread, abort"),
    Rule(libc::SYS_rt_sigreturn, Always, "end of a signal handler"),
    Rule(libc::SYS_sigaltstack, Always, "stack overflow handler"),
    Rule(
        libc::SYS_restart_syscall,
        Always,
        "a call interrupted by stop and continue",
    ),
    Rule(libc::SYS_tgkill, OwnProcess, "abort"),
    // Time and randomness.
    Rule(
        libc::SYS_clock_gettime,
        Always,
        "time, where the vDSO cannot tell it",
    ),
    Rule(libc::SYS_clock_nanosleep, Always, "waiting"),
    Rule(libc::SYS_nanosleep, Always, "waiting"),
    Rule(libc::SYS_getrandom, Always, "keys, nonces, hash seeds"),
    // Event loops.
    Rule(libc::SYS_epoll_create1, Always, "event loop"),
    Rule(libc::SYS_epoll_ctl, Always, "event loop"),
    Rule(libc::SYS_epoll_wait, Always, "event loop"),
    Rule(libc::SYS_epoll_pwait, Always, "event loop"),
    Rule(libc::SYS_eventfd2, Always, "waking an event loop"),
    Rule(libc::SYS_poll, Always, "waiting on one descriptor"),
    Rule(libc::SYS_ppoll, Always, "waiting on one descriptor"),
    // Descriptors that are open already.
    Rule(libc::SYS_read, Always, "tun, eventfd"),
    Rule(
        libc::SYS_write,
        Always,
        "tun, eventfd, log on standard error",
    ),
    Rule(libc::SYS_readv, Always, "streams"),
    Rule(
        libc::SYS_writev,
        Always,
        "streams, log, several packets to the tun device as one",
    ),
    Rule(libc::SYS_pread64, Always, "configuration in a memory file"),
    // Not by fstat(2): libc makes newfstatat or statx of it, which take paths too and tell of any
    // file whether it exists, how large and how old it is.
    Rule(libc::SYS_lseek, Always, "length of a memory file"),
    Rule(libc::SYS_close, Always, "descriptors"),
    Rule(
        libc::SYS_fcntl,
        Argument(
            1,
            &[
                libc::F_GETFD,
                libc::F_SETFD,
                libc::F_GETFL,
                libc::F_SETFL,
                libc::F_DUPFD_CLOEXEC,
                libc::F_GET_SEALS,
            ],
        ),
        "non-blocking mode, copies, check of a memory file",
    ),
    // Sockets that are open already.
    Rule(
        libc::SYS_sendmsg,
        Always,
        "channels to other processes, log",
    ),
    Rule(libc::SYS_recvmsg, Always, "channels to other processes"),
    Rule(libc::SYS_sendmmsg, Always, "packets in batches"),
    Rule(libc::SYS_recvmmsg, Always, "packets in batches"),
    Rule(libc::SYS_sendto, Null(4), "send(2) on a connected socket"),
    Rule(libc::SYS_recvfrom, Always, "recv(2)"),
    // No datagrams: those could be sent to a named socket.
    Rule(
        libc::SYS_socketpair,
        Pair(0, 1, &[STREAM_PAIR, STREAM_PAIR_NONBLOCKING]),
        "tokio's signal pipe",
    ),
    Rule(
        libc::SYS_getsockname,
        Always,
        "addresses of an accepted connection",
    ),
    Rule(
        libc::SYS_getpeername,
        Always,
        "addresses of an accepted connection",
    ),
];

const GATE: &[Rule] = &[
    // SO_PEERPIDFD would be a handle on the process at the other end.
    Rule(
        libc::SYS_getsockopt,
        Pair(1, 2, &[(libc::IPPROTO_IP, libc::IP_MTU)]),
        "path MTU of a client",
    ),
    Rule(
        libc::SYS_setsockopt,
        Pair(
            1,
            2,
            &[
                (libc::SOL_SOCKET, libc::SO_SNDBUF),
                (libc::SOL_SOCKET, libc::SO_RCVBUF),
                (libc::IPPROTO_TCP, libc::TCP_NODELAY),
                (libc::SOL_SOCKET, libc::SO_PRIORITY),
                (libc::IPPROTO_IP, libc::IP_TOS),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            ],
        ),
        "buffers of channels, small TLS records without delay, net-priority",
    ),
    Rule(libc::SYS_shutdown, Always, "end of a TLS connection"),
    Rule(
        libc::SYS_ioctl,
        Argument(
            1,
            &[
                libc::FIONBIO as i32,
                libc::TIOCOUTQ as i32,
                libc::FIONREAD as i32,
            ],
        ),
        "non-blocking mode, unsent bytes of a TLS connection",
    ),
];

const DATAPLANE: &[Rule] = &[Rule(
    libc::SYS_setsockopt,
    Pair(
        1,
        2,
        &[
            (libc::SOL_SOCKET, libc::SO_SNDBUF),
            (libc::SOL_SOCKET, libc::SO_RCVBUF),
        ],
    ),
    "buffers of channels",
)];

/// `BPF_PROG_TEST_RUN` of bpf(2).
const PROGRAM_RUN: i32 = 10;

/// What the dataplane needs beyond that for sockets past the host's stack.
const SOCKETS: &[Rule] = &[
    Rule(
        libc::SYS_getsockopt,
        Pair(
            1,
            2,
            &[
                (libc::SOL_XDP, libc::XDP_MMAP_OFFSETS),
                (libc::SOL_XDP, libc::XDP_STATISTICS),
            ],
        ),
        "rings of a socket past the stack, what it lost",
    ),
    // It has the descriptor of one program, and can neither load nor find another.
    Rule(
        libc::SYS_bpf,
        Argument(0, &[PROGRAM_RUN]),
        "asking the program that it was given for a route",
    ),
];

fn rules(role: Role) -> impl Iterator<Item = &'static Rule> {
    let (own, more): (_, &[Rule]) = match role {
        Role::Gate => (GATE, &[]),
        Role::Dataplane => (DATAPLANE, &[]),
        Role::DataplaneWithSockets => (DATAPLANE, SOCKETS),
    };
    COMMON.iter().chain(own).chain(more)
}

/// The allowed calls by number, each with the reason, for those who review the list.
pub fn allowed_calls(role: Role) -> impl Iterator<Item = (i64, &'static str)> {
    rules(role).map(|Rule(call, _, reason)| (*call, *reason))
}

/// Puts the role's filter on all threads of this process.
///
/// # Errors
/// When the kernel refuses it.
pub fn restrict_syscalls(role: Role) -> Result<(), SandboxError> {
    apply_filter_all_threads(&refuse_clone3()?)?;
    apply_filter_all_threads(&allow(rules(role))?)?;
    Ok(())
}

/// Of two filters the stricter answer counts, so this one goes beside the allow list.
fn refuse_clone3() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture()?)?.try_into()
}

fn allow<'a>(rules: impl Iterator<Item = &'a Rule>) -> Result<BpfProgram, BackendError> {
    // In the list so that only the other filter answers for it.
    let mut table = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for Rule(call, allowed, _) in rules {
        table.insert(*call, conditions(allowed)?);
    }
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(table, refused, SeccompAction::Allow, architecture()?)?.try_into()
}

fn architecture() -> Result<TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

/// One rule for each alternative; none means "always".
fn conditions(allowed: &Allowed) -> Result<Vec<SeccompRule>, BackendError> {
    let is = |argument: u8, value: i32| {
        SeccompCondition::new(argument, Dword, Eq, u64::from(value as u32))
    };
    match allowed {
        Always => Ok(Vec::new()),
        Argument(argument, values) => values
            .iter()
            .map(|value| SeccompRule::new(vec![is(*argument, *value)?]))
            .collect(),
        Pair(first, second, values) => values
            .iter()
            .map(|(a, b)| SeccompRule::new(vec![is(*first, *a)?, is(*second, *b)?]))
            .collect(),
        Bits(argument, set, clear) => {
            let mask = MaskedEq(u64::from((set | clear) as u32));
            Ok(vec![SeccompRule::new(vec![SeccompCondition::new(
                *argument,
                Dword,
                mask,
                u64::from(*set as u32),
            )?])?])
        }
        Null(argument) => Ok(vec![SeccompRule::new(vec![SeccompCondition::new(
            *argument, Qword, Eq, 0,
        )?])?]),
        OwnProcess => {
            let pid = u64::from(std::process::id());
            Ok(vec![SeccompRule::new(vec![SeccompCondition::new(
                0, Dword, Eq, pid,
            )?])?])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_each_call_once_with_a_reason() {
        for role in [Role::Gate, Role::Dataplane, Role::DataplaneWithSockets] {
            let mut seen = BTreeMap::new();
            for (call, reason) in allowed_calls(role) {
                assert!(!reason.is_empty());
                assert_eq!(seen.insert(call, reason), None);
            }
        }
    }
}
