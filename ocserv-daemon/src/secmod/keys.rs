//! Private keys and their certificates: loaded from files, used to sign TLS handshakes.
//!
//! Keys stay inside OpenSSL's own objects, which overwrite them when freed.

use std::path::{Path, PathBuf};

use ocserv_proto::config::VhostConfig;
use ocserv_proto::secret::Secret;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer};
use openssl::x509::X509;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::ipc::secmod::KeyInfo;

/// Key and certificate names that GnuTLS takes as addresses, not as files (config.md §5).
const URL_SCHEMES: [&str; 4] = ["pkcs11:", "tpmkey:", "system:", "tpmuri:"];

/// Candidates, best first; what a key cannot make is left out (RFC 8446 §4.2.3).
const RSA_SCHEMES: [u16; 6] = [0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601];
const RSA_PSS_SCHEMES: [u16; 3] = [0x0809, 0x080a, 0x080b];

/// Why keys cannot be used. The text names the file and the way out.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Not readable.
    #[error("cannot read '{0}': {1}")]
    Read(PathBuf, std::io::Error),
    /// A PKCS#11, TPM or system key.
    #[error("unsupported key URL '{0}': give the name of a PEM or DER file")]
    Url(String),
    /// Encrypted, and no PIN is configured.
    #[error("the key '{0}' is encrypted: set 'key-pin' or 'pin-file'")]
    NoPin(PathBuf),
    /// Not a key, or the wrong PIN.
    #[error("cannot load the key '{0}' (damaged, or a wrong 'key-pin'): {1}")]
    Key(PathBuf, ErrorStack),
    /// OpenSSL knows the key, TLS does not.
    #[error("the key '{0}' is of a kind that TLS servers cannot use: use RSA, ECDSA or Ed25519")]
    Kind(PathBuf),
    /// Not a certificate.
    #[error("cannot load the certificate '{0}': {1}")]
    Certificate(PathBuf, String),
    /// The n-th key is not that of the n-th certificate.
    #[error("the key '{0}' does not belong to the certificate '{1}'")]
    Mismatch(PathBuf, PathBuf),
    /// Different numbers of keys and certificates.
    #[error("there are {0} keys and {1} certificates; each key needs one certificate")]
    Count(usize, usize),
}

/// A key that signs for one certificate chain.
pub struct ServerKey {
    key: PKey<Private>,
    info: KeyInfo,
}

impl ServerKey {
    /// What a gate may know.
    pub fn info(&self) -> &KeyInfo {
        &self.info
    }

    /// The signature of `message` under a TLS signature scheme; `None` for a scheme that this key
    /// cannot make.
    pub fn sign(&self, scheme: u16, message: &[u8]) -> Option<Vec<u8>> {
        if !self.info.schemes.contains(&scheme) {
            return None;
        }
        sign(&self.key, scheme, message).ok().flatten()
    }
}

/// Loads every key of a vhost, in the order of the configuration. `warn` gets what is odd but no
/// reason to stop.
///
/// # Errors
/// The first key or certificate that cannot be used.
pub fn load(vhost: &VhostConfig, mut warn: impl FnMut(String)) -> Result<Vec<ServerKey>, KeyError> {
    let (keys, certificates) = (&vhost.server_key, &vhost.server_cert);
    if keys.len() != certificates.len() {
        return Err(KeyError::Count(keys.len(), certificates.len()));
    }
    let pin = pin(vhost)?;
    keys.iter()
        .zip(certificates)
        .map(|(key, certificate)| load_pair(key, certificate, pin.as_ref(), &mut warn))
        .collect()
}

fn load_pair(
    key_path: &Path,
    certificate_path: &Path,
    pin: Option<&Secret>,
    warn: &mut impl FnMut(String),
) -> Result<ServerKey, KeyError> {
    let key = load_key(key_path, pin)?;
    let chain = load_chain(certificate_path)?;
    let certificate_error =
        |error: ErrorStack| KeyError::Certificate(certificate_path.to_owned(), error.to_string());
    let Some(leaf) = chain.first() else {
        let reason = "it holds no certificate".to_owned();
        return Err(KeyError::Certificate(certificate_path.to_owned(), reason));
    };
    if !leaf
        .public_key()
        .map_err(certificate_error)?
        .public_eq(&key)
    {
        return Err(KeyError::Mismatch(
            key_path.to_owned(),
            certificate_path.to_owned(),
        ));
    }
    let now = Asn1Time::days_from_now(0).map_err(certificate_error)?;
    if leaf.not_after() < now {
        warn(format!(
            "the certificate '{}' has expired",
            certificate_path.display()
        ));
    } else if leaf.not_before() > now {
        warn(format!(
            "the certificate '{}' is not valid yet",
            certificate_path.display()
        ));
    }
    let schemes = schemes(&key);
    if schemes.is_empty() {
        return Err(KeyError::Kind(key_path.to_owned()));
    }
    let chain = chain
        .iter()
        .map(|certificate| certificate.to_der())
        .collect::<Result<_, _>>()
        .map_err(certificate_error)?;
    Ok(ServerKey {
        key,
        info: KeyInfo { schemes, chain },
    })
}

