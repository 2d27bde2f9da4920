//! `show status` (cli.md §4.1).

use ocserv_proto::control::StatusInfo;

use super::format::{Clock, bytes, span};
use super::json::Object;
use super::text::Rows;

const NOTE: &str = "Note: the printed statistics are not real-time; session time\n\
                    as well as RX and TX data are updated on user disconnect";

/// Text form; `debug` adds rows.
pub fn text(status: &StatusInfo, debug: bool, clock: &Clock) -> String {
    let period = &status.period;
    let mut rows = Rows::new();
    rows.line(NOTE).line("").line("General info:");
    rows.row("Status", "online")
        .number("Server PID", status.server_pid.into());
    rows.number("Sec-mod PID", secmod_pid(status));
    rows.number("Sec-mod instance count", status.secmod_pids.len() as u64);
    rows.row("Up since", &clock.date_and_since(status.up_since));
    rows.number("Active sessions", status.active_sessions);
    rows.number("Total sessions", status.total_sessions);
    rows.number("Total authentication failures", status.total_auth_failures);
    rows.number("IPs in ban list", status.banned_ips);
    if debug {
        rows.number("Sec-mod client entries", status.secmod_client_entries);
        rows.number("TLS DB entries", status.tls_db_entries);
    }
    rows.row("Median latency", &latency(status.median_latency_ms));
    rows.row("STDEV latency", &latency(status.stdev_latency_ms));
    rows.line("").line("Current stats period:");
    rows.row("Last stats reset", &clock.date_and_since(period.since));
    rows.number("Sessions handled", period.sessions_handled);
    rows.number("Timed out sessions", period.timed_out);
    rows.number("Timed out (idle) sessions", period.idle_timed_out);
    rows.number("Closed due to error sessions", period.errors);
    rows.number("Authentication failures", period.auth_failures);
    rows.row("Average auth time", &span(period.avg_auth_secs));
    rows.row("Max auth time", &span(period.max_auth_secs));
    rows.row("Average session time", &span(period.avg_session_secs));
    rows.row("Max session time", &span(period.max_session_secs));
    if status.max_mtu > 0 {
        rows.number("Min MTU", status.min_mtu.into())
            .number("Max MTU", status.max_mtu.into());
    }
    rows.row("RX", &bytes(period.rx_bytes))
        .row("TX", &bytes(period.tx_bytes));
    rows.finish()
}

/// JSON form: one object without brackets.
pub fn json(status: &StatusInfo, debug: bool, clock: &Clock) -> String {
    let period = &status.period;
    let mut object = Object::new();
    object
        .text("Status", "online")
        .number("Server PID", status.server_pid.into());
    object.number("Sec-mod PID", secmod_pid(status));
    object.number("Sec-mod instance count", status.secmod_pids.len() as u64);
    object.text("Up since", &clock.date(status.up_since));
    object.text("_Up since", &clock.since(status.up_since));
    object.number("raw_up_since", status.up_since);
    object.number("uptime", clock.now.saturating_sub(status.up_since));
    object.number("Active sessions", status.active_sessions);
    object.number("Total sessions", status.total_sessions);
    object.number("Total authentication failures", status.total_auth_failures);
    object.number("IPs in ban list", status.banned_ips);
    if debug {
        object.number("Sec-mod client entries", status.secmod_client_entries);
        object.number("TLS DB entries", status.tls_db_entries);
    }
    object.text("Median latency", &latency(status.median_latency_ms));
    object.number("raw_median_latency", status.median_latency_ms);
    object.text("STDEV latency", &latency(status.stdev_latency_ms));
    object.number("raw_stdev_latency", status.stdev_latency_ms);
    object.text("Last stats reset", &clock.date(period.since));
    object.text("_Last stats reset", &clock.since(period.since));
    object.number("raw_last_stats_reset", period.since);
    object.number("Sessions handled", period.sessions_handled);
    object.number("Timed out sessions", period.timed_out);
    object.number("Timed out (idle) sessions", period.idle_timed_out);
    object.number("Closed due to error sessions", period.errors);
    object.number("Authentication failures", period.auth_failures);
    for (name, raw, seconds) in [
        (
            "Average auth time",
            "raw_avg_auth_time",
            period.avg_auth_secs,
        ),
        ("Max auth time", "raw_max_auth_time", period.max_auth_secs),
        (
            "Average session time",
            "raw_avg_session_time",
            period.avg_session_secs,
        ),
        (
            "Max session time",
            "raw_max_session_time",
            period.max_session_secs,
        ),
    ] {
        object.text(name, &span(seconds)).number(raw, seconds);
    }
    if status.max_mtu > 0 {
        object
            .number("Min MTU", status.min_mtu.into())
            .number("Max MTU", status.max_mtu.into());
    }
    object
        .text("RX", &bytes(period.rx_bytes))
        .number("raw_rx", period.rx_bytes);
    object
        .text("TX", &bytes(period.tx_bytes))
        .number("raw_tx", period.tx_bytes);
    object.finish()
}

/// When the server takes no request.
pub fn offline(json: bool) -> String {
    match json {
        true => Object::new().text("Status", "offline").finish(),
        false => Rows::new().line(NOTE).row("Status", "offline").finish(),
    }
}

fn secmod_pid(status: &StatusInfo) -> u64 {
    status.secmod_pids.first().copied().unwrap_or(0).into()
}

