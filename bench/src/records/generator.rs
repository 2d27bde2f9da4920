//! Sends prepared datagrams in a closed loop: no more are under way than every queue holds.

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ocserv_sys::poller::Poller;
use ocserv_sys::udp::{Destination, RxBatch, TxBatch, UdpPort};

use super::raw::RawPort;

/// Datagrams that may be under way, at least and at most. A queue of veth holds 256 packets, and the
/// receive buffer of a socket (212 KB by default, a datagram counting as 2.3 KB) 92.
const LEAST_WINDOW: usize = 64;
const MOST_WINDOW: usize = 192;
/// Sent together, so that the window does not open and close packet by packet.
const CHUNK: usize = 32;
/// Longest datagram.
const LONGEST: usize = 2048;
/// What has not arrived by then is lost.
const PATIENCE: Duration = Duration::from_millis(100);

/// Datagrams ready to be sent.
#[derive(Default)]
pub struct Burst {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

struct Item {
    port: usize,
    to: SocketAddr,
    len: usize,
}

impl Burst {
    /// Empties it.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }

    /// Adds a datagram that `write` appends, returning its length; it will leave by the socket with
    /// this number.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn push(
        &mut self,
        port: usize,
        to: SocketAddr,
        write: impl FnOnce(&mut Vec<u8>) -> Result<usize>,
    ) -> Result<()> {
        let len = write(&mut self.bytes)?;
        ensure!(len <= LONGEST, "datagram of {len} bytes");
        self.items.push(Item { port, to, len });
        Ok(())
    }
}

/// A socket that packets leave by or arrive at.
#[derive(Clone, Copy)]
pub enum Port<'a> {
    /// Datagrams.
    Udp(&'a UdpPort),
    /// TCP segments; what arrives is for this port.
    Raw(&'a RawPort, u16),
}

impl AsFd for Port<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(port) => port.as_fd(),
            Self::Raw(port, _) => port.as_fd(),
        }
    }
}

/// Where datagrams arrive.
pub struct Sinks<'a> {
    ports: Vec<Port<'a>>,
    /// Lengths of what counts, for each port.
    expected: Vec<Vec<usize>>,
    poller: Poller,
    ready: Vec<u64>,
    batch: RxBatch,
    /// Of raw sockets.
    buffer: Vec<u8>,
    sample: Option<(usize, Vec<u8>)>,
    strangers: usize,
}

impl<'a> Sinks<'a> {
    /// Sockets, each with the lengths of the datagrams that count, or of the payloads of segments.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn new(ports: impl IntoIterator<Item = (Port<'a>, Vec<usize>)>) -> Result<Self> {
        let (ports, expected): (Vec<_>, Vec<_>) = ports.into_iter().unzip();
        let poller = Poller::new(ports.len())?;
        for (token, port) in (0..).zip(&ports) {
            poller.add(*port, token)?;
        }
        Ok(Self {
            ports,
            expected,
            poller,
            ready: Vec::new(),
            batch: RxBatch::new(CHUNK, LONGEST),
            buffer: Vec::new(),
            sample: None,
            strangers: 0,
        })
    }

    /// The last datagram that counted, with the number of its socket.
    pub fn take_sample(&mut self) -> Option<(usize, Vec<u8>)> {
        self.sample.take()
    }

    /// Datagrams of other lengths so far.
    pub fn strangers(&self) -> usize {
        self.strangers
    }

    /// Takes what is there, waiting for it at most so long, and returns how many count. `None`: nothing
    /// came.
    fn receive(&mut self, patience: Duration) -> Result<Option<usize>> {
        self.poller.wait(Some(patience), &mut self.ready)?;
        if self.ready.is_empty() {
            return Ok(None);
        }
        let mut arrived = 0;
        let ready = mem::take(&mut self.ready);
        for index in ready.iter().map(|token| *token as usize) {
            arrived += match self.ports[index] {
                Port::Udp(port) => self.receive_datagrams(index, port)?,
                Port::Raw(port, to) => self.receive_segments(index, port, to)?,
            };
        }
        self.ready = ready;
        Ok(Some(arrived))
    }

    fn receive_datagrams(&mut self, index: usize, port: &UdpPort) -> Result<usize> {
        let count = port.recv_batch(&mut self.batch)?;
        let expected = &self.expected[index];
        let good = (0..count).filter(|at| expected.contains(&self.batch.bytes(*at).len()));
        let good: Vec<_> = good.collect();
        self.strangers += count - good.len();
        if let (None, Some(last)) = (&self.sample, good.last()) {
            self.sample = Some((index, self.batch.bytes(*last).to_vec()));
        }
        Ok(good.len())
    }

    fn receive_segments(&mut self, index: usize, port: &RawPort, to: u16) -> Result<usize> {
        let Some(payload) = self.expected[index].first() else {
            return Ok(0);
        };
        let segments = port.receive(&mut self.buffer, to, *payload)?;
        self.strangers += segments.others;
        if self.sample.is_none() && segments.good > 0 {
            self.sample = Some((index, segments.last));
        }
        Ok(segments.good)
    }

    fn drain(&mut self) -> Result<()> {
        while self.receive(Duration::ZERO)?.is_some() {}
        Ok(())
    }
}

/// What became of a burst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Datagrams that arrived.
    pub delivered: usize,
    /// Datagrams that did not.
    pub lost: usize,
    /// Those of them that the kernel did not take.
    pub refused: usize,
    /// From the first sent to the last received.
    pub wall: Duration,
}

/// Sends whole bursts.
pub struct Generator {
    batch: TxBatch,
    /// How many may be under way.
    window: usize,
}

