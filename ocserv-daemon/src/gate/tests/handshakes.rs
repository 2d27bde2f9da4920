//! TLS with keys of every kind, in both versions.

use openssl::ssl::SslVersion;

use super::bed::{Bed, PATIENCE};
use super::client::Client;
use crate::ipc::gate::{EndReason, FromGate};

fn scheme_used(keys: &[&str], version: SslVersion) -> (Vec<u16>, String) {
    let mut bed = Bed::new(keys, "");
    let (_, tcp) = bed.connect();
    let mut client = Client::new(tcp, version);
    assert!(
        client
            .request("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .starts_with("HTTP/1.1 200 ")
    );
    let certificate = client.tls.ssl().peer_certificate().unwrap();
    let name = certificate.subject_name().entries().next().unwrap();
    let name = String::from_utf8(name.data().as_slice().to_vec()).unwrap();
    let made = bed.signatures.lock().unwrap().clone();
    drop(client);
    bed.stop();
    (made, name)
}

#[test]
fn every_kind_of_key_works_in_tls_1_3() {
    let expected = [
        ("rsa", 0x0804),
        ("rsa-pss", 0x0809),
        ("ecdsa", 0x0403),
        ("ed25519", 0x0807),
    ];
    for (name, scheme) in expected {
        let (made, subject) = scheme_used(&[name], SslVersion::TLS1_3);
        assert_eq!((made, subject), (vec![scheme], format!("{name}.example")));
    }
}

#[test]
fn every_kind_of_key_works_in_tls_1_2() {
    for name in ["rsa", "rsa-pss", "ecdsa", "ed25519"] {
        let (made, subject) = scheme_used(&[name], SslVersion::TLS1_2);
        assert_eq!((made.len(), subject), (1, format!("{name}.example")));
    }
}

#[test]
fn a_connection_without_a_byte_is_a_health_probe() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (conn, tcp) = bed.connect();
    drop(tcp);
    match bed.heard() {
        FromGate::Closed {
            conn: closed,
            reason,
        } => {
            assert_eq!((closed, reason), (conn, EndReason::HealthProbe));
        }
        other => panic!("{other:?}"),
    }
    bed.stop();
}

#[test]
fn bytes_that_are_not_tls_end_their_connection_only() {
    use std::io::{Read, Write};
    let mut bed = Bed::new(&["ecdsa"], "");
    let (_, mut noise) = bed.connect();
    let (_, tcp) = bed.connect();
    noise
        .write_all(&[0x16, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 0])
        .unwrap();
    noise.write_all(&[0; 100]).unwrap();
    noise.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut left = Vec::new();
    // A reset is as good as an end.
    let _ = noise.read_to_end(&mut left);
    assert!(matches!(
        bed.heard(),
        FromGate::Closed {
            reason: EndReason::Unspecified,
            ..
        }
    ));
    let mut client = Client::new(tcp, SslVersion::TLS1_3);
    client.log_in();
    bed.stop();
}
