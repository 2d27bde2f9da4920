//! Keys, versions and names of the TLS server.

use ocserv_tests::bed::HOST;
use ocserv_tests::pki::KeyKind;
use ocserv_tests::{Config, Login, Server, process, scenario, tls, traffic};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Logs in, with DTLS, to a server that has a key of this kind.
fn serves_with(kind: KeyKind) {
    scenario(|bed| {
        bed.issue_certificate("server", HOST, kind, None)?;
        let _server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        for version in ["-tls1_2", "-tls1_3"] {
            let answer = tls::exchange(bed, HOST, &[version], GET)?;
            assert!(
                answer.status_line().contains("200"),
                "{version}: {}",
                answer.text
            );
        }
        Ok(())
    });
}

#[test]
fn an_rsa_key_serves() {
    serves_with(KeyKind::Rsa);
}

#[test]
fn an_rsa_pss_key_serves() {
    serves_with(KeyKind::RsaPss);
}

#[test]
fn a_p256_key_serves() {
    serves_with(KeyKind::P256);
}

#[test]
fn a_p384_key_serves() {
    serves_with(KeyKind::P384);
}

#[test]
fn a_p521_key_serves() {
    serves_with(KeyKind::P521);
}

#[test]
fn an_ed25519_key_serves() {
    serves_with(KeyKind::Ed25519);
}

#[test]
fn an_encrypted_key_without_pin_ends_the_start() {
    scenario(|bed| {
        bed.issue_certificate("server", HOST, KeyKind::P256, Some("123456"))?;
        assert!(Server::start(bed, &Config::new(bed)).is_err());
        Ok(())
    });
}

#[test]
fn an_encrypted_key_serves_with_its_pin() {
    scenario(|bed| {
        bed.issue_certificate("server", HOST, KeyKind::P256, Some("123456"))?;
        let server = Server::start(bed, &Config::new(bed).set("key-pin", "123456"))?;
        Login::new().cookie(bed)?;
        drop(server);
        let pin = bed.write_file("pin", "123456\n")?.display().to_string();
        let _server = Server::start(bed, &Config::new(bed).set("pin-file", &pin))?;
        Login::new().cookie(bed)?;
        Ok(())
    });
}

#[test]
fn two_keys_for_one_name_serve_both_kinds_of_clients() {
    scenario(|bed| {
        bed.issue_certificate("rsa", HOST, KeyKind::Rsa, None)?;
        let file = |name: &str| bed.directory().join(name).display().to_string();
        let config = Config::new(bed)
            .add("server-cert", &file("rsa.pem"))
            .add("server-key", &file("rsa.key"));
        let _server = Server::start(bed, &config)?;
        for (cipher, kind) in [
            ("ECDHE-RSA-AES256-GCM-SHA384", "RSA"),
            ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDSA"),
        ] {
            let options = ["-tls1_2", "-cipher", cipher];
            let answer = tls::exchange(bed, HOST, &options, GET)?;
            assert!(answer.succeeded, "{kind}: {}", answer.text);
            assert!(
                answer.text.contains(&format!("Cipher is {cipher}")),
                "{}",
                answer.text
            );
        }
        Ok(())
    });
}

