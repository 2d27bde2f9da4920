//! An open tunnel: CSTP frames between the TLS session and the dataplane, and the DTLS handshakes
//! beside it.
//!
//! Packets towards the client arrive by [`Tunnel::send_packet`], called by the reader of the link;
//! everything else happens in the connection's own task, [`Tunnel::run`]. No borrow lives across an
//! await.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ocserv_proto::Now;
use ocserv_proto::config::Cipher;
use ocserv_proto::cstp::{
    CstpChannel, CstpInput, CstpSettings, CstpTimer, Ended, HEADER_LEN, MAX_PAYLOAD, PacketType,
    Parser, header,
};
use ocserv_proto::secret::Secret;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::Gate;
use super::connection::{Event, hang_up};
use super::dtls::{Action, DtlsServer, DtlsSettings, Flow, describe};
use super::packets::Packets;
use super::tls::{Incoming, TlsSession};
use crate::ipc::gate::{EndReason, FromGate};
use crate::ipc::ids::{ConnId, Slot};

/// Most bytes that wait for a slow client; further packets are dropped, as a full queue of a
/// network device would.
const MAX_QUEUED: usize = 128 * 1024;
/// With this much waiting, answers to the client are dropped too.
const MAX_QUEUED_ANSWERS: usize = 2 * MAX_QUEUED;
/// Sleep of a tunnel without timers.
const FAR: Duration = Duration::from_secs(3600);

/// What a tunnel begins with.
pub struct TunnelStart {
    /// The socket.
    pub tcp: TcpStream,
    /// TLS on it; the CONNECT answer was sent.
    pub session: TlsSession,
    /// Timers.
    pub cstp: CstpSettings,
    /// `None`: no DTLS.
    pub dtls: Option<DtlsStart>,
}

/// What DTLS handshakes need.
pub struct DtlsStart {
    /// Exported from the TLS session.
    pub psk: Secret,
    /// Announced App-ID.
    pub app_id: [u8; 32],
    /// Best first.
    pub ciphers: Vec<Cipher>,
}

/// An open tunnel.
pub struct Tunnel {
    gate: Rc<Gate>,
    conn: ConnId,
    slot: Slot,
    tcp: TcpStream,
    session: RefCell<TlsSession>,
    cstp: RefCell<CstpChannel>,
    parser: RefCell<Parser>,
    dtls: RefCell<Option<Box<DtlsServer>>>,
    /// Packets of the client that the full link did not take.
    backlog: RefCell<VecDeque<Vec<u8>>>,
    /// Something changed that `run` must look at.
    wake: Notify,
    ended: Cell<Option<EndReason>>,
    /// Packets dropped because the client is slow.
    dropped: Cell<u64>,
}

impl Tunnel {
    /// A tunnel whose CONNECT was answered.
    pub fn new(gate: Rc<Gate>, conn: ConnId, slot: Slot, start: TunnelStart) -> Self {
        let dtls = start.dtls.map(|dtls| {
            Box::new(DtlsServer::new(DtlsSettings {
                context: gate.dtls.clone(),
                psk: dtls.psk,
                app_id: dtls.app_id,
                ciphers: dtls.ciphers,
            }))
        });
        let cstp = CstpChannel::new(start.cstp, gate.now());
        Self {
            gate,
            conn,
            slot,
            tcp: start.tcp,
            session: RefCell::new(start.session),
            cstp: RefCell::new(cstp),
            parser: RefCell::new(Parser::new()),
            dtls: RefCell::new(dtls),
            backlog: RefCell::default(),
            wake: Notify::new(),
            ended: Cell::new(None),
            dropped: Cell::new(0),
        }
    }

    /// The session.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// In occtl's form.
    pub fn tls_description(&self) -> String {
        self.session.borrow().description().to_owned()
    }

    /// Queues a packet for the client; [`Self::flush`] sends what a batch brought.
    pub fn send_packet(&self, packet: &[u8]) {
        let mut session = self.session.borrow_mut();
        if session.queued() > MAX_QUEUED || packet.len() > MAX_PAYLOAD {
            self.dropped.set(self.dropped.get() + 1);
            return;
        }
        // At most MAX_PAYLOAD: see above.
        let header = header(PacketType::Data, packet.len() as u16);
        if session.queue_frame(&header, packet).is_err() {
            self.end(EndReason::Unspecified);
        }
    }

    /// Gives the socket what it takes.
    pub fn flush(&self) {
        let mut session = self.session.borrow_mut();
        if session.try_flush(&self.tcp).is_err() || session.is_used_up() {
            self.end(EndReason::Unspecified);
        } else if session.wants_write() {
            self.wake.notify_one();
        }
    }