fn load_key(path: &Path, pin: Option<&Secret>) -> Result<PKey<Private>, KeyError> {
    let bytes = read(path)?;
    if contains(&bytes, b"BEGIN TSS2 PRIVATE KEY") {
        return Err(KeyError::Url(path.display().to_string()));
    }
    let mut asked = false;
    // Without the callback OpenSSL would ask on the terminal.
    let give_pin = |buffer: &mut [u8]| {
        asked = true;
        let pin = pin.map(Secret::expose).unwrap_or_default();
        let room = buffer.get_mut(..pin.len()).ok_or_else(ErrorStack::get)?;
        room.copy_from_slice(pin);
        Ok(pin.len())
    };
    let loaded = if contains(&bytes, b"-----BEGIN") {
        PKey::private_key_from_pem_callback(&bytes, give_pin)
    } else {
        PKey::private_key_from_der(&bytes)
            .or_else(|_| PKey::private_key_from_pkcs8_callback(&bytes, give_pin))
    };
    loaded.map_err(|error| {
        if asked && pin.is_none() {
            KeyError::NoPin(path.to_owned())
        } else {
            KeyError::Key(path.to_owned(), error)
        }
    })
}

fn load_chain(path: &Path) -> Result<Vec<X509>, KeyError> {
    let bytes = read(path)?;
    if contains(&bytes, b"-----BEGIN") {
        X509::stack_from_pem(&bytes)
    } else {
        X509::from_der(&bytes).map(|certificate| vec![certificate])
    }
    .map_err(|error| KeyError::Certificate(path.to_owned(), error.to_string()))
}

/// `key-pin`, or the first line of `pin-file`.
fn pin(vhost: &VhostConfig) -> Result<Option<Secret>, KeyError> {
    if vhost.key_pin.is_some() {
        return Ok(vhost.key_pin.clone());
    }
    let Some(path) = &vhost.pin_file else {
        return Ok(None);
    };
    let bytes = read(path)?;
    let line = bytes
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    Ok(Some(Secret::new(line.trim_ascii_end().to_vec())))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let name = path.to_string_lossy();
    if URL_SCHEMES.iter().any(|scheme| name.starts_with(scheme)) {
        // The part behind `;` or `?` may hold a PIN.
        let shown = name.split([';', '?']).next().unwrap_or_default();
        return Err(KeyError::Url(shown.to_owned()));
    }
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| KeyError::Read(path.to_owned(), error))
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// What `key` can make: found by trying, since PSS parameters and short moduli forbid some.
fn schemes(key: &PKey<Private>) -> Vec<u16> {
    let candidates: &[u16] = match key.id() {
        Id::RSA => &RSA_SCHEMES,
        Id::RSA_PSS => &RSA_PSS_SCHEMES,
        Id::ED25519 => &[0x0807],
        Id::EC => match key.ec_key().ok().and_then(|key| key.group().curve_name()) {
            Some(Nid::X9_62_PRIME256V1) => &[0x0403],
            Some(Nid::SECP384R1) => &[0x0503],
            Some(Nid::SECP521R1) => &[0x0603],
            _ => &[],
        },
        _ => &[],
    };
    candidates
        .iter()
        .copied()
        .filter(|scheme| matches!(sign(key, *scheme, b"trial"), Ok(Some(_))))
        .collect()
}

fn sign(key: &PKey<Private>, scheme: u16, message: &[u8]) -> Result<Option<Vec<u8>>, ErrorStack> {
    let (digest, pss) = match scheme {
        0x0401 => (MessageDigest::sha256(), false),
        0x0501 => (MessageDigest::sha384(), false),
        0x0601 => (MessageDigest::sha512(), false),
        0x0403 => (MessageDigest::sha256(), false),
        0x0503 => (MessageDigest::sha384(), false),
        0x0603 => (MessageDigest::sha512(), false),
        0x0804 | 0x0809 => (MessageDigest::sha256(), true),
        0x0805 | 0x080a => (MessageDigest::sha384(), true),
        0x0806 | 0x080b => (MessageDigest::sha512(), true),
        0x0807 => {
            return Signer::new_without_digest(key)?
                .sign_oneshot_to_vec(message)
                .map(Some);
        }
        _ => return Ok(None),
    };
    let mut signer = Signer::new(digest, key)?;
    if pss {
        signer.set_rsa_padding(Padding::PKCS1_PSS)?;
        signer.set_rsa_mgf1_md(digest)?;
        signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
    }
    signer.sign_oneshot_to_vec(message).map(Some)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
