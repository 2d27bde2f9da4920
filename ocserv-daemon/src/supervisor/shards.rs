//! The memory of the session records: made shard by shard, kept for every dataplane to come.

use std::io;
use std::ops::Index;
use std::os::fd::OwnedFd;

use ocserv_common::kernel::SLOTS_PER_SHARD;
use ocserv_common::session::SessionShared;
use ocserv_sys::shared_map::{Backing, SharedSessions};

use crate::ipc::ids::Slot;
use crate::kernel_path::KernelPath;

/// A shard's number and a descriptor of its memory.
pub type Shard = (u32, OwnedFd);

/// The session records and the descriptors of their memory.
pub struct Shards {
    sessions: SharedSessions,
    backing: Backing,
    made: Vec<Shard>,
}

impl Shards {
    /// Room for `slots` sessions, without memory yet.
    pub fn new(slots: u32, backing: Backing) -> Self {
        Self {
            sessions: SharedSessions::new(slots),
            backing,
            made: Vec::new(),
        }
    }

    /// Sessions that there is room for.
    pub fn slots(&self) -> usize {
        self.sessions.slots()
    }

    /// What the descriptors are.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Makes the shard of a slot, unless there is one: a map of the kernel path where there is one, or a
    /// memory file. A new one is returned for the dataplane.
    ///
    /// # Errors
    /// When there is no memory or descriptor for it, or no such slot. Nothing was made then.
    pub fn make_for(
        &mut self,
        slot: Slot,
        kernel: Option<&mut KernelPath>,
    ) -> io::Result<Option<Shard>> {
        if self.sessions.get(slot.0 as usize).is_some() {
            return Ok(None);
        }
        let index = slot.0 / SLOTS_PER_SHARD;
        let memory = match kernel {
            Some(kernel) => kernel.make_shard(index)?,
            None => SharedSessions::create_shard()?,
        };
        let copy = memory.try_clone()?;
        self.sessions.add(index, &memory, self.backing())?;
        self.made.push((index, memory));
        Ok(Some((index, copy)))
    }

    /// All shards there are, for another dataplane.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn all(&self) -> io::Result<Vec<Shard>> {
        let copy = |(index, memory): &Shard| Ok((*index, memory.try_clone()?));
        self.made.iter().map(copy).collect()
    }
}

/// The record of a slot that was handed out; [`Shards::make_for`] came before.
impl Index<Slot> for Shards {
    type Output = SessionShared;

    fn index(&self, slot: Slot) -> &SessionShared {
        &self.sessions[slot.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_made_with_its_first_slot() {
        let mut shards = Shards::new(SLOTS_PER_SHARD + 1, Backing::Memfd);
        assert!(shards.all().unwrap().is_empty());
        let (index, memory) = shards.make_for(Slot(3), None).unwrap().unwrap();
        assert_eq!(index, 0);
        assert!(
            shards
                .make_for(Slot(SLOTS_PER_SHARD - 1), None)
                .unwrap()
                .is_none()
        );
        let last = Slot(SLOTS_PER_SHARD);
        assert_eq!(shards.make_for(last, None).unwrap().unwrap().0, 1);
        assert!(shards.make_for(Slot(SLOTS_PER_SHARD + 1), None).is_err());

        shards[Slot(3)].rx_bytes.add(5);
        shards[last].rx_bytes.add(6);
        let numbers: Vec<u32> = shards.all().unwrap().iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, [0, 1]);
        let dataplane = SharedSessions::new(SLOTS_PER_SHARD + 1);
        dataplane.add(0, &memory, shards.backing()).unwrap();
        assert_eq!(dataplane[3].rx_bytes.get(), 5);
    }
}
