//! Configuration: main file, per-user file, priority string.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

use ocserv_proto::config::priorities::{self, Priorities};
use ocserv_proto::config::{
    Config, Environment, Route, SupplementalConfig, TlsPolicy, UserConfig, VhostConfig, parse_in,
    supplemental,
};

use crate::input::text;

const SOURCE: &str = "fuzz.conf";
/// Lines up to this length are never cut.
const SHORT_LINE: usize = 2000;

/// The least that starts: without it hardly any input reaches the checks at the end.
const BASE: &str = "\
auth = plain[passwd=/p]
tcp-port = 443
udp-port = 443
socket-file = /s
server-cert = /c
server-key = /k
device = vpns
ipv4-network = 192.0.2.0/24
";

/// The file is refused, or gives values that can be used; its line ends and comments are no matter.
pub fn config(data: &[u8]) {
    check_file(data);
    check_file(&[BASE.as_bytes(), data].concat());
}

fn check_file(file: &[u8]) {
    let environment = Environment::default();
    let parsed = parse_in(SOURCE, file, environment);
    let with_sockets = parse_in(
        SOURCE,
        file,
        Environment {
            sockets_given: true,
        },
    );
    assert!(parsed.is_err() || with_sockets.is_ok());
    if let Err(error) = &parsed {
        assert!(error.to_string().contains(SOURCE));
    }
    let config = parsed.ok().map(|parsed| parsed.config);
    for same in [with_crlf(file), with_comments(file)] {
        if !has_long_lines(&same) {
            let again = parse_in(SOURCE, &same, environment).ok();
            assert_eq!(again.map(|parsed| parsed.config), config);
        }
    }
    if let Some(config) = config {
        check_config(&config);
    }
}

fn has_long_lines(file: &[u8]) -> bool {
    file.split(|byte| *byte == b'\n')
        .any(|line| line.len() > SHORT_LINE)
}

fn with_crlf(file: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
    lines.join(&b"\r\n"[..])
}

fn with_comments(file: &[u8]) -> Vec<u8> {
    [file, b"\n\n# end\n   ; of it\n"].concat()
}

fn check_config(config: &Config) {
    assert_eq!(config.vhosts[0].name, "default");
    let names = config
        .vhosts
        .iter()
        .map(|vhost| vhost.name.to_ascii_lowercase());
    assert_unique(names.skip(1));
    assert!(!config.device.is_empty() && config.tcp_port != 0);
    for vhost in &config.vhosts {
        check_vhost(vhost);
    }
}

fn check_vhost(vhost: &VhostConfig) {
    assert!(!vhost.auth.is_empty());
    check_policy(&vhost.tls_policy);
    check_user(&vhost.user);
    check_texts(vhost);
    let public = vhost.without_secrets();
    assert!(public.server_key.is_empty() && public.key_pin.is_none());
    assert_eq!(public.auth.len(), vhost.auth.len());
    let merged = UserConfig::merged(&vhost.user, false, None, None);
    assert_eq!(merged.route, vhost.user.route);
}

/// What goes to clients, scripts or logs stays on its line.
fn check_texts(vhost: &VhostConfig) {
    let single = [
        &vhost.banner,
        &vhost.pre_login_banner,
        &vhost.default_domain,
        &vhost.proxy_url,
    ];
    let lists = [
        &vhost.custom_header,
        &vhost.included_http_headers,
        &vhost.user.split_dns,
    ];
    let groups = vhost
        .select_group
        .iter()
        .flat_map(|group| [Some(&group.name), group.label.as_ref()]);
    let texts = single
        .into_iter()
        .flatten()
        .chain(lists.into_iter().flatten());
    for text in texts.chain(groups.flatten()).chain([&vhost.name]) {
        assert!(
            !text.is_empty() && !text.contains(['\r', '\n', '\0', '\x1b']),
            "{text:?}"
        );
    }
}

fn check_user(user: &UserConfig) {
    let routes = [&user.route, &user.no_route, &user.iroute]
        .into_iter()
        .flatten();
    routes
        .chain(&user.ipv4_network)
        .chain(&user.ipv6_network)
        .for_each(check_route);
    assert!(user.ipv4_network.is_none_or(|route| route.net.is_ipv4()));
    assert!(user.ipv6_network.is_none_or(|route| route.net.is_ipv6()));
    assert!((1..=128).contains(&user.ipv6_subnet_prefix));
}

