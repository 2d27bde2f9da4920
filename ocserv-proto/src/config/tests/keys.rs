use std::time::Duration;

use super::{config, messages, warnings, with};
use crate::config::keys::{self, Scope, Status};
use crate::config::{NetPriority, PortProtocol, PortRule, RekeyMethod, SelectGroup};
use crate::secret::Secret;

/// config.md §4: every key with its scope, but that of `try-mtu-discovery`, which is fixed here.
const SHEET: &str = "
G! chroot-dir debug-no-secmod-stats listen-host listen-netns listen-clear-file log-level
 occtl-socket-file pid-file run-as-user run-as-group sec-mod-scale server-stats-reset-time
 socket-file syslog-facility tcp-port try-mtu-discovery udp-listen-host udp-port
G auth-timeout ban-points-connection ban-points-kkdcp ban-points-wrong-password ban-reset-time
 ban-time compression-algo-priority connect-script device disconnect-script dtls-psk
 host-update-script isolate-workers limit-worker-memory listen-proxy-proto max-ban-score
 max-clients min-reauth-time ping-leases rate-limit-ms route-add-cmd route-del-cmd
 sec-mod-db-cleanup-time server-drain-ms use-dbus use-occtl use-seccomp use-utmp
V! acct auth ca-cert dh-params enable-auth key-pin pin-file server-cert server-key srk-pin
 srk-pin-file
V always-require-cert append-routes auto-select-group banner camouflage camouflage_realm
 camouflage_secret cert-group-oid cert-user-oid cisco-client-compat cisco-svc-client-compat
 compression config-per-group config-per-user cookie-timeout crl custom-header default-domain
 default-group-config default-select-group default-user-config dtls-legacy expose-iroutes
 included-http-headers ipv6-prefix kkdcp listen-host-is-dyndns match-tls-dtls-ciphers
 no-compress-limit ocsp-response output-buffer persistent-cookies pre-login-banner predictable-ips
 proxy-url rekey-method rekey-time select-group select-group-by-url session-control
 switch-to-tcp-timeout tls-priorities
VU client-bypass-protocol deny-roaming dns dpd idle-timeout ipv4-dns ipv6-dns ipv4-nbns ipv6-nbns
 ipv4-netmask ipv4-network ipv6-network ipv6-subnet-prefix keepalive max-same-clients mobile-dpd
 mobile-idle-timeout mtu nbns net-priority no-route no-udp restrict-user-to-ports
 restrict-user-to-routes route rx-data-per-sec session-timeout split-dns stats-report-time
 tunnel-all-dns tx-data-per-sec user-profile cgroup tunnel_all_dns
U iroute explicit-ipv4 explicit-ipv6 hostname
";

/// Our own additions.
const OWN: [&str; 7] = [
    "sessions-per-gate",
    "xdp",
    "xdp-interface",
    "xdp-forward",
    "xdp-lan-interface",
    "xdp-max-record",
    "xdp-sockets",
];

#[test]
fn the_table_has_exactly_the_sheets_keys() {
    let mut scope = Scope::User;
    let mut seen = Vec::new();
    for word in SHEET.split_ascii_whitespace() {
        scope = match word {
            "G!" => Scope::GlobalFixed,
            "G" => Scope::Global,
            "V!" => Scope::VhostFixed,
            "V" => Scope::Vhost,
            "VU" => Scope::VhostUser,
            "U" => Scope::User,
            name => {
                let key = keys::find(name).unwrap_or_else(|| panic!("{name} is missing"));
                assert_eq!(key.scope, scope, "{name}");
                seen.push(name);
                continue;
            }
        };
    }
    for key in keys::all() {
        let known = seen.contains(&key.name) || OWN.contains(&key.name);
        assert!(known, "{} is not on the sheet", key.name);
        assert_eq!(
            keys::all().filter(|k| k.name == key.name).count(),
            1,
            "{} twice",
            key.name
        );
    }
}

#[test]
fn defaults() {
    // config.md §4, column "Default"
    let c = config("");
    let seconds = Duration::from_secs;
    assert_eq!(
        (c.auth_timeout, c.ban_time, c.ban_reset_time),
        (seconds(240), seconds(300), seconds(1200))
    );
    assert_eq!(
        (
            c.max_ban_score,
            c.ban_points_wrong_password,
            c.ban_points_connection
        ),
        (80, 10, 1)
    );
    assert_eq!(c.occtl_socket_file.to_str(), Some("/var/run/occtl.socket"));
    assert_eq!((c.sessions_per_gate, c.log_level, c.max_clients), (0, 2, 0));
    assert!(
        !c.isolate_workers && !c.use_occtl && c.use_utmp && c.limit_worker_memory && c.dtls_psk
    );
    let v = &c.vhosts[0];
    assert_eq!(v.name, "default");
    assert_eq!(v.cookie_timeout, seconds(300));
    assert_eq!(v.rekey_time, Some(seconds(172_800)));
    assert_eq!(v.rekey_method, RekeyMethod::NewTunnel);
    assert_eq!(v.switch_to_tcp_timeout, Some(seconds(25)));
    assert!(v.predictable_ips && v.dtls_legacy && !v.persistent_cookies && !v.append_routes);
    assert_eq!(v.tls_priorities, "NORMAL:%SERVER_PRECEDENCE:%COMPAT");
    let u = &v.user;
    assert_eq!(
        (u.dpd, u.mobile_dpd),
        (Some(seconds(90)), Some(seconds(1800)))
    );
    assert_eq!((u.keepalive, u.idle_timeout), (Some(seconds(32_400)), None));
    assert_eq!(
        (u.ipv6_subnet_prefix, u.mtu, u.rx_data_per_sec),
        (128, 0, 0)
    );
}

