//! Arbitrary packets, and valid ones with changes, against a model made of user space's code.

use anyhow::Result;
use ocserv_common::datagram::{HEAD, parse};
use ocserv_common::ip::IpHeader;
use ocserv_common::kernel::FlowKey;
use ocserv_common::replay::ReplayWindow;
use ocserv_proto::dtls::DtlsChannel;

use crate::bed::{
    Bed, DROP, FLOW4, FLOW6, PASS, Ran, TC_DROP, TC_NEXT, TC_REDIRECT, XDP_REDIRECT, client_channel,
};
use crate::direct;
use crate::net::{LAN_MAC, alone};
use crate::open::is_left;
use crate::packets::{Client, bare, ethernet, inner};
use crate::seal;

/// Packets for each program.
const RUNS: u32 = 12_000;
/// Bytes of the shortest packet that the kernel runs TC programs on.
const SHORTEST: usize = 15;
/// The client's addresses, and somebody that it talks to.
const OWN: [(&str, &str); 2] = [("10.9.0.5", "10.20.0.2"), ("fd00::5", "fd00:20::2")];

/// Numbers without a pattern (xorshift); the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }

    /// Changes nothing once in a while; else bytes, often of the headers, or the length.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            let end = if self.below(3) == 0 { bytes.len() } else { 90 };
            let at = self.below(end.min(bytes.len()));
            bytes[at] = match self.below(3) {
                0 => bytes[at] ^ 1 << self.below(8),
                1 => bytes[at].wrapping_add(1),
                _ => self.below(256) as u8,
            };
        }
        match self.below(12) {
            0 => bytes.truncate(SHORTEST + self.below(bytes.len() - SHORTEST)),
            1 => bytes.extend(vec![0xaa; self.below(100)]),
            _ => {}
        }
    }

    fn garbage(&mut self) -> Vec<u8> {
        let len = SHORTEST + self.below(200);
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// What user space would make of records.
struct Model {
    flow: FlowKey,
    channel: DtlsChannel,
    window: ReplayWindow,
}

impl Model {
    fn new((peer, local): (&str, &str), channel: DtlsChannel) -> Self {
        let window = ReplayWindow::new();
        window.reset(1);
        Self {
            flow: FlowKey::new(peer.parse().unwrap(), local.parse().unwrap()),
            channel,
            window,
        }
    }

    /// The inner packet of a frame that opens, as delivered, and whether it is the session's. Takes the
    /// number.
    fn open(&self, frame: &[u8]) -> Option<(Vec<u8>, bool)> {
        let mut head = [0; HEAD];
        let len = frame.len().min(HEAD);
        head[..len].copy_from_slice(&frame[..len]);
        let mut flow = self.flow;
        let record = parse(&head, frame.len(), 0, &mut flow).ok()?;
        if flow != self.flow {
            return None;
        }
        let mut bytes = frame[record.offset..record.offset + 13 + record.length].to_vec();
        let opened = self.channel.open(&mut bytes, &self.window).ok()?;
        let (kind, packet) = opened.plaintext.split_first()?;
        let header = IpHeader::parse(packet).ok()?;
        let is_own = OWN
            .iter()
            .any(|(from, _)| header.src == from.parse::<std::net::IpAddr>().unwrap());
        let is_marked = record.tos & 3 == 3;
        (*kind == 0).then(|| (packet[..header.total_len].to_vec(), is_own && !is_marked))
    }
}

fn open(models: &[Model; 2], frame: &[u8]) -> Option<(Vec<u8>, bool)> {
    models.iter().find_map(|model| model.open(frame))
}

/// A frame from the client, not always of its own address.
fn client_frame(dice: &mut Dice, clients: &mut [Client; 2]) -> Vec<u8> {
    let number = dice.below(2);
    let flow = [FLOW4, FLOW6][number];
    let (from, to) = match dice.below(10) {
        0 => ("10.9.0.6", "10.20.0.2"),
        n => OWN[n % 2],
    };
    let packet = inner(from, to, 60 + dice.below(100));
    let mut bytes = clients[number].frame(flow, &packet);
    if dice.below(8) == 0 {
        bytes.splice(12..12, [0x81, 0, 0, 5]);
    }
    bytes
}

/// The delivered packet, if it is one.
fn delivered(ran: &Ran) -> Option<&[u8]> {
    (ran.verdict == PASS && ran.marked).then(|| &ran.packet[14..])
}

/// Runs one of the programs that receive; the other one's results in the form of `xdp_rx`.
fn receive(bed: &mut Bed, program: &str, frame: &[u8]) -> Ran {
    if program == "xdp_rx" {
        return bed.xdp(program, frame).unwrap();
    }
    let ran = bed.tc(program, frame).unwrap();
    let (verdict, marked) = match ran.verdict {
        TC_REDIRECT => (PASS, true),
        TC_NEXT => (PASS, false),
        TC_DROP => (DROP, false),
        other => panic!("{other}"),
    };
    Ran {
        verdict,
        marked,
        ..ran
    }
}

#[test]
fn xdp_rx_delivers_only_what_opens_in_user_space() {
    only_what_opens_in_user_space_is_delivered("xdp_rx");
}

#[test]
fn tc_rx_delivers_only_what_opens_in_user_space() {
    only_what_opens_in_user_space_is_delivered("tc_rx");
}

fn only_what_opens_in_user_space_is_delivered(program: &str) {
    let mut bed = Bed::new().unwrap();
    let models = [(0, FLOW4), (1, FLOW6)].map(|(number, flow)| {
        let channel = bed.install(number, 1 + u64::from(number), flow).unwrap();
        Model::new(flow, channel)
    });
    let mut clients = [Client::new(1), Client::new(2)];
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut last = Vec::new();
    let (mut passed, mut dropped, mut taken) = (0, 0, 0);
    for _ in 0..RUNS {
        let mut bytes = match dice.below(10) {
            0 => dice.garbage(),
            1 if !last.is_empty() => last.clone(),
            _ => {
                let mut bytes = client_frame(&mut dice, &mut clients);
                dice.change(&mut bytes);
                bytes
            }
        };
        if program == "tc_rx" {
            // The harness takes no frame without a whole IP header there.
            bytes.resize(bytes.len().max(54), 0);
        }
        // What was left before holds nothing up.
        bed.record().rx_pace.bulk_ms.set(0);
        let ran = receive(&mut bed, program, &bytes);
        if let Some(packet) = delivered(&ran) {
            let (expected, is_own) = open(&models, &bytes).expect("delivered what does not open");
            assert_eq!(packet, expected);
            assert!(is_own, "{bytes:02x?}");
            taken += 1;
        } else if ran.verdict == DROP {
            assert!(!open(&models, &bytes).is_some_and(|(_, is_own)| is_own));
            dropped += 1;
        } else {
            assert!(is_left(&ran, &bytes), "{bytes:02x?}");
            passed += 1;
        }
        last = bytes;
    }
    let least = RUNS / 50;
    assert!(passed > least && dropped > least && taken > least);
    assert_eq!(bed.record().rx_packets.get(), u64::from(taken));
}

#[test]
fn tc_deliver_leaves_everything_without_a_mark() {
    let mut bed = Bed::new().unwrap();
    let mut clients = [Client::new(1), Client::new(2)];
    let mut dice = Dice(0x0fed_cba9_8765_4321);
    for _ in 0..RUNS / 4 {
        let mut bytes = client_frame(&mut dice, &mut clients);
        dice.change(&mut bytes);
        // The harness takes no frame without a whole IP header.
        bytes.resize(bytes.len().max(54), 0);
        let ran = bed.tc("tc_deliver", &bytes).unwrap();
        assert_eq!((ran.verdict, ran.packet), (TC_NEXT, bytes));
    }
}

/// A packet to the client, or to somebody else.
fn packet_to_client(dice: &mut Dice) -> Vec<u8> {
    let (to, from) = match dice.below(10) {
        0 => ("10.9.0.6", "10.20.0.2"),
        n => OWN[n % 2],
    };
    let len = 60 + dice.below(100);
    match dice.below(2) {
        0 => inner(from, to, len),
        _ => bare(from, to, len),
    }
}

/// Checks that a sealed frame has the packet, and no number twice.
fn check_sealed(ran: &Ran, client: &DtlsChannel, expected: &[u8], window: &ReplayWindow) {
    let opened = seal::open(&ran.packet, FLOW4, client, 0, false);
    assert_eq!(opened.packet, expected);
    assert!(window.commit(opened.sequence), "a number was used twice");
    let header = IpHeader::parse(expected).unwrap();
    let is_clients =
        |(lease, _): &(&str, &str)| header.dst == lease.parse::<std::net::IpAddr>().unwrap();
    assert!(OWN.iter().any(is_clients));
}

/// The packet without what follows it.
fn trimmed(packet: &[u8]) -> &[u8] {
    &packet[..IpHeader::parse(packet).unwrap().total_len]
}

#[test]
fn tc_tx_seals_whole_packets_to_the_client_and_leaves_the_rest() {
    alone(|| {
        let mut bed = seal::bed_towards(FLOW4)?;
        let (client, window) = (client_channel(1), ReplayWindow::new());
        let mut dice = Dice(0x5a5a_1234_dead_beef);
        let (mut sealed, mut left) = (0, 0);
        for n in 0..RUNS {
            let mut bytes = packet_to_client(&mut dice);
            dice.change(&mut bytes);
            if n % 10 == 0 {
                bytes = dice.garbage();
            }
            let ran = bed.tc("tc_tx", &bytes)?;
            if ran.verdict == TC_REDIRECT {
                check_sealed(&ran, &client, trimmed(&bytes), &window);
                sealed += 1;
            } else {
                assert!(seal::is_left(&ran, &bytes), "{bytes:02x?}");
                left += 1;
                // What looks like a long packet holds back those behind it.
                bed.record().tx_pace.bulk_ms.set(0);
            }
        }
        assert!(sealed > RUNS / 50 && left > RUNS / 50);
        assert_eq!(bed.record().tx_packets.get(), u64::from(sealed));
        Ok(())
    })
    .unwrap();
}

#[test]
fn xdp_tx_seals_whole_packets_to_the_client_and_leaves_the_rest() {
    alone(|| fuzz_direct().map(drop)).unwrap();
}

fn fuzz_direct() -> Result<u32> {
    let mut bed = direct::bed(FLOW4)?;
    let (client, window) = (client_channel(1), ReplayWindow::new());
    let mut dice = Dice(0x7777_1234_aaaa_beef);
    let (mut sealed, mut left) = (0, 0);
    for n in 0..RUNS {
        let mut bytes = direct::lan_frame(&packet_to_client(&mut dice));
        dice.change(&mut bytes);
        if n % 10 == 0 {
            bytes = ethernet(&dice.garbage());
        }
        let ran = bed.xdp("xdp_tx", &bytes)?;
        if ran.verdict == XDP_REDIRECT {
            assert_eq!(bytes[..6], LAN_MAC);
            let expected = direct::one_hop(trimmed(&bytes[14..]));
            check_sealed(&ran, &client, &expected, &window);
            sealed += 1;
        } else {
            assert!(is_left(&ran, &bytes), "{bytes:02x?}");
            left += 1;
            bed.record().tx_pace.bulk_ms.set(0);
        }
    }
    assert!(sealed > RUNS / 50 && left > RUNS / 50);
    Ok(sealed)
}
