//! What is compared: plain forwarding and the programs, each in a bed of its own.

use anyhow::Result;
use nix::unistd::Pid;
use ocserv_tests::bed::GATEWAY4;
use ocserv_tests::datapath::{self, Datapath};
use ocserv_tests::{Bed, Config, Server, wait};
use serde::Serialize;

use super::cores::{self, Meter};
use super::path::RESERVED_PORTS;
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
}

impl Kind {
    /// All, in the order of the table.
    pub const ALL: [Self; 4] = [
        Self::Plain,
        Self::Reference,
        Self::OursUser,
        Self::OursKernel,
    ];

    /// As it stands in tables.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Plain => "plain forwarding",
            Self::Reference => "ocserv 1.1.6",
            Self::OursUser => "ours, xdp = off",
            Self::OursKernel => "ours, xdp = auto",
        }
    }

    /// The program that it needs; plain forwarding takes any bed.
    pub const fn side(self) -> SideName {
        match self {
            Self::Reference => SideName::Reference,
            Self::Plain | Self::OursUser | Self::OursKernel => SideName::Ours,
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
            Some(bytes) if kind == Kind::OursKernel => {
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

    /// The processor time of everything that moves packets in the gateway.
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
        let Some(server) = server.filter(|_| self.kind == Kind::OursKernel) else {
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

fn serve(
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
    };
    let server = side.start_on(cpus, &change(config))?;
    if kind == Kind::OursKernel {
        let is_on = || Datapath::of(&server).is_ok_and(|datapath| datapath.is_on());
        wait::until_true("the kernel path", wait::SHORT, is_on)?;
    }
    Ok(server)
}
