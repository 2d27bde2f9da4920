//! The maps that programs and processes share: session records and keys, shard by shard.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use ocserv_common::kernel::{KernelChannel, SLOTS_PER_SHARD, SessionKeys};
use ocserv_common::session::SessionShared;
use ocserv_sys::key_map::KeyRecords;

use super::{KernelPath, missing};

/// The array can be mapped.
const MMAPABLE: u32 = 1 << 10;

type Inner<const N: usize> = Array<MapData, [u8; N]>;

const RECORD: usize = size_of::<SessionShared>();
const KEYS: usize = size_of::<SessionKeys>();

/// The outer maps, and the keys of each shard that was made.
pub(super) struct ShardMaps {
    shared: Map,
    keys: Map,
    key_records: Vec<Option<KeyRecords>>,
}

impl ShardMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(|| missing(name));
        Ok(Self {
            shared: map("SHARED")?,
            keys: map("KEYS")?,
            key_records: Vec::new(),
        })
    }

    fn make(&mut self, index: u32) -> anyhow::Result<OwnedFd> {
        let keys = make_inner::<KEYS>(&mut self.keys, index)?;
        let records = KeyRecords::open(&keys)?;
        let shared = make_inner::<RECORD>(&mut self.shared, index)?;
        let index = index as usize;
        if self.key_records.len() <= index {
            self.key_records.resize_with(index + 1, || None);
        }
        self.key_records[index] = Some(records);
        Ok(shared)
    }

    fn of(&self, slot: u32) -> Option<(&KeyRecords, u32)> {
        let shard = self.key_records.get((slot / SLOTS_PER_SHARD) as usize)?;
        Some((shard.as_ref()?, slot % SLOTS_PER_SHARD))
    }

    pub(super) fn store_channel(&self, slot: u32, number: usize, channel: &KernelChannel) {
        if let Some((records, index)) = self.of(slot) {
            records.store_channel(index, number, channel);
        }
    }

    pub(super) fn store_session(&self, slot: u32, keys: &SessionKeys) {
        if let Some((records, index)) = self.of(slot) {
            records.store_session(index, keys);
        }
    }

    pub(super) fn clear(&self, slot: u32) {
        if let Some((records, index)) = self.of(slot) {
            records.clear(index);
        }
    }
}

/// Makes an array and puts it into an outer map.
fn make_inner<const N: usize>(outer: &mut Map, index: u32) -> anyhow::Result<OwnedFd> {
    let inner = Inner::<N>::create(SLOTS_PER_SHARD, MMAPABLE)?;
    ArrayOfMaps::<_, Inner<N>>::try_from(&mut *outer)?.set(index, &inner, 0)?;
    // A typed map does not show its descriptor, the one that the outer map gives does.
    let inner: MapData = ArrayOfMaps::<_, MapData>::try_from(&*outer)?.get(&index, 0)?;
    Ok(inner.fd().as_fd().try_clone_to_owned()?)
}

impl KernelPath {
    /// Makes the maps of a shard of sessions; gives the one with the session records, for the processes
    /// to map.
    ///
    /// # Errors
    /// As the kernel answers: no memory, or no descriptor.
    pub fn make_shard(&mut self, index: u32) -> io::Result<OwnedFd> {
        self.shards.make(index).map_err(io::Error::other)
    }
}
