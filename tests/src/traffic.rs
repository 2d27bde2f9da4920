//! Packets through the tunnel: echo, checked transfers, single datagrams.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::bed::{Bed, LAN4, LAN6};
use crate::client::Client;
use crate::namespace::Namespace;
use crate::wait;

/// A read or write of a transfer that takes longer is a failure.
const STALL: Duration = Duration::from_secs(20);
const CHUNK: usize = 64 * 1024;
/// Pause behind each chunk of a flow that shall last.
const PAUSE: Duration = Duration::from_millis(10);
/// What passes in each direction before and after a disturbance.
const AROUND: usize = 20 * CHUNK;

/// Sends echo requests until one is answered.
///
/// # Errors
/// When none was.
pub fn ping(from: &Namespace, to: &str) -> Result<()> {
    wait::until_true(
        &format!("an echo from {to} in {}", from.name()),
        wait::SHORT,
        || is_answered(from, to),
    )
}

/// Sends one echo request; true if it is answered within a second.
pub fn is_answered(from: &Namespace, to: &str) -> bool {
    from.output("ping", &["-n", "-q", "-c1", "-W1", to])
        .is_ok_and(|output| output.status.success())
}

/// Echoes from the client to the lan and back, in both address families.
///
/// # Errors
/// When one is not answered.
pub fn ping_all_ways(bed: &Bed, client: &Client) -> Result<()> {
    ping(client.namespace(), LAN4)?;
    ping(client.namespace(), LAN6)?;
    ping(bed.lan(), &client.address4()?)?;
    ping(bed.lan(), &client.address6()?)
}

/// Moves `bytes` bytes from the client to the lan and as many back, in both address families.
///
/// # Errors
/// When a transfer stalls, breaks or brings other bytes.
pub fn transfer_all_ways(bed: &Bed, client: &Client, bytes: usize) -> Result<()> {
    for (lan, own) in [(LAN4, client.address4()?), (LAN6, client.address6()?)] {
        transfer(client.namespace(), bed.lan(), lan, bytes).context("client to lan")?;
        transfer(bed.lan(), client.namespace(), &own, bytes).context("lan to client")?;
    }
    Ok(())
}

/// Keeps a TCP flow in each direction, one in either address family, while `disturbance` runs, and
/// some time before and after; compares checksums.
///
/// # Errors
/// As [`transfer_all_ways`], and those of `disturbance`.
pub fn transfer_during(
    bed: &Bed,
    client: &Client,
    disturbance: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let own = client.address6()?;
    transfer_to_during(bed, client, &own, disturbance)
}

/// As [`transfer_during`], with another address of the client.
///
/// # Errors
/// As [`transfer_during`].
pub fn transfer_to_during(
    bed: &Bed,
    client: &Client,
    own: &str,
    disturbance: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (up, down) = (Flow::lasting(), Flow::lasting());
    thread::scope(|scope| {
        let up_thread = scope.spawn(|| up.run(client.namespace(), bed.lan(), LAN4));
        let down_thread = scope.spawn(|| down.run(bed.lan(), client.namespace(), own));
        let pass = |flow: &Flow| {
            let goal = flow.arrived.load(Ordering::Relaxed) + AROUND;
            wait::until_true("the flow to move", wait::LONG, || {
                flow.arrived.load(Ordering::Relaxed) >= goal
            })
        };
        let both = || {
            pass(&up)
                .context("client to lan")
                .and(pass(&down).context("lan to client"))
        };
        let outcome = both()
            .context("before")
            .and_then(|()| disturbance())
            .and_then(|()| both().context("after"));
        for flow in [&up, &down] {
            flow.limit.store(0, Ordering::Relaxed);
        }
        for (name, flow) in [("client to lan", up_thread), ("lan to client", down_thread)] {
            let result = flow.join().map_err(|_| anyhow!("a flow panicked"))?;
            result.context(name)?;
        }
        outcome
    })
}

/// Sends `bytes` bytes over TCP to `address`, which is in `to`, and compares checksums.
///
/// # Errors
/// As [`transfer_all_ways`].
pub fn transfer(from: &Namespace, to: &Namespace, address: &str, bytes: usize) -> Result<()> {
    Flow::of(bytes).run(from, to, address)
}

