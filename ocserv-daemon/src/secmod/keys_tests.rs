//! Loading and signing with keys of every kind.

use std::path::PathBuf;

use ocserv_proto::config::{self, VhostConfig};
use openssl::symm::Cipher;
use tempfile::TempDir;

use super::super::test_keys::{certificate, ec, ed25519, rsa, rsa_pss, verifies};
use super::*;

struct Bed {
    dir: TempDir,
    vhost: VhostConfig,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vhost = VhostConfig {
            server_cert: vec![],
            server_key: vec![],
            ..example_vhost()
        };
        Self { dir, vhost }
    }

    fn with(key: &[u8], certificate: &[u8]) -> Self {
        let mut bed = Self::new();
        bed.add(key, certificate);
        bed
    }

    fn add(&mut self, key: &[u8], certificate: &[u8]) {
        let number = self.vhost.server_key.len();
        let (key_file, certificate_file) = (
            self.write(&format!("key{number}"), key),
            self.write(&format!("cert{number}"), certificate),
        );
        self.vhost.server_key.push(key_file);
        self.vhost.server_cert.push(certificate_file);
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self) -> Result<Vec<ServerKey>, KeyError> {
        load(&self.vhost, |warning| panic!("{warning}"))
    }

    fn error(&self) -> String {
        self.load().err().expect("a refused key").to_string()
    }
}

fn example_vhost() -> VhostConfig {
    let text = b"auth = plain[passwd=/p]\ntcp-port = 443\ndevice = vpns\nsocket-file = /s\n\
        server-cert = /c\nserver-key = /k\nipv4-network = 10.0.0.0/24\n";
    config::parse("test", text).unwrap().config.vhosts.remove(0)
}

fn pem(key: &PKey<Private>) -> Vec<u8> {
    key.private_key_to_pem_pkcs8().unwrap()
}

#[test]
fn every_kind_of_key_signs_in_its_schemes() {
    let kinds: [(PKey<Private>, &[u16]); 6] = [
        (rsa(), &[0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601]),
        (rsa_pss(), &[0x0809, 0x080a, 0x080b]),
        (ec(Nid::X9_62_PRIME256V1), &[0x0403]),
        (ec(Nid::SECP384R1), &[0x0503]),
        (ec(Nid::SECP521R1), &[0x0603]),
        (ed25519(), &[0x0807]),
    ];
    let mut bed = Bed::new();
    for (key, _) in &kinds {
        bed.add(&pem(key), &certificate(key, 10).to_pem().unwrap());
    }
    let loaded = bed.load().unwrap();
    for (key, (_, schemes)) in loaded.iter().zip(&kinds) {
        assert_eq!(key.info().schemes, *schemes);
        for scheme in *schemes {
            let signature = key.sign(*scheme, b"to be signed").unwrap();
            let leaf = &key.info().chain[0];
            assert!(
                verifies(leaf, *scheme, b"to be signed", &signature),
                "{scheme:#06x}"
            );
            assert!(
                !verifies(leaf, *scheme, b"to be Signed", &signature),
                "{scheme:#06x}"
            );
        }
        for scheme in [0x0201, 0x0203, 0x0808, 0xffff] {
            assert_eq!(key.sign(scheme, b"x"), None);
        }
    }
    assert_eq!(
        loaded[2].sign(0x0804, b"x"),
        None,
        "a scheme of another kind of key"
    );
    assert_eq!(
        loaded[0].sign(0x0809, b"x"),
        None,
        "PSS schemes of an RSASSA-PSS key"
    );
}

#[test]
fn keys_come_in_every_file_form() {
    let (rsa, ec) = (rsa(), ec(Nid::X9_62_PRIME256V1));
    let rsa_certificate = certificate(&rsa, 10).to_pem().unwrap();
    let ec_certificate = certificate(&ec, 10).to_pem().unwrap();
    let mut bed = Bed::new();
    bed.add(
        &rsa.rsa().unwrap().private_key_to_pem().unwrap(),
        &rsa_certificate,
    );
    bed.add(
        &rsa.private_key_to_der().unwrap(),
        &certificate(&rsa, 10).to_der().unwrap(),
    );
    bed.add(&rsa.private_key_to_pkcs8().unwrap(), &rsa_certificate);
    bed.add(
        &ec.ec_key().unwrap().private_key_to_pem().unwrap(),
        &ec_certificate,
    );
    bed.add(&pem(&ec), &ec_certificate);
    assert_eq!(bed.load().unwrap().len(), 5);
}