impl Generator {
    /// A generator without datagrams.
    pub fn new() -> Self {
        Self {
            batch: TxBatch::new(CHUNK, LONGEST),
            window: LEAST_WINDOW,
        }
    }

    /// Lets more be under way after a burst that arrived whole, fewer after one that did not. Says whether
    /// it is worth another try: not after losses, nor when no queue might hold more.
    pub fn adapt(&mut self, moved: &Moved) -> bool {
        if moved.lost > 0 {
            self.window = (self.window - CHUNK).max(LEAST_WINDOW);
            return false;
        }
        let before = self.window;
        self.window = (before + CHUNK).min(MOST_WINDOW);
        self.window > before
    }

    /// Sends a burst by `ports` and waits for its arrival in `sinks`.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn run(
        &mut self,
        burst: &Burst,
        ports: &[Port<'_>],
        sinks: &mut Sinks<'_>,
    ) -> Result<Moved> {
        sinks.drain()?;
        let started = Instant::now();
        let mut moved = Moved::default();
        let (mut sent, mut offset) = (0, 0);
        while moved.delivered + moved.lost < burst.items.len() {
            while sent < burst.items.len()
                && sent + CHUNK <= moved.delivered + moved.lost + self.window
            {
                let chunk = &burst.items[sent..(sent + CHUNK).min(burst.items.len())];
                let refused = self.send(chunk, &burst.bytes[offset..], ports);
                moved.lost += refused;
                moved.refused += refused;
                sent += chunk.len();
                offset += chunk.iter().map(|item| item.len).sum::<usize>();
            }
            match sinks.receive(PATIENCE)? {
                None => moved.lost = sent - moved.delivered,
                // What was written off can arrive after all.
                Some(count) => {
                    moved.delivered += count;
                    moved.lost = moved.lost.min(sent.saturating_sub(moved.delivered));
                }
            }
        }
        moved.wall = started.elapsed();
        Ok(moved)
    }

    /// Returns how many the kernel did not take.
    fn send(&mut self, chunk: &[Item], mut bytes: &[u8], ports: &[Port<'_>]) -> usize {
        let mut sent = 0;
        for (at, item) in chunk.iter().enumerate() {
            let (datagram, rest) = bytes.split_at(item.len);
            bytes = rest;
            let port = match (ports[item.port], item.to.ip()) {
                (Port::Udp(port), _) => port,
                (Port::Raw(port, _), IpAddr::V4(to)) => {
                    sent += usize::from(port.send(datagram, to));
                    continue;
                }
                (Port::Raw(..), IpAddr::V6(_)) => continue,
            };
            if let Some(buffer) = self.batch.buffer() {
                buffer[..item.len].copy_from_slice(datagram);
            }
            let to = Destination {
                peer: item.to,
                source: None,
                marking: None,
            };
            self.batch.commit(item.len, &to, 0);
            let next = chunk.get(at + 1);
            if next.is_none_or(|next| next.port != item.port) {
                sent += port.send_batch(&mut self.batch).sent;
            }
        }
        chunk.len() - sent
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use ocserv_sys::udp::{self, PathMtu, UdpPort};

    use super::{Burst, Generator, LEAST_WINDOW, MOST_WINDOW, Moved, Port, Sinks};

    fn port() -> UdpPort {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        UdpPort::new(udp::bind(any, false).unwrap(), PathMtu::Discover).unwrap()
    }

    fn burst(count: usize, to: SocketAddr, length: usize) -> Burst {
        let mut burst = Burst::default();
        for number in 0..count {
            let write = |out: &mut Vec<u8>| {
                out.resize(out.len() + length, 7);
                Ok(length)
            };
            burst.push(number % 2, to, write).unwrap();
        }
        burst
    }

    #[test]
    fn all_that_was_sent_is_counted() {
        let (one, other, sink) = (port(), port(), port());
        let mut sinks = Sinks::new([(Port::Udp(&sink), vec![100])]).unwrap();
        let burst = burst(1000, sink.local_addr(), 100);
        let mut generator = Generator::new();
        let moved = generator
            .run(&burst, &[Port::Udp(&one), Port::Udp(&other)], &mut sinks)
            .unwrap();
        assert_eq!((moved.delivered, moved.lost), (1000, 0));
        assert_eq!(sinks.take_sample(), Some((0, vec![7; 100])));
    }

    #[test]
    fn what_arrives_elsewhere_or_otherwise_is_lost() {
        let (one, other, sink) = (port(), port(), port());
        let mut sinks = Sinks::new([(Port::Udp(&sink), vec![100])]).unwrap();
        let mut generator = Generator::new();
        let lost = [
            burst(LEAST_WINDOW, one.local_addr(), 100),
            burst(LEAST_WINDOW, sink.local_addr(), 99),
        ];
        for burst in lost {
            let moved = generator
                .run(&burst, &[Port::Udp(&one), Port::Udp(&other)], &mut sinks)
                .unwrap();
            assert_eq!((moved.delivered, moved.lost), (0, LEAST_WINDOW));
        }
        assert_eq!(sinks.strangers(), LEAST_WINDOW);
        assert_eq!(sinks.take_sample(), None);
    }
    #[test]
    fn the_window_grows_until_something_is_lost() {
        let mut generator = Generator::new();
        let whole = Moved::default();
        while generator.adapt(&whole) {}
        assert_eq!(generator.window, MOST_WINDOW);
        let torn = Moved { lost: 1, ..whole };
        assert!(!generator.adapt(&torn));
        assert!(generator.window < MOST_WINDOW);
        for _ in 0..10 {
            generator.adapt(&torn);
        }
        assert_eq!(generator.window, LEAST_WINDOW);
    }
}
