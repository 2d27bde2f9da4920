//! Certificates, made by the `openssl` program.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process;

/// Kinds of server keys that deployments have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, 2048 bits.
    Rsa,
    /// RSA restricted to PSS signatures.
    RsaPss,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    fn genpkey_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Rsa => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            Self::RsaPss => &["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"],
            Self::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Self::P384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Self::P521 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
            Self::Ed25519 => &["-algorithm", "ED25519"],
        }
    }
}

/// A certificate with its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// PEM certificate.
    pub certificate: PathBuf,
    /// PEM key (PKCS#8).
    pub key: PathBuf,
}

/// A certificate authority in a directory.
#[derive(Clone, Debug)]
pub struct Authority {
    directory: PathBuf,
    identity: Identity,
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn create(directory: &Path) -> Result<Self> {
        let identity = Identity {
            certificate: directory.join("ca.pem"),
            key: directory.join("ca.key"),
        };
        generate_key(KeyKind::P256, &identity.key, None)?;
        openssl(&[
            "req",
            "-x509",
            "-new",
            "-days",
            "2",
            "-subj",
            "/CN=Test bed CA",
            "-key",
            text(&identity.key),
            "-out",
            text(&identity.certificate),
        ])?;
        Ok(Self {
            directory: directory.to_owned(),
            identity,
        })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Path {
        &self.identity.certificate
    }

    /// Issues a server certificate for a host name and an address, with files called `file`.
    /// With `pin` the key is encrypted.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn issue(
        &self,
        file: &str,
        kind: KeyKind,
        names: &Names,
        pin: Option<&str>,
    ) -> Result<Identity> {
        let identity = Identity {
            certificate: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}.key")),
        };
        generate_key(kind, &identity.key, pin)?;
        let password = format!("pass:{}", pin.unwrap_or_default());
        let subject = format!("/CN={}", names.host);
        let alternative = format!("subjectAltName=DNS:{},IP:{}", names.host, names.address);
        openssl(&[
            "req",
            "-x509",
            "-new",
            "-days",
            "2",
            "-subj",
            &subject,
            "-addext",
            &alternative,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-key",
            text(&identity.key),
            "-passin",
            &password,
            "-CA",
            text(&self.identity.certificate),
            "-CAkey",
            text(&self.identity.key),
            "-out",
            text(&identity.certificate),
        ])?;
        Ok(identity)
    }
}

/// What a server certificate is valid for.
#[derive(Clone, Debug)]
pub struct Names {
    /// Host name.
    pub host: String,
    /// IP address.
    pub address: String,
}

fn generate_key(kind: KeyKind, path: &Path, pin: Option<&str>) -> Result<()> {
    let mut arguments = vec!["genpkey", "-out", text(path)];
    arguments.extend(kind.genpkey_arguments());
    let password = format!("pass:{}", pin.unwrap_or_default());
    if pin.is_some() {
        arguments.extend(["-aes-256-cbc", "-pass", &password]);
    }
    openssl(&arguments)
}

fn openssl(arguments: &[&str]) -> Result<()> {
    process::run("openssl", arguments).map(drop)
}

fn text(path: &Path) -> &str {
    // The bed makes its paths from ASCII.
    path.to_str().unwrap_or_default()
}
