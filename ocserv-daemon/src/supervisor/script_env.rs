//! What scripts are told about a session (behaviour.md §7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ocserv_proto::config::{PortProtocol, PortRule, PortRules};

/// Longest text of a client that is passed on, in bytes; the gate keeps the same bound, but is not
/// trusted.
const MAX_CLIENT_TEXT: usize = 63;

/// Every name that [`environment`] may set: none is inherited from the server's own environment.
pub const NAMES: [&str; 33] = [
    "REASON",
    "ID",
    "IP_REAL",
    "IP_REAL_LOCAL",
    "IP_LOCAL",
    "IP_REMOTE",
    "IPV6_LOCAL",
    "IPV6_REMOTE",
    "IPV6_PREFIX",
    "VHOST",
    "USERNAME",
    "GROUPNAME",
    "HOSTNAME",
    "REMOTE_HOSTNAME",
    "DEVICE",
    "USER_AGENT",
    "DEVICE_TYPE",
    "DEVICE_PLATFORM",
    "STATS_BYTES_IN",
    "STATS_BYTES_OUT",
    "STATS_DURATION",
    "OCSERV_ROUTES",
    "OCSERV_ROUTES4",
    "OCSERV_ROUTES6",
    "OCSERV_NO_ROUTES",
    "OCSERV_NO_ROUTES4",
    "OCSERV_NO_ROUTES6",
    "OCSERV_DNS",
    "OCSERV_DNS4",
    "OCSERV_DNS6",
    "OCSERV_RESTRICT_TO_ROUTES",
    "OCSERV_ALLOW_PORTS",
    "OCSERV_DENY_PORTS",
];

/// Which script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `connect-script`.
    Connect,
    /// `host-update-script`.
    HostUpdate,
    /// `disconnect-script`.
    Disconnect,
}

impl Hook {
    /// Value of `REASON`.
    fn reason(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::HostUpdate => "host-update",
            Self::Disconnect => "disconnect",
        }
    }
}

/// A session as scripts see it.
#[derive(Clone, Debug)]
pub struct ScriptContext {
    /// Number of the connection.
    pub id: u32,
    /// The client's address.
    pub remote: IpAddr,
    /// Server address that it connected to.
    pub local: IpAddr,
    /// Server's and client's IPv4 addresses in the tunnel.
    pub ipv4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Server's and client's IPv6 addresses in the tunnel, and the client's prefix length.
    pub ipv6: Option<(Ipv6Addr, Ipv6Addr, u8)>,
    /// `default` or the name of the vhost.
    pub vhost: String,
    /// User name.
    pub username: String,
    /// Group name or empty.
    pub groupname: String,
    /// The client's host name.
    pub hostname: Option<String>,
    /// The tun device.
    pub device: String,
    /// `User-Agent`, untrusted.
    pub user_agent: String,
    /// Device type, untrusted.
    pub device_type: String,
    /// Device platform, untrusted.
    pub device_platform: String,
    /// Routes as they are pushed (IPv4 with dotted mask).
    pub routes: Vec<String>,
    /// `no-route`, likewise.
    pub no_routes: Vec<String>,
    /// DNS servers.
    pub dns: Vec<IpAddr>,
    /// `restrict-user-to-routes`.
    pub restrict_to_routes: bool,
    /// `restrict-user-to-ports`.
    pub ports: Option<PortRules>,
    /// For the disconnect script: bytes from and to the client, and how long it was connected.
    pub totals: Option<(u64, u64, Duration)>,
}

/// The variables of a script, without those that have no value (the reference leaves them out too).
pub fn environment(session: &ScriptContext, hook: Hook) -> Vec<(&'static str, String)> {
    let mut env = vec![
        ("REASON", hook.reason().to_owned()),
        ("ID", session.id.to_string()),
        ("IP_REAL", session.remote.to_string()),
        ("IP_REAL_LOCAL", session.local.to_string()),
        ("VHOST", printable(&session.vhost)),
        ("USERNAME", printable(&session.username)),
        ("GROUPNAME", printable(&session.groupname)),
        ("DEVICE", session.device.clone()),
        ("USER_AGENT", client_text(&session.user_agent)),
        ("DEVICE_TYPE", client_text(&session.device_type)),
        ("DEVICE_PLATFORM", client_text(&session.device_platform)),
    ];
    push_addresses(session, &mut env);
    if let Some(hostname) = &session.hostname {
        env.push(("HOSTNAME", client_text(hostname)));
        env.push(("REMOTE_HOSTNAME", client_text(hostname)));
    }
    if let Some((bytes_in, bytes_out, duration)) = session.totals {
        env.push(("STATS_BYTES_IN", bytes_in.to_string()));
        env.push(("STATS_BYTES_OUT", bytes_out.to_string()));
        env.push(("STATS_DURATION", duration.as_secs().to_string()));
    }
    push_list(
        &mut env,
        ["OCSERV_ROUTES", "OCSERV_ROUTES4", "OCSERV_ROUTES6"],
        &session.routes,
    );
    let names = ["OCSERV_NO_ROUTES", "OCSERV_NO_ROUTES4", "OCSERV_NO_ROUTES6"];
    push_list(&mut env, names, &session.no_routes);
    let dns: Vec<String> = session.dns.iter().map(IpAddr::to_string).collect();
    push_list(&mut env, ["OCSERV_DNS", "OCSERV_DNS4", "OCSERV_DNS6"], &dns);
    if session.restrict_to_routes {
        env.push(("OCSERV_RESTRICT_TO_ROUTES", "1".to_owned()));
    }
    if let Some(ports) = &session.ports {
        let name = if ports.deny {
            "OCSERV_DENY_PORTS"
        } else {
            "OCSERV_ALLOW_PORTS"
        };
        env.push((name, ports.rules.iter().map(port_pair).collect()));
    }
    env
}

