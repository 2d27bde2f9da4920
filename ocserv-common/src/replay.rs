//! Replay window of a DTLS channel: lock-free, exact under concurrency, in shared memory.
//!
//! A ring of [`WORDS`] words. Sequence numbers come in blocks of 16; block `b` lives in word
//! `b % WORDS`. A word holds the *round* of its block (`b / WORDS`) in the upper 48 bits and one bit
//! for each number of the block below. Accepting a number is a compare-and-swap of its one word:
//!
//! - the word's round is higher: the number is too old, refused;
//! - the same round: accepted if its bit is clear;
//! - the word's round is lower: the word is taken over, which forgets the older block.
//!
//! A round never goes down and a bit is never cleared within one, so no number is accepted twice,
//! whatever the interleaving. The number of tries is bounded, as a kernel program wants it; whoever
//! runs out of them refuses the record. Sequence numbers have 48 bits, a round 38: nothing is truncated.
//!
//! The receiver asks [`ReplayWindow::would_accept`], authenticates the record, then calls
//! [`ReplayWindow::commit`] and delivers only if that says yes.

use crate::atomic::{AtomicU64, Ordering};

/// Words of the ring.
pub const WORDS: usize = 1 << WORD_SHIFT;
/// Numbers behind the highest one seen that are still told apart: at least this many.
pub const WINDOW: u64 = (WORDS as u64 - 1) << BLOCK_SHIFT;
/// Tries of [`ReplayWindow::commit`]. Each failed one means that another number of the word was taken,
/// which happens at most 16 times before the word moves on.
const COMMIT_TRIES: u32 = 32;
/// Largest sequence number of a DTLS record (RFC 6347 4.1: 48 bits).
pub const MAX_SEQUENCE: u64 = (1 << 48) - 1;

const WORD_SHIFT: u32 = 6;
const BLOCK_SHIFT: u32 = 4;
const BLOCK_BITS: u64 = (1 << (1 << BLOCK_SHIFT)) - 1;
const ROUND_SHIFT: u32 = 1 << BLOCK_SHIFT;

