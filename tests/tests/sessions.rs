//! Logins over several connections, numbers of sessions, and what answers look like.

use anyhow::{Context, Result};
use ocserv_tests::bed::{HOST, OTHER_PASSWORD, OTHER_USER, PASSWORD, USER};
use ocserv_tests::tls::Exchange;
use ocserv_tests::{
    Bed, Config, Login, Server, scenario, scenario_with_clients, tls, traffic, wait,
};

/// Posts an XML login reply on a new connection, with the login's context if there is one.
fn post(bed: &Bed, context: Option<&str>, fields: &str) -> Result<Exchange> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" \
         type=\"auth-reply\"><version who=\"vpn\">v9.01</version><auth>{fields}</auth>\
         </config-auth>"
    );
    let cookie = context.map(|value| format!("Cookie: webvpncontext={value}\r\n"));
    let request = format!(
        "POST /auth HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: Open AnyConnect VPN Agent v9.01\r\n{}\
         X-Aggregate-Auth: 1\r\nX-Transcend-Version: 1\r\n\
         Content-Type: application/xml; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        cookie.unwrap_or_default(),
        body.len()
    );
    tls::request(bed, &request)
}

/// The value of a cookie that an answer sets.
fn set_cookie(answer: &Exchange, name: &str) -> Option<String> {
    let prefix = format!("Set-Cookie: {name}=");
    let values = answer
        .text
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix));
    let mut values = values.filter_map(|value| value.split(';').next());
    values.rfind(|value| !value.is_empty()).map(str::to_owned)
}

#[test]
fn each_step_of_a_login_may_come_over_its_own_connection() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let named = post(bed, None, &format!("<username>{USER}</username>"))?;
        let context = set_cookie(&named, "webvpncontext").context(named.text)?;
        let password = format!("<password>{PASSWORD}</password>");
        let done = post(bed, Some(&context), &password)?;
        let cookie = set_cookie(&done, "webvpn").context(done.text)?;
        let client = Login::with_cookie(&cookie).connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn an_invented_login_context_gives_no_cookie() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let context = "A".repeat(43) + "=";
        let answer = post(
            bed,
            Some(&context),
            &format!("<password>{PASSWORD}</password>"),
        )?;
        assert_eq!(set_cookie(&answer, "webvpn"), None, "{}", answer.text);
        Ok(())
    });
}

#[test]
fn text_from_the_configuration_is_escaped_in_the_login_form() {
    scenario(|bed| {
        let config = Config::new(bed).set("pre-login-banner", "\"Mind <this> & that\"");
        let _server = Server::start(bed, &config)?;
        // openconnect shows the banner only if the document is well-formed.
        let output = Login::new().try_cookie(bed)?;
        let said = ocserv_tests::process::text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("Mind <this> & that"), "{said}");
        Ok(())
    });
}

#[test]
fn included_http_headers_stand_in_answers_before_the_tunnel() {
    scenario(|bed| {
        let header = "Strict-Transport-Security: max-age=31536000 ; includeSubDomains";
        let config = Config::new(bed).add("included-http-headers", header);
        let _server = Server::start(bed, &config)?;
        let answer = tls::request(bed, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let value = answer.header("Strict-Transport-Security");
        assert_eq!(
            value,
            Some("max-age=31536000 ; includeSubDomains"),
            "{}",
            answer.text
        );
        Ok(())
    });
}

#[test]
fn the_connect_answer_has_what_clients_need() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("dpd", "33")
            .set("keepalive", "44")
            .set("custom-header", "\"X-Greeting: hello %{U}\"");
        let _server = Server::start(bed, &config)?;
        let cookie = Login::new().cookie(bed)?;
        let answer = tls::request(bed, &tls::connect_request(&cookie))?;
        assert_eq!(
            answer.status_line(),
            "HTTP/1.1 200 CONNECTED",
            "{}",
            answer.text
        );
        for (name, value) in [
            ("X-CSTP-Version", "1"),
            ("X-CSTP-DPD", "33"),
            ("X-CSTP-Keepalive", "44"),
            ("X-CSTP-Netmask", "255.255.255.0"),
            ("X-CSTP-DNS", "10.20.0.2"),
            ("X-CSTP-Split-Include", "10.20.0.0/255.255.255.0"),
            ("X-CSTP-Split-Include-IP6", "fd20::/64"),
            ("X-CSTP-Hostname", "laptop"),
            ("X-CSTP-Idle-Timeout", "none"),
            ("X-CSTP-Session-Timeout", "0"),
            ("X-CSTP-Disconnected-Timeout", "none"),
            ("X-CSTP-Keep", "true"),
            ("X-CSTP-TCP-Keepalive", "true"),
            ("X-CSTP-License", "accept"),
            ("X-CSTP-Smartcard-Removal-Disconnect", "true"),
            ("X-CSTP-Base-MTU", "1500"),
            ("X-Greeting", "hello alice"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}: {}", answer.text);
        }
        // Without an offer of DTLS there is none.
        assert_eq!(answer.header("X-DTLS-App-ID"), None);
        Ok(())
    });
}

