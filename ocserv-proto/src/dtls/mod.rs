//! DTLS 1.2 records of an established channel, and what a handshake leaves behind for them.

mod keys;

pub use keys::{ChannelKeys, Cipher};
