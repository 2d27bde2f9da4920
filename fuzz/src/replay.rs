//! The replay window against a set.

use std::collections::{BTreeSet, HashMap};

use ocserv_common::replay::{MAX_SEQUENCE, ReplayWindow, WINDOW};
use ocserv_common::session::ChannelState;

use crate::input::Reader;

/// No number passes twice, none below the start passes, and inside the window each new one does.
/// Numbers to send are given out once.
pub fn replay(data: &[u8]) {
    let mut reader = Reader(data);
    let start = u64::from_le_bytes(reader.array()) & MAX_SEQUENCE;
    let state = ChannelState::default();
    state.start(1, 1, start, start, 0);
    let mut model = Model::from(start);
    let mut highest = start;
    let mut next_send = start;
    while !reader.0.is_empty() {
        let [kind, low, high] = reader.array();
        let step = u64::from(u16::from_le_bytes([low, high]));
        let sequence = match kind % 6 {
            0 => highest.saturating_add(step % 40),
            1 => highest.saturating_add(step),
            2 => highest.saturating_sub(step % 1200),
            3 => highest.saturating_sub(step),
            4 => u64::from_le_bytes(reader.array()),
            _ => {
                check_send(&state, &mut next_send, u32::from(low));
                continue;
            }
        };
        model.check(state.window(), sequence, highest);
        if sequence <= MAX_SEQUENCE {
            highest = highest.max(sequence);
        }
    }
}

/// What was accepted, and which block of 16 each of the 64 words holds.
struct Model {
    start: u64,
    seen: BTreeSet<u64>,
    blocks: HashMap<u64, u64>,
}

impl Model {
    fn from(start: u64) -> Self {
        let current = start / 16;
        let blocks = (0..64).filter_map(|behind| current.checked_sub(behind));
        Self {
            start,
            seen: BTreeSet::new(),
            blocks: blocks.map(|block| (block % 64, block)).collect(),
        }
    }

    fn check(&mut self, window: &ReplayWindow, sequence: u64, highest: u64) {
        let block = sequence / 16;
        let held = self.blocks.get(&(block % 64)).copied().unwrap_or_default();
        let fresh = sequence >= self.start && !self.seen.contains(&sequence);
        let expected = fresh && held <= block && sequence <= MAX_SEQUENCE;
        if fresh && sequence <= MAX_SEQUENCE && sequence.saturating_add(WINDOW) > highest {
            assert!(expected, "a new number inside the window");
        }
        assert_eq!(window.would_accept(sequence), expected);
        assert_eq!(
            window.would_accept(sequence),
            expected,
            "asking changes nothing"
        );
        assert_eq!(window.commit(sequence), expected);
        assert!(!window.would_accept(sequence));
        if expected {
            self.seen.insert(sequence);
            self.blocks.insert(block % 64, block);
        }
    }
}

fn check_send(state: &ChannelState, next: &mut u64, count: u32) {
    let end = *next + u64::from(count);
    let expected = (end <= MAX_SEQUENCE + 1).then_some(*next);
    assert_eq!(state.take_tx_seq(count), expected);
    *next = end;
}
