use super::{BASE, config, error, error_of, messages, with, without};
use crate::config::{Environment, FileNeed, parse, parse_in};

#[test]
fn what_is_missing_ends_the_start() {
    // config.md §8
    for (key, first) in [
        (
            "socket-file",
            "error: the 'socket-file' configuration option must be specified!",
        ),
        ("tcp-port", "error: the tcp-port option is mandatory!"),
        (
            "device",
            "error: the 'device' configuration option must be specified!",
        ),
        (
            "server-cert",
            "error: the specified number of keys doesn't match the certificates",
        ),
        (
            "ipv4-network",
            "error: no ipv4-network or ipv6-network options set.",
        ),
    ] {
        let text = error_of(&without(&[key], ""));
        assert_eq!(text.lines().next(), Some(first));
    }
    let neither = error_of(&without(&["server-cert", "server-key"], ""));
    let first =
        "error: the 'server-cert' and 'server-key' configuration options must be specified!";
    assert_eq!(neither.lines().next(), Some(first));
    let text = without(&["tcp-port"], "");
    let handed_over = Environment {
        sockets_given: true,
    };
    assert_eq!(
        parse_in("t.conf", text.as_bytes(), handed_over)
            .unwrap()
            .config
            .tcp_port,
        0
    );
}

#[test]
fn what_is_wrong_ends_the_start() {
    // config.md §8; the first line is the reference's, the second has place and remedy
    for (lines, first) in [
        ("nonsense", "error: config file error in line 9"),
        (
            "route = 10.9.0.0/33",
            "cannot figure format of route '10.9.0.0/33'",
        ),
        (
            "route = 10.0.0.0/255.0.255.0",
            "cannot figure format of route '10.0.0.0/255.0.255.0'",
        ),
        (
            "route = fe80::/129",
            "cannot figure format of route 'fe80::/129'",
        ),
        (
            "route = 10.0.0.0/8;reboot",
            "cannot figure format of route '10.0.0.0/8;reboot'",
        ),
        (
            "no-route = default",
            "cannot figure format of route 'default'",
        ),
        (
            "route = 10.0.0.1",
            "route '10.0.0.1' in wrong format, use xxx.xxx.xxx.xxx/xxx.xxx.xxx.xxx",
        ),
        ("rekey-method = foo", "error: unknown rekey method 'foo'"),
        (
            "dns = local",
            "error: the 'local' DNS keyword is no longer supported.",
        ),
        (
            "listen-clear-file = /x",
            "error: the 'listen-clear-file' option was removed in ocserv 1.1.2",
        ),
        (
            "restrict-user-to-ports = tcp(443),foo(3)",
            "error: cannot parse restrict-user-to-ports",
        ),
        (
            "restrict-user-to-ports = tcp()",
            "error: cannot parse restrict-user-to-ports",
        ),
        (
            "ipv6-network = fd00::",
            "error: no prefix found for IPv6 network.",
        ),
        (
            "ipv6-network = fd00::/64\nipv6-subnet-prefix = 64",
            "error: the subnet prefix (64) cannot be smaller or equal to network's (64)",
        ),
        (
            "ipv6-subnet-prefix = 129",
            "error: invalid IPv6 subnet prefix: 129",
        ),
        ("ipv6-prefix = 0", "error: invalid IPv6 prefix: 0"),
        (
            "ipv4-netmask = 255.0.255.0",
            "error: '255.0.255.0' is not a netmask",
        ),
        (
            "ipv4-network = fd00::/48",
            "error: 'fd00::/48' is not a network",
        ),
        (
            "match-tls-dtls-ciphers = true",
            "error: 'match-tls-dtls-ciphers' cannot be applied when 'dtls-legacy' or 'cisco-client-compat' is on",
        ),
        (
            "udp-port = 444\ncisco-svc-client-compat = true",
            "error: 'cisco-svc-client-compat' needs udp-port 0 or 443",
        ),
        ("kkdcp = foo", "Cannot parse kkdcp string: foo"),
        (
            "syslog-facility = news",
            "error: unknown syslog facility 'news'",
        ),
        (
            "tcp-port = 65536",
            "error: 'tcp-port': 65536 is not a port number",
        ),
        (
            "server-key = pkcs11:token=x;type=private",
            "error: unsupported key URL in 'server-key'",
        ),
        (
            "server-cert = PKCS11:token=x",
            "error: unsupported key URL in 'server-cert'",
        ),
        (
            "server-key = tpmkey:file=/x",
            "error: unsupported key URL in 'server-key'",
        ),
        (
            "server-key = system:id",
            "error: unsupported key URL in 'server-key'",
        ),
        (
            "tls-priorities = NORMAL:+FOO",
            "error: tls-priorities: '+FOO' is not a valid item",
        ),
        (
            "banner = a\u{1}b",
            "error: 'banner' has a control character in its value",
        ),
        (
            "device = a/b",
            "error: 'a/b' cannot begin the name of a network device",
        ),
    ] {
        let text = error(lines);
        assert_eq!(text.lines().next(), Some(first), "{lines}");
        let place = text.lines().last().unwrap_or_default();
        assert!(place.starts_with("  t.conf:"), "{text}");
    }
    let line = error("rekey-method = foo");
    assert_eq!(
        line.lines().nth(1),
        Some("error: config file error in line 9")
    );
    assert!(
        line.lines()
            .nth(2)
            .is_some_and(|l| l.starts_with("  t.conf:9: ")),
        "{line}"
    );
    let vhost = error("[vhost:a.example]\nipv6-network = fd00::");
    let first = "error: vhost:a.example: no prefix found for IPv6 network.";
    assert_eq!(vhost.lines().next(), Some(first));
}

