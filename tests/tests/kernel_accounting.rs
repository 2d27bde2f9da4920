//! What is counted and timed of a session whose packets pass in the kernel.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use ocserv_tests::bed::{LAN4, LAN6, PORT};
use ocserv_tests::datapath::{self, Datapath, packets};
use ocserv_tests::{Client, Config, Login, Server, scenario, traffic, wait};

/// Bytes of one echo packet of `ping`.
const ECHO4: u64 = 84;
const ECHO6: u64 = 104;
/// Of all that [`datapath::pings`] sends in one direction.
const ECHOES: u64 = 20 * (ECHO4 + ECHO6);

/// Bytes from and to the one client, as `occtl` says.
fn bytes_of_user(server: &Server) -> Result<[u64; 2]> {
    let users = server.occtl_text(&["-j", "show", "users"])?;
    let figure = |name: &str| {
        let rest = users.split(&format!("\"{name}\":")).nth(1)?;
        let digits = rest.trim_start_matches([' ', '"']);
        digits
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    let both = figure("RX").zip(figure("TX"));
    let (rx, tx) = both.with_context(|| users.clone())?;
    Ok([rx, tx])
}

#[test]
fn occtl_counts_a_users_bytes_in_the_kernel() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let before = bytes_of_user(&server)?;
        let kernel_before = Datapath::of(&server)?;
        let added = datapath::packets_of_pings(&server, &client)?;
        ensure!(added.user_rx + added.user_tx == 0, "{added:?}");
        let after = bytes_of_user(&server)?;
        let kernel_after = Datapath::of(&server)?;
        for (direction, raw) in ["raw_kernel_rx", "raw_kernel_tx"].into_iter().enumerate() {
            let user = after[direction] - before[direction];
            let kernel = kernel_after.number(raw)? - kernel_before.number(raw)?;
            ensure!((ECHOES..2 * ECHOES).contains(&user), "{user}");
            ensure!(user == kernel, "{user} {kernel}");
        }
        Ok(())
    });
}

/// The environment that a script wrote into a file.
fn recorded(path: &std::path::Path) -> Result<HashMap<String, String>> {
    let text = wait::until("the script", wait::SHORT, || {
        std::fs::read_to_string(path).ok()
    })?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
}

#[test]
fn the_disconnect_script_is_told_of_bytes_in_the_kernel() {
    scenario(|bed| {
        let target = bed.directory().join("environment");
        let shown = target.display();
        let script = bed.write_script(
            "gone.sh",
            &format!("env >{shown}.new\nmv {shown}.new {shown}"),
        )?;
        let config = Config::new(bed).set("disconnect-script", &script.display().to_string());
        let server = datapath::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        datapath::pings(&client)?;
        let [rx, tx] = bytes_of_user(&server)?;
        let user = packets(&server)?;
        ensure!(user.user_rx < 5 && user.user_tx < 5, "{user:?}");
        client.log_out()?;
        let said = recorded(&target)?;
        for (name, bytes) in [("STATS_BYTES_IN", rx), ("STATS_BYTES_OUT", tx)] {
            let told: u64 = said.get(name).context(name)?.parse()?;
            ensure!(
                bytes >= 2 * ECHOES && told >= bytes,
                "{name}: {told}, {bytes}"
            );
        }
        Ok(())
    });
}

#[test]
fn figures_stay_when_a_session_ends() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let mut client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let before = packets(&server)?;
        client.log_out()?;
        wait::until_true("no session in the kernel", wait::SHORT, || {
            let now = Datapath::of(&server).and_then(|now| now.number("Sessions in kernel"));
            now.is_ok_and(|sessions| sessions == 0)
        })?;
        let after = packets(&server)?;
        ensure!(after.kernel_rx >= before.kernel_rx, "{before:?} {after:?}");
        ensure!(after.kernel_tx >= before.kernel_tx, "{before:?} {after:?}");
        // The next session has the record of the last one.
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let [rx, _] = bytes_of_user(&server)?;
        ensure!(rx < before.kernel_rx * ECHO4 + 2 * ECHOES, "{rx}");
        Ok(())
    });
}

/// Sends a small datagram to the lan now and then, while `condition` holds.
fn send_while(client: &Client, mut condition: impl FnMut() -> bool) -> Result<()> {
    let socket = client.namespace().run(|| UdpSocket::bind("0.0.0.0:0"))??;
    while condition() {
        socket.send_to(b"still here", (LAN4, PORT))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn data_in_the_kernel_keeps_a_session_from_being_idle_and_echoes_do_not() {
    const IDLE_SECONDS: &str = "2";
    const SPAN: Duration = Duration::from_secs(6);
    scenario(|bed| {
        let config = Config::new(bed)
            .set("idle-timeout", IDLE_SECONDS)
            .without("ipv6-network");
        let server = datapath::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        let before = packets(&server)?;
        let end = std::time::Instant::now() + SPAN;
        send_while(&client, || std::time::Instant::now() < end)?;
        ensure!(client.is_running(), "{}", client.log());
        let after = packets(&server)?;
        ensure!(
            after.kernel_rx - before.kernel_rx >= 20,
            "{before:?} {after:?}"
        );
        ensure!(after.user_rx <= before.user_rx, "{before:?} {after:?}");
        // Echoes alone.
        wait::until_true("the end of the session", 2 * wait::LONG, || {
            traffic::is_answered(client.namespace(), LAN4);
            !client.is_running()
        })?;
        server.wait_log("idle timeout")
    });
}

#[test]
fn a_silent_client_is_served_by_tls_and_then_ended() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("dpd", "2")
            .set("switch-to-tcp-timeout", "2");
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        bed.block_udp()?;
        wait::until_true("packets over TLS", wait::LONG, || {
            traffic::is_answered(client.namespace(), LAN4)
        })?;
        datapath::check_in_user_space(&server, &client)?;
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        client.signal(Signal::SIGSTOP);
        let ended = server.wait_log("user disconnected");
        client.signal(Signal::SIGCONT);
        ended
    });
}

#[test]
fn the_kernel_takes_over_when_udp_returns() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("dpd", "2")
            .set("switch-to-tcp-timeout", "2");
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        bed.block_udp()?;
        wait::until_true("packets over TLS", wait::LONG, || {
            traffic::is_answered(bed.lan(), &client.address4().unwrap_or_default())
        })?;
        bed.unblock_udp()?;
        client.signal(Signal::SIGUSR2);
        datapath::wait_in_kernel(&server, &client)?;
        traffic::ping(client.namespace(), LAN6)
    });
}

#[test]
fn dead_peer_detection_hears_records_in_the_kernel() {
    const SPAN: Duration = Duration::from_secs(8);
    scenario(|bed| {
        let config = Config::new(bed)
            .set("dpd", "2")
            .set("switch-to-tcp-timeout", "2");
        let server = datapath::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let before = packets(&server)?;
        let end = std::time::Instant::now() + SPAN;
        send_while(&client, || std::time::Instant::now() < end)?;
        ensure!(client.is_running(), "{}", client.log());
        let after = packets(&server)?;
        ensure!(after.kernel_rx - before.kernel_rx >= 30, "{after:?}");
        ensure!(after.user_rx == before.user_rx, "{before:?} {after:?}");
        datapath::wait_in_kernel(&server, &client)
    });
}
