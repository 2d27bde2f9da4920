//! The 200 answer to CONNECT (protocol.md 5.3), in the reference's order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::request::ConnectRequest;
use crate::config::{RekeyMethod, Route};
use crate::mtu::Mtu;

/// The first rekey of the DTLS channel is announced this much after that of the TLS tunnel.
const DTLS_REKEY_DELAY: u64 = 10;

/// When and how the client must rekey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rekey {
    /// Interval; already randomised by the caller (protocol.md 10).
    pub time: Duration,
    /// `X-CSTP-Rekey-Method`.
    pub method: RekeyMethod,
}

/// Settings of the DTLS channel; its timers are those of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DtlsAnswer {
    /// UDP port of the server.
    pub port: u16,
    /// `X-DTLS-App-ID`, new for every CONNECT.
    pub app_id: [u8; 32],
    /// Whether the client may be told to rekey by a handshake in the channel.
    pub rekey_in_place: bool,
}

/// Everything that is announced. Text is taken as it is: control characters become blanks, so that
/// no value can begin a header of its own.
#[derive(Clone, Debug)]
pub struct ConnectAnswer {
    /// `included-http-headers`.
    pub included_headers: Vec<String>,
    /// `X-CSTP-Server-Name`.
    pub server_name: String,
    /// Accepted host name.
    pub hostname: Option<String>,
    /// DPD interval; mobile clients get theirs.
    pub dpd: Option<Duration>,
    /// Domains, blank separated.
    pub default_domain: Option<String>,
    /// Lease and netmask.
    pub ipv4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Lease and prefix length.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// WINS servers.
    pub nbns: Vec<IpAddr>,
    /// `X-CSTP-Split-DNS`.
    pub split_dns: Vec<String>,
    /// Networks by the tunnel; empty: everything.
    pub routes: Vec<Route>,
    /// Networks beside the tunnel.
    pub no_routes: Vec<Route>,
    /// `tunnel-all-dns`; implied without routes.
    pub tunnel_all_dns: bool,
    /// `client-bypass-protocol`.
    pub client_bypass_protocol: bool,
    /// Keepalive interval, of the DTLS channel too.
    pub keepalive: Option<Duration>,
    /// Idle timeout; mobile clients get theirs.
    pub idle_timeout: Option<Duration>,
    /// `listen-host-is-dyndns`.
    pub dyndns: bool,
    /// `None`: no rekey.
    pub rekey: Option<Rekey>,
    /// PAC URL.
    pub proxy_url: Option<String>,
    /// Longest session, and what is left of it.
    pub session_timeout: Option<(Duration, Duration)>,
    /// `custom-header` lines.
    pub custom_headers: Vec<String>,
    /// For `%{U}` in PAC URL and custom headers.
    pub username: String,
    /// For `%{G}`.
    pub groupname: String,
    /// `None`: no DTLS.
    pub dtls: Option<DtlsAnswer>,
    /// Result of the negotiation.
    pub mtu: Mtu,
    /// `banner`.
    pub banner: Option<String>,
}

impl ConnectAnswer {
    /// The whole answer for this client. CSTP begins after it.
    pub fn write(&self, client: &ConnectRequest) -> Vec<u8> {
        let mut head = Head(String::from("HTTP/1.1 200 CONNECTED\r\n"));
        self.included_headers
            .iter()
            .for_each(|line| head.line(line));
        head.header("X-CSTP-Version", "1");
        head.header("X-CSTP-Server-Name", &self.server_name);
        head.optional("X-CSTP-Hostname", self.hostname.as_deref());
        head.optional("X-CSTP-DPD", seconds(self.dpd));
        head.optional("X-CSTP-Default-Domain", self.default_domain.as_deref());
        self.write_addresses(client, &mut head);
        self.write_names(client, &mut head);
        self.write_routes(client, &mut head);
        self.write_timers(&mut head);
        self.write_custom(&mut head);
        self.write_dtls(&mut head);
        head.header("X-CSTP-Base-MTU", self.mtu.link);
        head.header("X-CSTP-MTU", self.mtu.tunnel);
        head.optional("X-CSTP-Banner", self.banner.as_deref());
        head.0.push_str("\r\n");
        head.0.into_bytes()
    }

    fn write_addresses(&self, client: &ConnectRequest, head: &mut Head) {
        if let Some((address, netmask)) = self.ipv4.filter(|_| client.wants_ipv4) {
            head.header("X-CSTP-Address", address);
            head.header("X-CSTP-Netmask", netmask);
        }
        if let Some((address, prefix)) = self.offered_ipv6(client) {
            if client.full_ipv6 {
                head.header("X-CSTP-Address-IP6", format_args!("{address}/{prefix}"));
            } else {
                let network = Ipv6Addr::from_bits(address.to_bits() & mask_bits(prefix));
                head.header("X-CSTP-Address", address);
                head.header("X-CSTP-Netmask", format_args!("{network}/{prefix}"));
            }
        }
    }

