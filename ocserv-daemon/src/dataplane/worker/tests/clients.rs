//! Clients with keys of their own, all behind one address.

use std::os::unix::net::UnixDatagram;

use ocserv_common::session::DropReason;
use ocserv_proto::dtls::DtlsChannel;

use super::super::super::session::tests::crypto_of;
use super::*;

struct Client {
    session: Arc<Session>,
    socket: UdpSocket,
    crypto: DtlsChannel,
    next_sequence: u64,
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

impl Client {
    /// A session whose channel is in use at a socket of its own.
    fn new(bed: &mut Bed, slot: u32) -> Self {
        let mut params = params(0);
        params.slot = Slot(slot);
        params.ipv4 = Some([10, 9, 0, 2 + slot as u8].into());
        params.app_id = Some([slot as u8; 32]);
        params.mtu = MTU;
        let session = Session::new(params, Arc::clone(&bed.shared), false).unwrap();
        session.shared().channels[0].start(1, 1, 1, 1, 0);
        let client = Self {
            session: Arc::new(session),
            socket: socket(),
            crypto: crypto_of(slot as u8 + 1, 1),
            next_sequence: 1,
        };
        let flow = client.flow(bed);
        let session = &client.session;
        session.install(0, crypto_of(slot as u8 + 1, 1), flow);
        bed.worker.table.add(Arc::clone(session));
        bed.worker.table.learn_flow(slot, flow);
        client
    }

    /// Where it sends from.
    fn flow(&self, bed: &Bed) -> Flow {
        flow_of(bed, &self.socket)
    }

    /// Where its session has it.
    fn known_flow(&self) -> Option<Flow> {
        self.session.each_channel(|channel| Some(channel.flow()))
    }

    fn record(&mut self) -> Vec<u8> {
        let mut record = [0; 200];
        let kind = PacketType::DpdResponse.to_byte();
        let sealed = self
            .crypto
            .seal(self.next_sequence, kind, &[0], &mut record);
        self.next_sequence += 1;
        record[..sealed.unwrap()].to_vec()
    }

    /// Sends a record, which the thread reads.
    fn send(&mut self, bed: &mut Bed) {
        let record = self.record();
        bed.hear(&self.socket, &record);
    }

    /// As if it had sent so many.
    fn has_sent(&mut self, count: u64) {
        self.next_sequence = count + 1;
        let window = self.session.shared().channels[0].window();
        window.reset(self.next_sequence);
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.session.shared().drops(reason)
    }
}

impl Bed {
    /// A datagram, which the thread reads.
    fn hear(&mut self, from: &UdpSocket, bytes: &[u8]) {
        from.send_to(bytes, flow_of(self, from).local).unwrap();
        let mut batch = RxBatch::new(BATCH, MAX_DATAGRAM);
        self.worker.read_port(0, &mut batch).unwrap();
        assert_eq!(batch.len(), 1);
    }
}

fn flow_of(bed: &Bed, socket: &UdpSocket) -> Flow {
    Flow {
        peer: socket.local_addr().unwrap(),
        local: bed.worker.out.ports[0].local_addr(),
    }
}

/// A ClientHello with this App-ID as its session id.
fn hello(app_id: [u8; 32]) -> Vec<u8> {
    let body = [
        &[0xfe, 0xfd][..],
        &[7; 32],
        &[32],
        &app_id,
        &[0, 0, 2, 0, 0xa9, 1, 0],
    ]
    .concat();
    let len = body.len() as u8;
    let record = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, len + 12];
    let message = [1, 0, 0, len, 0, 0, 0, 0, 0, 0, 0, len];
    [&record[..], &message, &body].concat()
}

/// A ChangeCipherSpec, which names nobody.
const LATER_FLIGHT: [u8; 14] = [20, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];

#[test]
fn every_client_behind_an_address_can_move() {
    let mut bed = Bed::new();
    let mut clients: Vec<_> = (0..20).map(|slot| Client::new(&mut bed, slot)).collect();
    // Those that have moved are not tried again so soon.
    for client in clients.iter_mut().rev() {
        client.socket = socket();
        for _ in 0..3 {
            client.send(&mut bed);
        }
        assert_eq!(client.known_flow(), Some(client.flow(&bed)));
    }
}

#[test]
fn sessions_that_cannot_have_sent_a_record_are_not_tried() {
    let mut bed = Bed::new();
    let mut clients: Vec<_> = (0..20).map(|slot| Client::new(&mut bed, slot)).collect();
    let (last, others) = clients.split_last_mut().unwrap();
    others
        .iter_mut()
        .for_each(|client| client.has_sent(1_000_000));
    last.socket = socket();
    last.send(&mut bed);
    assert_eq!(last.known_flow(), Some(last.flow(&bed)));
}