#[test]
fn max_clients_refuses_one_more() {
    scenario_with_clients(2, |bed| {
        let _server = Server::start(bed, &Config::new(bed).set("max-clients", "1"))?;
        let mut first = Login::new().connect(bed)?;
        let other = Login::as_user(OTHER_USER, OTHER_PASSWORD).from_site(1);
        assert!(!other.try_cookie(bed)?.status.success());
        traffic::ping_all_ways(bed, &first)?;
        first.log_out()?;
        wait::until_true("a free place", wait::LONG, || {
            other
                .try_cookie(bed)
                .is_ok_and(|output| output.status.success())
        })
    });
}

#[test]
fn the_pool_runs_out_without_hurting_those_who_have_an_address() {
    scenario_with_clients(2, |bed| {
        // Network, broadcast, the server's own, and one for a client.
        let config = Config::new(bed)
            .set("ipv4-network", "10.30.0.0/30")
            .without("ipv6-network");
        let _server = Server::start(bed, &config)?;
        let first = Login::new().connect(bed)?;
        assert_eq!(first.address4()?, "10.30.0.2");
        let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).from_site(1);
        let mut second = login.argument("--reconnect-timeout=1").start(bed)?;
        assert!(!second.wait_exit(wait::LONG)?.success());
        traffic::ping(first.namespace(), ocserv_tests::bed::LAN4)
    });
}

#[test]
fn ping_leases_passes_over_an_address_that_answers() {
    scenario(|bed| {
        // With one address for clients the choice is forced.
        let config = Config::new(bed)
            .set("ipv4-network", "10.30.0.0/30")
            .set("ping-leases", "true")
            .without("ipv6-network");
        let _server = Server::start(bed, &config)?;
        bed.lan().ip("address add 10.30.0.2/32 dev eth0")?;
        bed.gateway().ip("route add 10.30.0.2/32 dev lan0")?;
        traffic::ping(bed.gateway(), "10.30.0.2")?;
        let mut client = Login::new().argument("--reconnect-timeout=1").start(bed)?;
        assert!(!client.wait_exit(wait::LONG)?.success(), "{}", client.log());
        Ok(())
    });
}

#[test]
fn a_client_without_ipv6_gets_ipv4_only() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().argument("--disable-ipv6").connect_dtls(bed)?;
        assert!(client.address6().is_err());
        traffic::ping(client.namespace(), ocserv_tests::bed::LAN4)
    });
}

#[test]
fn the_cookie_expires_without_a_connection() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed).set("cookie-timeout", "1"))?;
        let early = Login::new().cookie(bed)?;
        let late = Login::new().cookie(bed)?;
        let answer = tls::request(bed, &tls::connect_request(&early))?;
        assert!(answer.status_line().contains("200"), "{}", answer.text);
        // The timeout and the slack of 15 seconds; an earlier look would renew it.
        const EXPIRY: std::time::Duration = std::time::Duration::from_secs(18);
        wait::never("the test bed to vanish", EXPIRY, || {
            !bed.directory().exists()
        })?;
        let answer = tls::request(bed, &tls::connect_request(&late))?;
        assert!(answer.status_line().contains("401"), "{}", answer.text);
        Ok(())
    });
}
