//! Source addresses of inner packets, and their congestion marks.

use ocserv_common::kernel::Counted;
use ocserv_common::session::DropReason;
use ocserv_daemon::ipc::dataplane::SessionParams;
use ocserv_daemon::ipc::ids::Slot;

use crate::bed::{Bed, DROP, FLOW4, FLOW6, SLOT, TC_NEXT, TC_REDIRECT, keys, params};
use crate::net::alone;
use crate::open::{is_delivered, is_left};
use crate::packets::{Client, bare, checksum, ethernet, inner, ip};
use crate::seal::bed_towards;

fn bed(change: impl FnOnce(&mut SessionParams)) -> Bed {
    let mut bed = Bed::new().unwrap();
    let mut session = params();
    change(&mut session);
    bed.install_for(&session, 0, 1, FLOW4, &keys(1)).unwrap();
    bed
}

/// From everywhere, to somewhere of the same family.
fn packet(from: &str) -> Vec<u8> {
    let to = if from.contains(':') {
        "fd00:20::2"
    } else {
        "10.20.0.2"
    };
    inner(from, to, 60)
}

#[test]
fn a_foreign_source_is_dropped() {
    let mut bed = bed(|_| {});
    let mut client = Client::new(1);
    let foreign = [
        "10.9.0.6",
        "0.0.0.0",
        "10.9.0.4",
        "fd00::6",
        "::",
        "::ffff:10.9.0.5",
    ];
    for from in foreign {
        let bytes = client.frame(FLOW4, &packet(from));
        assert_eq!(bed.xdp("xdp_rx", &bytes).unwrap().verdict, DROP, "{from}");
        assert_eq!(bed.xdp("xdp_rx", &bytes).unwrap().verdict, DROP, "{from}");
    }
    let each = foreign.len() as u64;
    assert_eq!(bed.count(Counted::DropSource), each);
    assert_eq!(bed.record().drops(DropReason::Source), each);
    assert_eq!(bed.count(Counted::DropReplay), each, "the same once more");
    assert_eq!(bed.record().rx_packets.get(), 0);
}

#[test]
fn a_family_without_a_lease_has_no_source() {
    let mut bed = bed(|session| session.ipv6 = None);
    let mut client = Client::new(1);
    for from in ["fd00::5", "::"] {
        let bytes = client.frame(FLOW4, &packet(from));
        assert_eq!(bed.xdp("xdp_rx", &bytes).unwrap().verdict, DROP);
    }
    let mut bed = self::bed(|session| session.ipv4 = None);
    for from in ["10.9.0.5", "0.0.0.0"] {
        let bytes = client.frame(FLOW4, &packet(from));
        assert_eq!(bed.xdp("xdp_rx", &bytes).unwrap().verdict, DROP);
    }
}

#[test]
fn addresses_of_an_ipv6_subnet_are_the_session_s() {
    for (len, inside, outside) in [
        (120, "fd00::ff", "fd00::100"),
        (64, "fd00::1:2:3:4", "fd00:0:0:1::5"),
        (65, "fd00::7fff:0:0:0", "fd00::8000:0:0:5"),
        (127, "fd00::4", "fd00::6"),
        (48, "fd00:0:0:ffff::1", "fd00:0:1::5"),
    ] {
        let mut bed = bed(|session| session.ipv6 = Some(("fd00::5".parse().unwrap(), len)));
        let mut client = Client::new(1);
        let own = packet(inside);
        let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, &own)).unwrap();
        assert!(is_delivered(&ran, &own), "{inside}/{len}");
        let bytes = client.frame(FLOW4, &packet(outside));
        assert_eq!(
            bed.xdp("xdp_rx", &bytes).unwrap().verdict,
            DROP,
            "{outside}/{len}"
        );
    }
}

#[test]
fn networks_behind_the_client_are_sources_too() {
    let mut bed = bed(|session| {
        session.iroutes = vec![
            ("172.16.0.0".parse().unwrap(), 12),
            ("fd77::".parse().unwrap(), 32),
        ];
    });
    let mut client = Client::new(1);
    for from in ["10.9.0.5", "fd00::5", "172.16.0.1", "172.31.9.9", "fd77::1"] {
        let own = packet(from);
        let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, &own)).unwrap();
        assert!(is_delivered(&ran, &own), "{from}");
    }
    for from in ["10.9.0.6", "172.32.0.1", "fd78::1"] {
        let bytes = client.frame(FLOW4, &packet(from));
        assert!(
            is_left(&bed.xdp("xdp_rx", &bytes).unwrap(), &bytes),
            "{from}"
        );
        let window = bed.record().channels[0].window();
        assert!(window.would_accept(client.sequence - 1));
    }
    assert_eq!(bed.count(Counted::UpSession), 3);
    assert_eq!(bed.record().drops(DropReason::Source), 0);
}

