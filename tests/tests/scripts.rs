//! The administrator's scripts.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ocserv_tests::bed::{GATEWAY4, OTHER_PASSWORD, OTHER_USER, Site, USER};
use ocserv_tests::{Bed, Config, Login, Server, scenario, scenario_with_clients, traffic, wait};

/// A script that records its environment in `NAME.REASON`, then runs `more`.
fn recorder(bed: &Bed, name: &str, more: &str) -> Result<PathBuf> {
    let target = bed.directory().join(name).display().to_string();
    let body = format!("env >{target}.tmp.$$\nmv {target}.tmp.$$ {target}.$REASON\n{more}");
    bed.write_script(&format!("{name}.sh"), &body)
}

fn recorded(bed: &Bed, file: &str) -> Result<HashMap<String, String>> {
    let path = bed.directory().join(file);
    let text = wait::until(&format!("{file} by the script"), wait::SHORT, || {
        std::fs::read_to_string(&path).ok()
    })?;
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

#[test]
fn connect_and_disconnect_scripts_know_the_session() {
    scenario(|bed| {
        let script = recorder(bed, "script", "")?.display().to_string();
        let config = Config::new(bed)
            .set("connect-script", &script)
            .set("disconnect-script", &script)
            .add("no-route", "10.20.0.128/25");
        let _server = Server::start(bed, &config)?;
        let mut client = Login::new()
            .argument("--local-hostname=laptop")
            .connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        let connect = recorded(bed, "script.connect")?;
        let (address4, address6) = (client.address4()?, client.address6()?);
        let expected = [
            ("USERNAME", USER),
            ("GROUPNAME", "staff"),
            ("VHOST", "default"),
            ("IP_REAL", &Site::new(0).address4()),
            ("IP_REAL_LOCAL", GATEWAY4),
            ("IP_LOCAL", "10.30.0.1"),
            ("IP_REMOTE", &address4),
            ("IPV6_REMOTE", &address6),
            ("IPV6_PREFIX", "128"),
            ("REMOTE_HOSTNAME", "laptop"),
            ("OCSERV_ROUTES4", "10.20.0.0/255.255.255.0 "),
            ("OCSERV_ROUTES6", "fd20::/64 "),
            ("OCSERV_NO_ROUTES", "10.20.0.128/255.255.255.128 "),
            ("OCSERV_DNS", "10.20.0.2 "),
        ];
        for (name, value) in expected {
            assert_eq!(
                connect.get(name).map(String::as_str),
                Some(value),
                "{name}: {connect:#?}"
            );
        }
        assert!(
            connect
                .get("DEVICE")
                .is_some_and(|device| device.starts_with("vpns"))
        );
        let agent = connect.get("USER_AGENT").context("USER_AGENT")?;
        assert!(agent.starts_with("Open AnyConnect VPN Agent"), "{agent}");
        assert!(
            connect
                .get("ID")
                .is_some_and(|id| id.parse::<u32>().is_ok())
        );

        client.log_out()?;
        let disconnect = recorded(bed, "script.disconnect")?;
        for name in ["USERNAME", "IP_REMOTE", "ID", "DEVICE"] {
            assert_eq!(disconnect.get(name), connect.get(name), "{name}");
        }
        for name in ["STATS_BYTES_IN", "STATS_BYTES_OUT"] {
            let bytes = disconnect.get(name).context(name)?.parse::<u64>()?;
            assert!(bytes > 0, "{name}: {disconnect:#?}");
        }
        disconnect
            .get("STATS_DURATION")
            .context("STATS_DURATION")?
            .parse::<u64>()?;
        Ok(())
    });
}

#[test]
fn a_connect_script_that_fails_refuses_the_session() {
    scenario(|bed| {
        let connect = recorder(bed, "connect", "exit 1")?.display().to_string();
        let disconnect = recorder(bed, "disconnect", "")?.display().to_string();
        let config = Config::new(bed)
            .set("connect-script", &connect)
            .set("disconnect-script", &disconnect);
        let mut server = Server::start(bed, &config)?;
        let mut client = Login::new().start(bed)?;
        assert!(!client.wait_exit(wait::SHORT)?.success());
        assert!(client.log().contains("401"), "{}", client.log());
        recorded(bed, "connect.connect")?;
        // What was never connected is not disconnected.
        assert!(!bed.directory().join("disconnect.disconnect").exists());
        assert_eq!(
            server.occtl_text(&["show", "users"])?.matches(USER).count(),
            0
        );
        assert!(server.is_running());
        Ok(())
    });
}

#[test]
fn a_script_that_hangs_holds_up_its_own_login_only() {
    scenario_with_clients(2, |bed| {
        let script = recorder(bed, "script", "[ \"$USERNAME\" != bob ] || exec sleep 300")?;
        let config = Config::new(bed).set("connect-script", &script.display().to_string());
        let _server = Server::start(bed, &config)?;
        let bob = Login::as_user(OTHER_USER, OTHER_PASSWORD)
            .from_site(1)
            .start(bed)?;
        recorded(bed, "script.connect")?;
        let alice = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &alice)?;
        assert!(bob.script_environment("connect").is_err());
        Ok(())
    });
}

#[test]
fn the_host_update_script_learns_the_clients_name() {
    scenario(|bed| {
        let script = recorder(bed, "script", "")?.display().to_string();
        let config = Config::new(bed).set("host-update-script", &script);
        let _server = Server::start(bed, &config)?;
        let _client = Login::new()
            .argument("--local-hostname=laptop")
            .connect(bed)?;
        let update = recorded(bed, "script.host-update")?;
        assert_eq!(
            update.get("REMOTE_HOSTNAME").map(String::as_str),
            Some("laptop")
        );
        Ok(())
    });
}

#[test]
fn a_host_name_that_is_none_reaches_no_script() {
    scenario(|bed| {
        let script = recorder(bed, "script", "")?.display().to_string();
        let config = Config::new(bed).set("connect-script", &script);
        let _server = Server::start(bed, &config)?;
        let _client = Login::new()
            .argument("--local-hostname=a;touch b")
            .connect(bed)?;
        let connect = recorded(bed, "script.connect")?;
        for name in ["HOSTNAME", "REMOTE_HOSTNAME"] {
            let value = connect.get(name).map(String::as_str).unwrap_or_default();
            assert!(!value.contains(';'), "{name}={value}");
        }
        Ok(())
    });
}
