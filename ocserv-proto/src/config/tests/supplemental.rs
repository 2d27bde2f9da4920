use std::time::Duration;

use super::config;
use crate::config::supplemental::{SupplementalConfig, file_name_ok, parse};
use crate::config::{Config, UserConfig};

fn file(text: &str) -> SupplementalConfig {
    let (file, messages) = parse("u", text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(messages, [], "{text}");
    file
}

fn merge(config: &Config, group: Option<&str>, user: Option<&str>) -> UserConfig {
    let vhost = &config.vhosts[0];
    let (group, user) = (group.map(file), user.map(file));
    UserConfig::merged(
        &vhost.user,
        vhost.append_routes,
        group.as_ref(),
        user.as_ref(),
    )
}

fn routes(user: &UserConfig) -> Vec<String> {
    user.route.iter().map(|r| r.cidr()).collect()
}

const GROUP: &str = "dpd = 10\nmtu = 1200\nroute = 10.1.0.0/16\ndns = 10.1.0.1\n";
const USER: &str = "dpd = 20\nroute = 10.2.0.0/16\nexplicit-ipv4 = 192.168.1.9\nno-udp = true\n";

#[test]
fn single_values_and_lists() {
    // config.md 7.3
    let c = config("route = 10.0.0.0/8\ndns = 1.1.1.1\nnbns = 1.1.1.2\nkeepalive = 5");
    let user = merge(&c, Some(GROUP), Some(USER));
    assert_eq!(user.dpd, Some(Duration::from_secs(20)));
    assert_eq!((user.mtu, user.no_udp), (1200, true));
    assert_eq!(user.keepalive, Some(Duration::from_secs(5)));
    assert_eq!(routes(&user), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(user.dns, ["10.1.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(user.nbns, c.vhosts[0].user.nbns);
    assert_eq!(user.explicit_ipv4, "192.168.1.9".parse().ok());
    let alone = merge(&c, None, None);
    assert_eq!(routes(&alone), ["10.0.0.0/8"]);
}

#[test]
fn append_routes_adds_to_the_vhosts_lists() {
    let c = config("route = 10.0.0.0/8\ndns = 1.1.1.1\nappend-routes = true");
    let user = merge(&c, Some(GROUP), Some(USER));
    assert_eq!(routes(&user), ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(user.dns.len(), 2);
    let everything = merge(&c, Some(GROUP), Some("route = default"));
    assert_eq!(routes(&everything), Vec::<String>::new());
}

#[test]
fn mobile_values_follow_the_others() {
    // config.md §8, derived values
    let c = config("dpd = 50\nmobile-dpd = 0\nidle-timeout = 70");
    let user = merge(&c, None, None);
    assert_eq!(
        (user.mobile_dpd, user.mobile_idle_timeout),
        (user.dpd, user.idle_timeout)
    );
    let user = merge(&c, None, Some("idle-timeout = 30\nmobile-dpd = 99"));
    assert_eq!(user.mobile_idle_timeout, Some(Duration::from_secs(30)));
    assert_eq!(user.mobile_dpd, Some(Duration::from_secs(99)));
    // A zero in a file switches the vhost's value off.
    assert_eq!(merge(&c, None, Some("idle-timeout = 0")).idle_timeout, None);
}

#[test]
fn networks() {
    // config.md 7.6
    let c = config("ipv6-network = fd00:9::/48");
    let net = |text: &str| {
        let user = merge(&c, None, Some(text));
        (
            user.ipv4_network.map(|n| n.cidr()),
            user.ipv6_network.map(|n| n.cidr()),
        )
    };
    let vhost6 = Some("fd00:9::/48".to_owned());
    assert_eq!(
        net("ipv4-network = 10.7.0.0/20"),
        (Some("10.7.0.0/20".to_owned()), vhost6.clone())
    );
    let mask = "ipv4-network = 10.7.0.0\nipv4-netmask = 255.255.0.0";
    assert_eq!(net(mask), (Some("10.7.0.0/16".to_owned()), vhost6));
    assert_eq!(
        net("ipv4-network = 10.7.0.0").0.as_deref(),
        Some("10.7.0.0/24")
    );
}

#[test]
fn messages_and_errors() {
    // config.md 7.1, 7.5
    let text = "tcp-port = 1\n[vhost:x]\nrestrict-user-to-routes = true\nbanner = x\n";
    let (file, messages) = parse("user/alice", text.as_bytes()).unwrap();
    assert_eq!(file.restrict_user_to_routes, Some(true));
    let shown: Vec<String> = messages.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 4, "{shown:?}");
    assert_eq!(
        shown[0],
        "warning: skipping unknown option 'tcp-port' in user/alice"
    );
    assert!(shown[1].contains("sections"));
    assert!(shown[2].contains("'restrict-user-to-routes': not supported yet"));
    for bad in [
        "nonsense",
        "route = 1",
        "iroute = 10.0.0.0/8 x",
        "iroute = default",
    ] {
        let error = parse("user/alice", bad.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("user/alice:1: "), "{error}");
    }
}

#[test]
fn every_key_of_the_sheet_is_read() {
    // config.md §7: 36 keys
    let keys = "no-udp restrict-user-to-routes tunnel-all-dns deny-roaming client-bypass-protocol \
                split-dns dns ipv4-dns ipv6-dns nbns ipv4-nbns ipv6-nbns hostname user-profile \
                rx-data-per-sec tx-data-per-sec stats-report-time session-timeout mtu dpd \
                mobile-dpd idle-timeout mobile-idle-timeout keepalive max-same-clients \
                net-priority ipv6-subnet-prefix explicit-ipv4 route no-route iroute ipv4-network \
                ipv4-netmask ipv6-network explicit-ipv6 restrict-user-to-ports";
    let mut count = 0;
    for key in keys.split_ascii_whitespace() {
        let value = match key {
            "dns" | "ipv4-dns" | "ipv6-dns" | "nbns" | "ipv4-nbns" | "ipv6-nbns"
            | "explicit-ipv4" => "192.0.2.1",
            "explicit-ipv6" => "2001:db8::1",
            "route" | "no-route" | "iroute" | "ipv4-network" => "10.0.0.0/8",
            "ipv6-network" => "fd00::/48",
            "ipv4-netmask" => "255.255.255.0",
            "restrict-user-to-ports" => "tcp(80)",
            "ipv6-subnet-prefix" | "net-priority" => "6",
            "mtu" => "1300",
            key if key.starts_with("no-") || key.contains("-to-") || key.contains("all") => "true",
            "deny-roaming" | "client-bypass-protocol" => "true",
            _ => "7000",
        };
        let (file, _) = parse("u", format!("{key} = {value}").as_bytes()).unwrap();
        assert_ne!(file, SupplementalConfig::default(), "{key}");
        count += 1;
    }
    assert_eq!(count, 36);
}

#[test]
fn names_that_would_leave_the_directory() {
    // config.md 7.2
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "/etc/passwd",
        "../x",
        "a\0",
        &"x".repeat(256),
    ] {
        assert!(!file_name_ok(name), "{name:?}");
    }
    for name in [
        "alice",
        "a.b",
        "...",
        "user@example.com",
        "J\u{fc}rgen",
        &"x".repeat(255),
    ] {
        assert!(file_name_ok(name), "{name:?}");
    }
}
