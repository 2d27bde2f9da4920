//! Global keys.

use super::Scope::{Global as G, GlobalFixed as GF};
use super::Status::{Ignored, Later, Works};
use super::{Key, Scope, Setter, Status, put};
use crate::config::error::Message;
use crate::config::types::Config;
use crate::config::value::{Read, Value, leading_number};

type Set = fn(&mut Config, &mut Value<'_>) -> Read<()>;

const fn key(name: &'static str, scope: Scope, status: Status, set: Set) -> Key {
    Key {
        name,
        scope,
        status,
        setter: Setter::Global(set),
    }
}

pub(super) static KEYS: &[Key] = &[
    key("listen-host", GF, Works, |c, v| {
        put(&mut c.listen_host, v.text())
    }),
    key("udp-listen-host", GF, Works, |c, v| {
        put(&mut c.udp_listen_host, v.text())
    }),
    key("listen-netns", GF, Works, |c, v| {
        put(&mut c.listen_netns, v.text())
    }),
    key("tcp-port", GF, Works, |c, v| put(&mut c.tcp_port, v.port())),
    key("udp-port", GF, Works, |c, v| put(&mut c.udp_port, v.port())),
    key("listen-clear-file", GF, Works, |_, v| {
        let message = "error: the 'listen-clear-file' option was removed in ocserv 1.1.2";
        v.refuse_line(message, "remove the line; a proxy must pass TLS through")
    }),
    key("listen-proxy-proto", G, Later("PROXY protocol"), |c, v| {
        put(&mut c.listen_proxy_proto, v.boolean())
    }),
    key("device", G, Works, device),
    key("run-as-user", GF, Works, |c, v| {
        put(&mut c.run_as_user, v.text())
    }),
    key("run-as-group", GF, Works, |c, v| {
        put(&mut c.run_as_group, v.text())
    }),
    key("isolate-workers", G, Works, |c, v| {
        put(&mut c.isolate_workers, v.boolean())
    }),
    key("use-seccomp", G, Works, |c, v| {
        renamed(v, "isolate-workers");
        put(&mut c.isolate_workers, v.boolean())
    }),
    key("limit-worker-memory", G, Works, |c, v| {
        put(&mut c.limit_worker_memory, v.boolean())
    }),
    key(
        "chroot-dir",
        GF,
        Later("chroot; Landlock confines the processes"),
        |c, v| put(&mut c.chroot_dir, v.path()),
    ),
    key("sessions-per-gate", GF, Works, |c, v| {
        put(&mut c.sessions_per_gate, v.count())
    }),
    key(
        "sec-mod-scale",
        GF,
        Ignored("one process with threads authenticates"),
        |c, v| put(&mut c.sec_mod_scale, v.count()),
    ),
    key("socket-file", GF, Works, |c, v| {
        put(&mut c.socket_file, Ok(v.text.into()))
    }),
    key("use-occtl", G, Works, |c, v| {
        put(&mut c.use_occtl, v.boolean())
    }),
    key("use-dbus", G, Works, |c, v| {
        renamed(v, "use-occtl");
        put(&mut c.use_occtl, v.boolean())
    }),
    key("occtl-socket-file", GF, Works, |c, v| match v.path()? {
        Some(path) => put(&mut c.occtl_socket_file, Ok(path)),
        None => Ok(()),
    }),
    key("pid-file", GF, Works, |c, v| put(&mut c.pid_file, v.path())),
    key("log-level", GF, Works, |c, v| {
        put(&mut c.log_level, v.number(0, 9).map(|n| n as u8))
    }),
    key("syslog-facility", GF, Works, syslog_facility),
    key("use-utmp", G, Works, |c, v| {
        put(&mut c.use_utmp, v.boolean())
    }),
    key("server-stats-reset-time", GF, Works, |c, v| {
        put(&mut c.server_stats_reset_time, v.seconds_or_off())
    }),
    key(
        "debug-no-secmod-stats",
        GF,
        Ignored("a test switch of the reference"),
        |c, v| put(&mut c.debug_no_secmod_stats, v.boolean()),
    ),
    key("auth-timeout", G, Works, |c, v| {
        let timeout = v.seconds()?;
        if timeout.is_zero() {
            v.warn("a login without time limit is not offered; the default is used");
            return Ok(());
        }
        put(&mut c.auth_timeout, Ok(timeout))
    }),
    key("ban-reset-time", G, Works, |c, v| {
        put(&mut c.ban_reset_time, v.seconds())
    }),
    key("ban-time", G, Works, |c, v| {
        put(&mut c.ban_time, v.seconds())
    }),
    key("min-reauth-time", G, Works, |c, v| {
        v.warn("this name is deprecated; use 'ban-time'");
        put(&mut c.ban_time, v.seconds())
    }),
    key("max-ban-score", G, Works, |c, v| {
        put(&mut c.max_ban_score, v.count())
    }),
    key("ban-points-wrong-password", G, Works, |c, v| {
        put(&mut c.ban_points_wrong_password, v.count())
    }),
    key("ban-points-connection", G, Works, |c, v| {
        put(&mut c.ban_points_connection, v.count())
    }),
    key("ban-points-kkdcp", G, Later("KKDCP"), |c, v| {
        put(&mut c.ban_points_kkdcp, v.count())
    }),
    key("max-clients", G, Works, |c, v| {
        put(&mut c.max_clients, v.count())
    }),
    key("rate-limit-ms", G, Works, |c, v| {
        put(
            &mut c.rate_limit_ms,
            v.milliseconds().map(|d| (!d.is_zero()).then_some(d)),
        )
    }),
    key("server-drain-ms", G, Works, |c, v| {
        put(&mut c.server_drain_ms, v.milliseconds())
    }),
    key("sec-mod-db-cleanup-time", G, Works, |c, v| {
        put(&mut c.sec_mod_db_cleanup_time, v.seconds())
    }),
    key("connect-script", G, Works, |c, v| {
        put(&mut c.connect_script, v.path())
    }),
    key("disconnect-script", G, Works, |c, v| {
        put(&mut c.disconnect_script, v.path())
    }),
    key("host-update-script", G, Works, |c, v| {
        put(&mut c.host_update_script, v.path())
    }),
    key("route-add-cmd", G, Works, |c, v| {
        put(&mut c.route_add_cmd, v.text())
    }),
    key("route-del-cmd", G, Works, |c, v| {
        put(&mut c.route_del_cmd, v.text())
    }),
    key("ping-leases", G, Works, |c, v| {
        put(&mut c.ping_leases, v.boolean())
    }),
    key("try-mtu-discovery", GF, Works, |c, v| {
        put(&mut c.try_mtu_discovery, v.boolean())
    }),
    key("dtls-psk", G, Works, |c, v| {
        put(&mut c.dtls_psk, v.boolean())
    }),
    key(
        "compression-algo-priority",
        G,
        Later("compression"),
        compression_order,
    ),
];

pub(super) fn renamed(v: &mut Value<'_>, new: &str) {
    v.messages.push(Message::note(format!(
        "'{}' was replaced by '{new}'",
        v.key
    )));
}

/// A device name is at most 15 bytes; the prefix leaves room for a digit.
const MAX_DEVICE_PREFIX: usize = 14;

fn device(c: &mut Config, v: &mut Value<'_>) -> Read<()> {
    let bad = |b: u8| !b.is_ascii_graphic() || matches!(b, b'/' | b':' | b'%');
    if v.text.len() > MAX_DEVICE_PREFIX || v.text.bytes().any(bad) {
        let message = format!(
            "error: '{}' cannot begin the name of a network device",
            v.text
        );
        return v.refuse(message, "use at most 14 letters and digits, e.g. 'vpns'");
    }
    put(&mut c.device, Ok(v.text.to_owned()))
}

const FACILITIES: [&str; 12] = [
    "daemon", "user", "auth", "authpriv", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];

fn syslog_facility(c: &mut Config, v: &mut Value<'_>) -> Read<()> {
    let word = v.text.to_ascii_lowercase();
    if !FACILITIES.contains(&word.as_str()) {
        let message = format!("error: unknown syslog facility '{}'", v.text);
        return v.refuse_line(&message, format!("use one of {}", FACILITIES.join(", ")));
    }
    put(&mut c.syslog_facility, Ok(word))
}

/// Both known forms: a colon list, best first, and `name:number` pairs, highest number first
/// (config.md §9).
fn compression_order(c: &mut Config, v: &mut Value<'_>) -> Read<()> {
    let words = v.text.split([':', ',', ' ']).filter(|w| !w.is_empty());
    let mut order: Vec<(i64, String)> = Vec::new();
    for word in words {
        match (leading_number(word), order.last_mut()) {
            ((number, ""), Some(last)) => last.0 = -number,
            _ => order.push((0, word.to_ascii_lowercase())),
        }
    }
    order.sort_by_key(|(rank, _)| *rank);
    c.compression_algo_priority = order.into_iter().map(|(_, name)| name).collect();
    Ok(())
}
