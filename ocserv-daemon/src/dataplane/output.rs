//! What leaves a thread: records and datagrams, inner packets, frames to gates. All in batches.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ocserv_common::session::DropReason;
use ocserv_proto::config::NetPriority;
use ocserv_proto::cstp::PacketType;
use ocserv_sys::message_batch::{LinkReport, send_messages};
use ocserv_sys::tun::TunQueue;
use ocserv_sys::udp::{Destination, Marking, TxBatch, UdpPort};

use super::channel::{Channel, Flow};
use super::session::Session;
use super::trouble::{News, Trouble};
use super::{BATCH, MAX_DATAGRAM};
use crate::ipc::ids::GateId;
use crate::ipc::packet::Frame;

/// Names a datagram in a batch, for the case that it is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Packet number so-and-so of the tun batch.
    Packet(u32),
    /// A DPD answer to the session of this slot.
    Response(u32),
    /// A DPD request to the session of this slot.
    Probe(u32),
    /// A DPD request that tries whether its size passes.
    SizeProbe(u32),
    /// The short DPD request beside it.
    SmallProbe(u32),
    /// Nobody asks for it again.
    Lost,
}

const KIND_SHIFT: u32 = 29;
const VALUE_MASK: u32 = (1 << KIND_SHIFT) - 1;

impl Tag {
    fn encode(self) -> u32 {
        let (kind, value) = match self {
            Self::Packet(value) => (0, value),
            Self::Response(value) => (1, value),
            Self::Probe(value) => (2, value),
            Self::SizeProbe(value) => (3, value),
            Self::SmallProbe(value) => (4, value),
            Self::Lost => (5, 0),
        };
        (kind << KIND_SHIFT) | (value & VALUE_MASK)
    }

    fn decode(tag: u32) -> Self {
        let value = tag & VALUE_MASK;
        match tag >> KIND_SHIFT {
            0 => Self::Packet(value),
            1 => Self::Response(value),
            2 => Self::Probe(value),
            3 => Self::SizeProbe(value),
            4 => Self::SmallProbe(value),
            _ => Self::Lost,
        }
    }
}

/// Why a payload was not put into a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSealed {
    /// The channel cannot be used: no port, key used up, too large a payload.
    Channel,
    /// The batch is full.
    Full,
}

/// The sending side of one thread.
pub struct Output {
    /// Tun queue, for both directions.
    pub tun: TunQueue,
    /// UDP sockets, for both directions.
    pub ports: Vec<UdpPort>,
    /// Packet links of the gates.
    pub links: HashMap<GateId, Arc<OwnedFd>>,
    batches: Vec<TxBatch>,
    frame: Vec<u8>,
    too_long: VecDeque<Tag>,
    lost: Vec<Tag>,
    tun_trouble: Trouble,
    udp_trouble: Trouble,
}

impl Output {
    /// Takes the thread's queue and sockets.
    pub fn new(tun: TunQueue, ports: Vec<UdpPort>) -> Self {
        // A batch of packets always fits, with control packets of the batch before.
        let batches = ports
            .iter()
            .map(|_| TxBatch::new(2 * BATCH, MAX_DATAGRAM))
            .collect();
        Self {
            tun,
            ports,
            links: HashMap::new(),
            batches,
            frame: Vec::new(),
            too_long: VecDeque::new(),
            lost: Vec::new(),
            tun_trouble: Trouble::default(),
            udp_trouble: Trouble::default(),
        }
    }

    /// Seals `payload` and puts the record into the batch of its port.
    ///
    /// # Errors
    /// [`NotSealed`]; nothing was sent then.
    pub fn seal(
        &mut self,
        session: &Session,
        channel: &Channel,
        kind: PacketType,
        payload: &[u8],
        tag: Tag,
    ) -> Result<(), NotSealed> {
        let flow = channel.flow();
        let batch = self.batch_for(&flow).ok_or(NotSealed::Channel)?;
        let buffer = batch.buffer().ok_or(NotSealed::Full)?;
        let sequence = session.take_sequence(channel).ok_or(NotSealed::Channel)?;
        let sealed = channel
            .crypto
            .seal(sequence, kind.to_byte(), payload, buffer);
        let len = sealed.map_err(|_| NotSealed::Channel)?;
        batch.commit(
            len,
            &destination(&flow, session.params.net_priority),
            tag.encode(),
        );
        Ok(())
    }

