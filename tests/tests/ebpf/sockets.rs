//! Packets that are handed over to sockets, and answers about routes.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use ocserv_common::kernel::{BULK_HOLD_MS, Counted, RouteFrame, SOCKET_DEVICES, SOCKET_QUEUES};
use ocserv_common::kernel::{MAX_SOCKET_FRAME, address};
use ocserv_daemon::kernel_path::{DeviceRole, Mode};
use ocserv_sys::xsk::{self, FrameMemory};

use crate::bed::{Bed, DROP, FLOW4, FLOW6, FORWARDED, PASS, SkbFields, XDP_REDIRECT, now_ms};
use crate::direct::{
    self, INGRESS, at_its_last_hop, bed_with, lan_frame, with_hop_by_hop, with_options,
};
use crate::net::{HOST_MAC, LAN_MAC, ROUTER_MAC, WAN_MAC, alone, ifindex, ip as ip_lines};
use crate::packets::{Client, bare, checksum, inner, ip, pseudo_header};
use crate::seal;

/// The queue that frames of the test harness come by.
const QUEUE: u32 = 0;
/// Where the record begins in a frame of [`FLOW4`].
const RECORD: usize = 42;
/// Long ago.
const PAST: u64 = 6 * BULK_HOLD_MS as u64;
/// From the LAN to the client.
const TO_CLIENT: (&str, &str) = ("10.20.0.2", "10.9.0.5");
/// The other way.
const FROM_CLIENT: (&str, &str) = ("10.9.0.5", "10.20.0.2");

/// An open socket.
struct Socket {
    fd: OwnedFd,
    _memory: FrameMemory,
}

impl Socket {
    /// On a device's only queue. To redirect to it programs need not run there.
    fn open(device: &str) -> Result<Self> {
        let mut memory = FrameMemory::create(64, 2048)?;
        let fd = xsk::open(&mut memory, ifindex(device)?, 0)?;
        Ok(Self {
            fd,
            _memory: memory,
        })
    }
}

/// A session whose packets go to a socket, as does what the harness brings.
fn bed(flow: (&str, &str)) -> Result<(Bed, Socket)> {
    let mut bed = bed_with(flow, |options| options.sockets = true)?;
    let socket = Socket::open("lan")?;
    bed.kernel.add_socket(INGRESS, QUEUE, &socket.fd)?;
    Ok((bed, socket))
}

/// What only he may change who opened a record or sealed one.
fn state(bed: &Bed) -> [u64; 9] {
    let record = bed.record();
    let live = &record.channels[0].live;
    [
        &record.rx_packets,
        &record.rx_bytes,
        &record.tx_packets,
        &record.tx_bytes,
        &record.last_data_secs,
        &record.last_udp_rx_secs,
        &live.active,
        &live.last_rx_ms,
        &live.confirmed_ms,
    ]
    .map(|value| value.get())
}

/// Whether a frame went to a socket, as it was.
fn is_handed_over(bed: &mut Bed, program: &str, frame: &[u8]) -> Result<bool> {
    let ran = bed.xdp(program, frame)?;
    assert_eq!(ran.packet, frame);
    assert!(!ran.marked);
    assert!([PASS, XDP_REDIRECT].contains(&ran.verdict));
    Ok(ran.verdict == XDP_REDIRECT)
}

