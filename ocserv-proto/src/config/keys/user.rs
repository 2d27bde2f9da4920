//! Keys of per-user and per-group files; those of scope VU stand in vhosts too.

use std::net::IpAddr;

use super::Scope::{User as U, VhostUser as VU};
use super::Status::{Later, Works};
use super::{Key, Scope, Setter, Status, push, put, put_some};
use crate::config::supplemental::SupplementalConfig;
use crate::config::value::{Read, Value};
use crate::config::values::{
    NetPriority, PortRules, Route, RouteError, RouteValue, parse_mask, parse_prefix, parse_route,
};

type Set = fn(&mut SupplementalConfig, &mut Value<'_>) -> Read<()>;

const fn key(name: &'static str, scope: Scope, status: Status, set: Set) -> Key {
    Key {
        name,
        scope,
        status,
        setter: Setter::User(set),
    }
}

const FIREWALL: Status = Later("firewall rules for users");

pub(super) static KEYS: &[Key] = &[
    key("no-udp", VU, Works, |u, v| {
        put_some(&mut u.no_udp, v.boolean())
    }),
    key("restrict-user-to-routes", VU, FIREWALL, |u, v| {
        put_some(&mut u.restrict_user_to_routes, v.boolean())
    }),
    key(
        "restrict-user-to-ports",
        VU,
        FIREWALL,
        |u, v| match PortRules::parse(v.text) {
            Some(rules) => {
                u.restrict_user_to_routes = Some(true);
                put_some(&mut u.restrict_user_to_ports, Ok(rules))
            }
            None => v.refuse_line(
                "error: cannot parse restrict-user-to-ports",
                "write e.g. \"tcp(443), udp(53), icmp()\" or \"!(tcp(22))\"",
            ),
        },
    ),
    key("tunnel-all-dns", VU, Works, |u, v| {
        put_some(&mut u.tunnel_all_dns, v.boolean())
    }),
    key("tunnel_all_dns", VU, Works, |u, v| {
        put_some(&mut u.tunnel_all_dns, v.boolean())
    }),
    key("deny-roaming", VU, Works, |u, v| {
        put_some(&mut u.deny_roaming, v.boolean())
    }),
    key("client-bypass-protocol", VU, Works, |u, v| {
        put_some(&mut u.client_bypass_protocol, v.boolean())
    }),
    key("route", VU, Works, |u, v| match route(v)? {
        RouteValue::Default => put(&mut u.default_route, Ok(true)),
        RouteValue::Net(net) => push(&mut u.route, Ok(Some(net))),
    }),
    key("no-route", VU, Works, |u, v| {
        push(&mut u.no_route, net(v).map(Some))
    }),
    key("iroute", U, Works, |u, v| {
        push(&mut u.iroute, net(v).map(Some))
    }),
    key("split-dns", VU, Works, |u, v| {
        push(&mut u.split_dns, v.text())
    }),
    key("dns", VU, Works, |u, v| push(&mut u.dns, v.name_server())),
    key("ipv4-dns", VU, Works, |u, v| {
        push(&mut u.dns, v.name_server())
    }),
    key("ipv6-dns", VU, Works, |u, v| {
        push(&mut u.dns, v.name_server())
    }),
    key("nbns", VU, Works, |u, v| push(&mut u.nbns, v.address())),
    key("ipv4-nbns", VU, Works, |u, v| {
        push(&mut u.nbns, v.address())
    }),
    key("ipv6-nbns", VU, Works, |u, v| {
        push(&mut u.nbns, v.address())
    }),
    key("ipv4-network", VU, Works, |u, v| network(u, v, true)),
    key("ipv6-network", VU, Works, |u, v| network(u, v, false)),
    key("ipv4-netmask", VU, Works, |u, v| match parse_mask(v.text) {
        Some(prefix) => put_some(&mut u.ipv4_prefix, Ok(prefix)),
        None => {
            let message = format!("error: '{}' is not a netmask", v.text);
            v.refuse(message, "write a contiguous mask, e.g. 255.255.255.0")
        }
    }),
    key("ipv6-subnet-prefix", VU, Works, |u, v| {
        let prefix = v.number(i64::MIN, i64::MAX)?;
        match u8::try_from(prefix) {
            Ok(prefix @ 1..=128) => put_some(&mut u.ipv6_subnet_prefix, Ok(prefix)),
            _ => v.refuse_line(
                &format!("error: invalid IPv6 subnet prefix: {prefix}"),
                "give a number from 1 to 128",
            ),
        }
    }),
    key("explicit-ipv4", U, Works, |u, v| {
        optional(&mut u.explicit_ipv4, v.address())
    }),
    key("explicit-ipv6", U, Works, |u, v| {
        optional(&mut u.explicit_ipv6, v.address())
    }),
    key("hostname", U, Works, |u, v| {
        optional(&mut u.hostname, v.text())
    }),
    key("rx-data-per-sec", VU, Works, |u, v| {
        put_some(&mut u.rx_data_per_sec, v.rate())
    }),
    key("tx-data-per-sec", VU, Works, |u, v| {
        put_some(&mut u.tx_data_per_sec, v.rate())
    }),
    key("stats-report-time", VU, Later("accounting"), |u, v| {
        put_some(&mut u.stats_report_time, v.seconds())
    }),
    key("session-timeout", VU, Works, |u, v| {
        put_some(&mut u.session_timeout, v.seconds())
    }),
    key("mtu", VU, Works, |u, v| {
        put_some(&mut u.mtu, v.number(0, 65535).map(|n| n as u16))
    }),
    key("dpd", VU, Works, |u, v| put_some(&mut u.dpd, v.seconds())),
    key("mobile-dpd", VU, Works, |u, v| {
        put_some(&mut u.mobile_dpd, v.seconds())
    }),
    key("idle-timeout", VU, Works, |u, v| {
        put_some(&mut u.idle_timeout, v.seconds())
    }),
    key("mobile-idle-timeout", VU, Works, |u, v| {
        put_some(&mut u.mobile_idle_timeout, v.seconds())
    }),
    key("keepalive", VU, Works, |u, v| {
        put_some(&mut u.keepalive, v.seconds())
    }),
    key("max-same-clients", VU, Works, |u, v| {
        put_some(&mut u.max_same_clients, v.count())
    }),
    key("net-priority", VU, Works, |u, v| {
        let priority = NetPriority::parse(v.text);
        if priority.is_none() {
            v.warn(format!(
                "'{}' is not 0 to 6 or 0x00 to 0xff; line ignored",
                v.text
            ));
        }
        optional(&mut u.net_priority, Ok(priority))
    }),
    key("cgroup", VU, Works, |_, v| {
        v.warn("control groups were removed in ocserv 1.5.0; the line has no effect");
        Ok(())
    }),
    key("user-profile", VU, Works, |u, v| {
        optional(&mut u.user_profile, v.path())
    }),
];

/// Stores a value if there is one.
fn optional<T>(slot: &mut Option<T>, value: Read<Option<T>>) -> Read<()> {
    if let Some(value) = value? {
        *slot = Some(value);
    }
    Ok(())
}

const ROUTE_REMEDY: &str = "write address/prefix, e.g. 10.0.0.0/8 or fd00::/48, or 'default'";

fn route(v: &mut Value<'_>) -> Read<RouteValue> {
    parse_route(v.text).or_else(|why| v.refuse(why.to_string(), ROUTE_REMEDY))
}

/// A route that cannot be the default route.
fn net(v: &mut Value<'_>) -> Read<Route> {
    match route(v)? {
        RouteValue::Net(net) => Ok(net),
        RouteValue::Default => {
            let why = RouteError::Format(v.text.to_owned());
            v.refuse(
                why.to_string(),
                format!("'{}' takes a network, not everything", v.key),
            )
        }
    }
}

/// `ipv4-network`, `ipv6-network`: an address, with or without prefix length.
fn network(u: &mut SupplementalConfig, v: &mut Value<'_>, ipv4: bool) -> Read<()> {
    let (address, prefix) = match v.text.split_once('/') {
        Some((address, prefix)) => (address.trim(), Some(parse_prefix(ipv4, prefix.trim()))),
        None => (v.text, None),
    };
    match (address.parse(), prefix) {
        (Ok(_) | Err(_), Some(None)) => {}
        (Ok(IpAddr::V4(address)), prefix) if ipv4 => {
            u.ipv4_network = Some(address);
            u.ipv4_prefix = prefix.flatten().or(u.ipv4_prefix);
            return Ok(());
        }
        (Ok(IpAddr::V6(address)), prefix) if !ipv4 => {
            u.ipv6_network = Some(address);
            u.ipv6_prefix = prefix.flatten().or(u.ipv6_prefix);
            return Ok(());
        }
        _ => {}
    }
    let message = format!("error: '{}' is not a network", v.text);
    v.refuse(
        message,
        format!("write {}", if ipv4 { "10.9.0.0/24" } else { "fd00:9::/48" }),
    )
}
