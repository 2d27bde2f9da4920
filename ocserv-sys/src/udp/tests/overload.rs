//! Sockets that are full, refused or aborted, and work again.

use super::*;

/// In a network with a cable to nowhere: who is behind it is asked for, and does not answer.
fn with_a_silent_neighbour(test: impl FnOnce() + Send + 'static) {
    with_short_loopback(|| {
        run("ip link add wan type veth peer name far");
        run("ip link set wan up");
        run("ip link set far up");
        run("ip address add 10.7.0.1/24 dev wan");
        test();
    });
}

/// A port whose socket has as little room as the kernel allows.
fn narrow_port(address: &str) -> UdpPort {
    let port = port(address);
    let (level, option) = (libc::SOL_SOCKET, libc::SO_SNDBUF);
    message::set_int_option(port.as_fd(), level, option, 0).unwrap();
    port
}

fn send(port: &UdpPort, batch: &mut TxBatch, lens: &[usize]) -> SendReport {
    let to = plain("10.7.0.2:9".parse().unwrap());
    for (tag, len) in lens.iter().enumerate() {
        push(batch, &numbered(0, *len), &to, tag as u32);
    }
    port.send_batch(batch)
}

#[test]
fn a_full_socket_loses_the_rest_of_the_batch_and_recovers() {
    with_a_silent_neighbour(|| {
        let port = narrow_port("10.7.0.1:0");
        let mut batch = TxBatch::new(64, 2000);
        // No two of one length, so that each is a message.
        let lens: Vec<usize> = (0..40).map(|at| 1000 + at).collect();
        let report = send(&port, &mut batch, &lens);
        // They wait for the neighbour and fill the socket.
        assert!(report.sent > 0 && report.full > 0, "{report:?}");
        assert_eq!((report.sent + report.full, report.refused), (40, 0));
        assert_eq!(report.error, Some(libc::EAGAIN));
        let lost: Vec<u32> = (report.sent as u32..40).collect();
        assert_eq!(batch.lost(), lost);
        let still = send(&port, &mut batch, &lens);
        assert_eq!((still.sent, still.full), (0, 40));

        run("ip neighbour replace 10.7.0.2 lladdr 02:00:00:00:00:02 dev wan");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while send(&port, &mut batch, &lens[..1]).sent == 0 {
            assert!(std::time::Instant::now() < deadline, "stays full");
            std::thread::yield_now();
        }
        assert!(batch.lost().is_empty());
        assert!(port.cuts_runs.load(Ordering::Relaxed));
    });
}

#[test]
fn a_network_that_is_off_refuses_each_and_recovers() {
    with_a_silent_neighbour(|| {
        run("ip neighbour replace 10.7.0.2 lladdr 02:00:00:00:00:02 dev wan");
        let port = port("10.7.0.1:0");
        let mut batch = TxBatch::new(64, 2000);
        run("ip link set wan down");
        let report = send(&port, &mut batch, &[100; 8]);
        let error = Some(libc::ENETUNREACH);
        let refused = SendReport {
            refused: 8,
            error,
            ..SendReport::default()
        };
        assert_eq!(report, refused);
        assert_eq!(batch.lost(), [0, 1, 2, 3, 4, 5, 6, 7]);
        run("ip link set wan up");
        assert_eq!(send(&port, &mut batch, &[100; 8]).sent, 8);
        assert!(port.cuts_runs.load(Ordering::Relaxed));
    });
}

#[test]
fn an_aborted_socket_receives_what_comes_next() {
    with_short_loopback(|| {
        // With a number that the kernel chose it would lose that.
        let server = port("127.0.0.1:4443");
        let client = port("127.0.0.1:0");
        run("ss -K -u -a sport = :4443");
        let mut received = RxBatch::new(4, 100);
        assert_eq!(server.recv_batch(&mut received).unwrap(), 0);
        let mut out = TxBatch::new(4, 100);
        push(&mut out, b"on", &plain(server.local_addr()), 0);
        assert_eq!(client.send_batch(&mut out).sent, 1);
        assert_eq!(receive(&server, &mut received, 1).0, [b"on"]);
    });
}
