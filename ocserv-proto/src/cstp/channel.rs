//! State of an open CSTP tunnel: liveness, and the server's own rekey.

use std::time::Duration;

use super::{Ended, Frame, HEADER_LEN, PacketType, header};
use crate::Now;

/// Timers of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CstpSettings {
    /// `X-CSTP-DPD`; zero turns the check off.
    pub dpd: Duration,
    /// Interval of the server's own TLS 1.3 KeyUpdate; `None` where the client rekeys or no one.
    pub rekey: Option<Duration>,
}

/// What to do with a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum CstpInput<'a> {
    /// An inner IP packet, not yet checked.
    Packet(&'a [u8]),
    /// Send this whole frame, in one TLS record.
    Respond(Vec<u8>),
    /// The tunnel is over.
    Ended(Ended),
    /// Nothing.
    Ignore,
}

/// What a timeout asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CstpTimer {
    /// Send [`header`]`(PacketType::DpdRequest, 0)`.
    SendDpd,
    /// The peer is silent: end with reason DPD timeout.
    Dead,
    /// Send a TLS KeyUpdate.
    Rekey,
    /// Nothing.
    Nothing,
}

/// An open tunnel. It holds no bytes: see [`super::Parser`].
#[derive(Debug)]
pub struct CstpChannel {
    settings: CstpSettings,
    last_rx: Now,
    last_probe: Now,
    next_rekey: Option<Now>,
}

impl CstpChannel {
    /// A tunnel that was opened at `now`.
    pub fn new(settings: CstpSettings, now: Now) -> Self {
        let next_rekey = settings.rekey.map(|interval| now.saturating_add(interval));
        Self {
            settings,
            last_rx: now,
            last_probe: Duration::ZERO,
            next_rekey,
        }
    }

    /// Takes a frame.
    pub fn received<'a>(&mut self, now: Now, frame: &Frame<'a>) -> CstpInput<'a> {
        self.last_rx = now;
        match frame.kind {
            PacketType::Data if frame.payload.is_empty() => CstpInput::Ignore,
            PacketType::Data => CstpInput::Packet(frame.payload),
            PacketType::DpdRequest => CstpInput::Respond(mirror(frame.payload)),
            PacketType::Disconnect => CstpInput::Ended(Ended::from_payload(frame.payload)),
            // No compression was negotiated.
            PacketType::Compressed => CstpInput::Ended(Ended::Error),
            PacketType::DpdResponse
            | PacketType::Keepalive
            | PacketType::Terminate
            | PacketType::Unknown(_) => CstpInput::Ignore,
        }
    }

    /// When [`Self::handle_timeout`] wants to be called; it may be called earlier.
    pub fn poll_timeout(&self) -> Option<Now> {
        let dpd = (!self.settings.dpd.is_zero()).then(|| self.next_probe().min(self.dead_at()));
        dpd.into_iter().chain(self.next_rekey).min()
    }

    /// Decides what is due. Call it again until it says [`CstpTimer::Nothing`] or
    /// [`CstpTimer::Dead`].
    pub fn handle_timeout(&mut self, now: Now) -> CstpTimer {
        if !self.settings.dpd.is_zero() {
            if now >= self.dead_at() {
                return CstpTimer::Dead;
            }
            if now >= self.next_probe() {
                self.last_probe = now;
                return CstpTimer::SendDpd;
            }
        }
        match (self.next_rekey, self.settings.rekey) {
            (Some(due), Some(interval)) if now >= due => {
                self.next_rekey = Some(now.saturating_add(interval));
                CstpTimer::Rekey
            }
            _ => CstpTimer::Nothing,
        }
    }

    /// First probe after two intervals of silence, then each half interval (protocol.md 10).
    fn next_probe(&self) -> Now {
        let first = self
            .last_rx
            .saturating_add(self.settings.dpd.saturating_mul(2));
        first.max(self.last_probe.saturating_add(self.settings.dpd / 2))
    }

    fn dead_at(&self) -> Now {
        self.last_rx
            .saturating_add(self.settings.dpd.saturating_mul(3))
    }
}

