//! The parts of a tunnel's set-up: addresses, parameters, and the task that may take its time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ocserv_proto::config::{Config, Route, UserConfig};
use ocserv_sys::process::{LoginRecord, record_login, record_logout};
use tokio::sync::Semaphore;

use super::lease::{ExplicitRefused, Ipv4Pool, Ipv6Pool, LeasePool, Search};
use super::network::Network;
use super::scripts::{self, Hook, ScriptContext};
use super::state::Tunnel;
use crate::ipc::dataplane::SessionParams;
use crate::ipc::gate::{TunnelRefused, TunnelRequest};
use crate::ipc::ids::{ConnTicket, SessionName, Slot};
use crate::ipc::secmod::SessionRecord;

/// How long an answer to the probe of `ping-leases` is waited for.
const PING_WAIT: Duration = Duration::from_millis(250);

/// Addresses of a tunnel, and the server's side of each pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    /// Lease, server's address, netmask.
    pub ipv4: Option<(Ipv4Addr, Ipv4Addr, Ipv4Addr)>,
    /// Lease with prefix length, server's address.
    pub ipv6: Option<((Ipv6Addr, u8), Ipv6Addr)>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum NoAddress {
    /// Nothing configured that the client can take.
    #[error("no IPv4 or IPv6 addresses are configured. Cannot obtain lease")]
    NotConfigured,
    /// Every address is out.
    #[error("the address pool is exhausted")]
    Exhausted,
    /// `explicit-ipv4` or `explicit-ipv6`.
    #[error("{0}")]
    Explicit(#[from] ExplicitRefused),
}

/// The pools of a user.
pub fn pools(settings: &UserConfig) -> (Option<Ipv4Pool>, Option<Ipv6Pool>) {
    let v4 = settings.ipv4_network.and_then(|route| match route.net {
        IpAddr::V4(net) => Some(Ipv4Pool::new(net, route.prefix)),
        IpAddr::V6(_) => None,
    });
    let v6 = settings.ipv6_network.and_then(|route| match route.net {
        IpAddr::V6(net) => Some(Ipv6Pool::new(
            net,
            route.prefix,
            settings.ipv6_subnet_prefix,
        )),
        IpAddr::V4(_) => None,
    });
    (v4, v6)
}

/// Takes the addresses that the client can use from its user's pools.
///
/// # Errors
/// When a wanted family has none left, or there is no family at all. Nothing stays taken then that
/// the session did not have before.
pub fn take_addresses(
    leases: &mut LeasePool,
    name: &SessionName,
    settings: &UserConfig,
    request: &TunnelRequest,
    search: &mut Search,
) -> Result<Addresses, NoAddress> {
    let (v4, v6) = pools(settings);
    let mut addresses = Addresses::default();
    if let Some(pool) = v4.filter(|_| request.wants_ipv4) {
        let lease = match settings.explicit_ipv4 {
            Some(address) => leases.take_explicit_ipv4(name, &pool, address)?,
            None => leases
                .propose_ipv4(name, &pool, search)
                .ok_or(NoAddress::Exhausted)?,
        };
        addresses.ipv4 = Some((lease, pool.server(), pool.netmask()));
    }
    if let Some(pool) = v6.filter(|_| request.wants_ipv6) {
        let lease = match settings.explicit_ipv6 {
            Some(address) => leases.take_explicit_ipv6(name, &pool, address)?,
            None => leases
                .propose_ipv6(name, &pool, search)
                .ok_or(NoAddress::Exhausted)?,
        };
        addresses.ipv6 = Some((lease, pool.server()));
    }
    if addresses.ipv4.is_none() && addresses.ipv6.is_none() {
        return Err(NoAddress::NotConfigured);
    }
    Ok(addresses)
}

/// What the random part of an address search starts from.
pub fn search(username: &str, predictable: bool) -> Search {
    let mut random = [0; 16];
    // Without randomness the search still works, it only becomes predictable.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random);
    Search::new(predictable.then_some(username), random)
}

/// A tunnel record from what secmod, client and pools gave.
pub fn tunnel(
    slot: Slot,
    ticket: &ConnTicket,
    record: SessionRecord,
    settings: UserConfig,
    request: &TunnelRequest,
    addresses: Addresses,
    switch_to_tcp: Option<Duration>,
) -> Tunnel {
    let mobile = ocserv_proto::connect::is_mobile_platform(&request.device_platform);
    let mut app_id = [0; 32];
    let random = ring::rand::SystemRandom::new();
    let has_app_id = ring::rand::SecureRandom::fill(&random, &mut app_id).is_ok();
    let params = SessionParams {
        slot,
        gate: ticket.gate,
        ipv4: addresses.ipv4.map(|(lease, _, _)| lease),
        ipv6: addresses.ipv6.map(|(lease, _)| lease),
        iroutes: settings
            .iroute
            .iter()
            .map(|route| (route.net, route.prefix))
            .collect(),
        app_id: (has_app_id && !settings.no_udp).then_some(app_id),
        mtu: super::network::DEFAULT_MTU,
        dpd: Tunnel::dpd_secs(&settings, mobile),
        switch_to_tcp: switch_to_tcp.map_or(0, |time| time.as_secs() as u32),
        rx_limit: settings.rx_data_per_sec,
        tx_limit: settings.tx_data_per_sec,
        net_priority: settings.net_priority,
    };
    Tunnel {
        name: record.name,
        slot,
        vhost: record.vhost,
        username: record.username,
        groupname: record.groupname,
        ipv4: params.ipv4,
        ipv4_pool: addresses.ipv4.map(|(_, local, mask)| (local, mask)),
        ipv6: params.ipv6,
        ipv6_local: addresses.ipv6.map(|(_, local)| local),
        hostname: settings
            .hostname
            .clone()
            .or_else(|| request.hostname.clone()),
        user_agent: request.user_agent.clone(),
        device_type: request.device_type.clone(),
        device_platform: request.device_platform.clone(),
        mobile,
        mtu: 0,
        tls_cipher: String::new(),
        dtls_cipher: String::new(),
        connected: SystemTime::now(),
        order: 0,
        authenticated: record.authenticated.unwrap_or(record.created),
        params,
        channels: [None, None],
        next_channel: 0,
        last_keys: None,
        settings,
    }
}

/// Why a set-up task did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetUpFailed {
    /// Script or route: no tunnel.
    Refused(TunnelRefused),
    /// Somebody uses this address already (`ping-leases`).
    AddressAnswers(IpAddr),
}

