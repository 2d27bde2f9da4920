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
    pub fn next<'f, 'i: 'f>(
        &'f mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Frame<'f>>, FrameError> {
        if std::mem::take(&mut self.delivered) {
            self.partial = Vec::new();
        }
        if self.partial.is_empty()
            && let Some(length) = frame_len(input)?
            && let Some((frame, rest)) = input.split_at_checked(length)
        {
            *input = rest;
            return Ok(Some(whole(frame)));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cstp::header;

    /// Frames of a whole stream that comes in these chunks.
    fn frames(stream: &[u8], cuts: &[usize]) -> Result<Vec<(PacketType, Vec<u8>)>, FrameError> {
        let mut parser = Parser::new();
        let mut found = Vec::new();
        let mut rest = stream;
        let mut cuts = cuts.iter().copied().chain(std::iter::repeat(usize::MAX));
        while !rest.is_empty() {
            let (mut chunk, later) = rest.split_at(cuts.next().unwrap().clamp(1, rest.len()));
            rest = later;
            while let Some(frame) = parser.next(&mut chunk)? {
                found.push((frame.kind, frame.payload.to_vec()));
            }
            assert!(chunk.is_empty(), "None means that the chunk is used up");
        }
        Ok(found)
    }

    fn frame(kind: PacketType, payload: &[u8]) -> Vec<u8> {
        [&header(kind, payload.len() as u16)[..], payload].concat()
    }

    #[test]
    fn wire_form() {
        assert_eq!(
            header(PacketType::DpdRequest, 0x1234),
            *b"STF\x01\x12\x34\x03\x00"
        );
        let found = frames(b"STF\x01\0\x02\x05\0\xb0!", &[]).unwrap();
        assert_eq!(found, [(PacketType::Disconnect, b"\xb0!".to_vec())]);
    }

    #[test]
    fn a_whole_frame_is_not_copied() {
        let stream = [
            frame(PacketType::Data, b"one"),
            frame(PacketType::Data, b"two"),
        ]
        .concat();
        let mut input = &stream[..];
        let mut parser = Parser::new();
        for place in [8, 19] {
            let frame = parser.next(&mut input).unwrap().unwrap();
            assert_eq!(frame.payload.as_ptr(), stream[place..].as_ptr());
        }
        assert_eq!(parser.next(&mut input), Ok(None));
        assert_eq!(parser.partial.capacity(), 0);
    }

    #[test]
    fn a_gathered_frame_leaves_no_buffer_behind() {
        let stream = frame(PacketType::Data, &[7; 5000]);
        let (mut first, mut second) = stream.split_at(100);
        let mut parser = Parser::new();
        assert_eq!(parser.next(&mut first), Ok(None));
        assert_eq!(
            parser.next(&mut second).unwrap().unwrap().payload,
            [7; 5000]
        );
        assert_eq!(parser.next(&mut second), Ok(None));
        assert_eq!(parser.partial.capacity(), 0);
    }

    #[test]
    fn wrong_headers_end_the_stream() {
        for at in [0, 1, 2, 3, 7] {
            let mut stream = frame(PacketType::Data, b"x");
            stream[at] ^= 1;
            assert_eq!(frames(&stream, &[]), Err(FrameError::Header), "byte {at}");
            assert_eq!(
                frames(&stream, &[1; 9]),
                Err(FrameError::Header),
                "byte {at}"
            );
        }
        assert_eq!(
            frames(b"GET", &[]),
            Err(FrameError::Header),
            "before the header is whole"
        );
    }

    #[test]
    fn payloads_are_bounded() {
        let largest = frame(PacketType::Data, &[0; MAX_PAYLOAD]);
        assert_eq!(frames(&largest, &[]).unwrap()[0].1.len(), MAX_PAYLOAD);
        let over = header(PacketType::Data, MAX_PAYLOAD as u16 + 1);
        assert_eq!(
            frames(&over, &[]),
            Err(FrameError::TooLong(MAX_PAYLOAD as u16 + 1))
        );
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            sent in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 0..8),
            cuts in prop::collection::vec(1usize..40, 0..60),
        ) {
            let sent: Vec<_> =
                sent.into_iter().map(|(kind, load)| (PacketType::from_byte(kind), load)).collect();
            let stream: Vec<u8> =
                sent.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            prop_assert_eq!(frames(&stream, &cuts), Ok(sent));
        }

        #[test]
        fn any_bytes_are_survived_alike(
            frames_before in 0usize..3,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(1usize..40, 0..60),
        ) {
            let mut stream = frame(PacketType::Data, b"good").repeat(frames_before);
            stream.extend(bytes);
            prop_assert_eq!(frames(&stream, &cuts), frames(&stream, &[]));
        }
    }
}
