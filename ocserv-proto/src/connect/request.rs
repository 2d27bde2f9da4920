//! What a client tells in CONNECT (protocol.md 5.1). Header names match in any case; what does not
//! parse counts as absent.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::agent::ClientClass;
use crate::mtu;
use crate::secret::Secret;

const COOKIE: usize = 32;
/// Base64 of 32 bytes, padded.
const COOKIE_TEXT: usize = 44;
const LABEL: usize = 63;

/// Whether a CONNECT target means the tunnel. Clavister's client leaves the slash out.
pub fn is_tunnel_target(target: &str) -> bool {
    matches!(target, "/CSCOSSLC/tunnel" | "CSCOSSLC/tunnel")
}

/// Whether `X-AnyConnect-Identifier-Platform` names a mobile system (protocol.md 16).
pub fn is_mobile_platform(platform: &str) -> bool {
    let platform = platform.to_ascii_lowercase();
    platform.starts_with("apple-ios") || platform.starts_with("android")
}

/// The client's wishes and abilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// 32 bytes of the `webvpn` cookie; `None`: absent or not exactly that.
    pub cookie: Option<Secret>,
    /// `User-Agent`, printable, at most 63 bytes.
    pub user_agent: String,
    /// Family of `user_agent`.
    pub class: ClientClass,
    /// `X-CSTP-Hostname` without its domain, validated.
    pub hostname: Option<String>,
    /// `X-AnyConnect-Identifier-DeviceType`, printable, at most 63 bytes.
    pub device_type: String,
    /// `X-AnyConnect-Identifier-Platform`, printable, at most 63 bytes.
    pub device_platform: String,
    /// `X-CSTP-Base-MTU`, at most 16384.
    pub base_mtu: Option<u16>,
    /// `X-CSTP-MTU`, at most 16384.
    pub tunnel_mtu: Option<u16>,
    /// Can take an IPv4 address.
    pub wants_ipv4: bool,
    /// Can take an IPv6 address.
    pub wants_ipv6: bool,
    /// `X-CSTP-Full-IPv6-Capability`: takes IPv6 routes and name servers.
    pub full_ipv6: bool,
    /// Offers DTLS-PSK.
    pub dtls_psk: bool,
}

impl ConnectRequest {
    /// Reads the headers. The first of equal names counts, except that every `Cookie` and both
    /// cipher lists are searched.
    pub fn parse<N, V>(headers: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut seen = Seen::default();
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (
                std::str::from_utf8(name.as_ref()),
                std::str::from_utf8(value.as_ref()),
            ) {
                seen.header(name, value.trim_matches([' ', '\t']));
            }
        }
        seen.finish()
    }

    /// A mobile client: `mobile-dpd` and `mobile-idle-timeout` apply (protocol.md 16).
    pub fn is_mobile(&self) -> bool {
        is_mobile_platform(&self.device_platform)
    }

    /// AnyConnect on iOS, which needs an IPv6 route of its own (protocol.md 5.3, 16).
    pub fn is_anyconnect_ios(&self) -> bool {
        let platform = self.device_platform.to_ascii_lowercase();
        self.class == ClientClass::AnyConnectApple
            || self.class == ClientClass::AnyConnect && platform.starts_with("apple-ios")
    }
}

#[derive(Default)]
struct Seen {
    cookie: Option<Secret>,
    user_agent: Option<String>,
    hostname: Option<String>,
    device_type: Option<String>,
    device_platform: Option<String>,
    base_mtu: Option<u16>,
    tunnel_mtu: Option<u16>,
    families: Option<(bool, bool)>,
    full_ipv6: bool,
    dtls_psk: bool,
}

impl Seen {
    fn header(&mut self, name: &str, value: &str) {
        match name.to_ascii_lowercase().as_str() {
            "cookie" if self.cookie.is_none() => self.cookie = webvpn_cookie(value),
            "user-agent" => keep_first(&mut self.user_agent, || Some(printable(value))),
            "x-cstp-hostname" => keep_first(&mut self.hostname, || host_label(value)),
            "x-anyconnect-identifier-devicetype" => {
                keep_first(&mut self.device_type, || Some(printable(value)));
            }
            "x-anyconnect-identifier-platform" => {
                keep_first(&mut self.device_platform, || Some(printable(value)));
            }
            "x-cstp-base-mtu" => keep_first(&mut self.base_mtu, || mtu_number(value)),
            "x-cstp-mtu" => keep_first(&mut self.tunnel_mtu, || mtu_number(value)),
            "x-cstp-address-type" => {
                let families = || Some((value.contains("IPv4"), value.contains("IPv6")));
                keep_first(&mut self.families, families);
            }
            "x-cstp-full-ipv6-capability" => {
                self.full_ipv6 |= value.eq_ignore_ascii_case("true");
            }
            "x-dtls-ciphersuite" | "x-dtls12-ciphersuite" => {
                self.dtls_psk |= value
                    .split(':')
                    .any(|token| token.trim() == "PSK-NEGOTIATE");
            }
            _ => {}
        }
    }

