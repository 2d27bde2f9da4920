//! A DTLS-PSK handshake: for idle sessions that weigh what real ones weigh, and for the keys of those
//! whose records the load generator makes itself.

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ocserv_proto::dtls::{ChannelKeys, prf};
use ocserv_tests::bed::{GATEWAY4, PORT};
use openssl::ssl::{
    ExtensionContext, HandshakeError, Ssl, SslContext, SslContextBuilder, SslMethod, SslStream,
    SslVersion,
};

use crate::client::Tunnel;

/// The extension that carries the App-ID (protocol.md 8.3).
const APP_ID_EXTENSION: u16 = 48018;
const LIMIT: Duration = Duration::from_secs(20);
/// How long a read waits before OpenSSL may send its flight again.
const TICK: Duration = Duration::from_millis(200);
const MTU: u32 = 1400;
/// Epoch of the keys of a first handshake.
const EPOCH: u16 = 1;
/// Finished took number 0 on both sides, a repeated one may have taken the next few.
const FIRST_SEQUENCE: u64 = 16;
/// The suites that stock openconnect offers.
const OFFER: &str = "PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256";

/// A DTLS session that stays open, and silent.
pub struct Channel {
    stream: SslStream<Datagrams>,
}

impl Channel {
    /// Does the handshake. To be called in the client's namespace.
    ///
    /// # Errors
    /// When the server does not take part.
    pub fn open(tunnel: &Tunnel) -> Result<Self> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect((GATEWAY4, PORT))?;
        socket.set_read_timeout(Some(TICK))?;
        let context = context(tunnel)?;
        let mut ssl = Ssl::new(&context)?;
        ssl.set_mtu(MTU)?;
        let deadline = Instant::now() + LIMIT;
        let mut outcome = ssl.connect(Datagrams(socket));
        loop {
            outcome = match outcome {
                Ok(stream) => return Ok(Self { stream }),
                Err(HandshakeError::WouldBlock(handshake)) if Instant::now() < deadline => {
                    handshake.handshake()
                }
                Err(HandshakeError::WouldBlock(_)) => bail!("no DTLS answer"),
                Err(error) => return Err(error).context("DTLS handshake"),
            };
        }
    }

    /// The keys on which both sides agreed. Whoever seals with them uses the channel for nothing else.
    ///
    /// # Errors
    /// When the server chose what our record layer does not know.
    pub fn keys(&self) -> Result<ChannelKeys> {
        let ssl = self.stream.ssl();
        let cipher = ssl.current_cipher().context("no cipher")?;
        let suite = u16::from_be_bytes(cipher.protocol_id());
        let (mut client, mut server) = ([0; 32], [0; 32]);
        ssl.client_random(&mut client);
        ssl.server_random(&mut server);
        let mut master = [0; prf::MASTER_SECRET];
        let session = ssl.session().context("no session")?;
        session.master_key(&mut master);
        let first = FIRST_SEQUENCE;
        Ok(prf::derive(
            suite, &master, &client, &server, EPOCH, 1, first,
        )?)
    }

    /// Its socket, without OpenSSL.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn socket(&self) -> io::Result<UdpSocket> {
        self.stream.get_ref().0.try_clone()
    }
}

fn context(tunnel: &Tunnel) -> Result<SslContext> {
    let mut builder = SslContextBuilder::new(SslMethod::dtls())?;
    builder.set_max_proto_version(Some(SslVersion::DTLS1_2))?;
    builder.set_cipher_list(OFFER)?;
    let psk = tunnel.psk;
    builder.set_psk_client_callback(move |_, _, identity, key| {
        identity[..4].copy_from_slice(b"psk\0");
        key[..psk.len()].copy_from_slice(&psk);
        Ok(psk.len())
    });
    let mut extension = vec![u8::try_from(tunnel.app_id.len())?];
    extension.extend_from_slice(&tunnel.app_id);
    builder.add_custom_ext(
        APP_ID_EXTENSION,
        ExtensionContext::CLIENT_HELLO,
        move |_, _, _| Ok(Some(extension.clone())),
        |_, _, _, _| Ok(()),
    )?;
    Ok(builder.build())
}

/// A connected UDP socket as OpenSSL wants it.
#[derive(Debug)]
struct Datagrams(UdpSocket);

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }
}

impl Write for Datagrams {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.send(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
