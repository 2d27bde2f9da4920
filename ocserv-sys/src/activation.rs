//! Sockets that a service manager hands over (sd_listen_fds(3)).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// First descriptor of the protocol.
const FIRST: RawFd = 3;
/// More than any unit file has.
const MOST: i32 = 64;

/// Takes over the descriptors announced by `LISTEN_PID` and `LISTEN_FDS`; empty without them.
/// The first call gets them, every later one an empty list.
pub fn take_sockets() -> Vec<OwnedFd> {
    static TAKEN: std::sync::Once = std::sync::Once::new();
    let mut sockets = Vec::new();
    TAKEN.call_once(|| {
        for fd in FIRST..FIRST + announced() {
            // SAFETY: the variables say that these descriptors are this process's own, and the
            // `Once` sees to it that nobody takes them twice.
            sockets.push(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    });
    for socket in &sockets {
        // A child must not inherit them; a descriptor that is none fails at its first use.
        let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
        let _ = nix::fcntl::fcntl(socket, flags);
    }
    sockets
}

fn announced() -> i32 {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text: String| text.parse::<i32>().ok())
    };
    let ours = number("LISTEN_PID").is_some_and(|pid| pid.unsigned_abs() == std::process::id());
    if ours {
        number("LISTEN_FDS").unwrap_or(0).clamp(0, MOST)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn without_the_variables_nothing_is_taken() {
        assert!(super::take_sockets().is_empty());
    }
}
