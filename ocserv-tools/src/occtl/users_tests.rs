use super::super::format::tests::clock;
use super::*;

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// The user of the run of the reference (version 1.1.6) that the expected texts come from.
pub fn user() -> UserInfo {
    UserInfo {
        id: 14998,
        username: "test".to_owned(),
        groupname: "g1".to_owned(),
        vhost: "default".to_owned(),
        device: "vpnsy0".to_owned(),
        mtu: Some(1434),
        remote_ip: Some("127.0.0.1".parse().unwrap()),
        local_device_ip: Some("127.0.0.1".parse().unwrap()),
        ipv4: Some((
            "192.168.77.190".parse().unwrap(),
            "192.168.77.1".parse().unwrap(),
        )),
        ipv6: Some((
            "fda9:4efe:7e3b:3ea:1950:2c2b:bd9d:6cef".parse().unwrap(),
            "fda9:4efe:7e3b:3ea::1".parse().unwrap(),
        )),
        user_agent: "Open AnyConnect VPN Agent v9.01-3".to_owned(),
        limit_rx: 40_000,
        traffic: Some((0, 592)),
        dpd: 60,
        keepalive: 3600,
        hostname: "vm".to_owned(),
        connected_at: clock().now - 6,
        session_started_at: clock().now - 66,
        session: "VkZNgFA7xrHKN0gUB4Nn/os6fzo=".to_owned(),
        tls_cipher: "(TLS1.3)-(ECDHE-SECP256R1)-(RSA-PSS-RSAE-SHA256)-(AES-256-GCM)".to_owned(),
        dtls_cipher: "(DTLS1.2)-(PSK)-(AES-256-GCM)".to_owned(),
        dns: texts(&["192.168.77.1", "192.168.77.2"]),
        nbns: texts(&["192.168.77.3"]),
        split_dns: texts(&["example.com", "example.org"]),
        routes: texts(&["10.10.0.0/255.255.0.0", "10.20.0.0/255.255.0.0"]),
        no_routes: texts(&["10.10.5.0/255.255.255.0"]),
        iroutes: texts(&["10.99.0.0/255.255.0.0", "10.98.1.0/255.255.255.0"]),
        ..UserInfo::default()
    }
}

#[test]
fn the_table_is_that_of_the_reference() {
    let expected = concat!(
        "      id     user    vhost             ip         vpn-ip device   since    dtls-cipher    status\n",
        "   14998     test  default      127.0.0.1 192.168.77.190 vpnsy0     6s  (AES-256-GCM) connected\n",
    );
    assert_eq!(table(&[user()], &clock()), expected);
    assert_eq!(table(&[], &clock()), "");
}

#[test]
fn cipher_names_lose_version_and_key_exchange() {
    assert_eq!(short_cipher(""), "(no-dtls)");
    assert_eq!(
        short_cipher("(DTLS1.2)-(PSK)-(AES-256-GCM)"),
        "(AES-256-GCM)"
    );
    assert_eq!(
        short_cipher("(DTLS0.9)-(RSA)-(AES-128-CBC)-(SHA1)"),
        "(AES-128-CBC)-(SHA1)"
    );
    let ecdhe = "(DTLS1.2)-(ECDHE-RSA)-(AES-256-GCM)";
    assert_eq!(short_cipher(ecdhe), "(ECDHE-RSA)-(AES-256-GCM)");
}