#[test]
fn banner_length() {
    let line = |len: usize| format!("banner = {}", "x".repeat(len));
    assert_eq!(
        config(&line(256)).vhosts[0]
            .banner
            .as_ref()
            .map(String::len),
        Some(256)
    );
    assert!(error(&line(257)).starts_with("error: banner size is too long"));
}

#[test]
fn derived_values() {
    // config.md §8, last lines
    let c = config(
        "listen-host = 192.0.2.1\ncisco-client-compat = true\ndtls-legacy = false\nno-compress-limit = 5",
    );
    assert_eq!(c.udp_listen_host.as_deref(), Some("192.0.2.1"));
    let v = &c.vhosts[0];
    assert!(v.dtls_legacy && v.select_group_by_url);
    assert_eq!(v.no_compress_limit, 64);
    assert!(v.tls_policy.tls12 && !v.tls_policy.tls13);
    let said = messages("cisco-client-compat = true\ndtls-legacy = false");
    let note = "note: the cisco-client-compat option implies dtls-legacy = true; enabling";
    assert!(said.contains(&note.to_owned()));
    // An own string decides alone.
    let own = config("cisco-client-compat = true\ntls-priorities = NORMAL");
    assert!(own.vhosts[0].tls_policy.tls13);
}

#[test]
fn odd_bytes() {
    // config.md 1.5
    let text = format!("\u{feff}{}", BASE.replace('\n', "\r\n"));
    assert_eq!(
        parse("t.conf", text.as_bytes()).unwrap().config.tcp_port,
        443
    );
    let long = format!("banner = hi\nroute-add-cmd = {}", "x".repeat(3000));
    let parsed = with(&long);
    assert_eq!(
        parsed.config.route_add_cmd.map(|c| c.len()),
        Some(2047 - "route-add-cmd = ".len())
    );
    assert!(
        parsed
            .messages
            .iter()
            .any(|m| m.to_string() == "warning: t.conf:10: line cut after 2047 bytes")
    );
    let mut latin = BASE.as_bytes().to_vec();
    latin.extend_from_slice(b"banner = caf\xe9\n");
    let parsed = parse("t.conf", &latin).unwrap();
    assert_eq!(
        parsed.config.vhosts[0].banner.as_deref(),
        Some("caf\u{fffd}")
    );
    assert!(parsed.messages.iter().any(|m| m.text.contains("not UTF-8")));
}

#[test]
fn files_of_the_configuration() {
    let c = config("connect-script = /s\nuser-profile = /p.xml\nocsp-response = /o\ncrl = /c");
    let files = c.files_to_check();
    let found = |key: &str| {
        files
            .iter()
            .find(|f| f.key == key)
            .map(|f| (f.path.clone(), f.need))
    };
    assert_eq!(
        found("connect-script"),
        Some(("/s".into(), FileNeed::Executable))
    );
    for (key, path) in [
        ("server-cert", "/etc/ocserv/cert.pem"),
        ("server-key", "/etc/ocserv/key.pem"),
        ("auth", "/etc/ocserv/ocpasswd"),
        ("user-profile", "/p.xml"),
        ("ocsp-response", "/o"),
    ] {
        assert_eq!(found(key), Some((path.into(), FileNeed::Readable)), "{key}");
    }
}

/// The ways in which distributions write their sample files.
const SAMPLE: &str = r##"
### A gateway for the example network
auth = "plain[passwd=/etc/ocserv/ocpasswd]"
#enable-auth = "gssapi"

# Ports
tcp-port = 443
udp-port = 443
run-as-user = nobody
run-as-group = daemon
socket-file = /run/ocserv.socket
chroot-dir = /var/lib/ocserv
server-cert = /etc/ssl/certs/gateway.pem
server-key = /etc/ssl/private/gateway.key
isolate-workers = true
max-clients = 16
max-same-clients = 2
rate-limit-ms = 100
server-stats-reset-time = 604800
keepalive = 32400
dpd = 90
mobile-dpd = 1800
switch-to-tcp-timeout = 25
try-mtu-discovery = false
cert-user-oid = 0.9.2342.19200300.100.1.1
tls-priorities = "NORMAL:%SERVER_PRECEDENCE:%COMPAT:-VERS-SSL3.0:-VERS-TLS1.0:-VERS-TLS1.1:-VERS-TLS1.3"
auth-timeout = 240
min-reauth-time = 300
max-ban-score = 80
ban-reset-time = 1200
cookie-timeout = 300
deny-roaming = false
rekey-time = 172800
rekey-method = ssl
use-occtl = true
pid-file = /run/ocserv.pid
log-level = 1
device = vpns
predictable-ips = true
default-domain = example.com
ipv4-network = 192.168.1.0
ipv4-netmask = 255.255.255.0
dns = 192.168.1.1
ping-leases = false
route = 10.0.0.0/8
route = 172.16.0.0/12	# the lab
no-route = 192.168.5.0/255.255.255.0
cisco-client-compat = true
dtls-legacy = true
client-bypass-protocol = false
"##;

#[test]
fn a_distribution_sample_starts() {
    let parsed = parse("sample", SAMPLE.as_bytes()).unwrap();
    let later: Vec<&str> = parsed.later.iter().map(|l| l.key).collect();
    assert_eq!(
        later,
        [
            "chroot-dir",
            "cert-user-oid",
            "cisco-client-compat",
            "dtls-legacy"
        ]
    );
    let policy = &parsed.config.vhosts[0].tls_policy;
    assert!(policy.tls12 && !policy.tls13 && policy.server_precedence);
    assert_eq!(
        parsed.config.vhosts[0].user.route[1].cidr(),
        "172.16.0.0/12"
    );
}
