//! Addresses, routes, sizes, and whose packets pass.

use anyhow::{Context, Result};
use ocserv_tests::bed::{GATEWAY4, LAN4, LAN6, OTHER_PASSWORD, OTHER_USER, PORT, USER};
use ocserv_tests::{
    Bed, Client, Config, Login, Server, scenario, scenario_with_clients, traffic, wait,
};

/// A configuration with a file for [`USER`].
fn with_user_file(bed: &Bed, text: &str) -> Result<Config> {
    bed.write_file(&format!("users/{USER}"), text)?;
    let directory = bed.directory().join("users").display().to_string();
    Ok(Config::new(bed).set("config-per-user", &directory))
}

fn mtu(client: &Client) -> Result<usize> {
    let link = client
        .namespace()
        .ip(&format!("link show dev {}", client.device()))?;
    let mut words = link
        .split_whitespace()
        .skip_while(|word| *word != "mtu")
        .skip(1);
    words.next().context("no mtu")?.parse().context("mtu")
}

#[test]
fn a_foreign_source_address_does_not_leave_the_tunnel() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        assert!(traffic::datagram_arrives(
            &client,
            bed,
            &client.address4()?,
            LAN4
        )?);
        assert!(traffic::datagram_arrives(
            &client,
            bed,
            &client.address6()?,
            LAN6
        )?);
        for (foreign, lan) in [
            ("10.30.0.251", LAN4),
            ("203.0.113.9", LAN4),
            ("fd30::dead", LAN6),
        ] {
            let width = if foreign.contains(':') { 128 } else { 32 };
            let device = client.device();
            client
                .namespace()
                .ip(&format!("address add {foreign}/{width} dev {device}"))?;
            assert!(
                !traffic::datagram_arrives(&client, bed, foreign, lan)?,
                "{foreign} passed"
            );
        }
        assert!(traffic::datagram_arrives(
            &client,
            bed,
            &client.address4()?,
            LAN4
        )?);
        Ok(())
    });
}

#[test]
fn the_foreign_source_is_dropped_over_tls_too() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().argument("--no-dtls").connect(bed)?;
        assert!(traffic::datagram_arrives(
            &client,
            bed,
            &client.address4()?,
            LAN4
        )?);
        client.namespace().ip(&format!(
            "address add 10.30.0.251/32 dev {}",
            client.device()
        ))?;
        assert!(!traffic::datagram_arrives(
            &client,
            bed,
            "10.30.0.251",
            LAN4
        )?);
        Ok(())
    });
}

#[test]
fn an_iroute_reaches_the_network_behind_the_client() {
    scenario(|bed| {
        let config = with_user_file(bed, "iroute = 10.40.0.0/24\n")?
            .set("route-add-cmd", "\"ip route add %{RI} dev %{D}\"")
            .set("route-del-cmd", "\"ip route del %{RI} dev %{D}\"");
        let server = Server::start(bed, &config)?;
        let mut client = Login::new().connect_dtls(bed)?;
        client.namespace().ip("address add 10.40.0.1/32 dev lo")?;
        traffic::ping(bed.lan(), "10.40.0.1")?;
        // Its own packets may come from there, too.
        assert!(traffic::datagram_arrives(&client, bed, "10.40.0.1", LAN4)?);
        let iroutes = server.occtl_text(&["show", "iroutes"])?;
        assert!(iroutes.contains("10.40.0.0/"), "{iroutes}");
        client.log_out()?;
        wait::until_true("the route to go", wait::SHORT, || {
            bed.gateway()
                .ip("route")
                .is_ok_and(|routes| !routes.contains("10.40.0.0"))
        })
    });
}

#[test]
fn routes_and_names_reach_the_client() {
    scenario(|bed| {
        let config = Config::new(bed)
            .add("no-route", "10.20.0.128/25")
            .add("dns", "10.20.0.3")
            .set("nbns", "10.20.0.4")
            .set("default-domain", "example.test")
            .add("split-dns", "one.example.test")
            .add("split-dns", "two.example.test")
            .set("banner", "\"Welcome & behave\"");
        let _server = Server::start(bed, &config)?;
        let client = Login::new().connect(bed)?;
        for (variable, value) in [
            ("CISCO_SPLIT_INC", "1"),
            ("CISCO_SPLIT_INC_0_ADDR", "10.20.0.0"),
            ("CISCO_SPLIT_INC_0_MASKLEN", "24"),
            ("CISCO_IPV6_SPLIT_INC_0_ADDR", "fd20::"),
            ("CISCO_IPV6_SPLIT_INC_0_MASKLEN", "64"),
            ("CISCO_SPLIT_EXC_0_ADDR", "10.20.0.128"),
            ("CISCO_SPLIT_EXC_0_MASKLEN", "25"),
            ("INTERNAL_IP4_DNS", "10.20.0.2 10.20.0.3"),
            ("INTERNAL_IP4_NBNS", "10.20.0.4"),
            ("CISCO_DEF_DOMAIN", "example.test"),
            ("CISCO_BANNER", "Welcome & behave"),
        ] {
            assert_eq!(client.pushed(variable)?, value, "{variable}");
        }
        let split_dns = client.pushed("CISCO_SPLIT_DNS")?;
        let mut domains: Vec<_> = split_dns.split(',').collect();
        domains.sort_unstable();
        assert_eq!(domains, ["one.example.test", "two.example.test"]);
        Ok(())
    });
}

