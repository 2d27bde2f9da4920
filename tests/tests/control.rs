//! `occtl`, as administrators and panels use it.

use anyhow::{Context, Result};
use ocserv_tests::bed::{OTHER_PASSWORD, OTHER_USER, USER};
use ocserv_tests::{
    Config, Login, Server, process, scenario, scenario_with_clients, tls, traffic, wait,
};

/// The value behind `Name:` in a text listing.
fn field<'a>(listing: &'a str, name: &str) -> Option<&'a str> {
    let after = listing.split(&format!("{name}: ")).nth(1)?;
    after.split(['\n', '\t']).next()?.split("   ").next()
}

/// The ID column of a user in `show users`.
fn id_of(server: &Server, user: &str) -> Result<String> {
    let users = server.occtl_text(&["show", "users"])?;
    let row = users
        .lines()
        .find(|line| line.split_whitespace().nth(1) == Some(user));
    let id = row.and_then(|row| row.split_whitespace().next());
    id.map(str::to_owned).with_context(|| users.clone())
}

#[test]
fn show_status_counts_sessions() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let status = server.occtl_text(&["show", "status"])?;
        assert_eq!(field(&status, "Status"), Some("online"), "{status}");
        assert_eq!(field(&status, "Active sessions"), Some("0"), "{status}");
        assert_eq!(
            field(&status, "Server PID"),
            Some(server.pid().to_string().as_str())
        );
        let _client = Login::new().connect(bed)?;
        let status = server.occtl_text(&["show", "status"])?;
        assert_eq!(field(&status, "Active sessions"), Some("1"), "{status}");
        let json = server.occtl_text(&["-j", "show", "status"])?;
        assert!(json.contains("\"Status\":  \"online\""), "{json}");
        assert!(json.contains("\"Active sessions\":  1"), "{json}");
        Ok(())
    });
}

#[test]
fn show_user_tells_what_the_client_was_given() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        assert_eq!(
            server.occtl(&["show", "user", USER])?.status.code(),
            Some(2)
        );
        let client = Login::new()
            .argument("--local-hostname=laptop")
            .connect_dtls(bed)?;
        let user = server.occtl_text(&["show", "user", USER])?;
        // Ours prefers the cipher that the kernel path takes.
        let dtls_cipher = match bed.program().is_reference {
            true => "(DTLS1.2)-(PSK)-(AES-256-GCM)",
            false => "(DTLS1.2)-(PSK)-(CHACHA20-POLY1305)",
        };
        for (name, value) in [
            ("Username", USER),
            ("State", "connected"),
            ("vhost", "default"),
            ("IPv4", &client.address4()?),
            ("P-t-P IPv4", "10.30.0.1"),
            ("IPv6", &client.address6()?),
            ("Hostname", "laptop"),
            ("DPD", "60"),
            ("DNS", "10.20.0.2"),
            ("DTLS cipher", dtls_cipher),
        ] {
            assert_eq!(field(&user, name), Some(value), "{name}: {user}");
        }
        let id = id_of(&server, USER)?;
        assert_eq!(
            field(&server.occtl_text(&["show", "id", &id])?, "Username"),
            Some(USER)
        );
        let json = server.occtl_text(&["-j", "show", "user", USER])?;
        assert!(
            json.contains(&format!("\"Username\":  \"{USER}\"")),
            "{json}"
        );
        assert!(
            json.contains(&format!("\"IPv4\":  \"{}\"", client.address4()?)),
            "{json}"
        );
        Ok(())
    });
}

/// Packets from clients by `show datapath`, whichever path they took.
fn received(server: &Server) -> Result<u64> {
    let shown = server.occtl_text(&["show", "datapath"])?;
    let rows = shown
        .lines()
        .filter_map(|line| line.strip_prefix("\tRX packets: "));
    let counts: Vec<u64> = rows.map(str::parse).collect::<Result<_, _>>()?;
    anyhow::ensure!(counts.len() == 2, "two paths: {shown}");
    Ok(counts.iter().sum())
}

