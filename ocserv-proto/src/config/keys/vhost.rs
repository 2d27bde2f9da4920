//! Other keys of a vhost (scope V).

use super::Scope::Vhost as V;
use super::Status::{Ignored, Later, Works};
use super::auth_keys::secret;
use super::global::renamed;
use super::{Key, Setter, Status, push, put, put_some};
use crate::config::draft::VhostDraft;
use crate::config::error::Message;
use crate::config::types::{Kkdcp, RekeyMethod, SelectGroup};
use crate::config::value::{Read, Value};

type Set = fn(&mut VhostDraft, &mut Value<'_>) -> Read<()>;

const fn key(name: &'static str, status: Status, set: Set) -> Key {
    Key {
        name,
        scope: V,
        status,
        setter: Setter::Vhost(set),
    }
}

const CAMOUFLAGE: Status = Later("camouflage");
const COMPRESSION: Status = Later("compression");
const LEGACY_DTLS: Status = Later("DTLS by session resumption");

pub(super) static KEYS: &[Key] = &[
    key("auto-select-group", Works, |d, v| {
        put(&mut d.config.auto_select_group, v.boolean())
    }),
    key("select-group", Works, select_group),
    key("default-select-group", Works, |d, v| {
        put(&mut d.config.default_select_group, v.text())
    }),
    key("select-group-by-url", Works, |d, v| {
        put(&mut d.config.select_group_by_url, v.boolean())
    }),
    key("tls-priorities", Works, |d, v| {
        d.tls_priorities_given = true;
        put(&mut d.config.tls_priorities, Ok(v.text.to_owned()))
    }),
    key("cisco-client-compat", LEGACY_DTLS, |d, v| {
        put(&mut d.config.cisco_client_compat, v.boolean())
    }),
    key("always-require-cert", LEGACY_DTLS, |d, v| {
        renamed(v, "cisco-client-compat");
        let always = v.boolean()?;
        v.off = always;
        d.config.cisco_client_compat |= !always;
        Ok(())
    }),
    key(
        "cisco-svc-client-compat",
        Later("/svc for Cisco telephones"),
        |d, v| put(&mut d.config.cisco_svc_client_compat, v.boolean()),
    ),
    key("dtls-legacy", LEGACY_DTLS, |d, v| {
        d.dtls_legacy_given = true;
        put(&mut d.config.dtls_legacy, v.boolean())
    }),
    key("match-tls-dtls-ciphers", Works, |d, v| {
        put(&mut d.config.match_tls_dtls_ciphers, v.boolean())
    }),
    key("banner", Works, banner),
    key("pre-login-banner", Works, |d, v| {
        put(&mut d.config.pre_login_banner, v.text())
    }),
    key("custom-header", Works, |d, v| {
        push(&mut d.config.custom_header, v.text())
    }),
    key("included-http-headers", Works, |d, v| {
        let raw = (!v.raw.is_empty()).then(|| v.raw.to_owned());
        push(&mut d.config.included_http_headers, Ok(raw))
    }),
    key("default-domain", Works, |d, v| {
        put(&mut d.config.default_domain, v.text())
    }),
    key("proxy-url", Works, |d, v| {
        put(&mut d.config.proxy_url, v.text())
    }),
    key("listen-host-is-dyndns", Works, |d, v| {
        put(&mut d.config.listen_host_is_dyndns, v.boolean())
    }),
    key("camouflage", CAMOUFLAGE, |d, v| {
        put(&mut d.config.camouflage, v.boolean())
    }),
    key("camouflage_secret", CAMOUFLAGE, |d, v| {
        put(&mut d.config.camouflage_secret, secret(v))
    }),
    key("camouflage_realm", CAMOUFLAGE, |d, v| {
        put(&mut d.config.camouflage_realm, v.text())
    }),
    key("kkdcp", Later("KKDCP"), kkdcp),
    key("cookie-timeout", Works, |d, v| {
        put(&mut d.config.cookie_timeout, v.seconds())
    }),
    key("persistent-cookies", Works, |d, v| {
        put(&mut d.config.persistent_cookies, v.boolean())
    }),
    key("rekey-time", Works, |d, v| {
        put(&mut d.config.rekey_time, v.seconds_or_off())
    }),
    key("rekey-method", Works, rekey_method),
    key("switch-to-tcp-timeout", Works, |d, v| {
        put(&mut d.config.switch_to_tcp_timeout, v.seconds_or_off())
    }),
    key("compression", COMPRESSION, |d, v| {
        put(&mut d.config.compression, v.boolean())
    }),
    key("no-compress-limit", COMPRESSION, |d, v| {
        put(&mut d.config.no_compress_limit, v.count())
    }),
    key(
        "output-buffer",
        Ignored("one socket serves all sessions"),
        |d, v| put(&mut d.config.output_buffer, v.count()),
    ),
    key("predictable-ips", Works, |d, v| {
        put(&mut d.config.predictable_ips, v.boolean())
    }),
    key("append-routes", Works, |d, v| {
        put(&mut d.config.append_routes, v.boolean())
    }),
    key("expose-iroutes", Works, |d, v| {
        put(&mut d.config.expose_iroutes, v.boolean())
    }),
    key("config-per-group", Works, |d, v| {
        put(&mut d.config.config_per_group, v.path())
    }),
    key("config-per-user", Works, |d, v| {
        put(&mut d.config.config_per_user, v.path())
    }),
    key("default-group-config", Works, |d, v| {
        put(&mut d.config.default_group_config, v.path())
    }),
    key("default-user-config", Works, |d, v| {
        put(&mut d.config.default_user_config, v.path())
    }),
    key("session-control", Works, |_, v| {
        v.messages.push(Message::warning(
            "the option 'session-control' is deprecated",
        ));
        Ok(())
    }),
    key("ipv6-prefix", Works, |d, v| {
        let prefix = v.number(i64::MIN, i64::MAX)?;
        match u8::try_from(prefix) {
            Ok(prefix @ 1..=128) => put_some(&mut d.user.ipv6_prefix, Ok(prefix)),
            _ => v.refuse_line(
                &format!("error: invalid IPv6 prefix: {prefix}"),
                "give a number from 1 to 128",
            ),
        }
    }),
];

const MAX_GROUPS: usize = 96;
/// From this length on clients may cut a group's name.
const LONG_GROUP: usize = 64;

fn select_group(d: &mut VhostDraft, v: &mut Value<'_>) -> Read<()> {
    let (name, label) = match v.text.strip_suffix(']').and_then(|t| t.split_once('[')) {
        Some((name, label)) => (name.trim(), Some(label.trim().to_owned())),
        None => (v.text, None),
    };
    if name.is_empty() {
        v.warn("empty group name; line ignored");
        return Ok(());
    }
    if d.config.select_group.len() == MAX_GROUPS {
        let message = format!("error: more than {MAX_GROUPS} lines of 'select-group'");
        return v.refuse(message, "remove some");
    }
    if name.len() >= LONG_GROUP {
        v.warn(format!("'{name}' is longer than {} bytes", LONG_GROUP - 1));
    }
    let label = label.filter(|l| !l.is_empty());
    d.config.select_group.push(SelectGroup {
        name: name.to_owned(),
        label,
    });
    Ok(())
}

const MAX_BANNER: usize = 256;

fn banner(d: &mut VhostDraft, v: &mut Value<'_>) -> Read<()> {
    if v.text.len() > MAX_BANNER {
        let message = format!("error: {}banner size is too long", d.prefix());
        return v.refuse(message, format!("use at most {MAX_BANNER} bytes"));
    }
    put(&mut d.config.banner, v.text())
}

fn rekey_method(d: &mut VhostDraft, v: &mut Value<'_>) -> Read<()> {
    let method = match v.text {
        "ssl" => RekeyMethod::Ssl,
        "new-tunnel" => RekeyMethod::NewTunnel,
        other => {
            let message = format!("error: unknown rekey method '{other}'");
            return v.refuse_line(&message, "use 'ssl' or 'new-tunnel'");
        }
    };
    put(&mut d.config.rekey_method, Ok(method))
}

fn kkdcp(d: &mut VhostDraft, v: &mut Value<'_>) -> Read<()> {
    match parse_kkdcp(v.text) {
        Some(entry) => push(&mut d.config.kkdcp, Ok(Some(entry))),
        None => v.refuse(
            format!("Cannot parse kkdcp string: {}", v.text),
            "write \"/KdcProxy REALM tcp@host:88\"",
        ),
    }
}

fn parse_kkdcp(text: &str) -> Option<Kkdcp> {
    let mut words = text.split_ascii_whitespace();
    let (path, realm, server) = (words.next()?, words.next()?, words.next()?);
    let (protocol, address) = server.split_once('@')?;
    let tcp = match protocol {
        "tcp" => true,
        "udp" => false,
        _ => return None,
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => rest.split_once("]:")?,
        None => address.rsplit_once(':')?,
    };
    let valid = path.starts_with('/') && !host.is_empty() && words.next().is_none();
    let port = port.parse().ok()?;
    valid.then(|| Kkdcp {
        path: path.into(),
        realm: realm.into(),
        tcp,
        host: host.into(),
        port,
    })
}
