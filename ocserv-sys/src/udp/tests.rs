use super::*;

fn port(address: &str) -> UdpPort {
    UdpPort::new(
        bind(address.parse().unwrap(), true).unwrap(),
        PathMtu::Discover,
    )
    .unwrap()
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
                full: 0,
                refused: 0
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
