//! Sessions whose keys and addresses change.

use aya::maps::{Array, Map, MapData, loaded_maps};
use ocserv_common::kernel::{Counted, SLOTS_PER_SHARD, SessionKeys};
use ocserv_proto::config::NetPriority;

use crate::bed::{Bed, DROP, FLOW4, FLOW6, SLOT, keys, params};
use crate::open::{is_delivered, is_left};
use crate::packets::{Client, inner};

const MOVED: (&str, &str) = ("203.0.113.5:1024", "198.51.100.1:443");

/// A session, what a client of seeds 1 and 2 has, and a packet.
struct Rekey {
    bed: Bed,
    former: Client,
    newer: Client,
    packet: Vec<u8>,
}

impl Rekey {
    fn new() -> Self {
        let mut bed = Bed::new().unwrap();
        bed.install(0, 1, FLOW4).unwrap();
        Self {
            bed,
            former: Client::new(1),
            newer: Client::new(2),
            packet: inner("10.9.0.5", "10.20.0.2", 60),
        }
    }

    fn delivers(&mut self, flow: (&str, &str), is_newer: bool) -> bool {
        let bytes = self.frame(flow, is_newer);
        is_delivered(&self.bed.xdp("xdp_rx", &bytes).unwrap(), &self.packet)
    }

    fn leaves(&mut self, flow: (&str, &str), is_newer: bool) -> bool {
        let bytes = self.frame(flow, is_newer);
        is_left(&self.bed.xdp("xdp_rx", &bytes).unwrap(), &bytes)
    }

    fn drops(&mut self, flow: (&str, &str), is_newer: bool) -> bool {
        let bytes = self.frame(flow, is_newer);
        self.bed.xdp("xdp_rx", &bytes).unwrap().verdict == DROP
    }

    fn frame(&mut self, flow: (&str, &str), is_newer: bool) -> Vec<u8> {
        let client = if is_newer {
            &mut self.newer
        } else {
            &mut self.former
        };
        client.frame(flow, &self.packet)
    }
}

#[test]
fn records_of_the_former_keys_are_left_to_user_space() {
    let mut rekey = Rekey::new();
    assert!(rekey.drops(FLOW4, true), "keys that are not there yet");
    rekey.bed.install(1, 2, FLOW4).unwrap();
    assert!(rekey.delivers(FLOW4, true));
    assert!(rekey.leaves(FLOW4, false));
    rekey.newer.sequence -= 1;
    assert!(
        rekey.leaves(FLOW4, true),
        "a replay, or one of the other keys"
    );
    rekey.bed.kernel.end_channel(SLOT, 0);
    assert!(rekey.delivers(FLOW4, true));
    assert!(rekey.drops(FLOW4, false));
}

#[test]
fn the_former_keys_carry_on_when_the_new_ones_end() {
    let mut rekey = Rekey::new();
    rekey.bed.install(1, 2, FLOW4).unwrap();
    rekey.bed.kernel.end_channel(SLOT, 1);
    assert!(rekey.delivers(FLOW4, false));
    assert!(rekey.drops(FLOW4, true));
    rekey.bed.kernel.end_channel(SLOT, 0);
    assert!(rekey.leaves(FLOW4, false));
    assert_eq!(rekey.bed.kernel.session_count(), 0);
}

#[test]
fn channels_of_two_flows_are_independent() {
    let mut rekey = Rekey::new();
    rekey.bed.install(1, 2, FLOW6).unwrap();
    assert!(rekey.delivers(FLOW4, false));
    assert!(rekey.delivers(FLOW6, true));
    assert!(rekey.drops(FLOW4, true));
    rekey.bed.kernel.end_channel(SLOT, 0);
    assert!(rekey.leaves(FLOW4, false));
    assert!(rekey.delivers(FLOW6, true));
}

#[test]
fn a_record_begun_for_other_keys_is_left() {
    let mut rekey = Rekey::new();
    rekey.bed.record().channels[0].start(9, 1, 1, 1, 1);
    assert!(rekey.leaves(FLOW4, false));
    assert_eq!(rekey.bed.count(Counted::UpSession), 1);
    let window = rekey.bed.record().channels[0].window();
    assert!(window.would_accept(1));
}

/// A channel moves to [`MOVED`].
fn moves(rekey: &mut Rekey, number: usize) {
    let flow = (MOVED.0.parse().unwrap(), MOVED.1.parse().unwrap());
    rekey.bed.kernel.move_channel(SLOT, number, flow, 1);
}

#[test]
fn a_channel_that_moved_is_at_its_new_address_only() {
    let mut rekey = Rekey::new();
    moves(&mut rekey, 0);
    assert!(rekey.leaves(FLOW4, false));
    assert!(rekey.delivers(MOVED, false));
}

#[test]
fn two_channels_may_move_to_one_address() {
    let mut rekey = Rekey::new();
    rekey.bed.install(1, 2, FLOW6).unwrap();
    moves(&mut rekey, 0);
    moves(&mut rekey, 1);
    assert!(rekey.leaves(FLOW4, false) && rekey.leaves(FLOW6, true));
    assert!(rekey.delivers(MOVED, true));
    assert!(rekey.leaves(MOVED, false), "user space has the former keys");
}