/// DPD-RESP with the length and content of the request.
fn mirror(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + payload.len());
    frame.extend_from_slice(&header(PacketType::DpdResponse, payload.len() as u16));
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    fn channel(dpd: u64, rekey: Option<u64>) -> CstpChannel {
        CstpChannel::new(
            CstpSettings {
                dpd: secs(dpd),
                rekey: rekey.map(secs),
            },
            secs(1000),
        )
    }

    fn input(kind: PacketType, payload: &[u8]) -> CstpInput<'_> {
        channel(90, None).received(secs(1001), &Frame { kind, payload })
    }

    #[test]
    fn frames_and_their_meaning() {
        assert_eq!(input(PacketType::Data, b"ip"), CstpInput::Packet(b"ip"));
        assert_eq!(input(PacketType::Data, b""), CstpInput::Ignore);
        let answer = b"STF\x01\0\x03\x04\0abc".to_vec();
        assert_eq!(
            input(PacketType::DpdRequest, b"abc"),
            CstpInput::Respond(answer)
        );
        assert_eq!(
            input(PacketType::Compressed, b"x"),
            CstpInput::Ended(Ended::Error)
        );
        for kind in [
            PacketType::DpdResponse,
            PacketType::Keepalive,
            PacketType::Unknown(77),
        ] {
            assert_eq!(input(kind, b"x"), CstpInput::Ignore);
        }
    }

    #[test]
    fn reasons_of_a_disconnect() {
        let ended = |payload: &[u8]| match input(PacketType::Disconnect, payload) {
            CstpInput::Ended(ended) => ended,
            other => panic!("{other:?}"),
        };
        assert_eq!(ended(b"\xb0User pressed Ctrl-C"), Ended::User);
        assert_eq!(ended(b"\x91"), Ended::Temporary);
        assert_eq!(ended(b""), Ended::Temporary);
        assert_eq!(ended(b"\x70"), Ended::Error);
        assert_eq!(ended(b"\xd1"), Ended::Error);
    }

    #[test]
    fn a_silent_peer_is_probed_then_dead() {
        let mut channel = channel(10, None);
        assert_eq!(channel.poll_timeout(), Some(secs(1020)));
        assert_eq!(channel.handle_timeout(secs(1019)), CstpTimer::Nothing);
        assert_eq!(channel.handle_timeout(secs(1020)), CstpTimer::SendDpd);
        assert_eq!(channel.handle_timeout(secs(1020)), CstpTimer::Nothing);
        assert_eq!(channel.poll_timeout(), Some(secs(1025)));
        assert_eq!(channel.handle_timeout(secs(1025)), CstpTimer::SendDpd);
        assert_eq!(channel.poll_timeout(), Some(secs(1030)));
        assert_eq!(channel.handle_timeout(secs(1030)), CstpTimer::Dead);
    }

    #[test]
    fn any_frame_is_a_sign_of_life() {
        let mut channel = channel(10, None);
        assert_eq!(channel.handle_timeout(secs(1020)), CstpTimer::SendDpd);
        let pong = Frame {
            kind: PacketType::DpdResponse,
            payload: b"",
        };
        assert_eq!(channel.received(secs(1021), &pong), CstpInput::Ignore);
        assert_eq!(channel.poll_timeout(), Some(secs(1041)));
        assert_eq!(channel.handle_timeout(secs(1030)), CstpTimer::Nothing);
    }

    #[test]
    fn timers_that_are_off_never_fire() {
        let mut channel = channel(0, None);
        assert_eq!(channel.poll_timeout(), None);
        assert_eq!(channel.handle_timeout(secs(1_000_000)), CstpTimer::Nothing);
    }

    #[test]
    fn the_server_rekeys_at_its_interval() {
        let mut channel = channel(0, Some(600));
        assert_eq!(channel.poll_timeout(), Some(secs(1600)));
        assert_eq!(channel.handle_timeout(secs(1599)), CstpTimer::Nothing);
        assert_eq!(channel.handle_timeout(secs(1601)), CstpTimer::Rekey);
        assert_eq!(channel.handle_timeout(secs(1601)), CstpTimer::Nothing);
        assert_eq!(channel.poll_timeout(), Some(secs(2201)));
    }

    #[test]
    fn a_probe_and_a_rekey_that_are_due_together_both_happen() {
        let mut channel = channel(10, Some(20));
        assert_eq!(channel.handle_timeout(secs(1020)), CstpTimer::SendDpd);
        assert_eq!(channel.handle_timeout(secs(1020)), CstpTimer::Rekey);
        assert_eq!(channel.handle_timeout(secs(1020)), CstpTimer::Nothing);
    }
}
