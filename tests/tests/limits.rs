//! Bans, numbers of clients, and requests that nobody should send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use ocserv_tests::bed::{GATEWAY4, OTHER_PASSWORD, OTHER_USER, PASSWORD, PORT, Site};
use ocserv_tests::server::Role;
use ocserv_tests::{Bed, Config, Login, Server, scenario, scenario_with_clients, tls, wait};

fn banning(bed: &Bed, seconds: &str) -> Config {
    Config::new(bed)
        .set("max-ban-score", "20")
        .set("ban-points-wrong-password", "10")
        .set("ban-points-connection", "0")
        .set("min-reauth-time", seconds)
}

fn earn_a_ban(bed: &Bed, server: &Server) -> Result<()> {
    let output = Login::new().typing(&["a", "b", "c"]).try_cookie(bed)?;
    assert!(!output.status.success());
    server.wait_log(&format!(
        "added IP '{}' (with score ",
        Site::new(0).address4()
    ))
}

#[test]
fn wrong_passwords_ban_the_address_and_no_other_for_a_time() {
    scenario_with_clients(2, |bed| {
        let server = Server::start(bed, &banning(bed, "4"))?;
        earn_a_ban(bed, &server)?;
        assert!(
            !Login::new().try_cookie(bed)?.status.success(),
            "banned, yet served"
        );
        Login::as_user(OTHER_USER, OTHER_PASSWORD)
            .from_site(1)
            .cookie(bed)?;
        wait::until_true("the end of the ban", wait::LONG, || {
            Login::new()
                .try_cookie(bed)
                .is_ok_and(|output| output.status.success())
        })
    });
}

#[test]
fn occtl_shows_bans_and_lifts_them() {
    scenario(|bed| {
        let server = Server::start(bed, &banning(bed, "300"))?;
        earn_a_ban(bed, &server)?;
        let address = Site::new(0).address4();
        let bans = server.occtl_text(&["show", "ip", "bans"])?;
        assert!(bans.contains(&address), "{bans}");
        let points = server.occtl_text(&["show", "ip", "ban", "points"])?;
        assert!(points.contains(&address), "{points}");
        let said = server.occtl_text(&["unban", "ip", &address])?;
        assert!(
            said.contains(&format!("IP '{address}' was unbanned")),
            "{said}"
        );
        Login::new().cookie(bed)?;
        Ok(())
    });
}

#[test]
fn max_same_clients_refuses_the_second_session_of_a_user() {
    scenario_with_clients(2, |bed| {
        let config = Config::new(bed).set("max-same-clients", "1");
        let _server = Server::start(bed, &config)?;
        let mut first = Login::new().connect(bed)?;
        let mut second = Login::new().from_site(1).start(bed)?;
        assert!(!second.wait_exit(wait::SHORT)?.success());
        // Another user is served, and so is the first after a logout.
        Login::as_user(OTHER_USER, OTHER_PASSWORD)
            .from_site(1)
            .connect(bed)?;
        first.log_out()?;
        wait::until_true("a free place", wait::SHORT, || {
            Login::new().connect(bed).is_ok()
        })
    });
}

#[test]
fn silent_connections_end_with_the_auth_timeout() {
    scenario(|bed| {
        let config = Config::new(bed).set("auth-timeout", "2");
        let _server = Server::start(bed, &config)?;
        let mut stream = bed
            .client(0)
            .run(|| TcpStream::connect((GATEWAY4, PORT)))??;
        stream.set_read_timeout(Some(wait::LONG))?;
        // The end of the stream or a reset, but no timeout of ours.
        let outcome = stream.read(&mut [0]);
        let ended = outcome.as_ref().map_or_else(
            |error| error.kind() == std::io::ErrorKind::ConnectionReset,
            |length| *length == 0,
        );
        assert!(ended, "{outcome:?}");
        Ok(())
    });
}

