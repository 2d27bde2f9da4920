//! Arrays in memory that several processes map, and that outlive each of them: the sessions'
//! counters, sequence numbers and replay windows (architecture.md §6).

use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

use nix::fcntl::SealFlag;
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use ocserv_common::session::SessionShared;

use crate::memfd;

/// Types that may lie in memory shared with another process.
///
/// # Safety
/// Every byte pattern must be a value, all-zero bytes must be a fresh one, and every field that
/// changes must be an atomic: other processes write at any time.
pub unsafe trait Shareable: Sync {}

// SAFETY: SessionShared is atomics only (its module's promise).
unsafe impl Shareable for SessionShared {}

/// The sessions of the server, by slot.
pub type SharedSessions = SharedArray<SessionShared>;

/// A mapped array. Unmapped when dropped.
pub struct SharedArray<T: Shareable> {
    memory: NonNull<T>,
    len: usize,
}

const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

impl<T: Shareable> SharedArray<T> {
    /// Makes an array of `len` zeroed elements; returns the mapping and the memory file for the
    /// other processes.
    ///
    /// # Errors
    /// `InvalidInput` for a length of 0 or too large; `memfd_create(2)`, `mmap(2)`.
    pub fn create(len: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd::create(c"ocserv-sessions")?;
        let bytes = i64::try_from(Self::byte_len(len)?).map_err(|_| too_large())?;
        ftruncate(&fd, bytes)?;
        // With the size fixed for ever, no access through the mapping can fault.
        memfd::add_seals(&fd, SEALS)?;
        Ok((Self::map(&fd, len)?, fd))
    }

    /// Maps an array that another process made.
    ///
    /// # Errors
    /// `InvalidData` if the file has another size or is not sealed.
    pub fn open(fd: &OwnedFd, len: usize) -> io::Result<Self> {
        memfd::check_seals(fd, SEALS)?;
        let wanted = Self::byte_len(len)?;
        if usize::try_from(fstat(fd)?.st_size) != Ok(wanted) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "shared array of another size",
            ));
        }
        Self::map(fd, len)
    }

    fn map(fd: &OwnedFd, len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let bytes = Self::byte_len(len)?;
        let (anywhere, fd) = (std::ptr::null_mut(), fd.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let memory = unsafe { libc::mmap(anywhere, bytes, protection, libc::MAP_SHARED, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, len })
    }

    fn byte_len(len: usize) -> io::Result<usize> {
        len.checked_mul(size_of::<T>())
            .filter(|bytes| *bytes > 0 && isize::try_from(*bytes).is_ok())
            .ok_or_else(too_large)
    }
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "shared array of impossible length",
    )
}

impl<T: Shareable> Deref for SharedArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is page-aligned, holds `len` elements as long as `self` lives, cannot
        // shrink (sealed), and any bytes in it are values of T (Shareable).
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl<T: Shareable> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: made by `map` with this length; no reference outlives `self`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}

// SAFETY: the mapping belongs to the process, not to a thread; access is through `&T`, T: Sync.
unsafe impl<T: Shareable> Send for SharedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Shareable> Sync for SharedArray<T> {}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    // SAFETY: an atomic integer.
    unsafe impl Shareable for AtomicU64 {}

    #[test]
    fn two_mappings_show_the_same_memory() {
        let (one, fd) = SharedArray::<AtomicU64>::create(1000).unwrap();
        let two = SharedArray::<AtomicU64>::open(&fd, 1000).unwrap();
        assert_eq!(one.len(), 1000);
        assert!(one.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
        one[999].fetch_add(7, Ordering::Relaxed);
        assert_eq!(two[999].load(Ordering::Relaxed), 7);
        drop(one);
        assert_eq!(two[999].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn the_size_is_fixed_and_checked() {
        let (_array, fd) = SharedArray::<AtomicU64>::create(10).unwrap();
        assert!(SharedArray::<AtomicU64>::open(&fd, 11).is_err());
        assert!(File::from(fd).set_len(4096).is_err());
        assert!(SharedArray::<AtomicU64>::create(0).is_err());
        assert!(SharedArray::<AtomicU64>::create(usize::MAX / 2).is_err());
        let unsealed = memfd::create(c"test").unwrap();
        ftruncate(&unsealed, 80).unwrap();
        assert!(SharedArray::<AtomicU64>::open(&unsealed, 10).is_err());
    }
}
