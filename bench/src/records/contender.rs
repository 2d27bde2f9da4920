//! What is compared: plain forwarding and the programs, each in a bed of its own.

use anyhow::Result;
use nix::unistd::Pid;
use ocserv_tests::bed::{GATEWAY4, Site};
use ocserv_tests::datapath::{self, Datapath};
use ocserv_tests::{Bed, Config, Server, wait};
use serde::Serialize;

use super::cores::{self, Meter};
use super::path::RESERVED_PORTS;
use super::sample::Subject;
use super::session::Session;
use crate::client::tls_settings;
use crate::cost;
use crate::side::{Side, SideName, server_cpus};

/// What moves the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The gateway's host, without VPN.
    Plain,
    /// Debian's ocserv.
    Reference,
    /// Ours without the kernel path, `xdp = off`.
    OursUser,
    /// Ours as it comes, `xdp = auto`.
    OursKernel,
    /// Ours past the host's stack, `xdp-forward = direct`.
    OursDirect,
    /// The same with sockets past the stack, `xdp-sockets = true`.
    OursSockets,
}

impl Kind {
    /// All, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Plain,
        Self::Reference,
        Self::OursUser,
        Self::OursKernel,
        Self::OursDirect,
        Self::OursSockets,
    ];
    /// Ours, in the same order.
    pub const OURS: [Self; 4] = [
        Self::OursUser,
        Self::OursKernel,
        Self::OursDirect,
        Self::OursSockets,
    ];

    /// As it stands in tables.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Plain => "plain forwarding",
            Self::Reference => "ocserv 1.1.6",
            Self::OursUser => "ours, xdp = off",
            Self::OursKernel => "ours, xdp = auto",
            Self::OursDirect => "ours, xdp-forward = direct",
            Self::OursSockets => "ours, xdp-sockets = true",
        }
    }

    /// Where there is little room.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Reference => "ocserv",
            Self::OursUser => "off",
            Self::OursKernel => "auto",
            Self::OursDirect => "direct",
            Self::OursSockets => "sockets",
        }
    }

    /// Whether the kernel path is on.
    pub const fn has_kernel_path(self) -> bool {
        matches!(
            self,
            Self::OursKernel | Self::OursDirect | Self::OursSockets
        )
    }

    /// The program that it needs; plain forwarding takes any bed.
    pub const fn side(self) -> SideName {
        match self {
            Self::Reference => SideName::Reference,
            _ => SideName::Ours,
        }
    }
}

/// One of them, running.
pub struct Contender {
    kind: Kind,
    sessions: Vec<Session>,
    server: Option<Server>,
    side: Side,
    receivers: Vec<Pid>,
}

impl Contender {
    /// Makes its bed and starts it. `max_record` is the longest record of the kernel path; `None`: its
    /// default.
    ///
    /// # Errors
    /// When the program does not start, or the kernel path is off that should be on.
    pub fn start(kind: Kind, max_record: Option<u32>) -> Result<Self> {
        Self::start_with(kind, |config| match max_record {
            Some(bytes) if kind.has_kernel_path() => {
                config.set("xdp-max-record", &bytes.to_string())
            }
            _ => config,
        })
    }

