//! A server in the gateway's namespace and its client, in a bed of their own.

use std::any::Any;
use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::unistd::Pid;
use ocserv_tests::bed::LAN4;
use ocserv_tests::{Bed, Login, Namespace, process, traffic, wait};

use super::Peer;
use crate::cost;
use crate::records::contender::{self, Kind};
use crate::records::cores::{self, Meter};
use crate::records::sample::Subject;
use crate::side::{Side, SideName, client_cpus, on_cpus, server_cpus};

/// Both ends, running.
pub struct Pair {
    client: Ipv4Addr,
    /// The first of the server's processes.
    server: i32,
    /// What ends the processes when it is dropped, the client's first.
    ends: [Box<dyn Any>; 2],
    receivers: Vec<Pid>,
    side: Side,
}

/// A process that ends with its owner. What it has started is the bed's to end.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        process::reap(&mut self.0);
    }
}

impl Pair {
    /// ocserv or ours, with openconnect.
    ///
    /// # Errors
    /// When one of both does not start.
    pub fn of_openconnect(peer: Peer) -> Result<Self> {
        let kind = match peer {
            Peer::Reference => Kind::Reference,
            _ => Kind::OursKernel,
        };
        let side = Side::new(kind.side())?;
        let cpus = server_cpus()?;
        let receivers = cores::place(side.bed(), &cpus)?;
        let server = contender::serve(kind, &side, &cpus, |config| config)?;
        let log_in = || Login::new().connect_dtls(side.bed());
        let client = on_cpus(&client_cpus()?, log_in)??;
        Ok(Self {
            client: client.address4()?.parse().context("the client's address")?,
            server: server.pid(),
            ends: [Box::new(client), Box::new(server)],
            receivers,
            side,
        })
    }

    /// Two programs whose client has this address in the tunnel, once the lan answers it. The commands
    /// get the bed, where they find certificates and leave their files.
    ///
    /// # Errors
    /// When one does not start, or no packet passes.
    pub fn of_programs(
        client: Ipv4Addr,
        commands: impl FnOnce(&Bed) -> Result<[Command; 2]>,
    ) -> Result<Self> {
        let side = Side::new(SideName::Ours)?;
        let bed = side.bed();
        let receivers = cores::place(bed, &server_cpus()?)?;
        let [mut server, mut of_client] = commands(bed)?;
        let spawn = |name: &str, end: &Namespace, command: &mut Command| {
            let log = File::create(bed.directory().join(format!("{name}.log")))?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?);
            end.spawn(command.stderr(log)).map(Program)
        };
        let server = on_cpus(&server_cpus()?, || {
            spawn("peer-server", bed.gateway(), &mut server)
        })??;
        let of_client = on_cpus(&client_cpus()?, || {
            spawn("peer-client", bed.client(0), &mut of_client)
        })??;
        wait::until_true("packets through the tunnel", wait::LONG, || {
            traffic::is_answered(bed.client(0), LAN4)
        })
        .map_err(|error| anyhow!("{error:#}\n{}", bed.logs()))?;
        Ok(Self {
            client,
            server: server.0.id().try_into()?,
            ends: [Box::new(of_client), Box::new(server)],
            receivers,
            side,
        })
    }

    /// What packets pass.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            bed: self.bed(),
            sessions: &[],
            client: self.client,
        }
    }

    /// Of everything that moves packets in the gateway.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn meter(&self) -> Result<Meter> {
        let processes = cost::pids(self.server)?.into_iter().map(Pid::from_raw);
        Meter::new(processes.chain(self.receivers.iter().copied()))
    }

    /// Its network.
    pub fn bed(&self) -> &Bed {
        self.side.bed()
    }

    /// Ends both and removes the bed.
    ///
    /// # Errors
    /// When something is left behind.
    pub fn close(self) -> Result<()> {
        drop(self.ends);
        self.side.close()
    }
}
