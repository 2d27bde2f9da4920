//! What a packet of a stream carries: whose it is, its number, when it was sent.

use crate::records::packet::FILLER;

/// Bytes of a stamp. It begins the payload of a packet.
pub const LENGTH: usize = 20;

const STREAM: std::ops::Range<usize> = 0..2;
const BALANCE: std::ops::Range<usize> = 2..4;
const NUMBER: std::ops::Range<usize> = 4..12;
const SENT: std::ops::Range<usize> = 12..20;

/// A stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the stream.
    pub stream: u16,
    /// Number of the packet in its stream.
    pub number: u64,
    /// Nanoseconds since the load began.
    pub sent: u64,
}

impl Stamp {
    /// Writes it over the beginning of a payload. Every stamp adds the same to the checksum of UDP, so
    /// that of a stamped packet stays right whatever stamp follows.
    ///
    /// # Panics
    /// If the payload is shorter than a stamp.
    pub fn write(&self, payload: &mut [u8]) {
        let stamp = &mut payload[..LENGTH];
        stamp[STREAM].copy_from_slice(&self.stream.to_be_bytes());
        stamp[BALANCE].fill(0);
        stamp[NUMBER].copy_from_slice(&self.number.to_be_bytes());
        stamp[SENT].copy_from_slice(&self.sent.to_be_bytes());
        let balance = !folded_sum(stamp);
        stamp[BALANCE].copy_from_slice(&balance.to_be_bytes());
    }

    /// Reads it from a whole payload; `None` if the payload is not one that was sent.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (stamp, rest) = payload.split_at_checked(LENGTH)?;
        if folded_sum(stamp) != u16::MAX || !is_filler(rest) {
            return None;
        }
        Some(Self {
            stream: u16::from_be_bytes(stamp[STREAM].try_into().ok()?),
            number: u64::from_be_bytes(stamp[NUMBER].try_into().ok()?),
            sent: u64::from_be_bytes(stamp[SENT].try_into().ok()?),
        })
    }
}

/// In pieces, since one by one they take longer than the rest of a packet does.
fn is_filler(bytes: &[u8]) -> bool {
    const PIECE: [u8; 64] = [FILLER; 64];
    bytes
        .chunks(PIECE.len())
        .all(|chunk| chunk == &PIECE[..chunk.len()])
}

/// RFC 1071, without the complement.
fn folded_sum(bytes: &[u8]) -> u16 {
    let mut total: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::{LENGTH, Stamp, folded_sum};
    use crate::records::packet::FILLER;

    fn stamp(number: u64) -> Stamp {
        Stamp {
            stream: 7,
            number,
            sent: 0x0123_4567_89ab_cdef ^ number,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let mut payload = [FILLER; 100];
        for number in [0, 1, 0xffff, u64::MAX] {
            stamp(number).write(&mut payload);
            assert_eq!(Stamp::read(&payload), Some(stamp(number)));
            assert_eq!(folded_sum(&payload[..LENGTH]), u16::MAX);
        }
    }

    #[test]
    fn damage_is_seen() {
        let mut payload = [FILLER; 300];
        stamp(5).write(&mut payload);
        for at in 0..payload.len() {
            let mut damaged = payload;
            damaged[at] ^= 0x10;
            assert_eq!(Stamp::read(&damaged), None, "byte {at}");
        }
        assert_eq!(Stamp::read(&payload[..LENGTH - 1]), None);
    }
}