    /// Takes a datagram of a DTLS handshake.
    pub fn datagram(&self, flow: Flow, bytes: &[u8]) {
        let mut actions = Vec::new();
        if let Some(dtls) = self.dtls.borrow_mut().as_deref_mut() {
            dtls.datagram(self.gate.now(), flow, bytes, &mut actions);
        }
        if !actions.is_empty() {
            self.act(actions);
            self.wake.notify_one();
        }
    }

    /// Ends the tunnel from outside its task, without a word to the client.
    pub fn end(&self, reason: EndReason) {
        if self.ended.get().is_none() {
            self.ended.set(Some(reason));
        }
        self.wake.notify_one();
    }

    /// Runs until the tunnel ends.
    pub async fn run(&self, events: &mut mpsc::Receiver<Event>) -> EndReason {
        let reason = self.serve(events).await;
        if self.dropped.get() > 0 {
            let dropped = self.dropped.get();
            tracing::debug!(conn = self.conn.0, dropped, "packets for a slow client");
        }
        reason
    }

    async fn serve(&self, events: &mut mpsc::Receiver<Event>) -> EndReason {
        let timer = sleep_until(self.deadline());
        tokio::pin!(timer);
        loop {
            if let Some(reason) = self.ended.get() {
                if self.session.borrow().is_used_up() {
                    let conn = self.conn.0;
                    tracing::info!(
                        conn,
                        "the keys of TLS are used up: the client has to connect anew"
                    );
                    Box::pin(self.close(None)).await;
                }
                return reason;
            }
            let wants_write = self.session.borrow().wants_write();
            let link = self.gate.link();
            let blocked = !self.backlog.borrow().is_empty() && link.is_some();
            tokio::select! {
                ready = self.tcp.readable(), if !blocked => match ready {
                    Ok(()) => self.read(),
                    Err(_) => self.end(EndReason::Unspecified),
                },
                ready = self.tcp.writable(), if wants_write => match ready {
                    Ok(()) => self.flush(),
                    Err(_) => self.end(EndReason::Unspecified),
                },
                () = room(link.as_deref()), if blocked => self.forward_backlog(),
                event = events.recv() => {
                    if let Some(reason) = self.event(event) {
                        // Boxed, so that an idle tunnel does not carry the room of the end.
                        Box::pin(self.close(Some(PacketType::Disconnect))).await;
                        return reason;
                    }
                }
                () = &mut timer => {
                    if self.timeouts() {
                        timer.as_mut().reset(self.deadline());
                    }
                }
                () = self.wake.notified() => {
                    let deadline = self.deadline();
                    if deadline < timer.deadline() {
                        timer.as_mut().reset(deadline);
                    }
                }
            }
        }
    }

    /// `Some`: end with a word to the client.
    fn event(&self, event: Option<Event>) -> Option<EndReason> {
        match event {
            Some(Event::KeysInstalled) => {
                let mut actions = Vec::new();
                if let Some(dtls) = self.dtls.borrow_mut().as_deref_mut() {
                    dtls.keys_installed(self.gate.now(), &mut actions);
                }
                self.act(actions);
                self.wake.notify_one();
                None
            }
            Some(Event::Disconnect(reason)) => Some(reason),
            Some(Event::Tunnel(_)) => None,
            None => Some(EndReason::ServerDisconnect),
        }
    }

    /// One read of the socket and the frames in it.
    fn read(&self) {
        let mut scratch = self.gate.scratch.borrow_mut();
        let count = match self.tcp.try_read(&mut scratch) {
            Ok(0) => return self.end(EndReason::Unspecified),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => return self.end(EndReason::Unspecified),
        };
        let input = scratch.get(..count).unwrap_or_default();
        let now = self.gate.now();
        let link = self.gate.link();
        let mut answers = Vec::new();
        let mut session = self.session.borrow_mut();
        let mut packets = self.gate.packets.borrow_mut();
        let state = session.receive(input, |record| {
            self.record(now, record, &mut packets, &mut answers)
        });
        // While the link is full, nothing more is read from the client: the backlog is what one read
        // can bring.
        packets.send(link.as_deref(), self.slot, &mut self.backlog.borrow_mut());
        match state {
            Ok(Incoming::Open) => {}
            Ok(Incoming::Closed) => self.end(EndReason::Unspecified),
            Err(RecordError::Ended(ended)) => self.end(reason_of(ended)),
            Err(RecordError::Frame(error)) => {
                tracing::info!(conn = self.conn.0, %error, "CSTP");
                self.end(EndReason::Error);
            }
            Err(RecordError::Tls(error)) => {
                tracing::debug!(conn = self.conn.0, %error, "TLS");
                self.end(EndReason::Unspecified);
            }
        }
        for answer in answers {
            if session.queued() > MAX_QUEUED_ANSWERS || session.queue(&answer).is_err() {
                break;
            }
        }
        drop(session);
        self.flush();
    }

