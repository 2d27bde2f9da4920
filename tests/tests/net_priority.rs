//! `net-priority` on both channels.

use anyhow::{Context, Result};
use ocserv_tests::bed::{GATEWAY4, GATEWAY6, LAN4, PORT};
use ocserv_tests::{Bed, Config, Login, Server, scenario, traffic};

/// Counts the gateway's packets of both channels that `rule` fits.
fn count(bed: &Bed, rule: &str) -> Result<()> {
    bed.gateway().nft(&format!(
        "table inet oxc_count {{
            counter tls {{ }}
            counter dtls {{ }}
            chain output {{ type filter hook postrouting priority 0;
                tcp sport {PORT} {rule} counter name tls;
                udp sport {PORT} {rule} counter name dtls;
            }}
        }}"
    ))
}

fn counted(bed: &Bed, counter: &str) -> Result<u64> {
    let shown = bed
        .gateway()
        .must("nft", &["list", "counter", "inet", "oxc_count", counter])?;
    let mut words = shown
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    words.nth(1).context("no count")?.parse().context(shown)
}

/// Packets that fit the rule on TLS and DTLS while a client pings.
fn marked(bed: &Bed, value: Option<&str>, rule: &str, address: &str) -> Result<(u64, u64)> {
    count(bed, rule)?;
    let mut config = Config::new(bed);
    if let Some(value) = value {
        config = config.set("net-priority", value);
    }
    let server = Server::start(bed, &config)?;
    let mut client = Login::new().to_address(address).connect_dtls(bed)?;
    traffic::ping(client.namespace(), LAN4)?;
    client.log_out()?;
    drop(server);
    let result = (counted(bed, "tls")?, counted(bed, "dtls")?);
    bed.gateway().nft("delete table inet oxc_count")?;
    Ok(result)
}

#[test]
fn a_hexadecimal_value_is_the_type_of_service() {
    scenario(|bed| {
        for (rule, address) in [("ip dscp 10", GATEWAY4), ("ip6 dscp 10", GATEWAY6)] {
            let (tls, dtls) = marked(bed, Some("0x28"), rule, address)?;
            assert!(tls > 0 && dtls > 0, "{rule}: {tls} by TLS, {dtls} by DTLS");
            assert_eq!(marked(bed, None, rule, address)?, (0, 0), "{rule}");
        }
        Ok(())
    });
}

#[test]
fn a_decimal_value_is_the_priority_in_the_gateways_queues() {
    scenario(|bed| {
        let rule = "meta priority 0:5";
        let (tls, dtls) = marked(bed, Some("5"), rule, GATEWAY4)?;
        assert!(tls > 0 && dtls > 0, "{tls} by TLS, {dtls} by DTLS");
        assert_eq!(marked(bed, None, rule, GATEWAY4)?, (0, 0));
        Ok(())
    });
}
