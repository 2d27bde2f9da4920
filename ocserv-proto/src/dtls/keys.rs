//! Key block of a DTLS channel.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Record protection of a channel. All are AEADs with 16 bytes of tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// RFC 5288: 4-byte salt, 8-byte explicit nonce in the record.
    Aes128Gcm,
    /// RFC 5288: 4-byte salt, 8-byte explicit nonce in the record.
    Aes256Gcm,
    /// RFC 7905: 12-byte IV, nonce = IV xor epoch and sequence number, nothing in the record.
    ChaCha20Poly1305,
}

impl Cipher {
    /// Bytes of key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of implicit IV (salt) in the key block.
    pub fn iv_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 4,
            Self::ChaCha20Poly1305 => 12,
        }
    }
}

/// What the record layer of one epoch needs. The server opens with the client's half and seals with
/// its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelKeys {
    /// Record protection.
    pub cipher: Cipher,
    /// Epoch of the records, 1 after a first handshake.
    pub epoch: u16,
    /// First sequence number that the server has not used in this epoch (its Finished took one).
    /// Once the keys are handed out, the handshake library must seal nothing more with them: with
    /// ChaCha20 its next record would repeat a nonce. A lost last flight is sent again as the same
    /// bytes.
    pub next_send: u64,
    /// First sequence number that the client has not used (its Finished took one): lower ones are
    /// replays.
    pub next_receive: u64,
    /// `client_write_key`.
    pub client_key: Secret,
    /// `client_write_IV`.
    pub client_iv: Secret,
    /// `server_write_key`.
    pub server_key: Secret,
    /// `server_write_IV`.
    pub server_iv: Secret,
}
