//! Streams of numbered packets at the same time: what of it arrives, in which order, after how long.
//!
//! One thread seals, sends, receives and opens, whatever is ready first. A windowed stream has so many
//! packets under way: those behind the highest number that has arrived, so that a loss costs no waiting.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ocserv_sys::poller::Poller;
use ocserv_sys::udp::{Destination, RxBatch, TxBatch, UdpPort};
use ocserv_tests::bed::{GATEWAY4, LAN4, PORT};

use super::stamp::Stamp;
use super::tally::Tally;
use crate::records::Direction;
use crate::records::contender::Contender;
use crate::records::packet;
use crate::records::path::{FLOW_PORT, SINK_PORT, bind};
use crate::records::session::Session;

/// Packets of a stream that are sent at once, before others have their turn.
const CHUNK: u64 = 32;
/// Longest datagram.
const LONGEST: usize = 2048;
/// What is under way for longer is lost.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long to wait for arrivals before it is looked again whether something is due.
const TICK: Duration = Duration::from_millis(1);
/// How often sessions that only receive show that they are there.
const ALIVE: Duration = Duration::from_secs(1);

/// Numbers that streams which run together begin with: sessions outlive them, and bring what is late of
/// others.
static NEXT_FIRST: AtomicU64 = AtomicU64::new(0);
/// More packets than a stream ever has.
const NUMBERS: u64 = 1 << 40;

/// What a stream consists of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Place of its session.
    pub session: usize,
    /// Which way.
    pub direction: Direction,
    /// Bytes of an inner packet, headers included.
    pub size: usize,
    /// When it sends.
    pub pace: Pace,
}

/// When a stream sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Whenever less packets are under way.
    Window(u64),
    /// One in each interval.
    Every(Duration),
}

struct Stream {
    plan: Plan,
    /// Up: the inner packet, with a stamp to be overwritten. Down: its payload.
    template: Vec<u8>,
    to: SocketAddr,
    /// Number of the next packet.
    number: u64,
    /// The number below which nothing is under way.
    settled: u64,
    /// When `settled` moved, or a packet was sent that is under way alone.
    moved: Duration,
    tally: Tally,
}

/// Sockets on the lan's side.
pub struct Lan {
    senders: Vec<UdpPort>,
    sink: UdpPort,
}

impl Lan {
    /// With room for so many streams.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn open(contender: &Contender, streams: usize) -> Result<Self> {
        let lan = contender.bed().lan();
        let senders = (FLOW_PORT..).take(streams).map(|port| bind(lan, port));
        Ok(Self {
            senders: senders.collect::<Result<_>>()?,
            sink: bind(lan, SINK_PORT)?,
        })
    }
}

/// Streams that run together.
pub struct Streams<'a> {
    sessions: &'a [Session],
    lan: &'a Lan,
    streams: Vec<Stream>,
    /// The first number of each.
    first: u64,
    /// Most packets under way in all windowed streams together.
    limit: u64,
    turn: usize,
    began: Instant,
    poller: Poller,
    ready: Vec<u64>,
    received: RxBatch,
    batch: TxBatch,
    record: Vec<u8>,
}

/// What became of them.
pub struct Outcome {
    /// Counts of each, in the order of their plans.
    pub tallies: Vec<Tally>,
    /// How long packets were sent.
    pub wall: Duration,
}

impl Outcome {
    /// Packets a second that arrived, of streams that are chosen by their place.
    pub fn rate(&self, chosen: impl Fn(usize) -> bool) -> f64 {
        let tallies = self.tallies.iter().enumerate();
        let arrived = tallies.filter(|(place, _)| chosen(*place));
        let arrived: u64 = arrived.map(|(_, tally)| tally.arrived).sum();
        arrived as f64 / self.wall.as_secs_f64()
    }

    /// Sum of a count over all streams.
    pub fn sum(&self, count: impl Fn(&Tally) -> u64) -> u64 {
        self.tallies.iter().map(count).sum()
    }
}

