//! Start, reload, end; and the death of single processes.

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use ocserv_tests::bed::{OTHER_PASSWORD, OTHER_USER, PASSWORD, PORT, Site, USER};
use ocserv_tests::client::CSTP_UP;
use ocserv_tests::namespace::Protocol;
use ocserv_tests::{
    Config, Login, Role, Server, process, scenario, scenario_with_clients, tls, traffic, wait,
};

#[test]
fn sigterm_disconnects_the_clients_and_leaves_nothing() {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        let status = server.terminate(wait::LONG)?;
        assert!(status.success(), "{status}");
        client.wait_exit(wait::SHORT)?;
        assert!(!client.log().contains("Dead Peer"), "{}", client.log());
        let left = server.leftovers()?;
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn occtl_stop_now_ends_the_server() {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let said = server.occtl_text(&["stop", "now"])?;
        assert!(said.contains("Server scheduled to stop"), "{said}");
        wait::until_true("the end of the server", wait::LONG, || !server.is_running())?;
        let left = server.leftovers()?;
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_bad_file_at_reload_keeps_the_old_configuration() {
    scenario(|bed| {
        let config = Config::new(bed);
        let mut server = Server::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        server.reload("this line is no setting\n")?;
        server.wait_log("reload")?;
        traffic::ping_all_ways(bed, &client)?;
        drop(client);
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        assert!(server.is_running());
        Ok(())
    });
}

#[test]
fn reload_applies_to_new_sessions_and_leaves_running_ones() {
    scenario_with_clients(2, |bed| {
        let config = Config::new(bed);
        let server = Server::start(bed, &config)?;
        let before = Login::new().connect_dtls(bed)?;
        server.reload(&config.set("dns", "10.20.0.99").render())?;
        wait::until_true("the new DNS server", wait::SHORT, || {
            let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).from_site(1);
            let dns = login
                .connect(bed)
                .and_then(|client| client.pushed("INTERNAL_IP4_DNS"));
            dns.is_ok_and(|dns| dns == "10.20.0.99")
        })?;
        assert_eq!(before.count(CSTP_UP), 1);
        traffic::ping_all_ways(bed, &before)
    });
}

#[test]
fn occtl_reload_is_sighup() {
    scenario(|bed| {
        let config = Config::new(bed);
        let server = Server::start(bed, &config)?;
        bed.write_file("ocserv.conf", &config.set("dns", "10.20.0.99").render())?;
        let said = server.occtl_text(&["reload"])?;
        assert!(said.contains("Server scheduled to reload"), "{said}");
        wait::until_true("the new DNS server", wait::SHORT, || {
            let dns = Login::new()
                .connect(bed)
                .and_then(|client| client.pushed("INTERNAL_IP4_DNS"));
            dns.is_ok_and(|dns| dns == "10.20.0.99")
        })
    });
}

#[test]
fn the_configuration_test_says_what_is_wrong() {
    scenario(|bed| {
        let good = Server::test_config(bed, &Config::new(bed))?;
        assert!(good.status.success(), "{}", process::text(&good));
        for (config, message) in [
            (Config::new(bed).without("socket-file"), "'socket-file'"),
            (Config::new(bed).set("route", "10.9.0.0/33"), "10.9.0.0/33"),
            (
                Config::new(bed).set("rekey-method", "foo"),
                "unknown rekey method 'foo'",
            ),
            (Config::new(bed).set("auth", "\"blah\""), "blah"),
            (
                Config::new(bed).set("run-as-user", "no-such-user"),
                "no-such-user",
            ),
        ] {
            let output = Server::test_config(bed, &config)?;
            let said = process::text(&output);
            assert_eq!(output.status.code(), Some(1), "{message}: {said}");
            assert!(said.contains(message), "{message}: {said}");
        }
        let unknown = Server::test_config(bed, &Config::new(bed).add("foo-x", "1"))?;
        assert!(unknown.status.success());
        let said = process::text(&unknown);
        assert!(said.contains("skipping unknown option 'foo-x'"), "{said}");
        Ok(())
    });
}

#[test]
fn daemon_mode_writes_the_pid_file_and_ends_by_it() {
    scenario(|bed| {
        let config = bed.write_file("ocserv.conf", &Config::new(bed).render())?;
        let pid_file = bed.directory().join("daemon.pid");
        let program = bed.program().ocserv.display().to_string();
        let arguments = [
            "-c",
            &config.display().to_string(),
            "-p",
            &pid_file.display().to_string(),
        ];
        bed.gateway().must(&program, &arguments)?;
        let pid: i32 = wait::until("the pid file", wait::SHORT, || {
            std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok()
        })?;
        wait::until_true("the daemon to listen", wait::SHORT, || {
            bed.gateway().is_bound(Protocol::Tcp, PORT).unwrap_or(false)
        })?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        process::signal(pid, Signal::SIGTERM);
        wait::until_true("the daemon's end", wait::LONG, || {
            bed.gateway().pids().is_ok_and(|pids| pids.is_empty())
        })
    });
}

#[test]
fn after_the_death_of_a_gate_clients_come_back_by_cookie() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect_dtls(bed)?;
        let address = client.address4()?;
        server.kill_and_wait_replaced(Role::Gate)?;
        client.wait_log_times(CSTP_UP, 2)?;
        traffic::ping_all_ways(bed, &client)?;
        assert_eq!(client.address4()?, address);
        let users = server.occtl_text(&["show", "users"])?;
        assert_eq!(users.matches(USER).count(), 1, "{users}");
        Ok(())
    });
}