#[test]
fn encrypted_keys_need_their_pin() {
    let key = rsa();
    let encrypted = key
        .private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"1234")
        .unwrap();
    let mut bed = Bed::with(&encrypted, &certificate(&key, 10).to_pem().unwrap());
    assert!(
        bed.error().contains("set 'key-pin' or 'pin-file'"),
        "{}",
        bed.error()
    );
    bed.vhost.key_pin = Some(Secret::from("4321".to_owned()));
    assert!(bed.error().contains("wrong 'key-pin'"), "{}", bed.error());
    bed.vhost.key_pin = Some(Secret::from("1234".to_owned()));
    assert!(bed.load().is_ok());
    bed.vhost.key_pin = None;
    bed.vhost.pin_file = Some(bed.write("pin", b"1234\n"));
    assert!(bed.load().is_ok());
}

#[test]
fn key_urls_are_refused_and_their_pins_not_shown() {
    for url in [
        "pkcs11:token=t;pin-value=9876",
        "tpmkey:uuid=1",
        "system:win:1",
    ] {
        let mut bed = Bed::new();
        bed.vhost.server_key = vec![PathBuf::from(url)];
        bed.vhost.server_cert = vec![PathBuf::from("/c")];
        assert!(
            bed.error().contains("unsupported key URL"),
            "{}",
            bed.error()
        );
        assert!(!bed.error().contains("9876"));
    }
    let mut bed = Bed::with(b"-----BEGIN TSS2 PRIVATE KEY-----\n", b"");
    assert!(bed.error().contains("unsupported key URL"));
    let key = ed25519();
    bed = Bed::with(&pem(&key), b"");
    bed.vhost.server_cert = vec![PathBuf::from("pkcs11:token=t")];
    assert!(bed.error().contains("unsupported key URL"));
}

#[test]
fn a_key_must_belong_to_its_certificate() {
    let bed = Bed::with(
        &pem(&ed25519()),
        &certificate(&ed25519(), 10).to_pem().unwrap(),
    );
    assert!(bed.error().contains("does not belong"), "{}", bed.error());
    let bed = Bed::with(&pem(&rsa()), &certificate(&ed25519(), 10).to_pem().unwrap());
    assert!(bed.error().contains("does not belong"), "{}", bed.error());
}

#[test]
fn files_that_hold_something_else_are_refused() {
    let key = ed25519();
    let good = certificate(&key, 10).to_pem().unwrap();
    assert!(
        Bed::with(b"garbage", &good)
            .error()
            .contains("cannot load the key")
    );
    assert!(
        Bed::with(b"", &good)
            .error()
            .contains("cannot load the key")
    );
    assert!(
        Bed::with(&pem(&key), b"garbage")
            .error()
            .contains("cannot load the certificate")
    );
    let mut bed = Bed::with(&pem(&key), &good);
    bed.vhost.server_key[0] = PathBuf::from("/does/not/exist");
    assert!(bed.error().contains("cannot read '/does/not/exist'"));
    bed.vhost.server_key.clear();
    assert!(bed.error().contains("0 keys and 1 certificates"));
}

#[test]
fn an_unusual_curve_is_refused() {
    let key = ec(Nid::SECP256K1);
    let bed = Bed::with(&pem(&key), &certificate(&key, 10).to_pem().unwrap());
    assert!(bed.error().contains("of a kind"), "{}", bed.error());
}

#[test]
fn a_chain_keeps_its_order_and_an_expired_leaf_warns() {
    let (leaf, issuer) = (ed25519(), ed25519());
    let (leaf_certificate, issuer_certificate) = (certificate(&leaf, -1), certificate(&issuer, 10));
    let chain = [
        leaf_certificate.to_pem().unwrap(),
        issuer_certificate.to_pem().unwrap(),
    ]
    .concat();
    let bed = Bed::with(&pem(&leaf), &chain);
    let mut warnings = Vec::new();
    let keys = load(&bed.vhost, |warning| warnings.push(warning)).unwrap();
    let expected = [
        leaf_certificate.to_der().unwrap(),
        issuer_certificate.to_der().unwrap(),
    ];
    assert_eq!(keys[0].info().chain, expected);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("has expired"));
}