impl<'a> Streams<'a> {
    /// Streams of these sessions; a stream has an inner flow of its own.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn new(plans: &[Plan], limit: u64, sessions: &'a [Session], lan: &'a Lan) -> Result<Self> {
        let poller = Poller::new(sessions.len() + 1)?;
        for (token, session) in (0..).zip(sessions) {
            poller.add(&session.port, token)?;
        }
        poller.add(&lan.sink, sessions.len() as u64)?;
        let first = NEXT_FIRST.fetch_add(NUMBERS, Ordering::Relaxed);
        let make = |(place, plan): (usize, &Plan)| Stream::new(place, *plan, first, sessions);
        Ok(Self {
            sessions,
            lan,
            streams: plans.iter().enumerate().map(make).collect::<Result<_>>()?,
            first,
            limit,
            turn: 0,
            began: Instant::now(),
            poller,
            ready: Vec::new(),
            received: RxBatch::new(64, LONGEST),
            batch: TxBatch::new(CHUNK as usize, LONGEST),
            record: Vec::new(),
        })
    }

    /// Sends for so long, and waits for what is under way then.
    ///
    /// # Errors
    /// When a packet arrives that is not as it was sent, or where it should not.
    pub fn run(&mut self, span: Duration) -> Result<Outcome> {
        let begin = self.began.elapsed();
        for stream in &mut self.streams {
            stream.begin(begin);
        }
        let mut alive = None;
        loop {
            let now = self.began.elapsed();
            if alive.is_none_or(|at| now > at + ALIVE) {
                self.sessions
                    .iter()
                    .try_for_each(|one| one.keep_alive().map(drop))?;
                alive = Some(now);
            }
            let is_over = now >= begin + span;
            let sent = if is_over { 0 } else { self.send_all(begin)? };
            let all_arrived = self.streams.iter().all(|stream| stream.under_way() == 0);
            if is_over && (all_arrived || now > begin + span + PATIENCE) {
                break;
            }
            let patience = if sent > 0 { Duration::ZERO } else { TICK };
            self.receive(patience)?;
        }
        let taken = |stream: &mut Stream| std::mem::take(&mut stream.tally);
        Ok(Outcome {
            tallies: self.streams.iter_mut().map(taken).collect(),
            wall: span,
        })
    }

    /// Sends what is due, and returns how many packets.
    fn send_all(&mut self, begin: Duration) -> Result<u64> {
        let mut total = 0;
        // What has its time first: it must not wait behind others here.
        for place in 0..self.streams.len() {
            if matches!(self.streams[place].plan.pace, Pace::Every(_)) {
                total += self.send(place, begin, CHUNK)?;
            }
        }
        let now = self.began.elapsed();
        let windowed = |stream: &&mut Stream| matches!(stream.plan.pace, Pace::Window(_));
        let mut under_way = 0;
        for stream in self.streams.iter_mut().filter(windowed) {
            stream.write_off(now);
            under_way += stream.under_way();
        }
        let mut budget = self.limit.saturating_sub(under_way);
        // The windows shall not open and close packet by packet: that would measure wake-ups.
        if budget < CHUNK.min(self.limit / 2) {
            return Ok(total);
        }
        for _ in 0..self.streams.len() {
            if budget == 0 {
                break;
            }
            self.turn = (self.turn + 1) % self.streams.len();
            if matches!(self.streams[self.turn].plan.pace, Pace::Window(_)) {
                let sent = self.send(self.turn, begin, budget)?;
                budget -= sent;
                total += sent;
            }
        }
        Ok(total)
    }

    /// Sends at most so many packets of a stream.
    fn send(&mut self, place: usize, begin: Duration, most: u64) -> Result<u64> {
        let now = self.began.elapsed();
        let stream = &mut self.streams[place];
        let count = stream.due(now, begin).min(most).min(CHUNK);
        if count == 0 {
            return Ok(0);
        }
        if stream.under_way() == 0 {
            stream.moved = now;
        }
        let session = &self.sessions[stream.plan.session];
        let direction = stream.plan.direction;
        let to = Destination {
            peer: stream.to,
            source: None,
            marking: None,
        };
        for _ in 0..count {
            let payload = stream.stamp(place, now);
            let datagram = match direction {
                Direction::Down => payload,
                Direction::Up => {
                    self.record.clear();
                    session.seal(payload, &mut self.record)?;
                    &self.record
                }
            };
            if let Some(buffer) = self.batch.buffer() {
                buffer[..datagram.len()].copy_from_slice(datagram);
            }
            self.batch.commit(datagram.len(), &to, 0);
        }
        // What the kernel does not take is found to be missing later.
        match direction {
            Direction::Up => session.port.send_batch(&mut self.batch),
            Direction::Down => self.lan.senders[place].send_batch(&mut self.batch),
        };
        Ok(count)
    }

    fn receive(&mut self, patience: Duration) -> Result<()> {
        self.poller.wait(Some(patience), &mut self.ready)?;
        for token in &self.ready {
            let from = *token as usize;
            let session = self.sessions.get(from);
            let port = session.map_or(&self.lan.sink, |session| &session.port);
            let count = port.recv_batch(&mut self.received)?;
            let now = self.began.elapsed();
            for index in 0..count {
                let bytes = self.received.datagram(index).bytes;
                let payload = match session {
                    None => Some(&*bytes),
                    Some(session) => payload_for(session, bytes)?,
                };
                if let Some(payload) = payload {
                    let place = session.is_some().then_some(from);
                    arrive(&mut self.streams, self.first, place, payload, now)?;
                }
            }
        }
        Ok(())
    }
}