    /// Puts a datagram of a handshake into the batch of its port; lost if there is no room.
    pub fn datagram(&mut self, flow: &Flow, bytes: &[u8]) {
        let Some(batch) = self.batch_for(flow) else {
            return;
        };
        let Some(buffer) = batch
            .buffer()
            .and_then(|buffer| buffer.get_mut(..bytes.len()))
        else {
            return;
        };
        buffer.copy_from_slice(bytes);
        batch.commit(bytes.len(), &destination(flow, None), Tag::Lost.encode());
    }

    /// Whether each port's batch has room for so many datagrams.
    pub fn has_room(&self, count: usize) -> bool {
        self.batches.iter().all(|batch| batch.room() >= count)
    }

    fn batch_for(&mut self, flow: &Flow) -> Option<&mut TxBatch> {
        let index = self.ports.iter().position(|port| port.serves(flow.local))?;
        self.batches.get_mut(index)
    }

    /// Sends all batches of records. [`Self::next_too_long`] and [`Self::lost`] tell the rest.
    pub fn flush(&mut self) {
        self.too_long.clear();
        self.lost.clear();
        for (port, batch) in self.ports.iter().zip(&mut self.batches) {
            if !batch.is_empty() {
                let report = port.send_batch(batch);
                let failed = report.full + report.refused;
                self.udp_trouble.note(report.sent, failed, report.error);
                self.too_long
                    .extend(batch.too_long().iter().map(|tag| Tag::decode(*tag)));
                self.lost
                    .extend(batch.lost().iter().map(|tag| Tag::decode(*tag)));
            }
        }
    }

    /// Takes the next one of what the last [`Self::flush`] found too long for the path; seldom anything.
    pub fn next_too_long(&mut self) -> Option<Tag> {
        self.too_long.pop_front()
    }

    /// What the last [`Self::flush`] lost otherwise.
    pub fn lost(&self) -> &[Tag] {
        &self.lost
    }

    /// Writes packets to the tun device. How many it did not take.
    pub fn deliver<'a>(&mut self, packets: impl IntoIterator<Item = &'a [u8]>) -> usize {
        let sent = self.tun.send_batch(packets);
        let failed = sent.full + sent.refused;
        self.tun_trouble.note(sent.sent, failed, sent.error);
        failed
    }

    /// Says what does not take packets, and what does again.
    pub fn tell_troubles(&mut self, thread: usize) {
        match self.tun_trouble.look() {
            Some(News::Began(lost, reason)) => {
                tracing::warn!(thread, lost, "the tun device takes no packets: {reason}");
            }
            Some(News::Over) => tracing::info!(thread, "the tun device takes packets again"),
            None => {}
        }
        match self.udp_trouble.look() {
            Some(News::Began(lost, reason)) => {
                tracing::warn!(thread, lost, "datagrams to clients are not sent: {reason}");
            }
            Some(News::Over) => tracing::info!(thread, "datagrams to clients are sent again"),
            None => {}
        }
    }

    /// Sends packets to a gate; each message is its header and body. Counts from the first one tell
    /// what was sent.
    pub fn to_gate(&self, gate: GateId, messages: &[[IoSlice<'_>; 2]]) -> LinkReport {
        match self.links.get(&gate) {
            Some(link) => send_messages(link.as_fd(), messages),
            None => LinkReport {
                sent: 0,
                lost: messages.len(),
            },
        }
    }

    /// Hands a datagram of a handshake to the session's gate.
    pub fn handshake_to_gate(&mut self, session: &Session, flow: &Flow, bytes: &[u8]) {
        self.frame.clear();
        let Flow { peer, local } = *flow;
        Frame::Datagram {
            slot: session.params.slot,
            peer,
            local,
            bytes,
        }
        .write(&mut self.frame);
        let message = [IoSlice::new(&self.frame), IoSlice::new(&[])];
        if self.to_gate(session.params.gate, &[message]).lost > 0 {
            session.shared().count_drop(DropReason::QueueFull);
        }
    }
}

fn destination(flow: &Flow, priority: Option<NetPriority>) -> Destination {
    Destination {
        peer: flow.peer,
        source: Some(flow.local.ip()),
        marking: priority.map(|priority| match priority {
            NetPriority::Tos(tos) => Marking::Tos(tos),
            NetPriority::Priority(priority) => Marking::Priority(priority),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_batch() {
        for tag in [
            Tag::Packet(63),
            Tag::Response(70_000),
            Tag::Probe(0),
            Tag::SizeProbe(1),
            Tag::SmallProbe(2),
            Tag::Lost,
        ] {
            assert_eq!(Tag::decode(tag.encode()), tag);
        }
    }
}