#[test]
fn details_are_those_of_the_reference() {
    // As measured, but for the two rows of 1.4.1 in place of `Connected at`.
    let expected = concat!(
        "\tID: 14998\n",
        "\tUsername: test   Groupname: g1\n",
        "\tState: connected\n",
        "\tvhost: default\n",
        "\tDevice: vpnsy0   MTU: 1434\n",
        "\tRemote IP: 127.0.0.1   Location: unknown\n",
        "\tLocal Device IP: 127.0.0.1\n",
        "\tIPv4: 192.168.77.190   P-t-P IPv4: 192.168.77.1\n",
        "\tIPv6: fda9:4efe:7e3b:3ea:1950:2c2b:bd9d:6cef   P-t-P IPv6: fda9:4efe:7e3b:3ea::1\n",
        "\tUser-Agent: Open AnyConnect VPN Agent v9.01-3\n",
        "\tLimit RX: 40.0 KB/sec\n",
        "\tRX: 0 (0 bytes)   TX: 592 (592 bytes)\n",
        "\tAverage bandwidth RX: 0 bytes/sec  TX: 98 bytes/sec\n",
        "\tDPD: 60   KeepAlive: 3600\n",
        "\tHostname: vm\n",
        "\tLast connected at: 2026-11-23 16:29 (    6s)\n",
        "\tSession started at: 2026-11-23 16:28 ( 1m:06s)\n",
        "\tSession: VkZNgF\n",
        "\tTLS ciphersuite: (TLS1.3)-(ECDHE-SECP256R1)-(RSA-PSS-RSAE-SHA256)-(AES-256-GCM)\n",
        "\tDTLS cipher: (DTLS1.2)-(PSK)-(AES-256-GCM)\n",
        "\n",
        "\tDNS: 192.168.77.1\n",
        "\t\t192.168.77.2\n",
        "\tNBNS: 192.168.77.3\n",
        "\tSplit-DNS-Domains: example.com\n",
        "\t\texample.org\n",
        "\tRoutes: 10.10.0.0/255.255.0.0\n",
        "\t\t10.20.0.0/255.255.0.0\n",
        "\tNo-routes: 10.10.5.0/255.255.255.0\n",
        "\tiRoutes: 10.99.0.0/255.255.0.0\n",
        "\t\t10.98.1.0/255.255.255.0\n",
        "\tRestricted to routes: False\n",
        "\n",
    );
    assert_eq!(details(&[user()], &clock()), expected);
}

#[test]
fn json_is_that_of_the_reference() {
    // As measured, but for the members of 1.2.3 and 1.4.1 about the times.
    let expected = concat!(
        "[\n",
        "  {\n",
        "    \"ID\":  14998,\n",
        "    \"Username\":  \"test\",\n",
        "    \"Groupname\":  \"g1\",\n",
        "    \"State\":  \"connected\",\n",
        "    \"vhost\":  \"default\",\n",
        "    \"Device\":  \"vpnsy0\",\n",
        "    \"MTU\":  \"1434\",\n",
        "    \"Remote IP\":  \"127.0.0.1\",\n",
        "    \"Location\":  \"unknown\",\n",
        "    \"Local Device IP\":  \"127.0.0.1\",\n",
        "    \"IPv4\":  \"192.168.77.190\",\n",
        "    \"P-t-P IPv4\":  \"192.168.77.1\",\n",
        "    \"IPv6\":  \"fda9:4efe:7e3b:3ea:1950:2c2b:bd9d:6cef\",\n",
        "    \"P-t-P IPv6\":  \"fda9:4efe:7e3b:3ea::1\",\n",
        "    \"User-Agent\":  \"Open AnyConnect VPN Agent v9.01-3\",\n",
        "    \"Limit RX\":  \"40.0 KB/sec\",\n",
        "    \"RX\":  \"0\",\n",
        "    \"TX\":  \"592\",\n",
        "    \"_RX\":  \"0 bytes\",\n",
        "    \"_TX\":  \"592 bytes\",\n",
        "    \"Average RX\":  \"0 bytes/sec\",\n",
        "    \"Average TX\":  \"98 bytes/sec\",\n",
        "    \"DPD\":  \"60\",\n",
        "    \"KeepAlive\":  \"3600\",\n",
        "    \"Hostname\":  \"vm\",\n",
        "    \"Last connected at\":  \"2026-11-23 16:29\",\n",
        "    \"_Last connected at\":  \"    6s\",\n",
        "    \"raw_connected_at\":  1795451380,\n",
        "    \"Session started at\":  \"2026-11-23 16:28\",\n",
        "    \"_Session started at\":  \" 1m:06s\",\n",
        "    \"raw_session_started_at\":  1795451320,\n",
        "    \"Full session\":  \"VkZNgFA7xrHKN0gUB4Nn/os6fzo=\",\n",
        "    \"Session\":  \"VkZNgF\",\n",
        "    \"TLS ciphersuite\":  \"(TLS1.3)-(ECDHE-SECP256R1)-(RSA-PSS-RSAE-SHA256)-(AES-256-GCM)\",\n",
        "    \"DTLS cipher\":  \"(DTLS1.2)-(PSK)-(AES-256-GCM)\",\n",
        "    \"DNS\":\t[\"192.168.77.1\", \"192.168.77.2\"],\n",
        "    \"NBNS\":\t[\"192.168.77.3\"],\n",
        "    \"Split-DNS-Domains\":\t[\"example.com\", \"example.org\"],\n",
        "    \"Routes\":\t[\"10.10.0.0/255.255.0.0\", \"10.20.0.0/255.255.0.0\"],\n",
        "    \"No-routes\":\t[\"10.10.5.0/255.255.255.0\"],\n",
        "    \"iRoutes\":\t[\"10.99.0.0/255.255.0.0\", \"10.98.1.0/255.255.255.0\"],\n",
        "    \"Restricted to routes\":  \"False\",\n",
        "    \"Restricted to ports\":\t[]\n",
        "  }\n",
        "]\n",
    );
    assert_eq!(json(&[user()], &clock()), expected);
    assert_eq!(json(&[], &clock()), "[\n]\n");
}

