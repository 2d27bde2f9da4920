//! CONNECT: the client's headers, and the answer with its texts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ocserv_proto::config::{RekeyMethod, Route};
use ocserv_proto::connect::{ClientClass, ConnectAnswer, ConnectRequest, DtlsAnswer, Rekey};
use ocserv_proto::mtu::{self, Mtu, MtuInput, Protection};

use crate::input::{Choices, Reader, segments};

/// The first segment is a client's head; what follows it fills the answer. What was read is within
/// its bounds, and no text in the answer makes a header of its own.
pub fn connect(data: &[u8]) {
    let head = segments(data).next().unwrap_or_default();
    let request = read(head);
    check_request(&request);
    assert_eq!(
        read(&head.to_ascii_lowercase()).base_mtu,
        request.base_mtu,
        "names in any case"
    );
    let rest = data.get(head.len() + 1..).unwrap_or_default();
    check_answer(&request, rest);
}

fn read(head: &[u8]) -> ConnectRequest {
    let lines = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], &line[colon + 1..]))
    });
    ConnectRequest::parse(lines)
}

fn check_request(request: &ConnectRequest) {
    assert!(
        request
            .cookie
            .as_ref()
            .is_none_or(|cookie| cookie.len() == 32)
    );
    for text in [
        &request.user_agent,
        &request.device_type,
        &request.device_platform,
    ] {
        assert!(text.len() <= 63 && !text.chars().any(char::is_control));
    }
    assert_eq!(request.class, ClientClass::of(&request.user_agent));
    for mtu in [request.base_mtu, request.tunnel_mtu].into_iter().flatten() {
        assert!((1..=mtu::MAXIMUM).contains(&mtu));
    }
    if let Some(name) = &request.hostname {
        assert!((1..=63).contains(&name.len()));
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        );
        assert!(!name.starts_with('-') && !name.ends_with('-'));
    }
    if request.class == ClientClass::OpenConnectV3 {
        assert!(!request.wants_ipv6 && !request.full_ipv6);
    }
}

fn check_answer(client: &ConnectRequest, data: &[u8]) {
    let mut reader = Reader(data);
    let hostile = answer(client, data, || reader.text());
    let benign = answer(client, data, || "x".to_owned());
    assert!(hostile.ends_with("\r\n\r\n"));
    assert!(!hostile.trim_end_matches("\r\n").contains("\r\n\r\n"));
    assert!(!hostile.replace("\r\n", "").chars().any(char::is_control));
    let lines = |text: &str| text.split("\r\n").map(str::to_owned).collect::<Vec<_>>();
    let (hostile, benign) = (lines(&hostile), lines(&benign));
    assert_eq!(hostile.len(), benign.len());
    assert_eq!(hostile[0], "HTTP/1.1 200 CONNECTED");
    for (hostile, benign) in hostile.iter().zip(&benign) {
        let name = |line: &str| line.split(':').next().map(str::to_owned);
        assert_eq!(name(hostile), name(benign));
    }
    assert_eq!(offers_ipv6(&hostile), offers_ipv6(&benign));
}

fn offers_ipv6(lines: &[String]) -> bool {
    lines
        .iter()
        .any(|line| line.starts_with("X-CSTP-Address-IP6: "))
}

/// An answer whose shape follows from `data`, with these texts in it.
fn answer(client: &ConnectRequest, data: &[u8], mut text: impl FnMut() -> String) -> String {
    let mut choices = Choices::new(data);
    let mut few = |bound: u64| choices.below(bound);
    let answer = ConnectAnswer {
        included_headers: (0..few(3))
            .map(|_| format!("X-Included: {}", text()))
            .collect(),
        server_name: text(),
        hostname: (few(2) == 0).then(&mut text),
        dpd: seconds(few(200)),
        default_domain: (few(2) == 0).then(&mut text),
        ipv4: (few(4) > 0).then(|| {
            (
                Ipv4Addr::from_bits(few(1 << 32) as u32),
                Ipv4Addr::BROADCAST,
            )
        }),
        ipv6: (few(4) > 0).then(|| (Ipv6Addr::from_bits(few(1 << 60).into()), few(256) as u8)),
        dns: (0..few(4)).map(|_| address(few(1 << 40))).collect(),
        nbns: (0..few(3)).map(|_| address(few(1 << 40))).collect(),
        split_dns: (0..few(3)).map(|_| text()).collect(),
        routes: (0..few(4)).map(|_| route(few(1 << 40))).collect(),
        no_routes: (0..few(3)).map(|_| route(few(1 << 40))).collect(),
        tunnel_all_dns: few(2) == 0,
        client_bypass_protocol: few(2) == 0,
        keepalive: seconds(few(100)),
        idle_timeout: seconds(few(100)),
        dyndns: few(2) == 0,
        rekey: [
            None,
            Some(Rekey {
                time: Duration::MAX,
                method: RekeyMethod::Ssl,
            }),
            Some(Rekey {
                time: Duration::from_secs(7),
                method: RekeyMethod::NewTunnel,
            }),
        ][few(3) as usize],
        proxy_url: (few(2) == 0).then(|| format!("{}%{{U}}/%{{G}}", text())),
        session_timeout: seconds(few(3)).map(|limit| (limit, limit / 2)),
        custom_headers: (0..few(3))
            .map(|_| format!("X-Custom: {}%{{U}}", text()))
            .collect(),
        username: text(),
        groupname: text(),
        dtls: (few(3) > 0).then(|| DtlsAnswer {
            port: few(1 << 16) as u16,
            app_id: [few(256) as u8; 32],
            rekey_in_place: few(2) == 0,
        }),
        mtu: negotiated(client, &mut few),
        banner: (few(2) == 0).then(&mut text),
    };
    String::from_utf8(answer.write(client)).expect("an answer is text")
}

fn negotiated(client: &ConnectRequest, few: &mut impl FnMut(u64) -> u64) -> Mtu {
    let input = MtuInput {
        start: few(1 << 16) as u16,
        client_base: client.base_mtu,
        client_tunnel: client.tunnel_mtu,
        path: (few(2) == 0).then(|| few(1 << 16) as u16),
        ipv6_lease: few(2) == 0,
        outer_ipv6: few(2) == 0,
        protection: [Protection::None, Protection::Gcm, Protection::CbcSha256][few(3) as usize],
    };
    let mtu = mtu::negotiate(&input);
    let floor = if input.ipv6_lease {
        mtu::IPV6_MINIMUM
    } else {
        mtu::IPV4_MINIMUM
    };
    assert!((floor..=mtu::MAXIMUM).contains(&mtu.link) && mtu.tunnel < mtu.link);
    assert!(!mtu.ipv6 || mtu.tunnel >= mtu::IPV6_MINIMUM);
    mtu
}

fn seconds(seconds: u64) -> Option<Duration> {
    (!seconds.is_multiple_of(3)).then(|| Duration::from_secs(seconds))
}

fn address(number: u64) -> IpAddr {
    if number.is_multiple_of(2) {
        Ipv4Addr::from_bits(number as u32).into()
    } else {
        Ipv6Addr::from_bits(number.into()).into()
    }
}

fn route(number: u64) -> Route {
    Route {
        net: address(number),
        prefix: (number % 129) as u8,
    }
}
