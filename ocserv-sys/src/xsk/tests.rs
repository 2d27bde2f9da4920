//! In networks of their own. Needs root.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::*;
use crate::tun::tests::{in_own_network, ip};

mod program;

const FRAMES: u32 = 64;
const SIZE: u32 = 2048;

fn frames(memory: &FrameMemory) -> Frames {
    let file = std::os::fd::AsFd::as_fd(memory)
        .try_clone_to_owned()
        .unwrap();
    Frames::map(&file, SIZE).unwrap()
}

/// A veth pair: `xa`, whose other end `xb` has an address.
fn cable() -> (u32, u32) {
    ip("link add xa type veth peer name xb");
    ip("addr add 10.9.0.1/24 dev xb");
    ip("link set xa up");
    ip("link set xb up");
    let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
    (index("xa"), index("xb"))
}

/// A UDP datagram of 10.9.0.2 to port 4000 of 10.9.0.1 in an Ethernet frame to all.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let len = 28 + payload.len() as u16;
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1,
    ];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let sum =
        !ocserv_common::offload::checksum::fold(ocserv_common::offload::checksum::sum(&packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x10, 0, 0x0f, 0xa0]);
    packet.extend((len - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(packet);
    frame
}

fn socket(fd: OwnedFd) -> Socket {
    Socket::new(fd).unwrap()
}

#[test]
fn frames_are_taken_and_given_back() {
    let memory = FrameMemory::create(FRAMES, SIZE).unwrap();
    let mut frames = frames(&memory);
    assert_eq!((frames.count(), frames.free()), (64, 64));
    let taken: Vec<_> = std::iter::from_fn(|| frames.take()).collect();
    assert_eq!((taken.len(), frames.free()), (64, 0));
    for (n, mut frame) in (0..).zip(taken) {
        frames.whole(&frame).fill(n);
        frame.set_packet(100, 3);
        assert_eq!(frames.packet(&frame), [n; 3]);
        frame.set_packet(2047, 2);
        assert_eq!(
            (frames.packet(&frame).len(), frames.bytes(&frame).len()),
            (0, 0)
        );
        frame.set_packet(70_000, 1);
        assert!(frames.packet(&frame).is_empty());
        frames.give_back(frame);
    }
    assert_eq!(frames.free(), 64);
}

#[test]
fn two_frames_are_two_places() {
    let memory = FrameMemory::create(2, SIZE).unwrap();
    let mut frames = frames(&memory);
    let (mut one, other) = (frames.take().unwrap(), frames.take().unwrap());
    frames.whole(&one).fill(1);
    one.set_packet(5, 7);
    let (packet, whole) = frames.packet_and_whole(&one, &other);
    whole.fill(2);
    assert_eq!(packet, [1; 7]);
}

#[test]
fn memory_of_another_form_is_refused() {
    for (frames, size) in [(0, 2048), (4, 1024), (4, 3000), (4, 8192)] {
        assert!(
            FrameMemory::create(frames, size).is_err(),
            "{frames} of {size}"
        );
    }
    let memory = FrameMemory::create(3, 2048).unwrap();
    let file = std::os::fd::AsFd::as_fd(&memory)
        .try_clone_to_owned()
        .unwrap();
    assert!(Frames::map(&file, 4096).is_err(), "no whole frames");
    let unsealed = crate::memfd::create(c"test").unwrap();
    nix::unistd::ftruncate(&unsealed, 4096).unwrap();
    assert!(Frames::map(&unsealed, 2048).is_err());
}

#[test]
fn a_queue_has_one_socket() {
    in_own_network(|| {
        let (a, b) = cable();
        let mut memory = FrameMemory::create(FRAMES, SIZE).unwrap();
        let _first = open(&mut memory, a, 0).unwrap();
        let mut other = FrameMemory::create(FRAMES, SIZE).unwrap();
        let taken = open(&mut other, a, 0).unwrap_err();
        assert_eq!(taken.raw_os_error(), Some(libc::EBUSY));
        let no_queue = open(&mut other, a, 60).unwrap_err();
        assert_eq!(no_queue.raw_os_error(), Some(libc::EINVAL));
        open(&mut memory, b, 0).expect("the same memory, another device");
    });
}

#[test]
fn what_is_put_to_be_sent_arrives_and_frees_its_frame() {
    in_own_network(|| {
        let (a, _) = cable();
        let receiver = UdpSocket::bind("10.9.0.1:4000").unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut memory = FrameMemory::create(FRAMES, SIZE).unwrap();
        let mut socket = socket(open(&mut memory, a, 0).unwrap());
        let mut frames = frames(&memory);
        // More than there are frames, so that they come back.
        for n in 0..200u8 {
            socket.reclaim(&mut frames);
            let mut frame = frames.take().unwrap();
            let bytes = datagram(&[n; 20]);
            frames.whole(&frame)[77..77 + bytes.len()].copy_from_slice(&bytes);
            frame.set_packet(77, bytes.len());
            socket.send(&mut frames, frame).unwrap();
            assert!(socket.flush(&mut frames).unwrap());
            let mut buffer = [0; 100];
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..len], [n; 20]);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while frames.free() < 64 && Instant::now() < deadline {
            socket.reclaim(&mut frames);
        }
        assert_eq!(frames.free(), 64);
        ip("link set xa down");
        let frame = frames.take().unwrap();
        socket.send(&mut frames, frame).unwrap();
        assert!(socket.flush(&mut frames).is_err(), "the device is off");
        socket.end(&mut frames);
        assert_eq!(frames.free(), 64, "what it had is free again");
    });
}

#[test]
fn what_a_program_hands_over_is_received() {
    in_own_network(|| {
        let (a, b) = cable();
        let mut memory = FrameMemory::create(FRAMES, SIZE).unwrap();
        let fd = open(&mut memory, a, 0).unwrap();
        let number = fd.as_raw_fd();
        let mut socket = socket(fd);
        let mut frames = frames(&memory);
        socket.refill(&mut frames, 16);
        assert_eq!(frames.free(), 48);
        let _link = program::hand_over_all(a, number);
        let mut sender = FrameMemory::create(FRAMES, SIZE).unwrap();
        let mut other = super::tests::socket(open(&mut sender, b, 0).unwrap());
        let mut its = super::tests::frames(&sender);
        let mut seen = 0;
        for n in 0..100u8 {
            let mut frame = its.take().unwrap();
            let bytes = datagram(&[n; 30]);
            its.whole(&frame)[..bytes.len()].copy_from_slice(&bytes);
            frame.set_packet(0, bytes.len());
            other.send(&mut its, frame).unwrap();
            other.flush(&mut its).unwrap();
            let mut batch = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(5);
            while batch.is_empty() && Instant::now() < deadline {
                let mut came = Vec::new();
                socket.receive(&mut frames, &mut came, 8);
                other.reclaim(&mut its);
                for frame in came {
                    // What the host says by itself, of neighbours and groups, is received too.
                    if frames.bytes(&frame).len() == bytes.len() {
                        batch.push(frame);
                    } else {
                        frames.give_back(frame);
                    }
                }
                socket.refill(&mut frames, 16);
            }
            let frame = batch.pop().expect("received");
            assert_eq!(frames.bytes(&frame), bytes);
            assert!(frame.start() >= 128, "room for headers before it");
            frames.give_back(frame);
            socket.refill(&mut frames, 16);
            seen += 1;
        }
        assert_eq!(seen, 100);
        assert_eq!(socket.lost().unwrap(), Lost::default());
    });
}
