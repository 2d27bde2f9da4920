//! The ways that packets take through the gateway, and what is sent on them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use ocserv_sys::udp::{self, PathMtu, UdpPort};
use ocserv_tests::Namespace;
use ocserv_tests::bed::{GATEWAY4, LAN4, PORT};

use super::case::{Case, Direction, Traffic};
use super::cores;
use super::generator::{Burst, Port, Sinks};
use super::packet;
use super::raw::{RawPort, Silence};
use super::sample::Subject;
use super::session::Session;

/// Where inner packets go.
pub const SINK_PORT: u16 = 9000;
/// The first source port of inner flows.
pub const FLOW_PORT: u16 = 20_000;
/// Both, which the sockets of sessions must not be given, as the kernel's setting has them.
pub const RESERVED_PORTS: &str = "9000,20000-23999";

/// The sockets of machines that speak no VPN: the lan's, and the client's in plain forwarding.
pub struct Sockets {
    senders: Vec<UdpPort>,
    sink: UdpPort,
    /// Sender and sink of TCP segments, in cases that have them.
    raw: Option<[RawPort; 2]>,
    _silence: Option<Silence>,
}

impl Sockets {
    /// Opens them. Without sessions there is a flow for each.
    ///
    /// # Errors
    /// When a namespace cannot be entered.
    pub fn open(subject: &Subject<'_>, case: &Case) -> Result<Self> {
        let bed = subject.bed;
        let (from, to) = match case.direction {
            Direction::Up => (bed.client(0), bed.lan()),
            Direction::Down => (bed.lan(), bed.client(0)),
        };
        let flows = if subject.sessions.is_empty() {
            case.flows.max(case.sessions)
        } else {
            case.flows
        };
        let senders = (FLOW_PORT..).take(flows).map(|port| bind(from, port));
        let is_tcp = case.traffic == Traffic::Tcp;
        let raw = || Ok::<_, anyhow::Error>([RawPort::open(from)?, RawPort::open(to)?]);
        Ok(Self {
            senders: senders.collect::<Result<_>>()?,
            sink: bind(to, SINK_PORT)?,
            raw: is_tcp.then(raw).transpose()?,
            _silence: is_tcp.then(|| Silence::in_namespace(to)).transpose()?,
        })
    }

    /// One for each flow.
    fn out(&self) -> Vec<Port<'_>> {
        match &self.raw {
            None => self.senders.iter().map(Port::Udp).collect(),
            Some([sender, _]) => {
                let flows = self.senders.iter();
                flows.map(|_| Port::Raw(sender, SINK_PORT)).collect()
            }
        }
    }

    /// With the lengths of what arrives there.
    fn sink(&self, traffic: Traffic) -> (Port<'_>, Vec<usize>) {
        let (port, headers) = match &self.raw {
            None => (Port::Udp(&self.sink), packet::HEADERS),
            Some([_, sink]) => (Port::Raw(sink, SINK_PORT), packet::TCP_HEADERS),
        };
        let sizes = traffic.sizes().into_iter();
        (port, sizes.map(|size| size - headers).collect())
    }
}

/// A socket with this port in a namespace.
///
/// # Errors
/// When it is taken, or the namespace cannot be entered.
pub fn bind(namespace: &Namespace, port: u16) -> Result<UdpPort> {
    let open = || {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        UdpPort::new(udp::bind(any, false)?, PathMtu::Discover)
    };
    namespace.run(open)?.context("UDP socket")
}

/// A way with its traffic.
pub struct Path<'a> {
    case: Case,
    sessions: &'a [Session],
    client: Ipv4Addr,
    lan: Ipv4Addr,
    /// Sockets to send from.
    pub out: Vec<Port<'a>>,
    /// Sockets to receive on.
    pub sinks: Sinks<'a>,
    /// TCP's segments so far, by session and flow.
    segments: HashMap<(usize, usize), u32>,
}