#[test]
fn show_datapath_counts_packets_of_open_and_ended_sessions() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        assert_eq!(received(&server)?, 0);
        let mut client = Login::new().connect_dtls(bed)?;
        traffic::transfer_all_ways(bed, &client, 10_000)?;
        let shown = server.occtl_text(&["show", "datapath"])?;
        assert_eq!(field(&shown, "Sessions with DTLS"), Some("1"), "{shown}");
        let open = received(&server)?;
        assert!(open > 0, "{shown}");
        client.log_out()?;
        wait::until_true("the session's end", wait::SHORT, || {
            let shown = server.occtl_text(&["show", "datapath"]);
            shown.is_ok_and(|shown| field(&shown, "Sessions with DTLS") == Some("0"))
        })?;
        assert!(received(&server)? >= open);
        let json = server.occtl_text(&["-j", "show", "datapath"])?;
        assert!(json.contains("\"Sessions with DTLS\":  0"), "{json}");
        Ok(())
    });
}

#[test]
fn disconnect_user_ends_the_session_and_its_cookie() {
    scenario_with_clients(2, |bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let cookie = Login::new().cookie(bed)?;
        let mut alice = Login::with_cookie(&cookie).connect_dtls(bed)?;
        let mut bob = Login::as_user(OTHER_USER, OTHER_PASSWORD)
            .from_site(1)
            .connect(bed)?;
        let said = server.occtl_text(&["disconnect", "user", USER])?;
        assert!(
            said.contains(&format!("user '{USER}' was disconnected")),
            "{said}"
        );
        alice.wait_exit(wait::SHORT)?;
        let answer = tls::request(bed, &tls::connect_request(&cookie))?;
        assert!(answer.status_line().contains("401"), "{}", answer.text);
        assert!(bob.is_running());
        let again = server.occtl(&["disconnect", "user", USER])?;
        assert_eq!(again.status.code(), Some(1));
        assert!(process::text(&again).contains("could not disconnect user"));
        Ok(())
    });
}

#[test]
fn disconnect_id_ends_one_session() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect(bed)?;
        let id = id_of(&server, USER)?;
        let said = server.occtl_text(&["disconnect", "id", &id])?;
        assert!(
            said.contains(&format!("connection ID '{id}' was disconnected")),
            "{said}"
        );
        client.wait_exit(wait::SHORT)?;
        Ok(())
    });
}

#[test]
fn terminate_user_ends_the_session() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect(bed)?;
        let said = server.occtl_text(&["terminate", "user", USER])?;
        let expected = format!("user '{USER}' was terminated (session invalidated)");
        assert!(said.contains(&expected), "{said}");
        client.wait_exit(wait::SHORT)?;
        Ok(())
    });
}

#[test]
fn sessions_without_a_connection_are_listed() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let _cookie = Login::new().cookie(bed)?;
        let sessions = server.occtl_text(&["show", "sessions", "valid"])?;
        let row = sessions
            .lines()
            .find(|line| line.contains(USER))
            .context("no session")?;
        assert!(row.ends_with("authenticated"), "{sessions}");
        let name = row.split_whitespace().next().context("no name")?;
        let session = server.occtl_text(&["show", "session", name])?;
        assert_eq!(field(&session, "Username"), Some(USER), "{session}");
        assert_eq!(field(&session, "In use"), Some("False"), "{session}");
        Ok(())
    });
}

#[test]
fn unknown_commands_and_a_missing_server_give_status_1() {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let output = server.occtl(&["foo"])?;
        assert_eq!(output.status.code(), Some(1));
        assert!(process::text(&output).contains("unknown command: foo"));
        server.terminate(wait::LONG)?;
        let output = server.occtl(&["show", "users"])?;
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(process::text(&output).contains("error connecting to ocserv socket"));
        Ok(())
    });
}

#[test]
fn show_events_tells_of_logins_and_logouts() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut events = server.watch_events()?;
        let mut client = Login::new().connect(bed)?;
        events.wait_for(&format!("connected user '{USER}' ("))?;
        events.wait_for(&format!("with IP {}", client.address4()?))?;
        client.log_out()?;
        events.wait_for(&format!("disconnect user '{USER}' ("))?;
        events.wait_for("(reason: user disconnected")
    });
}

#[test]
fn the_interactive_mode_runs_commands_until_its_input_ends() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let said = server.occtl_typing("show status\nexit\n")?;
        assert!(said.contains("Status: online"), "{said}");
        let said = server.occtl_typing("show status\n")?;
        assert!(said.contains("Status: online"), "{said}");
        Ok(())
    });
}
