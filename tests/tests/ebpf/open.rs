//! `xdp_rx`: records from clients.

use ocserv_common::kernel::Counted;

use crate::bed::{Bed, LOCAL4, PASS, PEER4, client_channel};
use crate::packets::{MACS, ethernet, frame, inner, record};

const FLOW4: (&str, &str) = (PEER4, LOCAL4);

#[test]
fn a_record_becomes_its_inner_packet() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let client = client_channel(1);
    for (sequence, len) in [(1, 64), (2, 100), (3, 512), (4, 1400), (5, 1500)] {
        let packet = inner("10.9.0.5", "10.20.0.2", len);
        let ran = bed
            .xdp(
                "xdp_rx",
                &frame(FLOW4, &record(&client, sequence, 0, &packet)),
            )
            .unwrap();
        assert_eq!((ran.verdict, ran.marked), (PASS, true));
        assert_eq!(ran.packet, ethernet(&packet), "{len} bytes");
        assert_eq!(ran.packet[..12], MACS);
    }
    assert_eq!(bed.count(Counted::RxPackets), 5);
    assert_eq!(bed.record().rx_packets.get(), 5);
}