#[test]
fn without_routes_everything_goes_through_the_tunnel() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed).without("route"))?;
        let client = Login::new().connect_dtls(bed)?;
        assert!(client.pushed("CISCO_SPLIT_INC").is_err());
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn a_user_file_replaces_what_the_server_pushes() {
    scenario_with_clients(2, |bed| {
        let text = "explicit-ipv4 = 10.30.0.200\nroute = 10.20.0.0/25\ndns = 10.20.0.53\n";
        let _server = Server::start(bed, &with_user_file(bed, text)?)?;
        let alice = Login::new().connect(bed)?;
        assert_eq!(alice.address4()?, "10.30.0.200");
        assert_eq!(alice.pushed("CISCO_SPLIT_INC_0_MASKLEN")?, "25");
        assert_eq!(alice.pushed("INTERNAL_IP4_DNS")?, "10.20.0.53");
        traffic::ping(alice.namespace(), LAN4)?;
        let bob = Login::as_user(OTHER_USER, OTHER_PASSWORD)
            .from_site(1)
            .connect(bed)?;
        assert_eq!(bob.pushed("CISCO_SPLIT_INC_0_MASKLEN")?, "24");
        assert_ne!(bob.address4()?, "10.30.0.200");
        Ok(())
    });
}

#[test]
fn a_group_file_applies_to_the_members() {
    scenario(|bed| {
        bed.write_file("groups/staff", "dns = 10.20.0.54\nno-udp = true\n")?;
        let groups = bed.directory().join("groups").display().to_string();
        let _server = Server::start(bed, &Config::new(bed).set("config-per-group", &groups))?;
        let client = Login::new().connect(bed)?;
        assert_eq!(client.pushed("INTERNAL_IP4_DNS")?, "10.20.0.54");
        traffic::ping_all_ways(bed, &client)?;
        assert!(
            !client.log().contains("X-DTLS-CipherSuite: PSK"),
            "{}",
            client.log()
        );
        Ok(())
    });
}

#[test]
fn predictable_ips_give_a_user_the_same_address_again() {
    scenario_with_clients(2, |bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut first = Login::new().connect(bed)?;
        let (address4, address6) = (first.address4()?, first.address6()?);
        // A second session of the user at the same time gets others.
        let second = Login::new().from_site(1).connect(bed)?;
        assert_ne!(second.address4()?, address4);
        assert_ne!(second.address6()?, address6);
        drop(second);
        first.log_out()?;
        server.wait_log("user disconnected (reason: user disconnected")?;
        let again = Login::new().connect(bed)?;
        assert_eq!(again.address4()?, address4);
        Ok(())
    });
}

#[test]
fn each_client_gets_a_subnet_of_ipv6_subnet_prefix() {
    scenario(|bed| {
        let config = Config::new(bed).set("ipv6-subnet-prefix", "112");
        let _server = Server::start(bed, &config)?;
        let client = Login::new().connect(bed)?;
        let netmask = client.pushed("INTERNAL_IP6_NETMASK")?;
        assert!(
            netmask.starts_with("fd30::") && netmask.ends_with("/112"),
            "{netmask}"
        );
        traffic::ping_all_ways(bed, &client)
    });
}

#[test]
fn clients_reach_each_other() {
    scenario_with_clients(2, |bed| {
        let config = Config::new(bed)
            .add("route", "10.30.0.0/24")
            .add("route", "fd30::/64");
        let _server = Server::start(bed, &config)?;
        let alice = Login::new().connect_dtls(bed)?;
        let login = Login::as_user(OTHER_USER, OTHER_PASSWORD).from_site(1);
        let bob = login.argument("--no-dtls").connect(bed)?;
        traffic::ping(alice.namespace(), &bob.address4()?)?;
        traffic::ping(bob.namespace(), &alice.address6()?)?;
        traffic::transfer(
            alice.namespace(),
            bob.namespace(),
            &bob.address4()?,
            500_000,
        )
    });
}

