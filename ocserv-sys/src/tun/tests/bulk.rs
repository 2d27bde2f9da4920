//! TCP between the kernels of two networks, whose packets pass our queues.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use super::kernel::received;
use super::*;

const BYTES: usize = 2 << 20;

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect()
}

/// A thread in a network with a device, and with an end of the connection.
struct End {
    thread: std::thread::JoinHandle<u64>,
    queue: TunQueue,
}

/// Runs `work` behind a device of its own, and then tells how many packets the host got from that.
fn end((own, super_packets): (&'static str, bool), work: impl FnOnce() + Send + 'static) -> End {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        let mut device = TunDevice::create_with("vpnt%d", 1, super_packets).unwrap();
        device.set_mtu(1400).unwrap();
        device.set_up().unwrap();
        let flags = if own.contains(':') {
            "nodad"
        } else {
            "scope global"
        };
        ip(&format!("addr add {own} dev vpnt0 {flags}"));
        sender.send(queues(&device).remove(0)).unwrap();
        work();
        received(&device)
    });
    End {
        thread,
        queue: receiver.recv().unwrap(),
    }
}

/// Carries packets between both until told to stop; how many.
fn pump(mut queues: [TunQueue; 2], stop: &AtomicBool) -> u64 {
    let mut batch = PacketBatch::new(64, 2048);
    let mut passed = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut fds: Vec<_> = queues
            .iter()
            .map(|queue| PollFd::new(queue.as_fd(), PollFlags::POLLIN))
            .collect();
        poll(&mut fds, PollTimeout::from(20u16)).unwrap();
        let [a, b] = &mut queues;
        passed += carry(a, b, &mut batch) + carry(b, a, &mut batch);
    }
    passed
}

fn carry(from: &mut TunQueue, to: &mut TunQueue, batch: &mut PacketBatch) -> u64 {
    let mut passed = 0;
    loop {
        let count = from.recv_batch(batch).unwrap();
        let sent = to.send_batch((0..count).map(|index| batch.packet(index)));
        assert_eq!((sent.sent, sent.refused), (count, 0));
        passed += count as u64;
        if !from.has_rest() {
            return passed;
        }
    }
}

/// Both directions of a connection; packets carried, and those that the hosts counted.
fn exchange(family: [&'static str; 3], super_packets: [bool; 2]) -> (u64, u64) {
    let [server, client, connect] = family;
    let (ready, listening) = mpsc::channel();
    let far = end((server, super_packets[0]), move || {
        let listener = TcpListener::bind(connect).unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; BYTES];
        stream.read_exact(&mut bytes).unwrap();
        assert!(bytes == pattern());
        stream.write_all(&bytes).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    listening.recv().unwrap();
    let near = end((client, super_packets[1]), move || {
        let mut stream = TcpStream::connect(connect).unwrap();
        stream.write_all(&pattern()).unwrap();
        let mut bytes = vec![0; BYTES];
        stream.read_exact(&mut bytes).unwrap();
        assert!(bytes == pattern());
    });
    let stop = Arc::new(AtomicBool::new(false));
    let pumping = {
        let stop = Arc::clone(&stop);
        let queues = [far.queue, near.queue];
        std::thread::spawn(move || pump(queues, &stop))
    };
    let counted = near.thread.join().unwrap() + far.thread.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    (pumping.join().unwrap(), counted)
}

#[test]
fn tcp_passes_between_devices_with_and_without_super_packets() {
    for family in [
        ["10.9.0.1/24", "10.9.0.2/24", "10.9.0.1:80"],
        ["fd09::1/64", "fd09::2/64", "[fd09::1]:80"],
    ] {
        for super_packets in [[false, false], [false, true], [true, false], [true, true]] {
            let (carried, counted) = exchange(family, super_packets);
            assert!(carried as usize > 2 * BYTES / 1400);
            // Some housekeeping comes after the count.
            assert!(counted <= carried);
            if super_packets == [true, true] {
                assert!(counted < carried / 2, "{counted} of {carried}");
            }
        }
    }
}
