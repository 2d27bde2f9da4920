//! The two programs, each with a bed of its own, with the same keys, passwords and processors.

use std::fs;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use ocserv_tests::bed::HOST;
use ocserv_tests::pki::KeyKind;
use ocserv_tests::{Bed, Config, Program, Server};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SideName {
    /// Debian's ocserv 1.1.6.
    Reference,
    /// This project's release build.
    Ours,
}

impl SideName {
    /// As it stands in tables and in the JSON result.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Ours => "ours",
        }
    }
}

/// The server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// RSA with 2048 bits.
    Rsa,
    /// ECDSA on P-256.
    P256,
}

impl Certificate {
    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Rsa, Self::P256];

    /// As it stands in tables.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Rsa => "RSA-2048",
            Self::P256 => "ECDSA P-256",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::P256 => "p256",
        }
    }
}

/// A program in its bed.
#[derive(Debug)]
pub struct Side {
    name: SideName,
    bed: Bed,
}

/// Makes the beds of both programs, or of `only` one.
///
/// # Errors
/// When a program is missing or a bed cannot be made.
pub fn all(only: Option<SideName>) -> Result<Vec<Side>> {
    let wanted = [SideName::Reference, SideName::Ours]
        .into_iter()
        .filter(|name| only.is_none_or(|only| only == *name));
    let sides = wanted.map(Side::new).collect::<Result<Vec<_>>>()?;
    let first = sides.first().context("nothing to measure")?;
    for kind in Certificate::ALL {
        let key = match kind {
            Certificate::Rsa => KeyKind::Rsa,
            Certificate::P256 => KeyKind::P256,
        };
        first.bed.issue_certificate(kind.file(), HOST, key, None)?;
    }
    for other in sides.iter().skip(1) {
        for file in [
            "passwd", "rsa.pem", "rsa.key", "p256.pem", "p256.key", "ca.pem",
        ] {
            let source = first.bed.directory().join(file);
            fs::copy(&source, other.bed.directory().join(file)).context(file)?;
        }
    }
    let passwords = fs::read_to_string(first.bed.directory().join("passwd"))?;
    ensure!(passwords.contains(":$5$"), "the password hash is not $5$");
    Ok(sides)
}

impl Side {
    /// Makes the bed of a program.
    ///
    /// # Errors
    /// When the program is missing or the bed cannot be made.
    pub fn new(name: SideName) -> Result<Self> {
        let program = match name {
            SideName::Reference => Program::reference(),
            SideName::Ours => Program::from_environment()?,
        };
        let bed = Bed::new(1, program)?;
        // Thousands of connections to one port: without this they run out of source ports.
        bed.client(0).sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        bed.client(0)
            .sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        // Towards the lan as behind a network card that merges segments; towards the clients each
        // packet stays alone.
        bed.gateway().ip("link set lan0 gso_max_segs 65535")?;
        bed.lan().ip("link set eth0 gso_max_segs 65535")?;
        Ok(Self { name, bed })
    }

    /// Which program it is.
    pub fn name(&self) -> SideName {
        self.name
    }

    /// Its network.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// Starts the server on [`server_cpus`]: isolation on, bans and rate limit off, logging as an
    /// installed server does.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(&self, certificate: Certificate) -> Result<Server> {
        let file = |end| {
            let directory = self.bed.directory().display();
            format!("{directory}/{}.{end}", certificate.file())
        };
        let config = self
            .config()
            .set("server-cert", &file("pem"))
            .set("server-key", &file("key"));
        self.start_with(&config)
    }

    /// What all figures have in common.
    pub fn config(&self) -> Config {
        Config::new(&self.bed)
            .without("xdp")
            .set("max-clients", "4096")
            .set("rate-limit-ms", "0")
            .set("ipv4-network", "10.30.0.0/16")
            .set("auth-timeout", "60")
            .set("cookie-timeout", "300")
    }

    /// As [`Side::start`], with a configuration of the caller.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start_with(&self, config: &Config) -> Result<Server> {
        self.start_on(&server_cpus()?, config)
    }

    /// As [`Side::start_with`], on other processors.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start_on(&self, cpus: &[usize], config: &Config) -> Result<Server> {
        on_cpus(cpus, || Server::start_with(&self.bed, config, &[]))?
            .with_context(|| format!("starting {}", self.name.text()))
    }

    /// Removes the bed.
    ///
    /// # Errors
    /// When something is left behind.
    pub fn close(self) -> Result<()> {
        self.bed.close()
    }
}

/// The second half of this program's processors (the only one, if there is one): servers run here.
///
/// # Errors
/// When the kernel does not tell.
pub fn server_cpus() -> Result<Vec<usize>> {
    let all = cpus()?;
    Ok(all[all.len() / 2..].to_vec())
}

/// The other half: the load comes from here.
///
/// # Errors
/// When the kernel does not tell.
pub fn client_cpus() -> Result<Vec<usize>> {
    let all = cpus()?;
    Ok(all[..all.len().div_ceil(2)].to_vec())
}

/// Those that this program may use.
///
/// # Errors
/// When the kernel does not tell.
pub fn cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(std::process::id().try_into()?))?;
    let is_set = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
    Ok((0..CpuSet::count()).filter(is_set).collect())
}

/// Does `work` on these processors; processes and threads started by it inherit them.
///
/// # Errors
/// When the kernel refuses.
pub fn on_cpus<T>(cpus: &[usize], work: impl FnOnce() -> T) -> Result<T> {
    let this_thread = Pid::from_raw(0);
    let before = sched_getaffinity(this_thread)?;
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
    sched_setaffinity(this_thread, &set).context("choosing processors")?;
    let result = work();
    sched_setaffinity(this_thread, &before).context("choosing processors")?;
    Ok(result)
}
