//! A thread whose sessions are all at one socket on loopback.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use ocserv_proto::dtls::record::RecordHeader;
use ocserv_sys::shared_map::{Backing, SharedSessions};
use ocserv_sys::udp::{self, PathMtu};

use super::super::channel::Flow;
use super::super::session::tests::{crypto, params};
use super::*;
use crate::ipc::ids::Slot;

mod clients;

/// More than a batch has room for, and more than a few of it.
const MANY: u32 = 320;
/// As negotiated.
const MTU: u16 = 1400;
/// Records of a session are numbered from its slot times this.
const NUMBERS: u64 = 1 << 16;

struct Bed {
    worker: Worker,
    /// Where the clients are.
    clients: UdpSocket,
    shared: Arc<SharedSessions>,
    _reports: mpsc::Receiver<Report>,
}

impl Bed {
    fn new() -> Self {
        let clients = UdpSocket::from(udp::bind("127.0.0.1:0".parse().unwrap(), false).unwrap());
        clients.set_nonblocking(true).unwrap();
        let port = udp::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let port = UdpPort::new(port, PathMtu::Discover).unwrap();
        let no_tun = TunQueue::new(std::fs::File::open("/dev/null").unwrap().into());
        let (reports, received) = mpsc::channel(1024);
        let shared = SharedSessions::new(MANY);
        for shard in 0..2 {
            let memory = SharedSessions::create_shard().unwrap();
            shared.add(shard, &memory, Backing::Memfd).unwrap();
        }
        Self {
            worker: Worker::new((0, 1), (no_tun, vec![port]), None, None, reports),
            clients,
            shared: Arc::new(shared),
            _reports: received,
        }
    }

    /// A client that is at the socket.
    fn add_session(&mut self, slot: u32) -> Arc<Session> {
        let mut params = params(0);
        params.slot = Slot(slot);
        params.ipv6 = None;
        params.mtu = MTU;
        let session = Session::new(params, Arc::clone(&self.shared), true).unwrap();
        let session = Arc::new(session);
        self.add_channel(&session, 0, self.clients.local_addr().unwrap());
        self.worker.table.add(Arc::clone(&session));
        session
    }

    /// Keys that go to `peer`, newer than those of lower numbers.
    fn add_channel(&self, session: &Session, number: usize, peer: SocketAddr) {
        let local = self.worker.out.ports[0].local_addr();
        let generation = number as u64 + 1;
        let first = u64::from(session.slot()) * NUMBERS + 1;
        session.shared().channels[number].start(generation, 1, first, 1, 0);
        session.install(number, crypto(1), Flow { peer, local });
    }

    /// Slots of the sessions whose records came, with the records' lengths.
    fn received(&self) -> Vec<(u32, usize)> {
        let mut received = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok(len) = self.clients.recv(&mut buffer) {
            let header = RecordHeader::parse(&buffer[..len]).unwrap();
            received.push(((header.sequence / NUMBERS) as u32, len));
        }
        received
    }
}

fn at(seconds: u64) -> Now {
    Duration::from_secs(seconds)
}

/// The client is heard by all its channels.
fn hear(session: &Session, now: Now) {
    session.each_channel(|channel| {
        session.live(channel).heard(now.as_millis() as u64);
        None::<()>
    });
}

/// One second of a busy session: packets go both ways.
fn be_busy(session: &Session, now: Now) {
    session.shared().tx_bytes.add(2 * u64::from(MTU));
    hear(session, now - Duration::from_millis(500));
}

#[test]
fn many_sessions_keep_the_mtu_that_their_paths_take() {
    let mut bed = Bed::new();
    let sessions: Vec<_> = (0..MANY).map(|slot| bed.add_session(slot)).collect();
    for second in 10..25 {
        for session in &sessions {
            be_busy(session, at(second));
        }
        bed.worker.tick(at(second));
        for (slot, _) in bed.received() {
            sessions[slot as usize].mtu.answered();
        }
    }
    let narrowed = sessions.iter().filter(|session| session.mtu.get() != MTU);
    assert_eq!(narrowed.count(), 0);
    assert_eq!(bed.worker.strays, Strays::default());
}

#[test]
fn many_silent_clients_are_all_asked_at_once() {
    let mut bed = Bed::new();
    for slot in 0..MANY {
        let session = bed.add_session(slot);
        hear(&session, at(10));
    }
    bed.worker.tick(at(190));
    let mut asked: Vec<_> = bed.received().iter().map(|(slot, _)| *slot).collect();
    asked.dedup();
    assert_eq!(asked, Vec::from_iter(0..MANY));
}

