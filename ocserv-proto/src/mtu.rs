//! MTU of link and tunnel (protocol.md 9).

use crate::dtls::Cipher;

/// Smallest MTU that IPv6 allows; the floor of a session with an IPv6 lease.
pub const IPV6_MINIMUM: u16 = 1280;
/// The floor of the others.
pub const IPV4_MINIMUM: u16 = 800;
/// Upper bound of every MTU; larger client numbers count as absent.
pub const MAXIMUM: u16 = 16384;

const TYPE_BYTE: u16 = 1;
/// What is assumed for a client that names only its tunnel MTU.
const ASSUMED_CRYPTO: u16 = 65;

/// Bytes of IP and UDP header.
fn outer_headers(outer_ipv6: bool) -> u16 {
    if outer_ipv6 { 48 } else { 28 }
}

/// Protection of DTLS records as far as the MTU is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// No DTLS.
    None,
    /// AES-GCM.
    Gcm,
    /// CHACHA20-POLY1305.
    ChaCha20Poly1305,
    /// AES-CBC with SHA-1.
    CbcSha1,
    /// AES-CBC with SHA-256.
    CbcSha256,
    /// 3DES-CBC with SHA-1.
    TripleDesSha1,
}

impl Protection {
    /// Bytes of record header, nonce, padding and tag.
    pub fn overhead(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Gcm => 37,
            Self::ChaCha20Poly1305 => 29,
            Self::CbcSha1 => 65,
            Self::CbcSha256 => 77,
            Self::TripleDesSha1 => 49,
        }
    }
}

impl From<Cipher> for Protection {
    fn from(cipher: Cipher) -> Self {
        match cipher {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => Self::Gcm,
            Cipher::ChaCha20Poly1305 => Self::ChaCha20Poly1305,
        }
    }
}

/// What the MTU depends on. All numbers are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MtuInput {
    /// `mtu` of user, group or vhost, else the tun device's.
    pub start: u16,
    /// `X-CSTP-Base-MTU`, range-checked.
    pub client_base: Option<u16>,
    /// `X-CSTP-MTU`, range-checked.
    pub client_tunnel: Option<u16>,
    /// Path MTU that the kernel knows of the TLS connection.
    pub path: Option<u16>,
    /// The session has an IPv6 lease.
    pub ipv6_lease: bool,
    /// The client is connected by IPv6.
    pub outer_ipv6: bool,
    /// Of DTLS records; before the handshake, that of the TLS session.
    pub protection: Protection,
}

/// Result of the negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtu {
    /// `X-CSTP-Base-MTU`: outer packet.
    pub link: u16,
    /// `X-CSTP-MTU` and `X-DTLS-MTU`: inner packet.
    pub tunnel: u16,
    /// Whether the IPv6 lease may be offered: not below 1280.
    pub ipv6: bool,
}

/// Negotiates. No input, however odd, leads out of the bounds.
pub fn negotiate(input: &MtuInput) -> Mtu {
    let floor = if input.ipv6_lease {
        IPV6_MINIMUM
    } else {
        IPV4_MINIMUM
    };
    let outer = outer_headers(input.outer_ipv6);
    let wished = match (input.client_base, input.client_tunnel) {
        (Some(base), _) => Some(base),
        (None, Some(tunnel)) => Some(tunnel.saturating_add(outer + TYPE_BYTE + ASSUMED_CRYPTO)),
        (None, None) => None,
    };
    let mut link = input.start.clamp(floor, MAXIMUM);
    for bound in wished.into_iter().chain(input.path) {
        if bound >= floor {
            link = link.min(bound);
        }
    }
    let type_byte = if input.protection == Protection::None {
        0
    } else {
        TYPE_BYTE
    };
    let tunnel = link - outer - input.protection.overhead() - type_byte;
    Mtu {
        link,
        tunnel,
        ipv6: input.ipv6_lease && tunnel >= IPV6_MINIMUM,
    }
}
