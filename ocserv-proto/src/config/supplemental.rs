//! Per-user and per-group files (config.md §7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Message, Place};
use super::keys::{self, Setter, Status};
use super::lines::{Line, Lines};
use super::read::text_of;
use super::user::UserConfig;
use super::value::{Read, Value, strip};
use super::values::{NetPriority, PortRules, Route};

/// What one file says; `None` where it is silent. A duration of zero means "off".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SupplementalConfig {
    /// `no-udp`.
    pub no_udp: Option<bool>,
    /// `restrict-user-to-routes`.
    pub restrict_user_to_routes: Option<bool>,
    /// `restrict-user-to-ports`.
    pub restrict_user_to_ports: Option<PortRules>,
    /// `tunnel-all-dns`.
    pub tunnel_all_dns: Option<bool>,
    /// `deny-roaming`.
    pub deny_roaming: Option<bool>,
    /// `client-bypass-protocol`.
    pub client_bypass_protocol: Option<bool>,
    /// `route`, without `default`.
    pub route: Vec<Route>,
    /// `route = default` was among the routes.
    pub default_route: bool,
    /// `no-route`.
    pub no_route: Vec<Route>,
    /// `iroute`.
    pub iroute: Vec<Route>,
    /// `split-dns`.
    pub split_dns: Vec<String>,
    /// `dns`.
    pub dns: Vec<IpAddr>,
    /// `nbns`.
    pub nbns: Vec<IpAddr>,
    /// `ipv4-network`.
    pub ipv4_network: Option<Ipv4Addr>,
    /// Prefix length from `ipv4-network` or `ipv4-netmask`.
    pub ipv4_prefix: Option<u8>,
    /// `ipv6-network`.
    pub ipv6_network: Option<Ipv6Addr>,
    /// Prefix length from `ipv6-network`.
    pub ipv6_prefix: Option<u8>,
    /// `ipv6-subnet-prefix`.
    pub ipv6_subnet_prefix: Option<u8>,
    /// `explicit-ipv4`.
    pub explicit_ipv4: Option<Ipv4Addr>,
    /// `explicit-ipv6`.
    pub explicit_ipv6: Option<Ipv6Addr>,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `rx-data-per-sec`.
    pub rx_data_per_sec: Option<u64>,
    /// `tx-data-per-sec`.
    pub tx_data_per_sec: Option<u64>,
    /// `stats-report-time`.
    pub stats_report_time: Option<Duration>,
    /// `session-timeout`.
    pub session_timeout: Option<Duration>,
    /// `mtu`.
    pub mtu: Option<u16>,
    /// `dpd`.
    pub dpd: Option<Duration>,
    /// `mobile-dpd`.
    pub mobile_dpd: Option<Duration>,
    /// `idle-timeout`.
    pub idle_timeout: Option<Duration>,
    /// `mobile-idle-timeout`.
    pub mobile_idle_timeout: Option<Duration>,
    /// `keepalive`.
    pub keepalive: Option<Duration>,
    /// `max-same-clients`.
    pub max_same_clients: Option<u32>,
    /// `net-priority`.
    pub net_priority: Option<NetPriority>,
    /// `user-profile`.
    pub user_profile: Option<PathBuf>,
}

/// Reads a per-user or per-group file. `source` is its name for messages.
pub fn parse(source: &str, text: &[u8]) -> Result<(SupplementalConfig, Vec<Message>), ConfigError> {
    let mut file = SupplementalConfig::default();
    let mut messages = Vec::new();
    for (number, line) in Lines::new(text) {
        let place = Place {
            source: source.to_owned(),
            line: Some(number),
        };
        match line {
            Line::Section(_) => {
                let text = format!("{place}: sections have no meaning in this file");
                messages.push(Message::warning(text));
            }
            Line::Setting { key, value } => set_key(&mut file, &mut messages, place, key, value)?,
            Line::Malformed => {
                let message = format!("error: config file error in line {number}");
                return Err(ConfigError::new(
                    place,
                    message,
                    "write 'key = value' or a comment",
                ));
            }
        }
    }
    Ok((file, messages))
}

