//! Frozen exchanges between openconnect 9.01 and ocserv 1.1.6 (GnuTLS 3.7.9): captured from the
//! wire; master secrets from GnuTLS' key log, key blocks and plaintexts computed with Python's
//! `hmac` and `cryptography`.

use super::keys::ChannelKeys;
use super::prf;

/// One handshake with its first records.
pub(super) struct Exchange {
    pub(super) suite: u16,
    pub(super) master: Vec<u8>,
    pub(super) client_random: [u8; 32],
    pub(super) server_random: [u8; 32],
    pub(super) key_block: Vec<u8>,
    pub(super) records: Vec<Record>,
}

/// A protected record and what is in it.
pub(super) struct Record {
    pub(super) from_client: bool,
    pub(super) wire: Vec<u8>,
    pub(super) plaintext: Vec<u8>,
}

impl Exchange {
    /// All three ciphers.
    pub(super) fn all() -> [Self; 3] {
        [
            Self::read(include_str!("testdata/gnutls-gcm128.txt")),
            Self::read(include_str!("testdata/gnutls-gcm256.txt")),
            Self::read(include_str!("testdata/gnutls-chacha.txt")),
        ]
    }

    pub(super) fn keys(&self) -> ChannelKeys {
        let (client, server) = (&self.client_random, &self.server_random);
        prf::derive(self.suite, &self.master, client, server, 1, 1, 1).unwrap()
    }

    fn read(text: &str) -> Self {
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            hex::decode(line.trim()).unwrap()
        };
        let records = text.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let from_client = match words.next()? {
                "client" => true,
                "server" => false,
                _ => return None,
            };
            let wire = hex::decode(words.next()?).unwrap();
            Some(Record {
                from_client,
                wire,
                plaintext: hex::decode(words.next()?).unwrap(),
            })
        });
        Self {
            suite: u16::from_be_bytes(field("suite ").try_into().unwrap()),
            master: field("master "),
            client_random: field("client_random ").try_into().unwrap(),
            server_random: field("server_random ").try_into().unwrap(),
            key_block: field("key_block "),
            records: records.collect(),
        }
    }
}
