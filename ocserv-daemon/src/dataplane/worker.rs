//! A packet thread: waits for its queue, sockets and links, and passes batches on.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ocserv_proto::Now;
use ocserv_proto::cstp::PacketType;
use ocserv_proto::dtls::control::{DtlsTimer, last_heard};
use ocserv_sys::message_batch::MessageBatch;
use ocserv_sys::poller::Poller;
use ocserv_sys::tun::{PacketBatch, TunQueue};
use ocserv_sys::udp::{RxBatch, UdpPort};
use tokio::sync::mpsc;

use super::channel::Channel;
use super::from_client::{TRIES_PER_SECOND, tell_moves};
use super::limit::RateLimit;
use super::mailbox::{Inbox, Report, Update};
use super::meter::Meter;
use super::output::{NotSealed, Output, Tag};
use super::pending::{EarlyHellos, PendingHandshakes};
use super::session::Session;
use super::sockets::Sockets;
use super::table::SessionTable;
use super::to_client::CstpItem;
use super::{BATCH, MAX_DATAGRAM, SocketParts, clock};
use crate::costs::Costs;
use crate::ipc::ids::GateId;
use crate::ipc::packet::MAX_FRAME;

/// Timers of sessions are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// What a socket did not take is tried again after this time.
const RETRY: Duration = Duration::from_millis(1);
/// Most requests to one session in a tick: two channels may be silent, and two go for a size.
const PER_TICK: usize = 4;
/// "Packet too big" messages a second and thread.
const ICMP_PER_SECOND: u64 = 200;

/// Packets that belong to no session, so that no session can count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// Datagrams from addresses that no session uses, or records that none could open.
    pub unknown: u64,
    /// ClientHellos without random bytes: anyone can send them, so each is not worth a line.
    pub zero_random: u64,
    /// Not a record, frame or IP packet.
    pub malformed: u64,
    /// Packets from the LAN to an address that nobody has.
    pub no_session: u64,
    /// Frames of a gate for a session that is not its own.
    pub foreign: u64,
    /// Packets that the tun device did not take.
    pub tun: u64,
    /// Control packets and handshakes that the UDP sockets did not take, unless one byte went instead.
    pub unsent: u64,
    /// Packets that the kernel lost on their way to or from sockets past the stack.
    pub past: u64,
}

/// What a thread works with.
pub struct Worker {
    /// Its number.
    pub(super) id: usize,
    pub(super) threads: usize,
    pub(super) table: SessionTable,
    pub(super) pending: PendingHandshakes,
    pub(super) early: EarlyHellos,
    pub(super) out: Output,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) strays: Strays,
    pub(super) icmp: RateLimit,
    /// Sessions that the tun batch had such a message for.
    pub(super) reported: Vec<u32>,
    /// Of records from unknown ports with sessions that may have moved there.
    pub(super) tries: RateLimit,
    /// Copy of a record for a second try.
    pub(super) scratch: Vec<u8>,
    /// Inner packets in the batch of received datagrams or frames.
    pub(super) deliver: Vec<Delivery>,
    /// Packets of the tun batch that go by CSTP.
    pub(super) by_cstp: Vec<CstpItem>,
    /// Those of them that share messages, as they stand there.
    pub(super) packed: Vec<u8>,
    /// Sessions of the packets of the tun batch.
    pub(super) owners: Vec<u32>,
    /// Where costs decide about paths.
    pub(super) meter: Option<Meter>,
    /// `xdp-sockets`.
    pub(super) sockets: Option<Box<Sockets>>,
    logged: Strays,
}

/// An inner packet within what was received.
pub struct Delivery {
    /// Number of the datagram or frame.
    pub index: usize,
    /// Its bytes there.
    pub range: Range<usize>,
    /// The session.
    pub slot: u32,
}

/// Where received bytes go.
struct Buffers {
    datagrams: RxBatch,
    packets: PacketBatch,
    frames: MessageBatch,
}

/// What became readable.
pub(super) enum Source {
    Inbox,
    Tun,
    Port(usize),
    Gate(GateId),
    Socket(usize),
}