#[test]
fn a_former_channel_that_moves_leaves_the_newest_where_it_is() {
    for newest in [FLOW4, FLOW6] {
        let mut rekey = Rekey::new();
        rekey.bed.install(1, 2, newest).unwrap();
        moves(&mut rekey, 0);
        assert!(rekey.delivers(newest, true));
        assert!(rekey.delivers(MOVED, false));
        assert!(rekey.drops(newest, false), "nobody has these keys there");
    }
}

#[test]
fn a_session_whose_new_keys_ended_moves_with_the_former_ones() {
    let mut rekey = Rekey::new();
    rekey.bed.install(1, 2, FLOW4).unwrap();
    rekey.bed.kernel.end_channel(SLOT, 1);
    moves(&mut rekey, 0);
    assert!(rekey.delivers(MOVED, false));
}

#[test]
fn a_flow_keeps_the_channel_that_stays_when_the_other_one_leaves_it() {
    let mut rekey = Rekey::new();
    rekey.bed.install(1, 2, FLOW4).unwrap();
    rekey.bed.install(1, 3, MOVED).unwrap();
    assert!(rekey.delivers(FLOW4, false));
    assert!(rekey.drops(FLOW4, true), "nobody has these keys");
}

#[test]
fn a_flow_that_new_keys_leave_behind_leads_nowhere() {
    let mut rekey = Rekey::new();
    rekey.bed.install(1, 3, FLOW6).unwrap();
    rekey.bed.install(0, 2, MOVED).unwrap();
    assert!(rekey.delivers(MOVED, true));
    assert!(
        rekey.leaves(FLOW4, true),
        "another session may come from there"
    );
    rekey.bed.install(0, 4, FLOW6).unwrap();
    assert!(rekey.leaves(MOVED, true));
}

#[test]
fn a_session_that_was_removed_is_unknown() {
    let mut rekey = Rekey::new();
    assert!(rekey.delivers(FLOW4, false));
    rekey.bed.kernel.remove(SLOT);
    assert!(rekey.leaves(FLOW4, false));
    rekey.bed.install(0, 2, FLOW4).unwrap();
    assert!(rekey.delivers(FLOW4, true));
}

/// Every array of keys that has this in the session's place.
fn arrays_with(record: impl Fn(&[u8]) -> bool) -> Vec<u32> {
    let fits = |info: &aya::maps::MapInfo| {
        info.max_entries() == SLOTS_PER_SHARD && info.value_size() as usize == KEYS
    };
    let maps = loaded_maps().filter_map(Result::ok).filter(fits);
    maps.map(|info| info.id())
        .filter(|id| read_keys(*id).is_some_and(|bytes| record(&bytes)))
        .collect()
}

const KEYS: usize = size_of::<SessionKeys>();

fn read_keys(id: u32) -> Option<[u8; KEYS]> {
    let map = Map::from_map_data(MapData::from_id(id).ok()?).ok()?;
    let array = Array::<_, [u8; KEYS]>::try_from(map).ok()?;
    array.get(&SLOT, 0).ok()
}

#[test]
fn nothing_of_a_removed_session_is_left_in_the_kernel() {
    let mut bed = Bed::new().unwrap();
    // A seed that no other test uses.
    let own = keys(0x77);
    let mut session = params();
    session.net_priority = Some(NetPriority::Tos(8));
    bed.install_for(&session, 0, 1, FLOW4, &own).unwrap();
    bed.install_for(&session, 1, 2, FLOW6, &keys(0x78)).unwrap();
    let secret = own.server_key.expose().to_vec();
    let arrays = arrays_with(|bytes| bytes.windows(32).any(|window| window == secret));
    assert_eq!(arrays.len(), 1);
    bed.kernel.end_channel(SLOT, 0);
    let bytes = read_keys(arrays[0]).unwrap();
    assert_eq!(bytes[..144], [0; 144]);
    bed.kernel.remove(SLOT);
    assert_eq!(read_keys(arrays[0]).unwrap(), [0; KEYS]);
}

#[test]
fn what_ends_leaves_no_flow_behind() {
    let mut bed = Bed::new().unwrap();
    bed.install(0, 1, FLOW4).unwrap();
    assert_eq!(bed.kernel.flow_count(), 1);
    bed.kernel.end_channel(SLOT, 0);
    assert_eq!(bed.kernel.flow_count(), 0, "the only channel");
    bed.install(0, 1, FLOW4).unwrap();
    bed.install(1, 2, FLOW6).unwrap();
    assert_eq!(bed.kernel.flow_count(), 2);
    bed.kernel.end_channel(SLOT, 0);
    assert_eq!(bed.kernel.flow_count(), 1, "one of two");
    bed.kernel.end_channel(SLOT, 1);
    assert_eq!(bed.kernel.flow_count(), 0, "the other");
    bed.install(0, 3, FLOW4).unwrap();
    bed.install(1, 4, FLOW4).unwrap();
    bed.kernel.remove(SLOT);
    assert_eq!(bed.kernel.flow_count(), 0, "the session");
}
