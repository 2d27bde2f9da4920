use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use nix::sched::{CloneFlags, unshare};

use super::*;

mod overload;

fn port(address: &str) -> UdpPort {
    port_with(address, PathMtu::Discover)
}

fn port_with(address: &str, path_mtu: PathMtu) -> UdpPort {
    let port = UdpPort::new(bind(address.parse().unwrap(), true).unwrap(), path_mtu).unwrap();
    assert!(port.merges && port.cuts_runs.load(Ordering::Relaxed));
    port
}

/// A port on a kernel that merges nothing.
fn port_without_merging(address: &str) -> UdpPort {
    let mut port = port(address);
    let option = (libc::SOL_UDP, libc::UDP_GRO);
    message::set_int_option(port.as_fd(), option.0, option.1, 0).unwrap();
    port.merges = false;
    port
}

fn plain(peer: SocketAddr) -> Destination {
    Destination {
        peer,
        source: None,
        marking: None,
    }
}

/// Bytes of one length that differ from those of another number.
fn numbered(number: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u32 ^ number) as u8).collect()
}

/// The next `count` datagrams, and how many each call brought.
fn receive(port: &UdpPort, batch: &mut RxBatch, count: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
    let (mut all, mut calls) = (Vec::new(), Vec::new());
    while all.len() < count {
        wait(port);
        let len = port.recv_batch(batch).unwrap();
        all.extend((0..len).map(|index| batch.bytes(index).to_vec()));
        calls.push(len);
    }
    assert_eq!(port.recv_batch(batch).unwrap(), 0);
    (all, calls)
}

/// Runs `test` in a thread with a network of its own, whose loopback takes packets of 1500 bytes.
fn with_short_loopback(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        run("ip link set lo up mtu 1500");
        test();
    });
    thread.join().unwrap();
}

/// Runs a command, which must succeed; its words are separated by blanks.
fn run(command: &str) {
    let mut words = command.split(' ');
    let mut program = Command::new(words.next().unwrap());
    let status = program.args(words).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command}");
}

fn push(batch: &mut TxBatch, bytes: &[u8], to: &Destination, tag: u32) {
    batch.buffer().unwrap()[..bytes.len()].copy_from_slice(bytes);
    batch.commit(bytes.len(), to, tag);
}

/// Waits until something can be read.
fn wait(port: &UdpPort) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(5000u16)).unwrap(), 1);
}

/// As a service manager hands it over: for both families.
fn port_for_both(path_mtu: PathMtu) -> UdpPort {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.bind(&any.into()).unwrap();
    UdpPort::new(socket.into(), path_mtu).unwrap()
}

#[test]
fn a_socket_for_both_families_serves_ipv4_too() {
    let server = port_for_both(PathMtu::Discover);
    let client = port("127.0.0.1:0");
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), server.local_addr().port());
    let target = at("127.0.0.53");
    let mut out = TxBatch::new(8, 100);
    push(&mut out, b"question", &plain(target), 1);
    assert_eq!(client.send_batch(&mut out).sent, 1);
    let mut received = RxBatch::new(8, 100);
    wait(&server);
    assert_eq!(server.recv_batch(&mut received).unwrap(), 1);
    let datagram = received.datagram(0);
    let addresses = (datagram.local, datagram.peer);
    assert_eq!(addresses, (target, client.local_addr()));
    assert!(server.serves(target) && server.serves(at("::1")));

    let answer = Destination {
        source: Some(target.ip()),
        marking: Some(Marking::Tos(0x10)),
        ..plain(client.local_addr())
    };
    for number in 0..3 {
        push(&mut out, b"answer", &answer, number);
    }
    assert_eq!(server.send_batch(&mut out).sent, 3);
    wait(&client);
    assert_eq!(client.recv_batch(&mut received).unwrap(), 3);
    let datagram = received.datagram(2);
    assert_eq!((datagram.peer, datagram.tos), (target, 0x10));
    assert_eq!(datagram.bytes, b"answer");
}

