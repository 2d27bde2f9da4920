//! Packets of one client on their way to the dataplane, to be sent in one batch.

use std::collections::VecDeque;
use std::io::IoSlice;

use ocserv_sys::message_batch::send_messages;

use super::link::Link;
use crate::ipc::ids::Slot;
use crate::ipc::packet::packet_header;

/// What one read of a TLS socket brought.
#[derive(Default)]
pub struct Packets {
    bytes: Vec<u8>,
    /// Where each packet ends in `bytes`.
    ends: Vec<usize>,
}

impl Packets {
    /// Adds a packet.
    pub fn push(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
    }

    /// Sends the packets; those that a full link did not take go to `backlog`.
    pub fn send(&mut self, link: Option<&Link>, slot: Slot, backlog: &mut VecDeque<Vec<u8>>) {
        let header = packet_header(slot);
        let messages: Vec<[IoSlice<'_>; 2]> = self
            .iter()
            .map(|packet| [IoSlice::new(&header), IoSlice::new(packet)])
            .collect();
        if let Some(link) = link
            && !messages.is_empty()
        {
            // What was sent before stays in front.
            let sent = if backlog.is_empty() {
                send_messages(link.as_fd(), &messages).sent
            } else {
                0
            };
            backlog.extend(self.iter().skip(sent).map(<[u8]>::to_vec));
        }
        self.bytes.clear();
        self.ends.clear();
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }
}