/// What is in a record: the payload of a packet, or something of the server's.
fn payload_for<'a>(session: &Session, record: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
    let packet = session.unseal(record)?;
    let Some(packet) = packet.filter(|packet| !is_aside(packet)) else {
        return Ok(None);
    };
    ensure!(
        packet.get(16..20) == Some(&session.address.octets()[..]),
        "a packet of another session: {packet:02x?}"
    );
    Ok(packet.get(packet::HEADERS..))
}

/// What nobody here has sent: ocserv's tun device joins multicast groups of IPv6 by itself, and the lan
/// refuses by ICMP what is late of earlier streams, whose socket has gone.
fn is_aside(packet: &[u8]) -> bool {
    const PROTOCOL: usize = 9;
    const ICMP: u8 = 1;
    packet.first().is_some_and(|first| first >> 4 == 6) || packet.get(PROTOCOL) == Some(&ICMP)
}

/// Counts a payload that arrived at a session's place, or at the lan, unless it is of earlier streams than
/// those whose numbers begin with `first`.
fn arrive(
    streams: &mut [Stream],
    first: u64,
    place: Option<usize>,
    payload: &[u8],
    now: Duration,
) -> Result<()> {
    let stamp = Stamp::read(payload).with_context(|| format!("damaged: {payload:02x?}"))?;
    if stamp.number < first {
        return Ok(());
    }
    let stream = streams.get_mut(usize::from(stamp.stream));
    let stream = stream.context("a stream that there is not")?;
    let goal = match stream.plan.direction {
        Direction::Up => None,
        Direction::Down => Some(stream.plan.session),
    };
    ensure!(
        place == goal && payload.len() + packet::HEADERS == stream.plan.size,
        "a packet in the wrong place or of {} bytes: {stamp:?}",
        payload.len()
    );
    let delay = (now.as_nanos() as u64).saturating_sub(stamp.sent);
    stream.tally.arrive(stamp.number, delay);
    if stream.tally.next() > stream.settled {
        stream.settled = stream.tally.next();
        stream.moved = now;
    }
    Ok(())
}

