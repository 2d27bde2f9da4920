//! Ways to next hops that the kernel's routing table named, remembered for a moment.

use std::time::Duration;

use ocserv_common::kernel::{Address, RouteFrame};
use ocserv_proto::Now;

/// A changed route is followed after this time at the latest.
const LIFE: Duration = Duration::from_millis(500);
/// Where there was no way, there may be one when the neighbour has answered.
const SHORT_LIFE: Duration = Duration::from_millis(5);
/// Ways that are remembered together: one more takes the place of the oldest.
const TOGETHER: usize = 4;
/// Such sets: a power of two.
const SETS: usize = 1024;

/// Who sends what to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub source: Address,
    pub destination: Address,
    /// Protocol and ports of what this host sends; the ports of what it forwards are 0.
    pub protocol: u8,
    pub ports: [[u8; 2]; 2],
    pub tos: u8,
    /// The device that the packet came in by; with `is_output` the one to leave by.
    pub ifindex: u32,
    pub is_output: bool,
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Device.
    pub egress: u32,
    /// Destination and source of the Ethernet header.
    pub macs: [u8; 12],
}

#[derive(Clone, Copy)]
struct Known {
    question: Question,
    until: Now,
    /// Packets up to this length, bytes...
    len: usize,
    /// ...go this way; `None`: and longer ones do not go at all.
    way: Option<Way>,
}

/// What was asked lately.
pub struct Ways {
    sets: Vec<[Option<Known>; TOGETHER]>,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            sets: vec![[None; TOGETHER]; SETS],
        }
    }
}

impl Ways {
    /// The way of a packet of `len` bytes. `ask` puts the answer into the question.
    pub fn find(
        &mut self,
        now: Now,
        question: &Question,
        len: usize,
        ask: impl FnOnce(&mut RouteFrame) -> bool,
    ) -> Option<Way> {
        let set = self.sets.get_mut(question.set())?;
        let same = |known: &Option<Known>| known.is_some_and(|known| known.question == *question);
        let place = match set.iter().position(same) {
            Some(place) => place,
            None => {
                set.rotate_right(1);
                0
            }
        };
        let place = set.get_mut(place)?;
        if let Some(known) = place
            && known.question == *question
            && now < known.until
            && (known.way.is_some() == (len <= known.len))
        {
            return known.way;
        }
        let mut frame = question.frame(len);
        let is_known = ask(&mut frame) && frame.found == 1;
        let way = is_known.then_some(Way {
            egress: frame.egress,
            macs: frame.macs,
        });
        let life = if way.is_some() { LIFE } else { SHORT_LIFE };
        *place = Some(Known {
            question: *question,
            until: now + life,
            // Shorter ones may have a way where this one is too long.
            len: if way.is_some() {
                len
            } else {
                len.saturating_sub(1)
            },
            way,
        });
        way
    }
}

impl Question {
    fn set(&self) -> usize {
        let halves = |address: &Address| {
            let bits = u128::from_ne_bytes(*address);
            (bits as u64) ^ (bits >> 64) as u64
        };
        let ports = u64::from(u16::from_ne_bytes(self.ports[1]));
        let sum = halves(&self.source)
            .rotate_left(17)
            .wrapping_add(halves(&self.destination))
            .wrapping_add(ports);
        // The golden ratio's fraction spreads neighbours.
        (sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SETS.trailing_zeros())) as usize
    }

    fn frame(&self, len: usize) -> RouteFrame {
        RouteFrame {
            source: self.source,
            destination: self.destination,
            ifindex: self.ifindex,
            is_output: self.is_output.into(),
            len: len.min(usize::from(u16::MAX)) as u16,
            protocol: self.protocol,
            tos: self.tos,
            source_port: self.ports[0],
            destination_port: self.ports[1],
            ..RouteFrame::EMPTY
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ocserv_common::kernel::address;

    use super::*;

    fn question(last: u8) -> Question {
        Question {
            source: address([10, 0, 0, 1].into()),
            destination: address([10, 1, 0, last].into()),
            protocol: 17,
            ports: [[0; 2]; 2],
            tos: 0,
            ifindex: 3,
            is_output: false,
        }
    }

    /// Takes packets of up to 1400 bytes.
    fn answer(frame: &mut RouteFrame) -> bool {
        frame.found = u32::from(frame.len <= 1400);
        frame.egress = u32::from(frame.destination[15]);
        true
    }

    #[test]
    fn an_answer_holds_for_a_moment_and_for_what_is_not_longer() {
        let mut ways = Ways::default();
        let asked = Cell::new(0);
        let mut find = |now: u64, last: u8, len: usize| {
            let way = ways.find(Now::from_millis(now), &question(last), len, |frame| {
                asked.set(asked.get() + 1);
                answer(frame)
            });
            (way.map(|way| way.egress), asked.get())
        };
        assert_eq!(find(0, 7, 100), (Some(7), 1));
        assert_eq!(find(1, 7, 100), (Some(7), 1));
        assert_eq!(find(1, 7, 60), (Some(7), 1));
        assert_eq!(find(1, 7, 101), (Some(7), 2), "longer: who knows");
        assert_eq!(find(1, 8, 100), (Some(8), 3));
        assert_eq!(find(2, 8, 1401), (None, 4));
        assert_eq!(find(2, 8, 1500), (None, 4));
        assert_eq!(find(2, 8, 1401), (None, 4));
        assert_eq!(find(2, 8, 1400), (Some(8), 5), "shorter: who knows");
        assert_eq!(find(501, 8, 1400), (Some(8), 5));
        assert_eq!(find(502, 8, 1400), (Some(8), 6), "too old");
        assert_eq!(find(503, 8, 1500), (None, 7));
        assert_eq!(find(507, 8, 1500), (None, 7));
        assert_eq!(find(508, 8, 1500), (None, 8), "there may be one by now");
    }

    #[test]
    fn what_cannot_be_asked_has_no_way() {
        let mut ways = Ways::default();
        assert_eq!(ways.find(Now::ZERO, &question(1), 60, |_| false), None);
    }
}