#[test]
fn a_dead_flow_does_not_hide_whom_the_nat_gave_it_to() {
    for (dead_sent, reason) in [(0, DropReason::Auth), (1_000_000, DropReason::Replay)] {
        let mut bed = Bed::new();
        let mut dead = Client::new(&mut bed, 0);
        let mut client = Client::new(&mut bed, 1);
        if dead_sent > 0 {
            dead.has_sent(dead_sent);
        }
        let flow = dead.flow(&bed);
        client.socket = dead.socket.try_clone().unwrap();
        let mut forged = client.record();
        forged[30] ^= 1;
        bed.hear(&client.socket, &forged);
        assert_eq!(dead.drops(reason), 1);
        assert_ne!(client.known_flow(), Some(flow));

        client.send(&mut bed);
        assert_eq!(client.known_flow(), Some(flow));
        assert_eq!(dead.drops(reason), 1, "it was another's");
        client.send(&mut bed);
        assert_eq!(bed.worker.strays.unknown, 0);
        assert!(client.session.shared().last_udp_rx_secs.get() > 0);
    }
}

#[test]
fn a_record_of_an_old_flow_does_not_take_a_handshake_away() {
    let mut bed = Bed::new();
    let client = Client::new(&mut bed, 1);
    let handshake = || client.session.handshake.load().as_deref().copied();
    let [first, second] = [socket(), socket()];
    bed.hear(&first, &hello([1; 32]));
    assert_eq!(handshake(), Some(flow_of(&bed, &first)));
    bed.hear(&client.socket, &LATER_FLIGHT);
    assert_eq!(handshake(), Some(flow_of(&bed, &first)));
    assert!(
        client.session.is_clients(&client.flow(&bed)),
        "it may be answered"
    );

    // Both named the session.
    bed.hear(&second, &hello([1; 32]));
    bed.hear(&first, &LATER_FLIGHT);
    assert_eq!(handshake(), Some(flow_of(&bed, &first)));
    // New keys on the flow of the old ones.
    bed.hear(&client.socket, &hello([1; 32]));
    assert_eq!(handshake(), Some(client.flow(&bed)));
}

#[test]
fn a_session_has_so_many_handshake_datagrams_a_second() {
    let mut bed = Bed::new();
    let client = Client::new(&mut bed, 1);
    let other = Client::new(&mut bed, 2);
    let (gate, _link) = ocserv_sys::seqpacket::pair().unwrap();
    bed.worker.out.links.insert(GateId(1), Arc::new(gate));
    let flow = client.flow(&bed);
    let stranger = flow_of(&bed, &socket());
    for _ in 0..100 {
        bed.worker.pass_handshake(at(10), flow, &LATER_FLIGHT);
        bed.worker.pass_handshake(at(10), stranger, &hello([1; 32]));
    }
    // Half of what a second has.
    assert_eq!(client.drops(DropReason::RateLimit), 150);
    bed.worker
        .pass_handshake(at(10), other.flow(&bed), &LATER_FLIGHT);
    bed.worker.pass_handshake(at(11), flow, &LATER_FLIGHT);
    assert_eq!(client.drops(DropReason::RateLimit), 150);
    for client in [client, other] {
        assert_eq!(client.drops(DropReason::QueueFull), 0);
    }
}

/// A packet of 1450 bytes with DF.
fn too_big(client: &Client) -> Vec<u8> {
    let mut packet = vec![0; 1450];
    packet[..4].copy_from_slice(&[0x45, 0, 5, 0xaa]);
    packet[6..10].copy_from_slice(&[0x40, 0, 64, 17]);
    packet[12..16].copy_from_slice(&[192, 0, 2, 9]);
    packet[16..20].copy_from_slice(&client.session.params.ipv4.unwrap().octets());
    packet
}

#[test]
fn a_batch_has_one_report_of_packets_too_big_for_each_session() {
    let mut bed = Bed::new();
    let (lan, tun) = UnixDatagram::pair().unwrap();
    for socket in [&lan, &tun] {
        socket.set_nonblocking(true).unwrap();
    }
    bed.worker.out.tun = TunQueue::new(tun.into());
    let clients = [Client::new(&mut bed, 1), Client::new(&mut bed, 2)];
    let mut batch = PacketBatch::new(BATCH, MAX_DATAGRAM);
    for _ in 0..2 {
        for client in [0, 0, 1, 0, 1, 0] {
            lan.send(&too_big(&clients[client])).unwrap();
        }
        bed.worker.read_tun(&mut batch).unwrap();
        assert_eq!(batch.len(), 6);
        let reports = std::iter::from_fn(|| lan.recv(&mut [0; 2048]).ok());
        assert_eq!(reports.count(), 2);
    }
    let drops = clients.map(|client| client.drops(DropReason::TooBig));
    assert_eq!(drops, [8, 4]);
}
