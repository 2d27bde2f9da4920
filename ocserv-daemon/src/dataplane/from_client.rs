//! Client to LAN by UDP.
//!
//! A datagram is told apart by its first record: handshakes and everything unprotected go to the
//! session's gate as they came; protected records are opened here. A record from an unknown address
//! is tried with the sessions that were heard from that IP; the channel moves there only if it opens
//! (protocol.md 8.6).

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use ocserv_common::inner::{is_congested, mark_congestion};
use ocserv_common::ip::IpHeader;
use ocserv_common::session::DropReason;
use ocserv_proto::Now;
use ocserv_proto::cstp::PacketType;
use ocserv_proto::dtls::DtlsControl;
use ocserv_proto::dtls::channel::Opened;
use ocserv_proto::dtls::control::DtlsInput;
use ocserv_proto::dtls::hello::{HelloError, find_app_id};
use ocserv_proto::dtls::record::{ContentType, RecordHeader, split_record};
use ocserv_sys::udp::RxBatch;
use tokio::sync::mpsc;

use super::channel::{Channel, Flow};
use super::mailbox::Report;
use super::output::{Output, Tag};
use super::session::Session;
use super::worker::{Delivery, Worker};
use super::{BATCH, clock};
use crate::costs::Direction;

/// Sessions behind one IP that a record from an unknown port is tried with.
const MAX_CANDIDATES: usize = 8;
/// Sessions that are looked at for them.
const MAX_LOOKS: usize = 64;
/// Such records that are tried, a second and thread. A neighbour of a client can send them without end,
/// and each costs more than the records of sessions do.
pub(super) const TRIES_PER_SECOND: u64 = 2000;

/// Where a record was received.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) now: Now,
    pub(super) flow: Flow,
    /// Number of its datagram in the batch, and where that begins in memory.
    pub(super) datagram: usize,
    pub(super) base: usize,
    /// A router on the way was congested.
    pub(super) is_congested: bool,
    /// The device that it came by, if answers can go by it as they are; 0: not known.
    pub(super) device: u32,
}

/// One received record and what is needed to deliver it.
struct Inbound<'a> {
    origin: Origin,
    out: &'a mut Output,
    deliver: &'a mut Vec<Delivery>,
    scratch: &'a mut Vec<u8>,
}

impl Worker {
    /// Takes one batch from a port.
    pub(super) fn read_port(&mut self, port: usize, batch: &mut RxBatch) -> io::Result<()> {
        let begun = self.begin_batch(Direction::Rx);
        let Some(socket) = self.out.ports.get(port) else {
            return Ok(());
        };
        let count = socket.recv_batch(batch)?;
        let now = clock();
        self.strays.malformed += batch.refused() as u64;
        self.deliver.clear();
        for index in 0..count {
            let datagram = batch.datagram(index);
            let flow = Flow {
                peer: datagram.peer,
                local: datagram.local,
            };
            match RecordHeader::parse(datagram.bytes) {
                None => self.strays.malformed += 1,
                Some(header) if is_handshake(&header) => {
                    self.pass_handshake(now, flow, datagram.bytes);
                }
                Some(_) => {
                    let origin = Origin {
                        now,
                        flow,
                        datagram: index,
                        base: datagram.bytes.as_ptr() as usize,
                        is_congested: is_congested(datagram.tos),
                        device: 0,
                    };
                    self.open_datagram(origin, datagram.bytes);
                }
            }
            // Merged datagrams may be more than there is room for answers.
            if index % BATCH == BATCH - 1 {
                self.flush_control(now);
            }
        }
        let packets = self
            .deliver
            .iter()
            .filter_map(|d| batch.bytes(d.index).get(d.range.clone()));
        self.strays.tun += self.out.deliver(packets) as u64;
        self.meter_received(now, batch, begun);
        self.flush_control(now);
        Ok(())
    }

    /// Hands a datagram to the gate of the session that its ClientHello names, or that its flow
    /// belongs to.
    pub(super) fn pass_handshake(&mut self, now: Now, flow: Flow, bytes: &[u8]) {
        let hello = find_app_id(bytes);
        let (session, named) = match hello {
            Ok(app_id) => {
                let session = self.table.by_app_id(&app_id);
                if session.is_none() {
                    self.early.insert(app_id, flow, bytes, now);
                }
                (session, true)
            }
            Err(HelloError::NotClientHello | HelloError::NotHandshake) => {
                let pending = self.pending.get(&flow, now);
                match pending.and_then(|slot| self.table.by_slot(slot)) {
                    Some(session) => (Some(session), true),
                    None => (self.table.by_flow(&flow), false),
                }
            }
            Err(HelloError::ZeroRandom) => {
                self.strays.zero_random += 1;
                return;
            }
            Err(_) => (None, false),
        };
        let Some(session) = session else {
            self.strays.unknown += 1;
            return;
        };
        if !session.handshakes.allows(now, 1) {
            session.shared().count_drop(DropReason::RateLimit);
            return;
        }
        if hello.is_ok() {
            self.pending.insert(flow, session.slot(), now);
        }
        // Anyone can forge a datagram of a known flow: answers to another flow must stay allowed.
        if named && session.handshake.load().as_deref() != Some(&flow) {
            session.handshake.store(Some(Arc::new(flow)));
        }
        self.out.handshake_to_gate(session, &flow, bytes);
    }