    fn write_names(&self, client: &ConnectRequest, head: &mut Head) {
        for server in self.dns.iter().filter(|server| takes(client, server)) {
            let name = match server {
                IpAddr::V6(_) if client.class.is_anyconnect() => "X-CSTP-DNS-IP6",
                _ => "X-CSTP-DNS",
            };
            head.header(name, server);
        }
        for server in self.nbns.iter().filter(|server| takes(client, server)) {
            head.header("X-CSTP-NBNS", server);
        }
        for domain in &self.split_dns {
            head.header("X-CSTP-Split-DNS", domain);
        }
    }

    fn write_routes(&self, client: &ConnectRequest, head: &mut Head) {
        let default_route = self.routes.is_empty();
        let ios_ipv6 = client.is_anyconnect_ios() && client.full_ipv6 && !default_route;
        if ios_ipv6 && self.offered_ipv6(client).is_some() {
            head.header("X-CSTP-Split-Include-IP6", "2000::/3");
        }
        head.routes("X-CSTP-Split-Include", &self.routes, client);
        head.header(
            "X-CSTP-Tunnel-All-DNS",
            default_route || self.tunnel_all_dns,
        );
        head.header("X-CSTP-Client-Bypass-Protocol", self.client_bypass_protocol);
        head.routes("X-CSTP-Split-Exclude", &self.no_routes, client);
    }

    fn write_timers(&self, head: &mut Head) {
        head.optional("X-CSTP-Keepalive", seconds(self.keepalive));
        match seconds(self.idle_timeout) {
            Some(idle) => head.header("X-CSTP-Idle-Timeout", idle),
            None => head.header("X-CSTP-Idle-Timeout", "none"),
        }
        head.header("X-CSTP-Smartcard-Removal-Disconnect", "true");
        if self.dyndns {
            head.header("X-CSTP-DynDNS", "true");
        }
        match self.rekey {
            Some(Rekey { time, method }) => {
                head.header("X-CSTP-Rekey-Time", time.as_secs());
                head.header("X-CSTP-Rekey-Method", method_name(method));
            }
            None => head.header("X-CSTP-Rekey-Method", "none"),
        }
        head.optional(
            "X-CSTP-MSIE-Proxy-PAC-URL",
            self.proxy_url.as_ref().map(|url| self.fill(url)),
        );
        let (limit, left) = self.session_timeout.unwrap_or_default();
        head.header("X-CSTP-Session-Timeout", limit.as_secs());
        head.header("X-CSTP-Session-Timeout-Remaining", left.as_secs());
        head.header("X-CSTP-Disconnected-Timeout", "none");
        head.header("X-CSTP-Keep", "true");
        head.header("X-CSTP-TCP-Keepalive", "true");
        head.header("X-CSTP-License", "accept");
    }

    fn write_custom(&self, head: &mut Head) {
        for line in &self.custom_headers {
            head.line(&self.fill(line));
        }
    }

    fn write_dtls(&self, head: &mut Head) {
        let Some(dtls) = &self.dtls else {
            return;
        };
        head.optional("X-DTLS-DPD", seconds(self.dpd));
        head.header("X-DTLS-Port", dtls.port);
        if let Some(rekey) = self.rekey {
            head.header(
                "X-DTLS-Rekey-Time",
                rekey.time.as_secs().saturating_add(DTLS_REKEY_DELAY),
            );
            if rekey.method == RekeyMethod::Ssl && dtls.rekey_in_place {
                head.header("X-DTLS-Rekey-Method", "ssl");
            }
        }
        head.optional("X-DTLS-Keepalive", seconds(self.keepalive));
        head.header("X-DTLS-App-ID", hex::encode(dtls.app_id));
        head.header("X-DTLS-CipherSuite", "PSK-NEGOTIATE");
    }

    /// The IPv6 lease, unless client or MTU forbid it (protocol.md 9.7).
    fn offered_ipv6(&self, client: &ConnectRequest) -> Option<(Ipv6Addr, u8)> {
        self.ipv6.filter(|_| client.wants_ipv6 && self.mtu.ipv6)
    }

    fn fill(&self, text: &str) -> String {
        text.replace("%{G}", &self.groupname)
            .replace("%{U}", &self.username)
    }
}

