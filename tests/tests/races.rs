//! What happens when things come at once: two tunnels of one session, two reloads, a client that
//! leaves while its script runs.

use anyhow::Result;
use ocserv_tests::bed::{OTHER_PASSWORD, OTHER_USER};
use ocserv_tests::{
    Bed, Config, Login, Role, Server, scenario, scenario_with_clients, traffic, wait,
};

/// A connect script that takes two seconds, and a disconnect script; both leave a trace.
fn slow_scripts(bed: &Bed) -> Result<Config> {
    let directory = bed.directory().display();
    let connect = bed.write_script("slow", &format!("echo up >> {directory}/trace\nsleep 2"))?;
    let disconnect = bed.write_script("end", &format!("echo down >> {directory}/trace"))?;
    Ok(Config::new(bed)
        .set("connect-script", &connect.display().to_string())
        .set("disconnect-script", &disconnect.display().to_string()))
}

fn trace(bed: &Bed) -> String {
    std::fs::read_to_string(bed.directory().join("trace")).unwrap_or_default()
}

#[test]
fn a_second_connect_during_the_first_keeps_the_address_its_own() {
    scenario_with_clients(2, |bed| {
        // A pool of two clients, and cookies that do not live long.
        let config = slow_scripts(bed)?
            .set("ipv4-network", "10.30.0.0/30")
            .set("cookie-timeout", "1")
            .set("predictable-ips", "false");
        let server = Server::start(bed, &config)?;
        let cookie = Login::new().cookie(bed)?;
        let first = Login::with_cookie(&cookie).start(bed)?;
        wait::until_true("the first script runs", wait::SHORT, || {
            trace(bed).contains("up")
        })?;
        let second = Login::with_cookie(&cookie).from_site(1).connect(bed)?;
        drop(first);
        // Past the life of the cookie: an address that was only held would be free now.
        std::thread::sleep(std::time::Duration::from_secs(18));
        let other = Login::as_user(OTHER_USER, OTHER_PASSWORD).start(bed)?;
        server.wait_log("no address for this session")?;
        drop(other);
        traffic::ping_all_ways(bed, &second)
    });
}

#[test]
fn a_client_that_leaves_while_its_script_runs_is_disconnected_properly() {
    scenario(|bed| {
        let server = Server::start(bed, &slow_scripts(bed)?)?;
        let client = Login::new().start(bed)?;
        wait::until_true("the script runs", wait::SHORT, || trace(bed).contains("up"))?;
        client.signal(nix::sys::signal::Signal::SIGKILL);
        drop(client);
        for gate in server.pids(Role::Gate)? {
            ocserv_tests::process::signal(gate, nix::sys::signal::Signal::SIGKILL);
        }
        wait::until_true("the disconnect script ran", wait::SHORT, || {
            trace(bed).contains("down")
        })?;
        assert_eq!(trace(bed).matches("down").count(), 1);
        Ok(())
    });
}

#[test]
fn reloads_with_a_bad_key_in_quick_succession_keep_the_server() {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        let good = std::fs::read_to_string(bed.directory().join("server.key"))?;
        bed.write_file("server.key", "no key\n")?;
        for _ in 0..3 {
            server.reload(&Config::new(bed).render())?;
        }
        server.wait_log("the configuration in force is kept")?;
        traffic::ping_all_ways(bed, &client)?;
        drop(client);
        // The old key still serves.
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping_all_ways(bed, &client)?;
        bed.write_file("server.key", &good)?;
        server.reload(&Config::new(bed).render())?;
        server.wait_log("configuration reloaded")?;
        assert!(server.is_running());
        Ok(())
    });
}

#[test]
fn a_key_that_is_bad_when_secmod_dies_ends_no_tunnel() {
    scenario(|bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        let good = std::fs::read_to_string(bed.directory().join("server.key"))?;
        bed.write_file("server.key", "no key\n")?;
        for secmod in server.pids(Role::Secmod)? {
            ocserv_tests::process::signal(secmod, nix::sys::signal::Signal::SIGKILL);
        }
        server.wait_log("nobody can log in")?;
        traffic::ping_all_ways(bed, &client)?;
        bed.write_file("server.key", &good)?;
        drop(client);
        wait::until(
            "a login works again",
            std::time::Duration::from_secs(30),
            || {
                Login::new()
                    .try_cookie(bed)
                    .ok()?
                    .status
                    .success()
                    .then_some(())
            },
        )?;
        assert!(server.is_running());
        Ok(())
    });
}
