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
        head.header("X-DTLS-MTU", self.mtu.tunnel);
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