#[test]
fn with_a_process_per_client_a_gates_death_is_its_clients_alone() {
    scenario_with_clients(2, |bed| {
        let config = Config::new(bed).set("sessions-per-gate", "1");
        let server = Server::start(bed, &config)?;
        let mut alice = Login::new().connect_dtls(bed)?;
        let bob = Login::as_user(OTHER_USER, OTHER_PASSWORD)
            .from_site(1)
            .connect_dtls(bed)?;
        // Not simply all gates that were there before bob: one may have waited for him.
        let of_alice = server.gates_of(&Site::new(0).address4())?;
        assert_eq!(of_alice.len(), 1, "{of_alice:?}");
        of_alice
            .into_iter()
            .for_each(|pid| process::signal(pid, Signal::SIGKILL));
        alice.wait_log_times(CSTP_UP, 2)?;
        traffic::ping_all_ways(bed, &alice)?;
        traffic::ping_all_ways(bed, &bob)?;
        assert_eq!(bob.count(CSTP_UP), 1, "{}", bob.log());
        Ok(())
    });
}

#[test]
fn tunnels_go_on_after_the_death_of_the_dataplane() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        for _ in 0..2 {
            server.kill_and_wait_replaced(Role::Dataplane)?;
            traffic::ping_all_ways(bed, &client)?;
            traffic::transfer_all_ways(bed, &client, 300_000)?;
        }
        assert_eq!(client.count(CSTP_UP), 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn dataplanes_that_die_at_once_are_replaced_with_pauses() {
    const SPAN: Duration = Duration::from_secs(3);
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        let replaced = || server.log().matches("it is replaced").count();
        // The first one has lived; after it there is one a second.
        wait::never("replacements without a pause", SPAN, || {
            for pid in server.pids(Role::Dataplane).unwrap_or_default() {
                process::signal(pid, Signal::SIGKILL);
            }
            replaced() > 5
        })?;
        assert!(replaced() > 0);
        traffic::ping_all_ways(bed, &client)?;
        assert_eq!(client.count(CSTP_UP), 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn tcp_only_tunnels_go_on_after_the_death_of_the_dataplane() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().argument("--no-dtls").connect(bed)?;
        server.kill_and_wait_replaced(Role::Dataplane)?;
        traffic::ping_all_ways(bed, &client)?;
        assert_eq!(client.count(CSTP_UP), 1, "{}", client.log());
        Ok(())
    });
}

#[test]
fn sessions_live_on_after_the_death_of_secmod() {
    scenario_with_clients(2, |bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect_dtls(bed)?;
        server.kill_and_wait_replaced(Role::Secmod)?;
        traffic::ping_all_ways(bed, &client)?;
        assert_eq!(client.count(CSTP_UP), 1, "{}", client.log());
        // New logins work, and the session that is open may reconnect.
        Login::as_user(OTHER_USER, OTHER_PASSWORD)
            .from_site(1)
            .connect(bed)?;
        client.signal(Signal::SIGUSR2);
        client.wait_log_times(CSTP_UP, 2)?;
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn logins_work_after_the_death_of_secmod() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        server.kill_and_wait_replaced(Role::Secmod)?;
        // The new process may still be reading the key: TLS waits for it.
        let answer = tls::request(bed, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        assert!(answer.status_line().contains("200"), "{}", answer.text);
        Login::as_user(USER, PASSWORD).cookie(bed)?;
        Ok(())
    });
}

#[test]
fn the_death_of_the_first_process_ends_all_others() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let _client = Login::new().connect_dtls(bed)?;
        process::signal(server.pid(), Signal::SIGKILL);
        const LIMIT: Duration = Duration::from_secs(15);
        wait::until_true("all processes to end", LIMIT, || {
            bed.gateway()
                .pids()
                .is_ok_and(|pids| !pids.into_iter().any(process::is_alive))
        })
        .with_context(|| "orphans without a supervisor")
    });
}