impl Source {
    pub(super) fn token(&self) -> u64 {
        let (kind, value) = match self {
            Self::Inbox => (0, 0),
            Self::Tun => (1, 0),
            Self::Port(index) => (2, *index as u32),
            Self::Gate(gate) => (3, gate.0),
            Self::Socket(index) => (4, *index as u32),
        };
        (kind << 32) | u64::from(value)
    }

    fn from_token(token: u64) -> Self {
        let value = token as u32;
        match token >> 32 {
            0 => Self::Inbox,
            1 => Self::Tun,
            2 => Self::Port(value as usize),
            3 => Self::Gate(GateId(value)),
            _ => Self::Socket(value as usize),
        }
    }
}

impl Worker {
    /// A thread's state before it starts.
    pub fn new(
        (id, threads): (usize, usize),
        (tun, ports): (TunQueue, Vec<UdpPort>),
        costs: Option<Costs>,
        sockets: Option<SocketParts>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            id,
            threads,
            table: SessionTable::default(),
            pending: PendingHandshakes::default(),
            early: EarlyHellos::default(),
            out: Output::new(tun, ports),
            reports,
            strays: Strays::default(),
            icmp: RateLimit::new(ICMP_PER_SECOND),
            reported: Vec::with_capacity(BATCH),
            tries: RateLimit::new(TRIES_PER_SECOND),
            scratch: Vec::with_capacity(MAX_DATAGRAM),
            deliver: Vec::with_capacity(BATCH),
            by_cstp: Vec::with_capacity(BATCH),
            packed: Vec::new(),
            owners: Vec::with_capacity(BATCH),
            meter: costs.map(Meter::new),
            sockets: sockets.map(|parts| Box::new(Sockets::new(parts))),
            logged: Strays::default(),
        }
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When the tun queue or a socket fails for good: the process must be replaced.
    pub fn run(mut self, inbox: &Inbox) -> io::Result<()> {
        let mut poller = Poller::new(BATCH)?;
        poller.add(&*inbox.waker, Source::Inbox.token())?;
        poller.add(&self.out.tun, Source::Tun.token())?;
        let ports = self.out.ports.iter().enumerate();
        for (index, port) in ports.filter(|(_, port)| port.reads()) {
            poller.add(port, Source::Port(index).token())?;
        }
        let mut buffers = Buffers {
            datagrams: RxBatch::new(BATCH, MAX_DATAGRAM),
            packets: PacketBatch::new(BATCH, MAX_DATAGRAM),
            frames: MessageBatch::new(BATCH, MAX_FRAME),
        };
        let mut ready = Vec::with_capacity(BATCH);
        let mut next_tick = clock() + TICK;
        loop {
            // Without sessions there is nothing to time.
            let wait = next_tick
                .saturating_sub(clock())
                .saturating_add(Duration::from_millis(1));
            let wait = (!self.table.is_empty()).then_some(wait);
            poller.wait(self.has_rest().then_some(RETRY).or(wait), &mut ready)?;
            self.send_rest();
            // News before packets: another thread may have had them already, and its gate's answer
            // comes here.
            if ready.contains(&Source::Inbox.token()) {
                inbox.waker.clear();
            }
            if !self.read_inbox(inbox, &poller)? {
                return Ok(());
            }
            for token in &ready {
                match Source::from_token(*token) {
                    Source::Inbox => {}
                    Source::Tun => self.read_tun(&mut buffers.packets)?,
                    Source::Port(index) => self.read_port(index, &mut buffers.datagrams)?,
                    Source::Gate(gate) => self.read_gate(gate, &mut buffers.frames, &poller),
                    Source::Socket(index) => self.read_socket(index),
                }
            }
            let now = clock();
            if now >= next_tick {
                next_tick = now + TICK;
                self.tick(now);
            }
        }
    }

