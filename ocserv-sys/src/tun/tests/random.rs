//! Random packets of a host behind one device to a host behind another, by every way that there is: as
//! super-packets or one by one, into the kernel and out of it. What arrives must not differ.

use std::collections::BTreeMap;

use super::kernel::{counted, received};
use super::traffic::{Packets, Random};
use super::*;

const CASES: usize = 40;
/// Fewer than a device queues.
const MOST: u64 = 200;

/// One device from the first host, with or without super-packets, and one to the second.
struct Way {
    from: TunQueue,
    to: TunQueue,
    device: TunDevice,
    target: TunDevice,
}

/// Devices that the kernel forwards between.
fn way(super_packets: [bool; 2]) -> Way {
    let [device, target] = [(9, super_packets[0]), (8, super_packets[1])].map(|(net, offers)| {
        let mut device = TunDevice::create_with("vpnt%d", 1, offers).unwrap();
        device.set_mtu(1500).unwrap();
        device.set_up().unwrap();
        let name = device.name();
        ip(&format!("addr add 10.{net}.0.1/24 dev {name}"));
        ip(&format!("addr add fd0{net}::1/64 dev {name} nodad"));
        device
    });
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
    }
    Way {
        from: queues(&device).remove(0),
        to: queues(&target).remove(0),
        device,
        target,
    }
}

impl Way {
    /// Sends a batch and receives what comes of it.
    fn pass(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let sent = self.from.send_batch(packets.iter().map(Vec::as_slice));
        assert_eq!((sent.sent, sent.full), (packets.len(), 0), "{sent:?}");
        let last = traffic::last();
        assert_eq!(self.from.send_batch([&last[..]]).sent, 1);
        let mut batch = PacketBatch::new(64, 2048);
        let mut all = Vec::new();
        loop {
            let mut fds = [PollFd::new(self.to.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(5000u16)).unwrap();
            assert_eq!(ready, 1, "the last packet is lost");
            loop {
                for index in 0..self.to.recv_batch(&mut batch).unwrap() {
                    let packet = batch.packet(index);
                    if traffic::is_last(packet) {
                        return all;
                    }
                    if traffic::is_ours(packet) {
                        all.push(packet.to_vec());
                    }
                }
                if !self.to.has_rest() {
                    break;
                }
            }
        }
    }
}

/// Each flow's packets in order, with those that may be of any flow of the same two hosts.
fn by_flow(packets: Vec<Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<Vec<u8>, Vec<Vec<u8>>>::new();
    for packet in &packets {
        flows.entry(traffic::flow_of(packet)).or_default();
    }
    for packet in packets {
        let own = traffic::flow_of(&packet);
        let packet = traffic::without_free_id(packet);
        let of_all = own.len() == traffic::ANY_FLOW;
        for (flow, members) in &mut flows {
            if *flow == own || of_all && flow[0] == own[0] {
                members.push(packet.clone());
            }
        }
    }
    flows
}

#[test]
fn what_arrives_is_the_same_by_every_way() {
    let mut random = Random(traffic::seed());
    let cases: Vec<_> = (0..CASES)
        .map(|_| {
            let count = 2 + random.below(MOST - 2) as usize;
            Packets::new(&mut random).take(count).collect::<Vec<_>>()
        })
        .collect();
    compare(&cases);
}

fn compare(cases: &[Vec<Vec<u8>>]) {
    // A network for each way: all have the same addresses.
    let pass = |super_packets| {
        let cases = cases.to_vec();
        let way = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let mut way = way(super_packets);
            let arrived: Vec<_> = cases.iter().map(|case| way.pass(case)).collect();
            let handed_out = counted(&way.target, "TX:");
            (arrived, received(&way.device), handed_out)
        });
        way.join().unwrap()
    };
    let (plain, walks, _) = pass([false, false]);
    let arrived: usize = plain.iter().map(Vec::len).sum();
    // But for those with a damaged header of IP.
    assert!(arrived > cases.iter().map(Vec::len).sum::<usize>() / 10 * 9);
    let plain: Vec<_> = plain.into_iter().map(by_flow).collect();
    for super_packets in [[true, false], [false, true], [true, true]] {
        let (other, other_walks, handed_out) = pass(super_packets);
        if super_packets[0] {
            assert!(other_walks < walks / 10 * 8, "{other_walks} of {walks}");
        }
        if super_packets == [true, true] {
            assert!(handed_out < walks / 10 * 8, "{handed_out} of {walks}");
        }
        for (number, (one, other)) in plain.iter().zip(other).enumerate() {
            let other = by_flow(other);
            for (flow, wanted) in one {
                let got = other.get(flow).map_or(&[][..], Vec::as_slice);
                let differs =
                    (0..wanted.len().max(got.len())).find(|at| wanted.get(*at) != got.get(*at));
                let at = differs.unwrap_or_default();
                assert!(
                    differs.is_none(),
                    "case {number}, {super_packets:?}, packet {at} of {flow:?}: {:02x?} instead of {:02x?}",
                    got.get(at),
                    wanted.get(at)
                );
            }
            assert_eq!(one.len(), other.len());
        }
    }
}
