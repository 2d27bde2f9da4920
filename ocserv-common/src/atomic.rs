//! The atomic words of shared memory: core's own, loom's when a model is explored, and in the kernel
//! the instructions that a program may use (core has no read-modify-write for that target).

#[cfg(all(not(target_arch = "bpf"), not(all(loom, test))))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(all(loom, test))]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(target_arch = "bpf")]
pub(crate) use self::kernel::{AtomicU64, Ordering};

#[cfg(target_arch = "bpf")]
mod kernel {
    use core::cell::UnsafeCell;
    pub(crate) use core::sync::atomic::Ordering;

    /// A word of a map's value. Read-modify-write is fully ordered whatever is asked for, as the
    /// kernel's instructions are.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct AtomicU64(UnsafeCell<u64>);

    // SAFETY: every access is one 64-bit instruction.
    unsafe impl Sync for AtomicU64 {}

    impl AtomicU64 {
        pub const fn new(value: u64) -> Self {
            Self(UnsafeCell::new(value))
        }

        pub fn load(&self, _: Ordering) -> u64 {
            // SAFETY: the cell is valid and aligned; volatile makes it one load.
            unsafe { self.0.get().read_volatile() }
        }

        pub fn store(&self, value: u64, _: Ordering) {
            // SAFETY: as above; the compiler crashes on a relaxed atomic store here.
            unsafe { self.0.get().write_volatile(value) }
        }

        pub fn fetch_add(&self, value: u64, _: Ordering) -> u64 {
            use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xadd};
            // SAFETY: the cell is valid and aligned.
            unsafe { atomic_xadd::<u64, u64, { SeqCst }>(self.0.get(), value) }
        }

        pub fn compare_exchange(
            &self,
            old: u64,
            new: u64,
            _: Ordering,
            _: Ordering,
        ) -> Result<u64, u64> {
            use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
            // SAFETY: the cell is valid and aligned.
            let (seen, exchanged) =
                unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(self.0.get(), old, new) };
            if exchanged { Ok(seen) } else { Err(seen) }
        }
    }
}