#[test]
fn a_socket_for_one_family_serves_no_other() {
    for (any, own, other) in [
        ("[::]:0", "::1", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1", "::1"),
    ] {
        let port = port(any);
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port.local_addr().port());
        assert!(port.serves(at(own)) && !port.serves(at(other)));
    }
}

#[test]
fn a_socket_for_both_families_treats_long_datagrams_of_both_alike() {
    with_short_loopback(|| {
        for (path_mtu, expected) in [(PathMtu::Discover, &[7][..]), (PathMtu::Fragment, &[])] {
            let server = port_for_both(path_mtu);
            for ip in ["127.0.0.1", "::1"] {
                let mut out = TxBatch::new(1, 2000);
                let peer = SocketAddr::new(ip.parse().unwrap(), 9);
                push(&mut out, &[0; 1600], &plain(peer), 7);
                server.send_batch(&mut out);
                assert_eq!(out.too_long(), expected, "{path_mtu:?} {ip}");
            }
        }
    });
}

#[test]
fn a_batch_arrives_with_both_addresses() {
    for (any, from, ip) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.53"),
        ("[::]:0", "[::1]:0", "::1"),
    ] {
        let server = port(any);
        let client = port(from);
        let ip: IpAddr = ip.parse().unwrap();
        let target = SocketAddr::new(ip, server.local_addr().port());
        let to = Destination {
            peer: target,
            source: None,
            marking: Some(Marking::Tos(0x10)),
        };
        let mut out = TxBatch::new(8, 100);
        push(&mut out, b"one", &to, 1);
        push(&mut out, b"three", &to, 2);
        assert_eq!(
            client.send_batch(&mut out),
            SendReport {
                sent: 2,
                ..SendReport::default()
            }
        );
        assert!(out.is_empty());

        let mut received = RxBatch::new(8, 100);
        wait(&server);
        assert_eq!(server.recv_batch(&mut received).unwrap(), 2);
        let datagram = received.datagram(1);
        assert_eq!(datagram.bytes, b"three");
        assert_eq!(datagram.local, target);
        assert_eq!(datagram.peer, client.local_addr());
        assert_eq!(datagram.tos, 0x10);
        assert_eq!(server.recv_batch(&mut received).unwrap(), 0);

        let back = Destination {
            peer: client.local_addr(),
            source: Some(ip),
            marking: None,
        };
        push(&mut out, b"answer", &back, 3);
        assert_eq!(server.send_batch(&mut out).sent, 1);
        wait(&client);
        assert_eq!(client.recv_batch(&mut received).unwrap(), 1);
        assert_eq!(
            received.datagram(0).peer,
            target,
            "the answer leaves from the address asked"
        );
    }
}

#[test]
fn a_datagram_too_long_for_the_path_is_named_and_the_others_go() {
    let server = port("127.0.0.1:0");
    let client = port("127.0.0.1:0");
    let to = Destination {
        peer: server.local_addr(),
        source: None,
        marking: None,
    };
    let mut out = TxBatch::new(4, 70_000);
    push(&mut out, b"a", &to, 10);
    push(&mut out, &[0; 65_520], &to, 11);
    push(&mut out, b"b", &to, 12);
    assert_eq!(client.send_batch(&mut out).sent, 2);
    assert_eq!(out.too_long(), [11]);
}

#[test]
fn a_datagram_longer_than_its_buffer_is_refused() {
    let server = port("127.0.0.1:0");
    let client = port("127.0.0.1:0");
    let to = Destination {
        peer: server.local_addr(),
        source: None,
        marking: None,
    };
    let mut out = TxBatch::new(4, 200);
    push(&mut out, &[1; 101], &to, 0);
    push(&mut out, &[2; 100], &to, 0);
    assert_eq!(client.send_batch(&mut out).sent, 2);
    let mut received = RxBatch::new(4, 100);
    wait(&server);
    assert_eq!(server.recv_batch(&mut received).unwrap(), 1);
    assert_eq!(received.datagram(0).bytes, [2; 100]);
    assert_eq!(received.refused(), 1);
}

