//! LAN to client: each packet goes by DTLS while that is in use, else by CSTP.
//!
//! A packet larger than the session's MTU is answered with "packet too big", except for those that
//! every path must take whole or in parts: IPv4 without DF, and IPv6 up to 1280 bytes. These go by
//! CSTP, which takes up to 16 KiB. So does a packet that the path refused in a record: the shared
//! sockets cannot clear DF for one client.

use std::io::{self, IoSlice};

use ocserv_common::ip::IpHeader;
use ocserv_common::session::DropReason;
use ocserv_proto::Now;
use ocserv_proto::cstp::{MAX_PAYLOAD, PacketType};
use ocserv_sys::tun::PacketBatch;

use super::icmp::{self, TooBig};
use super::output::{NotSealed, Tag};
use super::session::Session;
use super::table::SessionTable;
use super::worker::{Worker, flush_shortened, not_sent, too_long_for_path};
use super::{BATCH, clock};
use crate::costs::Direction;
use crate::ipc::ids::{GateId, Slot};
use crate::ipc::packet::{HEADER_LEN, MAX_PACKED, pack, packet_header, packets_header};

/// A packet of the tun batch that goes by CSTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CstpItem {
    gate: GateId,
    /// Number in the batch: keeps the order of packets.
    index: usize,
    slot: Slot,
}

/// Slot of a packet that is not sealed.
pub(super) const NOBODY: u32 = u32::MAX;

impl Worker {
    /// Takes one batch from the tun queue, and what the last super-packet of it has beyond: nothing
    /// would wake the thread for that.
    pub(super) fn read_tun(&mut self, batch: &mut PacketBatch) -> io::Result<()> {
        self.take_batch(batch)?;
        while self.out.tun.has_rest() {
            self.take_batch(batch)?;
        }
        Ok(())
    }

    fn take_batch(&mut self, batch: &mut PacketBatch) -> io::Result<()> {
        let begun = self.begin_batch(Direction::Tx);
        let count = self.out.tun.recv_batch(batch)?;
        let now = clock();
        self.by_cstp.clear();
        self.owners.clear();
        self.reported.clear();
        for index in 0..count {
            let owner = self.route(now, index, batch.packet(index));
            self.owners.push(owner.unwrap_or(NOBODY));
        }
        self.flush_records(now, batch);
        self.meter_sent(now, batch, begun);
        self.flush_cstp(batch);
        Ok(())
    }

    /// Decides about one packet; returns its session's slot if it was sealed.
    fn route(&mut self, now: Now, index: usize, packet: &[u8]) -> Option<u32> {
        let Ok(header) = IpHeader::parse(packet) else {
            self.strays.malformed += 1;
            return None;
        };
        let Some(session) = self.table.by_address(header.dst) else {
            self.strays.no_session += 1;
            return None;
        };
        let shared = session.shared();
        let packet = packet.get(..header.total_len)?;
        if !session.tx_limit.allows(now, packet.len()) {
            shared.count_drop(DropReason::RateLimit);
            return None;
        }
        let mtu = usize::from(session.mtu.get());
        let fits = packet.len() <= mtu;
        if !fits {
            let mut message = [0; icmp::MAX_LEN];
            match icmp::too_big(packet, mtu, &mut message) {
                TooBig::ByCstp if packet.len() <= MAX_PAYLOAD => {}
                verdict => {
                    shared.count_drop(DropReason::TooBig);
                    // One is enough for all segments of a super-packet.
                    if let TooBig::Report(len) = verdict
                        && !self.reported.contains(&session.slot())
                        && self.icmp.allows(now, 1)
                    {
                        self.reported.push(session.slot());
                        self.strays.tun += self.out.deliver(message.get(..len)) as u64;
                    }
                    return None;
                }
            }
        }
        shared.tx_packets.add(1);
        shared.tx_bytes.add(packet.len() as u64);
        if header.counts_as_activity() {
            shared.last_data_secs.set(now.as_secs());
        }
        let out = &mut self.out;
        let tag = Tag::Packet(index as u32);
        let sealed = fits.then(|| {
            session.with_sending(now, |channel| {
                out.seal(session, channel, PacketType::Data, packet, tag)
            })
        });
        match sealed.flatten() {
            Some(Ok(())) => return Some(session.slot()),
            Some(Err(NotSealed::Full)) => shared.count_drop(DropReason::QueueFull),
            Some(Err(NotSealed::Channel)) | None => self.by_cstp.push(item(session, index)),
        }
        None
    }

