//! `show users`, `show user`, `show id` and `show iroutes` (cli.md §§4.2, 4.3, 4.5).

use std::fmt::Write as _;

use ocserv_proto::control::UserInfo;

use super::format::{Clock, bytes, or_none, printable, rate};
use super::json::{self, Object};
use super::text::Rows;

/// The table; nothing without users.
pub fn table(users: &[UserInfo], clock: &Clock) -> String {
    let mut out = String::new();
    let mut row = |cells: [&str; 9]| {
        let [id, user, vhost, ip, vpn_ip, device, since, cipher, status] = cells;
        let _ = writeln!(
            out,
            "{id:>8} {user:>8} {vhost:>8} {ip:>14} {vpn_ip:>14} {device:>6} {since} \
             {cipher:>14} {status:>9}"
        );
    };
    if !users.is_empty() {
        row([
            "id",
            "user",
            "vhost",
            "ip",
            "vpn-ip",
            "device",
            "  since",
            "dtls-cipher",
            "status",
        ]);
    }
    for user in users {
        row([
            &user.id.to_string(),
            &printable(or_none(&user.username)),
            &user.vhost,
            &remote_ip(user),
            &vpn_ip(user),
            &user.device,
            &clock.since(user.connected_at),
            &short_cipher(&user.dtls_cipher),
            user.state.word(),
        ]);
    }
    out
}

/// The rows of each user, with an empty line after each.
pub fn details(users: &[UserInfo], clock: &Clock) -> String {
    users.iter().map(|user| detail(user, clock)).collect()
}

/// Users as JSON, for every command that shows users.
pub fn json(users: &[UserInfo], clock: &Clock) -> String {
    let objects: Vec<Object> = users.iter().map(|user| object(user, clock)).collect();
    json::array(&objects)
}

/// A row for each iroute; nothing without any.
pub fn iroute_table(users: &[UserInfo]) -> String {
    let mut out = String::new();
    let mut row = |cells: [&str; 6]| {
        let [id, user, vhost, device, ip, iroute] = cells;
        let _ = writeln!(
            out,
            "{id:>6} {user:>8} {vhost:>8} {device:>6} {ip:>16} {iroute:>28}"
        );
    };
    if users.iter().any(|user| !user.iroutes.is_empty()) {
        row(["id", "user", "vhost", "device", "vpn-ip", "iroute"]);
    }
    for user in users {
        let (id, name) = (user.id.to_string(), printable(or_none(&user.username)));
        for iroute in &user.iroutes {
            row([&id, &name, &user.vhost, &user.device, &vpn_ip(user), iroute]);
        }
    }
    out
}

/// An object for each user with iroutes (the layout of 1.4.0: earlier ones were no JSON).
pub fn iroute_json(users: &[UserInfo]) -> String {
    let objects: Vec<Object> = users
        .iter()
        .filter(|user| !user.iroutes.is_empty())
        .map(|user| {
            let mut object = Object::new();
            object
                .number("ID", user.id.into())
                .text("Username", or_none(&user.username));
            object
                .text("vhost", &user.vhost)
                .text("Device", &user.device);
            object
                .text("IP", &vpn_ip(user))
                .list("iRoutes", &user.iroutes);
            object
        })
        .collect();
    json::array(&objects)
}

fn detail(user: &UserInfo, clock: &Clock) -> String {
    let mut rows = Rows::new();
    rows.number("ID", user.id.into());
    rows.pair(
        ("Username", or_none(&user.username)),
        ("Groupname", or_none(&user.groupname)),
    );
    rows.row("State", user.state.word())
        .row("vhost", &user.vhost);
    rows.pair(("Device", &user.device), ("MTU", &mtu(user)));
    rows.pair(("Remote IP", &remote_ip(user)), ("Location", "unknown"));
    rows.row("Local Device IP", &local_ip(user));
    let [(ipv4, local4), (ipv6, local6)] = tunnel_addresses(user);
    rows.pair(("IPv4", &ipv4), ("P-t-P IPv4", &local4));
    rows.pair(("IPv6", &ipv6), ("P-t-P IPv6", &local6));
    rows.row("User-Agent", &user.user_agent);
    let (rx_limit, tx_limit) = (limit(user.limit_rx), limit(user.limit_tx));
    rows.pair(("Limit RX", &rx_limit), ("Limit TX", &tx_limit));
    if let Some((rx, tx)) = user.traffic {
        rows.pair(
            ("RX", &format!("{rx} ({})", bytes(rx))),
            ("TX", &format!("{tx} ({})", bytes(tx))),
        );
        let (average_rx, average_tx) = (average(rx, user, clock), average(tx, user, clock));
        rows.line(&format!(
            "\tAverage bandwidth RX: {average_rx}  TX: {average_tx}"
        ));
    }
    rows.pair(
        ("DPD", &user.dpd.to_string()),
        ("KeepAlive", &user.keepalive.to_string()),
    );
    rows.row("Hostname", &user.hostname);
    rows.row(
        "Last connected at",
        &clock.date_and_since(user.connected_at),
    );
    rows.row(
        "Session started at",
        &clock.date_and_since(user.session_started_at),
    );
    rows.row("Session", short_session(user));
    rows.row("TLS ciphersuite", &user.tls_cipher)
        .row("DTLS cipher", &user.dtls_cipher);
    rows.pair(
        ("CSTP compression", &user.cstp_compression),
        ("DTLS compression", &user.dtls_compression),
    );
    rows.line("")
        .list("DNS", &user.dns)
        .list("NBNS", &user.nbns);
    rows.list("Split-DNS-Domains", &user.split_dns);
    match user.routes.is_empty() {
        true => rows.row("Routes", "defaultroute"),
        false => rows.list("Routes", &user.routes),
    };
    rows.list("No-routes", &user.no_routes)
        .list("iRoutes", &user.iroutes);
    rows.row("Restricted to routes", truth(user.restrict_to_routes));
    rows.list("Restricted to ports", &user.restrict_to_ports);
    rows.line("").finish()
}