#[test]
fn a_full_batch_offers_no_buffer() {
    let to = Destination {
        peer: "127.0.0.1:9".parse().unwrap(),
        source: None,
        marking: None,
    };
    let mut out = TxBatch::new(1, 10);
    push(&mut out, b"x", &to, 0);
    assert!(out.buffer().is_none());
}

#[test]
fn two_sockets_share_a_port_only_when_asked() {
    let first = port("127.0.0.1:0");
    assert!(bind(first.local_addr(), true).is_ok());
    assert!(bind(first.local_addr(), false).is_err());
    assert!(first.serves(first.local_addr()));
    assert!(!first.serves("127.0.0.1:1".parse().unwrap()));
}

#[test]
fn runs_arrive_as_the_datagrams_that_they_were_made_of() {
    for (address, merging) in [
        ("127.0.0.1:0", true),
        ("127.0.0.1:0", false),
        ("[::1]:0", true),
        ("[::1]:0", false),
    ] {
        let server = if merging {
            port(address)
        } else {
            port_without_merging(address)
        };
        let client = port(address);
        let to = Destination {
            peer: server.local_addr(),
            source: Some(client.local_addr().ip()),
            marking: Some(Marking::Tos(8)),
        };
        let lens = [[1400; 60].as_slice(), &[700], &[90; 30], &[1400, 1, 2, 3]].concat();
        let sent: Vec<_> = (0u32..)
            .zip(&lens)
            .map(|(n, len)| numbered(n, *len))
            .collect();
        let mut out = TxBatch::new(100, 1500);
        for bytes in &sent {
            push(&mut out, bytes, &to, 0);
        }
        assert_eq!(client.send_batch(&mut out).sent, sent.len());

        // In two buffers there is more than two datagrams only if they came as runs.
        let mut received = RxBatch::new(2, 1500);
        wait(&server);
        let first = server.recv_batch(&mut received).unwrap();
        for (index, wanted) in sent.iter().enumerate().take(first) {
            let Received {
                peer,
                local,
                tos,
                bytes,
            } = received.datagram(index);
            assert_eq!((peer, local), (client.local_addr(), server.local_addr()));
            assert_eq!(tos, 8);
            assert_eq!(bytes, wanted);
        }
        assert_eq!(first > 2, merging);
        let (rest, _) = receive(&server, &mut received, sent.len() - first);
        assert_eq!(rest, sent[first..]);
        assert_eq!(received.refused(), 0);
    }
}

#[test]
fn a_batch_of_merged_datagrams_stays_within_bounds() {
    let server = port("127.0.0.1:0");
    let client = port("127.0.0.1:0");
    let to = plain(server.local_addr());
    let mut out = TxBatch::new(64 * 20, 100);
    for _ in 0..64 * 20 {
        push(&mut out, &[7; 100], &to, 0);
    }
    assert_eq!(client.send_batch(&mut out).sent, 64 * 20);
    let mut received = RxBatch::new(64, 100);
    let (all, calls) = receive(&server, &mut received, 64 * 20);
    assert_eq!(all, vec![[7; 100]; 64 * 20]);
    // Sixteen messages of the 64 datagrams that this sender puts into one.
    assert!(calls.iter().all(|len| *len <= 64 * 16 && *len % 64 == 0));
}

