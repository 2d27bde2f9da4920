//! Frames of the TLS tunnel, and the channel that takes them.

use std::time::Duration;

use ocserv_proto::Now;
use ocserv_proto::cstp::{
    CstpChannel, CstpInput, CstpSettings, CstpTimer, Ended, Frame, FrameError, HEADER_LEN,
    MAX_PAYLOAD, PacketType, Parser, header,
};

use crate::input::Choices;

/// Whatever the cuts, the stream's frames come out; and the channel does with each what its type
/// says.
pub fn cstp(data: &[u8]) {
    let expected = model(data);
    let pieces = Choices::new(data).pieces(data);
    assert_eq!(read(data.chunks(1)), expected);
    assert_eq!(read([data].into_iter()), expected);
    assert_eq!(read(pieces.into_iter()), expected);
    run_channel(&expected.0, &mut Choices::new(data));
}

type Frames = Vec<(PacketType, Vec<u8>)>;

/// The frames of a whole stream, from its description alone.
fn model(stream: &[u8]) -> (Frames, Option<FrameError>) {
    let mut frames = Vec::new();
    let mut rest = stream;
    loop {
        let fixed = &b"STF\x01"[..rest.len().min(4)];
        if !rest.starts_with(fixed) {
            return (frames, Some(FrameError::Header));
        }
        let Some((head, body)) = rest.split_at_checked(HEADER_LEN) else {
            return (frames, None);
        };
        let length = u16::from_be_bytes([head[4], head[5]]);
        if head[7] != 0 {
            return (frames, Some(FrameError::Header));
        }
        if usize::from(length) > MAX_PAYLOAD {
            return (frames, Some(FrameError::TooLong(length)));
        }
        let Some((payload, later)) = body.split_at_checked(usize::from(length)) else {
            return (frames, None);
        };
        let kind = PacketType::from_byte(head[6]);
        assert_eq!(header(kind, length), head);
        frames.push((kind, payload.to_vec()));
        rest = later;
    }
}

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Frames, Option<FrameError>) {
    let mut parser = Parser::new();
    let mut frames = Vec::new();
    for mut chunk in chunks {
        loop {
            match parser.next(&mut chunk) {
                Ok(Some(frame)) => frames.push((frame.kind, frame.payload.to_vec())),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(chunk.is_empty());
    }
    (frames, None)
}

fn run_channel(frames: &Frames, choices: &mut Choices) {
    let mut now = Duration::from_secs(choices.below(1000));
    let settings = CstpSettings {
        dpd: Duration::from_secs(choices.below(3) * choices.below(100)),
        rekey: [None, Some(Duration::from_secs(1 + choices.below(5000)))]
            [choices.below(2) as usize],
    };
    let mut channel = CstpChannel::new(settings, now);
    for (kind, payload) in frames {
        now += Duration::from_millis(choices.below(200_000));
        if settle(&mut channel, settings, now) == CstpTimer::Dead {
            return;
        }
        let frame = Frame {
            kind: *kind,
            payload,
        };
        check_input(&channel.received(now, &frame), *kind, payload);
    }
}

/// Does all that is due. Nothing may stay due, or a caller would spin.
fn settle(channel: &mut CstpChannel, settings: CstpSettings, now: Now) -> CstpTimer {
    for _ in 0..4 {
        match channel.handle_timeout(now) {
            CstpTimer::SendDpd => assert!(!settings.dpd.is_zero()),
            CstpTimer::Rekey => assert!(settings.rekey.is_some()),
            CstpTimer::Dead => return CstpTimer::Dead,
            CstpTimer::Nothing => {
                assert!(channel.poll_timeout().is_none_or(|due| due > now));
                return CstpTimer::Nothing;
            }
        }
    }
    panic!("timeouts without end");
}

fn check_input(input: &CstpInput<'_>, kind: PacketType, payload: &[u8]) {
    match (kind, input) {
        (PacketType::Data, CstpInput::Packet(packet)) => {
            assert!(!packet.is_empty() && *packet == payload);
        }
        (PacketType::Data, CstpInput::Ignore) => assert!(payload.is_empty()),
        (PacketType::DpdRequest, CstpInput::Respond(answer)) => {
            assert_eq!(
                model(answer),
                (vec![(PacketType::DpdResponse, payload.to_vec())], None)
            );
        }
        (PacketType::Disconnect, CstpInput::Ended(ended)) => {
            assert_eq!(*ended, Ended::from_payload(payload));
        }
        (PacketType::Compressed, CstpInput::Ended(Ended::Error)) => {}
        (
            PacketType::DpdResponse
            | PacketType::Keepalive
            | PacketType::Terminate
            | PacketType::Unknown(_),
            CstpInput::Ignore,
        ) => {}
        _ => panic!("{kind:?} gives {input:?}"),
    }
}
