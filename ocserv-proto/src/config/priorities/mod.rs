//! `tls-priorities`: a GnuTLS priority string as a policy for rustls and DTLS-PSK (config.md §5).

use serde::{Deserialize, Serialize};

/// What TLS and DTLS may negotiate. Only what the gateway can serve is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsPolicy {
    /// TLS 1.2 is on.
    pub tls12: bool,
    /// TLS 1.3 is on.
    pub tls13: bool,
    /// Ciphers of TLS, best first.
    pub ciphers: Vec<Cipher>,
    /// Ciphers of DTLS 1.2 with PSK, best first; empty: no DTLS.
    pub dtls_ciphers: Vec<Cipher>,
    /// Key exchange groups, best first.
    pub groups: Vec<Group>,
    /// TLS 1.2 suites ECDHE_RSA are on.
    pub ecdhe_rsa: bool,
    /// TLS 1.2 suites ECDHE_ECDSA are on.
    pub ecdhe_ecdsa: bool,
    /// TLS `SignatureScheme` code points, best first.
    pub signatures: Vec<u16>,
    /// The server's order of ciphers counts, not the client's.
    pub server_precedence: bool,
    /// Tickets may be issued.
    pub tickets: bool,
    /// Smallest RSA modulus of a server certificate, bits; 0: no limit.
    pub min_rsa_bits: u32,
}

/// AEAD ciphers of TLS 1.2, TLS 1.3 and DTLS 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

/// Key exchange groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    /// X25519.
    X25519,
    /// NIST P-256.
    Secp256r1,
    /// NIST P-384.
    Secp384r1,
}
