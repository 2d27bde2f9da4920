//! In networks of their own. Needs root.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

use super::*;

mod bulk;
mod kernel;
mod random;
mod traffic;

/// Runs `test` in a thread with a network of its own, which ends with it.
pub fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        test();
    });
    thread.join().unwrap();
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// A UDP packet from 10.9.0.2 to 10.9.0.1 port `port` that says "in"; no UDP checksum.
fn packet(port: u16) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1,
    ];
    let sum: u32 = packet
        .as_chunks::<2>()
        .0
        .iter()
        .map(|w| u32::from(u16::from_be_bytes(*w)))
        .sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x10, 0]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 10, 0, 0, b'i', b'n']);
    packet
}

#[test]
fn packets_pass_the_queues_both_ways() {
    for super_packets in [false, true] {
        in_own_network(move || pass_both_ways(super_packets));
    }
}

fn pass_both_ways(super_packets: bool) {
    let mut device = TunDevice::create_with("vpnt%d", 2, super_packets).unwrap();
    assert_eq!((device.name(), device.queues().len()), ("vpnt0", 2));
    assert!(device.index().unwrap() > 0);
    device.set_mtu(1400).unwrap();
    device.set_up().unwrap();
    ip("addr add 10.9.0.1/24 dev vpnt0");
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut queues = queues(&device);

    let (good, bad) = (packet(port), [0xff; 30]);
    let sent = queues[1].send_batch([&good[..], &bad[..]]);
    assert_eq!(
        sent,
        Sent {
            sent: 1,
            full: 0,
            refused: 1,
            error: Some(libc::EINVAL)
        }
    );
    let mut buffer = [0; 10];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], from.to_string().as_str()),
        (&b"in"[..], "10.9.0.2:4096")
    );

    socket.send_to(b"outward", "10.9.0.2:7").unwrap();
    assert!(finds(&mut queues, b"outward"));
}

pub fn queues(device: &TunDevice) -> Vec<TunQueue> {
    let fds = device.queues().iter();
    fds.map(|fd| TunQueue::new(fd.try_clone().unwrap()))
        .collect()
}

/// Waits for an IPv4 packet that ends with `text` on any of the queues.
fn finds(queues: &mut [TunQueue], text: &[u8]) -> bool {
    let mut batch = PacketBatch::new(8, 2048);
    loop {
        let mut fds: Vec<_> = queues
            .iter()
            .map(|q| PollFd::new(q.as_fd(), PollFlags::POLLIN))
            .collect();
        if poll(&mut fds, PollTimeout::from(5000u16)).unwrap() == 0 {
            return false;
        }
        for queue in &mut *queues {
            for index in 0..queue.recv_batch(&mut batch).unwrap() {
                // The kernel's own IPv6 housekeeping comes along.
                if batch.packet(index)[0] == 0x45 {
                    return batch.packet(index).ends_with(text);
                }
            }
        }
    }
}

#[test]
fn a_device_that_is_off_refuses_and_recovers() {
    for super_packets in [false, true] {
        in_own_network(move || switch_off_and_on(super_packets));
    }
}

fn switch_off_and_on(super_packets: bool) {
    let mut device = TunDevice::create_with("vpnt%d", 1, super_packets).unwrap();
    device.set_up().unwrap();
    ip("addr add 10.9.0.1/24 dev vpnt0");
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    let packet = packet(socket.local_addr().unwrap().port());
    let packets = || std::iter::repeat_n(packet.as_slice(), 5);
    let mut queue = queues(&device).remove(0);
    let mut batch = PacketBatch::new(8, 2048);
    ip("link set vpnt0 down");
    let off = queue.send_batch(packets());
    let refused = Sent {
        refused: 5,
        error: Some(libc::EIO),
        ..Sent::default()
    };
    assert_eq!(off, refused);
    // What the kernel had to say before is still there.
    while queue.recv_batch(&mut batch).unwrap() > 0 {}
    ip("link set vpnt0 up");
    assert_eq!(queue.send_batch(packets()).sent, 5);
    for _ in 0..5 {
        assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 2);
    }
    socket.send_to(b"outward", "10.9.0.2:7").unwrap();
    assert!(finds(std::slice::from_mut(&mut queue), b"outward"));
}

#[test]
fn a_device_that_is_gone_is_an_error_to_readers() {
    for super_packets in [false, true] {
        in_own_network(move || {
            let mut device = TunDevice::create_with("vpnt%d", 1, super_packets).unwrap();
            device.set_up().unwrap();
            let mut queue = queues(&device).remove(0);
            ip("link delete vpnt0");
            let gone = queue.send_batch([&packet(9)[..]]);
            assert_eq!((gone.refused, gone.error), (1, Some(libc::EBADFD)));
            let mut batch = PacketBatch::new(8, 2048);
            let error = queue.recv_batch(&mut batch).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
        });
    }
}

#[test]
fn impossible_names_are_refused() {
    in_own_network(|| {
        assert!(TunDevice::create("a-name-of-16-byt", 1).is_err());
        assert!(TunDevice::create("a/b", 1).is_err());
    });
}