/// A user's object; [`super::events`] adds to it.
pub fn object(user: &UserInfo, clock: &Clock) -> Object {
    let mut object = Object::new();
    object
        .number("ID", user.id.into())
        .text("Username", or_none(&user.username));
    object
        .text("Groupname", or_none(&user.groupname))
        .text("State", user.state.word());
    object
        .text("vhost", &user.vhost)
        .text("Device", &user.device)
        .text("MTU", &mtu(user));
    object
        .text("Remote IP", &remote_ip(user))
        .text("Location", "unknown");
    object.text("Local Device IP", &local_ip(user));
    let [(ipv4, local4), (ipv6, local6)] = tunnel_addresses(user);
    object.text("IPv4", &ipv4).text("P-t-P IPv4", &local4);
    object.text("IPv6", &ipv6).text("P-t-P IPv6", &local6);
    object.text("User-Agent", &user.user_agent);
    object
        .text("Limit RX", &limit(user.limit_rx))
        .text("Limit TX", &limit(user.limit_tx));
    if let Some((rx, tx)) = user.traffic {
        object
            .text("RX", &rx.to_string())
            .text("TX", &tx.to_string());
        object.text("_RX", &bytes(rx)).text("_TX", &bytes(tx));
        object.text("Average RX", &average(rx, user, clock));
        object.text("Average TX", &average(tx, user, clock));
    }
    object
        .text("DPD", &user.dpd.to_string())
        .text("KeepAlive", &user.keepalive.to_string());
    object.text("Hostname", &user.hostname);
    object.text("Last connected at", &clock.date(user.connected_at));
    object.text("_Last connected at", &clock.since(user.connected_at));
    object.number("raw_connected_at", user.connected_at);
    object.text("Session started at", &clock.date(user.session_started_at));
    object.text("_Session started at", &clock.since(user.session_started_at));
    object.number("raw_session_started_at", user.session_started_at);
    object
        .text("Full session", &user.session)
        .text("Session", short_session(user));
    object
        .text("TLS ciphersuite", &user.tls_cipher)
        .text("DTLS cipher", &user.dtls_cipher);
    object.text("CSTP compression", &user.cstp_compression);
    object.text("DTLS compression", &user.dtls_compression);
    object.list("DNS", &user.dns).list("NBNS", &user.nbns);
    object.list("Split-DNS-Domains", &user.split_dns);
    match user.routes.is_empty() {
        true => object.text("Routes", "defaultroute"),
        false => object.list("Routes", &user.routes),
    };
    object
        .list("No-routes", &user.no_routes)
        .list("iRoutes", &user.iroutes);
    object.text("Restricted to routes", truth(user.restrict_to_routes));
    object.list("Restricted to ports", &user.restrict_to_ports);
    object
}

/// The VPN address that tables show: IPv4 before IPv6.
pub fn vpn_ip(user: &UserInfo) -> String {
    match (user.ipv4, user.ipv6) {
        (Some((address, _)), _) => address.to_string(),
        (None, Some((address, _))) => address.to_string(),
        (None, None) => "(none)".to_owned(),
    }
}

/// The client's address.
pub fn remote_ip(user: &UserInfo) -> String {
    user.remote_ip.map_or_else(String::new, |ip| ip.to_string())
}

fn local_ip(user: &UserInfo) -> String {
    user.local_device_ip
        .map_or_else(String::new, |ip| ip.to_string())
}

/// Client's and server's side, IPv4 then IPv6.
fn tunnel_addresses(user: &UserInfo) -> [(String, String); 2] {
    let ipv4 = user
        .ipv4
        .map(|(client, server)| (client.to_string(), server.to_string()));
    let ipv6 = user
        .ipv6
        .map(|(client, server)| (client.to_string(), server.to_string()));
    [ipv4.unwrap_or_default(), ipv6.unwrap_or_default()]
}

fn mtu(user: &UserInfo) -> String {
    user.mtu.map_or_else(String::new, |mtu| mtu.to_string())
}

fn limit(bytes_per_second: u64) -> String {
    match bytes_per_second {
        0 => String::new(),
        some => rate(some),
    }
}

fn average(count: u64, user: &UserInfo, clock: &Clock) -> String {
    rate(count / clock.now.saturating_sub(user.connected_at).max(1))
}

fn short_session(user: &UserInfo) -> &str {
    user.session.get(..6).unwrap_or(&user.session)
}

fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// The cipher without version and key exchange.
fn short_cipher(name: &str) -> String {
    if name.is_empty() {
        return "(no-dtls)".to_owned();
    }
    let rest = match name.split_once(")-") {
        Some((version, rest)) if version.starts_with("(DTLS") => rest,
        _ => name,
    };
    rest.strip_prefix("(PSK)-")
        .or(rest.strip_prefix("(RSA)-"))
        .unwrap_or(rest)
        .to_owned()
}

#[cfg(test)]
#[path = "users_tests.rs"]
pub mod tests;
