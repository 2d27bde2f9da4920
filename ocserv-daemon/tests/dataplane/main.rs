//! The dataplane as a process of its own, in a network of its own: real sockets, a real tun device,
//! the real sandbox; this program plays supervisor, gate, client and LAN. Needs root.
//!
//! There is no test harness, since this program also executes itself as the dataplane.

mod bed;
mod packets;
mod past_sockets;
mod super_packets;

use std::net::{SocketAddr, UdpSocket};

use bed::{APP_ID, Bed, CLIENT_IP, Link, client_socket, in_own_network};
use ocserv_common::session::DropReason;
use ocserv_daemon::ipc::dataplane::FromDataplane;
use ocserv_daemon::ipc::ids::{GateId, Slot};
use ocserv_daemon::ipc::packet::Frame;
use ocserv_proto::cstp::PacketType;
use packets::{client_hello, udp_packet};

fn main() {
    if std::env::var_os(bed::CHILD).is_some() {
        if let Err(error) = bed::run_dataplane() {
            eprintln!("dataplane: {error:#}");
            std::process::exit(1);
        }
        return;
    }
    let tests: [(&str, fn()); 17] = [
        ("packets_pass_both_ways", packets_pass_both_ways),
        (
            "forged_replayed_and_foreign_packets_are_counted",
            bad_packets_are_counted,
        ),
        (
            "a_channel_moves_only_by_an_authentic_record",
            a_channel_moves,
        ),
        (
            "counters_and_windows_survive_a_kill",
            counters_survive_a_kill,
        ),
        (
            "handshakes_go_through_the_gate",
            handshakes_go_through_the_gate,
        ),
        (
            "a_handshake_by_a_socket_of_all_threads_is_whole",
            a_handshake_by_a_shared_socket_is_whole,
        ),
        (
            "a_gate_speaks_for_its_own_sessions",
            a_gate_speaks_for_its_own,
        ),
        ("cstp_and_dtls_take_turns", cstp_and_dtls_take_turns),
        (
            "a_record_too_long_for_the_path_goes_by_cstp",
            a_narrow_path_is_passed_by_cstp,
        ),
        ("a_packet_too_big_is_reported", a_packet_too_big_is_reported),
        (
            "a_datagram_is_opened_up_to_the_first_failure",
            opened_up_to_the_first_failure,
        ),
        (
            "keys_are_for_a_flow_of_the_client_only",
            keys_are_for_a_flow_of_the_client,
        ),
        (
            "hellos_without_random_bytes_are_counted",
            zero_random_is_counted,
        ),
        (
            "merged_requests_are_all_answered",
            merged_requests_are_answered,
        ),
        (
            "no_segment_of_a_super_packet_waits_for_the_next_packet",
            super_packets::no_segment_waits_for_the_next_packet,
        ),
        (
            "sockets_past_the_stack_are_served_until_they_are_gone",
            past_sockets::are_served_until_they_are_gone,
        ),
        (
            "sockets_of_other_kinds_are_refused",
            past_sockets::of_other_kinds_are_refused,
        ),
    ];
    let wanted = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let chosen = tests.iter().filter(|(name, _)| {
        wanted
            .as_ref()
            .is_none_or(|wanted| name.contains(wanted.as_str()))
    });
    let mut failed = 0;
    for (name, test) in chosen {
        let passed = in_own_network(*test);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += i32::from(!passed);
    }
    std::process::exit(failed.min(1));
}

