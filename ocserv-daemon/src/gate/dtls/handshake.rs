//! One handshake, from the ClientHello to the keys.

use std::time::Duration;

use ocserv_proto::Now;
use ocserv_proto::config::Cipher;
use ocserv_proto::dtls::record::{ContentType, RECORD_HEADER, RecordHeader};
use ocserv_proto::dtls::{ChannelKeys, prf};
use ocserv_proto::secret::Secret;
use openssl::ssl::{ErrorCode, SslRef, SslStream};
use thiserror::Error;
use zeroize::Zeroizing;

use super::MAX_REPEATS;
use super::context::{Datagrams, DtlsContext};

/// First retransmission of a flight, doubled each time (protocol.md 8.3).
const FIRST_RETRANSMIT: Duration = Duration::from_millis(400);
/// After this a handshake is given up.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most retransmissions that the client did not ask for. A ClientHello proves no address: who saw
/// the App-ID could have us send to somebody else. A client that lost more repeats its own flight.
const MAX_RESENDS: u32 = 2;
/// Epoch of the keys of a first handshake.
const EPOCH: u16 = 1;

/// Why a handshake ended without keys.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// OpenSSL refused a message, or could not go on.
    #[error("{0}")]
    Ssl(String),
    /// OpenSSL chose something that the record layer does not know.
    #[error("keys: {0}")]
    Keys(#[from] prf::DeriveError),
    /// OpenSSL's random GCM nonce lies where our record layer will count.
    #[error("nonce of Finished lies in the range of the record layer")]
    NonceRange,
    /// There is no epoch-1 record in the last flight.
    #[error("last flight is incomplete")]
    NoFinished,
}

/// What a datagram led to.
pub(super) enum Progress {
    /// Send what is in [`Handshake::flight`] if it is new.
    Waiting {
        /// The flight has just been made.
        new_flight: bool,
    },
    /// Finished was verified. Its answer, the last flight, is in [`Handshake::flight`].
    Done(Box<ChannelKeys>),
}

/// A handshake under way.
pub(super) struct Handshake {
    stream: SslStream<Datagrams>,
    /// Our last flight.
    pub(super) flight: Vec<Vec<u8>>,
    /// Lowest sequence number of a protected handshake record of the client.
    client_finished: Option<u64>,
    pub(super) give_up_at: Now,
    pub(super) resend_at: Now,
    interval: Duration,
    /// Retransmissions left.
    resends: u32,
    /// Answers left to the repeated ClientHello.
    pub(super) repeats: u32,
}

impl Handshake {
    /// A handshake that has seen nothing yet.
    pub(super) fn start(
        context: &DtlsContext,
        psk: &Secret,
        ciphers: &[Cipher],
        now: Now,
    ) -> Result<Self, HandshakeError> {
        let stream = context
            .start(psk, ciphers)
            .map_err(|e| HandshakeError::Ssl(e.to_string()))?;
        Ok(Self {
            stream,
            flight: Vec::new(),
            client_finished: None,
            give_up_at: now + DEADLINE,
            resend_at: now + DEADLINE,
            interval: FIRST_RETRANSMIT,
            resends: MAX_RESENDS,
            repeats: MAX_REPEATS,
        })
    }

    /// Takes a datagram of the client.
    pub(super) fn datagram(
        &mut self,
        now: Now,
        datagram: &[u8],
    ) -> Result<Progress, HandshakeError> {
        self.note_finished(datagram);
        self.stream.get_mut().incoming = Some(datagram.to_vec());
        let result = self.stream.accept();
        let produced = std::mem::take(&mut self.stream.get_mut().outgoing);
        let new_flight = !produced.is_empty();
        if new_flight {
            self.flight = produced;
            self.interval = FIRST_RETRANSMIT;
            self.resend_at = now + self.interval;
        }
        match result {
            Ok(()) => Ok(Progress::Done(Box::new(self.keys()?))),
            Err(error) if error.code() == ErrorCode::WANT_READ => {
                Ok(Progress::Waiting { new_flight })
            }
            Err(error) => Err(HandshakeError::Ssl(error.to_string())),
        }
    }

    /// Plans the next retransmission.
    pub(super) fn resent(&mut self, now: Now) {
        self.interval = self.interval.saturating_mul(2);
        self.resends = self.resends.saturating_sub(1);
        self.resend_at = if self.resends == 0 {
            self.give_up_at
        } else {
            now + self.interval
        };
    }

    fn note_finished(&mut self, datagram: &[u8]) {
        for (header, _) in records(datagram) {
            if header.content_type == ContentType::Handshake && header.epoch == EPOCH {
                let lowest = self.client_finished.unwrap_or(u64::MAX);
                self.client_finished = Some(lowest.min(header.sequence));
            }
        }
    }

    fn keys(&self) -> Result<ChannelKeys, HandshakeError> {
        let ssl = self.stream.ssl();
        let suite = ssl
            .current_cipher()
            .map_or([0, 0], |cipher| cipher.protocol_id());
        let (client_random, server_random, master) = secrets(ssl);
        let next_send = next_send(&self.flight, suite)?;
        // Only handshake records can lie between this number and the client's first data.
        let next_receive = self.client_finished.map_or(1, |sequence| sequence + 1);
        Ok(prf::derive(
            u16::from_be_bytes(suite),
            &master,
            &client_random,
            &server_random,
            EPOCH,
            next_send,
            next_receive,
        )?)
    }
}

fn secrets(ssl: &SslRef) -> ([u8; 32], [u8; 32], Zeroizing<Vec<u8>>) {
    let (mut client, mut server) = ([0; 32], [0; 32]);
    ssl.client_random(&mut client);
    ssl.server_random(&mut server);
    let mut master = Zeroizing::new(vec![0; prf::MASTER_SECRET]);
    let length = ssl
        .session()
        .map_or(0, |session| session.master_key(&mut master));
    master.truncate(length);
    (client, server, master)
}

/// First sequence number of ours that the last flight leaves free. The record layer makes GCM
/// nonces of epoch and sequence number, OpenSSL draws a random one for Finished: they must not meet.
pub(super) fn next_send(flight: &[Vec<u8>], suite: [u8; 2]) -> Result<u64, HandshakeError> {
    let mut next = None;
    for (header, body) in flight.iter().flat_map(|datagram| records(datagram)) {
        if header.epoch != EPOCH {
            continue;
        }
        next = next.max(Some(header.sequence + 1));
        let explicit_nonce = body
            .first_chunk::<8>()
            .map(|nonce| u64::from_be_bytes(*nonce));
        let own = u64::from(EPOCH) << 48 | header.sequence;
        let meets = |nonce: u64| nonce >> 48 == u64::from(EPOCH) && nonce != own;
        if is_gcm(suite) && explicit_nonce.is_some_and(meets) {
            return Err(HandshakeError::NonceRange);
        }
    }
    next.ok_or(HandshakeError::NoFinished)
}

/// `TLS_PSK_WITH_AES_128_GCM_SHA256`, `TLS_PSK_WITH_AES_256_GCM_SHA384` (RFC 5487).
fn is_gcm(suite: [u8; 2]) -> bool {
    matches!(suite, [0x00, 0xa8 | 0xa9])
}

/// The records of a datagram: header and what follows it.
pub(super) fn records(datagram: &[u8]) -> impl Iterator<Item = (RecordHeader, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = RecordHeader::parse(rest)?;
        let (record, after) = rest.split_at_checked(header.record_len())?;
        rest = after;
        Some((header, record.get(RECORD_HEADER..)?))
    })
}