#[test]
fn the_answer_to_another_request_does_not_prove_a_size() {
    /// Longest record that the path carries.
    const PATH: usize = 1000;
    let mut bed = Bed::new();
    let session = bed.add_session(0);
    ask_in_vain(&session, |now| bed.worker.tick(now));
    bed.received();
    let mut asked = 0;
    for second in 15..1000 {
        // Later it is silent but for its answers, and so it is asked whether it lives.
        if second < 40 {
            be_busy(&session, at(second));
        }
        bed.worker.tick(at(second));
        for (_, len) in bed.received() {
            if len <= PATH {
                session.mtu.answered();
                hear(&session, at(second));
                asked += u32::from(second > 100);
            }
        }
        let mtu = session.mtu.get();
        assert!(usize::from(mtu) < PATH, "{mtu} at {second}");
    }
    assert!(asked > 2, "{asked}");
}

/// Leaves room for so many datagrams.
fn fill(out: &mut Output, session: &Session, room: usize) {
    while out.has_room(room + 1) {
        let sealed =
            session.each_channel(|channel| Some(request(out, session, channel, 1, Tag::Lost)));
        assert_eq!(sealed, Some(true));
    }
}

/// Asks five times for the size of a client that is heard and answers nothing.
fn ask_in_vain(session: &Session, mut ask: impl FnMut(Now)) {
    for second in 10..15 {
        be_busy(session, at(second));
        ask(at(second));
    }
}

#[test]
fn a_probe_without_answer_counts_only_if_it_was_sent() {
    let mut bed = Bed::new();
    let session = bed.add_session(0);
    ask_in_vain(&session, |now| bed.worker.tick(now));
    assert!(session.mtu.get() < MTU, "the path loses it");

    for room in [0, 1] {
        let mut bed = Bed::new();
        let session = bed.add_session(0);
        let out = &mut bed.worker.out;
        ask_in_vain(&session, |now| {
            fill(out, &session, room);
            probe_size(out, &session, now);
            out.flush();
        });
        assert_eq!(session.mtu.get(), MTU, "room for {room}");
    }

    let mut bed = Bed::new();
    let session = bed.add_session(0);
    // The socket refuses it.
    bed.add_channel(&session, 1, "127.0.0.1:0".parse().unwrap());
    ask_in_vain(&session, |now| bed.worker.tick(now));
    assert_eq!(session.mtu.get(), MTU);
    assert_eq!(bed.worker.strays.unsent, 10);
}

#[test]
fn a_request_that_found_no_room_goes_at_the_next_tick() {
    let mut bed = Bed::new();
    let session = bed.add_session(0);
    hear(&session, at(10));
    let out = &mut bed.worker.out;
    fill(out, &session, 0);
    probe_life(out, &session, at(190));
    bed.worker.flush_control(at(190));
    let full = |bed: &Bed| bed.received().iter().any(|(_, len)| *len > MTU.into());
    assert!(!full(&bed));
    probe_life(&mut bed.worker.out, &session, at(191));
    bed.worker.flush_control(at(191));
    assert!(full(&bed));
}

/// Runs `test` in a thread with a network of its own, whose loopback takes 1280 bytes. Needs root.
fn in_narrow_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        for arguments in ["link set lo up", "link set lo mtu 1280"] {
            let ip = Command::new("ip").args(arguments.split(' ')).status();
            assert!(ip.unwrap().success(), "ip {arguments}");
        }
        test();
    });
    thread.join().unwrap();
}

#[test]
fn an_answer_that_is_lost_after_it_was_shortened_is_counted() {
    type Flush = fn(&mut Worker);
    let by_control: Flush = |worker| worker.flush_control(at(20));
    let by_records: Flush = |worker| worker.flush_records(at(20), &PacketBatch::new(1, 1));
    for flush in [by_control, by_records] {
        in_narrow_network(move || {
            let mut bed = Bed::new();
            let session = bed.add_session(0);
            let out = &mut bed.worker.out;
            let tag = Tag::Response(0);
            session.each_channel(|channel| {
                out.seal(
                    &session,
                    channel,
                    PacketType::DpdResponse,
                    &[0; MTU as usize],
                    tag,
                )
                .ok()
            });
            // The socket refuses what goes by the newer channel.
            bed.add_channel(&session, 1, "127.0.0.1:0".parse().unwrap());
            hear(&session, at(20));
            flush(&mut bed.worker);
            assert_eq!(bed.received(), []);
            assert_eq!(bed.worker.strays.unsent, 1);
        });
    }
}

#[test]
fn a_handshake_that_is_too_long_for_the_path_is_counted() {
    in_narrow_network(|| {
        let mut bed = Bed::new();
        let flow = Flow {
            peer: bed.clients.local_addr().unwrap(),
            local: bed.worker.out.ports[0].local_addr(),
        };
        bed.worker.out.datagram(&flow, &[22; MTU as usize]);
        bed.worker.flush_control(at(20));
        assert_eq!(bed.received(), []);
        assert_eq!(bed.worker.strays.unsent, 1);
    });
}
