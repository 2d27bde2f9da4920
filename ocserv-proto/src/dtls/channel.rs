//! Record protection of an established DTLS 1.2 channel: opens and seals in place.
//!
//! Receiving is *check, authenticate, commit*: the replay window is asked first, moved only by an
//! authentic record, and the record is delivered only if the window took its number. Sequence
//! numbers to send come from the shared counter of the session
//! (`ocserv_common::session::ChannelState::take_tx_seq`).
//!
//! ```text
//!            13        8 (GCM only)      1        n        16
//!  record:  header | explicit nonce |  type  | payload |  tag
//!                                     `---- encrypted ---'
//! ```

use ocserv_common::replay::ReplayWindow;
use ocserv_common::session::DropReason;
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use thiserror::Error;

use super::keys::{ChannelKeys, Cipher};
use super::record::{ContentType, RECORD_HEADER, RecordHeader, VERSION_1_2};

/// Bytes of the authentication tag.
pub const TAG: usize = 16;
/// The type byte in front of each payload (protocol.md 8.5).
pub const TYPE_BYTE: usize = 1;
/// Most bytes in front of a payload, of any cipher.
pub const MAX_HEADROOM: usize = RECORD_HEADER + EXPLICIT_NONCE + TYPE_BYTE;

const EXPLICIT_NONCE: usize = 8;
const AAD: usize = 13;

/// Why a channel could not be made, or a payload not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChannelError {
    /// A key or IV has not the cipher's length.
    #[error("key block does not fit the cipher")]
    KeyLength,
    /// The range with its headroom and tag does not lie within the buffer, or is over 16 KiB.
    #[error("no room for the record")]
    NoRoom,
    /// Sealing failed: the length limit of the cipher.
    #[error("record cannot be sealed")]
    Seal,
}

/// Content of an authentic record.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Application data carries a type byte and a payload; handshakes and alerts are their own.
    pub content_type: ContentType,
    /// Plaintext, type byte included.
    pub plaintext: &'a mut [u8],
}

/// Keys of one epoch, both directions. Holds no counter: it is shared between threads as it is.
pub struct DtlsChannel {
    cipher: Cipher,
    epoch: u16,
    open: Half,
    seal: Half,
}

struct Half {
    key: LessSafeKey,
    /// Implicit IV; GCM uses the first four bytes.
    iv: [u8; 12],
}

impl DtlsChannel {
    /// A channel that opens with the client's keys and seals with the server's.
    ///
    /// # Errors
    /// [`ChannelError::KeyLength`].
    pub fn new(keys: &ChannelKeys) -> Result<Self, ChannelError> {
        let half = |key: &[u8], iv: &[u8]| Half::new(keys.cipher, key, iv);
        Ok(Self {
            cipher: keys.cipher,
            epoch: keys.epoch,
            open: half(keys.client_key.expose(), keys.client_iv.expose())?,
            seal: half(keys.server_key.expose(), keys.server_iv.expose())?,
        })
    }

    /// Epoch of the records.
    pub fn epoch(&self) -> u16 {
        self.epoch
    }

    /// Bytes in front of a payload: header, explicit nonce, type byte.
    pub fn headroom(&self) -> usize {
        RECORD_HEADER + explicit_nonce(self.cipher) + TYPE_BYTE
    }

    /// Bytes that a record is longer than its payload.
    pub fn overhead(&self) -> usize {
        self.headroom() + TAG
    }