#[test]
fn packets_of_the_full_mtu_pass_both_ways() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        let mtu = mtu(&client)?;
        assert!((1280..1500).contains(&mtu), "{mtu}");
        const IP_AND_ICMP: usize = 28;
        let size = (mtu - IP_AND_ICMP).to_string();
        let address = client.address4()?;
        for (from, to) in [(client.namespace(), LAN4), (bed.lan(), address.as_str())] {
            let ping = ["-n", "-c1", "-W2", "-M", "do", "-s", &size, to];
            from.must("ping", &ping)
                .with_context(|| format!("{size} bytes to {to}"))?;
        }
        Ok(())
    });
}

#[test]
fn the_mtu_follows_the_clients_base_mtu_and_the_configuration() {
    scenario(|bed| {
        let server = Server::start(bed, &Config::new(bed))?;
        let mut client = Login::new().argument("--base-mtu=1380").connect_dtls(bed)?;
        let by_client = mtu(&client)?;
        assert!((1280..1380).contains(&by_client), "{by_client}");
        traffic::transfer_all_ways(bed, &client, 200_000)?;
        client.log_out()?;
        drop(server);
        let _server = Server::start(bed, &Config::new(bed).set("mtu", "1360"))?;
        let client = Login::new().connect_dtls(bed)?;
        let by_server = mtu(&client)?;
        assert!((1280..1360).contains(&by_server), "{by_server}");
        traffic::transfer_all_ways(bed, &client, 200_000)
    });
}

#[test]
fn a_link_of_1280_bytes_carries_ipv4() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        bed.client(0).ip("link set eth0 mtu 1280")?;
        bed.gateway().ip("link set wan0 mtu 1280")?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping(client.namespace(), LAN4)?;
        traffic::transfer(client.namespace(), bed.lan(), LAN4, 300_000)?;
        traffic::transfer(bed.lan(), client.namespace(), &client.address4()?, 300_000)
    });
}

#[test]
fn a_record_that_arrives_twice_passes_once() {
    scenario(|bed| {
        let _server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        traffic::ping(client.namespace(), LAN4)?;
        client.namespace().nft(&format!(
            "table ip oxc_twice {{
                chain output {{ type filter hook output priority 0;
                    udp dport {PORT} dup to {GATEWAY4} device \"eth0\"; }}
            }}"
        ))?;
        let said = client
            .namespace()
            .must("ping", &["-n", "-c5", "-i0.2", "-W2", LAN4])?;
        assert!(said.contains("5 received"), "{said}");
        assert!(
            !said.contains("DUP") && !said.contains("duplicates"),
            "{said}"
        );
        Ok(())
    });
}

#[test]
fn datagrams_of_strangers_disturb_nobody() {
    scenario_with_clients(2, |bed| {
        let mut server = Server::start(bed, &Config::new(bed))?;
        let client = Login::new().connect_dtls(bed)?;
        let stranger = bed
            .client(1)
            .run(|| std::net::UdpSocket::bind("0.0.0.0:0"))??;
        let hello = [&[22, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60][..], &[1; 60]].concat();
        let record = [&[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 9, 0, 40][..], &[7; 40]].concat();
        for datagram in [&[][..], &[0], &[23; 12], &hello, &record, &[0xff; 1400]] {
            for _ in 0..50 {
                stranger.send_to(datagram, (GATEWAY4, PORT))?;
            }
        }
        traffic::ping_all_ways(bed, &client)?;
        traffic::transfer_all_ways(bed, &client, 200_000)?;
        assert_eq!(
            client.count(ocserv_tests::client::CSTP_UP),
            1,
            "{}",
            client.log()
        );
        assert!(server.is_running());
        Ok(())
    });
}

#[test]
fn a_user_file_may_name_a_profile_of_its_own() {
    scenario(|bed| {
        let common = bed.write_file("common.xml", "<common/>\n")?;
        let own = bed.write_file("own.xml", "<own/>\n")?;
        let config = with_user_file(bed, &format!("user-profile = {}\n", own.display()))?
            .set("user-profile", &common.display().to_string());
        let _server = Server::start(bed, &config)?;
        let fetch = |cookie: &str| {
            let request =
                format!("GET /profiles/common.xml HTTP/1.1\r\nCookie: webvpn={cookie}\r\n\r\n");
            Ok::<_, anyhow::Error>(ocserv_tests::tls::request(bed, &request)?.text)
        };
        let alice = fetch(&Login::new().cookie(bed)?)?;
        assert!(alice.contains("<own/>"), "{alice}");
        let other = Login::as_user(OTHER_USER, OTHER_PASSWORD).cookie(bed)?;
        let other = fetch(&other)?;
        assert!(other.contains("<common/>"), "{other}");
        Ok(())
    });
}
