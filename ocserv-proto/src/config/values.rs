//! Grammars of single values (config.md §4.1).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// A network as the file gives it: host bits are kept, as they go to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Address.
    pub net: IpAddr,
    /// Prefix length, at most 32 or 128.
    pub prefix: u8,
}

impl Route {
    /// CIDR form, e.g. `10.0.0.0/8`.
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.net, self.prefix)
    }

    /// The dotted mask of an IPv4 network.
    pub fn netmask(&self) -> Option<Ipv4Addr> {
        match self.net {
            IpAddr::V4(_) => {
                let bits = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix.min(32)))
                    .unwrap_or(0);
                Some(Ipv4Addr::from_bits(bits))
            }
            IpAddr::V6(_) => None,
        }
    }
}

/// A `route` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteValue {
    /// `default`, or a network of prefix length 0.
    Default,
    /// A network.
    Net(Route),
}

/// Why a route or network is refused; displayed in the reference's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RouteError {
    /// No `/`.
    #[error("route '{0}' in wrong format, use xxx.xxx.xxx.xxx/xxx.xxx.xxx.xxx")]
    NoPrefix(String),
    /// Address, prefix length or mask is wrong.
    #[error("cannot figure format of route '{0}'")]
    Format(String),
}

/// Reads a route strictly: these strings reach commands and clients.
pub(super) fn parse_route(text: &str) -> Result<RouteValue, RouteError> {
    if text == "default" {
        return Ok(RouteValue::Default);
    }
    let (net, prefix) = text
        .split_once('/')
        .ok_or_else(|| RouteError::NoPrefix(text.to_owned()))?;
    let format = || RouteError::Format(text.to_owned());
    let net: IpAddr = net.parse().map_err(|_| format())?;
    let prefix = parse_prefix(net.is_ipv4(), prefix).ok_or_else(format)?;
    if prefix == 0 && net.is_unspecified() {
        return Ok(RouteValue::Default);
    }
    Ok(RouteValue::Net(Route { net, prefix }))
}

/// A prefix length, or for IPv4 a contiguous mask.
pub(super) fn parse_prefix(ipv4: bool, text: &str) -> Option<u8> {
    if ipv4 && text.contains('.') {
        return parse_mask(text);
    }
    if text.is_empty() || text.len() > 3 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let prefix: u8 = text.parse().ok()?;
    (prefix <= if ipv4 { 32 } else { 128 }).then_some(prefix)
}

/// A contiguous IPv4 mask as a prefix length.
pub(super) fn parse_mask(text: &str) -> Option<u8> {
    let mask = text.parse::<Ipv4Addr>().ok()?.to_bits();
    let ones = mask.leading_ones();
    (mask.count_ones() == ones).then_some(ones as u8)
}

impl fmt::Display for Route {
    /// The form of CSTP headers: dotted mask for IPv4, prefix length for IPv6.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.netmask() {
            Some(mask) => write!(f, "{}/{mask}", self.net),
            None => write!(f, "{}/{}", self.net, self.prefix),
        }
    }
}

/// `restrict-user-to-ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRules {
    /// The list names what is forbidden instead of what is allowed.
    pub deny: bool,
    /// In file order.
    pub rules: Vec<PortRule>,
}

impl PortRules {
    /// Reads `tcp(443), udp(53)` or `!(tcp(22))` (config.md §4.1).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (deny, list) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim().strip_prefix('(')?.strip_suffix(')')?),
            None => (false, text),
        };
        let rules: Option<Vec<_>> = list
            .split(',')
            .map(|rule| PortRule::parse(rule.trim()))
            .collect();
        Some(Self {
            deny,
            rules: rules?,
        })
    }
}

impl PortRule {
    fn parse(text: &str) -> Option<Self> {
        let (protocol, port) = text.strip_suffix(')')?.split_once('(')?;
        let protocol = match protocol.trim_end() {
            "tcp" => PortProtocol::Tcp,
            "udp" => PortProtocol::Udp,
            "sctp" => PortProtocol::Sctp,
            "esp" => PortProtocol::Esp,
            "icmp" => PortProtocol::Icmp,
            "icmpv6" => PortProtocol::Icmpv6,
            _ => return None,
        };
        let has_ports = matches!(
            protocol,
            PortProtocol::Tcp | PortProtocol::Udp | PortProtocol::Sctp
        );
        let port = port.trim();
        match (has_ports, port.is_empty()) {
            (true, false) => {
                let port = port.parse().ok().filter(|&port: &u16| port != 0)?;
                Some(Self {
                    protocol,
                    port: Some(port),
                })
            }
            (false, true) => Some(Self {
                protocol,
                port: None,
            }),
            _ => None,
        }
    }
}

/// One entry of [`PortRules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRule {
    /// Which protocol.
    pub protocol: PortProtocol,
    /// Destination port, for protocols that have one.
    pub port: Option<u16>,
}

/// Protocols of [`PortRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortProtocol {
    /// `tcp(N)`.
    Tcp,
    /// `udp(N)`.
    Udp,
    /// `sctp(N)`.
    Sctp,
    /// `esp()`.
    Esp,
    /// `icmp()`.
    Icmp,
    /// `icmpv6()`.
    Icmpv6,
}

/// `net-priority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetPriority {
    /// Decimal form: `SO_PRIORITY`, 0 to 6.
    Priority(u8),
    /// Hexadecimal form: IP TOS byte.
    Tos(u8),
}

impl NetPriority {
    /// Reads `0` to `6`, or a byte as `0xHH`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
            return u8::from_str_radix(hex, 16).ok().map(Self::Tos);
        }
        text.parse()
            .ok()
            .filter(|priority| *priority <= 6)
            .map(Self::Priority)
    }
}
