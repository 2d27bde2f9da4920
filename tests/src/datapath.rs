//! Which way packets take, as `occtl -j show datapath` says.

use anyhow::{Context, Result, ensure};

use crate::bed::{Bed, LAN4, LAN6};
use crate::client::Client;
use crate::config::Config;
use crate::namespace::Namespace;
use crate::server::Server;
use crate::wait;

/// Echo requests of each address family in [`pings`].
const PINGS: u64 = 20;

/// An answer of the server.
#[derive(Clone, Debug)]
pub struct Datapath {
    text: String,
}

/// Packets that passed, from (`rx`) and to (`tx`) clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// In the kernel.
    pub kernel_rx: u64,
    /// In the kernel.
    pub kernel_tx: u64,
    /// In user space.
    pub user_rx: u64,
    /// In user space.
    pub user_tx: u64,
}

impl Datapath {
    /// Asks the server.
    ///
    /// # Errors
    /// When `occtl` fails.
    pub fn of(server: &Server) -> Result<Self> {
        let text = server.occtl_text(&["-j", "show", "datapath"])?;
        Ok(Self { text })
    }

    /// A number by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&self, name: &str) -> Result<u64> {
        number(&self.text, name).with_context(|| self.text.clone())
    }

    /// Packets that programs left to user space for a reason.
    ///
    /// # Errors
    /// When there is no such reason.
    pub fn left(&self, reason: &str) -> Result<u64> {
        self.within("Left to user space", reason)
    }

    /// Packets that programs dropped for a reason.
    ///
    /// # Errors
    /// When there is no such reason.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        self.within("Kernel drops", reason)
    }

    fn within(&self, object: &str, name: &str) -> Result<u64> {
        let found = value(&self.text, object).and_then(|rest| rest.split('}').next());
        let found = found.with_context(|| format!("no {object} in {}", self.text))?;
        number(found, name).with_context(|| self.text.clone())
    }

    /// Whether the kernel path is on.
    pub fn is_on(&self) -> bool {
        value(&self.text, "State").is_some_and(|rest| rest.starts_with("\"on\""))
    }

    /// Whether it is off for a reason that has these words.
    pub fn is_off_for(&self, words: &str) -> bool {
        let reason = value(&self.text, "Reason").and_then(|rest| rest.lines().next());
        !self.is_on() && reason.is_some_and(|reason| reason.contains(words))
    }

    /// Role and mode of a device that has programs, with a blank between them.
    pub fn device(&self, name: &str) -> Option<String> {
        let devices = value(&self.text, "Devices")?.lines().next()?;
        let own = devices
            .split('}')
            .find(|part| part.contains(&format!("\"{name}\"")))?;
        Some(format!("{} {}", word(own, "Role")?, word(own, "Mode")?))
    }

    /// The packets of both paths.
    ///
    /// # Errors
    /// When a figure is missing.
    pub fn packets(&self) -> Result<Packets> {
        Ok(Packets {
            kernel_rx: self.number("Kernel RX packets")?,
            kernel_tx: self.number("Kernel TX packets")?,
            user_rx: self.number("User RX packets")?,
            user_tx: self.number("User TX packets")?,
        })
    }
}

/// What follows a name in JSON.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
    Some(rest.trim_start())
}

fn word(text: &str, name: &str) -> Option<String> {
    let quoted = value(text, name)?.strip_prefix('"')?;
    Some(quoted.split('"').next()?.to_owned())
}

fn number(text: &str, name: &str) -> Result<u64> {
    let found = value(text, name).with_context(|| format!("no {name}"))?;
    let end = found.find(|c: char| !c.is_ascii_digit());
    let digits = &found[..end.unwrap_or(found.len())];
    digits.parse().context(name.to_owned())
}

/// The packets of both paths, as the server says.
///
/// # Errors
/// When `occtl` fails.
pub fn packets(server: &Server) -> Result<Packets> {
    Datapath::of(server)?.packets()
}

/// A server in a bed whose packets look as those of network cards do.
///
/// # Errors
/// As [`Server::start`].
pub fn start(bed: &Bed, config: &Config) -> Result<Server> {
    bed.complete_checksums()?;
    Server::start(bed, config)
}

/// Sends small echo requests to the lan, in both address families; every one must be answered.
///
/// # Errors
/// When one is not.
pub fn pings(client: &Client) -> Result<()> {
    for lan in [LAN4, LAN6] {
        pings_to(client.namespace(), lan)?;
    }
    Ok(())
}

/// Sends 20 small echo requests, which must all be answered.
///
/// # Errors
/// When one is not.
pub fn pings_to(from: &Namespace, to: &str) -> Result<()> {
    let count = format!("-c{PINGS}");
    let said = from.must("ping", &["-n", "-q", &count, "-i0.01", "-W2", to])?;
    let all = format!(" {PINGS} received");
    ensure!(said.contains(&all), "{said}");
    Ok(())
}

/// What [`pings`] add to the figures.
///
/// # Errors
/// As [`pings`].
pub fn packets_of_pings(server: &Server, client: &Client) -> Result<Packets> {
    let before = packets(server)?;
    pings(client)?;
    let after = packets(server)?;
    Ok(Packets {
        kernel_rx: after.kernel_rx - before.kernel_rx,
        kernel_tx: after.kernel_tx - before.kernel_tx,
        user_rx: after.user_rx - before.user_rx,
        user_tx: after.user_tx - before.user_tx,
    })
}

/// Waits until pings pass in the kernel alone.
///
/// # Errors
/// When they do not.
pub fn wait_in_kernel(server: &Server, client: &Client) -> Result<()> {
    wait::until_true("pings in the kernel alone", wait::LONG, || {
        packets_of_pings(server, client).is_ok_and(|added| {
            added.kernel_rx >= 2 * PINGS
                && added.kernel_tx >= 2 * PINGS
                && (added.user_rx, added.user_tx) == (0, 0)
        })
    })
    .with_context(|| Datapath::of(server).map_or_else(|e| e.to_string(), |now| now.text))
}

/// Shows that pings pass, and none of them in the kernel.
///
/// # Errors
/// When one is lost, or was carried by the kernel.
pub fn check_in_user_space(server: &Server, client: &Client) -> Result<()> {
    let added = packets_of_pings(server, client)?;
    ensure!((added.kernel_rx, added.kernel_tx) == (0, 0), "{added:?}");
    ensure!(
        added.user_rx >= 2 * PINGS && added.user_tx >= 2 * PINGS,
        "{added:?}"
    );
    Ok(())
}

/// Packets that a named counter of nftables has seen.
///
/// # Errors
/// When there is no such counter.
pub fn counted(namespace: &Namespace, table: &str, counter: &str) -> Result<u64> {
    let mut words = vec!["list", "counter"];
    words.extend(table.split(' '));
    words.push(counter);
    let text = namespace.must("nft", &words)?;
    let mut found = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    let digits = found.nth(1).with_context(|| text.clone())?;
    digits.parse().with_context(|| text.clone())
}