#[test]
fn a_bare_connection_shows_what_it_has() {
    let bare = UserInfo {
        id: 3,
        remote_ip: Some("192.0.2.1".parse().unwrap()),
        vhost: "default".to_owned(),
        state: ocserv_proto::control::UserState::PreAuth,
        connected_at: clock().now,
        session_started_at: clock().now,
        ..UserInfo::default()
    };
    let text = detail(&bare, &clock());
    assert!(text.contains("\tUsername: (none)   Groupname: (none)\n\tState: pre-auth\n"));
    assert!(text.contains("\tRoutes: defaultroute\n"));
    assert!(!text.contains("MTU") && !text.contains("RX") && !text.contains("IPv4"));
    let line = table(std::slice::from_ref(&bare), &clock());
    let expected = "       3   (none)  default      192.0.2.1         (none)            0s      (no-dtls)  pre-auth\n";
    assert!(line.ends_with(expected), "{line}");
    let parsed: serde_json::Value = serde_json::from_str(&json(&[bare], &clock())).unwrap();
    assert_eq!(parsed[0]["Routes"], "defaultroute");
}

#[test]
fn iroutes_are_those_of_the_reference() {
    let expected = concat!(
        "    id     user    vhost device           vpn-ip                       iroute\n",
        " 14998     test  default vpnsy0   192.168.77.190        10.99.0.0/255.255.0.0\n",
        " 14998     test  default vpnsy0   192.168.77.190      10.98.1.0/255.255.255.0\n",
    );
    assert_eq!(iroute_table(&[user()]), expected);
    assert_eq!(iroute_table(&[]), "");
    // The layout of 1.4.0, since that of 1.1.6 is no JSON.
    let expected = concat!(
        "[\n",
        "  {\n",
        "    \"ID\":  14998,\n",
        "    \"Username\":  \"test\",\n",
        "    \"vhost\":  \"default\",\n",
        "    \"Device\":  \"vpnsy0\",\n",
        "    \"IP\":  \"192.168.77.190\",\n",
        "    \"iRoutes\":\t[\"10.99.0.0/255.255.0.0\", \"10.98.1.0/255.255.255.0\"]\n",
        "  }\n",
        "]\n",
    );
    assert_eq!(iroute_json(&[user()]), expected);
}
