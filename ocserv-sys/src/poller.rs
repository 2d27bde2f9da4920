//! epoll and eventfd for the dataplane's threads.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Waits for any of its descriptors to become readable; level-triggered.
pub struct Poller {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    /// Reports at most `events` descriptors at a time.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new(events: usize) -> io::Result<Self> {
        // SAFETY: takes flags only.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        Ok(Self {
            fd: own(fd)?,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; events.max(1)],
        })
    }

    /// Watches `source`, to be reported as `token`. Closing all copies of it ends the watch.
    ///
    /// # Errors
    /// `EEXIST`; `EPERM` for descriptors that cannot be waited for.
    pub fn add(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        self.control(libc::EPOLL_CTL_ADD, source.as_fd(), &mut event)
    }

    /// Watches `source` no more.
    ///
    /// # Errors
    /// `ENOENT` if it was not watched.
    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        self.control(libc::EPOLL_CTL_DEL, source.as_fd(), &mut event)
    }

    /// Waits until something is readable or `timeout` has passed, and puts the tokens into `ready`.
    ///
    /// # Errors
    /// `epoll_wait(2)`, except for interruption.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let millis = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
        let (events, max) = (self.events.as_mut_ptr(), self.events.len() as i32);
        // SAFETY: the buffer holds `max` events and lives through the call.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events, max, millis) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        };
        ready.extend(self.events.iter().take(count).map(|event| event.u64));
        Ok(())
    }

    fn control(
        &self,
        operation: i32,
        source: BorrowedFd<'_>,
        event: &mut libc::epoll_event,
    ) -> io::Result<()> {
        let (poller, source) = (self.fd.as_raw_fd(), source.as_raw_fd());
        // SAFETY: both descriptors are open, the event lives through the call.
        let result = unsafe { libc::epoll_ctl(poller, operation, source, event) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Wakes a [`Poller`] from another thread.
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    /// A waker at rest.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes integers only.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        Ok(Self { fd: own(fd)? })
    }

    /// Makes it readable.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then it is readable.
        let _ = nix::unistd::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Takes the wake-ups so far.
    pub fn clear(&self) {
        let _ = nix::unistd::read(&self.fd, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn own(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_is_reported_until_it_is_cleared() {
        let mut poller = Poller::new(4).unwrap();
        let waker = Waker::new().unwrap();
        poller.add(&waker, 7).unwrap();
        let mut ready = vec![1];
        poller.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert!(ready.is_empty());
        waker.wake();
        waker.wake();
        poller.wait(None, &mut ready).unwrap();
        assert_eq!(ready, [7]);
        waker.clear();
        poller.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert!(ready.is_empty());
        poller.remove(&waker).unwrap();
        waker.wake();
        poller.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert!(ready.is_empty());
    }
}