impl Stream {
    fn new(place: usize, plan: Plan, first: u64, sessions: &[Session]) -> Result<Self> {
        let session = sessions.get(plan.session).context("no such session")?;
        let flow = FLOW_PORT + u16::try_from(place)?;
        let inner = SocketAddrV4::new(session.address, flow);
        let sink = SocketAddrV4::new(LAN4.parse()?, SINK_PORT);
        let blank = Stamp {
            stream: u16::try_from(place)?,
            number: 0,
            sent: 0,
        };
        let mut packet = packet::stamped(inner, sink, plan.size, |payload| blank.write(payload));
        let (template, to) = match plan.direction {
            Direction::Up => (packet, SocketAddr::new(GATEWAY4.parse()?, PORT)),
            Direction::Down => {
                let payload = packet.split_off(packet::HEADERS);
                (payload, SocketAddr::from((session.address, SINK_PORT)))
            }
        };
        Ok(Self {
            plan,
            template,
            to,
            number: first,
            settled: first,
            moved: Duration::ZERO,
            tally: Tally::default(),
        })
    }

    fn begin(&mut self, now: Duration) {
        self.tally = Tally::from_number(self.number);
        self.settled = self.number;
        self.moved = now;
    }

    fn under_way(&self) -> u64 {
        self.number - self.settled
    }

    /// Gives up what is under way if nothing has arrived for long.
    fn write_off(&mut self, now: Duration) {
        if now.saturating_sub(self.moved) > PATIENCE {
            self.settled = self.number;
            self.moved = now;
        }
    }

    /// Packets that may be sent.
    fn due(&self, now: Duration, begin: Duration) -> u64 {
        match self.plan.pace {
            Pace::Window(window) => window.saturating_sub(self.under_way()),
            Pace::Every(interval) => {
                let passed = now.saturating_sub(begin).as_nanos() / interval.as_nanos();
                (passed as u64 + 1).saturating_sub(self.tally.sent)
            }
        }
    }

    /// The next packet, or its payload.
    fn stamp(&mut self, place: usize, now: Duration) -> &[u8] {
        let stamp = Stamp {
            stream: place as u16,
            number: self.number,
            sent: now.as_nanos() as u64,
        };
        self.number += 1;
        self.tally.sent += 1;
        let payload = match self.plan.direction {
            Direction::Up => &mut self.template[packet::HEADERS..],
            Direction::Down => &mut self.template,
        };
        stamp.write(payload);
        &self.template
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Direction, Pace, Plan, SocketAddr, Stamp, Stream, Tally, arrive, packet};

    const FIRST: u64 = 100;
    const SIZE: usize = 64;

    fn stream() -> Stream {
        Stream {
            plan: Plan {
                session: 0,
                direction: Direction::Up,
                size: SIZE,
                pace: Pace::Window(4),
            },
            template: Vec::new(),
            to: SocketAddr::from(([127, 0, 0, 1], 1)),
            number: FIRST + 1,
            settled: FIRST,
            moved: Duration::ZERO,
            tally: Tally::from_number(FIRST),
        }
    }

    #[test]
    fn what_is_late_of_earlier_streams_does_not_count() {
        let mut streams = [stream()];
        let mut give = |stream, number, size: usize| {
            let mut payload = vec![packet::FILLER; size - packet::HEADERS];
            let stamp = Stamp {
                stream,
                number,
                sent: 0,
            };
            stamp.write(&mut payload);
            arrive(&mut streams, FIRST, None, &payload, Duration::ZERO).map(|()| {
                let stream = &streams[0];
                (stream.tally.arrived, stream.under_way())
            })
        };
        assert_eq!(give(0, FIRST - 1, SIZE).unwrap(), (0, 1));
        assert_eq!(give(7, FIRST - 1, 2 * SIZE).unwrap(), (0, 1));
        assert_eq!(give(0, FIRST, SIZE).unwrap(), (1, 0));
        assert!(give(0, FIRST, 2 * SIZE).is_err());
        assert!(give(7, FIRST, SIZE).is_err());
    }
}
