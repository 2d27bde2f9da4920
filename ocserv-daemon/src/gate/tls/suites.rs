//! Cipher suites with a limit that fits packets.
//!
//! rustls counts records. The limit of its AES-GCM suites, 2^24, is for records of 16 KiB; at it TLS 1.2
//! closes, without a word to who writes (TLS 1.3 renews the keys). A record of a tunnel is one packet.
//!
//! What counts for GCM are blocks: after *s* blocks in *q* records an attacker's advantage is at most
//! (s + q + 1)² / 2^129 (draft-irtf-cfrg-aead-limits-08 §5.1.1). So s + q is limited, to what rustls allows
//! for full records: 2^24 times 2^10 blocks, an advantage of 2^-61. That is 256 GiB of large packets, where
//! RFC 8446 §5.5 has 2^24.5 full records. Nonces do not limit it: they count up to 2^64 (RFC 5288 §3).

use rustls::crypto::ring::cipher_suite;
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite};

/// Blocks and records that an AES-GCM key may seal.
const GCM_LIMIT: u64 = 1 << 34;
/// Bytes of a block.
const BLOCK: usize = 16;
/// Most content of a record, bytes.
const RECORD: usize = 16 * 1024;

macro_rules! gcm {
    ($($name:ident),+) => {$(
        #[doc = concat!("`", stringify!($name), "` with our limit.")]
        pub static $name: SupportedCipherSuite = {
            static SUITE: Tls12CipherSuite = with_limit(&cipher_suite::$name, GCM_LIMIT);
            SupportedCipherSuite::Tls12(&SUITE)
        };
    )+};
}

gcm!(
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
);

const fn with_limit(stock: &SupportedCipherSuite, limit: u64) -> Tls12CipherSuite {
    let SupportedCipherSuite::Tls12(stock) = stock else {
        panic!("a suite of TLS 1.3");
    };
    Tls12CipherSuite {
        common: CipherSuiteCommon {
            suite: stock.common.suite,
            hash_provider: stock.common.hash_provider,
            confidentiality_limit: limit,
        },
        prf_provider: stock.prf_provider,
        kx: stock.kx,
        sign: stock.sign,
        aead_alg: stock.aead_alg,
    }
}

/// What a session's keys may still seal: blocks and records of TLS 1.2. They are more than the records
/// that rustls counts, so that it never comes to its limit.
#[derive(Debug)]
pub struct Allowance(u64);

impl Allowance {
    /// That of new keys.
    pub fn new(suite: Option<SupportedCipherSuite>) -> Self {
        Self(match suite {
            Some(SupportedCipherSuite::Tls12(suite)) => suite.common.confidentiality_limit,
            _ => u64::MAX,
        })
    }

    /// Takes what `len` bytes of content need. `false`: there is not that much left, and nothing more
    /// will be given.
    pub fn take(&mut self, len: usize) -> bool {
        let needed = (len.div_ceil(BLOCK) + len.div_ceil(RECORD)) as u64;
        let left = self.0.checked_sub(needed);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }

    /// Whether nothing is left.
    pub fn is_used_up(&self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_more_packets_than_full_records_are_allowed() {
        const MANY: u64 = 1 << 24;
        let sealed = |len: usize| {
            let mut allowance = Allowance::new(Some(TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256));
            assert!(allowance.take(len));
            GCM_LIMIT / (GCM_LIMIT - allowance.0)
        };
        assert!(sealed(8 + 1400) > 10 * MANY);
        assert!(sealed(8 + 40) > 200 * MANY);
        assert!(sealed(RECORD) < MANY);
    }
}
