//! TLS 1.2 key derivation (RFC 5246 5, 6.3): from what a handshake leaves behind to a key block.

use ring::hmac;
use thiserror::Error;
use zeroize::Zeroizing;

use super::keys::{ChannelKeys, Cipher};
use crate::secret::Secret;

/// Bytes of a master secret.
pub const MASTER_SECRET: usize = 48;

/// Why no keys were derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeriveError {
    /// The record layer does not know this cipher suite.
    #[error("cipher suite {0:#06x} is not supported")]
    UnknownSuite(u16),
    /// A master secret has 48 bytes.
    #[error("master secret has a wrong length")]
    MasterSecret,
}

/// Where the record layer goes on after the handshake, and with which keys.
///
/// `suite_id` is the IANA number; `next_send` and `next_receive` are as in [`ChannelKeys`].
///
/// # Errors
/// [`DeriveError`].
pub fn derive(
    suite_id: u16,
    master: &[u8],
    client_random: &[u8; 32],
    server_random: &[u8; 32],
    epoch: u16,
    next_send: u64,
    next_receive: u64,
) -> Result<ChannelKeys, DeriveError> {
    let (cipher, hash) = suite(suite_id).ok_or(DeriveError::UnknownSuite(suite_id))?;
    if master.len() != MASTER_SECRET {
        return Err(DeriveError::MasterSecret);
    }
    let seed = [&server_random[..], &client_random[..]].concat();
    let (key, iv) = (cipher.key_len(), cipher.iv_len());
    let mut block = Zeroizing::new([0; 2 * (32 + 12)]);
    let block = &mut block[..2 * (key + iv)];
    prf(hash, master, b"key expansion", &seed, block);
    let part = |from: usize, len: usize| Secret::new(block[from..from + len].to_vec());
    Ok(ChannelKeys {
        cipher,
        epoch,
        next_send,
        next_receive,
        client_key: part(0, key),
        server_key: part(key, key),
        client_iv: part(2 * key, iv),
        server_iv: part(2 * key + iv, iv),
    })
}

/// Cipher and PRF hash of the suites that a channel may use: PSK (RFC 5487, 7905), and those of
/// resumed channels (protocol.md 8.2).
fn suite(id: u16) -> Option<(Cipher, hmac::Algorithm)> {
    match id {
        // PSK, RSA, ECDHE-RSA with AES_128_GCM_SHA256.
        0x00a8 | 0x009c | 0xc02f => Some((Cipher::Aes128Gcm, hmac::HMAC_SHA256)),
        // PSK, RSA, ECDHE-RSA with AES_256_GCM_SHA384.
        0x00a9 | 0x009d | 0xc030 => Some((Cipher::Aes256Gcm, hmac::HMAC_SHA384)),
        // PSK, ECDHE-PSK with CHACHA20_POLY1305_SHA256.
        0xccab | 0xccac => Some((Cipher::ChaCha20Poly1305, hmac::HMAC_SHA256)),
        _ => None,
    }
}

/// `P_hash` of RFC 5246 5 over `label + seed`, as many bytes as `out` has.
fn prf(hash: hmac::Algorithm, secret: &[u8], label: &[u8], seed: &[u8], out: &mut [u8]) {
    let key = hmac::Key::new(hash, secret);
    let mac = |parts: &[&[u8]]| {
        let mut context = hmac::Context::with_key(&key);
        parts.iter().for_each(|part| context.update(part));
        context.sign()
    };
    let mut a = mac(&[label, seed]);
    for chunk in out.chunks_mut(hash.digest_algorithm().output_len()) {
        chunk.copy_from_slice(&mac(&[a.as_ref(), label, seed]).as_ref()[..chunk.len()]);
        a = mac(&[a.as_ref()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::vectors::Exchange;

    /// The well-known vector for P_SHA256 (posted to the TLS working group's list, 100 bytes).
    #[test]
    fn prf_sha256_vector() {
        let secret = hex::decode("9bbe436ba940f017b17652849a71db35").unwrap();
        let seed = hex::decode("a0ba9f936cda311827a6f796ffd5198c").unwrap();
        let mut out = [0; 100];
        prf(hmac::HMAC_SHA256, &secret, b"test label", &seed, &mut out);
        let expected = "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791\
                        e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b\
                        97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66";
        assert_eq!(hex::encode(out), expected);
    }

    #[test]
    fn key_blocks_of_real_handshakes() {
        for exchange in Exchange::all() {
            let keys = exchange.keys();
            let parts = [
                &keys.client_key,
                &keys.server_key,
                &keys.client_iv,
                &keys.server_iv,
            ];
            let block: Vec<u8> = parts
                .iter()
                .flat_map(|part| part.expose().to_vec())
                .collect();
            assert_eq!(block, exchange.key_block, "suite {:04x}", exchange.suite);
            assert_eq!(keys.client_key.len(), keys.cipher.key_len());
            assert_eq!(keys.server_iv.len(), keys.cipher.iv_len());
        }
    }

    #[test]
    fn unknown_suites_and_short_secrets_are_refused() {
        let random = [1; 32];
        // TLS_PSK_WITH_AES_128_CBC_SHA
        let result = derive(0x008c, &[7; 48], &random, &random, 1, 1, 1);
        assert_eq!(result.err(), Some(DeriveError::UnknownSuite(0x008c)));
        let result = derive(0x00a8, &[7; 47], &random, &random, 1, 1, 1);
        assert_eq!(result.err(), Some(DeriveError::MasterSecret));
    }
}