fn latency(milliseconds: u64) -> String {
    match milliseconds {
        0 => "<1ms".to_owned(),
        more => format!("{more}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::clock;
    use super::*;
    use ocserv_proto::control::PeriodInfo;

    fn status() -> StatusInfo {
        let since = clock().now - 10;
        StatusInfo {
            server_pid: 14653,
            secmod_pids: vec![14660],
            up_since: since,
            active_sessions: 1,
            period: PeriodInfo {
                since,
                ..PeriodInfo::default()
            },
            ..StatusInfo::default()
        }
    }

    #[test]
    fn text_is_that_of_the_reference() {
        // Output of the reference, version 1.1.6.
        let expected = concat!(
            "Note: the printed statistics are not real-time; session time\n",
            "as well as RX and TX data are updated on user disconnect\n",
            "\n",
            "General info:\n",
            "\tStatus: online\n",
            "\tServer PID: 14653\n",
            "\tSec-mod PID: 14660\n",
            "\tSec-mod instance count: 1\n",
            "\tUp since: 2026-11-23 16:29 (   10s)\n",
            "\tActive sessions: 1\n",
            "\tTotal sessions: 0\n",
            "\tTotal authentication failures: 0\n",
            "\tIPs in ban list: 0\n",
            "\tMedian latency: <1ms\n",
            "\tSTDEV latency: <1ms\n",
            "\n",
            "Current stats period:\n",
            "\tLast stats reset: 2026-11-23 16:29 (   10s)\n",
            "\tSessions handled: 0\n",
            "\tTimed out sessions: 0\n",
            "\tTimed out (idle) sessions: 0\n",
            "\tClosed due to error sessions: 0\n",
            "\tAuthentication failures: 0\n",
            "\tAverage auth time:     0s\n",
            "\tMax auth time:     0s\n",
            "\tAverage session time:     0s\n",
            "\tMax session time:     0s\n",
            "\tRX: 0 bytes\n",
            "\tTX: 0 bytes\n",
        );
        assert_eq!(text(&status(), false, &clock()), expected);
        let with_mtu = StatusInfo {
            min_mtu: 1434,
            max_mtu: 1434,
            ..status()
        };
        let tail = "\tMin MTU: 1434\n\tMax MTU: 1434\n\tRX: 0 bytes\n\tTX: 0 bytes\n";
        assert!(text(&with_mtu, false, &clock()).ends_with(tail));
        let debug = "ban list: 0\n\tSec-mod client entries: 0\n\tTLS DB entries: 0\n\tMedian";
        assert!(text(&status(), true, &clock()).contains(debug));
    }

    #[test]
    fn json_is_that_of_the_reference() {
        // Output of the reference, version 1.1.6, with --debug.
        let expected = concat!(
            "  {\n",
            "    \"Status\":  \"online\",\n",
            "    \"Server PID\":  14653,\n",
            "    \"Sec-mod PID\":  14660,\n",
            "    \"Sec-mod instance count\":  1,\n",
            "    \"Up since\":  \"2026-11-23 16:29\",\n",
            "    \"_Up since\":  \"   10s\",\n",
            "    \"raw_up_since\":  1795451376,\n",
            "    \"uptime\":  10,\n",
            "    \"Active sessions\":  1,\n",
            "    \"Total sessions\":  0,\n",
            "    \"Total authentication failures\":  0,\n",
            "    \"IPs in ban list\":  0,\n",
            "    \"Sec-mod client entries\":  0,\n",
            "    \"TLS DB entries\":  0,\n",
            "    \"Median latency\":  \"<1ms\",\n",
            "    \"raw_median_latency\":  0,\n",
            "    \"STDEV latency\":  \"<1ms\",\n",
            "    \"raw_stdev_latency\":  0,\n",
            "    \"Last stats reset\":  \"2026-11-23 16:29\",\n",
            "    \"_Last stats reset\":  \"   10s\",\n",
            "    \"raw_last_stats_reset\":  1795451376,\n",
            "    \"Sessions handled\":  0,\n",
            "    \"Timed out sessions\":  0,\n",
            "    \"Timed out (idle) sessions\":  0,\n",
            "    \"Closed due to error sessions\":  0,\n",
            "    \"Authentication failures\":  0,\n",
            "    \"Average auth time\":  \"    0s\",\n",
            "    \"raw_avg_auth_time\":  0,\n",
            "    \"Max auth time\":  \"    0s\",\n",
            "    \"raw_max_auth_time\":  0,\n",
            "    \"Average session time\":  \"    0s\",\n",
            "    \"raw_avg_session_time\":  0,\n",
            "    \"Max session time\":  \"    0s\",\n",
            "    \"raw_max_session_time\":  0,\n",
            "    \"RX\":  \"0 bytes\",\n",
            "    \"raw_rx\":  0,\n",
            "    \"TX\":  \"0 bytes\",\n",
            "    \"raw_tx\":  0\n",
            "  }\n",
        );
        assert_eq!(json(&status(), true, &clock()), expected);
        let parsed: serde_json::Value =
            serde_json::from_str(&json(&status(), false, &clock())).unwrap();
        assert_eq!(parsed.as_object().unwrap().len(), 36);
    }

    #[test]
    fn an_offline_server_says_so() {
        let text = format!("{NOTE}\n\tStatus: offline\n");
        assert_eq!(offline(false), text);
        assert_eq!(offline(true), "  {\n    \"Status\":  \"offline\"\n  }\n");
    }
}