/// An inner packet with these two bits of ECN.
fn with_ecn(is_ipv4: bool, ecn: u8) -> Vec<u8> {
    let (from, to) = match is_ipv4 {
        true => ("10.9.0.5", "10.20.0.2"),
        false => ("fd00::5", "fd00:20::2"),
    };
    let protocol = if is_ipv4 { 1 } else { 58 };
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    ip(from, to, protocol, &[0x11; 40], 0xb8 | ecn)
}

/// Sets the outer header's bits.
fn set_ecn(frame: &mut [u8], ecn: u8) {
    if frame[12] == 8 {
        frame[15] |= ecn;
    } else {
        frame[15] |= ecn << 4;
    }
}

#[test]
fn congestion_on_the_way_is_passed_on() {
    for flow in [FLOW4, FLOW6] {
        let mut bed = Bed::new().unwrap();
        bed.install(0, 1, flow).unwrap();
        let mut client = Client::new(1);
        for is_ipv4 in [true, false] {
            for (outer, inner) in (0..4).flat_map(|o| (0..4).map(move |i| (o, i))) {
                let mut bytes = client.frame(flow, &with_ecn(is_ipv4, inner));
                set_ecn(&mut bytes, outer);
                let ran = bed.xdp("xdp_rx", &bytes).unwrap();
                if (outer, inner) == (3, 0) {
                    assert_eq!(ran.verdict, DROP);
                    continue;
                }
                let shown = if outer == 3 { 3 } else { inner };
                assert!(
                    is_delivered(&ran, &with_ecn(is_ipv4, shown)),
                    "{outer} {inner}"
                );
                if is_ipv4 {
                    assert_eq!(checksum(&ran.packet[14..34]), 0);
                }
            }
        }
        assert_eq!(bed.count(Counted::DropMalformed), 2);
        assert_eq!(bed.record().drops(DropReason::Malformed), 2);
    }
}

#[test]
fn the_smallest_packets_are_whole() {
    let mut bed = bed(|_| {});
    let mut client = Client::new(1);
    for packet in [
        bare("10.9.0.5", "10.20.0.2", 20),
        bare("fd00::5", "fd00:20::2", 40),
    ] {
        let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, &packet)).unwrap();
        assert_eq!(ran.packet, ethernet(&packet));
    }
}

/// A packet to a session without keys in the kernel is not one to a network that contains it.
#[test]
fn packets_to_another_session_are_not_sealed_for_the_network_around_it() {
    alone(|| {
        let mut bed = bed_towards(FLOW4)?;
        bed.kernel.close_session(SLOT);
        let mut around = params();
        around.iroutes = vec![("10.0.0.0".parse()?, 8)];
        bed.install_for(&around, 0, 2, FLOW4, &keys(2))?;
        bed.hear(0);
        let mut other = params();
        other.slot = Slot(SLOT + 1);
        other.ipv4 = Some([10, 9, 0, 6].into());
        other.ipv6 = None;
        bed.kernel.open_session(&other)?;
        let ran = bed.tc("tc_tx", &bare("10.20.0.2", "10.9.0.7", 60))?;
        assert_eq!(ran.verdict, TC_REDIRECT, "the network");
        let packet = bare("10.20.0.2", "10.9.0.6", 60);
        let ran = bed.tc("tc_tx", &packet)?;
        assert_eq!((ran.verdict, ran.packet), (TC_NEXT, packet));
        Ok(())
    })
    .unwrap();
}

/// In the maps an IPv4 address is one of `::ffff:0:0/96`, to user space it is not.
#[test]
fn ipv6_networks_around_the_mapped_addresses_have_no_ipv4_packets() {
    alone(|| {
        for (network, len) in [
            ("::", 1),
            ("::", 0),
            ("::ffff:0:0", 95),
            ("::ffff:0:0", 96),
            ("::ffff:10.9.0.0", 112),
        ] {
            let mut bed = bed_towards(FLOW4)?;
            bed.kernel.close_session(SLOT);
            let mut around = params();
            around.iroutes = vec![(network.parse()?, len)];
            bed.install_for(&around, 0, 2, FLOW4, &keys(2))?;
            bed.hear(0);
            let bytes = Client::new(2).frame(FLOW4, &packet("10.9.0.6"));
            let ran = bed.xdp("xdp_rx", &bytes)?;
            assert!(is_left(&ran, &bytes), "{network}/{len}");
            let packet = bare("10.20.0.2", "10.9.0.6", 60);
            let ran = bed.tc("tc_tx", &packet)?;
            assert_eq!(ran.verdict, TC_NEXT, "{network}/{len}");
            assert_eq!(ran.packet, packet);
        }
        Ok(())
    })
    .unwrap();
}