/// A server for which `tls-priorities` allows one version only.
fn serves_only(version: &str, allowed: &str, refused: &str) {
    scenario(|bed| {
        let priorities = format!("\"NORMAL:-VERS-ALL:+{version}:+VERS-DTLS1.2\"");
        let _server = Server::start(bed, &Config::new(bed).set("tls-priorities", &priorities))?;
        let answer = tls::exchange(bed, HOST, &[allowed], GET)?;
        assert!(answer.status_line().contains("200"), "{}", answer.text);
        let answer = tls::exchange(bed, HOST, &[refused], GET)?;
        assert!(
            !answer.succeeded && answer.status_line().is_empty(),
            "{}",
            answer.text
        );
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn tls_priorities_can_leave_tls_1_2_only() {
    serves_only("VERS-TLS1.2", "-tls1_2", "-tls1_3");
}

#[test]
fn tls_priorities_can_leave_tls_1_3_only() {
    serves_only("VERS-TLS1.3", "-tls1_3", "-tls1_2");
}

#[test]
fn the_server_name_selects_the_virtual_host() {
    const SECOND: &str = "second.example.test";
    scenario(|bed| {
        bed.issue_certificate("second", SECOND, KeyKind::Rsa, None)?;
        let file = |name: &str| bed.directory().join(name).display().to_string();
        bed.add_user("carol", "carols secret", "staff")?;
        std::fs::rename(file("passwd"), file("second.passwd"))?;
        bed.add_user("alice", "correct horse", "staff")?;
        let lines = [
            (
                "auth",
                format!("\"plain[passwd={}]\"", file("second.passwd")),
            ),
            ("server-cert", file("second.pem")),
            ("server-key", file("second.key")),
            ("ipv4-network", "10.31.0.0/24".to_owned()),
            ("dns", "10.20.0.77".to_owned()),
            ("route", "10.20.0.0/24".to_owned()),
            ("cookie-timeout", "60".to_owned()),
        ];
        let lines: Vec<_> = lines
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        let config = Config::new(bed).section(&format!("vhost:{SECOND}"), &lines);
        let server = Server::start(bed, &config)?;

        let carol = Login::as_user("carol", "carols secret");
        let client = carol.clone().to_host(SECOND).connect_dtls(bed)?;
        assert!(client.address4()?.starts_with("10.31.0."));
        assert!(client.pushed("INTERNAL_IP4_DNS")?.ends_with("10.20.0.77"));
        traffic::ping(client.namespace(), ocserv_tests::bed::LAN4)?;
        let users = server.occtl_text(&["show", "users"])?;
        assert!(users.contains(SECOND), "{users}");
        drop(client);

        let client = Login::new().connect(bed)?;
        assert!(client.address4()?.starts_with("10.30.0."));
        // Each host has its own users.
        assert!(
            !carol
                .typing(&["carols secret"; 3])
                .try_cookie(bed)?
                .status
                .success()
        );
        Ok(())
    });
}

#[test]
fn tls_sessions_are_resumed() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let session = bed.directory().join("session.pem").display().to_string();
        for version in ["-tls1_2", "-tls1_3"] {
            let first = tls::exchange(bed, HOST, &[version, "-sess_out", &session], GET)?;
            assert!(first.text.contains("New, TLS"), "{}", first.text);
            let second = tls::exchange(bed, HOST, &[version, "-sess_in", &session], GET)?;
            assert!(
                second.text.contains("Reused, TLS"),
                "{version}: {}",
                second.text
            );
        }
        Ok(())
    });
}

#[test]
fn the_staple_of_ocsp_response_is_sent() {
    scenario(|bed| {
        let file = |name: &str| bed.directory().join(name).display().to_string();
        let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
        let (certificate, response) = (file("server.pem"), file("ocsp.der"));
        let serial = process::run(
            "openssl",
            &["x509", "-noout", "-serial", "-in", &certificate],
        )?;
        let serial = serial.trim().trim_start_matches("serial=").to_owned();
        let index = format!("V\t391231235959Z\t\t{serial}\tunknown\t/CN={HOST}\n");
        let index = bed.write_file("index.txt", &index)?.display().to_string();
        let request = file("ocsp.req");
        let ask = [
            "ocsp",
            "-issuer",
            &ca,
            "-cert",
            &certificate,
            "-reqout",
            &request,
            "-no_nonce",
        ];
        process::run("openssl", &ask)?;
        process::run(
            "openssl",
            &[
                "ocsp", "-index", &index, "-CA", &ca, "-rsigner", &ca, "-rkey", &ca_key, "-reqin",
                &request, "-respout", &response, "-ndays", "1",
            ],
        )?;
        let _server = Server::start(bed, &Config::new(bed).set("ocsp-response", &response))?;
        let answer = tls::exchange(bed, HOST, &["-status"], GET)?;
        assert!(
            answer.text.contains("OCSP Response Status: successful"),
            "{}",
            answer.text
        );
        assert!(answer.text.contains("Cert Status: good"), "{}", answer.text);
        Ok(())
    });
}
