//! What a record says about its channel.

use ocserv_common::kernel::Counted;

use crate::bed::{Bed, FLOW4, now_ms};
use crate::open::is_delivered;
use crate::packets::{Client, bare, frame, inner};

/// The programs' clock may be this late.
const CLOCK_LAG_MS: u64 = 20;

#[test]
fn the_first_record_makes_a_channel_live() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let mut client = Client::new(1);
    let packet = inner("10.9.0.5", "10.20.0.2", 60);
    let before = now_ms() - CLOCK_LAG_MS;
    let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, &packet)).unwrap();
    assert!(is_delivered(&ran, &packet));
    let live = &bed.record().channels[0].live;
    let span = before..=now_ms();
    assert_eq!(live.active.get(), 1);
    assert!(span.contains(&live.last_rx_ms.get()));
    assert!(span.contains(&live.confirmed_ms.get()));
    let seconds = before / 1000..=now_ms() / 1000;
    assert!(seconds.contains(&bed.record().last_udp_rx_secs.get()));
    assert!(seconds.contains(&bed.record().last_data_secs.get()));
    assert_eq!(bed.record().channels[1].live.active.get(), 0);
}

#[test]
fn a_later_record_does_not_change_when_the_channel_was_confirmed() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let live = &bed.record().channels[0].live;
    live.heard(5);
    live.set_inactive();
    let packet = inner("10.9.0.5", "10.20.0.2", 60);
    let bytes = Client::new(1).frame(FLOW4, &packet);
    bed.xdp("xdp_rx", &bytes).unwrap();
    let live = &bed.record().channels[0].live;
    assert_eq!((live.active.get(), live.confirmed_ms.get()), (1, 5));
    assert!(live.last_rx_ms.get() > 5);
}

#[test]
fn icmp_is_no_activity() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let mut client = Client::new(1);
    for packet in [
        bare("10.9.0.5", "10.20.0.2", 60),
        bare("fd00::5", "fd00:20::2", 60),
    ] {
        let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, &packet)).unwrap();
        assert!(is_delivered(&ran, &packet));
    }
    assert_eq!(bed.record().last_data_secs.get(), 0);
    assert!(bed.record().last_udp_rx_secs.get() > 0);
}

#[test]
fn what_is_not_delivered_is_no_sign_of_life() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    let mut client = Client::new(1);
    let packet = inner("10.9.0.5", "10.20.0.2", 60);
    let mut forged = client.frame(FLOW4, &packet);
    *forged.last_mut().unwrap() ^= 1;
    let foreign = client.frame(FLOW4, &inner("10.9.0.6", "10.20.0.2", 60));
    let control = frame(FLOW4, &client.record(3, b"dpd"));
    for bytes in [forged, foreign, control] {
        bed.xdp("xdp_rx", &bytes).unwrap();
    }
    let live = &bed.record().channels[0].live;
    assert_eq!((live.active.get(), live.confirmed_ms.get()), (0, 0));
    assert_eq!(live.last_rx_ms.get(), 1, "when the keys were installed");
    assert_eq!(bed.record().last_udp_rx_secs.get(), 0);
    assert_eq!(bed.count(Counted::RxPackets), 0);
}