    /// Opens the records of a datagram, up to the first that does not open: clients send one in
    /// each, and a stranger must not make more work by sending many.
    pub(super) fn open_datagram(&mut self, origin: Origin, bytes: &mut [u8]) {
        let Origin { now, flow, .. } = origin;
        let mut rest = bytes;
        let mut first = true;
        while let Some((_, record, tail)) = split_record(rest) {
            rest = tail;
            let Self {
                table,
                pending,
                out,
                deliver,
                scratch,
                ..
            } = self;
            let mut inbound = Inbound {
                origin,
                out,
                deliver,
                scratch,
            };
            let known = table.by_flow(&flow).or_else(|| {
                // The keys are known to the session before this thread hears of its flow.
                pending.get(&flow, now).and_then(|slot| table.by_slot(slot))
            });
            let tried = known.and_then(|session| {
                let result = inbound.open_known(session, record)?;
                Some((session.slot(), result))
            });
            if !matches!(tried, Some((_, Ok(())))) {
                let failed = tried.and_then(|(slot, result)| Some((slot, result.err()?)));
                // Also where the flow is known: the NAT may have given it to another client.
                let slot = failed.map(|(slot, _)| slot);
                if !(first && self.open_from_elsewhere(origin, record, slot)) {
                    self.count_unopened(failed);
                    return;
                }
            }
            first = false;
        }
    }

    /// Counts a record for the session of its flow, if that has one.
    fn count_unopened(&mut self, known: Option<(u32, DropReason)>) {
        let session = known.and_then(|(slot, reason)| Some((self.table.by_slot(slot)?, reason)));
        match session {
            Some((session, reason)) => session.shared().count_drop(reason),
            None => self.strays.unknown += 1,
        }
    }

    /// Tries the sessions that were heard from the sender's IP, but for that of slot `known`. Whether one
    /// took the record.
    fn open_from_elsewhere(
        &mut self,
        origin: Origin,
        record: &mut [u8],
        known: Option<u32>,
    ) -> bool {
        let Origin { now, flow, .. } = origin;
        let Self {
            table,
            tries,
            out,
            deliver,
            scratch,
            ..
        } = self;
        let Some(header) = RecordHeader::parse(record) else {
            return false;
        };
        let ip = flow.peer.ip();
        let looked = Cell::new(0);
        let sessions = table.heard_from(ip).iter().take(MAX_LOOKS);
        let sessions = sessions.inspect(|_| looked.set(looked.get() + 1));
        let others = sessions.filter(|slot| Some(**slot) != known);
        let sessions = others.filter_map(|slot| table.by_slot(*slot));
        let mut movable = sessions
            .filter(|session| session.may_move(now) && may_have_sent(session, &header))
            .take(MAX_CANDIDATES)
            .peekable();
        if movable.peek().is_some() && !tries.allows(now, 1) {
            return false;
        }
        let mut inbound = Inbound {
            origin,
            out,
            deliver,
            scratch,
        };
        let Some(slot) = movable.find_map(|session| inbound.open_moved(session, record)) else {
            let looked = looked.get();
            self.table.look_further(ip, looked);
            return false;
        };
        self.table.learn_flow(slot, flow);
        if let Some(session) = self.table.by_slot(slot) {
            tell_moves(session, &self.reports);
        }
        true
    }
}

/// Whether one of the session's channels would look at the record's content.
fn may_have_sent(session: &Session, header: &RecordHeader) -> bool {
    let fits = session.each_channel(|channel| {
        let window = session.record(channel).window();
        let fits = channel.crypto.epoch() == header.epoch && window.would_accept(header.sequence);
        fits.then_some(())
    });
    fits.is_some()
}

/// Tells the control task of channels that moved. When its queue is full the timer tells it again.
pub(super) fn tell_moves(session: &Session, reports: &mpsc::Sender<Report>) {
    session.each_channel(|channel| {
        channel.tell_move(|flow| {
            let number = (channel.index & 1) as u8;
            let report = Report::Moved(session.slot(), number, channel.generation, flow);
            reports.try_send(report).is_ok()
        });
        None::<()>
    });
}

