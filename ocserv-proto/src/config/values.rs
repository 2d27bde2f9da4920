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
