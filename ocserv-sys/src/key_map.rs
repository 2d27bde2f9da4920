//! The keys of the kernel path: an eBPF array that the supervisor maps and writes while programs read.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use ocserv_common::kernel::{KernelChannel, SLOTS_PER_SHARD, SessionKeys};

use crate::shared_map::{Backing, Shareable, SharedArray};

const CHANNEL_WORDS: usize = size_of::<KernelChannel>() / 8;
const CHANNELS: usize = 2;

/// A record as words that may change under a reader. Word 0 of a channel is its generation.
#[repr(transparent)]
struct KeyRecord([AtomicU64; SessionKeys::WORDS]);

// SAFETY: atomics only, and any words are a value.
unsafe impl Shareable for KeyRecord {}

/// The keys of one shard of sessions.
pub struct KeyRecords(SharedArray<KeyRecord>);

impl KeyRecords {
    /// Maps an array of [`SLOTS_PER_SHARD`] records.
    ///
    /// # Errors
    /// `mmap(2)`; the kernel refuses an array that is too short, or was not made to be mapped.
    pub fn open(map: &OwnedFd) -> io::Result<Self> {
        let records = SharedArray::open(map, SLOTS_PER_SHARD as usize, Backing::KernelMap)?;
        Ok(Self(records))
    }

    /// Writes one channel. Whoever reads it meanwhile sees generation 0 before or after.
    pub fn store_channel(&self, index: u32, number: usize, channel: &KernelChannel) {
        let words = channel_words(channel);
        if let Some(record) = self.0.get(index as usize) {
            let start = (number % CHANNELS) * CHANNEL_WORDS;
            store_guarded(&record.0[start..start + CHANNEL_WORDS], &words);
        }
    }

    /// Writes all but the channels.
    pub fn store_session(&self, index: u32, keys: &SessionKeys) {
        let words = session_words(keys);
        if let Some(record) = self.0.get(index as usize) {
            let start = CHANNELS * CHANNEL_WORDS;
            for (place, word) in record.0.iter().zip(words).skip(start) {
                place.store(word, Ordering::Relaxed);
            }
        }
    }

    /// Overwrites a record with zeroes.
    pub fn clear(&self, index: u32) {
        for number in 0..CHANNELS {
            self.store_channel(index, number, &KernelChannel::EMPTY);
        }
        self.store_session(index, &SessionKeys::EMPTY);
    }
}

fn store_guarded(places: &[AtomicU64], words: &[u64]) {
    let (Some(generation), Some(value)) = (places.first(), words.first()) else {
        return;
    };
    generation.store(0, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    for (place, word) in places.iter().zip(words).skip(1) {
        place.store(*word, Ordering::Relaxed);
    }
    generation.store(*value, Ordering::Release);
}

fn channel_words(channel: &KernelChannel) -> [u64; CHANNEL_WORDS] {
    // SAFETY: of the same size, aligned for words, and without padding (asserted in its module).
    unsafe { std::mem::transmute_copy(channel) }
}

fn session_words(keys: &SessionKeys) -> [u64; SessionKeys::WORDS] {
    // SAFETY: as above.
    unsafe { std::mem::transmute_copy(keys) }
}