/// Handshakes are the gate's: all that is unprotected, and handshake messages of any epoch (a
/// Finished that is sent again).
fn is_handshake(header: &RecordHeader) -> bool {
    header.epoch == 0
        || matches!(
            header.content_type,
            ContentType::Handshake | ContentType::ChangeCipherSpec
        )
}

impl Inbound<'_> {
    /// Opens a record with the session's channels of this flow. `None`: there is none, so the
    /// record may be from a channel that moves. An error: it does not open, and is as it was.
    fn open_known(
        &mut self,
        session: &Session,
        record: &mut [u8],
    ) -> Option<Result<(), DropReason>> {
        let mut failure = None;
        let taken = session.each_channel(|channel| {
            if channel.flow() != self.origin.flow {
                return None;
            }
            if failure.is_none() {
                self.save(record);
            }
            let result = self.open(session, channel, record, false);
            if let Err(reason) = result {
                record.copy_from_slice(self.scratch);
                failure = failure.or(Some(reason));
            }
            result.ok()
        });
        taken.map(Ok).or(failure.map(Err))
    }

    /// Tries a record with a session that may have moved here. Its slot if it opened.
    fn open_moved(&mut self, session: &Session, record: &mut [u8]) -> Option<u32> {
        self.save(record);
        let opened = session.each_channel(|channel| {
            let result = self.open(session, channel, record, true);
            if result.is_err() {
                record.copy_from_slice(self.scratch);
            }
            result.ok()
        });
        opened.map(|()| session.slot())
    }

    fn save(&mut self, record: &[u8]) {
        self.scratch.clear();
        self.scratch.extend_from_slice(record);
    }

    /// Checks, authenticates, commits; then does what the content says.
    fn open(
        &mut self,
        session: &Session,
        channel: &Channel,
        record: &mut [u8],
        moves: bool,
    ) -> Result<(), DropReason> {
        let shared = session.shared();
        let window = session.record(channel).window();
        let opened = channel.crypto.open(record, window)?;
        if moves {
            session.move_channel(channel, self.origin.flow, self.origin.now);
        }
        let known = &session.live(channel).ifindex;
        let device = u64::from(self.origin.device);
        if device != 0 && device != known.get() {
            known.set(device);
        }
        shared.last_udp_rx_secs.set(self.origin.now.as_secs());
        self.receive(session, channel, opened);
        Ok(())
    }

    fn receive(&mut self, session: &Session, channel: &Channel, opened: Opened<'_>) {
        let Origin { now, base, .. } = self.origin;
        match DtlsControl::received(session.live(channel), now, opened) {
            DtlsInput::Packet(packet) => {
                let start = (packet.as_ptr() as usize).wrapping_sub(base);
                if self.origin.is_congested && !mark_congestion(packet) {
                    session.shared().count_drop(DropReason::Malformed);
                } else if let Some(len) = check_inner(session, now, packet) {
                    self.deliver.push(Delivery {
                        index: self.origin.datagram,
                        range: start..start.saturating_add(len),
                        slot: session.slot(),
                    });
                }
            }
            DtlsInput::Respond(payload) => {
                session.mtu.heard(payload.len());
                let tag = Tag::Response(session.slot());
                let kind = PacketType::DpdResponse;
                if self.out.seal(session, channel, kind, payload, tag).is_err() {
                    session.shared().count_drop(DropReason::QueueFull);
                }
            }
            DtlsInput::Answered => session.mtu.answered(),
            DtlsInput::Closed => {
                tracing::debug!(slot = session.slot(), "the client closed its DTLS channel");
                session.end_channel(channel);
            }
            DtlsInput::Ignore => {}
            DtlsInput::Drop(reason) => session.shared().count_drop(reason),
        }
    }
}

/// Checks a packet from the client: form, source, rate. Counts it, or why not; returns its length.
pub(super) fn check_inner(session: &Session, now: Now, packet: &[u8]) -> Option<usize> {
    let shared = session.shared();
    let Ok(header) = IpHeader::parse(packet) else {
        shared.count_drop(DropReason::Malformed);
        return None;
    };
    if !session.owns(header.src) {
        shared.count_drop(DropReason::Source);
        return None;
    }
    if !session.rx_limit.allows(now, header.total_len) {
        shared.count_drop(DropReason::RateLimit);
        return None;
    }
    shared.rx_packets.add(1);
    shared.rx_bytes.add(header.total_len as u64);
    if header.counts_as_activity() {
        shared.last_data_secs.set(now.as_secs());
    }
    Some(header.total_len)
}
