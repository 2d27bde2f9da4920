//! Arrays in memory that several processes map, and that outlive each of them: the sessions'
//! counters, sequence numbers and replay windows (architecture.md §6).

use std::ffi::CStr;
use std::io;
use std::ops::{Deref, Index};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

use nix::fcntl::SealFlag;
use nix::unistd::{Whence, ftruncate, lseek};
use ocserv_common::kernel::SLOTS_PER_SHARD;
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

/// What a descriptor of shared memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A memory file, whose size is sealed.
    Memfd,
    /// An eBPF array that can be mapped. It has no size to ask for; the kernel refuses a mapping that
    /// is longer than the array, and an array keeps its length.
    KernelMap,
}

const SHARD: usize = SLOTS_PER_SHARD as usize;

/// The sessions of the server, by slot: shards of [`SLOTS_PER_SHARD`] records, whose memory comes as
/// slots come into use.
pub struct SharedSessions {
    shards: Vec<OnceLock<SharedArray<SessionShared>>>,
    slots: usize,
}

impl SharedSessions {
    /// Room for `slots` sessions, without memory yet.
    pub fn new(slots: u32) -> Self {
        let shards = slots.div_ceil(SLOTS_PER_SHARD);
        Self {
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
            slots: slots as usize,
        }
    }

    /// Memory for one shard. It is of full length however many slots there are: what is not touched
    /// takes no memory.
    ///
    /// # Errors
    /// `memfd_create(2)` and what follows it.
    pub fn create_shard() -> io::Result<OwnedFd> {
        SharedArray::<SessionShared>::create(c"ocserv-sessions", SHARD)
    }

    /// Maps the memory of a shard.
    ///
    /// # Errors
    /// `InvalidInput` if there is no such shard, `AlreadyExists` if it has its memory; `InvalidData`
    /// for a memory file that has another size or is not sealed; `mmap(2)`.
    pub fn add(&self, index: u32, fd: &OwnedFd, backing: Backing) -> io::Result<()> {
        let shard = self
            .shards
            .get(index as usize)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let memory = SharedArray::open(fd, SHARD, backing)?;
        shard
            .set(memory)
            .map_err(|_| io::ErrorKind::AlreadyExists.into())
    }

    /// Sessions that there is room for.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The record of a slot. `None`: there is no such slot, or its shard has no memory yet.
    pub fn get(&self, slot: usize) -> Option<&SessionShared> {
        let shard = self.shards.get(slot / SHARD)?.get()?;
        shard.get(slot % SHARD).filter(|_| slot < self.slots)
    }
}

/// For slots whose shard has its memory; it panics for others, where [`SharedSessions::get`] does not.
impl Index<usize> for SharedSessions {
    type Output = SessionShared;

    fn index(&self, slot: usize) -> &SessionShared {
        let record = self.get(slot);
        record.unwrap_or_else(|| panic!("no session record {slot}"))
    }
}

/// A mapped array. Unmapped when dropped.
pub(crate) struct SharedArray<T: Shareable> {
    memory: NonNull<T>,
    len: usize,
}

const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

impl<T: Shareable> SharedArray<T> {
    /// The memory file of an array of `len` zeroed elements.
    fn create(name: &CStr, len: usize) -> io::Result<OwnedFd> {
        let fd = memfd::create(name)?;
        let bytes = i64::try_from(Self::byte_len(len)?).map_err(|_| too_large())?;
        ftruncate(&fd, bytes)?;
        // With the size fixed for ever, no access through the mapping can fault.
        memfd::add_seals(&fd, SEALS)?;
        Ok(fd)
    }

    /// Maps an array.
    pub(crate) fn open(fd: &OwnedFd, len: usize, backing: Backing) -> io::Result<Self> {
        if backing == Backing::Memfd {
            memfd::check_seals(fd, SEALS)?;
            // Not fstat(2): a confined process may not.
            let size = lseek(fd, 0, Whence::SeekEnd)?;
            if usize::try_from(size) != Ok(Self::byte_len(len)?) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "shared array of another size",
                ));
            }
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
        // shrink (Backing), and any bytes in it are values of T (Shareable).
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

    fn create(len: usize) -> io::Result<OwnedFd> {
        SharedArray::<AtomicU64>::create(c"test", len)
    }

    fn open(fd: &OwnedFd, len: usize) -> io::Result<SharedArray<AtomicU64>> {
        SharedArray::open(fd, len, Backing::Memfd)
    }

    #[test]
    fn two_mappings_show_the_same_memory() {
        let fd = create(1000).unwrap();
        let (one, two) = (open(&fd, 1000).unwrap(), open(&fd, 1000).unwrap());
        assert_eq!(one.len(), 1000);
        assert!(one.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
        one[999].fetch_add(7, Ordering::Relaxed);
        assert_eq!(two[999].load(Ordering::Relaxed), 7);
        drop(one);
        assert_eq!(two[999].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn the_size_is_fixed_and_checked() {
        let fd = create(10).unwrap();
        assert!(open(&fd, 11).is_err());
        assert!(File::from(fd).set_len(4096).is_err());
        assert!(create(0).is_err());
        assert!(create(usize::MAX / 2).is_err());
        let unsealed = memfd::create(c"test").unwrap();
        ftruncate(&unsealed, 80).unwrap();
        assert!(open(&unsealed, 10).is_err());
        assert!(
            SharedArray::<AtomicU64>::open(&unsealed, 10, Backing::KernelMap).is_ok(),
            "the kernel vouches for its maps"
        );
    }

    #[test]
    fn shards_come_as_they_are_needed() {
        let sessions = SharedSessions::new(SLOTS_PER_SHARD + 8);
        assert_eq!(sessions.slots(), SHARD + 8);
        let second = SharedSessions::create_shard().unwrap();
        sessions.add(1, &second, Backing::Memfd).unwrap();
        assert!(sessions.get(0).is_none(), "the first has no memory");
        assert!(sessions.get(SHARD + 7).is_some());
        assert!(sessions.get(SHARD + 8).is_none(), "no such slot");
        let first = SharedSessions::create_shard().unwrap();
        sessions.add(0, &first, Backing::Memfd).unwrap();
        sessions[SHARD - 1].rx_bytes.add(1);
        sessions[SHARD].rx_bytes.add(2);

        let other = SharedSessions::new(SLOTS_PER_SHARD + 8);
        other.add(0, &first, Backing::Memfd).unwrap();
        other.add(1, &second, Backing::Memfd).unwrap();
        assert_eq!(other[SHARD - 1].rx_bytes.get(), 1);
        assert_eq!(other[SHARD].rx_bytes.get(), 2);
        assert_eq!(other[0].rx_bytes.get(), 0);
    }

    #[test]
    fn a_shard_is_added_once_and_where_it_belongs() {
        let sessions = SharedSessions::new(8);
        let fd = SharedSessions::create_shard().unwrap();
        let add = |index| sessions.add(index, &fd, Backing::Memfd);
        add(0).unwrap();
        assert_eq!(add(0).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(add(1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let short = create(1000).unwrap();
        let refused = SharedSessions::new(8).add(0, &short, Backing::Memfd);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
