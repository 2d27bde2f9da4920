//! OpenSSL's side: one context for all handshakes, the key and the ciphers with each.

use std::io::{self, Read, Write};
use std::sync::OnceLock;

use ocserv_proto::config::Cipher;
use ocserv_proto::secret::Secret;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslStream, SslVersion,
};

/// Largest datagram of our flights in bytes; they are far smaller, and every path takes this.
const FLIGHT_MTU: u32 = 1200;
/// Most datagrams of one flight, theirs or ours.
const MAX_FLIGHT: usize = 16;

/// Settings that all handshakes share.
#[derive(Clone)]
pub struct DtlsContext(SslContext);

impl DtlsContext {
    /// DTLS 1.2 with PSK, without cookie exchange, session cache or tickets (protocol.md 8.3).
    ///
    /// # Errors
    /// When OpenSSL was built without one of them.
    pub fn new() -> Result<Self, ErrorStack> {
        let mut context = SslContextBuilder::new(SslMethod::dtls_server())?;
        context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_max_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_options(
            SslOptions::NO_QUERY_MTU
                | SslOptions::NO_TICKET
                | SslOptions::NO_RENEGOTIATION
                | SslOptions::CIPHER_SERVER_PREFERENCE,
        );
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        let index = key_index()?;
        // Any identity will do: the App-ID has already chosen the session.
        context.set_psk_server_callback(move |ssl, _identity, out| Ok(give_key(ssl, index, out)));
        Ok(Self(context.build()))
    }

    /// Begins a handshake.
    ///
    /// # Errors
    /// When `ciphers` has none that OpenSSL knows.
    pub(super) fn start(
        &self,
        psk: &Secret,
        ciphers: &[Cipher],
    ) -> Result<SslStream<Datagrams>, ErrorStack> {
        let mut ssl = Ssl::new(&self.0)?;
        ssl.set_cipher_list(&cipher_list(ciphers))?;
        ssl.set_ex_data(key_index()?, psk.clone());
        ssl.set_mtu(FLIGHT_MTU)?;
        SslStream::new(ssl, Datagrams::default())
    }
}

fn key_index() -> Result<Index<Ssl, Secret>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Secret>> = OnceLock::new();
    match INDEX.get() {
        Some(index) => Ok(*index),
        None => {
            let index = Ssl::new_ex_index()?;
            Ok(*INDEX.get_or_init(|| index))
        }
    }
}

/// Copies the session's key out; 0 bytes refuse the handshake.
fn give_key(ssl: &SslRef, index: Index<Ssl, Secret>, out: &mut [u8]) -> usize {
    let Some(key) = ssl.ex_data(index).map(Secret::expose) else {
        return 0;
    };
    match out.get_mut(..key.len()) {
        Some(out) => {
            out.copy_from_slice(key);
            key.len()
        }
        None => 0,
    }
}

fn cipher_list(ciphers: &[Cipher]) -> String {
    let names: Vec<&str> = ciphers.iter().map(|cipher| openssl_name(*cipher)).collect();
    names.join(":")
}

fn openssl_name(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::Aes128Gcm => "PSK-AES128-GCM-SHA256",
        Cipher::Aes256Gcm => "PSK-AES256-GCM-SHA384",
        Cipher::Chacha20Poly1305 => "PSK-CHACHA20-POLY1305",
    }
}

/// Datagrams in memory: each read gives one, each write makes one.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    pub(super) incoming: Option<Vec<u8>>,
    pub(super) outgoing: Vec<Vec<u8>>,
}

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.incoming.take().ok_or(io::ErrorKind::WouldBlock)?;
        let count = datagram.len().min(buffer.len());
        buffer[..count].copy_from_slice(&datagram[..count]);
        Ok(count)
    }
}

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.outgoing.len() >= MAX_FLIGHT {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.outgoing.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
