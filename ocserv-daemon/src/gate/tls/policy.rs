//! `tls-priorities` as a rustls configuration.

use std::sync::Arc;

use ocserv_proto::config::{Cipher, Group, TlsPolicy};
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::certificate::{Certificates, Resolver};
use super::suites;

/// A configuration without resumption: [`super::accept`] adds the store, and the resolver that knows
/// the client's offer, for each connection.
///
/// # Errors
/// When the policy leaves no cipher suite or no version.
pub fn server_config(
    policy: &TlsPolicy,
    certificates: Arc<Certificates>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = CryptoProvider {
        cipher_suites: chosen_suites(policy),
        kx_groups: policy.groups.iter().map(|group| kx(*group)).collect(),
        ..default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions(policy))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver {
            certificates,
            offered: Vec::new(),
        }));
    config.ignore_client_order = policy.server_precedence;
    // One ticket: each costs the security module an entry, and a client keeps only the last.
    config.send_tls13_tickets = usize::from(policy.tickets);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn versions(policy: &TlsPolicy) -> Vec<&'static SupportedProtocolVersion> {
    let mut versions = Vec::with_capacity(2);
    if policy.tls13 {
        versions.push(&version::TLS13);
    }
    if policy.tls12 {
        versions.push(&version::TLS12);
    }
    versions
}

fn chosen_suites(policy: &TlsPolicy) -> Vec<SupportedCipherSuite> {
    let mut suites = Vec::with_capacity(9);
    for cipher in &policy.ciphers {
        let (tls13, ecdsa, rsa) = suites_of(*cipher);
        if policy.tls13 {
            suites.push(tls13);
        }
        if policy.tls12 && policy.ecdhe_ecdsa {
            suites.push(ecdsa);
        }
        if policy.tls12 && policy.ecdhe_rsa {
            suites.push(rsa);
        }
    }
    suites
}

/// The suites of TLS 1.3, ECDHE_ECDSA and ECDHE_RSA with this cipher.
fn suites_of(
    cipher: Cipher,
) -> (
    SupportedCipherSuite,
    SupportedCipherSuite,
    SupportedCipherSuite,
) {
    match cipher {
        Cipher::Aes128Gcm => (
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ),
        Cipher::Aes256Gcm => (
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ),
        Cipher::Chacha20Poly1305 => (
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    }
}

fn kx(group: Group) -> &'static dyn SupportedKxGroup {
    match group {
        Group::X25519 => kx_group::X25519,
        Group::Secp256r1 => kx_group::SECP256R1,
        Group::Secp384r1 => kx_group::SECP384R1,
    }
}
