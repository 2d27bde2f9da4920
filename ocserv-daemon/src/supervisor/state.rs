//! What the supervisor knows of connections and tunnels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Instant, SystemTime};

use ocserv_proto::config::UserConfig;
use ocserv_proto::dtls::ChannelKeys;

use super::lease::Search;
use super::opening::Addresses;
use crate::ipc::dataplane::{SessionParams, ToDataplane};
use crate::ipc::gate::{EndReason, TunnelRequest};
use crate::ipc::ids::{ConnTicket, GateId, SessionName, Slot};

/// How far a connection without a tunnel has come; words of cli.md §4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No login yet.
    PreAuth,
    /// A login failed.
    AuthFailed,
    /// A login succeeded, or a tunnel is being opened.
    Authenticated,
}

/// One accepted TCP connection.
#[derive(Debug)]
pub struct Connection {
    /// What the gate shows to secmod.
    pub ticket: ConnTicket,
    /// The gate that serves it.
    pub gate: GateId,
    /// When it was accepted.
    pub since: SystemTime,
    /// Name of the user, once known.
    pub username: String,
    /// How far the login is.
    pub stage: Stage,
    /// Its one CONNECT came.
    pub asked: bool,
    /// A CONNECT that is being answered.
    pub opening: Option<Opening>,
    /// The open tunnel.
    pub tunnel: Option<Tunnel>,
    /// It was told to end, why and when; the gate's `Closed` is awaited.
    pub ending: Option<(EndReason, Instant)>,
}

impl Connection {
    /// The tunnel that is open, or else the one that is being set up.
    pub fn any_tunnel(&self) -> Option<&Tunnel> {
        let opening = self
            .opening
            .as_ref()
            .and_then(|opening| opening.tunnel.as_deref());
        self.tunnel.as_ref().or(opening)
    }

    /// Whether its tunnel is of that session.
    pub fn uses(&self, name: &SessionName) -> bool {
        self.any_tunnel().is_some_and(|tunnel| &tunnel.name == name)
    }
}

/// A tunnel between CONNECT and its grant.
#[derive(Debug)]
pub struct Opening {
    /// Question to secmod, or the number of the set-up task.
    pub step: u64,
    /// What the client told.
    pub request: Box<TunnelRequest>,
    /// What is set up, while the connect script runs.
    pub tunnel: Option<Box<Tunnel>>,
    /// Where its addresses come from.
    pub search: Option<Search>,
    /// Addresses that answered a probe so far.
    pub probes: u32,
}

/// An open tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// Public name of its session.
    pub name: SessionName,
    /// Its counters.
    pub slot: Slot,
    /// Vhost index.
    pub vhost: u32,
    /// User.
    pub username: String,
    /// Group or empty.
    pub groupname: String,
    /// IPv4 lease.
    pub ipv4: Option<Ipv4Addr>,
    /// Server's IPv4 address and netmask of that pool.
    pub ipv4_pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// IPv6 lease and prefix length.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Server's IPv6 address.
    pub ipv6_local: Option<Ipv6Addr>,
    /// Effective settings.
    pub settings: UserConfig,
    /// Client's host name.
    pub hostname: Option<String>,
    /// `User-Agent`.
    pub user_agent: String,
    /// Device type and platform, for scripts.
    pub device_type: String,
    /// Platform.
    pub device_platform: String,
    /// iOS or Android: `mobile-*` timers.
    pub mobile: bool,
    /// Inner MTU, 0 until known.
    pub mtu: u16,
    /// In occtl's form.
    pub tls_cipher: String,
    /// In occtl's form; empty without DTLS.
    pub dtls_cipher: String,
    /// When this tunnel was opened.
    pub connected: SystemTime,
    /// Its place in the order in which tunnels were told to the dataplane.
    pub order: u64,
    /// When the user logged in (`session-timeout`).
    pub authenticated: SystemTime,
    /// What the dataplane was told, to tell it again after its restart.
    pub params: SessionParams,
    /// The keys of its two channel records, likewise.
    pub channels: [Option<InstalledChannel>; 2],
    /// The record that the next keys go to.
    pub next_channel: u8,
    /// When the last keys came.
    pub last_keys: Option<Instant>,
}

/// Keys that the dataplane has.
#[derive(Debug)]
pub struct InstalledChannel {
    /// Key block.
    pub keys: ChannelKeys,
    /// Client's UDP address.
    pub peer: SocketAddr,
    /// Local UDP address.
    pub local: SocketAddr,
    /// Number of these keys among all that the server installed.
    pub generation: u64,
}

