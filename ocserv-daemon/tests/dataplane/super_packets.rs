//! What the host hands out as one packet for a client.

use std::net::IpAddr;

use nix::unistd::write;
use ocserv_common::offload::checksum::{fold, pseudo_header, sum};
use ocserv_common::offload::vnet::{GSO_TCPV4, NEEDS_CHECKSUM, VnetHeader};
use ocserv_proto::cstp::PacketType;
use ocserv_sys::tun::TunDevice;

use super::bed::{Bed, CLIENT_IP, eventually, ip};

/// More than a batch of the dataplane holds.
const SEGMENTS: usize = 100;
const SIZE: usize = 20;
const HEADERS: usize = 40;

/// TCP data from 10.8.0.2, with its header for the device.
fn super_packet() -> Vec<u8> {
    let header = VnetHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: GSO_TCPV4,
        header_len: HEADERS as u16,
        gso_size: SIZE as u16,
        checksum_start: 20,
        checksum_offset: 16,
    };
    let IpAddr::V4(target) = CLIENT_IP else {
        unreachable!("the bed's clients have IPv4");
    };
    let len = HEADERS + SEGMENTS * SIZE;
    let mut packet = vec![0x45, 0];
    packet.extend((len as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 8, 0, 2]);
    packet.extend(target.octets());
    let checksum = !fold(sum(&packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = fold(pseudo_header(&packet[12..20], 6, len - 20));
    packet.extend([0, 80, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 1, 0]);
    packet.extend(pseudo.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend((0..SEGMENTS * SIZE).map(|n| (n / SIZE) as u8));
    [&header.to_bytes()[..], &packet].concat()
}

/// The descriptor does not become readable for what the batch had no room for, so the thread must
/// think of it.
pub fn no_segment_waits_for_the_next_packet() {
    let bed = Bed::start();
    // The kernel's own IPv6 packets would wake the thread too.
    std::fs::write("/proc/sys/net/ipv6/conf/vpnt0/disable_ipv6", "1").unwrap();
    let mut client = bed.open_session(0);
    // Its channel is used once it was heard.
    client.send(PacketType::DpdRequest, b"here");
    client.receive();
    let mut device = TunDevice::create("vpnt1", 1).unwrap();
    device.set_up().unwrap();
    ip("addr add 10.8.0.1/24 dev vpnt1");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    write(&device.queues()[0], &super_packet()).unwrap();
    for number in 0..SEGMENTS {
        let (_, packet) = client.receive();
        assert_eq!(packet.len(), HEADERS + SIZE);
        assert_eq!(packet[HEADERS..], [number as u8; SIZE]);
        assert_eq!(packet[24..28], ((number * SIZE) as u32).to_be_bytes());
    }
    let shared = &bed.shared[0];
    eventually("every segment is counted", || {
        shared.tx_packets.get() == SEGMENTS as u64
    });
}