    fn record(
        &self,
        now: Now,
        mut record: &[u8],
        packets: &mut Packets,
        answers: &mut Vec<Vec<u8>>,
    ) -> Result<(), RecordError> {
        let mut parser = self.parser.borrow_mut();
        let mut cstp = self.cstp.borrow_mut();
        while let Some(frame) = parser.next(&mut record).map_err(RecordError::Frame)? {
            match cstp.received(now, &frame) {
                CstpInput::Packet(packet) => packets.push(packet),
                CstpInput::Respond(answer) => answers.push(answer),
                CstpInput::Ended(ended) => return Err(RecordError::Ended(ended)),
                CstpInput::Ignore => {}
            }
        }
        Ok(())
    }

    fn forward_backlog(&self) {
        let link = self.gate.link();
        let mut backlog = self.backlog.borrow_mut();
        while let Some(packet) = backlog.front() {
            if let Some(link) = &link
                && matches!(link.send_packet(self.slot, packet), Ok(false))
            {
                return;
            }
            backlog.pop_front();
        }
        // An idle tunnel keeps no buffer.
        *backlog = VecDeque::new();
    }

    /// Does what is due; false when the tunnel is over.
    fn timeouts(&self) -> bool {
        let now = self.gate.now();
        loop {
            let due = self.cstp.borrow_mut().handle_timeout(now);
            let mut session = self.session.borrow_mut();
            let done = match due {
                CstpTimer::Nothing => break,
                CstpTimer::Dead => {
                    drop(session);
                    self.end(EndReason::DpdTimeout);
                    return false;
                }
                CstpTimer::SendDpd => session.queue(&header(PacketType::DpdRequest, 0)),
                CstpTimer::Rekey => session.queue_key_update().map_err(io::Error::other),
            };
            if let Err(error) = done {
                tracing::debug!(conn = self.conn.0, %error, "timer");
            }
        }
        let mut actions = Vec::new();
        if let Some(dtls) = self.dtls.borrow_mut().as_deref_mut() {
            dtls.handle_timeout(now, &mut actions);
        }
        self.act(actions);
        self.flush();
        true
    }

    fn deadline(&self) -> Instant {
        let cstp = self.cstp.borrow().poll_timeout();
        let dtls = self
            .dtls
            .borrow()
            .as_deref()
            .and_then(DtlsServer::poll_timeout);
        match cstp.into_iter().chain(dtls).min() {
            Some(at) => self.gate.instant(at),
            None => Instant::now() + FAR,
        }
    }

    fn act(&self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(flow, datagrams) => {
                    if let Some(link) = self.gate.link() {
                        datagrams
                            .iter()
                            .for_each(|d| link.send_datagram(self.slot, flow, d));
                    }
                }
                Action::Install(Flow { peer, local }, keys) => {
                    let cipher = describe(keys.cipher);
                    let conn = self.conn;
                    self.gate.outbox.push(FromGate::InstallKeys {
                        conn,
                        keys,
                        peer,
                        local,
                        cipher,
                    });
                }
                Action::Failed(flow, error) => {
                    tracing::info!(conn = self.conn.0, peer = %flow.peer, %error, "DTLS handshake");
                }
            }
        }
    }

    /// An orderly close, after a last word: without one the client comes back by itself.
    #[expect(
        clippy::await_holding_refcell_ref,
        reason = "the tunnel has left the table: nobody else can reach its session"
    )]
    async fn close(&self, word: Option<PacketType>) {
        self.gate.tunnels.borrow_mut().remove(&self.slot);
        let mut session = self.session.borrow_mut();
        if let Some(word) = word {
            let frame: [u8; HEADER_LEN] = header(word, 0);
            if session.queue(&frame).is_err() {
                return;
            }
        }
        hang_up(&self.tcp, &mut session).await;
    }
}

enum RecordError {
    Tls(io::Error),
    Frame(ocserv_proto::cstp::FrameError),
    Ended(Ended),
}

impl From<io::Error> for RecordError {
    fn from(error: io::Error) -> Self {
        Self::Tls(error)
    }
}

fn reason_of(ended: Ended) -> EndReason {
    match ended {
        Ended::User => EndReason::UserDisconnect,
        Ended::Temporary => EndReason::TemporaryDisconnect,
        Ended::Error => EndReason::Error,
    }
}

async fn room(link: Option<&super::link::Link>) {
    if let Some(link) = link {
        // A broken link drops what is sent to it.
        let _ = link.writable().await;
    }
}
