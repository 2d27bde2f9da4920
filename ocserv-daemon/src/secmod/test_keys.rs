//! Keys and self-signed certificates made for tests.

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Verifier};
use openssl::x509::{X509, X509Name};

pub fn rsa() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

pub fn rsa_pss() -> PKey<Private> {
    let mut context = PkeyCtx::new_id(Id::RSA_PSS).unwrap();
    context.keygen_init().unwrap();
    context.set_rsa_keygen_bits(2048).unwrap();
    context.keygen().unwrap()
}

pub fn ec(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub fn ed25519() -> PKey<Private> {
    PKey::generate_ed25519().unwrap()
}

/// A certificate that ends `days` from now.
pub fn certificate(key: &PKey<Private>, days: i64) -> X509 {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "vpn.example.com")
        .unwrap();
    let name = name.build();
    let time = |days: i64| Asn1Time::from_unix(now() + days * 86_400).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = Asn1Integer::from_bn(&BigNum::from_u32(1).unwrap()).unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_not_before(&time(-10)).unwrap();
    builder.set_not_after(&time(days)).unwrap();
    builder.set_pubkey(key).unwrap();
    let digest = match key.id() {
        Id::ED25519 => MessageDigest::null(),
        _ => MessageDigest::sha256(),
    };
    builder.sign(key, digest).unwrap();
    builder.build()
}

fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    since.as_secs().try_into().unwrap()
}

/// Checks a signature with the key of a DER certificate.
pub fn verifies(leaf: &[u8], scheme: u16, message: &[u8], signature: &[u8]) -> bool {
    let key = X509::from_der(leaf).unwrap().public_key().unwrap();
    let (digest, pss) = match scheme {
        0x0401 | 0x0403 => (MessageDigest::sha256(), false),
        0x0501 | 0x0503 => (MessageDigest::sha384(), false),
        0x0601 | 0x0603 => (MessageDigest::sha512(), false),
        0x0804 | 0x0809 => (MessageDigest::sha256(), true),
        0x0805 | 0x080a => (MessageDigest::sha384(), true),
        0x0806 | 0x080b => (MessageDigest::sha512(), true),
        _ => {
            let mut verifier = Verifier::new_without_digest(&key).unwrap();
            return verifier.verify_oneshot(signature, message).unwrap();
        }
    };
    let mut verifier = Verifier::new(digest, &key).unwrap();
    if pss {
        verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        verifier.set_rsa_mgf1_md(digest).unwrap();
        // Exactly the digest's length, as TLS demands.
        let length = RsaPssSaltlen::custom(digest.size().try_into().unwrap());
        verifier.set_rsa_pss_saltlen(length).unwrap();
    }
    verifier.verify_oneshot(signature, message).unwrap()
}
