//! Frames out of a byte stream, however it was cut.

use thiserror::Error;

use super::{HEADER_LEN, MAX_PAYLOAD, PacketType};

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: PacketType,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The stream is not CSTP: end the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The fixed bytes of the header are others.
    #[error("not a CSTP header")]
    Header,
    /// The payload is announced as larger than [`MAX_PAYLOAD`].
    #[error("CSTP frame of {0} bytes")]
    TooLong(u16),
}

/// Cuts frames out of the decrypted stream. A frame that lies whole in the caller's chunk is handed
/// out in place; only one that is spread over chunks is gathered, in a buffer that an idle tunnel
/// does not keep.
#[derive(Debug, Default)]
pub struct Parser {
    partial: Vec<u8>,
    delivered: bool,
}

impl Parser {
    /// A parser at the beginning of the stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Next frame of `input`, which is advanced past what was used. `None`: all of it is used, go on
    /// with the next chunk.
    ///
    /// # Errors
    /// [`FrameError`]; the stream cannot be read further.
    pub fn next<'a>(&'a mut self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        if std::mem::take(&mut self.delivered) {
            self.partial = Vec::new();
        }
        if self.partial.is_empty() {
            if let Some(length) = frame_len(input)?
                && let Some((frame, rest)) = input.split_at_checked(length)
            {
                *input = rest;
                return Ok(Some(whole(frame)));
            }
        }
        if !self.gather(input)? {
            return Ok(None);
        }
        self.delivered = true;
        Ok(Some(whole(&self.partial)))
    }

    /// Moves bytes of `input` to the partial frame; true when it is whole.
    fn gather(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        self.fill(HEADER_LEN, input);
        let Some(length) = frame_len(&self.partial)? else {
            return Ok(false);
        };
        self.fill(length, input);
        Ok(self.partial.len() == length)
    }

    fn fill(&mut self, length: usize, input: &mut &[u8]) {
        let missing = length.saturating_sub(self.partial.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.partial.extend_from_slice(taken);
        *input = rest;
    }
}

/// Length of the frame, its header included, once the header is there. Wrong fixed bytes are found
/// as soon as they come.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    if !bytes
        .iter()
        .zip(b"STF\x01")
        .all(|(byte, fixed)| byte == fixed)
    {
        return Err(FrameError::Header);
    }
    let Some([_, _, _, _, high, low, _, last]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = u16::from_be_bytes([*high, *low]);
    if *last != 0 {
        return Err(FrameError::Header);
    }
    if usize::from(length) > MAX_PAYLOAD {
        return Err(FrameError::TooLong(length));
    }
    Ok(Some(HEADER_LEN + usize::from(length)))
}

fn whole(frame: &[u8]) -> Frame<'_> {
    let (header, payload) = frame.split_at(HEADER_LEN);
    Frame {
        kind: PacketType::from_byte(header[6]),
        payload,
    }
}
