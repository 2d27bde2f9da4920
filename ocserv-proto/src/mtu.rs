//! MTU of link and tunnel (protocol.md 9).

pub mod discovery;

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
pub fn outer_headers(outer_ipv6: bool) -> u16 {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INPUT: MtuInput = MtuInput {
        start: 1500,
        client_base: Some(1500),
        client_tunnel: None,
        path: None,
        ipv6_lease: false,
        outer_ipv6: false,
        protection: Protection::Gcm,
    };

    fn tunnel(input: MtuInput) -> u16 {
        negotiate(&input).tunnel
    }

    #[test]
    fn measured_results_for_a_link_of_1500() {
        let by = |protection| {
            tunnel(MtuInput {
                protection,
                ..INPUT
            })
        };
        assert_eq!(by(Protection::Gcm), 1434);
        assert_eq!(by(Protection::CbcSha1), 1406);
        assert_eq!(by(Protection::None), 1472);
        assert_eq!(by(Protection::ChaCha20Poly1305), 1442);
        assert_eq!(by(Protection::CbcSha256), 1394);
        assert_eq!(by(Protection::TripleDesSha1), 1422);
        assert_eq!(
            tunnel(MtuInput {
                outer_ipv6: true,
                ..INPUT
            }),
            1414
        );
    }

    #[test]
    fn ciphers_of_our_records() {
        assert_eq!(Protection::from(Cipher::Aes128Gcm), Protection::Gcm);
        assert_eq!(Protection::from(Cipher::Aes256Gcm), Protection::Gcm);
        assert_eq!(Protection::from(Cipher::ChaCha20Poly1305).overhead(), 29);
    }

    #[test]
    fn the_lowest_bound_wins_unless_it_is_below_the_floor() {
        let link = |input| negotiate(&input).link;
        assert_eq!(
            link(MtuInput {
                client_base: Some(1400),
                ..INPUT
            }),
            1400
        );
        assert_eq!(
            link(MtuInput {
                client_base: Some(9000),
                ..INPUT
            }),
            1500
        );
        assert_eq!(
            link(MtuInput {
                client_base: Some(800),
                ..INPUT
            }),
            800
        );
        assert_eq!(
            link(MtuInput {
                client_base: Some(799),
                ..INPUT
            }),
            1500
        );
        let ipv6 = MtuInput {
            ipv6_lease: true,
            ..INPUT
        };
        assert_eq!(
            link(MtuInput {
                client_base: Some(1279),
                ..ipv6
            }),
            1500
        );
        assert_eq!(
            link(MtuInput {
                client_base: Some(1280),
                ..ipv6
            }),
            1280
        );
        assert_eq!(
            link(MtuInput {
                path: Some(1450),
                ..INPUT
            }),
            1450
        );
        assert_eq!(
            link(MtuInput {
                path: Some(68),
                ..INPUT
            }),
            1500
        );
        assert_eq!(
            link(MtuInput {
                start: 100,
                ..INPUT
            }),
            800
        );
        assert_eq!(
            link(MtuInput {
                start: 60_000,
                client_base: None,
                ..INPUT
            }),
            16384
        );
    }

    #[test]
    fn a_tunnel_mtu_counts_only_without_a_base_mtu() {
        let link = |base, tunnel| {
            negotiate(&MtuInput {
                client_base: base,
                client_tunnel: tunnel,
                ..INPUT
            })
            .link
        };
        assert_eq!(link(None, Some(1300)), 1300 + 28 + 1 + 65);
        assert_eq!(link(Some(1450), Some(1000)), 1450);
        assert_eq!(link(None, None), 1500);
    }

    #[test]
    fn ipv6_needs_1280_inside() {
        let ipv6 = MtuInput {
            ipv6_lease: true,
            ..INPUT
        };
        assert!(negotiate(&ipv6).ipv6);
        let at = |base| {
            negotiate(&MtuInput {
                client_base: Some(base),
                ..ipv6
            })
        };
        assert_eq!(
            at(1346),
            Mtu {
                link: 1346,
                tunnel: 1280,
                ipv6: true
            }
        );
        assert_eq!(
            at(1345),
            Mtu {
                link: 1345,
                tunnel: 1279,
                ipv6: false
            }
        );
        assert!(!negotiate(&INPUT).ipv6, "without a lease");
    }

    proptest! {
        #[test]
        fn no_input_leads_out_of_the_bounds(
            start: u16, client_base: Option<u16>, client_tunnel: Option<u16>, path: Option<u16>,
            ipv6_lease: bool, outer_ipv6: bool,
            protection in prop::sample::select(&[Protection::None, Protection::CbcSha256][..]),
        ) {
            let mtu = negotiate(&MtuInput {
                start, client_base, client_tunnel, path, ipv6_lease, outer_ipv6, protection,
            });
            let floor = if ipv6_lease { IPV6_MINIMUM } else { IPV4_MINIMUM };
            prop_assert!((floor..=MAXIMUM).contains(&mtu.link));
            prop_assert!(mtu.tunnel < mtu.link && mtu.link - mtu.tunnel <= 48 + 77 + 1);
            prop_assert!(!mtu.ipv6 || mtu.tunnel >= IPV6_MINIMUM);
        }
    }
}