#[test]
fn booleans_follow_the_reference() {
    // config.md 1.7
    for (text, expected, warned) in [
        ("true", true, 0),
        ("YES", true, 0),
        ("\"True\"", true, 0),
        ("false", false, 0),
        ("No", false, 0),
        ("on", false, 1),
        ("1", false, 1),
        ("", false, 1),
    ] {
        let line = format!("ping-leases = {text}");
        assert_eq!(config(&line).ping_leases, expected, "{text}");
        assert_eq!(warnings(&line).len(), warned, "{text}");
    }
}

#[test]
fn numbers_follow_the_reference() {
    // config.md 1.8, and 1.4: an indented line continues the key above
    for (text, expected, warned) in [
        ("16", 16, 0),
        ("16 clients", 16, 1),
        ("many", 0, 1),
        ("-1", 0, 1),
        ("99999999999999999999999", u32::MAX, 1),
        ("16\n  keepalive = 55", 0, 1),
    ] {
        let line = format!("max-clients = {text}");
        assert_eq!(config(&line).max_clients, expected, "{text}");
        assert_eq!(warnings(&line).len(), warned, "{text}");
    }
}

#[test]
fn zero_is_off_where_the_sheet_says_so() {
    let c = config("rekey-time = 0\nswitch-to-tcp-timeout = 0\ndpd = 0\nrate-limit-ms = 0\n");
    assert_eq!(c.vhosts[0].rekey_time, None);
    assert_eq!(c.vhosts[0].switch_to_tcp_timeout, None);
    assert_eq!(c.vhosts[0].user.dpd, None);
    assert_eq!(c.rate_limit_ms, None);
    // A login always has a time limit.
    assert_eq!(
        config("auth-timeout = 0").auth_timeout,
        Duration::from_secs(240)
    );
}

#[test]
fn rates_are_kept_in_thousands() {
    let c = config("rx-data-per-sec = 40999\ntx-data-per-sec = 999");
    assert_eq!(
        (
            c.vhosts[0].user.rx_data_per_sec,
            c.vhosts[0].user.tx_data_per_sec
        ),
        (40_000, 0)
    );
}

#[test]
fn repeated_keys() {
    // config.md 1.10
    let c = config(
        "keepalive = 1\nkeepalive = 2\nroute = 10.0.0.0/8\nroute = 172.16.0.0/255.240.0.0\n\
         no-route = fd00::/8\ndns = 1.1.1.1\nipv6-dns = fd00::1\nnbns = 1.1.1.2\nsplit-dns = a.example\n\
         split-dns = b.example\nselect-group = staff[Our staff]\nselect-group = guests\n\
         custom-header = X-A: %{U}\nincluded-http-headers = Content-Security-Policy: \"x\"\n",
    );
    let v = &c.vhosts[0];
    assert_eq!(v.user.keepalive, Some(Duration::from_secs(2)));
    let shown: Vec<String> = v.user.route.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.0/255.0.0.0", "172.16.0.0/255.240.0.0"]);
    assert_eq!(v.user.route[1].cidr(), "172.16.0.0/12");
    assert_eq!(v.user.no_route[0].to_string(), "fd00::/8");
    assert_eq!(v.user.dns.len(), 2);
    assert_eq!(v.user.split_dns, ["a.example", "b.example"]);
    let group = |name: &str, label: Option<&str>| SelectGroup {
        name: name.to_owned(),
        label: label.map(str::to_owned),
    };
    assert_eq!(
        v.select_group,
        [group("staff", Some("Our staff")), group("guests", None)]
    );
    // config.md 1.6: only this key keeps its quotes
    assert_eq!(v.included_http_headers, ["Content-Security-Policy: \"x\""]);
}

#[test]
fn default_route_empties_the_list() {
    // config.md §4 row route, 2.4
    for default in ["default", "0.0.0.0/0", "::/0", "0.0.0.0/0.0.0.0"] {
        let c = config(&format!(
            "route = 10.0.0.0/8\nroute = {default}\nroute = 11.0.0.0/8"
        ));
        assert_eq!(c.vhosts[0].user.route, [], "{default}");
    }
}