/// Protocol and port, each followed by a blank.
fn port_pair(rule: &PortRule) -> String {
    let protocol = match rule.protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
        PortProtocol::Esp => "esp",
        PortProtocol::Icmp => "icmp",
        PortProtocol::Icmpv6 => "icmpv6",
    };
    match rule.port {
        Some(port) => format!("{protocol} {port} "),
        None => format!("{protocol} all "),
    }
}

/// An IPv6-only session has its addresses in `IP_LOCAL` and `IP_REMOTE` too: the reference means to
/// do that and does not.
fn push_addresses(session: &ScriptContext, env: &mut Vec<(&'static str, String)>) {
    let main = session
        .ipv4
        .map(|(local, remote)| (local.to_string(), remote.to_string()))
        .or(session
            .ipv6
            .map(|(local, remote, _)| (local.to_string(), remote.to_string())));
    if let Some((local, remote)) = main {
        env.push(("IP_LOCAL", local));
        env.push(("IP_REMOTE", remote));
    }
    if let Some((local, remote, prefix)) = session.ipv6 {
        env.push(("IPV6_LOCAL", local.to_string()));
        env.push(("IPV6_REMOTE", remote.to_string()));
        env.push(("IPV6_PREFIX", prefix.to_string()));
    }
}

/// All entries, the IPv4 ones and the IPv6 ones; each entry is followed by a blank.
fn push_list(env: &mut Vec<(&'static str, String)>, names: [&'static str; 3], list: &[String]) {
    let [all, ipv4, ipv6] = names;
    let join = |keep: &dyn Fn(&str) -> bool| -> String {
        list.iter()
            .filter(|entry| keep(entry))
            .map(|entry| format!("{entry} "))
            .collect()
    };
    let is_ipv6 = |entry: &str| entry.contains(':');
    for (name, value) in [
        (all, join(&|_| true)),
        (ipv4, join(&|e| !is_ipv6(e))),
        (ipv6, join(&is_ipv6)),
    ] {
        if !value.is_empty() {
            env.push((name, value));
        }
    }
}

/// Without control characters: a line break in a log or a NUL would be the client's to place.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn client_text(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_CLIENT_TEXT);
    printable(text.get(..end).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn rules(deny: bool) -> PortRules {
        let rules = vec![
            PortRule {
                protocol: PortProtocol::Tcp,
                port: Some(443),
            },
            PortRule {
                protocol: PortProtocol::Icmp,
                port: None,
            },
        ];
        PortRules { deny, rules }
    }

    pub fn session() -> ScriptContext {
        ScriptContext {
            id: 7,
            remote: "203.0.113.5".parse().unwrap(),
            local: "198.51.100.1".parse().unwrap(),
            ipv4: Some((
                "192.168.77.1".parse().unwrap(),
                "192.168.77.190".parse().unwrap(),
            )),
            ipv6: Some(("fd00::1".parse().unwrap(), "fd00::7".parse().unwrap(), 128)),
            vhost: "default".to_owned(),
            username: "test".to_owned(),
            groupname: String::new(),
            hostname: Some("vm".to_owned()),
            device: "vpns0".to_owned(),
            user_agent: "Open AnyConnect VPN Agent v9.01-3".to_owned(),
            device_type: String::new(),
            device_platform: "linux-64".to_owned(),
            routes: vec!["10.10.0.0/255.255.0.0".to_owned(), "fd01::/64".to_owned()],
            no_routes: vec!["10.10.5.0/255.255.255.0".to_owned()],
            dns: vec!["192.168.77.1".parse().unwrap()],
            restrict_to_routes: true,
            ports: Some(rules(false)),
            totals: None,
        }
    }

    fn lines(session: &ScriptContext, hook: Hook) -> Vec<String> {
        let mut lines: Vec<_> = environment(session, hook)
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_dual_stack_session_has_all_variables() {
        let totals = Some((5, u64::MAX, Duration::from_millis(9999)));
        let ended = ScriptContext {
            totals,
            ..session()
        };
        let mut expected = [
            "DEVICE=vpns0",
            "DEVICE_PLATFORM=linux-64",
            "DEVICE_TYPE=",
            "GROUPNAME=",
            "HOSTNAME=vm",
            "ID=7",
            "IPV6_LOCAL=fd00::1",
            "IPV6_PREFIX=128",
            "IPV6_REMOTE=fd00::7",
            "IP_LOCAL=192.168.77.1",
            "IP_REAL=203.0.113.5",
            "IP_REAL_LOCAL=198.51.100.1",
            "IP_REMOTE=192.168.77.190",
            "OCSERV_ALLOW_PORTS=tcp 443 icmp all ",
            "OCSERV_DNS=192.168.77.1 ",
            "OCSERV_DNS4=192.168.77.1 ",
            "OCSERV_NO_ROUTES=10.10.5.0/255.255.255.0 ",
            "OCSERV_NO_ROUTES4=10.10.5.0/255.255.255.0 ",
            "OCSERV_RESTRICT_TO_ROUTES=1",
            "OCSERV_ROUTES=10.10.0.0/255.255.0.0 fd01::/64 ",
            "OCSERV_ROUTES4=10.10.0.0/255.255.0.0 ",
            "OCSERV_ROUTES6=fd01::/64 ",
            "REASON=disconnect",
            "REMOTE_HOSTNAME=vm",
            "STATS_BYTES_IN=5",
            "STATS_BYTES_OUT=18446744073709551615",
            "STATS_DURATION=9",
            "USERNAME=test",
            "USER_AGENT=Open AnyConnect VPN Agent v9.01-3",
            "VHOST=default",
        ];
        expected.sort_unstable();
        assert_eq!(lines(&ended, Hook::Disconnect), expected);
    }

    #[test]
    fn ipv6_only_sessions_fill_the_common_names() {
        let only = ScriptContext {
            ipv4: None,
            ..session()
        };
        let lines = lines(&only, Hook::Connect);
        assert!(lines.contains(&"IP_LOCAL=fd00::1".to_owned()));
        assert!(lines.contains(&"IP_REMOTE=fd00::7".to_owned()));
        assert!(lines.contains(&"REASON=connect".to_owned()));
        assert!(!lines.iter().any(|line| line.starts_with("STATS_")));
    }

    #[test]
    fn values_that_are_missing_are_left_out() {
        let bare = ScriptContext {
            ipv6: None,
            hostname: None,
            routes: Vec::new(),
            no_routes: Vec::new(),
            dns: Vec::new(),
            restrict_to_routes: false,
            ports: None,
            ..session()
        };
        let lines = lines(&bare, Hook::HostUpdate);
        let absent = ["IPV6_", "HOSTNAME", "REMOTE_HOSTNAME", "OCSERV_"];
        assert!(
            !lines
                .iter()
                .any(|line| absent.iter().any(|name| line.starts_with(name)))
        );
        assert_eq!(lines.len(), 13);
    }

    #[test]
    fn client_texts_carry_no_control_characters_and_are_cut() {
        let hostile = ScriptContext {
            user_agent: format!("a\n\0\x1b[2Jb{}", "é".repeat(100)),
            username: "us\ner".to_owned(),
            ..session()
        };
        let env = environment(&hostile, Hook::Connect);
        let value = |name| env.iter().find(|(key, _)| *key == name).unwrap().1.clone();
        assert!(value("USER_AGENT").starts_with("a???[2Jbé"));
        assert!(value("USER_AGENT").len() <= MAX_CLIENT_TEXT);
        assert_eq!(value("USERNAME"), "us?er");
    }

    #[test]
    fn every_variable_is_in_the_list_of_names() {
        let totals = Some((0, 0, Duration::ZERO));
        let denied = ScriptContext {
            ports: Some(rules(true)),
            totals,
            ..session()
        };
        let (first, second) = (
            environment(&session(), Hook::Connect),
            environment(&denied, Hook::Disconnect),
        );
        assert!(second.contains(&("OCSERV_DENY_PORTS", "tcp 443 icmp all ".to_owned())));
        for (name, _) in first.iter().chain(&second) {
            assert!(NAMES.contains(name), "{name}");
        }
    }
}