    /// Checks, decrypts in place and commits one whole record (header included).
    ///
    /// # Errors
    /// Drop it: [`DropReason::Malformed`] (also another epoch), [`DropReason::Replay`] or
    /// [`DropReason::Auth`]. The buffer's content is then garbage.
    pub fn open<'a>(
        &self,
        record: &'a mut [u8],
        window: &ReplayWindow,
    ) -> Result<Opened<'a>, DropReason> {
        let header = RecordHeader::parse(record).ok_or(DropReason::Malformed)?;
        let nonce_len = explicit_nonce(self.cipher);
        let plain_len = usize::from(header.length)
            .checked_sub(nonce_len + TAG)
            .ok_or(DropReason::Malformed)?;
        let fits = header.version == VERSION_1_2
            && header.epoch == self.epoch
            && header.record_len() == record.len();
        if !fits {
            return Err(DropReason::Malformed);
        }
        if !window.would_accept(header.sequence) {
            return Err(DropReason::Replay);
        }
        let (head, sealed) = record
            .split_at_mut_checked(RECORD_HEADER + nonce_len)
            .ok_or(DropReason::Malformed)?;
        let nonce = self
            .open
            .nonce(self.cipher, head.get(RECORD_HEADER..), &header);
        let aad = Aad::from(additional_data(&header, plain_len));
        let plaintext = self
            .open
            .key
            .open_in_place(nonce, aad, sealed)
            .map_err(|_| DropReason::Auth)?;
        if !window.commit(header.sequence) {
            return Err(DropReason::Replay);
        }
        Ok(Opened {
            content_type: header.content_type,
            plaintext,
        })
    }

    /// Seals `buffer[payload]` in place as application data. In front of it there must be
    /// [`Self::headroom`] bytes, behind it [`TAG`]. Returns where the record lies in `buffer`.
    ///
    /// `sequence` must be fresh: taken from the session's counter and used once.
    ///
    /// # Errors
    /// [`ChannelError::NoRoom`], [`ChannelError::Seal`].
    pub fn seal_in_place(
        &self,
        sequence: u64,
        type_byte: u8,
        buffer: &mut [u8],
        payload: std::ops::Range<usize>,
    ) -> Result<std::ops::Range<usize>, ChannelError> {
        let start = payload
            .start
            .checked_sub(self.headroom())
            .ok_or(ChannelError::NoRoom)?;
        let end = payload.end.checked_add(TAG).ok_or(ChannelError::NoRoom)?;
        let plain_len = payload.len() + TYPE_BYTE;
        let record = buffer.get_mut(start..end).ok_or(ChannelError::NoRoom)?;
        let nonce_len = explicit_nonce(self.cipher);
        let length =
            u16::try_from(nonce_len + plain_len + TAG).map_err(|_| ChannelError::NoRoom)?;
        let header = RecordHeader {
            content_type: ContentType::ApplicationData,
            version: VERSION_1_2,
            epoch: self.epoch,
            sequence,
            length,
        };
        let aad = Aad::from(additional_data(&header, plain_len));
        let (head, rest) = record.split_at_mut(RECORD_HEADER + nonce_len);
        let (plain, tag) = rest.split_at_mut(plain_len);
        head[..RECORD_HEADER].copy_from_slice(&header.to_bytes());
        if nonce_len > 0 {
            head[RECORD_HEADER..].copy_from_slice(&epoch_and_sequence(&header));
        }
        plain[0] = type_byte;
        let nonce = self
            .seal
            .nonce(self.cipher, head.get(RECORD_HEADER..), &header);
        let made = self.seal.key.seal_in_place_separate_tag(nonce, aad, plain);
        tag.copy_from_slice(made.map_err(|_| ChannelError::Seal)?.as_ref());
        Ok(start..end)
    }

    /// Seals a copy of `payload`, for control packets. Writes the record to the start of `out` and
    /// returns its length.
    ///
    /// # Errors
    /// As [`Self::seal_in_place`].
    pub fn seal(
        &self,
        sequence: u64,
        type_byte: u8,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<usize, ChannelError> {
        let start = self.headroom();
        let place = start..start + payload.len();
        out.get_mut(place.clone())
            .ok_or(ChannelError::NoRoom)?
            .copy_from_slice(payload);
        Ok(self.seal_in_place(sequence, type_byte, out, place)?.end)
    }
}