impl<'a> Path<'a> {
    /// The way of a case.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn new(case: Case, subject: &Subject<'a>, sockets: &'a Sockets) -> Result<Self> {
        let sessions = subject.sessions;
        let is_record = |way| case.direction == way && !sessions.is_empty();
        let records = sessions.iter().map(|session| {
            let sizes = case.traffic.sizes().into_iter();
            let lengths = sizes.map(|size| size + session.overhead()).collect();
            (Port::Udp(&session.port), lengths)
        });
        let sinks = if is_record(Direction::Down) {
            Sinks::new(records)
        } else {
            Sinks::new([sockets.sink(case.traffic)])
        };
        let out = if is_record(Direction::Up) {
            let ports = sessions.iter().map(|session| Port::Udp(&session.port));
            ports.collect()
        } else {
            sockets.out()
        };
        Ok(Self {
            case,
            sessions,
            client: subject.client,
            lan: LAN4.parse()?,
            out,
            sinks: sinks?,
            segments: HashMap::new(),
        })
    }

    /// Makes a burst of so many datagrams, over all sessions and flows in turns.
    ///
    /// # Errors
    /// When a packet is too long for a record.
    pub fn fill(&mut self, burst: &mut Burst, count: usize) -> Result<()> {
        burst.clear();
        (0..count).try_for_each(|number| self.push(burst, number))
    }

    /// Has sessions that only receive show that they are there.
    ///
    /// # Errors
    /// When a record cannot be sent.
    pub fn keep_alive(&self) -> Result<()> {
        let mut sent = false;
        for session in self.sessions {
            sent |= session.keep_alive()?;
        }
        if sent {
            cores::settle();
        }
        Ok(())
    }

    fn push(&mut self, burst: &mut Burst, number: usize) -> Result<()> {
        let lanes = match self.sessions.len() {
            0 => self.out.len(),
            sessions => sessions,
        };
        let (lane, round) = (number % lanes, number / lanes);
        // Each session gets all sizes, and neighbours get different ones.
        let size = self.case.traffic.size(lane + round);
        let session = self.sessions.get(lane);
        let flow = match session {
            Some(_) => round % self.case.flows,
            None => lane,
        };
        if let (Some(session), Direction::Up) = (session, self.case.direction) {
            let gateway = SocketAddr::new(GATEWAY4.parse()?, PORT);
            let packet = self.inner_packet(lane, flow, size)?;
            return burst.push(lane, gateway, |out| session.seal(&packet, out));
        }
        let (_, to) = self.ends(lane, flow)?;
        if self.case.traffic == Traffic::Tcp {
            let packet = self.inner_packet(lane, flow, size)?;
            return burst.push(flow, to.into(), |out| {
                out.extend(&packet);
                Ok(packet.len())
            });
        }
        burst.push(flow, to.into(), |out| {
            let length = size - packet::HEADERS;
            out.resize(out.len() + length, packet::FILLER);
            Ok(length)
        })
    }

    /// Source and destination of inner packets.
    fn ends(&self, lane: usize, flow: usize) -> Result<(SocketAddrV4, SocketAddrV4)> {
        let session = self.sessions.get(lane);
        let client = session.map_or(self.client, |session| session.address);
        let (from, to) = match self.case.direction {
            Direction::Up => (client, self.lan),
            Direction::Down => (self.lan, client),
        };
        let port = FLOW_PORT + u16::try_from(flow)?;
        Ok((
            SocketAddrV4::new(from, port),
            SocketAddrV4::new(to, SINK_PORT),
        ))
    }

    fn inner_packet(&mut self, lane: usize, flow: usize, size: usize) -> Result<Vec<u8>> {
        let (from, to) = self.ends(lane, flow)?;
        if self.case.traffic != Traffic::Tcp {
            return Ok(packet::udp(from, to, size));
        }
        let next = self.segments.entry((lane, flow)).or_default();
        let packet = packet::tcp(from, to, *next, size);
        *next = next.wrapping_add(1);
        Ok(packet)
    }

    /// Looks at one datagram of those that arrived.
    ///
    /// # Errors
    /// When it is not what was sent.
    pub fn check(&mut self) -> Result<()> {
        let (index, datagram) = self.sinks.take_sample().context("nothing arrived")?;
        match (self.case.direction, self.sessions.get(index)) {
            (Direction::Down, Some(session)) => session.check(&datagram),
            _ => {
                ensure!(
                    datagram.iter().all(|byte| *byte == packet::FILLER),
                    "another datagram: {datagram:02x?}"
                );
                Ok(())
            }
        }
    }
}
