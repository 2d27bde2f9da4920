//! Network namespaces: creating them, and running code and programs inside.

use std::fs::File;
use std::process::{Child, Command, Output};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::SigSet;

use crate::process;

/// A named network namespace (`ip netns`). The bed's guard deletes it.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates the namespace with its loopback up and without address conflict detection, which
    /// would hold IPv6 addresses back for a second. TCP slows down where packets are lost: with BBR,
    /// the default of some hosts, it floods a client that gets too little processor time, and a
    /// transfer stands still for seconds.
    ///
    /// # Errors
    /// Without root, or when the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        process::run("ip", &["netns", "add", name])?;
        let namespace = Self {
            name: name.to_owned(),
        };
        namespace.ip("link set lo up")?;
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        // Others than Reno may be missing, or forbidden here.
        namespace.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
        Ok(namespace)
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it; the words of `arguments` are separated by blanks.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut words = vec!["-n", &self.name];
        words.extend(arguments.split_whitespace());
        process::run("ip", &words)
    }

    /// Writes a kernel setting of this namespace, e.g. `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When the file does not exist or does not take the value.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{path}");
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("{path} = {value}"))
    }

    /// Runs `work` on a thread inside the namespace. Sockets that it opens stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| path.clone())?;
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    // What is started here shall hear the signals that its owner blocks.
                    SigSet::all().thread_unblock()?;
                    setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| path)?;
                    Ok(work())
                })
                .join()
                .map_err(|_| anyhow!("panic inside {}", self.name))?
        })
    }

    /// Starts a program inside the namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let shown = format!("{command:?}");
        self.run(|| command.spawn())?.with_context(|| shown)
    }

    /// Runs a program to its end inside the namespace.
    ///
    /// # Errors
    /// When it cannot be started. Its exit status is the caller's to judge.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.run(|| process::output(program, arguments))?
    }

    /// Runs a program that must succeed, and returns its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn must(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run(|| process::run(program, arguments))?
    }

    /// Processes with a thread in this namespace.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let listing = process::run("ip", &["netns", "pids", &self.name])?;
        Ok(listing
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect())
    }

    /// True if a TCP (or UDP) socket is bound to `port` here.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn is_bound(&self, protocol: Protocol, port: u16) -> Result<bool> {
        let suffix = format!(":{port:04X}");
        self.run(|| {
            protocol.tables().iter().any(|table| {
                std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))
                    .unwrap_or_default()
                    .lines()
                    .skip(1)
                    .any(|line| protocol.is_bound_row(line, &suffix))
            })
        })
    }

    /// Names of the network devices here.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn devices(&self) -> Result<Vec<String>> {
        let listing = self.ip("-br link show")?;
        let name = |line: &str| {
            let word = line.split_whitespace().next()?;
            word.split('@').next().map(str::to_owned)
        };
        Ok(listing.lines().filter_map(name).collect())
    }

    /// Drops UDP datagrams that arrive here from or for `port`, until [`Namespace::unblock_udp`].
    /// Only at arrival: dropping at departure would be an error of the sender's system call.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn block_udp(&self, port: u16) -> Result<()> {
        self.nft(&format!(
            "table inet oxc_block {{
                chain input {{ type filter hook input priority 0;
                    udp dport {port} drop; udp sport {port} drop; }}
            }}"
        ))
    }

    /// Removes what [`Namespace::block_udp`] added.
    ///
    /// # Errors
    /// When nothing was blocked.
    pub fn unblock_udp(&self) -> Result<()> {
        self.nft("delete table inet oxc_block")
    }

    /// Loads nftables rules.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let output = self.output("nft", &[rules])?;
        if !output.status.success() {
            bail!("nft: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// Transport protocols whose socket tables [`Namespace::is_bound`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Listening TCP sockets.
    Tcp,
    /// Bound UDP sockets.
    Udp,
}

impl Protocol {
    fn tables(self) -> [&'static str; 2] {
        match self {
            Self::Tcp => ["tcp", "tcp6"],
            Self::Udp => ["udp", "udp6"],
        }
    }

    fn is_bound_row(self, line: &str, suffix: &str) -> bool {
        const LISTEN: &str = "0A";
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().unwrap_or_default();
        let state = words.nth(1).unwrap_or_default();
        local.ends_with(suffix) && (self == Self::Udp || state == LISTEN)
    }
}