impl std::fmt::Debug for DtlsChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DtlsChannel")
            .field("cipher", &self.cipher)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Half {
    fn new(cipher: Cipher, key: &[u8], iv: &[u8]) -> Result<Self, ChannelError> {
        let algorithm = match cipher {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        if iv.len() != cipher.iv_len() {
            return Err(ChannelError::KeyLength);
        }
        let key = UnboundKey::new(algorithm, key).map_err(|_| ChannelError::KeyLength)?;
        let mut padded = [0; 12];
        padded[..iv.len()].copy_from_slice(iv);
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: padded,
        })
    }

    /// RFC 5288 3: salt and explicit part. RFC 7905 2: IV xor epoch and sequence number.
    fn nonce(&self, cipher: Cipher, explicit: Option<&[u8]>, header: &RecordHeader) -> Nonce {
        let mut nonce = self.iv;
        match (cipher, explicit) {
            (Cipher::Aes128Gcm | Cipher::Aes256Gcm, Some(explicit)) => {
                nonce[4..].copy_from_slice(explicit);
            }
            _ => {
                for (byte, mask) in nonce[4..].iter_mut().zip(epoch_and_sequence(header)) {
                    *byte ^= mask;
                }
            }
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

fn explicit_nonce(cipher: Cipher) -> usize {
    match cipher {
        Cipher::Aes128Gcm | Cipher::Aes256Gcm => EXPLICIT_NONCE,
        Cipher::ChaCha20Poly1305 => 0,
    }
}

fn epoch_and_sequence(header: &RecordHeader) -> [u8; 8] {
    ((u64::from(header.epoch) << 48) | (header.sequence & ((1 << 48) - 1))).to_be_bytes()
}

/// RFC 5246 6.2.3.3 with RFC 6347 4.1.2.1: epoch and sequence number, type, version, length of the
/// plaintext.
fn additional_data(header: &RecordHeader, plain_len: usize) -> [u8; AAD] {
    let mut data = [0; AAD];
    data[..8].copy_from_slice(&epoch_and_sequence(header));
    data[8] = header.content_type as u8;
    data[9..11].copy_from_slice(&header.version.to_be_bytes());
    data[11..].copy_from_slice(&(plain_len as u16).to_be_bytes());
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dtls::vectors::Exchange;
    use crate::secret::Secret;

    const CIPHERS: [Cipher; 3] = [
        Cipher::Aes128Gcm,
        Cipher::Aes256Gcm,
        Cipher::ChaCha20Poly1305,
    ];

    fn keys(cipher: Cipher, epoch: u16) -> ChannelKeys {
        let bytes = |len: usize, seed: u8| {
            Secret::new((0..len as u8).map(|n| n.wrapping_mul(7) ^ seed).collect())
        };
        ChannelKeys {
            cipher,
            epoch,
            next_send: 1,
            next_receive: 1,
            client_key: bytes(cipher.key_len(), 1),
            client_iv: bytes(cipher.iv_len(), 2),
            server_key: bytes(cipher.key_len(), 3),
            server_iv: bytes(cipher.iv_len(), 4),
        }
    }

    fn swapped(keys: &ChannelKeys) -> ChannelKeys {
        ChannelKeys {
            client_key: keys.server_key.clone(),
            client_iv: keys.server_iv.clone(),
            server_key: keys.client_key.clone(),
            server_iv: keys.client_iv.clone(),
            ..keys.clone()
        }
    }

    /// Both ends of a channel.
    fn pair(cipher: Cipher, epoch: u16) -> (DtlsChannel, DtlsChannel) {
        let keys = keys(cipher, epoch);
        (
            DtlsChannel::new(&keys).unwrap(),
            DtlsChannel::new(&swapped(&keys)).unwrap(),
        )
    }

    fn sealed(channel: &DtlsChannel, sequence: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; payload.len() + channel.overhead()];
        let len = channel.seal(sequence, 0, payload, &mut out).unwrap();
        assert_eq!(len, out.len());
        out
    }

    #[test]
    fn opens_what_gnutls_sealed() {
        for exchange in Exchange::all() {
            let keys = exchange.keys();
            let server = DtlsChannel::new(&keys).unwrap();
            let client = DtlsChannel::new(&swapped(&keys)).unwrap();
            let windows = [ReplayWindow::new(), ReplayWindow::new()];
            for record in &exchange.records {
                let channel = if record.from_client { &server } else { &client };
                let window = &windows[usize::from(record.from_client)];
                let mut wire = record.wire.clone();
                let opened = channel.open(&mut wire, window).unwrap();
                assert_eq!(opened.plaintext, record.plaintext);
                assert_eq!(opened.content_type as u8, record.wire[0]);
            }
            assert!(exchange.records.len() >= 5);
        }
    }

    /// GnuTLS counts the explicit nonce as we do, so sealing gives the very bytes of the capture.
    #[test]
    fn seals_as_gnutls_did() {
        for exchange in Exchange::all() {
            let server = DtlsChannel::new(&exchange.keys()).unwrap();
            let data = exchange
                .records
                .iter()
                .filter(|record| !record.from_client && record.wire[0] == 23);
            for record in data.clone() {
                let header = RecordHeader::parse(&record.wire).unwrap();
                let (kind, payload) = record.plaintext.split_first().unwrap();
                let mut out = [0; 2000];
                let len = server
                    .seal(header.sequence, *kind, payload, &mut out)
                    .unwrap();
                assert_eq!(hex::encode(&out[..len]), hex::encode(&record.wire));
            }
            assert!(data.count() > 0);
        }
    }

    #[test]
    fn overhead_is_that_of_the_mtu_table() {
        for cipher in CIPHERS {
            let (server, _) = pair(cipher, 1);
            let table = usize::from(crate::mtu::Protection::from(cipher).overhead());
            assert_eq!(server.overhead(), table + TYPE_BYTE);
            assert!(server.headroom() <= MAX_HEADROOM);
        }
    }

    #[test]
    fn every_length_survives() {
        for cipher in CIPHERS {
            let (server, client) = pair(cipher, 1);
            let window = ReplayWindow::new();
            for length in 0..=1500usize {
                let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
                let mut record = sealed(&server, length as u64, &payload);
                let opened = client.open(&mut record, &window).unwrap();
                assert_eq!(opened.content_type, ContentType::ApplicationData);
                assert_eq!(opened.plaintext[0], 0);
                assert_eq!(opened.plaintext[1..], payload);
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_moves_no_window() {
        for cipher in CIPHERS {
            let (server, client) = pair(cipher, 1);
            let window = ReplayWindow::new();
            let record = sealed(&server, 70_000, b"an inner packet");
            for bit in 0..record.len() * 8 {
                let mut forged = record.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    client.open(&mut forged, &window).is_err(),
                    "bit {bit} of {cipher:?}"
                );
            }
            assert!(window.would_accept(70_000));
            assert!(client.open(&mut record.clone(), &window).is_ok());
        }
    }

    #[test]
    fn a_replay_is_refused_before_it_is_decrypted() {
        let (server, client) = pair(Cipher::ChaCha20Poly1305, 1);
        let window = ReplayWindow::new();
        let record = sealed(&server, 9, b"once");
        assert!(client.open(&mut record.clone(), &window).is_ok());
        let mut again = record.clone();
        assert_eq!(client.open(&mut again, &window), Err(DropReason::Replay));
        assert_eq!(again, record, "untouched");
    }

    #[test]
    fn other_epochs_versions_and_lengths_are_malformed() {
        let (server, _) = pair(Cipher::Aes256Gcm, 2);
        let (_, client) = pair(Cipher::Aes256Gcm, 1);
        let window = ReplayWindow::new();
        let malformed = |mut record: Vec<u8>| {
            assert_eq!(
                client.open(&mut record, &window),
                Err(DropReason::Malformed)
            );
        };
        malformed(sealed(&server, 1, b"epoch"));
        let (server, _) = pair(Cipher::Aes256Gcm, 1);
        let record = sealed(&server, 1, b"fine");
        malformed([&record[..], &[0]].concat());
        malformed(record[..record.len() - 1].to_vec());
        let mut version = record;
        version[2] = 0xff;
        malformed(version);
        for length in 0..24u8 {
            let mut short = vec![23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, length];
            short.resize(13 + usize::from(length), 0);
            malformed(short);
        }
    }

    #[test]
    fn sealing_in_place_needs_its_room() {
        let (server, client) = pair(Cipher::Aes128Gcm, 1);
        let mut buffer = [7; 100];
        let payload = 22..60;
        assert_eq!(server.headroom(), 22);
        assert_eq!(
            server.seal_in_place(1, 3, &mut buffer, payload.clone()),
            Ok(0..76)
        );
        assert_eq!(
            buffer[76..],
            [7; 24],
            "nothing behind the record is touched"
        );
        let opened = client
            .open(&mut buffer[..76], &ReplayWindow::new())
            .unwrap();
        assert_eq!(
            (opened.plaintext[0], &opened.plaintext[1..]),
            (3, &[7; 38][..])
        );
        let no_room = Err(ChannelError::NoRoom);
        assert_eq!(server.seal_in_place(1, 0, &mut buffer, 21..60), no_room);
        assert_eq!(server.seal_in_place(1, 0, &mut buffer, 22..85), no_room);
        assert_eq!(
            server.seal_in_place(1, 0, &mut vec![0; 70_000], 22..66_000),
            no_room
        );
        assert_eq!(
            server.seal(1, 0, &[0; 80], &mut buffer),
            Err(ChannelError::NoRoom)
        );
    }

    #[test]
    fn keys_of_a_wrong_length_are_refused() {
        let mut short = keys(Cipher::Aes256Gcm, 1);
        short.server_key = Secret::new(vec![0; 16]);
        assert_eq!(
            DtlsChannel::new(&short).err(),
            Some(ChannelError::KeyLength)
        );
        let mut long = keys(Cipher::Aes256Gcm, 1);
        long.client_iv = Secret::new(vec![0; 12]);
        assert_eq!(DtlsChannel::new(&long).err(), Some(ChannelError::KeyLength));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), length: u8) {
            let mut record = vec![23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, 0, length];
            record.extend(&bytes);
            for cipher in CIPHERS {
                let (_, client) = pair(cipher, 1);
                prop_assert!(client.open(&mut record.clone(), &ReplayWindow::new()).is_err());
                prop_assert!(client.open(&mut bytes.clone(), &ReplayWindow::new()).is_err());
            }
        }
    }
}
