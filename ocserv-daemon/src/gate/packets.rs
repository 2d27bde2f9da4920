//! Packets of one client on their way to the dataplane, to be sent in one batch.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use ocserv_sys::message_batch::send_messages;

use super::link::Link;
use crate::ipc::ids::Slot;
use crate::ipc::packet::{MAX_PACKED, pack, packet_header, packets_header};

/// What one read of a TLS socket brought.
#[derive(Default)]
pub struct Packets {
    /// The packets, each after its length.
    bytes: Vec<u8>,
    /// Where each packet is in `bytes`.
    places: Vec<Range<usize>>,
}

impl Packets {
    /// Adds a packet.
    pub fn push(&mut self, packet: &[u8]) {
        if let Some(start) = pack(&mut self.bytes, packet) {
            self.places.push(start..self.bytes.len());
        }
    }

    /// Sends the packets; those that a full link did not take go to `backlog`.
    pub fn send(&mut self, link: Option<&Link>, slot: Slot, backlog: &mut VecDeque<Vec<u8>>) {
        if let Some(link) = link
            && !self.places.is_empty()
        {
            // What was sent before stays in front.
            let sent = if backlog.is_empty() {
                self.send_packed(link, slot)
            } else {
                0
            };
            let rest = self.places.iter().skip(sent);
            backlog.extend(rest.map(|place| self.bytes_at(place.clone()).to_vec()));
        }
        self.bytes.clear();
        self.places.clear();
    }

    /// Sends the packets in as few messages as hold them; returns how many went.
    fn send_packed(&self, link: &Link, slot: Slot) -> usize {
        let (one, many) = (packet_header(slot), packets_header(slot));
        let groups: Vec<_> = groups(&self.places).collect();
        let messages: Vec<[IoSlice<'_>; 2]> = groups
            .iter()
            .map(|group| match group {
                [place] => [
                    IoSlice::new(&one),
                    IoSlice::new(self.bytes_at(place.clone())),
                ],
                _ => [
                    IoSlice::new(&many),
                    IoSlice::new(self.bytes_at(span(group))),
                ],
            })
            .collect();
        let sent = send_messages(link.as_fd(), &messages).sent;
        groups.iter().take(sent).map(|group| group.len()).sum()
    }

    fn bytes_at(&self, place: Range<usize>) -> &[u8] {
        self.bytes.get(place).unwrap_or_default()
    }
}

/// Bytes of a length before a packet.
const LENGTH_LEN: usize = 2;

/// Where a group is, lengths included.
fn span(group: &[Range<usize>]) -> Range<usize> {
    let start = group.first().map_or(0, |place| place.start - LENGTH_LEN);
    start..group.last().map_or(start, |place| place.end)
}

/// Cuts the packets into groups that fit a message.
fn groups(places: &[Range<usize>]) -> impl Iterator<Item = &[Range<usize>]> {
    let mut rest = places;
    std::iter::from_fn(move || {
        let start = rest.first()?.start - LENGTH_LEN;
        let fitting = rest
            .iter()
            .take_while(|place| place.end - start <= MAX_PACKED);
        let (group, others) = rest.split_at(fitting.count().max(1));
        rest = others;
        Some(group)
    })
}

#[cfg(test)]
mod tests {
    use super::{Packets, groups, span};
    use crate::ipc::packet::MAX_PACKED;

    #[test]
    fn groups_fit_and_lose_nothing() {
        let mut packets = Packets::default();
        let lengths = [1400, 1400, MAX_PACKED, 40, MAX_PACKED - 44, 1400, 40];
        lengths
            .iter()
            .for_each(|length| packets.push(&vec![7; *length]));
        let counts: Vec<_> = groups(&packets.places).map(<[_]>::len).collect();
        assert_eq!(counts, [2, 1, 2, 2]);
        for group in groups(&packets.places).filter(|group| group.len() > 1) {
            assert!(span(group).len() <= MAX_PACKED);
        }
        let ends: Vec<_> = groups(&packets.places)
            .map(|group| span(group).end)
            .collect();
        assert_eq!(ends.last(), Some(&packets.bytes.len()));
    }
}
