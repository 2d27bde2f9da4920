//! Where the kernel path is not, or not for all: user space works as ever, and one line says why.

use anyhow::{Result, ensure};
use ocserv_tests::bed::LAN4;
use ocserv_tests::datapath::{self, Datapath, packets};
use ocserv_tests::{
    Bed, Config, Login, Server, datagrams, scenario, scenario_with_clients, traffic, wait,
};

/// Options of `setpriv` for a server that may not load programs.
const WITHOUT_BPF: [&str; 3] = ["setpriv", "--bounding-set", "-bpf,-sys_admin"];
const CHACHA20: &str = "CHACHA20-POLY1305";

/// The lines of the server's log with this text.
fn lines(server: &Server, text: &str) -> Vec<String> {
    let log = server.log();
    let found = log.lines().filter(|line| line.contains(text));
    found.map(str::to_owned).collect()
}

/// The server's one line about the kernel path must have this text.
fn check_one_line(server: &Server, text: &str) -> Result<()> {
    let lines = lines(server, "kernel path");
    ensure!(lines.len() == 1 && lines[0].contains(text), "{lines:#?}");
    Ok(())
}

/// Logs in and uses the tunnel, which must do without the kernel path.
fn works_in_user_space(bed: &Bed, server: &Server) -> Result<()> {
    let client = Login::new().connect_dtls(bed)?;
    datapath::check_in_user_space(server, &client)?;
    traffic::transfer_all_ways(bed, &client, 300_000)
}

/// Starts with a changed configuration, which must have no kernel path for this reason.
fn is_off(config: impl FnOnce(Config) -> Config, reason: &str) {
    scenario(|bed| {
        let server = datapath::start(bed, &config(Config::new(bed)))?;
        works_in_user_space(bed, &server)?;
        let now = Datapath::of(&server)?;
        ensure!(now.is_off_for(reason), "{now:?}");
        check_one_line(&server, reason)
    });
}

#[test]
fn it_can_be_switched_off() {
    is_off(|config| config.set("xdp", "off"), "xdp = off");
}

#[test]
fn without_rights_there_is_none() {
    scenario(|bed| {
        bed.complete_checksums()?;
        let server = Server::start_through(bed, &Config::new(bed), &WITHOUT_BPF)?;
        works_in_user_space(bed, &server)?;
        let now = Datapath::of(&server)?;
        ensure!(now.is_off_for("no right to load programs"), "{now:?}");
        check_one_line(&server, "no right to load programs")
    });
}

/// A device must have programs in that role and mode, or none.
fn has_device(server: &Server, name: &str, expected: Option<&str>) -> Result<()> {
    let now = Datapath::of(server)?;
    ensure!(now.device(name).as_deref() == expected, "{now:?}");
    Ok(())
}

/// Starts with a mode, which the client's device must have.
fn has_mode(configured: &str, mode: &str) {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("xdp", configured)
            .set("xdp-max-record", "1530");
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        has_device(&server, "wan0", Some(&format!("wan {mode}")))?;
        has_device(&server, "vpns0", Some("tun tc"))?;
        let said = lines(&server, &format!("programs on device wan0 ({mode})"));
        ensure!(said.len() == 1, "{said:?}");
        // The receiver joins segments, which takes a socket buffer that is whole.
        traffic::transfer_all_ways(bed, &client, 300_000)?;
        let [kernel, user] = [packets(&server)?.kernel_rx, packets(&server)?.user_rx];
        ensure!(kernel > 500 && user < 10, "{kernel} {user}");
        Ok(())
    });
}

#[test]
fn the_generic_mode_works() {
    has_mode("generic", "generic");
}

#[test]
fn the_native_mode_works() {
    has_mode("native", "native");
}

/// Starts with a mode and a client's device that is too wide for the native one.
fn with_wide_device(
    change: impl FnOnce(Config) -> Config,
    test: impl FnOnce(&Bed, &Server) -> Result<()>,
) {
    const WIDTH: &str = "9000";
    scenario(|bed| {
        bed.client(0).ip(&format!("link set eth0 mtu {WIDTH}"))?;
        bed.gateway().ip(&format!("link set wan0 mtu {WIDTH}"))?;
        let server = datapath::start(bed, &change(Config::new(bed)))?;
        test(bed, &server)
    });
}

#[test]
fn a_device_without_native_mode_gets_the_generic_one_for_the_direct_way() {
    let direct = |config: Config| {
        config
            .set("xdp", "auto")
            .set("xdp-forward", "direct")
            .set("xdp-lan-interface", "lan0")
    };
    with_wide_device(direct, |_, server| {
        has_device(server, "wan0", Some("wan generic"))?;
        has_device(server, "lan0", Some("lan generic"))
    });
}

#[test]
fn a_device_that_must_have_the_native_mode_and_has_not_gets_none() {
    with_wide_device(
        |config| config,
        |bed, server| {
            has_device(server, "wan0", None)?;
            let said = lines(server, "no programs on device wan0");
            ensure!(said.len() == 1, "{said:?}");
            let client = Login::new().connect_dtls(bed)?;
            let added = datapath::packets_of_pings(server, &client)?;
            ensure!(added.kernel_rx == 0 && added.user_rx >= 40, "{added:?}");
            traffic::transfer_all_ways(bed, &client, 300_000)
        },
    );
}