/// Bytes in one direction.
struct Flow {
    /// Ends when so many bytes are sent.
    limit: AtomicUsize,
    arrived: AtomicUsize,
    pause: Duration,
}

impl Flow {
    const fn of(bytes: usize) -> Self {
        Self {
            limit: AtomicUsize::new(bytes),
            arrived: AtomicUsize::new(0),
            pause: Duration::ZERO,
        }
    }

    const fn lasting() -> Self {
        Self {
            pause: PAUSE,
            ..Self::of(usize::MAX)
        }
    }

    fn run(&self, from: &Namespace, to: &Namespace, address: &str) -> Result<()> {
        let address: IpAddr = address.parse().context("address")?;
        let listener = to.run(|| TcpListener::bind((address, 0)))??;
        let target = listener.local_addr()?;
        let (sent, received) = thread::scope(|scope| {
            let receiver = scope.spawn(|| self.receive(&listener));
            let sent = from.run(|| self.send(target)).and_then(|result| result);
            if sent.is_err() {
                // Wakes the receiver up if nothing has reached it.
                let _ = to.run(|| TcpStream::connect_timeout(&target, STALL));
            }
            let received = receiver.join().map_err(|_| anyhow!("receiver panicked"))?;
            sent.and_then(|sent| Ok((sent, received?)))
        })?;
        if sent != received {
            bail!("sent {sent:?}, received {received:?}");
        }
        Ok(())
    }

    fn send(&self, target: SocketAddr) -> Result<Summary> {
        let mut stream = TcpStream::connect_timeout(&target, STALL).context("connect")?;
        stream.set_write_timeout(Some(STALL))?;
        stream.set_read_timeout(Some(STALL))?;
        let mut summary = Summary::new();
        let mut chunk = vec![0; CHUNK];
        let mut state = 1_u32;
        loop {
            let left = self
                .limit
                .load(Ordering::Relaxed)
                .saturating_sub(summary.bytes);
            if left == 0 {
                break;
            }
            for byte in &mut chunk {
                // Numerical Recipes' generator: bytes that neither repeat nor compress.
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
            let part = &chunk[..CHUNK.min(left)];
            stream.write_all(part).context("send")?;
            summary.add(part);
            if !self.pause.is_zero() {
                thread::sleep(self.pause);
            }
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        // The end of the other direction says that everything has arrived.
        stream.read(&mut [0]).context("confirmation")?;
        Ok(summary)
    }

    fn receive(&self, listener: &TcpListener) -> Result<Summary> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(STALL))?;
        let mut summary = Summary::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = stream.read(&mut chunk).context("receive")?;
            if length == 0 {
                return Ok(summary);
            }
            summary.add(&chunk[..length]);
            self.arrived.store(summary.bytes, Ordering::Relaxed);
        }
    }
}

/// Length and checksum of what passed.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    bytes: usize,
    checksum: u64,
}

impl Summary {
    const fn new() -> Self {
        const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        Self {
            bytes: 0,
            checksum: FNV_OFFSET,
        }
    }

    fn add(&mut self, data: &[u8]) {
        const FNV_PRIME: u64 = 0x0100_0000_01b3;
        self.bytes += data.len();
        for byte in data {
            self.checksum = (self.checksum ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

/// Sends datagrams from `source` to a socket on the lan host for a second at most; true as soon as
/// one arrives. `source` must be an address of the client's machine.
///
/// # Errors
/// When a socket cannot be opened.
pub fn datagram_arrives(client: &Client, bed: &Bed, source: &str, lan: &str) -> Result<bool> {
    const TRIES: usize = 10;
    let lan: IpAddr = lan.parse()?;
    let source: IpAddr = source.parse()?;
    let receiver = bed.lan().run(|| UdpSocket::bind((lan, 0)))??;
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let target = receiver.local_addr()?;
    let sender = client.namespace().run(|| UdpSocket::bind((source, 0)))??;
    let own = sender.local_addr()?;
    for _ in 0..TRIES {
        sender.send_to(b"is this address mine?", target)?;
        if let Ok((_, from)) = receiver.recv_from(&mut [0; 64]) {
            return Ok(from == own);
        }
    }
    Ok(false)
}
