//! Other VPNs, and ocserv and ours beside them, with a client program of each on the load's
//! processor: plain datagrams go in at the client's tun device, or come out of it. What the client costs
//! is not counted; but it sets the pace, and so how many packets meet the gateway together.

mod openvpn;
mod pair;
mod table;
mod wireguard;

use std::env;

use anyhow::{Context, Result};
use ocserv_tests::process;
use serde::Serialize;

use self::pair::Pair;
use super::case::{Case, Choice};
use super::sample;
use crate::Scale;
use crate::report::Report;
use crate::side::{client_cpus, on_cpus};

pub use self::table::PeerTable;

/// A server with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Debian's ocserv and openconnect.
    Reference,
    /// Ours and openconnect.
    Ours,
    /// OpenVPN in user space at both ends.
    OpenVpn,
    /// WireGuard in user space, in Go.
    WireguardGo,
    /// WireGuard in user space, in Rust.
    Boringtun,
}

impl Peer {
    /// All, in the order of the table.
    pub const ALL: [Self; 5] = [
        Self::Reference,
        Self::Ours,
        Self::OpenVpn,
        Self::WireguardGo,
        Self::Boringtun,
    ];

    /// As it stands in tables.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Reference => "ocserv 1.1.6, openconnect",
            Self::Ours => "ours, xdp = auto, openconnect",
            Self::OpenVpn => "OpenVPN",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
        }
    }

    /// Programs that it takes besides those of the comparison.
    const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Reference | Self::Ours => &[],
            Self::OpenVpn => &["openvpn"],
            Self::WireguardGo => &["wireguard-go", "wg"],
            Self::Boringtun => &["boringtun-cli", "wg"],
        }
    }

    /// What it says of its version; `None` for those of the comparison.
    fn version(self) -> Option<String> {
        let program = self.programs().first()?;
        let said = process::output(program, &["--version"]).ok()?;
        Some(process::text(&said).lines().next()?.to_owned())
    }

    fn start(self) -> Result<Pair> {
        match self {
            Self::Reference | Self::Ours => Pair::of_openconnect(self),
            Self::OpenVpn => openvpn::start(),
            Self::WireguardGo => wireguard::start(&["wireguard-go", "-f"]),
            Self::Boringtun => {
                wireguard::start(&["boringtun-cli", "-f", "--disable-drop-privileges"])
            }
        }
    }
}

/// Measures those that are installed, in turns.
///
/// # Errors
/// When one does not start, or packets get lost.
pub fn measure(choice: &Choice, scale: Scale, report: &mut Report) -> Result<()> {
    let cases = choice.cases_of_peers();
    if cases.is_empty() {
        return Ok(());
    }
    let is_there = |peer: &Peer| peer.programs().iter().all(|name| is_installed(name));
    let (found, missing): (Vec<_>, Vec<_>) = Peer::ALL.into_iter().partition(is_there);
    report.peers.note_missing(&missing);
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|peer| peer.text()).collect();
        report.progress(&format!("not installed: {}", names.join(", ")));
    }
    for version in found.iter().filter_map(|peer| peer.version()) {
        report.peers.note_version(version);
    }
    let start = |peer: Peer| Ok((peer, peer.start().context(peer.text())?));
    let pairs = found.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    let outcome = measure_all(&pairs, &cases, scale, report);
    if outcome.is_err() {
        let pairs = pairs.iter();
        pairs.for_each(|(_, pair)| eprintln!("{}", pair.bed().logs()));
    }
    pairs.into_iter().try_for_each(|(_, pair)| pair.close())?;
    outcome
}

fn measure_all(
    pairs: &[(Peer, Pair)],
    cases: &[Case],
    scale: Scale,
    report: &mut Report,
) -> Result<()> {
    let cpus = client_cpus()?;
    for case in cases {
        for round in 1..=scale.rounds {
            for (peer, pair) in pairs {
                let take = || sample::take(&pair.subject(), &pair.meter()?, *case, scale.packets);
                let sample =
                    on_cpus(&cpus, take)?.with_context(|| format!("{case}, {}", peer.text()))?;
                report.peers.add(*case, *peer, &sample);
                report.progress(&format!(
                    "{case}, client program, round {round}, {}: {:.0} ns CPU a packet, {:.0} packets/s, {:.2} % lost",
                    peer.text(),
                    sample.cost(),
                    sample.rate(),
                    sample.loss() * 1e2
                ));
            }
        }
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    #[test]
    fn programs_are_looked_for_in_the_path() {
        assert!(super::is_installed("sh"));
        assert!(!super::is_installed("no-such-vpn"));
    }
}