#[test]
fn bytes_that_are_no_tls_hurt_nobody() {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        for garbage in [
            &b"GET / HTTP/1.0\r\n\r\n"[..],
            &[0xff; 4096],
            &[0x16, 3, 1, 0xff, 0xff],
        ] {
            let mut stream = bed
                .client(0)
                .run(|| TcpStream::connect((GATEWAY4, PORT)))??;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            // The server may close at any moment; what matters comes below.
            let _ = stream.write_all(garbage);
            let _ = stream.read(&mut [0; 512]);
        }
        Login::new().cookie(bed)?;
        assert!(server.is_running());
        Ok(())
    });
}

/// Sends a request that must neither be served nor disturb the client that is connected.
fn refused_while_others_go_on(request: &str) {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect(bed)?;
        let answer = tls::request(bed, request)?;
        let status = answer.status_line();
        assert!(!status.contains(" 200 "), "{}", answer.text);
        ocserv_tests::traffic::ping_all_ways(bed, &client)?;
        assert!(server.is_running());
        Ok(())
    });
}

#[test]
fn an_oversized_webvpncontext_cookie_is_refused() {
    let cookie = "A".repeat(20_000);
    refused_while_others_go_on(&format!(
        "POST /auth HTTP/1.1\r\nHost: x\r\nCookie: webvpncontext={cookie}\r\n\
         Content-Length: 0\r\n\r\n"
    ));
}

#[test]
fn a_header_without_end_is_refused() {
    refused_while_others_go_on(&format!("GET / HTTP/1.1\r\nX-Long: {}", "x".repeat(70_000)));
}

#[test]
fn path_traversal_below_profiles_is_refused() {
    refused_while_others_go_on("GET /profiles/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n");
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    refused_while_others_go_on(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n<?xml version=\"1.0\"?>",
    );
}

#[test]
fn deeply_nested_xml_hurts_nobody() {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let body = "<?xml version=\"1.0\"?>".to_owned() + &"<a>".repeat(20_000);
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = tls::request(bed, &(head + &body))?;
        assert!(!answer.text.contains("id=\"success\""), "{}", answer.text);
        Login::new().cookie(bed)?;
        assert!(server.is_running());
        Ok(())
    });
}

#[test]
fn a_name_with_path_characters_reads_no_other_file() {
    scenario(|bed| {
        // If `..` were followed, this file would give the address.
        bed.write_file("evil", "explicit-ipv4 = 10.30.0.77\n")?;
        bed.write_file("users/placeholder", "")?;
        bed.add_user("../evil", PASSWORD, "staff")?;
        let users = bed.directory().join("users").display().to_string();
        let config = Config::new(bed).set("config-per-user", &users);
        let _server = Server::start(bed, &config)?;
        let mut client = Login::as_user("../evil", PASSWORD).start(bed)?;
        let connected = client.wait_connected().is_ok();
        assert!(!connected || client.address4()? != "10.30.0.77");
        Ok(())
    });
}

#[test]
fn pipelined_requests_are_not_served() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let one = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = tls::request(bed, &one.repeat(2))?;
        assert!(
            answer.text.matches("HTTP/1.1 200").count() <= 1,
            "{}",
            answer.text
        );
        Login::new().cookie(bed)?;
        Ok(())
    });
}

#[test]
fn gates_may_have_as_many_sockets_as_the_system_allows() {
    scenario(|bed| {
        // As a service manager or a shell starts it: 64 now, 4096 for who asks.
        let few = [
            "sh",
            "-c",
            "ulimit -Sn 64 && ulimit -Hn 4096 && exec \"$0\" \"$@\"",
        ];
        let server = Server::start_through(bed, &Config::new(bed), &few)?;
        for pid in server.wait_pids(Role::Gate)? {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
            let line = limits
                .lines()
                .find(|line| line.starts_with("Max open files"));
            let soft = line.and_then(|line| line.split_whitespace().nth(3));
            assert_eq!(soft, Some("4096"), "{limits}");
        }
        Ok(())
    });
}
