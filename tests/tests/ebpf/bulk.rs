//! Long packets, and small ones behind them.

use anyhow::Result;
use ocserv_common::kernel::{BULK_HOLD_MS, Counted};
use ocserv_common::pace::Limits;
use ocserv_daemon::costs::RecordLimits;

use crate::bed::{Bed, DROP, FLOW4, SkbFields, TC_REDIRECT, now_ms};
use crate::net::{alone, ifindex};
use crate::open::{is_delivered, is_left};
use crate::packets::{Client, inner};
use crate::seal;

/// Longest record, header included.
const MAX_RECORD: u32 = 512;
/// Longest inner packet of one.
const LONGEST: usize = MAX_RECORD as usize - 30;
/// Long ago.
const PAST: u64 = 6 * BULK_HOLD_MS as u64;

fn bed() -> Result<Bed> {
    let mut bed = Bed::with(|options| options.limits = RecordLimits::fixed(MAX_RECORD))?;
    bed.ifindex = ifindex("wan").unwrap_or(1);
    bed.install(0, 1, FLOW4)?;
    bed.hear(0);
    Ok(bed)
}

#[test]
fn long_records_are_left_and_small_ones_behind_them_too() {
    let mut bed = bed().unwrap();
    let mut client = Client::new(1);
    let longest = inner("10.9.0.5", "10.20.0.2", LONGEST);
    let ran = bed.xdp("xdp_rx", &client.frame(FLOW4, &longest)).unwrap();
    assert!(is_delivered(&ran, &longest));
    let before = now_ms() - 10;
    let longer = inner("10.9.0.5", "10.20.0.2", LONGEST + 1);
    let bytes = client.frame(FLOW4, &longer);
    assert!(is_left(&bed.xdp("xdp_rx", &bytes).unwrap(), &bytes));
    assert_eq!(bed.count(Counted::UpBulk), 1);
    assert!(bed.record().rx_pace.bulk_ms.get() >= before);
    let small = inner("10.9.0.5", "10.20.0.2", 60);
    let bytes = client.frame(FLOW4, &small);
    // As if the long one had come at this moment, whatever time the test takes.
    bed.record().rx_pace.bulk_ms.set(now_ms() + 1000);
    assert!(is_left(&bed.xdp("xdp_rx", &bytes).unwrap(), &bytes));
    assert_eq!(bed.count(Counted::UpBulk), 2);
    bed.record().rx_pace.bulk_ms.set(now_ms() - PAST);
    let ran = bed.xdp("xdp_rx", &bytes).unwrap();
    assert!(is_delivered(&ran, &small), "the hold is over");
}

#[test]
fn long_packets_are_left_and_small_ones_behind_them_too() {
    alone(|| {
        let mut bed = bed()?;
        let longest = inner("10.20.0.2", "10.9.0.5", LONGEST);
        assert_eq!(bed.tc("tc_tx", &longest)?.verdict, TC_REDIRECT);
        let before = now_ms() - 10;
        let longer = inner("10.20.0.2", "10.9.0.5", LONGEST + 1);
        assert!(seal::is_left(&bed.tc("tc_tx", &longer)?, &longer));
        assert_eq!(bed.count(Counted::UpBulk), 1);
        assert!(bed.record().tx_pace.bulk_ms.get() >= before);
        let small = inner("10.20.0.2", "10.9.0.5", 60);
        bed.record().tx_pace.bulk_ms.set(now_ms() + 1000);
        assert!(seal::is_left(&bed.tc("tc_tx", &small)?, &small));
        assert_eq!(bed.count(Counted::UpBulk), 2);
        bed.record().tx_pace.bulk_ms.set(now_ms() - PAST);
        assert_eq!(bed.tc("tc_tx", &small)?.verdict, TC_REDIRECT);
        Ok(())
    })
    .unwrap();
}