#[test]
fn records_are_handed_over_and_nothing_is_noted_of_them() {
    alone(|| {
        for flow in [FLOW4, FLOW6] {
            let (mut bed, _socket) = bed(flow)?;
            let mut client = Client::new(1);
            let before = state(&bed);
            let mut count = 0;
            for len in (30..=1500).step_by(147) {
                let sequence = client.sequence;
                let frame = client.frame(flow, &bare(FROM_CLIENT.0, FROM_CLIENT.1, len));
                // A replay is for him to find who opens it.
                for _ in 0..2 {
                    assert!(is_handed_over(&mut bed, "xdp_rx", &frame)?, "{len}");
                    count += 1;
                }
                let window = bed.record().channels[0].window();
                assert!(window.would_accept(sequence));
            }
            assert_eq!(state(&bed), before);
            assert_eq!(bed.count(Counted::RxSocket), count);
            assert_eq!(bed.count(Counted::RxPackets), 0);
            // Nothing is authentic yet.
            assert_eq!(bed.record().channels[0].live.ifindex.get(), 0);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn records_are_handed_over_whatever_is_in_headers_that_user_space_drops() {
    alone(|| {
        let (mut bed, _socket) = bed(FLOW4)?;
        let packet = inner(FROM_CLIENT.0, FROM_CLIENT.1, 60);
        let frame = Client::new(1).frame(FLOW4, &packet);
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert!(is_handed_over(&mut bed, "xdp_rx", &tagged)?);
        let mut open = frame;
        let (peer, local) = ("192.0.2.77".parse()?, "198.51.100.1".parse()?);
        let sum = !checksum(&pseudo_header(peer, local, 17, (open.len() - 34) as u16));
        open[40..42].copy_from_slice(&sum.to_be_bytes());
        assert!(is_handed_over(&mut bed, "xdp_rx", &open)?);
        assert_eq!(bed.record().rx_pace.bulk_ms.get(), 0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_is_no_data_of_a_session_goes_to_the_stack() {
    alone(|| {
        let (mut bed, socket) = bed(FLOW4)?;
        let packet = inner(FROM_CLIENT.0, FROM_CLIENT.1, 60);
        let data = Client::new(1).frame(FLOW4, &packet);
        let changed = |at: usize, byte: u8| {
            let mut frame = data.clone();
            frame[at] = byte;
            frame
        };
        let frames = [
            ("another flow", changed(35, 9)),
            ("handshake", changed(RECORD, 22)),
            ("alert", changed(RECORD, 21)),
            ("epoch 0", changed(RECORD + 4, 0)),
            ("epoch 2", changed(RECORD + 4, 2)),
            ("DNS", changed(RECORD, 0)),
        ];
        for (why, frame) in &frames {
            assert!(!is_handed_over(&mut bed, "xdp_rx", frame)?, "{why}");
        }
        assert_eq!(bed.record().rx_pace.bulk_ms.get(), 0);
        assert!(is_handed_over(&mut bed, "xdp_rx", &data)?);
        bed.kernel.forget_sockets(INGRESS);
        assert!(!is_handed_over(&mut bed, "xdp_rx", &data)?, "no socket");
        bed.kernel.add_socket(INGRESS, QUEUE, &socket.fd)?;
        assert!(is_handed_over(&mut bed, "xdp_rx", &data)?);
        bed.record().channels[0].start(2, 1, 1, 1, 1);
        assert!(
            !is_handed_over(&mut bed, "xdp_rx", &data)?,
            "keys that are not here yet"
        );
        drop(socket);
        bed.install(0, 1, FLOW4)?;
        assert!(!is_handed_over(&mut bed, "xdp_rx", &data)?, "closed");
        assert_eq!(bed.count(Counted::RxSocket), 2);
        Ok(())
    })
    .unwrap();
}

#[test]
fn no_record_overtakes_what_the_stack_has() {
    alone(|| {
        let (mut bed, _socket) = bed(FLOW4)?;
        let packet = inner(FROM_CLIENT.0, FROM_CLIENT.1, 60);
        let mut client = Client::new(1);
        let data = client.frame(FLOW4, &packet);
        let mut fragment = data.clone();
        fragment[20] = 0x20;
        let longest = MAX_SOCKET_FRAME as usize - RECORD - 30;
        let longer = client.frame(FLOW4, &inner(FROM_CLIENT.0, FROM_CLIENT.1, longest + 1));
        for (frame, counted) in [(fragment, Counted::UpForm), (longer, Counted::UpBulk)] {
            assert!(is_handed_over(&mut bed, "xdp_rx", &data)?);
            let before = bed.count(counted);
            assert!(!is_handed_over(&mut bed, "xdp_rx", &frame)?);
            assert_eq!(bed.count(counted), before + 1);
            assert_ne!(bed.record().rx_pace.bulk_ms.get(), 0);
            // As if it had come at this moment, whatever time the test takes.
            bed.record().rx_pace.bulk_ms.set(now_ms() + 1000);
            let behind = bed.count(Counted::UpBulk);
            assert!(!is_handed_over(&mut bed, "xdp_rx", &data)?);
            assert_eq!(bed.count(Counted::UpBulk), behind + 1);
            bed.record().rx_pace.bulk_ms.set(now_ms() - PAST);
        }
        let long = client.frame(FLOW4, &inner(FROM_CLIENT.0, FROM_CLIENT.1, longest));
        assert!(is_handed_over(&mut bed, "xdp_rx", &long)?, "it just fits");
        Ok(())
    })
    .unwrap();
}

#[test]
fn packets_of_the_lan_are_handed_over_and_nothing_is_noted_of_them() {
    alone(|| {
        let (mut bed, _socket) = bed(FLOW4)?;
        let before = state(&bed);
        let mut count = 0;
        for len in (40..=1500).step_by(146) {
            for packet in [
                bare(TO_CLIENT.0, TO_CLIENT.1, len),
                bare("fd00:20::2", "fd00::5", len),
            ] {
                let frame = lan_frame(&packet);
                assert!(is_handed_over(&mut bed, "xdp_tx", &frame)?, "{len}");
                count += 1;
            }
        }
        assert_eq!(bed.count(Counted::TxSocket), count);
        assert_eq!(state(&bed), before);
        assert_eq!(bed.record().channels[0].take_tx_seq(1), Some(1));
        Ok(())
    })
    .unwrap();
}

/// A part of a packet.
fn fragment(from: &str, to: &str) -> Vec<u8> {
    let mut packet = bare(from, to, 100);
    if packet[0] >> 4 == 4 {
        packet[6..8].copy_from_slice(&[0x20, 0]);
    } else {
        packet[6] = 44;
        packet[40..48].copy_from_slice(&[58, 0, 0, 1, 0, 0, 0, 7]);
    }
    packet
}

#[test]
fn other_packets_of_the_lan_go_to_the_stack() {
    alone(|| {
        let (mut bed, _socket) = bed(FLOW4)?;
        let (from, to) = TO_CLIENT;
        let small = inner(from, to, 60);
        let mut open = small.clone();
        let sum = !checksum(&pseudo_header(from.parse()?, to.parse()?, 17, 40));
        open[26..28].copy_from_slice(&sum.to_be_bytes());
        let gre = ip(from.parse()?, to.parse()?, 47, &[0; 40], 0);
        let mut other_host = lan_frame(&small);
        other_host[5] ^= 1;
        let mut tagged = lan_frame(&small);
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        bed.kernel.set_mtu(crate::bed::SLOT, 300);
        // Whether the packets behind it may be others of its flow, which must not overtake it.
        let frames = [
            ("too long", lan_frame(&inner(from, to, 301)), true),
            ("options", lan_frame(&with_options(from, to)), true),
            (
                "hop-by-hop",
                lan_frame(&with_hop_by_hop("fd00:20::2", "fd00::5")),
                true,
            ),
            ("fragment", lan_frame(&fragment(from, to)), true),
            (
                "fragment",
                lan_frame(&fragment("fd00:20::2", "fd00::5")),
                true,
            ),
            ("open checksum", lan_frame(&open), true),
            ("GRE", lan_frame(&gre), false),
            (
                "last hop",
                lan_frame(&at_its_last_hop(small.clone(), 1)),
                false,
            ),
            ("another host's", other_host, false),
            ("VLAN", tagged, false),
            ("no client", lan_frame(&inner(from, "10.9.0.6", 60)), false),
        ];
        let longest = lan_frame(&inner(from, to, 300));
        for (why, frame, holds) in &frames {
            assert!(!is_handed_over(&mut bed, "xdp_tx", frame)?, "{why}");
            let held = &bed.record().tx_pace.bulk_ms;
            assert_eq!(held.get() != 0, *holds, "{why}");
            if *holds {
                held.set(now_ms() + 1000);
                assert!(!is_handed_over(&mut bed, "xdp_tx", &longest)?, "{why}");
            }
            bed.record().tx_pace.bulk_ms.set(0);
            assert!(is_handed_over(&mut bed, "xdp_tx", &longest)?, "{why}");
        }
        let counted = [Counted::UpBulk, Counted::UpForm].map(|what| bed.count(what));
        assert_eq!(counted, [1 + 6, 5 + 2], "no other program counts them");
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_the_stack_has_is_left_to_user_space() {
    alone(|| {
        let (mut bed, _socket) = bed(FLOW4)?;
        let merged = SkbFields {
            gso_size: 100,
            ..FORWARDED
        };
        for len in [60, 1500] {
            let packet = inner(TO_CLIENT.0, TO_CLIENT.1, len);
            for skb in [FORWARDED, merged] {
                assert!(seal::is_left(&bed.tc_with("tc_tx", &packet, skb)?, &packet));
            }
        }
        assert_eq!(bed.record().tx_pace.bulk_ms.get(), 0, "nobody is held");
        let mut client = Client::new(1);
        let frame = client.frame(FLOW4, &inner(FROM_CLIENT.0, FROM_CLIENT.1, 60));
        let ran = bed.tc("tc_rx", &frame)?;
        assert!(seal::is_left(&ran, &frame), "such a device has no sockets");
        Ok(())
    })
    .unwrap();
}

#[test]
fn each_queue_has_its_socket() {
    alone(|| {
        ip_lines("link add many numrxqueues 65 numtxqueues 65 type veth peer name many-end")?;
        ip_lines("link set many-end up\nlink set many up\n")?;
        let many = (ifindex("many")?, "many");
        let (mut bed, socket) = bed(FLOW4)?;
        bed.kernel.attach(many, DeviceRole::Wan, &[Mode::Native])?;
        let (many, last) = (many.0, SOCKET_QUEUES - 1);
        bed.kernel.add_socket(many, last, &socket.fd)?;
        assert!(bed.kernel.add_socket(many, last + 1, &socket.fd).is_err());
        let packet = inner(FROM_CLIENT.0, FROM_CLIENT.1, 60);
        let frame = Client::new(1).frame(FLOW4, &packet);
        for (queue, verdict) in [(last, XDP_REDIRECT), (0, PASS), (last + 1, PASS)] {
            let ran = bed.xdp_by("xdp_rx", &frame, many, queue)?;
            assert_eq!(ran.verdict, verdict, "{queue}");
        }
        bed.kernel.detach(many);
        assert!(
            is_handed_over(&mut bed, "xdp_rx", &frame)?,
            "another device's"
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn sixteen_devices_have_sockets() {
    alone(|| {
        let (mut bed, socket) = bed(FLOW4)?;
        let first = 100;
        for device in first..first + SOCKET_DEVICES - 1 {
            bed.kernel.add_socket(device, 5, &socket.fd)?;
        }
        assert!(bed.kernel.add_socket(99, 0, &socket.fd).is_err());
        bed.kernel.add_socket(first, 6, &socket.fd)?;
        bed.kernel.detach(first);
        bed.kernel.add_socket(99, 0, &socket.fd)?;
        Ok(())
    })
    .unwrap();
}

/// Asks how a packet goes on: by which device, and with which addresses.
fn ask(bed: &mut Bed, question: RouteFrame) -> Result<Option<(u32, Vec<u8>)>> {
    let ran = bed.xdp("xdp_route", &question.to_bytes())?;
    assert_eq!(ran.verdict, DROP, "a live run injects nothing");
    let bytes = ran.packet.as_slice().try_into().context("another length")?;
    let answer = RouteFrame::from_bytes(bytes);
    let (found, egress, macs) = (answer.found, answer.egress, answer.macs);
    let unanswered = RouteFrame {
        found: question.found,
        egress: question.egress,
        macs: question.macs,
        ..answer
    };
    assert_eq!(unanswered, question);
    if found == 0 {
        assert_eq!((egress, macs), (0, [0; 12]));
    }
    Ok((found == 1).then(|| (egress, macs.to_vec())))
}

fn question(from: &str, to: &str, ifindex: u32) -> Result<RouteFrame> {
    Ok(RouteFrame {
        source: address(from.parse()?),
        destination: address(to.parse()?),
        ifindex,
        len: 100,
        protocol: 17,
        // To be overwritten.
        found: 7,
        egress: 7,
        macs: [7; 12],
        ..RouteFrame::EMPTY
    })
}

#[test]
fn the_way_of_an_inner_packet_is_told() {
    alone(|| {
        let (mut bed, _socket) = bed(FLOW4)?;
        assert!(bed.kernel.route_program().is_ok());
        let (tun, lan) = (ifindex("tun0")?, ifindex("lan")?);
        let to_host = Some((lan, [HOST_MAC, LAN_MAC].concat()));
        for (from, to, expected) in [
            ("10.9.0.5", "10.20.0.2", &to_host),
            ("fd00::5", "fd00:20::2", &to_host),
            // No neighbour.
            ("10.9.0.5", "10.20.0.3", &None),
            ("fd00::5", "fd00:20::3", &None),
            // No route.
            ("10.9.0.5", "203.0.113.9", &None),
            // This host.
            ("10.9.0.5", "10.20.0.1", &None),
            // By a device that is not of the LAN.
            ("10.9.0.5", "192.0.2.77", &None),
            ("fd00::5", "2001:db8::77", &None),
        ] {
            let question = question(from, to, tun)?;
            assert_eq!(ask(&mut bed, question)?, *expected, "{to}");
        }
        let mut long = question("10.9.0.5", "10.20.0.2", tun)?;
        for (len, expected) in [(1500, &to_host), (1501, &None)] {
            long.len = len;
            assert_eq!(ask(&mut bed, long)?, *expected, "{len}");
        }
        let cut_off = &long.to_bytes()[..RouteFrame::LEN - 1];
        let ran = bed.xdp("xdp_route", cut_off)?;
        assert!(ran.verdict == DROP && ran.packet == cut_off);
        // A rule for one TOS and port alone.
        ip_lines("rule add from 10.9.0.5 tos 0x10 dport 53 blackhole")?;
        let mut marked = question("10.9.0.5", "10.20.0.2", tun)?;
        marked.tos = 0x10;
        assert_eq!(ask(&mut bed, marked)?, to_host);
        marked.destination_port = 53_u16.to_be_bytes();
        assert_eq!(ask(&mut bed, marked)?, None);
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_way_to_a_client_is_told() {
    alone(|| {
        let (mut bed, _socket) = bed(FLOW4)?;
        let wan = ifindex("wan")?;
        let to_router = Some((wan, [ROUTER_MAC, WAN_MAC].concat()));
        for (from, to, ifindex, expected) in [
            ("198.51.100.1", "192.0.2.77", wan, &to_router),
            ("2001:db8::1", "2001:db8::77", wan, &to_router),
            ("198.51.100.1", "198.51.100.7", wan, &None),
            ("198.51.100.1", "192.0.2.77", ifindex("tun0")?, &None),
        ] {
            let question = RouteFrame {
                is_output: 1,
                ..question(from, to, ifindex)?
            };
            assert_eq!(ask(&mut bed, question)?, *expected, "{to}");
        }
        bed.kernel.detach(wan);
        let question = RouteFrame {
            is_output: 1,
            ..question("198.51.100.1", "192.0.2.77", wan)?
        };
        assert_eq!(ask(&mut bed, question)?, None, "nobody may send by it");
        Ok(())
    })
    .unwrap();
}

#[test]
fn routes_are_for_those_who_have_sockets() {
    alone(|| {
        let bed = direct::bed(FLOW4)?;
        assert!(bed.kernel.route_program().is_err());
        Ok(())
    })
    .unwrap();
}
