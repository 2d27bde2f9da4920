//! `ocserv_common::encapsulation`.

use ocserv_common::encapsulation::{
    FRONT, Front, Outgoing, additional_data, checksum_cover, front_len, is_ipv4, nonce,
    set_udp_checksum, udp_checksum, write,
};
use ocserv_common::kernel::FlowKey;
use proptest::prelude::*;

use crate::packets::{FLOW4, FLOW6, pseudo_header, read, sum};

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8];

/// The other end's view.
fn turned(flow: &FlowKey) -> FlowKey {
    FlowKey {
        peer: flow.local,
        local: flow.peer,
        peer_port: flow.local_port,
        local_port: flow.peer_port,
    }
}

/// A whole frame with this ciphertext and tag; the UDP checksum is finished as programs do it.
fn frame(out: &Outgoing<'_>, sealed: &[u8]) -> Vec<u8> {
    let mut front: Front = [0xee; FRONT];
    write(&mut front, out);
    let mut covered = front[FRONT - checksum_cover(is_ipv4(out.flow))..].to_vec();
    covered.extend(sealed);
    covered.resize(covered.len().next_multiple_of(2), 0);
    let words = covered.chunks_exact(2);
    let sum = words.map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]])));
    let checksum = udp_checksum(sum.sum(), 8 + 13 + sealed.len());
    set_udp_checksum(&mut front, checksum);
    let mut bytes = front[FRONT - front_len(is_ipv4(out.flow))..].to_vec();
    bytes.extend(sealed);
    bytes
}

#[test]
fn headers_of_ipv4_are_these_bytes() {
    let out = Outgoing {
        flow: &FLOW4,
        macs: &MACS,
        epoch: 1,
        sequence: 0x0102_0304_0506,
        length: 17,
        tos: 0xb8,
        dont_fragment: true,
    };
    let expected = [
        &MACS[..],
        &[8, 0],
        &[0x45, 0xb8, 0, 58, 0xa1, 0x46, 0x40, 0, 64, 17, 0xac, 0x78],
        &[198, 51, 100, 1, 192, 0, 2, 7],
        &[1, 187, 0x9c, 0x40, 0, 38, 0x42, 0x62],
        &[23, 0xfe, 0xfd, 0, 1, 1, 2, 3, 4, 5, 6, 0, 17],
        &[0; 17],
    ];
    let made = frame(&out, &[0; 17]);
    assert_eq!(sum(&made[14..34]), 0xffff);
    assert_eq!(made, expected.concat());
}

#[test]
fn headers_of_ipv6_are_these_bytes() {
    let out = Outgoing {
        flow: &FLOW6,
        macs: &MACS,
        epoch: 1,
        sequence: 7,
        length: 17,
        tos: 0xb8,
        dont_fragment: false,
    };
    let made = frame(&out, &[0; 17]);
    assert_eq!(made[12..14], [0x86, 0xdd]);
    assert_eq!(made[14..22], [0x6b, 0x80, 0, 0, 0, 38, 17, 64]);
    assert_eq!(made[22..38], FLOW6.local);
    assert_eq!(made[38..54], FLOW6.peer);
    assert_eq!(made[54..60], [1, 187, 0x9c, 0x40, 0, 38]);
    assert_eq!(
        made[62..75],
        [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7, 0, 17]
    );
}

#[test]
fn additional_data_and_nonce_are_those_of_the_rfcs() {
    let bytes = additional_data(1, 0x0203_0405_0607, 0x0123).map(u64::to_le_bytes);
    assert_eq!(
        bytes.concat(),
        [0, 1, 2, 3, 4, 5, 6, 7, 23, 0xfe, 0xfd, 1, 0x23, 0, 0, 0]
    );
    let iv = [0x0302_0100, 0x0706_0504, 0x0b0a_0908];
    let bytes = nonce(&iv, 0x8001, 0x1122_3344_5566).map(u32::to_le_bytes);
    assert_eq!(
        bytes.concat(),
        [
            0,
            1,
            2,
            3,
            4 ^ 0x80,
            5 ^ 1,
            6 ^ 0x11,
            7 ^ 0x22,
            8 ^ 0x33,
            9 ^ 0x44,
            10 ^ 0x55,
            11 ^ 0x66
        ]
    );
}

#[test]
fn a_checksum_of_zero_is_sent_as_ones() {
    let rest = sum(&[0, 17, 0, 30]);
    let others = u64::from((!rest).to_be());
    assert_eq!(udp_checksum(others, 30), [0xff, 0xff]);
    assert_eq!(udp_checksum(0, 30), (!rest).to_be_bytes());
}

proptest! {
    /// What is written is read back, with valid checksums.
    #[test]
    fn a_written_frame_is_read_back(
        is_ipv4 in any::<bool>(),
        peer in any::<[u8; 16]>(),
        ports in any::<[u8; 4]>(),
        epoch in any::<u16>(),
        sequence in 0_u64..1 << 48,
        sealed in prop::collection::vec(any::<u8>(), 17..100),
        tos in any::<u8>(),
        dont_fragment in any::<bool>(),
    ) {
        let mut flow = if is_ipv4 { FLOW4 } else { FLOW6 };
        flow.peer[12..].copy_from_slice(&peer[12..]);
        if !is_ipv4 {
            flow.peer[1..12].copy_from_slice(&peer[1..12]);
        }
        flow.peer_port = [ports[0], ports[1]];
        flow.local_port = [ports[2], ports[3]];
        let out = Outgoing {
            flow: &flow, macs: &MACS, epoch, sequence, length: sealed.len(), tos, dont_fragment,
        };
        let bytes = frame(&out, &sealed);
        let udp = front_len(is_ipv4) - 13 - 8;
        if is_ipv4 {
            prop_assert_eq!(sum(&bytes[14..34]), 0xffff);
            prop_assert_eq!(bytes[20], if dont_fragment { 0x40 } else { 0 });
        }
        let len = bytes.len() - udp;
        let mut covered = pseudo_header(&flow.local, &flow.peer, 17, len);
        covered.extend(&bytes[udp..]);
        prop_assert_eq!(sum(&covered), 0xffff);
        prop_assert!(bytes[udp + 6..udp + 8] != [0, 0]);
        // Once in 65,536 a finished checksum looks like an open one.
        if let Ok((record, found)) = read(&bytes) {
            prop_assert_eq!(found, turned(&flow));
            prop_assert_eq!((record.epoch, record.sequence), (epoch, sequence));
            prop_assert_eq!((record.length, record.tos), (sealed.len(), tos));
            prop_assert_eq!(&bytes[record.offset + 13..], &sealed[..]);
        } else {
            let open = sum(&pseudo_header(&flow.local, &flow.peer, 17, bytes.len() - udp));
            prop_assert_eq!(&bytes[udp + 6..udp + 8], &open.to_be_bytes());
        }
    }
}
