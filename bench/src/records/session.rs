//! A session whose records the load generator seals and opens itself.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use ocserv_common::replay::ReplayWindow;
use ocserv_proto::dtls::{ChannelKeys, Cipher, DtlsChannel};
use ocserv_sys::udp::{PathMtu, UdpPort};
use rustls::ClientConfig;

use super::packet;
use crate::client::Connection;
use crate::dtls::Channel;

/// Type bytes of a packet and of a keepalive, which is not answered (protocol.md 8.5).
const DATA: u8 = 0;
const KEEPALIVE: u8 = 7;
/// Servers take to TLS when a client was silent for longer than some of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of header and tag, more than any cipher needs.
pub const MOST_OVERHEAD: usize = 64;

/// Buffers of a session's socket, bytes: the gateway is to be the narrow place.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// A session that logged in as any client does.
pub struct Session {
    /// Its address in the tunnel.
    pub address: Ipv4Addr,
    /// Record protection that the server chose.
    pub cipher: Cipher,
    /// Its socket, in the client's namespace.
    pub port: UdpPort,
    /// Opens what the server seals, and the other way round.
    channel: DtlsChannel,
    next_sequence: Cell<u64>,
    received: ReplayWindow,
    kept_alive: Cell<Option<Instant>>,
    /// The server ends the session with it.
    connection: Connection,
}

impl Session {
    /// Logs in and does the handshake of DTLS. To be called in the client's namespace.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn open(settings: &Arc<ClientConfig>) -> Result<Self> {
        let mut connection = Connection::open(settings)?;
        let cookie = connection.log_in()?;
        let tunnel = connection.connect_tunnel(&cookie)?;
        let handshake = Channel::open(&tunnel)?;
        let keys = handshake.keys()?;
        let socket = OwnedFd::from(handshake.socket()?);
        setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
        setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER)?;
        Ok(Self {
            address: tunnel.address,
            cipher: keys.cipher,
            port: UdpPort::new(socket, PathMtu::Discover)?,
            next_sequence: Cell::new(keys.next_receive),
            channel: DtlsChannel::new(&client_end(keys)).context("keys")?,
            received: ReplayWindow::new(),
            kept_alive: Cell::new(None),
            connection,
        })
    }

    /// Appends the next record, with `packet` in it, and returns its length.
    ///
    /// # Errors
    /// When the packet is too long.
    pub fn seal(&self, packet: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        self.seal_as(DATA, packet, out)
    }

    fn seal_as(&self, kind: u8, packet: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        let sequence = self.next_sequence.replace(self.next_sequence.get() + 1);
        let begin = out.len();
        out.resize(begin + packet.len() + MOST_OVERHEAD, 0);
        let length = self
            .channel
            .seal(sequence, kind, packet, &mut out[begin..])?;
        out.truncate(begin + length);
        Ok(length)
    }

    /// Sends a sign of life if it is time to, and returns whether it did.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn keep_alive(&self) -> Result<bool> {
        let is_fresh = |at: Instant| at.elapsed() < KEEPALIVE_INTERVAL;
        if self.kept_alive.get().is_some_and(is_fresh) {
            return Ok(false);
        }
        let mut record = Vec::new();
        self.seal_as(KEEPALIVE, &[], &mut record)?;
        nix::unistd::write(&self.port, &record).context("keepalive")?;
        self.kept_alive.set(Some(Instant::now()));
        Ok(true)
    }

    /// Leaves for good, as a client does that says so.
    ///
    /// # Errors
    /// When it cannot be said.
    pub fn sign_off(self) -> Result<()> {
        self.connection.sign_off()
    }

    /// Bytes that a record is longer than its packet.
    pub fn overhead(&self) -> usize {
        self.channel.overhead()
    }

    /// Opens a record of the server in place; `None`: it holds no packet.
    ///
    /// # Errors
    /// When it does not open, or was there before.
    pub fn unseal<'a>(&self, record: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        let opened = self.channel.open(record, &self.received);
        let opened = opened.map_err(|reason| anyhow!("record of the server: {reason:?}"))?;
        let (kind, packet) = opened.plaintext.split_first().context("empty record")?;
        Ok((*kind == DATA).then_some(packet))
    }

    /// Shows that a record holds a packet for this session.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, record: &[u8]) -> Result<()> {
        let mut copy = record.to_vec();
        let opened = self.channel.open(&mut copy, &self.received);
        let opened = opened.map_err(|reason| anyhow!("record of the server: {reason:?}"))?;
        let (kind, packet) = opened.plaintext.split_first().context("empty record")?;
        ensure!(*kind == DATA, "not a packet: type {kind}");
        ensure!(
            packet.get(16..20) == Some(&self.address.octets()[..])
                && packet.last() == Some(&packet::FILLER),
            "another packet: {packet:02x?}"
        );
        Ok(())
    }
}

/// [`DtlsChannel`] is the server's end of its keys.
fn client_end(keys: ChannelKeys) -> ChannelKeys {
    ChannelKeys {
        client_key: keys.server_key,
        client_iv: keys.server_iv,
        server_key: keys.client_key,
        server_iv: keys.client_iv,
        ..keys
    }
}

#[cfg(test)]
mod tests {
    use ocserv_common::replay::ReplayWindow;
    use ocserv_proto::dtls::{DtlsChannel, prf};

    use super::{DATA, client_end};

    #[test]
    fn the_ends_of_a_channel_understand_each_other() {
        const PSK_WITH_CHACHA20: u16 = 0xccab;
        let (master, random) = ([3; prf::MASTER_SECRET], [4; 32]);
        let keys = prf::derive(PSK_WITH_CHACHA20, &master, &random, &random, 1, 1, 1).unwrap();
        let server = DtlsChannel::new(&keys).unwrap();
        let client = DtlsChannel::new(&client_end(keys)).unwrap();
        for (from, to) in [(&client, &server), (&server, &client)] {
            let mut record = [0; 100];
            let length = from.seal(1, DATA, b"packet", &mut record).unwrap();
            let opened = to.open(&mut record[..length], &ReplayWindow::new());
            assert_eq!(opened.unwrap().plaintext, b"\0packet");
        }
    }
}
