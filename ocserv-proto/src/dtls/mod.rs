//! DTLS 1.2 records of an established channel, and what a handshake leaves behind for them.

pub mod channel;
pub mod control;
pub mod hello;
mod keys;
pub mod prf;
pub mod record;
#[cfg(test)]
mod vectors;

pub use channel::DtlsChannel;
pub use control::DtlsControl;
pub use keys::{ChannelKeys, Cipher};