#[test]
fn each_destination_gets_its_own_in_order() {
    let servers = [port("127.0.0.1:0"), port("127.0.0.1:0")];
    let client = port("127.0.0.1:0");
    let mut out = TxBatch::new(64, 100);
    let mut wanted = [Vec::new(), Vec::new()];
    for number in 0..60 {
        let server = usize::from(number % 7 < 3);
        let bytes = numbered(number, if number % 5 == 0 { 40 } else { 50 });
        push(&mut out, &bytes, &plain(servers[server].local_addr()), 0);
        wanted[server].push(bytes);
    }
    assert_eq!(client.send_batch(&mut out).sent, 60);
    let mut received = RxBatch::new(64, 100);
    for (server, wanted) in servers.iter().zip(wanted) {
        assert_eq!(receive(server, &mut received, wanted.len()).0, wanted);
    }
}

#[test]
fn of_merged_datagrams_only_those_longer_than_a_buffer_are_refused() {
    let server = port("127.0.0.1:0");
    let client = port("127.0.0.1:0");
    let to = plain(server.local_addr());
    let mut out = TxBatch::new(4, 200);
    for len in [101, 101, 100] {
        push(&mut out, &numbered(0, len), &to, 0);
    }
    assert_eq!(client.send_batch(&mut out).sent, 3);
    let mut received = RxBatch::new(1, 100);
    wait(&server);
    assert_eq!(server.recv_batch(&mut received).unwrap(), 1);
    assert_eq!(received.bytes(0), numbered(0, 100));
    assert_eq!(received.refused(), 2);
}

#[test]
fn after_a_refusal_of_runs_datagrams_go_one_by_one() {
    let server = port("127.0.0.1:0");
    let client = port("127.0.0.1:0");
    client.cuts_runs.store(false, Ordering::Relaxed);
    let to = plain(server.local_addr());
    let mut out = TxBatch::new(8, 100);
    for _ in 0..8 {
        push(&mut out, &[1; 100], &to, 0);
    }
    assert_eq!(client.send_batch(&mut out).sent, 8);
    let mut received = RxBatch::new(2, 100);
    let (all, calls) = receive(&server, &mut received, 8);
    assert_eq!(all, vec![[1; 100]; 8]);
    // Two messages a call.
    assert!(calls.iter().all(|len| *len <= 2));
}

#[test]
fn of_runs_too_long_for_the_path_exactly_those_that_do_not_fit_are_named() {
    with_short_loopback(|| {
        for (address, fits) in [("127.0.0.1:0", 1472), ("[::1]:0", 1452)] {
            let server = port(address);
            let client = port(address);
            let to = plain(server.local_addr());
            let mut out = TxBatch::new(16, 2000);
            let over = fits + 1;
            let lens = [fits, fits, 20, over, over, over, fits, fits, over, 30];
            for (tag, len) in lens.iter().enumerate() {
                push(&mut out, &numbered(tag as u32, *len), &to, tag as u32);
            }
            let report = client.send_batch(&mut out);
            assert_eq!((report.sent, report.full, report.refused), (6, 0, 0));
            assert_eq!(out.too_long(), [3, 4, 5, 8]);
            assert!(out.lost().is_empty());
            assert!(client.cuts_runs.load(Ordering::Relaxed));
            let mut received = RxBatch::new(16, 2000);
            let arrived = receive(&server, &mut received, 6).0;
            let wanted = [0u32, 1, 2, 6, 7, 9].map(|tag| numbered(tag, lens[tag as usize]));
            assert_eq!(arrived, wanted);
        }
    });
}

#[test]
fn runs_too_long_for_the_path_go_in_fragments_where_that_is_wanted() {
    with_short_loopback(|| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = port(address);
            let client = port_with(address, PathMtu::Fragment);
            let to = plain(server.local_addr());
            let mut out = TxBatch::new(16, 4000);
            let sent = [3000, 3000, 2000, 100, 100].map(|len| numbered(len, len as usize));
            for bytes in &sent {
                push(&mut out, bytes, &to, 0);
            }
            assert_eq!(client.send_batch(&mut out).sent, 5);
            assert!(out.too_long().is_empty());
            let mut received = RxBatch::new(16, 4000);
            assert_eq!(receive(&server, &mut received, 5).0, sent);
        }
    });
}