#[test]
fn super_packets_are_left() {
    alone(|| {
        let mut bed = bed()?;
        let packet = inner("10.20.0.2", "10.9.0.5", 200);
        let super_packet = SkbFields {
            ingress_ifindex: 1,
            gso_size: 100,
        };
        let ran = bed.tc_with("tc_tx", &packet, super_packet)?;
        assert!(seal::is_left(&ran, &packet));
        assert_eq!(bed.count(Counted::UpBulk), 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn packets_above_the_session_s_mtu_are_left() {
    alone(|| {
        let mut bed = bed()?;
        bed.kernel.set_mtu(crate::bed::SLOT, 300);
        let fits = inner("10.20.0.2", "10.9.0.5", 300);
        assert_eq!(bed.tc("tc_tx", &fits)?.verdict, TC_REDIRECT);
        let longer = inner("10.20.0.2", "10.9.0.5", 301);
        assert!(seal::is_left(&bed.tc("tc_tx", &longer)?, &longer));
        Ok(())
    })
    .unwrap();
}

/// Every packet of a test run comes close behind the last.
fn bursts() -> Result<Bed> {
    const FOREVER: u32 = u32::MAX;
    let limits = Limits {
        alone: 1530,
        close: 200,
        close_ns: FOREVER,
        hold_ms: BULK_HOLD_MS,
    };
    let mut bed = Bed::with(|options| {
        options.limits = RecordLimits {
            rx: limits,
            tx: limits,
        };
    })?;
    bed.ifindex = ifindex("wan").unwrap_or(1);
    bed.install(0, 1, FLOW4)?;
    bed.hear(0);
    Ok(bed)
}

#[test]
fn records_in_bursts_are_left_until_user_space_tells_otherwise() {
    let mut bed = bursts().unwrap();
    let mut client = Client::new(1);
    let packet = inner("10.9.0.5", "10.20.0.2", 500);
    let mut taken = |bed: &mut Bed, packet: &[u8]| {
        let bytes = client.frame(FLOW4, packet);
        let ran = bed.xdp("xdp_rx", &bytes).unwrap();
        assert_ne!(is_delivered(&ran, packet), is_left(&ran, &bytes));
        is_delivered(&ran, packet)
    };
    assert!(taken(&mut bed, &packet), "the first one is alone");
    let first: Vec<_> = (0..60).map(|_| taken(&mut bed, &packet)).collect();
    let begin = first.iter().position(|taken| !taken).unwrap();
    assert!((15..40).contains(&begin), "{begin}");
    assert!(first[begin..].iter().all(|taken| !taken));
    // What user space says holds once the last that were left are through.
    bed.record().rx_pace.tell(600, now_ms() + 60_000);
    assert!(!taken(&mut bed, &packet), "still held");
    bed.record().rx_pace.bulk_ms.set(now_ms() - PAST);
    assert!(taken(&mut bed, &packet));
    let longer = inner("10.9.0.5", "10.20.0.2", 571);
    assert!(!taken(&mut bed, &longer));
}

#[test]
fn packets_in_bursts_are_left_until_user_space_tells_otherwise() {
    alone(|| {
        let mut bed = bursts()?;
        let packet = inner("10.20.0.2", "10.9.0.5", 500);
        for _ in 0..60 {
            bed.tc("tc_tx", &packet)?;
        }
        assert!(seal::is_left(&bed.tc("tc_tx", &packet)?, &packet));
        bed.record().tx_pace.tell(600, now_ms() + 60_000);
        bed.record().tx_pace.bulk_ms.set(now_ms() - PAST);
        assert_eq!(bed.tc("tc_tx", &packet)?.verdict, TC_REDIRECT);
        let longer = inner("10.20.0.2", "10.9.0.5", 571);
        assert!(seal::is_left(&bed.tc("tc_tx", &longer)?, &longer));
        Ok(())
    })
    .unwrap();
}

#[test]
fn junk_makes_no_bursts() {
    let mut bed = bursts().unwrap();
    // Keys that the session does not have.
    let mut stranger = Client::new(2);
    let packet = inner("10.9.0.5", "10.20.0.2", 500);
    for _ in 0..100 {
        let bytes = stranger.frame(FLOW4, &packet);
        assert_eq!(bed.xdp("xdp_rx", &bytes).unwrap().verdict, DROP);
    }
    assert_eq!(bed.count(Counted::UpBulk), 0);
}
