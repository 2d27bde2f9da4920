//! The ways that packets take through the gateway, and what is sent on them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use ocserv_sys::udp::{self, PathMtu, UdpPort};
use ocserv_tests::Namespace;
use ocserv_tests::bed::{GATEWAY4, LAN4, PORT, Site};

use super::case::{Case, Direction};
use super::contender::{Contender, Kind};
use super::cores;
use super::generator::{Burst, Sinks};
use super::packet;
use super::session::Session;

/// Where inner packets go.
const SINK_PORT: u16 = 9000;
/// The first source port of inner flows.
const FLOW_PORT: u16 = 20_000;
/// Both, which the sockets of sessions must not be given, as the kernel's setting has them.
pub const RESERVED_PORTS: &str = "9000,20000-23999";

/// The sockets of machines that speak no VPN: the lan's, and the client's in plain forwarding.
pub struct Sockets {
    senders: Vec<UdpPort>,
    sink: UdpPort,
}

impl Sockets {
    /// Opens them. Plain forwarding has a flow for each session.
    ///
    /// # Errors
    /// When a namespace cannot be entered.
    pub fn open(contender: &Contender, case: &Case) -> Result<Self> {
        let bed = contender.bed();
        let (from, to) = match case.direction {
            Direction::Up => (bed.client(0), bed.lan()),
            Direction::Down => (bed.lan(), bed.client(0)),
        };
        let flows = match contender.kind() {
            Kind::Plain => case.flows.max(case.sessions),
            _ => case.flows,
        };
        let senders = (FLOW_PORT..).take(flows).map(|port| bind(from, port));
        Ok(Self {
            senders: senders.collect::<Result<_>>()?,
            sink: bind(to, SINK_PORT)?,
        })
    }
}

fn bind(namespace: &Namespace, port: u16) -> Result<UdpPort> {
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
    /// Sockets to send from.
    pub out: Vec<&'a UdpPort>,
    /// Sockets to receive on.
    pub sinks: Sinks<'a>,
}

impl<'a> Path<'a> {
    /// The way of a case. Without sessions there is no VPN.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn new(case: Case, sessions: &'a [Session], sockets: &'a Sockets) -> Result<Self> {
        let lengths = |more: usize| {
            let sizes = case.traffic.sizes().into_iter();
            sizes.map(|size| size + more).collect::<Vec<_>>()
        };
        let is_record = |way| case.direction == way && !sessions.is_empty();
        let records = sessions
            .iter()
            .map(|session| (&session.port, lengths(session.overhead())));
        let sinks = if is_record(Direction::Down) {
            Sinks::new(records)
        } else {
            let mut lengths = lengths(0);
            lengths.iter_mut().for_each(|size| *size -= packet::HEADERS);
            Sinks::new([(&sockets.sink, lengths)])
        };
        let out = if is_record(Direction::Up) {
            sessions.iter().map(|session| &session.port).collect()
        } else {
            sockets.senders.iter().collect()
        };
        Ok(Self {
            case,
            sessions,
            out,
            sinks: sinks?,
        })
    }

    /// Makes a burst of so many datagrams, over all sessions and flows in turns.
    ///
    /// # Errors
    /// When a packet is too long for a record.
    pub fn fill(&self, burst: &mut Burst, count: usize) -> Result<()> {
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

    fn push(&self, burst: &mut Burst, number: usize) -> Result<()> {
        let lanes = match self.sessions.len() {
            0 => self.out.len(),
            sessions => sessions,
        };
        let (lane, round) = (number % lanes, number / lanes);
        // Each session gets all sizes, and neighbours get different ones.
        let size = self.case.traffic.size(lane + round);
        let datagram = |out: &mut Vec<u8>| {
            let length = size - packet::HEADERS;
            out.resize(out.len() + length, packet::FILLER);
            Ok(length)
        };
        let Some(session) = self.sessions.get(lane) else {
            let to = match self.case.direction {
                Direction::Up => LAN4.to_owned(),
                Direction::Down => Site::new(0).address4(),
            };
            return burst.push(lane, SocketAddr::new(to.parse()?, SINK_PORT), datagram);
        };
        let flow = round % self.case.flows;
        match self.case.direction {
            Direction::Up => {
                let gateway = SocketAddr::new(GATEWAY4.parse()?, PORT);
                let from = SocketAddrV4::new(session.address, FLOW_PORT + u16::try_from(flow)?);
                let to = SocketAddrV4::new(LAN4.parse()?, SINK_PORT);
                let packet = packet::udp(from, to, size);
                burst.push(lane, gateway, |out| session.seal(&packet, out))
            }
            Direction::Down => {
                let lease = SocketAddr::from((session.address, SINK_PORT));
                burst.push(flow, lease, datagram)
            }
        }
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