    fn finish(self) -> ConnectRequest {
        let user_agent = self.user_agent.unwrap_or_default();
        let class = ClientClass::of(&user_agent);
        let ipv6_capable = class != ClientClass::OpenConnectV3;
        let (ipv4, ipv6) = self.families.unwrap_or((true, true));
        ConnectRequest {
            cookie: self.cookie,
            user_agent,
            class,
            hostname: self.hostname,
            device_type: self.device_type.unwrap_or_default(),
            device_platform: self.device_platform.unwrap_or_default(),
            base_mtu: self.base_mtu,
            tunnel_mtu: self.tunnel_mtu,
            wants_ipv4: ipv4,
            wants_ipv6: ipv6 && ipv6_capable,
            full_ipv6: self.full_ipv6 && ipv6_capable,
            dtls_psk: self.dtls_psk,
        }
    }
}

fn keep_first<T>(slot: &mut Option<T>, read: impl FnOnce() -> Option<T>) {
    if slot.is_none() {
        *slot = read();
    }
}

/// Value of the `webvpn` cookie. Its length is checked before it is decoded (protocol.md 4.6).
fn webvpn_cookie(header: &str) -> Option<Secret> {
    let text = header
        .split(';')
        .find_map(|pair| pair.trim().strip_prefix("webvpn="))?;
    if text.len() != COOKIE_TEXT {
        return None;
    }
    let mut bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    (bytes.len() == COOKIE).then(|| Secret::new(std::mem::take(&mut bytes)))
}

/// At most 63 bytes, fit for logs and scripts.
fn printable(value: &str) -> String {
    let mut text = String::new();
    for character in value.chars().filter(|character| !character.is_control()) {
        if text.len() + character.len_utf8() > LABEL {
            break;
        }
        text.push(character);
    }
    text
}

/// First label of a host name: letters, digits and inner hyphens. An IP address is no name.
fn host_label(value: &str) -> Option<String> {
    if value.parse::<IpAddr>().is_ok() {
        return None;
    }
    let label = value.split('.').next()?;
    let valid = (1..=LABEL).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-');
    valid.then(|| label.to_owned())
}