    /// As [`Self::start`], with changes of the caller to the configuration.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(kind: Kind, change: impl FnOnce(Config) -> Config) -> Result<Self> {
        Self::start_on(kind, &server_cpus()?, change)
    }

    /// As [`Self::start_with`], with the gateway on these processors.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(
        kind: Kind,
        cpus: &[usize],
        change: impl FnOnce(Config) -> Config,
    ) -> Result<Self> {
        let side = Side::new(kind.side())?;
        side.bed()
            .client(0)
            .sysctl("net/ipv4/ip_local_reserved_ports", RESERVED_PORTS)?;
        let server = match kind {
            Kind::Plain => {
                let route = format!("route add 10.20.0.0/24 via {GATEWAY4} dev eth0");
                side.bed().client(0).ip(&route)?;
                None
            }
            _ => Some(serve(kind, &side, cpus, change)?),
        };
        Ok(Self {
            kind,
            sessions: Vec::new(),
            receivers: cores::place(side.bed(), cpus)?,
            server,
            side,
        })
    }

    /// Which one it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Opens sessions until there are so many.
    ///
    /// # Errors
    /// When the server refuses one.
    pub fn log_in(&mut self, count: usize) -> Result<()> {
        if self.server.is_none() {
            return Ok(());
        }
        let settings = tls_settings()?;
        let missing = count.saturating_sub(self.sessions.len());
        let open = || (0..missing).map(|_| Session::open(&settings)).collect();
        let opened: Result<Vec<_>> = self.side.bed().client(0).run(open)?;
        self.sessions.extend(opened?);
        cores::settle();
        Ok(())
    }

    /// Record protection of the sessions.
    pub fn cipher(&self) -> Option<String> {
        let first = self.sessions.first()?;
        Some(format!("{:?}", first.cipher))
    }

    /// What packets pass, with its own sessions.
    ///
    /// # Errors
    /// When the bed's address cannot be read.
    pub fn subject(&self) -> Result<Subject<'_>> {
        Ok(Subject {
            bed: self.side.bed(),
            sessions: &self.sessions,
            client: Site::new(0).address4().parse()?,
        })
    }

    /// Of everything that moves packets in the gateway.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn meter(&self) -> Result<Meter> {
        let server = self.server.as_ref();
        let processes = server.map_or(Ok(Vec::new()), |server| cost::pids(server.pid()))?;
        let processes = processes.into_iter().map(Pid::from_raw);
        Meter::new(processes.chain(self.receivers.iter().copied()))
    }

    /// The threads of the gateway's devices, and those that do what these leave behind.
    pub fn receivers(&self) -> &[Pid] {
        &self.receivers
    }

    /// Packets that passed in the kernel, and all, since it was started; `None` where the kernel path
    /// is not on.
    ///
    /// # Errors
    /// When `occtl` fails.
    pub fn passed(&self) -> Result<Option<(u64, u64)>> {
        let server = self.server.as_ref();
        let Some(server) = server.filter(|_| self.kind.has_kernel_path()) else {
            return Ok(None);
        };
        let packets = datapath::packets(server)?;
        let kernel = packets.kernel_rx + packets.kernel_tx;
        Ok(Some((kernel, kernel + packets.user_rx + packets.user_tx)))
    }

    /// Its network.
    pub fn bed(&self) -> &Bed {
        self.side.bed()
    }

    /// Its sessions.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// Hands its sessions over to who opens and closes them from now on.
    pub fn take_sessions(&mut self) -> Vec<Session> {
        std::mem::take(&mut self.sessions)
    }

    /// The program; `None` with plain forwarding.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Stops it and removes its bed.
    ///
    /// # Errors
    /// When something is left behind.
    pub fn close(self) -> Result<()> {
        drop(self.sessions);
        drop(self.server);
        self.side.close()
    }
}

/// Starts the program of a kind on these processors, with changes of the caller to its configuration.
///
/// # Errors
/// When it does not start, or the kernel path is off that should be on.
pub fn serve(
    kind: Kind,
    side: &Side,
    cpus: &[usize],
    change: impl FnOnce(Config) -> Config,
) -> Result<Server> {
    // Nobody answers the probes of a server that finds its clients silent.
    const SELDOM: &str = "3600";
    let config = side.config().set("dpd", SELDOM);
    let config = match kind {
        Kind::Plain | Kind::Reference => config,
        Kind::OursUser => config.set("xdp", "off"),
        Kind::OursKernel => config.set("xdp", "auto"),
        Kind::OursDirect | Kind::OursSockets => {
            // A veth takes what XDP sends only if its peer has NAPI.
            for end in [side.bed().client(0), side.bed().lan()] {
                end.must("ethtool", &["-K", "eth0", "gro", "on"])?;
            }
            let sockets = (kind == Kind::OursSockets).to_string();
            config
                .set("xdp", "auto")
                .set("xdp-forward", "direct")
                .set("xdp-lan-interface", "lan0")
                .set("xdp-sockets", &sockets)
        }
    };
    let server = side.start_on(cpus, &change(config))?;
    if kind.has_kernel_path() {
        let is_on = || Datapath::of(&server).is_ok_and(|datapath| datapath.is_on());
        wait::until_true("the kernel path", wait::SHORT, is_on)?;
    }
    Ok(server)
}