fn check_route(route: &Route) {
    assert!(route.prefix <= if route.net.is_ipv4() { 32 } else { 128 });
    assert_eq!(route.netmask().is_some(), route.net.is_ipv4());
    if let Some(mask) = route.netmask() {
        assert_eq!(mask.to_bits().count_ones(), u32::from(route.prefix));
        assert_eq!(mask.to_bits().leading_ones(), u32::from(route.prefix));
    }
}

/// A per-user file is refused, or changes what it names and nothing else.
pub fn supplemental(data: &[u8]) {
    let parsed = supplemental::parse(SOURCE, data).ok().map(|(file, _)| file);
    for same in [with_crlf(data), with_comments(data)] {
        if !has_long_lines(&same) {
            let again = supplemental::parse(SOURCE, &same)
                .ok()
                .map(|(file, _)| file);
            assert_eq!(again, parsed);
        }
    }
    if let Some(file) = parsed {
        check_merging(&file);
    }
    let name = text(data);
    if supplemental::file_name_ok(&name) {
        let path = std::path::Path::new("/d").join(&name);
        assert_eq!(path.parent(), Some(std::path::Path::new("/d")));
        assert_eq!(path.file_name(), Some(std::ffi::OsStr::new(&name)));
    }
}

fn check_merging(file: &SupplementalConfig) {
    let vhost = UserConfig::default();
    let empty = SupplementalConfig::default();
    let merged = UserConfig::merged(&vhost, false, None, Some(file));
    check_user(&merged);
    assert_eq!(UserConfig::merged(&vhost, false, Some(file), None), merged);
    assert_eq!(
        UserConfig::merged(&vhost, false, Some(file), Some(&empty)),
        merged
    );
    let twice = UserConfig::merged(&vhost, true, Some(file), Some(file));
    assert_eq!(twice.dns.len(), 2 * file.dns.len());
    let expected = if file.default_route {
        0
    } else {
        2 * file.route.len()
    };
    assert_eq!(twice.route.len(), expected);
    let nothing = UserConfig::merged(&merged, true, None, Some(&empty));
    assert_eq!(nothing.route, merged.route);
    assert_eq!(nothing.ipv4_network, merged.ipv4_network);
}

/// A priority string is refused, or gives a policy that can be served; case and repetition are no
/// matter.
pub fn priorities(data: &[u8]) {
    let text = text(data);
    let Ok(parsed) = priorities::parse(&text) else {
        return;
    };
    check_policy(&parsed.policy);
    same_policy(&parsed, &text.to_ascii_lowercase());
    same_policy(&parsed, &text.to_ascii_uppercase());
    same_policy(&parsed, &format!(" {} ", text.replace(':', " : ")));
    same_policy(&parsed, &format!("{text}:%COMPAT"));
    if let Some((first, last)) = text.rsplit_once(':') {
        same_policy(&parsed, &format!("{first}:{last}:{last}"));
    }
}

fn same_policy(parsed: &Priorities, text: &str) {
    let again = priorities::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(again.policy, parsed.policy, "{text:?}");
}

fn check_policy(policy: &TlsPolicy) {
    assert!(policy.tls12 || policy.tls13);
    assert!(!policy.ciphers.is_empty() && !policy.groups.is_empty());
    assert!(!policy.signatures.is_empty());
    assert!(policy.ecdhe_rsa || policy.ecdhe_ecdsa || !policy.tls12);
    assert_unique(policy.signatures.iter());
    assert_unique(policy.ciphers.iter().map(|cipher| format!("{cipher:?}")));
    assert_unique(
        policy
            .dtls_ciphers
            .iter()
            .map(|cipher| format!("{cipher:?}")),
    );
    assert_unique(policy.groups.iter().map(|group| format!("{group:?}")));
}

fn assert_unique<T: Hash + Eq + Debug>(items: impl Iterator<Item = T>) {
    let mut seen = HashSet::new();
    for item in items {
        let text = format!("{item:?}");
        assert!(seen.insert(item), "{text} twice");
    }
}