    /// Applies the changes that wait. `false`: stop.
    fn read_inbox(&mut self, inbox: &Inbox, poller: &Poller) -> io::Result<bool> {
        while let Ok(update) = inbox.updates.try_recv() {
            match update {
                Update::GateAdded(gate, link) => self.add_gate(gate, link, poller)?,
                Update::GateRemoved(gate) => self.remove_gate(gate, poller),
                Update::SessionAdded(session) => self.add_session(session),
                Update::SessionRemoved(slot) => {
                    self.pending.forget(slot);
                    self.table.remove(slot);
                }
                Update::FlowAdded(slot, flow) => self.table.learn_flow(slot, flow),
                Update::SocketAdded(added) => self.add_socket(*added, poller),
                Update::SocketsGone(ifindex) => self.forget_sockets(ifindex, poller),
                Update::Barrier(waiting) => drop(waiting),
                Update::Stop => return Ok(false),
            }
        }
        Ok(true)
    }

    fn add_session(&mut self, session: Arc<Session>) {
        let app_id = session.params.app_id;
        self.pending.forget(session.slot());
        self.table.add(session);
        let now = clock();
        if let Some((flow, hello)) = app_id.and_then(|app_id| self.early.take(&app_id, now)) {
            self.pass_handshake(now, flow, &hello);
        }
    }

    fn add_gate(&mut self, gate: GateId, link: Arc<OwnedFd>, poller: &Poller) -> io::Result<()> {
        self.remove_gate(gate, poller);
        if self.reads(gate) {
            poller.add(&*link, Source::Gate(gate).token())?;
        }
        self.out.links.insert(gate, link);
        Ok(())
    }

    /// Forgets a gate's link; its sessions have no CSTP until they are added again.
    pub(super) fn remove_gate(&mut self, gate: GateId, poller: &Poller) {
        if let Some(link) = self.out.links.remove(&gate)
            && self.reads(gate)
        {
            // Other threads hold the descriptor too, so closing ours would not end the watch.
            let _ = poller.remove(&*link);
        }
    }

    /// Each link is read by one thread, and written by all.
    fn reads(&self, gate: GateId) -> bool {
        gate.0 as usize % self.threads == self.id
    }

    /// Timers of the sessions that are this thread's.
    fn tick(&mut self, now: Now) {
        self.pending.expire(now);
        let Self {
            table,
            out,
            id,
            threads,
            reports,
            strays,
            ..
        } = self;
        let own = table
            .iter()
            .filter(|session| session.slot() as usize % *threads == *id);
        for session in own {
            session.retire_previous(now);
            tell_moves(session, reports);
            if !out.has_room(PER_TICK) {
                flush_control(out, table, strays, now);
            }
            // The client answers both alike, so one at a time.
            if !probe_life(out, session, now) {
                probe_size(out, session, now);
            }
            if let Some(mtu) = session.mtu.news()
                && reports.try_send(Report::Mtu(session.slot(), mtu)).is_ok()
            {
                session.mtu.told(mtu);
            }
            session.tell_ended(|channel, generation| {
                let report = Report::Ended(session.slot(), channel, generation);
                reports.try_send(report).is_ok()
            });
        }
        self.flush_control(now);
        self.tell_costs();
        self.out.tell_troubles(self.id);
        if let Some(sockets) = &mut self.sockets {
            self.strays.past += sockets.look_after(self.id);
        }
        if self.strays != self.logged {
            tracing::debug!(thread = self.id, strays = ?self.strays, "packets of no session");
            self.logged = self.strays;
        }
    }

    fn tell_costs(&mut self) {
        if let Some(meter) = &mut self.meter
            && let Some(outputs) = meter.news()
            && self
                .reports
                .try_send(Report::Outputs(self.id, outputs))
                .is_ok()
        {
            meter.told();
        }
    }

    /// Sends the control packets of this batch. Those too long for the path go again with one byte
    /// (protocol.md 9).
    pub(super) fn flush_control(&mut self, now: Now) {
        flush_control(&mut self.out, &self.table, &mut self.strays, now);
    }
}