/// Decimal digits only, within 1 to 16384.
fn mtu_number(value: &str) -> Option<u16> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|_| digits)?;
    (1..=mtu::MAXIMUM).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COOKIE_VALUE: &str = "ACCi+aT3ETZIMOezrI4wFIPWJjh2jofGyIgyd1HrSJQ=";

    fn parse(headers: &[(&str, &str)]) -> ConnectRequest {
        ConnectRequest::parse(headers.iter().copied())
    }

    /// The frozen request of openconnect 9.01 (GnuTLS) to ocserv 1.1.6.
    #[test]
    fn reads_openconnect_9_01() {
        let head = include_str!("testdata/request-openconnect-9.01.txt");
        let request = ConnectRequest::parse(
            head.lines()
                .skip(1)
                .filter_map(|line| line.split_once(": ")),
        );
        let cookie = request.cookie.as_ref().unwrap().expose();
        assert_eq!((cookie.len(), &cookie[..3]), (32, &[0x00, 0x20, 0xa2][..]));
        assert_eq!(request.user_agent, "Open AnyConnect VPN Agent v9.01-3");
        assert_eq!(request.class, ClientClass::OpenConnect);
        assert_eq!(request.hostname.as_deref(), Some("vm"));
        assert_eq!(
            (request.base_mtu, request.tunnel_mtu),
            (Some(1500), Some(1390))
        );
        assert!(request.wants_ipv4 && request.wants_ipv6 && request.full_ipv6);
        assert!(request.dtls_psk);
        assert!(!request.is_mobile());
    }

    #[test]
    fn tunnel_targets() {
        assert!(is_tunnel_target("/CSCOSSLC/tunnel"));
        assert!(is_tunnel_target("CSCOSSLC/tunnel"));
        assert!(!is_tunnel_target("/CSCOSSLC/tunnel/"));
        assert!(!is_tunnel_target("/"));
    }

    #[test]
    fn mtu_headers_out_of_range() {
        let bad = [
            "16385",
            "65535",
            "65536",
            "4294967297",
            "18446744073709551617",
            "-1",
            "-1500",
            "0",
            "+1500",
            "1500x",
            "0x5dc",
            "",
            " ",
            "1e3",
            "１５００",
            "1500.0",
        ];
        for value in bad {
            let request = parse(&[("X-CSTP-Base-MTU", value), ("X-CSTP-MTU", value)]);
            assert_eq!(
                (request.base_mtu, request.tunnel_mtu),
                (None, None),
                "{value:?}"
            );
        }
        for (value, number) in [("1", 1), ("1500", 1500), (" 16384\t", 16384)] {
            assert_eq!(parse(&[("X-CSTP-Base-MTU", value)]).base_mtu, Some(number));
        }
    }

    #[test]
    fn cookie_is_found_among_others_in_any_header_case() {
        let value = format!("webvpnc=bu:/&p:t; webvpnx=1;webvpn={COOKIE_VALUE} ; z=1");
        assert!(parse(&[("cookie", &value)]).cookie.is_some());
        let value = format!("webvpn={COOKIE_VALUE}");
        assert!(
            parse(&[("COOKIE", "a=b"), ("Cookie", &value)])
                .cookie
                .is_some()
        );
    }

    #[test]
    fn cookie_of_any_other_length_is_no_cookie() {
        let long = COOKIE_VALUE.repeat(400);
        let unpadded = COOKIE_VALUE.trim_end_matches('=');
        let bytes_33 = "A".repeat(44);
        let url_alphabet = COOKIE_VALUE.replace('+', "-");
        for value in ["", "AAAA", &long, unpadded, &bytes_33, &url_alphabet] {
            let header = format!("webvpn={value}");
            assert_eq!(parse(&[("Cookie", &header)]).cookie, None, "{value}");
        }
        assert_eq!(
            parse(&[("Cookie", &format!("xwebvpn={COOKIE_VALUE}"))]).cookie,
            None
        );
    }

    #[test]
    fn host_names_are_labels() {
        let name = |value: &str| parse(&[("X-CSTP-Hostname", value)]).hostname;
        assert_eq!(name("laptop.example.com").as_deref(), Some("laptop"));
        assert_eq!(name("A-1").as_deref(), Some("A-1"));
        assert_eq!(name(&"a".repeat(63)), Some("a".repeat(63)));
        let long = "a".repeat(64);
        for bad in [
            "",
            ".x",
            "-a",
            "a-",
            "a_b",
            "a b",
            "ä",
            "192.0.2.1",
            "::1",
            "$(id)",
            &long,
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    #[test]
    fn mobile_clients_by_platform() {
        let platform = |value: &str| parse(&[("X-AnyConnect-Identifier-Platform", value)]);
        assert!(platform("Android").is_mobile());
        assert!(platform("apple-ios").is_mobile());
        assert!(!platform("linux-64").is_mobile());
        assert!(
            !platform("apple-ios").is_anyconnect_ios(),
            "openconnect may say so too"
        );
    }

    #[test]
    fn texts_are_cut_and_cleaned() {
        let agent = format!("a\u{1b}[0m{}", "ü".repeat(80));
        let request = parse(&[("User-Agent", &agent)]);
        assert!(request.user_agent.len() <= 63);
        assert!(request.user_agent.starts_with("a[0mü"));
    }

    #[test]
    fn psk_is_a_token_not_a_substring() {
        let offers = |name: &str, value: &str| parse(&[(name, value)]).dtls_psk;
        assert!(offers("X-DTLS-CipherSuite", "AES256-SHA:PSK-NEGOTIATE"));
        assert!(offers("X-DTLS12-CipherSuite", "PSK-NEGOTIATE"));
        assert!(!offers("X-DTLS-CipherSuite", "NO-PSK-NEGOTIATE:AES256-SHA"));
    }

    #[test]
    fn version_3_of_openconnect_gets_no_ipv6() {
        let request = parse(&[
            ("User-Agent", "Open AnyConnect VPN Agent v3.14"),
            ("X-CSTP-Full-IPv6-Capability", "true"),
        ]);
        assert!(request.wants_ipv4 && !request.wants_ipv6 && !request.full_ipv6);
    }

    const NAMES: [&[u8]; 6] = [
        b"Cookie",
        b"X-CSTP-Hostname",
        b"X-CSTP-MTU",
        b"User-Agent",
        b"X-CSTP-Address-Type",
        b"\xff",
    ];

    proptest! {
        #[test]
        fn any_header_bytes_are_taken(
            headers in prop::collection::vec(
                (prop::sample::select(&NAMES[..]),
                 prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..80),
                    "webvpn=[A-Za-z0-9+/=]{40,48}".prop_map(String::into_bytes)]),
                0..12),
        ) {
            let request = ConnectRequest::parse(headers);
            prop_assert!(request.cookie.is_none_or(|cookie| cookie.len() == 32));
            prop_assert!(request.user_agent.len() <= 63);
            prop_assert!(request.base_mtu.is_none());
        }
    }
}