fn set_key(
    file: &mut SupplementalConfig,
    messages: &mut Vec<Message>,
    place: Place,
    name: &[u8],
    value: &[u8],
) -> Read<()> {
    let name = String::from_utf8_lossy(name);
    let row = keys::find(&name);
    let Some((row, Setter::User(set))) = row.map(|row| (row, row.setter)) else {
        let text = format!("skipping unknown option '{name}' in {}", place.source);
        messages.push(Message::warning(text));
        return Ok(());
    };
    let raw = text_of(messages, &place.source, place.line.unwrap_or(0), row, value)?;
    let text = strip(&raw);
    let mut value = Value {
        key: row.name,
        text,
        raw: &raw,
        place,
        messages,
        off: false,
    };
    set(file, &mut value)?;
    if let (Status::Later(feature), false) = (row.status, value.off) {
        value.warn(format!("not supported yet: {feature}"));
    }
    Ok(())
}

/// Longest name of a file in a directory, bytes.
const MAX_FILE_NAME: usize = 255;

/// Whether a user or group name may be used as a file name in `config-per-user` or
/// `config-per-group`: it must stay in that directory (config.md 7.2).
pub fn file_name_ok(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && !name.bytes().any(|b| matches!(b, b'/' | 0))
        && name.len() <= MAX_FILE_NAME
}

impl SupplementalConfig {
    /// Overwrites every setting that is not a list.
    pub(super) fn apply_single_values(&self, user: &mut UserConfig) {
        set(&mut user.no_udp, self.no_udp);
        set(
            &mut user.restrict_user_to_routes,
            self.restrict_user_to_routes,
        );
        set(&mut user.tunnel_all_dns, self.tunnel_all_dns);
        set(&mut user.deny_roaming, self.deny_roaming);
        set(
            &mut user.client_bypass_protocol,
            self.client_bypass_protocol,
        );
        set(&mut user.ipv6_subnet_prefix, self.ipv6_subnet_prefix);
        set(&mut user.rx_data_per_sec, self.rx_data_per_sec);
        set(&mut user.tx_data_per_sec, self.tx_data_per_sec);
        set(&mut user.mtu, self.mtu);
        set(&mut user.max_same_clients, self.max_same_clients);
        set_optional(
            &mut user.restrict_user_to_ports,
            &self.restrict_user_to_ports,
        );
        set_optional(&mut user.explicit_ipv4, &self.explicit_ipv4);
        set_optional(&mut user.explicit_ipv6, &self.explicit_ipv6);
        set_optional(&mut user.hostname, &self.hostname);
        set_optional(&mut user.net_priority, &self.net_priority);
        set_optional(&mut user.user_profile, &self.user_profile);
        set_duration(&mut user.stats_report_time, self.stats_report_time);
        set_duration(&mut user.session_timeout, self.session_timeout);
        set_duration(&mut user.dpd, self.dpd);
        set_duration(&mut user.mobile_dpd, self.mobile_dpd);
        set_duration(&mut user.idle_timeout, self.idle_timeout);
        set_duration(&mut user.mobile_idle_timeout, self.mobile_idle_timeout);
        set_duration(&mut user.keepalive, self.keepalive);
        self.apply_networks(user);
    }

    /// A network without its own prefix length takes over that of the vhost (config.md 7.6).
    fn apply_networks(&self, user: &mut UserConfig) {
        let old4 = user.ipv4_network;
        let net = self.ipv4_network.map(IpAddr::V4).or(old4.map(|r| r.net));
        let prefix = self.ipv4_prefix.or(old4.map(|r| r.prefix));
        user.ipv4_network = net.zip(prefix).map(|(net, prefix)| Route { net, prefix });
        let old6 = user.ipv6_network;
        let net = self.ipv6_network.map(IpAddr::V6).or(old6.map(|r| r.net));
        let prefix = self.ipv6_prefix.or(old6.map(|r| r.prefix));
        user.ipv6_network = net.zip(prefix).map(|(net, prefix)| Route { net, prefix });
    }
}

fn set<T: Copy>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn set_optional<T: Clone>(target: &mut Option<T>, value: &Option<T>) {
    if value.is_some() {
        target.clone_from(value);
    }
}

fn set_duration(target: &mut Option<Duration>, value: Option<Duration>) {
    if let Some(value) = value {
        *target = (!value.is_zero()).then_some(value);
    }
}