#[test]
fn only_named_devices_have_programs() {
    scenario_with_clients(2, |bed| {
        let config = Config::new(bed).set("xdp-interface", "wan0");
        let server = datapath::start(bed, &config)?;
        let alice = Login::new().connect_dtls(bed)?;
        let bob = Login::new().from_site(1).connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &alice)?;
        let now = Datapath::of(&server)?;
        ensure!(
            now.device("wan0").as_deref() == Some("wan native"),
            "{now:?}"
        );
        ensure!(now.device("wan1").is_none(), "{now:?}");
        ensure!(now.device("lan0").is_none(), "{now:?}");
        // What comes by the other device is opened in user space.
        let added = datapath::packets_of_pings(&server, &bob)?;
        ensure!(added.kernel_rx == 0 && added.user_rx >= 40, "{added:?}");
        traffic::transfer_all_ways(bed, &bob, 300_000)
    });
}

#[test]
fn a_device_that_appears_later_gets_programs() {
    scenario(|bed| {
        let config = Config::new(bed)
            .add("xdp-interface", "wan0")
            .add("xdp-interface", "later0");
        let server = datapath::start(bed, &config)?;
        let missing = lines(&server, "later0");
        let words = "no Ethernet device later0 that is up";
        ensure!(
            missing.len() == 1 && missing[0].contains(words),
            "{missing:?}"
        );
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        // Other devices come and go meanwhile.
        bed.gateway()
            .ip("link add other0 type veth peer name other1")?;
        bed.gateway().ip("link del other0")?;
        bed.gateway()
            .ip("link add later0 type veth peer name later1")?;
        bed.gateway().ip("link set later0 up")?;
        wait::until_true("programs on later0", wait::SHORT, || {
            Datapath::of(&server)
                .is_ok_and(|now| now.device("later0").as_deref() == Some("wan native"))
        })?;
        datapath::wait_in_kernel(&server, &client)?;
        let said = lines(&server, "later0");
        ensure!(said.len() == 2, "{said:?}");
        Ok(())
    });
}

#[test]
fn a_stock_client_agrees_on_the_cipher_that_the_kernel_path_has() {
    scenario(|bed| {
        let server = datapath::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &client)?;
        let users = server.occtl_text(&["-j", "show", "users"])?;
        let cipher = users.lines().find(|line| line.contains("DTLS cipher"));
        ensure!(
            cipher.is_some_and(|line| line.contains(CHACHA20)),
            "{users}"
        );
        Ok(())
    });
}

#[test]
fn a_configured_cipher_is_kept_and_its_sessions_stay_in_user_space() {
    scenario(|bed| {
        let priorities = "\"NORMAL:-CIPHER-ALL:+AES-256-GCM:+AES-128-GCM\"";
        let config = Config::new(bed).set("tls-priorities", priorities);
        let server = datapath::start(bed, &config)?;
        works_in_user_space(bed, &server)?;
        let _client = Login::new().connect_dtls(bed)?;
        let users = server.occtl_text(&["-j", "show", "users"])?;
        let cipher = users.lines().find(|line| line.contains("DTLS cipher"));
        ensure!(cipher.is_some_and(|line| line.contains("AES")), "{users}");
        let now = Datapath::of(&server)?;
        ensure!(
            now.is_on() && now.number("Sessions in kernel")? == 0,
            "{now:?}"
        );
        Ok(())
    });
}

#[test]
fn rate_limited_sessions_stay_in_user_space_and_are_limited() {
    scenario(|bed| {
        let config = Config::new(bed)
            .set("rx-data-per-sec", "20000")
            .set("tx-data-per-sec", "20000");
        let server = datapath::start(bed, &config)?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::check_in_user_space(&server, &client)?;
        let now = Datapath::of(&server)?;
        ensure!(now.number("Sessions with DTLS")? == 1, "{now:?}");
        ensure!(now.number("Sessions in kernel")? == 0, "{now:?}");
        // Far more than the limit allows within the time that it takes.
        let (groups, sizes) = (5, [400; 100]);
        let own = client.address4()?;
        for (from, to, address) in [
            (client.namespace(), bed.lan(), LAN4),
            (bed.lan(), client.namespace(), own.as_str()),
        ] {
            let arrived = datagrams::pass(from, to, address, groups, &sizes)?;
            let sent = groups * sizes.len();
            ensure!(
                arrived.count < sent / 2,
                "{arrived:?} of {sent} to {address}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_user_file_with_a_limit_keeps_that_user_out_of_the_kernel() {
    scenario_with_clients(2, |bed| {
        use ocserv_tests::bed::{OTHER_PASSWORD, OTHER_USER, USER};
        bed.write_file(&format!("users/{USER}"), "rx-data-per-sec = 1000000\n")?;
        let directory = bed.directory().join("users").display().to_string();
        let config = Config::new(bed).set("config-per-user", &directory);
        let server = datapath::start(bed, &config)?;
        let alice = Login::new().connect_dtls(bed)?;
        let bob = Login::as_user(OTHER_USER, OTHER_PASSWORD);
        let bob = bob.from_site(1).connect_dtls(bed)?;
        datapath::wait_in_kernel(&server, &bob)?;
        datapath::check_in_user_space(&server, &alice)?;
        ensure!(Datapath::of(&server)?.number("Sessions in kernel")? == 1);
        Ok(())
    });
}

#[test]
fn sockets_in_another_namespace_have_none() {
    scenario(|bed| {
        let name = bed.gateway().name().to_owned();
        let server = datapath::start(bed, &Config::new(bed).set("listen-netns", &name))?;
        let client = Login::new().connect_dtls(bed)?;
        datapath::check_in_user_space(&server, &client)?;
        let now = Datapath::of(&server)?;
        ensure!(now.is_off_for("listen-netns"), "{now:?}");
        check_one_line(&server, "listen-netns")
    });
}
