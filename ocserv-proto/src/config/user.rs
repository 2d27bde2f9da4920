//! Settings that per-user and per-group files may change (scopes VU and U), and their merging.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::supplemental::SupplementalConfig;
use super::values::{NetPriority, PortRules, Route};

/// Settings of one user: a vhost's, or a vhost's changed by [`UserConfig::merged`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserConfig {
    /// No DTLS.
    pub no_udp: bool,
    /// Only the announced routes may be reached.
    pub restrict_user_to_routes: bool,
    /// Only these ports may be reached.
    pub restrict_user_to_ports: Option<PortRules>,
    /// Announce `X-CSTP-Tunnel-All-DNS`.
    pub tunnel_all_dns: bool,
    /// The cookie is good only from the address of the login.
    pub deny_roaming: bool,
    /// Announce `X-CSTP-Client-Bypass-Protocol`.
    pub client_bypass_protocol: bool,

    /// Networks to reach through the tunnel; empty: everything (default route).
    pub route: Vec<Route>,
    /// Networks not to reach through the tunnel.
    pub no_route: Vec<Route>,
    /// Networks behind the client.
    pub iroute: Vec<Route>,
    /// Domains to resolve through the tunnel.
    pub split_dns: Vec<String>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// WINS servers.
    pub nbns: Vec<IpAddr>,

    /// IPv4 pool: address as written and prefix length.
    pub ipv4_network: Option<Route>,
    /// IPv6 pool: address as written and prefix length.
    pub ipv6_network: Option<Route>,
    /// Prefix length of each client's IPv6 network, 1 to 128.
    pub ipv6_subnet_prefix: u8,
    /// Fixed address.
    pub explicit_ipv4: Option<Ipv4Addr>,
    /// Fixed address.
    pub explicit_ipv6: Option<Ipv6Addr>,
    /// Replaces the client's host name.
    pub hostname: Option<String>,

    /// Client → server, bytes per second, in whole thousands; 0: no limit.
    pub rx_data_per_sec: u64,
    /// Server → client, bytes per second, in whole thousands; 0: no limit.
    pub tx_data_per_sec: u64,
    /// Interval of interim accounting.
    pub stats_report_time: Option<Duration>,
    /// Longest session.
    pub session_timeout: Option<Duration>,
    /// Upper bound of the inner MTU; 0: none.
    pub mtu: u16,
    /// Dead peer detection.
    pub dpd: Option<Duration>,
    /// The same for mobile clients. In a vhost `None` means "as dpd"; merged: resolved.
    pub mobile_dpd: Option<Duration>,
    /// Longest time without data.
    pub idle_timeout: Option<Duration>,
    /// The same for mobile clients. In a vhost `None` means "as idle_timeout"; merged: resolved.
    pub mobile_idle_timeout: Option<Duration>,
    /// Keepalive interval to announce.
    pub keepalive: Option<Duration>,
    /// Sessions per user name; 0: no limit.
    pub max_same_clients: u32,
    /// Priority of the session's packets.
    pub net_priority: Option<NetPriority>,
    /// AnyConnect profile file.
    pub user_profile: Option<std::path::PathBuf>,
}

impl Default for UserConfig {
    /// The defaults of config.md §4.
    fn default() -> Self {
        Self {
            no_udp: false,
            restrict_user_to_routes: false,
            restrict_user_to_ports: None,
            tunnel_all_dns: false,
            deny_roaming: false,
            client_bypass_protocol: false,
            route: Vec::new(),
            no_route: Vec::new(),
            iroute: Vec::new(),
            split_dns: Vec::new(),
            dns: Vec::new(),
            nbns: Vec::new(),
            ipv4_network: None,
            ipv6_network: None,
            ipv6_subnet_prefix: 128,
            explicit_ipv4: None,
            explicit_ipv6: None,
            hostname: None,
            rx_data_per_sec: 0,
            tx_data_per_sec: 0,
            stats_report_time: None,
            session_timeout: None,
            mtu: 0,
            dpd: Some(Duration::from_secs(90)),
            mobile_dpd: Some(Duration::from_secs(1800)),
            idle_timeout: None,
            mobile_idle_timeout: None,
            keepalive: Some(Duration::from_secs(32400)),
            max_same_clients: 0,
            net_priority: None,
            user_profile: None,
        }
    }
}

impl UserConfig {
    /// A user's settings: the vhost's, changed by the group's file, then by the user's
    /// (config.md 7.3). Single values: the user's file wins. Lists: the entries of both files add
    /// up and replace the vhost's list, or are added to it with `append-routes`.
    pub fn merged(
        vhost: &UserConfig,
        append_routes: bool,
        group: Option<&SupplementalConfig>,
        user: Option<&SupplementalConfig>,
    ) -> UserConfig {
        let mut merged = vhost.clone();
        for file in [group, user].into_iter().flatten() {
            file.apply_single_values(&mut merged);
        }
        let files: Vec<&SupplementalConfig> = [group, user].into_iter().flatten().collect();
        merge_lists(&mut merged, vhost, append_routes, &files);
        merged.mobile_dpd = merged.mobile_dpd.or(merged.dpd);
        merged.mobile_idle_timeout = merged.mobile_idle_timeout.or(merged.idle_timeout);
        merged
    }
}

fn merge_lists(
    merged: &mut UserConfig,
    vhost: &UserConfig,
    append: bool,
    files: &[&SupplementalConfig],
) {
    merged.no_route = list(&vhost.no_route, append, files, |f| &f.no_route);
    merged.split_dns = list(&vhost.split_dns, append, files, |f| &f.split_dns);
    merged.dns = list(&vhost.dns, append, files, |f| &f.dns);
    merged.nbns = list(&vhost.nbns, append, files, |f| &f.nbns);
    merged.iroute = list(&vhost.iroute, append, files, |f| &f.iroute);
    merged.route = if files.iter().any(|f| f.default_route) {
        Vec::new()
    } else {
        list(&vhost.route, append, files, |f| &f.route)
    };
}

fn list<T: Clone>(
    vhost: &[T],
    append: bool,
    files: &[&SupplementalConfig],
    field: impl Fn(&SupplementalConfig) -> &Vec<T>,
) -> Vec<T> {
    let own: Vec<T> = files
        .iter()
        .flat_map(|f| field(f).iter().cloned())
        .collect();
    if own.is_empty() {
        vhost.to_vec()
    } else if append {
        [vhost, &own].concat()
    } else {
        own
    }
}