fn flush_control(out: &mut Output, table: &SessionTable, strays: &mut Strays, now: Now) {
    out.flush();
    for tag in out.lost() {
        not_sent(table, strays, *tag);
    }
    while let Some(tag) = out.next_too_long() {
        too_long_for_path(out, table, strays, now, tag);
    }
    flush_shortened(out, table, strays);
}

/// Sends what [`too_long_for_path`] made. Nothing of it is tried a third time.
pub(super) fn flush_shortened(out: &mut Output, table: &SessionTable, strays: &mut Strays) {
    out.flush();
    for tag in out.lost() {
        not_sent(table, strays, *tag);
    }
    while let Some(tag) = out.next_too_long() {
        not_sent(table, strays, tag);
    }
}

/// Counts a control packet that did not leave. A request about a size does not count as one then: that
/// no answer comes says nothing about the path.
pub(super) fn not_sent(table: &SessionTable, strays: &mut Strays, tag: Tag) {
    strays.unsent += 1;
    if let Tag::SizeProbe(slot) | Tag::SmallProbe(slot) = tag
        && let Some(session) = table.by_slot(slot)
    {
        session.mtu.forget_probe();
    }
}

/// Sends a control packet again with one byte, after it proved too long, unless that is what it was
/// to find out.
pub(super) fn too_long_for_path(
    out: &mut Output,
    table: &SessionTable,
    strays: &mut Strays,
    now: Now,
    tag: Tag,
) {
    let (slot, kind) = match tag {
        Tag::Response(slot) => (slot, PacketType::DpdResponse),
        Tag::Probe(slot) => (slot, PacketType::DpdRequest),
        Tag::SizeProbe(slot) => {
            if let Some(session) = table.by_slot(slot) {
                session.mtu.probe_refused(now);
            }
            return;
        }
        Tag::Packet(_) | Tag::SmallProbe(_) | Tag::Lost => {
            not_sent(table, strays, tag);
            return;
        }
    };
    if let Some(session) = table.by_slot(slot) {
        session.with_sending(now, |channel| {
            if let Err(NotSealed::Full) = out.seal(session, channel, kind, &[0], Tag::Lost) {
                not_sent(table, strays, tag);
            }
        });
    }
}

/// Asks silent channels for a sign of life with a packet of full size (protocol.md 10). Whether one was asked.
fn probe_life(out: &mut Output, session: &Session, now: Now) -> bool {
    let mut asks = false;
    session.each_channel(|channel| {
        let live = session.live(channel);
        match channel.control.handle_timeout(live, now) {
            DtlsTimer::SendDpd => {
                asks = true;
                session.mtu.forget_probe();
                let len = session.mtu.get().into();
                if !request(out, session, channel, len, Tag::Probe(session.slot())) {
                    channel.control.probe_not_sent();
                }
            }
            DtlsTimer::Inactive => {
                tracing::debug!(slot = session.slot(), "DTLS is silent: using CSTP");
            }
            DtlsTimer::Nothing => {}
        }
        None::<()>
    });
    asks
}

/// Asks with a packet of the size that is to be tried (protocol.md 9).
fn probe_size(out: &mut Output, session: &Session, now: Now) {
    session.with_sending(now, |channel| {
        let heard = last_heard(session.live(channel));
        let went = session.shared().tx_bytes.get();
        let Some(size) = session.mtu.probe(now, heard, went) else {
            return;
        };
        let slot = session.slot();
        let sent = request(out, session, channel, size.len, Tag::SizeProbe(slot))
            && (!size.with_small || request(out, session, channel, 1, Tag::SmallProbe(slot)));
        if !sent {
            session.mtu.forget_probe();
        }
    });
}

/// Puts a DPD request with `len` bytes into the batch. `false`: it cannot be sent now.
fn request(out: &mut Output, session: &Session, channel: &Channel, len: usize, tag: Tag) -> bool {
    static ZEROES: [u8; MAX_DATAGRAM] = [0; MAX_DATAGRAM];
    let payload = ZEROES.get(..len).unwrap_or(&ZEROES[..1]);
    out.seal(session, channel, PacketType::DpdRequest, payload, tag)
        .is_ok()
}

#[cfg(test)]
mod tests;
