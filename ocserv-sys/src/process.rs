//! A process's own attributes, who is at the other end of a Unix socket, and login records.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, RawFd};

use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Pid, getppid};

pub use crate::login_record::{LoginRecord, record_login, record_logout};

/// Credentials of a Unix socket's peer at the time of its `connect` or `socketpair`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    /// Process.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// Asks the kernel to kill this process when the thread that started it ends. Call it again after
/// a change of identity, which clears it ([`crate::sandbox::drop_privileges`] does).
///
/// # Errors
/// `ESRCH` if `parent` is gone already.
pub fn die_with_parent(parent: i32) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != Pid::from_raw(parent) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Sets the name that `ps -o comm` shows; the kernel keeps 15 bytes.
///
/// # Errors
/// `EINVAL` if the name holds a NUL.
pub fn set_name(name: &str) -> io::Result<()> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(prctl::set_name(&name)?)
}

/// Whether others of the same user may trace this process and whether it may leave a core.
///
/// # Errors
/// None in practice.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    Ok(prctl::set_dumpable(dumpable)?)
}

/// Bounds the data of this process (`RLIMIT_DATA`) to what it has now and `more` bytes.
///
/// # Errors
/// When `/proc/self/status` cannot be read, or as setrlimit(2).
pub fn limit_data(more: u64) -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let now_kib = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmData:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0_u64);
    let limit = now_kib * 1024 + more;
    Ok(setrlimit(Resource::RLIMIT_DATA, limit, limit)?)
}

/// Allows this process and its children as many descriptors as the system lets them have, at most 524,288
/// (`RLIMIT_NOFILE`): each client is a socket in a gate. Scripts that look at every possible one would
/// be slow with more.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_file_limit() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most.min(1 << 19), most)?)
}

/// Allows this process and its children to lock as much memory as they like (`RLIMIT_MEMLOCK`), or without
/// CAP_SYS_RESOURCE as much as the system lets them.
///
/// # Errors
/// As getrlimit(2).
pub fn raise_lock_limit() -> io::Result<()> {
    let resource = Resource::RLIMIT_MEMLOCK;
    let (_, most) = getrlimit(resource)?;
    Ok(setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY)
        .or_else(|_| setrlimit(resource, most, most))?)
}

/// Marks every descriptor from `first` on to be closed at the next exec.
///
/// # Errors
/// Before Linux 5.11, when `/proc/self/fd` cannot be read.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let first = u32::try_from(first).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now, so no owned descriptor changes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        close_on_exec_one_by_one(first)
    }
}

fn close_on_exec_one_by_one(first: u32) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(fd) = number.filter(|fd| fd.unsigned_abs() >= first) {
            // SAFETY: takes integers only; a descriptor that was closed meanwhile is refused.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Who is at the other end of a Unix socket.
///
/// # Errors
/// `getsockopt(2)` of `SO_PEERCRED`.
pub fn peer_cred(socket: impl AsFd) -> io::Result<PeerCred> {
    let cred = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(PeerCred {
        pid: cred.pid(),
        uid: cred.uid(),
        gid: cred.gid(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (one, _two) = UnixStream::pair().unwrap();
        let cred = peer_cred(&one).unwrap();
        assert_eq!(cred.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(cred.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(cred.gid, nix::unistd::getegid().as_raw());
    }

    #[test]
    fn as_much_memory_can_be_locked_as_the_system_allows() {
        let resource = Resource::RLIMIT_MEMLOCK;
        let (_, most) = getrlimit(resource).unwrap();
        setrlimit(resource, 4096, most).unwrap();
        raise_lock_limit().unwrap();
        let (now, _) = getrlimit(resource).unwrap();
        assert!(now >= most);
    }

    #[test]
    fn descriptors_become_close_on_exec_either_way() {
        use std::os::fd::AsRawFd;
        for mark in [close_on_exec_from, |first| {
            close_on_exec_one_by_one(first as u32)
        }] {
            let (one, _two) = UnixStream::pair().unwrap();
            nix::fcntl::fcntl(&one, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
            mark(one.as_raw_fd() + 1).unwrap();
            assert_eq!(
                nix::fcntl::fcntl(&one, nix::fcntl::F_GETFD),
                Ok(0),
                "too many"
            );
            mark(one.as_raw_fd()).unwrap();
            assert_eq!(
                nix::fcntl::fcntl(&one, nix::fcntl::F_GETFD),
                Ok(libc::FD_CLOEXEC)
            );
        }
    }

    #[test]
    fn a_name_with_nul_is_refused() {
        assert_eq!(
            set_name("a\0b").unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }

    #[test]
    fn a_parent_that_is_gone_is_noticed() {
        let error = die_with_parent(i32::MAX).unwrap_err();
        prctl::set_pdeathsig(None).unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