    /// Sends the records. Packets too long for the path go by CSTP (protocol.md 7).
    pub(super) fn flush_records(&mut self, now: Now, batch: &PacketBatch) {
        self.out.flush();
        for tag in self.out.lost() {
            match tag {
                Tag::Packet(index) => {
                    if let Some(session) = owner(&self.owners, &self.table, *index as usize) {
                        session.shared().count_drop(DropReason::QueueFull);
                    }
                }
                other => not_sent(&self.table, &mut self.strays, *other),
            }
        }
        while let Some(tag) = self.out.next_too_long() {
            match tag {
                Tag::Packet(index) if (index as usize) < batch.len() => {
                    if let Some(session) = owner(&self.owners, &self.table, index as usize) {
                        let index = index as usize;
                        session.mtu.refused(now, batch.packet(index).len());
                        self.by_cstp.push(item(session, index));
                    }
                }
                other => {
                    let Self {
                        out, table, strays, ..
                    } = self;
                    too_long_for_path(out, table, strays, now, other);
                }
            }
        }
        flush_shortened(&mut self.out, &self.table, &mut self.strays);
    }

    /// Sends the packets that go by CSTP to their gates, in one call a gate. Those of one session that
    /// follow each other share messages.
    fn flush_cstp(&mut self, batch: &PacketBatch) {
        self.by_cstp.sort_unstable();
        for items in self.by_cstp.chunk_by(|a, b| a.gate == b.gate) {
            let Some(gate) = items.first().map(|item| item.gate) else {
                continue;
            };
            self.packed.clear();
            let mut messages = [Message::default(); BATCH];
            let mut count = 0;
            for (place, group) in messages.iter_mut().zip(groups(items, batch)) {
                *place = Message::new(group, batch, &mut self.packed);
                count += 1;
            }
            let messages = messages.get(..count).unwrap_or(&[]);
            let mut parts = [[IoSlice::new(&[]); 2]; BATCH];
            for (parts, message) in parts.iter_mut().zip(messages) {
                *parts = message.parts(batch, &self.packed);
            }
            let parts = parts.get(..count).unwrap_or(&[]);
            let report = self.out.to_gate(gate, parts);
            let taken = messages.iter().take(report.sent);
            let taken = taken.map(|message| message.packets).sum();
            for item in items.iter().skip(taken) {
                if let Some(session) = self.table.by_slot(item.slot.0) {
                    session.shared().count_drop(DropReason::QueueFull);
                }
            }
        }
    }
}

/// Cuts the packets for a gate into groups of one session that fit a message.
fn groups<'a>(
    items: &'a [CstpItem],
    batch: &'a PacketBatch,
) -> impl Iterator<Item = &'a [CstpItem]> {
    /// Bytes of a packet's length before it.
    const LENGTH_LEN: usize = 2;
    let mut rest = items;
    std::iter::from_fn(move || {
        let slot = rest.first()?.slot;
        let mut length = 0;
        let fitting = rest.iter().take_while(|item| {
            length += LENGTH_LEN + batch.packet(item.index).len();
            item.slot == slot && length <= MAX_PACKED
        });
        let (group, others) = rest.split_at(fitting.count().max(1));
        rest = others;
        Some(group)
    })
}

/// The message for a group.
#[derive(Clone, Copy, Default)]
struct Message {
    header: [u8; HEADER_LEN],
    body: Body,
    /// Packets in it.
    packets: usize,
}

/// Where a message's body is.
#[derive(Clone, Copy)]
enum Body {
    /// A packet of the batch.
    Packet(usize),
    /// From here to there among what was packed.
    Packed(usize, usize),
}

impl Default for Body {
    fn default() -> Self {
        Self::Packed(0, 0)
    }
}

impl Message {
    fn new(group: &[CstpItem], batch: &PacketBatch, packed: &mut Vec<u8>) -> Self {
        let slot = group.first().map_or(Slot(NOBODY), |item| item.slot);
        if let [item] = group {
            return Self {
                header: packet_header(slot),
                body: Body::Packet(item.index),
                packets: 1,
            };
        }
        let start = packed.len();
        for item in group {
            // Longer ones are not in a batch.
            let _ = pack(packed, batch.packet(item.index));
        }
        Self {
            header: packets_header(slot),
            body: Body::Packed(start, packed.len()),
            packets: group.len(),
        }
    }

    fn parts<'a>(&'a self, batch: &'a PacketBatch, packed: &'a [u8]) -> [IoSlice<'a>; 2] {
        let body = match self.body {
            Body::Packet(index) => batch.packet(index),
            Body::Packed(start, end) => packed.get(start..end).unwrap_or(&[]),
        };
        [IoSlice::new(&self.header), IoSlice::new(body)]
    }
}

fn item(session: &Session, index: usize) -> CstpItem {
    CstpItem {
        gate: session.params.gate,
        index,
        slot: session.params.slot,
    }
}

fn owner<'a>(owners: &[u32], table: &'a SessionTable, index: usize) -> Option<&'a Session> {
    table.by_slot(*owners.get(index)?).map(|session| &**session)
}
