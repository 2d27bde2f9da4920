//! Numbers of records that were seen before.

use ocserv_common::kernel::Counted;
use ocserv_common::replay::{MAX_SEQUENCE, WINDOW};
use ocserv_common::session::DropReason;

use crate::bed::{Bed, DROP, FLOW4, Ran};
use crate::open::is_delivered;
use crate::packets::{Client, frame, inner};

struct Replay {
    bed: Bed,
    client: Client,
    packet: Vec<u8>,
}

impl Replay {
    fn new() -> Self {
        let mut bed = Bed::new().unwrap();
        bed.install(0, 1, FLOW4).unwrap();
        Self {
            bed,
            client: Client::new(1),
            packet: inner("10.9.0.5", "10.20.0.2", 60),
        }
    }

    fn run(&mut self, sequence: u64) -> Ran {
        self.client.sequence = sequence;
        let bytes = self.client.frame(FLOW4, &self.packet);
        self.bed.xdp("xdp_rx", &bytes).unwrap()
    }

    fn accepts(&mut self, sequence: u64) -> bool {
        let ran = self.run(sequence);
        let delivered = is_delivered(&ran, &self.packet);
        assert!(delivered || ran.verdict == DROP);
        delivered
    }
}

#[test]
fn each_number_is_accepted_once() {
    let mut replay = Replay::new();
    for sequence in [1, 2, 15, 16, 17, 700, 300, MAX_SEQUENCE] {
        assert!(replay.accepts(sequence), "{sequence}");
        assert!(!replay.accepts(sequence), "{sequence}");
    }
    assert_eq!(replay.bed.count(Counted::DropReplay), 8);
    assert_eq!(replay.bed.record().drops(DropReason::Replay), 8);
    assert_eq!(replay.bed.record().rx_packets.get(), 8);
}

#[test]
fn numbers_before_the_first_are_replays() {
    let mut replay = Replay::new();
    assert!(!replay.accepts(0), "the client's Finished");
}

#[test]
fn numbers_behind_the_window_are_too_old() {
    let mut replay = Replay::new();
    assert!(replay.accepts(100_000));
    assert!(replay.accepts(100_000 - WINDOW));
    assert!(!replay.accepts(100_000 - WINDOW - 16));
    assert!(!replay.accepts(100_000 - 1024));
}

#[test]
fn a_forged_number_does_not_move_the_window() {
    let mut replay = Replay::new();
    assert!(replay.accepts(5));
    replay.client.sequence = 9000;
    for sequence in [6_u64, 4000, MAX_SEQUENCE] {
        let mut record = replay.client.record(0, &replay.packet);
        record[5..11].copy_from_slice(&sequence.to_be_bytes()[2..]);
        let ran = replay.bed.xdp("xdp_rx", &frame(FLOW4, &record)).unwrap();
        assert_eq!(ran.verdict, DROP);
    }
    assert_eq!(replay.bed.count(Counted::DropAuth), 3);
    assert!(replay.accepts(6));
    assert!(replay.accepts(4));
}

#[test]
fn user_space_and_the_programs_share_the_window() {
    let mut replay = Replay::new();
    assert!(replay.accepts(7));
    let window = replay.bed.record().channels[0].window();
    assert!(!window.commit(7));
    assert!(window.commit(8));
    assert!(!replay.accepts(8));
}
