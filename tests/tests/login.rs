//! Passwords, groups, forms and cookies.

use std::process::Output;

use anyhow::Result;
use nix::sys::signal::Signal;
use ocserv_tests::bed::{OTHER_PASSWORD, OTHER_USER, PASSWORD, USER};
use ocserv_tests::{Bed, Config, Login, Server, process, scenario, tls, traffic};

const COOKIE_REFUSED: &str = "HTTP/1.1 401 Cookie is not acceptable";

fn with_groups(bed: &Bed) -> Config {
    Config::new(bed)
        .add("select-group", "staff")
        .add("select-group", "guests[The guests]")
}

fn assert_refused(output: &Output) {
    assert!(
        !output.status.success(),
        "must be refused: {}",
        process::text(output)
    );
}

#[test]
fn a_wrong_password_may_be_followed_by_the_right_one() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        Login::new().typing(&["wrong", PASSWORD]).cookie(bed)?;
        Ok(())
    });
}

#[test]
fn the_third_wrong_password_ends_the_login() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let output = Login::new()
            .typing(&["a", "b", "c", PASSWORD])
            .try_cookie(bed)?;
        assert_refused(&output);
        let said = process::text(&output);
        assert!(said.contains("Login failed."), "{said}");
        assert!(said.contains("401"), "{said}");
        Ok(())
    });
}

#[test]
fn an_unknown_user_sees_what_a_wrong_password_shows() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let answers = |user: &str| -> Result<Vec<String>> {
            let login = Login::as_user(user, "").typing(&["a", "b", "c"]);
            let output = login.try_cookie(bed)?;
            assert_refused(&output);
            let is_answer = |line: &&str| line.contains("HTTP") || line.contains("failed");
            Ok(process::text(&output)
                .lines()
                .filter(is_answer)
                .map(str::to_owned)
                .collect())
        };
        let known = answers(USER)?;
        assert!(!known.is_empty());
        assert_eq!(known, answers("nobody-has-this-name")?);
        Ok(())
    });
}

#[test]
fn a_locked_user_is_refused_until_unlocked() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let file = bed.directory().join("passwd").display().to_string();
        let program = bed.program().ocpasswd.display().to_string();
        process::run(&program, &["-c", &file, "-l", USER])?;
        assert_refused(&Login::new().typing(&[PASSWORD; 3]).try_cookie(bed)?);
        process::run(&program, &["-c", &file, "-u", USER])?;
        Login::new().cookie(bed)?;
        Ok(())
    });
}

#[test]
fn the_chosen_group_becomes_the_group_of_the_session() {
    scenario(|bed| {
        let server = Server::start(bed, &with_groups(bed))?;
        let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).argument("--authgroup=The guests");
        let client = login.connect(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        let user = server.occtl_text(&["show", "user", OTHER_USER])?;
        assert!(user.contains("Groupname: guests"), "{user}");
        Ok(())
    });
}

#[test]
fn a_group_that_the_user_is_not_in_is_refused() {
    scenario(|bed| {
        let _server = Server::start(bed, &with_groups(bed))?;
        let login = Login::new()
            .typing(&[PASSWORD; 3])
            .argument("--authgroup=The guests");
        assert_refused(&login.try_cookie(bed)?);
        Login::new().argument("--authgroup=staff").cookie(bed)?;
        Ok(())
    });
}

#[test]
fn the_group_may_stand_in_the_url() {
    scenario(|bed| {
        let config = with_groups(bed).set("select-group-by-url", "true");
        let server = Server::start(bed, &config)?;
        let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).to_path("/guests");
        let _client = login.connect(bed)?;
        let user = server.occtl_text(&["show", "user", OTHER_USER])?;
        assert!(user.contains("Groupname: guests"), "{user}");
        Ok(())
    });
}

#[test]
fn clients_without_xml_log_in_by_form() {
    scenario(|bed| {
        let _server = Server::start(bed, &with_groups(bed))?;
        let login = Login::new()
            .argument("--no-xmlpost")
            .argument("--authgroup=staff");
        let client = login.connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn login_and_tunnel_may_be_two_programs() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let cookie = Login::new().cookie(bed)?;
        let client = Login::with_cookie(&cookie).connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn the_cookie_dies_with_the_logout() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let cookie = Login::new().cookie(bed)?;
        let mut client = Login::with_cookie(&cookie).connect(bed)?;
        client.log_out()?;
        server.wait_log("user disconnected (reason: user disconnected")?;
        let answer = tls::request(bed, &tls::connect_request(&cookie))?;
        assert_eq!(answer.status_line(), COOKIE_REFUSED, "{}", answer.text);
        Ok(())
    });
}

#[test]
fn persistent_cookies_outlive_the_logout() {
    scenario(|bed| {
        let config = Config::new(bed).set("persistent-cookies", "true");
        let server = Server::start(bed, &config)?;
        let cookie = Login::new().cookie(bed)?;
        let mut client = Login::with_cookie(&cookie).connect(bed)?;
        client.log_out()?;
        server.wait_log("user disconnected (reason: user disconnected")?;
        let client = Login::with_cookie(&cookie).connect(bed)?;
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn a_detached_client_comes_back_with_cookie_and_address() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let cookie = Login::new().cookie(bed)?;
        let mut client = Login::with_cookie(&cookie).connect(bed)?;
        let address = client.address4()?;
        client.signal(Signal::SIGHUP);
        client.wait_exit(ocserv_tests::wait::SHORT)?;
        server.wait_log("user disconnected")?;
        let client = Login::with_cookie(&cookie).connect(bed)?;
        assert_eq!(client.address4()?, address);
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn deny_roaming_refuses_the_cookie_from_another_address() {
    ocserv_tests::scenario_with_clients(2, |bed| {
        let config = Config::new(bed).set("deny-roaming", "true");
        let _server = Server::start(bed, &config)?;
        let cookie = Login::new().cookie(bed)?;
        let mut thief = Login::with_cookie(&cookie).from_site(1).start(bed)?;
        let status = thief.wait_exit(ocserv_tests::wait::SHORT)?;
        assert!(!status.success());
        assert!(thief.log().contains("401"), "{}", thief.log());
        Login::with_cookie(&cookie).connect(bed)?;
        Ok(())
    });
}

#[test]
fn a_tunnel_without_a_valid_cookie_is_refused() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let without = "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = tls::request(bed, without)?;
        assert_eq!(
            answer.status_line(),
            "HTTP/1.1 503 Service Unavailable",
            "{}",
            answer.text
        );
        let invented = "A".repeat(43) + "=";
        let answer = tls::request(bed, &tls::connect_request(&invented))?;
        assert_eq!(answer.status_line(), COOKIE_REFUSED, "{}", answer.text);
        Ok(())
    });
}