#[test]
fn networks() {
    let net = |lines: &str| {
        config(lines).vhosts[0]
            .user
            .ipv4_network
            .map(|n| n.to_string())
    };
    let mask = "ipv4-network = 10.9.0.0\nipv4-netmask = 255.255.0.0";
    assert_eq!(net(mask).as_deref(), Some("10.9.0.0/255.255.0.0"));
    assert_eq!(
        net("ipv4-network = 10.9.0.0/20").as_deref(),
        Some("10.9.0.0/255.255.240.0")
    );
    let c = config("ipv6-network = fd00:9::\nipv6-prefix = 48\nipv6-subnet-prefix = 64");
    assert_eq!(
        c.vhosts[0].user.ipv6_network.map(|n| n.cidr()).as_deref(),
        Some("fd00:9::/48")
    );
    assert_eq!(c.vhosts[0].user.ipv6_subnet_prefix, 64);
}

#[test]
fn port_lists_and_priorities() {
    // config.md §4.1
    let c = config("restrict-user-to-ports = \"!(tcp(22), icmp())\"\nnet-priority = 0x1c");
    let rules = c.vhosts[0].user.restrict_user_to_ports.clone().unwrap();
    let tcp = PortRule {
        protocol: PortProtocol::Tcp,
        port: Some(22),
    };
    let icmp = PortRule {
        protocol: PortProtocol::Icmp,
        port: None,
    };
    assert!(rules.deny);
    assert_eq!(rules.rules, [tcp, icmp]);
    assert!(c.vhosts[0].user.restrict_user_to_routes, "implied");
    assert_eq!(c.vhosts[0].user.net_priority, Some(NetPriority::Tos(0x1c)));
    let six = config("net-priority = 6");
    assert_eq!(
        six.vhosts[0].user.net_priority,
        Some(NetPriority::Priority(6))
    );
    assert_eq!(config("net-priority = 7").vhosts[0].user.net_priority, None);
}

#[test]
fn old_names() {
    // config.md §6
    let c = config(
        "use-seccomp = true\nuse-dbus = true\nmin-reauth-time = 7\nalways-require-cert = false",
    );
    assert!(c.isolate_workers && c.use_occtl && c.vhosts[0].cisco_client_compat);
    assert_eq!(c.ban_time, Duration::from_secs(7));
    let said = messages("use-seccomp = true\nsession-control = true\ncgroup = cpu,memory:x");
    assert!(said.contains(&"note: 'use-seccomp' was replaced by 'isolate-workers'".to_owned()));
    assert!(said.contains(&"warning: the option 'session-control' is deprecated".to_owned()));
    assert!(said.iter().any(|m| m.contains("'cgroup'")));
}

#[test]
fn unknown_keys_are_skipped() {
    // config.md 1.11, §8, 1.9; `iroute` is for user files only
    assert_eq!(
        warnings("foo-x = 1"),
        ["warning: skipping unknown option 'foo-x'"]
    );
    assert_eq!(
        warnings("Keepalive = 1"),
        ["warning: skipping unknown option 'Keepalive'"]
    );
    assert_eq!(
        warnings("iroute = 10.0.0.0/8"),
        ["warning: skipping unknown option 'iroute'"]
    );
    let text = "[foo]\nmax-clients = 5";
    assert_eq!(warnings(text), ["warning: skipping unknown section 'foo'"]);
    assert_eq!(config(text).max_clients, 0);
}

#[test]
fn unbuilt_features_are_named_once() {
    let parsed = with("camouflage = true\n[vhost:a.example]\ncamouflage = true\nkey-pin = 1");
    let later: Vec<&str> = parsed.later.iter().map(|l| l.key).collect();
    assert_eq!(later, ["camouflage"]);
    let named = parsed
        .messages
        .iter()
        .filter(|m| m.text.contains("'camouflage'"))
        .count();
    assert_eq!(named, 1);
    // Switching it off asks for nothing.
    assert_eq!(with("camouflage = false\ndtls-legacy = no").later, []);
    for key in keys::all() {
        if let Status::Later(feature) = key.status {
            assert!(!feature.is_empty(), "{}", key.name);
        }
    }
}

#[test]
fn secrets_stay_out_of_debug_and_of_gates() {
    let c = config("key-pin = hunter2\ncamouflage_secret = hunter2\npin-file = /etc/pin");
    assert!(!format!("{c:?}").contains("hunter2"));
    assert_eq!(
        c.vhosts[0].key_pin,
        Some(Secret::from("hunter2".to_owned()))
    );
    let gate = c.vhosts[0].without_secrets();
    let shown = format!("{gate:?}");
    assert!(gate.key_pin.is_none() && gate.pin_file.is_none() && gate.server_key.is_empty());
    assert!(
        !shown.contains("ocpasswd") && !shown.contains("key.pem"),
        "{shown}"
    );
}

#[test]
fn compression_order_has_two_forms() {
    // config.md §9
    let order = |value: &str| {
        config(&format!("compression-algo-priority = {value}")).compression_algo_priority
    };
    assert_eq!(order("lzs:lz4"), ["lzs", "lz4"]);
    assert_eq!(order("lz4:10 lzs:20"), ["lzs", "lz4"]);
}
