//! TLS parameters in the form that GnuTLS prints and occtl shows.

use ocserv_proto::config::Cipher;
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, ServerConnection};

/// E.g. `(TLS1.3)-(ECDHE-X25519)-(RSA-PSS-RSAE-SHA256)-(AES-256-GCM)`. `scheme` is that of the
/// server's signature; a resumed session has none.
pub fn describe(tls: &ServerConnection, scheme: Option<u16>) -> String {
    let tls13 = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let mut text = String::from(if tls13 { "(TLS1.3)" } else { "(TLS1.2)" });
    if let Some(group) = tls.negotiated_key_exchange_group() {
        text += &format!("-(ECDHE-{})", group_name(group.name()));
    }
    if let Some(name) = scheme.and_then(|scheme| signature_name(scheme, tls13)) {
        text += &format!("-({name})");
    }
    if let Some(cipher) = cipher(tls) {
        text += &format!("-({})", cipher_name(cipher));
    }
    text
}

/// The cipher of an established connection.
pub fn cipher(tls: &ServerConnection) -> Option<Cipher> {
    Some(match tls.negotiated_cipher_suite()?.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::Aes128Gcm,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::Chacha20Poly1305,
        _ => Cipher::Aes256Gcm,
    })
}

/// GnuTLS' name of a cipher.
pub fn cipher_name(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::Aes128Gcm => "AES-128-GCM",
        Cipher::Aes256Gcm => "AES-256-GCM",
        Cipher::Chacha20Poly1305 => "CHACHA20-POLY1305",
    }
}

fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "SECP256R1",
        NamedGroup::secp384r1 => "SECP384R1",
        NamedGroup::secp521r1 => "SECP521R1",
        _ => "UNKNOWN",
    }
}

/// GnuTLS names the curve of an ECDSA signature only where TLS 1.3 fixes it.
fn signature_name(scheme: u16, tls13: bool) -> Option<&'static str> {
    Some(match (scheme, tls13) {
        (0x0401, _) => "RSA-SHA256",
        (0x0501, _) => "RSA-SHA384",
        (0x0601, _) => "RSA-SHA512",
        (0x0403, true) => "ECDSA-SECP256R1-SHA256",
        (0x0503, true) => "ECDSA-SECP384R1-SHA384",
        (0x0603, true) => "ECDSA-SECP521R1-SHA512",
        (0x0403, false) => "ECDSA-SHA256",
        (0x0503, false) => "ECDSA-SHA384",
        (0x0603, false) => "ECDSA-SHA512",
        (0x0804, _) => "RSA-PSS-RSAE-SHA256",
        (0x0805, _) => "RSA-PSS-RSAE-SHA384",
        (0x0806, _) => "RSA-PSS-RSAE-SHA512",
        (0x0807, _) => "EdDSA-Ed25519",
        (0x0809, _) => "RSA-PSS-SHA256",
        (0x080a, _) => "RSA-PSS-SHA384",
        (0x080b, _) => "RSA-PSS-SHA512",
        _ => return None,
    })
}