/// Whether the client understands addresses of this family beside its own.
fn takes(client: &ConnectRequest, address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => client.wants_ipv4,
        IpAddr::V6(_) => client.wants_ipv6 && client.full_ipv6,
    }
}

fn mask_bits(prefix: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(prefix.min(128)))
        .unwrap_or(0)
}

fn method_name(method: RekeyMethod) -> &'static str {
    match method {
        RekeyMethod::NewTunnel => "new-tunnel",
        RekeyMethod::Ssl => "ssl",
    }
}

/// Whole seconds; none for zero.
fn seconds(time: Option<Duration>) -> Option<u64> {
    time.map(|time| time.as_secs())
        .filter(|seconds| *seconds > 0)
}

struct Head(String);

impl Head {
    fn header(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(&format!("{name}: {value}"));
    }

    fn optional(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.header(name, value);
        }
    }

    fn line(&mut self, line: &str) {
        let plain = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        self.0.extend(plain);
        self.0.push_str("\r\n");
    }

    fn routes(&mut self, name: &str, routes: &[Route], client: &ConnectRequest) {
        for route in routes.iter().filter(|route| takes(client, &route.net)) {
            match route.netmask() {
                Some(mask) => self.header(name, format_args!("{}/{mask}", route.net)),
                None => self.header(&format!("{name}-IP6"), route.cidr()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dtls::Cipher;
    use crate::mtu::{MtuInput, negotiate};

    const FROZEN: &str = include_str!("testdata/answer-ocserv-1.1.6.txt");

    fn client(headers: &[(&str, &str)]) -> ConnectRequest {
        ConnectRequest::parse(headers.iter().copied())
    }

    fn openconnect() -> ConnectRequest {
        client(&[
            ("User-Agent", "Open AnyConnect VPN Agent v9.01-3"),
            ("X-CSTP-Full-IPv6-Capability", "true"),
        ])
    }

    fn route(net: &str, prefix: u8) -> Route {
        Route {
            net: net.parse().unwrap(),
            prefix,
        }
    }

    fn answer() -> ConnectAnswer {
        let mut app_id = [0; 32];
        let app_id_hex = "59e4ae57fd396cb9ed92128444d7d6f1e80715ff31e9532655ed8b06004ce552";
        hex::decode_to_slice(app_id_hex, &mut app_id).unwrap();
        ConnectAnswer {
            included_headers: vec![],
            server_name: "ocserv 1.1.6".into(),
            hostname: Some("vm".into()),
            dpd: Some(Duration::from_secs(10)),
            default_domain: Some("example.com".into()),
            ipv4: Some((
                Ipv4Addr::new(10, 98, 0, 190),
                Ipv4Addr::new(255, 255, 255, 0),
            )),
            ipv6: Some(("fd98::1950:2c2b:bd9d:6cef".parse().unwrap(), 128)),
            dns: vec!["10.98.0.1".parse().unwrap(), "fd98::1".parse().unwrap()],
            nbns: vec!["10.98.0.3".parse().unwrap()],
            split_dns: vec!["example.com".into()],
            routes: vec![route("10.50.0.0", 16), route("fd50::", 64)],
            no_routes: vec![route("10.50.9.0", 24)],
            tunnel_all_dns: false,
            client_bypass_protocol: false,
            keepalive: Some(Duration::from_secs(32400)),
            idle_timeout: Some(Duration::from_secs(1200)),
            dyndns: false,
            rekey: Some(Rekey {
                time: Duration::from_secs(172801),
                method: RekeyMethod::Ssl,
            }),
            proxy_url: None,
            session_timeout: Some((Duration::from_secs(7200), Duration::from_secs(7200))),
            custom_headers: vec![],
            username: "test".into(),
            groupname: String::new(),
            dtls: Some(DtlsAnswer {
                port: 443,
                app_id,
                rekey_in_place: true,
            }),
            mtu: negotiate(&MtuInput {
                start: 1500,
                client_base: Some(1500),
                client_tunnel: None,
                path: None,
                ipv6_lease: true,
                outer_ipv6: false,
                protection: Cipher::Aes256Gcm.into(),
            }),
            banner: Some("Hello there".into()),
        }
    }

    fn written(answer: &ConnectAnswer, client: &ConnectRequest) -> String {
        String::from_utf8(answer.write(client)).unwrap()
    }

    #[test]
    fn equals_what_the_reference_sends() {
        assert_eq!(
            written(&answer(), &openconnect()),
            FROZEN.replace('\n', "\r\n")
        );
    }

    #[test]
    fn nothing_configured() {
        let bare = ConnectAnswer {
            dpd: None,
            routes: vec![],
            keepalive: None,
            idle_timeout: None,
            rekey: None,
            session_timeout: None,
            dtls: None,
            banner: None,
            ..answer()
        };
        let text = written(&bare, &openconnect());
        assert!(
            text.contains("X-CSTP-Tunnel-All-DNS: true\r\n"),
            "implied by the default route"
        );
        assert!(text.contains("X-CSTP-Idle-Timeout: none\r\n"));
        assert!(text.contains("X-CSTP-Rekey-Method: none\r\n"));
        assert!(text.contains("X-CSTP-Session-Timeout: 0\r\n"));
        for absent in [
            "DPD",
            "Split-Include",
            "Keepalive: 3",
            "Rekey-Time",
            "X-DTLS",
            "Banner",
        ] {
            assert!(!text.contains(absent), "{absent}");
        }
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn old_clients_get_ipv6_in_the_old_form() {
        let old = client(&[("User-Agent", "AnyConnect Windows 3.0")]);
        let mut reply = answer();
        reply.ipv6 = Some(("2001:db8::1234".parse().unwrap(), 112));
        let text = written(&reply, &old);
        assert!(text.contains("X-CSTP-Address: 2001:db8::1234\r\n"));
        assert!(text.contains("X-CSTP-Netmask: 2001:db8::/112\r\n"));
        assert!(
            !text.contains("fd98::1") && !text.contains("fd50::"),
            "no names, no routes"
        );
    }

    #[test]
    fn families_that_the_client_does_not_want_are_left_out() {
        let v4 = client(&[
            ("X-CSTP-Address-Type", "IPv4"),
            ("X-CSTP-Full-IPv6-Capability", "true"),
        ]);
        let text = written(&answer(), &v4);
        assert!(text.contains("X-CSTP-Address: 10.98.0.190") && !text.contains(": fd"));
        let v6 = client(&[
            ("X-CSTP-Address-Type", "IPv6"),
            ("X-CSTP-Full-IPv6-Capability", "true"),
        ]);
        let text = written(&answer(), &v6);
        assert!(text.contains("X-CSTP-Address-IP6: fd98::") && !text.contains(" 10."));
    }

    #[test]
    fn ipv6_needs_the_mtu_for_it() {
        let mut reply = answer();
        reply.mtu.ipv6 = false;
        assert!(!written(&reply, &openconnect()).contains("X-CSTP-Address-IP6"));
    }

    #[test]
    fn anyconnect_has_headers_of_its_own() {
        let ios = client(&[
            ("User-Agent", "Cisco AnyConnect VPN Agent for Apple iPhone"),
            ("X-CSTP-Full-IPv6-Capability", "true"),
        ]);
        let text = written(&answer(), &ios);
        assert!(text.contains("X-CSTP-DNS: 10.98.0.1\r\nX-CSTP-DNS-IP6: fd98::1\r\n"));
        assert!(text.contains("X-CSTP-Split-Include-IP6: 2000::/3\r\n"));
        assert!(!written(&answer(), &openconnect()).contains("2000::/3"));
    }

    #[test]
    fn custom_lines_are_filled_in_and_come_before_dtls() {
        let mut reply = answer();
        reply.included_headers = vec!["Strict-Transport-Security: max-age=1".into()];
        reply.custom_headers = vec!["X-My: %{U} of %{G}".into()];
        reply.proxy_url = Some("http://pac/%{U}".into());
        reply.groupname = "staff".into();
        let text = written(&reply, &openconnect());
        let second = text.lines().nth(1);
        assert_eq!(second, Some("Strict-Transport-Security: max-age=1"));
        assert!(text.contains("accept\r\nX-My: test of staff\r\nX-DTLS-DPD: 10\r\n"));
        assert!(text.contains("X-CSTP-MSIE-Proxy-PAC-URL: http://pac/test\r\n"));
    }

    proptest! {
        /// Whatever the texts hold, the number of lines is the same.
        #[test]
        fn no_value_begins_a_header(text in "[\\x00-\\x7f\u{80}-\u{9f}\u{2028}]{0,40}") {
            let mut reply = answer();
            reply.custom_headers = vec!["X-My: %{U}".into()];
            let lines = written(&reply, &openconnect()).matches('\n').count();
            reply.username = text.clone();
            reply.hostname = Some(text.clone());
            reply.banner = Some(text.clone());
            reply.default_domain = Some(text.clone());
            reply.split_dns = vec![text.clone()];
            reply.server_name = text;
            let bytes = reply.write(&openconnect());
            prop_assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), lines);
            prop_assert_eq!(bytes.iter().filter(|byte| **byte == b'\r').count(), lines);
            prop_assert!(!bytes.contains(&0));
        }
    }
}
