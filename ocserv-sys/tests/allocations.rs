//! What passes packets in batches allocates nothing, once it has run. Needs root.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use ocserv_sys::message_batch::{MessageBatch, send_messages};
use ocserv_sys::tun::{PacketBatch, TunDevice, TunQueue};
use ocserv_sys::udp::{self, Destination, Marking, PathMtu, RxBatch, TxBatch, UdpPort};

/// The system's allocator, which counts what this thread asks for.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    COUNT.with(|count| count.set(count.get() + 1));
}

// SAFETY: all is left to the system's allocator; the counter allocates nothing and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Shows that `work` allocates nothing after some rounds.
fn allocates_nothing(what: &str, mut work: impl FnMut()) {
    const ROUNDS: usize = 10;
    for _ in 0..ROUNDS {
        work();
    }
    let before = COUNT.get();
    for _ in 0..ROUNDS {
        work();
    }
    assert_eq!(COUNT.get() - before, 0, "{what}");
}

/// Asks again until it is so.
fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "something is lost");
        std::thread::yield_now();
    }
}

#[test]
fn the_count_counts() {
    let before = COUNT.get();
    drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
    assert_eq!(COUNT.get() - before, 1);
}

#[test]
fn datagrams_in_batches() {
    let port = |address: SocketAddr| {
        UdpPort::new(udp::bind(address, true).unwrap(), PathMtu::Discover).unwrap()
    };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let [server, client] = [
            port(address.parse().unwrap()),
            port(address.parse().unwrap()),
        ];
        let to = Destination {
            peer: server.local_addr(),
            source: Some(client.local_addr().ip()),
            marking: Some(Marking::Tos(8)),
        };
        let mut out = TxBatch::new(64, 70_000);
        let mut received = RxBatch::new(64, 2000);
        // Runs of several lengths, and what the path refuses.
        let lens = [1400, 1400, 1400, 90, 90, 20, 69_000, 1400, 1400, 7];
        allocates_nothing("datagrams", || {
            for (tag, len) in lens.iter().enumerate() {
                assert!(out.buffer().is_some());
                out.commit(*len, &to, tag as u32);
            }
            assert_eq!(client.send_batch(&mut out).sent, lens.len() - 1);
            assert_eq!(out.too_long(), [6]);
            let mut arrived = 0;
            wait_until(|| {
                arrived += server.recv_batch(&mut received).unwrap();
                arrived == lens.len() - 1
            });
            assert_eq!(received.datagram(0).peer, client.local_addr());
        });
    }
}

#[test]
fn messages_in_batches() {
    let kind = (AddressFamily::Unix, SockType::SeqPacket);
    let (near, far) = socketpair(kind.0, kind.1, None, SockFlag::SOCK_NONBLOCK).unwrap();
    let messages = [[IoSlice::new(b"header"), IoSlice::new(&[7; 1400])]; 70];
    let mut batch = MessageBatch::new(64, 2000);
    allocates_nothing("messages", || {
        let sent = send_messages(near.as_fd(), &messages).sent;
        assert!(sent > 0);
        let mut arrived = 0;
        wait_until(|| {
            batch.receive(far.as_fd()).unwrap();
            arrived += batch.len();
            arrived == sent
        });
    });
}

/// A datagram over IPv6 from the first device's host to the second one's.
fn datagram(number: u8) -> Vec<u8> {
    let address = |net| [0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let mut packet = vec![0x60, 0, 0, 0, 0x04, 0x08, 17, 64];
    packet.extend(address(9));
    packet.extend(address(8));
    packet.extend([0x10, 0, 0x10, 1, 0x04, 0x08, 0, 0]);
    packet.extend([number; 1024]);
    let mut sum = 17 + 0x408u32;
    for word in packet[8..].as_chunks::<2>().0 {
        sum += u32::from(u16::from_be_bytes(*word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[46..48].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

/// A device that is up, with the addresses of a network.
fn device(net: u8) -> TunDevice {
    let mut device = TunDevice::create("vpnt%d", 1).unwrap();
    device.set_mtu(1500).unwrap();
    device.set_up().unwrap();
    let address = format!("fd0{net}::1/64");
    let words = ["addr", "add", &address, "dev", device.name(), "nodad"];
    assert!(Command::new("ip").args(words).status().unwrap().success());
    device
}

#[test]
fn packets_of_the_tun_device_in_batches() {
    let passing = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        let [near, far] = [device(9), device(8)];
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let [mut near, mut far] =
            [&near, &far].map(|device| TunQueue::new(device.queues()[0].try_clone().unwrap()));
        let packets: Vec<_> = (0..40).map(datagram).collect();
        let mut batch = PacketBatch::new(64, 2000);
        allocates_nothing("packets", || {
            let sent = near.send_batch(packets.iter().map(Vec::as_slice));
            assert_eq!(sent.sent, packets.len());
            let mut arrived = 0;
            wait_until(|| {
                far.recv_batch(&mut batch).unwrap();
                let all = (0..batch.len()).map(|index| batch.packet(index));
                // The kernel has something to say too.
                arrived += all
                    .filter(|packet| packet.len() == packets[0].len())
                    .count();
                arrived == packets.len()
            });
        });
    });
    passing.join().unwrap();
}
