//! CSTP: frames of the TLS tunnel, and what they and their absence mean (protocol.md 5.4, 5.5, 10).

mod channel;
mod parser;

pub use channel::{CstpChannel, CstpInput, CstpSettings, CstpTimer};
pub use parser::{Frame, FrameError, Parser};

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 8;
/// Largest payload, which also fits one TLS record with its header.
pub const MAX_PAYLOAD: usize = 16 * 1024 - HEADER_LEN;

/// Type of a packet, in CSTP and, as the first byte, in DTLS (protocol.md 5.5, 8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketType {
    /// One IP packet.
    Data,
    /// Asks for a sign of life.
    DpdRequest,
    /// Answers with the same payload.
    DpdResponse,
    /// End of the tunnel.
    Disconnect,
    /// Keeps NAT entries alive.
    Keepalive,
    /// One compressed IP packet.
    Compressed,
    /// Server to client only.
    Terminate,
    /// To be ignored.
    Unknown(u8),
}

impl PacketType {
    /// From the wire.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            3 => Self::DpdRequest,
            4 => Self::DpdResponse,
            5 => Self::Disconnect,
            7 => Self::Keepalive,
            8 => Self::Compressed,
            9 => Self::Terminate,
            other => Self::Unknown(other),
        }
    }

    /// To the wire.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::DpdRequest => 3,
            Self::DpdResponse => 4,
            Self::Disconnect => 5,
            Self::Keepalive => 7,
            Self::Compressed => 8,
            Self::Terminate => 9,
            Self::Unknown(other) => other,
        }
    }
}

/// Header of a frame with `len` bytes of payload. Header and payload must go into one TLS record
/// (protocol.md 1.10).
pub fn header(kind: PacketType, len: u16) -> [u8; HEADER_LEN] {
    let [high, low] = len.to_be_bytes();
    [b'S', b'T', b'F', 1, high, low, kind.to_byte(), 0]
}

/// How the client ended the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The user asked: the cookie dies (0xb0).
    User,
    /// The client will be back (0x91 or no byte).
    Temporary,
    /// Anything else, or a frame that breaks the protocol: the cookie stays good.
    Error,
}

impl Ended {
    /// Meaning of a DISCONNECT payload.
    pub fn from_payload(payload: &[u8]) -> Self {
        match payload.first() {
            Some(0xb0) => Self::User,
            Some(0x91) | None => Self::Temporary,
            Some(_) => Self::Error,
        }
    }
}
