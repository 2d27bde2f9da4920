//! A session with a client in this process.

use std::io::Read;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CipherSuiteCommon, ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig,
    SignatureScheme, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite, version,
};
use tokio::net::TcpListener;

use super::*;

#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The suite with another limit of records.
fn limited(suite: SupportedCipherSuite, limit: u64) -> SupportedCipherSuite {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: limit,
    };
    match suite {
        SupportedCipherSuite::Tls12(stock) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&stock.common),
                ..*stock
            })))
        }
        SupportedCipherSuite::Tls13(stock) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&stock.common),
                ..*stock
            })))
        }
    }
}

/// Both ends of a session with this suite.
fn established(suite: SupportedCipherSuite) -> (TlsSession, ClientConnection) {
    let provider = |suite| CryptoProvider {
        cipher_suites: vec![suite],
        ..default_provider()
    };
    let version = match suite {
        SupportedCipherSuite::Tls12(_) => &version::TLS12,
        SupportedCipherSuite::Tls13(_) => &version::TLS13,
    };
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../../testdata/ecdsa.crt"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../testdata/ecdsa.key"));
    let server = ServerConfig::builder_with_provider(Arc::new(provider(suite)))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.unwrap()], key.unwrap())
        .unwrap();
    let stock = limited(suite, u64::MAX);
    let client = ClientConfig::builder_with_provider(Arc::new(provider(stock)))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider(stock))))
        .with_no_client_auth();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let name = "ecdsa.example".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    while server.is_handshaking() || client.is_handshaking() {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        server.read_tls(&mut &to_server[..]).unwrap();
        server.process_new_packets().unwrap();
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        client.read_tls(&mut &to_client[..]).unwrap();
        client.process_new_packets().unwrap();
    }
    (TlsSession::new(server, None), client)
}

/// What the client finds in all that is queued for it, and whether the session was closed behind it.
fn received(session: &mut TlsSession, client: &mut ClientConnection) -> (Vec<u8>, bool) {
    let mut wire = Vec::new();
    while session.tls.wants_write() {
        session.tls.write_tls(&mut wire).unwrap();
    }
    let (mut wire, mut content) = (&wire[..], Vec::new());
    while !wire.is_empty() {
        client.read_tls(&mut wire).unwrap();
        let closed = client.process_new_packets().unwrap().peer_has_closed();
        // The rest has not come yet, else.
        let _ = client.reader().read_to_end(&mut content);
        if closed {
            return (content, true);
        }
    }
    (content, false)
}

/// Suites of TLS 1.2 and 1.3.
fn suites() -> [SupportedCipherSuite; 4] {
    [
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ]
}

#[test]
fn keys_that_are_used_up_are_reported_before_a_frame_is_lost() {
    for suite in &suites()[..2] {
        let (mut session, mut client) = established(limited(*suite, 100));
        let mut taken = Vec::new();
        for number in 0..200 {
            let payload = [number; 100];
            if session.queue_frame(&[number; 8], &payload).is_ok() {
                taken.extend([number; 108]);
            }
        }
        assert!(!taken.is_empty() && taken.len() < 200 * 108);
        assert!(session.queue(b"answer").is_err());
        session.queue_close();
        assert_eq!(received(&mut session, &mut client), (taken, true));
    }
}

#[test]
fn keys_of_tls_1_3_are_renewed_instead() {
    for suite in &suites()[2..] {
        let (mut session, mut client) = established(limited(*suite, 10));
        for number in 0..100 {
            session.queue_frame(&[number; 8], &[number; 100]).unwrap();
        }
        let (content, closed) = received(&mut session, &mut client);
        assert_eq!((content.len(), closed), (10_800, false));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_waits_is_counted_as_it_is() {
    for suite in suites() {
        let (mut session, _) = established(suite);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (client, (server, _)) = (client.unwrap(), server.unwrap());
        let mut buffer = vec![0; 4096];
        // The client takes a little now and then, so the queue is never empty again.
        for _ in 0..200 {
            while session.queued() < 128 * 1024 {
                session.queue_frame(&[0; 8], &[0; 40]).unwrap();
                session.try_flush(&server).unwrap();
            }
            assert!(session.wants_write());
            let waiting = session.tls.process_new_packets().unwrap();
            assert_eq!(session.queued(), waiting.tls_bytes_to_write());
            read_some(&client, &mut buffer).await.unwrap();
            session.try_flush(&server).unwrap();
        }
    }
}
