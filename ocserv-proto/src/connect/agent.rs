//! Client family by `User-Agent` (client-matrix.md 1).

/// Families that are treated differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientClass {
    /// openconnect and what is built on it.
    OpenConnect,
    /// openconnect 3 and older: no IPv6.
    OpenConnectV3,
    /// AnyConnect on iOS.
    AnyConnectApple,
    /// AnyConnect elsewhere.
    AnyConnect,
    /// Clavister OneConnect.
    Clavister,
    /// AnyLink Secure Client.
    AnyLink,
    /// A Cisco IP phone.
    IpPhone,
    /// Anything else.
    Unknown,
}

const NUMBERED_OPENCONNECT: &str = "open anyconnect vpn agent v";

/// Prefixes in lower case, tried after the numbered one; the first that fits decides.
const PREFIXES: [(&str, ClientClass); 8] = [
    (
        "cisco anyconnect vpn agent for apple",
        ClientClass::AnyConnectApple,
    ),
    ("openconnect vpn agent", ClientClass::OpenConnect),
    ("cisco anyconnect", ClientClass::AnyConnect),
    (
        "anyconnect-compatible openconnect",
        ClientClass::OpenConnect,
    ),
    ("anyconnect", ClientClass::AnyConnect),
    ("clavister oneconnect vpn", ClientClass::Clavister),
    ("anylink secure client", ClientClass::AnyLink),
    ("cisco svc ipphone client", ClientClass::IpPhone),
];

impl ClientClass {
    /// Family that this `User-Agent` belongs to.
    pub fn of(user_agent: &str) -> Self {
        let agent = user_agent.to_ascii_lowercase();
        if let Some(version) = agent.strip_prefix(NUMBERED_OPENCONNECT) {
            let digits = version.bytes().take_while(u8::is_ascii_digit).count();
            return match version[..digits].parse::<u32>() {
                Ok(0..=3) => Self::OpenConnectV3,
                _ => Self::OpenConnect,
            };
        }
        let known = PREFIXES
            .iter()
            .find(|(prefix, _)| agent.starts_with(prefix));
        known.map_or(Self::Unknown, |(_, class)| *class)
    }

    /// Cisco's own VPN clients.
    pub fn is_anyconnect(self) -> bool {
        matches!(self, Self::AnyConnect | Self::AnyConnectApple)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_by_prefix_in_order() {
        let table = [
            (
                "Open AnyConnect VPN Agent v9.01-3",
                ClientClass::OpenConnect,
            ),
            (
                "Open AnyConnect VPN Agent v3.20",
                ClientClass::OpenConnectV3,
            ),
            ("Open AnyConnect VPN Agent v30", ClientClass::OpenConnect),
            (
                "Cisco AnyConnect VPN Agent for Apple iPhone 4.1",
                ClientClass::AnyConnectApple,
            ),
            (
                "OpenConnect VPN Agent (NetworkManager)",
                ClientClass::OpenConnect,
            ),
            (
                "CISCO ANYCONNECT VPN Agent for Windows 4.10",
                ClientClass::AnyConnect,
            ),
            (
                "AnyConnect-compatible OpenConnect VPN Agent v9.20",
                ClientClass::OpenConnect,
            ),
            ("AnyConnect Windows 5.0", ClientClass::AnyConnect),
            ("Clavister OneConnect VPN 3", ClientClass::Clavister),
            ("AnyLink Secure Client 0.1", ClientClass::AnyLink),
            ("Cisco SVC IPPhone Client v1.0", ClientClass::IpPhone),
            ("OpenConnect-GUI 1.5.3", ClientClass::Unknown),
            ("", ClientClass::Unknown),
        ];
        for (agent, class) in table {
            assert_eq!(ClientClass::of(agent), class, "{agent}");
        }
    }
}
