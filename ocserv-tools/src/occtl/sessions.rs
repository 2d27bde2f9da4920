//! `show sessions all`, `show sessions valid` and `show session` (cli.md §4.4).

use std::fmt::Write as _;

use ocserv_proto::control::SessionInfo;

use super::format::{Clock, or_none, printable};
use super::json::{self, Object};
use super::text::Rows;

/// The table; nothing without sessions.
pub fn table(sessions: &[SessionInfo], clock: &Clock) -> String {
    let mut out = String::new();
    let mut row = |cells: [&str; 7]| {
        let [session, user, vhost, ip, agent, created, status] = cells;
        let _ = writeln!(
            out,
            "{session:>6} {user:>8} {vhost:>8} {ip:>14} {agent:>24} {created:>8} {status:>8}"
        );
    };
    if !sessions.is_empty() {
        row([
            "session",
            "user",
            "vhost",
            "ip",
            "user agent",
            "created",
            "status",
        ]);
    }
    for session in sessions {
        let agent: String = printable(&session.user_agent).chars().take(24).collect();
        row([
            short(session),
            &printable(or_none(&session.username)),
            &session.vhost,
            &session.remote_ip.to_string(),
            &agent,
            &clock.since(session.created),
            state(session),
        ]);
    }
    out
}

/// The rows of each session.
pub fn details(sessions: &[SessionInfo], clock: &Clock) -> String {
    sessions
        .iter()
        .map(|session| detail(session, clock))
        .collect()
}

/// Sessions as JSON.
pub fn json(sessions: &[SessionInfo], clock: &Clock) -> String {
    let objects: Vec<Object> = sessions
        .iter()
        .map(|session| object(session, clock))
        .collect();
    json::array(&objects)
}

/// The list below `ambiguous session ID`.
pub fn candidates(sessions: &[SessionInfo]) -> String {
    let row = |session: &SessionInfo| {
        format!(
            "  {}  user: {}\n",
            session.session,
            printable(or_none(&session.username))
        )
    };
    sessions.iter().map(row).collect()
}

/// The six characters that identify a session to people.
pub fn short(session: &SessionInfo) -> &str {
    session.session.get(..6).unwrap_or(&session.session)
}

fn detail(session: &SessionInfo, clock: &Clock) -> String {
    let expires = session
        .expires
        .map_or_else(String::new, |expires| clock.date(expires));
    let mut rows = Rows::new();
    rows.row("Session", short(session))
        .row("Full session ID", &session.session);
    rows.pair(
        ("Created", &clock.date(session.created)),
        ("Expires", &expires),
    );
    rows.row("State", state(session));
    rows.pair(
        ("Username", or_none(&session.username)),
        ("Groupname", or_none(&session.groupname)),
    );
    rows.pair(
        ("vhost", &session.vhost),
        ("User-Agent", &session.user_agent),
    );
    rows.pair(
        ("Remote IP", &session.remote_ip.to_string()),
        ("Location", "unknown"),
    );
    rows.pair(
        ("In use", truth(session.in_use)),
        ("Activated", truth(session.activated)),
    );
    rows.row("Certificate auth", truth(session.certificate_auth));
    rows.finish()
}

fn object(session: &SessionInfo, clock: &Clock) -> Object {
    let mut object = Object::new();
    object
        .text("Session", short(session))
        .text("Full session", &session.session);
    object.text("Created", &clock.date(session.created));
    if let Some(expires) = session.expires {
        object.text("Expires", &clock.date(expires));
    }
    object.text("State", state(session));
    object.text("Username", or_none(&session.username));
    object.text("Groupname", or_none(&session.groupname));
    object
        .text("vhost", &session.vhost)
        .text("User-Agent", &session.user_agent);
    object
        .text("Remote IP", &session.remote_ip.to_string())
        .text("Location", "unknown");
    object.number("session_is_open", session.activated.into());
    object.number("tls_auth_ok", session.certificate_auth.into());
    object.number("in_use", session.in_use.into());
    object
}

fn state(session: &SessionInfo) -> &'static str {
    if session.authenticated {
        "authenticated"
    } else {
        "authenticating"
    }
}

fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

#[cfg(test)]
pub mod tests {
    use super::super::format::tests::clock;
    use super::*;

    /// The session of the run of the reference (version 1.1.6) that the expected texts come from.
    pub fn session() -> SessionInfo {
        SessionInfo {
            session: "GVscheingvEuN4erZ7lLAz3acmU=".to_owned(),
            created: clock().now - 6,
            expires: Some(clock().now + 294),
            authenticated: true,
            username: "test".to_owned(),
            groupname: "g1".to_owned(),
            vhost: "default".to_owned(),
            user_agent: "Open AnyConnect VPN Agent v9.01-3".to_owned(),
            remote_ip: "127.0.0.1".parse().unwrap(),
            activated: true,
            in_use: false,
            certificate_auth: false,
        }
    }

    #[test]
    fn the_table_is_that_of_the_reference() {
        let expected = concat!(
            "session     user    vhost             ip               user agent  created   status\n",
            "GVsche     test  default      127.0.0.1 Open AnyConnect VPN Agen       6s authenticated\n",
        );
        assert_eq!(table(&[session()], &clock()), expected);
        assert_eq!(table(&[], &clock()), "");
    }

    #[test]
    fn details_are_those_of_the_reference() {
        let expected = concat!(
            "\tSession: GVsche\n",
            "\tFull session ID: GVscheingvEuN4erZ7lLAz3acmU=\n",
            "\tCreated: 2026-11-23 16:29   Expires: 2026-11-23 16:34\n",
            "\tState: authenticated\n",
            "\tUsername: test   Groupname: g1\n",
            "\tvhost: default   User-Agent: Open AnyConnect VPN Agent v9.01-3\n",
            "\tRemote IP: 127.0.0.1   Location: unknown\n",
            "\tIn use: False   Activated: True\n",
            "\tCertificate auth: False\n",
        );
        assert_eq!(details(&[session()], &clock()), expected);
        let open = SessionInfo {
            expires: None,
            in_use: true,
            ..session()
        };
        let text = details(&[open], &clock());
        assert!(
            text.contains("\tCreated: 2026-11-23 16:29\n\tState"),
            "{text}"
        );
        assert!(text.contains("\tIn use: True   Activated: True\n"));
    }

    #[test]
    fn json_is_that_of_the_reference_without_its_last_comma() {
        let expected = concat!(
            "[\n",
            "  {\n",
            "    \"Session\":  \"GVsche\",\n",
            "    \"Full session\":  \"GVscheingvEuN4erZ7lLAz3acmU=\",\n",
            "    \"Created\":  \"2026-11-23 16:29\",\n",
            "    \"Expires\":  \"2026-11-23 16:34\",\n",
            "    \"State\":  \"authenticated\",\n",
            "    \"Username\":  \"test\",\n",
            "    \"Groupname\":  \"g1\",\n",
            "    \"vhost\":  \"default\",\n",
            "    \"User-Agent\":  \"Open AnyConnect VPN Agent v9.01-3\",\n",
            "    \"Remote IP\":  \"127.0.0.1\",\n",
            "    \"Location\":  \"unknown\",\n",
            "    \"session_is_open\":  1,\n",
            "    \"tls_auth_ok\":  0,\n",
            "    \"in_use\":  0\n",
            "  }\n",
            "]\n",
        );
        assert_eq!(json(&[session()], &clock()), expected);
        let two = json(&[session(), session()], &clock());
        let parsed: serde_json::Value = serde_json::from_str(&two).unwrap();
        assert_eq!(parsed.as_array().unwrap().len(), 2);
    }
}