impl InstalledChannel {
    /// What tells the dataplane of them.
    pub fn message(&self, slot: Slot, channel: u8) -> ToDataplane {
        ToDataplane::KeysAdded {
            slot,
            channel,
            keys: Box::new(self.keys.clone()),
            peer: self.peer,
            local: self.local,
            generation: self.generation,
        }
    }
}

impl Tunnel {
    /// Whether these keys are in that channel record.
    pub fn has_keys(&self, channel: usize, generation: u64) -> bool {
        let installed = self.channels.get(channel).and_then(Option::as_ref);
        installed.is_some_and(|installed| installed.generation == generation)
    }

    /// The client's addresses in the order that logs and scripts want.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = self.ipv4.map(IpAddr::V4);
        let v6 = self.ipv6.map(|(address, _)| IpAddr::V6(address));
        v4.into_iter().chain(v6)
    }

    /// Takes the addresses over.
    pub fn set_addresses(&mut self, addresses: &Addresses) {
        self.ipv4 = addresses.ipv4.map(|(lease, _, _)| lease);
        self.ipv4_pool = addresses.ipv4.map(|(_, local, mask)| (local, mask));
        self.ipv6 = addresses.ipv6.map(|(lease, _)| lease);
        self.ipv6_local = addresses.ipv6.map(|(_, local)| local);
        (self.params.ipv4, self.params.ipv6) = (self.ipv4, self.ipv6);
    }

    /// The routes that lead to the client: its address, or its IPv6 subnet.
    pub fn host_routes(&self) -> Vec<(IpAddr, u8)> {
        let v4 = self.ipv4.map(|address| (IpAddr::V4(address), 32));
        let v6 = self.ipv6.map(|(address, prefix)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            (
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)),
                prefix,
            )
        });
        v4.into_iter().chain(v6).collect()
    }

    /// `idle-timeout` or its mobile form.
    pub fn idle_timeout(&self) -> Option<std::time::Duration> {
        if self.mobile {
            self.settings
                .mobile_idle_timeout
                .or(self.settings.idle_timeout)
        } else {
            self.settings.idle_timeout
        }
    }

    /// `dpd` or its mobile form, in seconds; 0: off.
    pub fn dpd_secs(settings: &UserConfig, mobile: bool) -> u32 {
        let dpd = if mobile {
            settings.mobile_dpd.or(settings.dpd)
        } else {
            settings.dpd
        };
        dpd.map_or(0, |dpd| u32::try_from(dpd.as_secs()).unwrap_or(u32::MAX))
    }
}

/// Free slots that rest before one of them is used again, as long as there are others.
const RESTING: usize = 256;

/// Slots of the session records. A number rests before its reuse: what is under way for its former
/// session must not meet the next. Numbers that were never used come otherwise last, since their
/// records have no memory yet.
#[derive(Debug)]
pub struct Slots {
    /// Free again, the one that has been so for longest first.
    resting: std::collections::VecDeque<u32>,
    unused: std::ops::Range<u32>,
}

impl Slots {
    /// Slots 0 to `count` − 1.
    pub fn new(count: u32) -> Self {
        Self {
            resting: Default::default(),
            unused: 0..count,
        }
    }

    /// The slot that has been free for longest if enough are; else the next unused one.
    pub fn take(&mut self) -> Option<Slot> {
        let rested = (self.resting.len() >= RESTING).then(|| self.resting.pop_front());
        let slot = rested.flatten().or_else(|| self.unused.next());
        slot.or_else(|| self.resting.pop_front()).map(Slot)
    }

    /// Gives a slot back.
    pub fn give_back(&mut self, slot: Slot) {
        self.resting.push_back(slot.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_rests_before_it_is_used_again() {
        let mut slots = Slots::new(2);
        let first = slots.take().unwrap();
        slots.give_back(first);
        assert_ne!(slots.take(), Some(first));
        assert_eq!(slots.take(), Some(first));
        assert_eq!(slots.take(), None);
    }

    #[test]
    fn few_slots_are_touched_by_few_sessions() {
        let mut slots = Slots::new(8192);
        for turn in 0..2000 {
            let slot = slots.take().unwrap();
            // The one that was given back 256 takes ago.
            assert_eq!(slot.0, turn % RESTING as u32);
            slots.give_back(slot);
        }
        let open: Vec<_> = (0..8192).map(|_| slots.take().unwrap().0).collect();
        let different: std::collections::HashSet<_> = open.iter().collect();
        assert_eq!(different.len(), 8192);
        assert_eq!(slots.take(), None);
    }
}