fn packets_pass_both_ways() {
    let bed = Bed::start();
    let lan = bed.lan();
    let mut client = bed.open_session(0);

    client.send_data(&udp_packet(
        CLIENT_IP,
        lan.local_addr().unwrap(),
        b"question",
    ));
    let (text, from) = receive(&lan);
    assert_eq!((text.as_slice(), from.ip()), (&b"question"[..], CLIENT_IP));

    lan.send_to(b"answer", from).unwrap();
    let (kind, packet) = client.receive();
    assert_eq!(kind, PacketType::Data);
    assert!(packet.ends_with(b"answer"));

    client.send(PacketType::DpdRequest, &[0x5a; 1000]);
    assert_eq!(
        client.receive(),
        (PacketType::DpdResponse, vec![0x5a; 1000])
    );

    let shared = &bed.shared[0];
    assert_eq!((shared.rx_packets.get(), shared.rx_bytes.get()), (1, 36));
    assert_eq!((shared.tx_packets.get(), shared.tx_bytes.get()), (1, 34));
    assert!(shared.last_data_secs.get() > 0);

    let status = bed.status();
    for line in [
        "Uid:\t65534\t",
        "CapEff:\t0000000000000000",
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
}

fn bad_packets_are_counted() {
    let bed = Bed::start();
    let lan = bed.lan();
    let target = lan.local_addr().unwrap();
    let mut client = bed.open_session(0);

    client.send_data(&udp_packet(
        "10.9.0.77".parse().unwrap(),
        target,
        b"wrong source",
    ));
    let good = client.seal(PacketType::Data, &udp_packet(CLIENT_IP, target, b"good"));
    client.send_raw(&good);
    client.send_raw(&good);
    let mut forged = client.seal(PacketType::Data, &udp_packet(CLIENT_IP, target, b"forged"));
    forged[30] ^= 1;
    client.send_raw(&forged);
    client.send_data(b"not a packet");
    client.next_sequence = 5000;
    client.send_data(&udp_packet(CLIENT_IP, target, b"last"));

    assert_eq!(receive(&lan).0, b"good");
    assert_eq!(receive(&lan).0, b"last", "nothing came between");
    let drops = |reason| bed.shared[0].drops(reason);
    assert_eq!(drops(DropReason::Source), 1);
    assert_eq!(drops(DropReason::Replay), 1);
    assert_eq!(drops(DropReason::Auth), 1);
    assert_eq!(drops(DropReason::Malformed), 1);
    assert_eq!(bed.shared[0].rx_packets.get(), 2);
}

fn a_channel_moves() {
    let bed = Bed::start();
    let lan = bed.lan();
    let target = lan.local_addr().unwrap();
    let mut client = bed.open_session(0);
    client.send_data(&udp_packet(CLIENT_IP, target, b"one"));
    let (_, inner) = receive(&lan);

    // Somebody else behind the same address, without the key.
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut forged = client.seal(PacketType::Data, &udp_packet(CLIENT_IP, target, b"no"));
    forged[30] ^= 1;
    stranger.send_to(&forged, bed.server).unwrap();

    let old = client.rebind();
    client.send_data(&udp_packet(CLIENT_IP, target, b"two"));
    assert_eq!(receive(&lan).0, b"two");
    let FromDataplane::PeerMoved {
        slot, peer, local, ..
    } = bed.hear()
    else {
        panic!("something else than a move");
    };
    assert_eq!(
        (slot, peer, local),
        (Slot(0), client.socket.local_addr().unwrap(), bed.server)
    );

    lan.send_to(b"to the new place", inner).unwrap();
    assert!(client.receive().1.ends_with(b"to the new place"));
    old.set_nonblocking(true).unwrap();
    assert!(old.recv(&mut [0; 10]).is_err(), "nothing at the old place");
}

fn counters_survive_a_kill() {
    let mut bed = Bed::start();
    let lan = bed.lan();
    let target = lan.local_addr().unwrap();
    let mut client = bed.open_session(0);
    let first = client.seal(PacketType::Data, &udp_packet(CLIENT_IP, target, b"before"));
    client.send_raw(&first);
    let (_, inner) = receive(&lan);
    lan.send_to(b"answer", inner).unwrap();
    client.receive();
    let last_seen = client.last_received.unwrap();

    bed.kill();
    bed.spawn();
    bed.add_session(0, GateId(1));
    bed.add_keys(0, &client, 1);

    client.send_raw(&first);
    client.send_data(&udp_packet(CLIENT_IP, target, b"after"));
    assert_eq!(
        receive(&lan).0,
        b"after",
        "the replayed record is not delivered"
    );
    assert_eq!(bed.shared[0].drops(DropReason::Replay), 1);
    lan.send_to(b"answer", inner).unwrap();
    client.receive();
    assert!(
        client.last_received.unwrap() > last_seen,
        "no sequence number comes again"
    );
}

fn handshakes_go_through_the_gate() {
    let bed = Bed::start();
    let gate = bed.add_gate(GateId(1));
    let client = client_socket();
    let hello = client_hello(&APP_ID);
    // It overtakes the news of its session.
    client.send_to(&hello, bed.server).unwrap();
    bed.add_session(0, GateId(1));
    assert!(gate.receive().ends_with(&hello));
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = client.local_addr().unwrap();
    let unknown = client_hello(&[9; 32]);
    client.send_to(&unknown, bed.server).unwrap();
    client.send_to(&hello, bed.server).unwrap();
    let heard = gate.receive();
    let expected = Frame::Datagram {
        slot: Slot(0),
        peer,
        local: bed.server,
        bytes: &hello,
    };
    assert_eq!(Frame::parse(&heard), Some(expected));
    // A later flight names nobody: its flow does.
    let mut flight = hello.clone();
    flight[13] = 16;
    client.send_to(&flight, bed.server).unwrap();
    assert!(gate.receive().ends_with(&flight));

    let to = |peer: SocketAddr, bytes| Frame::Datagram {
        slot: Slot(0),
        peer,
        local: bed.server,
        bytes,
    };
    gate.send(&to(stranger.local_addr().unwrap(), b"to somebody else"));
    gate.send(&to(peer, b"server hello"));
    let (text, from) = receive(&client);
    assert_eq!((text.as_slice(), from), (&b"server hello"[..], bed.server));
    stranger.set_nonblocking(true).unwrap();
    assert!(
        stranger.recv(&mut [0; 10]).is_err(),
        "a gate sends to its clients only"
    );
}

/// Only the thread that had the ClientHello knows whose flow it is.
fn a_handshake_by_a_shared_socket_is_whole() {
    let bed = Bed::with_one_socket();
    let gate = bed.add_gate(GateId(1));
    for slot in 0..8 {
        bed.add_session(slot, GateId(1));
        let client = client_socket();
        let hello = client_hello(&bed::app_id(slot));
        client.send_to(&hello, bed.server).unwrap();
        assert!(gate.receive().ends_with(&hello));
        let flight = |number: u8| {
            let mut flight = hello.clone();
            (flight[13], flight[20]) = (16, number);
            flight
        };
        // All threads are woken for more than one of them can take at once.
        bed.meanwhile(|| {
            for number in 0..40 {
                client.send_to(&flight(number), bed.server).unwrap();
            }
        });
        for number in 0..40 {
            assert!(gate.receive().ends_with(&flight(number)));
        }
        gate.send(&Frame::Datagram {
            slot: Slot(slot),
            peer: client.local_addr().unwrap(),
            local: bed.server,
            bytes: b"server hello",
        });
        assert_eq!(receive(&client).0, b"server hello");
    }
}

fn a_gate_speaks_for_its_own() {
    let bed = Bed::start();
    let lan = bed.lan();
    let target = lan.local_addr().unwrap();
    let own = bed.add_gate(GateId(3));
    let other = bed.add_gate(GateId(5));
    bed.add_session(0, GateId(3));
    let foreign = udp_packet(CLIENT_IP, target, b"foreign");
    let wrong = udp_packet("10.9.0.9".parse().unwrap(), target, b"wrong");
    let good = udp_packet(CLIENT_IP, target, b"good");
    bed.add_session(1, GateId(5));
    bed.open_session(7);
    let others = udp_packet("10.9.0.3".parse().unwrap(), target, b"its own");
    other.send_raw(&[0xff; 20]);
    other.send(&Frame::Packet {
        slot: Slot(0),
        packet: &foreign,
    });
    other.send(&Frame::Packet {
        slot: Slot(1),
        packet: &others,
    });
    assert_eq!(
        receive(&lan).0,
        b"its own",
        "the frames before it were refused"
    );
    own.send(&Frame::Packet {
        slot: Slot(0),
        packet: &wrong,
    });
    own.send(&Frame::Packet {
        slot: Slot(0),
        packet: &good,
    });
    assert_eq!(receive(&lan).0, b"good");
    assert_eq!(bed.shared[0].drops(DropReason::Source), 1);
    assert_eq!(bed.shared[0].rx_packets.get(), 1);
}

fn cstp_and_dtls_take_turns() {
    let bed = Bed::start();
    let lan = bed.lan();
    let target = lan.local_addr().unwrap();
    let gate = bed.add_gate(GateId(1));
    let mut client = bed.open_session_of(&gate, 0);
    let packet = |text: &[u8]| udp_packet(CLIENT_IP, target, text);

    client.send_data(&packet(b"by DTLS"));
    let (_, inner) = receive(&lan);
    gate.send(&Frame::Packet {
        slot: Slot(0),
        packet: &packet(b"by CSTP"),
    });
    assert_eq!(receive(&lan).0, b"by CSTP");
    lan.send_to(b"one", inner).unwrap();
    by_cstp(&gate, b"one");

    client.send_data(&packet(b"by DTLS again"));
    assert_eq!(receive(&lan).0, b"by DTLS again");
    lan.send_to(b"two", inner).unwrap();
    assert!(client.receive().1.ends_with(b"two"));

    client.send_close_notify();
    bed::eventually("the channel is closed", || {
        lan.send_to(b"three", inner).unwrap();
        gate.has_frame()
    });
    by_cstp(&gate, b"three");
    let FromDataplane::ChannelEnded {
        slot,
        channel,
        generation,
    } = bed.hear()
    else {
        panic!("something else than the channel's end");
    };
    assert_eq!((slot, channel, generation), (Slot(0), 0, 1));
}

fn by_cstp(gate: &Link, text: &[u8]) {
    let frame = gate.receive();
    match Frame::parse(&frame) {
        Some(Frame::Packet {
            slot: Slot(0),
            packet,
        }) => assert!(packet.ends_with(text)),
        other => panic!("{other:?}"),
    }
}

fn a_packet_too_big_is_reported() {
    let bed = Bed::start();
    let mut client = bed.open_session(0);
    let lan = bed.lan();
    client.send_data(&udp_packet(CLIENT_IP, lan.local_addr().unwrap(), b"x"));
    let (_, inner) = receive(&lan);
    lan.connect(inner).unwrap();
    assert_eq!(bed::path_mtu(&lan), 1500);
    lan.send(&[7; 1450]).unwrap();
    bed::eventually("the path MTU is known", || bed::path_mtu(&lan) == 1400);
    assert_eq!(bed.shared[0].drops(DropReason::TooBig), 1);
}

fn a_narrow_path_is_passed_by_cstp() {
    bed::ip("link set lo mtu 1280");
    let bed = Bed::with_discovery(true);
    let lan = bed.lan();
    let gate = bed.add_gate(GateId(1));
    let mut client = bed.open_session_of(&gate, 0);
    client.send_data(&udp_packet(CLIENT_IP, lan.local_addr().unwrap(), b"x"));
    let (_, inner) = receive(&lan);
    lan.send_to(&[7; 1300], inner).unwrap();
    by_cstp(&gate, &[7; 1300]);
    lan.send_to(b"short", inner).unwrap();
    assert!(
        client.receive().1.ends_with(b"short"),
        "the others still go by DTLS"
    );
    // A probe whose answer does not fit is answered with one byte.
    client.send(PacketType::DpdRequest, &[0x5a; 1390]);
    assert_eq!(client.receive(), (PacketType::DpdResponse, vec![0]));
}

fn opened_up_to_the_first_failure() {
    let bed = Bed::start();
    let lan = bed.lan();
    let target = lan.local_addr().unwrap();
    let mut client = bed.open_session(0);
    let mut record = |text: &[u8]| {
        let packet = udp_packet(CLIENT_IP, target, text);
        let good = client.seal(PacketType::Data, &packet);
        let mut forged = client.seal(PacketType::Data, &packet);
        forged[30] ^= 1;
        (good, forged)
    };
    let (one, forged) = record(b"one");
    let (two, _) = record(b"two");
    let (behind, _) = record(b"behind a forged one");
    let (elsewhere, _) = record(b"behind a forged one, from elsewhere");
    let (three, _) = record(b"three");
    let (moved, _) = record(b"moved");
    let (also_moved, _) = record(b"also moved");
    client.send_raw(&[one, two, forged.clone(), behind].concat());
    client.send_raw(&three);
    assert_eq!(receive(&lan).0, b"one");
    assert_eq!(receive(&lan).0, b"two");
    assert_eq!(receive(&lan).0, b"three");
    assert_eq!(bed.shared[0].drops(DropReason::Auth), 1);

    client.rebind();
    client.send_raw(&[forged, elsewhere].concat());
    client.send_raw(&[moved, also_moved].concat());
    assert_eq!(receive(&lan).0, b"moved");
    assert_eq!(receive(&lan).0, b"also moved");
}

fn keys_are_for_a_flow_of_the_client() {
    let bed = Bed::start();
    let gate = bed.add_gate(GateId(1));
    let victim = client_socket();
    bed.add_session(0, GateId(1));
    bed.offer_keys(0, 1, victim.local_addr().unwrap(), 1);
    let client = client_socket();
    client.send_to(&client_hello(&APP_ID), bed.server).unwrap();
    gate.receive();
    bed.offer_keys(0, 0, client.local_addr().unwrap(), 2);
    assert!(matches!(
        bed.hear(),
        FromDataplane::KeysInstalled { slot: Slot(0) }
    ));

    for socket in [&victim, &client] {
        gate.send(&Frame::Datagram {
            slot: Slot(0),
            peer: socket.local_addr().unwrap(),
            local: bed.server,
            bytes: b"last flight",
        });
    }
    assert_eq!(receive(&client).0, b"last flight");
    victim.set_nonblocking(true).unwrap();
    assert!(victim.recv(&mut [0; 20]).is_err(), "it is no client");
    assert_eq!(bed.log().matches("without a handshake: refused").count(), 1);
}

fn zero_random_is_counted() {
    const HELLOS: usize = 20;
    let bed = Bed::start();
    bed.add_session(0, GateId(1));
    let stranger = client_socket();
    let mut hello = client_hello(&APP_ID);
    // After the headers of record and message, and the version.
    hello[13 + 12 + 2..][..32].fill(0);
    for _ in 0..HELLOS {
        stranger.send_to(&hello, bed.server).unwrap();
    }
    bed::eventually("all are counted", || {
        bed.log().contains(&format!("zero_random: {HELLOS}"))
    });
    let peer = stranger.local_addr().unwrap().to_string();
    assert!(!bed.log().contains(&peer), "no line for each");
}

/// Waits for one datagram; the sockets have a deadline.
fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer).expect("no datagram in time");
    (buffer[..len].to_vec(), from)
}

/// More of them come at once than answers have room.
fn merged_requests_are_answered() {
    let bed = Bed::start();
    let mut client = bed.open_session(0);
    let requests: Vec<_> = (0..192)
        .map(|number| client.seal(PacketType::DpdRequest, &[number; 10]))
        .collect();
    bed.meanwhile(|| {
        requests
            .chunks(64)
            .for_each(|some| client.send_merged(some))
    });
    for number in 0..192 {
        assert_eq!(
            client.receive(),
            (PacketType::DpdResponse, vec![number; 10])
        );
    }
}