/// The window. All-zero is a valid value: nothing seen yet.
#[derive(Debug)]
#[repr(C)]
pub struct ReplayWindow {
    words: [AtomicU64; WORDS],
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self {
            words: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Starts anew for a channel whose first number is `next_receive`: all lower ones are replays.
    /// Only while no one else uses the window.
    pub fn reset(&self, next_receive: u64) {
        let current = next_receive >> BLOCK_SHIFT;
        for (index, word) in self.words.iter().enumerate() {
            let behind = current.wrapping_sub(index as u64) % WORDS as u64;
            let value = match current.checked_sub(behind) {
                None => 0,
                Some(block) => {
                    let seen = if behind == 0 {
                        (1 << (next_receive % (1 << BLOCK_SHIFT))) - 1
                    } else {
                        BLOCK_BITS
                    };
                    ((block >> WORD_SHIFT) << ROUND_SHIFT) | seen
                }
            };
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Whether [`Self::commit`] would take `sequence` now. Changes nothing: a forged record must not
    /// move the window.
    pub fn would_accept(&self, sequence: u64) -> bool {
        let place = Place::of(sequence);
        match self.words.get(place.word) {
            Some(word) => place.marked(word.load(Ordering::Relaxed)).is_some(),
            None => false,
        }
    }

    /// Marks an authenticated number as seen. `false`: it is a replay or too old, drop the record.
    pub fn commit(&self, sequence: u64) -> bool {
        let place = Place::of(sequence);
        let Some(word) = self.words.get(place.word) else {
            return false;
        };
        let mut old = word.load(Ordering::Relaxed);
        for _ in 0..COMMIT_TRIES {
            let Some(new) = place.marked(old) else {
                return false;
            };
            match word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a sequence number is kept.
struct Place {
    word: usize,
    round: u64,
    bit: u64,
}

impl Place {
    fn of(sequence: u64) -> Self {
        let block = sequence >> BLOCK_SHIFT;
        // A number beyond 48 bits gets a word that does not exist.
        let word = if sequence > MAX_SEQUENCE {
            WORDS
        } else {
            block as usize % WORDS
        };
        Self {
            word,
            round: block >> WORD_SHIFT,
            bit: 1 << (sequence % (1 << BLOCK_SHIFT)),
        }
    }

    /// The word's value with this number in it; `None` if it is there already or too old.
    fn marked(&self, old: u64) -> Option<u64> {
        let round = old >> ROUND_SHIFT;
        if round < self.round {
            Some((self.round << ROUND_SHIFT) | self.bit)
        } else if round == self.round && old & self.bit == 0 {
            Some(old | self.bit)
        } else {
            None
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_number_passes_once() {
        let window = ReplayWindow::new();
        for sequence in [0, 1, 15, 16, 1023, 1024, 5000, MAX_SEQUENCE] {
            assert!(window.would_accept(sequence));
            assert!(window.commit(sequence));
            assert!(!window.would_accept(sequence));
            assert!(!window.commit(sequence));
        }
    }

    #[test]
    fn asking_does_not_mark() {
        let window = ReplayWindow::new();
        assert!(window.would_accept(7));
        assert!(window.would_accept(7));
        assert!(window.commit(7));
    }

    #[test]
    fn numbers_beyond_48_bits_are_refused() {
        let window = ReplayWindow::new();
        assert!(!window.commit(MAX_SEQUENCE + 1));
        assert!(!window.would_accept(u64::MAX));
    }

    #[test]
    fn the_window_reaches_back_as_documented() {
        let window = ReplayWindow::new();
        assert!(window.commit(100_000));
        assert!(window.commit(100_000 - WINDOW));
        // Same word as 100000, a round earlier.
        assert!(!window.commit(100_000 - 1024));
    }

    #[test]
    fn reset_refuses_what_came_before() {
        for next in [0, 1, 15, 16, 17, 1023, 1024, 1025, 70_000, MAX_SEQUENCE] {
            let window = ReplayWindow::new();
            assert!(window.commit(3));
            window.reset(next);
            for below in next.saturating_sub(3000)..next {
                assert!(!window.would_accept(below), "{below} after reset({next})");
            }
            assert!(window.commit(next), "reset({next})");
            assert!(!window.commit(next));
        }
    }

    proptest! {
        /// Model: the set of accepted numbers. A number passes unless it is in the set or its word
        /// was taken over by a later block; inside the documented window the set alone decides.
        #[test]
        fn agrees_with_a_set(
            start in 0u64..1 << 47,
            steps in prop::collection::vec(
                prop_oneof![6 => 0i64..40, 3 => -1100i64..0, 1 => 900i64..5000], 1..600),
        ) {
            let window = ReplayWindow::new();
            window.reset(start);
            let mut seen = BTreeSet::new();
            let mut highest = start;
            for step in steps {
                let sequence = highest.saturating_add_signed(step);
                let overtaken = seen.range(sequence..).any(|later: &u64| {
                    later >> 4 != sequence >> 4 && (later >> 4) % 64 == (sequence >> 4) % 64
                });
                let fresh = sequence >= start && !seen.contains(&sequence) && !overtaken;
                if sequence + WINDOW > highest {
                    prop_assert!(!overtaken);
                }
                prop_assert_eq!(window.would_accept(sequence), fresh);
                prop_assert_eq!(window.commit(sequence), fresh);
                if fresh {
                    seen.insert(sequence);
                    highest = highest.max(sequence);
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two threads take the same numbers, with a third number that takes the word over: each number
    /// is accepted at most once, and the newest is accepted.
    #[test]
    fn loom_no_number_passes_twice() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::new());
            let other = Arc::clone(&window);
            let thread = thread::spawn(move || [5, 5 + 1024].map(|n| other.commit(n)));
            let here = [5 + 1024, 5].map(|n| window.commit(n));
            let there = thread.join().unwrap();
            assert!(
                here[0] ^ there[1],
                "the later round is accepted exactly once"
            );
            assert!(!(here[1] && there[0]), "the earlier round at most once");
            assert!(!window.would_accept(5));
            assert!(!window.would_accept(5 + 1024));
        });
    }

    /// Neighbours in one word do not lose each other's bit.
    #[test]
    fn loom_neighbours_keep_their_bits() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::new());
            let other = Arc::clone(&window);
            let thread = thread::spawn(move || other.commit(8) as u32 + other.commit(9) as u32);
            let accepted = window.commit(9) as u32 + window.commit(10) as u32;
            assert_eq!(accepted + thread.join().unwrap(), 3);
            for sequence in 8..11 {
                assert!(!window.would_accept(sequence));
            }
        });
    }
}