/// The slow part of a tunnel's set-up. Other clients do not wait for it.
#[derive(Debug)]
pub struct Task {
    /// Configuration of its time.
    pub config: Arc<Config>,
    /// For iroutes without a command.
    pub network: Network,
    /// Name of the tun device.
    pub device: String,
    /// What the connect script is told.
    pub context: ScriptContext,
    /// Networks behind the client.
    pub iroutes: Vec<Route>,
    /// Addresses to probe.
    pub probe: Vec<IpAddr>,
    /// Ends of former tunnels that come first (behaviour.md 7.5).
    pub previous: Vec<Arc<Semaphore>>,
}

impl Task {
    /// Probe, script, routes.
    ///
    /// # Errors
    /// Says whether another address may be tried.
    pub async fn run(self) -> Result<(), SetUpFailed> {
        for end in self.previous {
            // Closed when that end is over, and then an error: nobody ever gets a permit.
            let _ = end.acquire().await;
        }
        for address in self.probe {
            if super::ping::answers(address, PING_WAIT).await {
                tracing::info!("the address {address} answers a ping and is not leased");
                return Err(SetUpFailed::AddressAnswers(address));
            }
        }
        if let Err(error) = scripts::run_hook(&self.config, Hook::Connect, &self.context).await {
            tracing::info!("{error}");
            return Err(SetUpFailed::Refused(TunnelRefused::Cookie));
        }
        let added = add_iroutes(&self.config, &self.network, &self.device, &self.iroutes).await;
        if let Err(error) = added {
            tracing::error!("{error:#}");
            remove_iroutes(&self.config, &self.network, &self.device, &self.iroutes).await;
            return Err(SetUpFailed::Refused(TunnelRefused::Cookie));
        }
        Ok(())
    }
}

/// Routes to the networks behind a client: by `route-add-cmd` if there is one, else by netlink.
///
/// # Errors
/// As the command or netlink says of the first one that failed.
pub async fn add_iroutes(
    config: &Config,
    network: &Network,
    device: &str,
    iroutes: &[Route],
) -> anyhow::Result<()> {
    for route in iroutes {
        match &config.route_add_cmd {
            Some(command) => scripts::run_route_command(command, route, device).await?,
            None => network.add_route(route.net, route.prefix).await?,
        }
    }
    Ok(())
}

/// The opposite of [`add_iroutes`]; failures are logged only.
pub async fn remove_iroutes(config: &Config, network: &Network, device: &str, iroutes: &[Route]) {
    for route in iroutes {
        match &config.route_del_cmd {
            Some(command) => {
                if let Err(error) = scripts::run_route_command(command, route, device).await {
                    tracing::warn!("{error:#}");
                }
            }
            None if config.route_add_cmd.is_none() => {
                network.remove_route(route.net, route.prefix).await;
            }
            None => {}
        }
    }
}

/// utmp and wtmp (behaviour.md 13.7). One device serves all: the slot makes the line unique.
pub fn record_use(device: &str, tunnel: &Tunnel, host: IpAddr, begins: bool) {
    let line = format!("{device}.{}", tunnel.slot.0);
    let record = LoginRecord {
        line: &line,
        user: &tunnel.username,
        host,
        pid: std::process::id().cast_signed(),
    };
    let written = if begins {
        record_login(&record, SystemTime::now())
    } else {
        record_logout(&record, SystemTime::now())
    };
    if let Err(error) = written {
        tracing::debug!("utmp: {error}");
    }
}
