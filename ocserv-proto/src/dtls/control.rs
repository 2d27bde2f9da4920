//! What a DTLS channel's packets and its silence mean: control packets, liveness, choice of path.
//!
//! All state is atomic, since any dataplane thread may hold a packet of the session.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ocserv_common::session::DropReason;

use super::channel::Opened;
use super::record::ContentType;
use crate::Now;
use crate::cstp::PacketType;

const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;

/// Timers of a channel. Zero turns one off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DtlsSettings {
    /// `X-DTLS-DPD`.
    pub dpd: Duration,
    /// `switch-to-tcp-timeout`.
    pub switch_to_tcp: Duration,
}

/// What to do with an authentic record.
#[derive(Debug, PartialEq, Eq)]
pub enum DtlsInput<'a> {
    /// An inner IP packet, not yet checked.
    Packet(&'a mut [u8]),
    /// Send a [`PacketType::DpdResponse`] with these bytes: clients probe the path's MTU so. If the
    /// answer is larger than the path takes, send its first byte only (protocol.md 9).
    Respond(&'a mut [u8]),
    /// The client answered a [`PacketType::DpdRequest`].
    Answered,
    /// The client closed the channel: forget its keys. The session goes on by CSTP.
    Closed,
    /// Nothing.
    Ignore,
    /// Count it.
    Drop(DropReason),
}

/// What a timeout asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsTimer {
    /// Send a [`PacketType::DpdRequest`], zero-filled up to the tunnel MTU (protocol.md 10).
    SendDpd,
    /// The peer is silent: packets to it go by CSTP until UDP is heard again.
    Inactive,
    /// Nothing.
    Nothing,
}

/// By which channel a packet to the client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// In a DTLS record.
    Dtls,
    /// To the gate, in a CSTP frame.
    Cstp,
}

/// Liveness of one DTLS channel. A new one is inactive until the first record of the client shows
/// that it has finished the handshake too.
#[derive(Debug)]
pub struct DtlsControl {
    settings: DtlsSettings,
    active: AtomicBool,
    last_rx_ms: AtomicU64,
    last_probe_ms: AtomicU64,
}

impl DtlsControl {
    /// State of a channel whose keys were installed at `now`.
    pub fn new(settings: DtlsSettings, now: Now) -> Self {
        Self {
            settings,
            active: AtomicBool::new(false),
            last_rx_ms: AtomicU64::new(millis(now)),
            last_probe_ms: AtomicU64::new(0),
        }
    }

    /// Takes the content of an authentic record. Handshake records (a repeated Finished) belong to
    /// the gate as they came from the wire; hand them over before opening them.
    pub fn received<'a>(&self, now: Now, opened: Opened<'a>) -> DtlsInput<'a> {
        match opened.content_type {
            ContentType::ApplicationData => {}
            ContentType::Alert => return self.alert(opened.plaintext),
            ContentType::Handshake | ContentType::ChangeCipherSpec => return DtlsInput::Ignore,
        }
        self.last_rx_ms.store(millis(now), Ordering::Relaxed);
        self.active.store(true, Ordering::Relaxed);
        let Some((kind, payload)) = opened.plaintext.split_first_mut() else {
            return DtlsInput::Drop(DropReason::Malformed);
        };
        match PacketType::from_byte(*kind) {
            PacketType::Data if payload.is_empty() => DtlsInput::Ignore,
            PacketType::Data => DtlsInput::Packet(payload),
            PacketType::DpdRequest => DtlsInput::Respond(payload),
            PacketType::Compressed => DtlsInput::Drop(DropReason::Malformed),
            PacketType::DpdResponse => DtlsInput::Answered,
            PacketType::Disconnect
            | PacketType::Keepalive
            | PacketType::Terminate
            | PacketType::Unknown(_) => DtlsInput::Ignore,
        }
    }

    /// A DATA packet came by CSTP: the client wants TCP, until it uses UDP again (protocol.md 7).
    pub fn cstp_data_received(&self) {
        self.active.store(false, Ordering::Relaxed);
    }

    /// When the last authentic packet came.
    pub fn last_heard(&self) -> Now {
        Duration::from_millis(self.last_rx_ms.load(Ordering::Relaxed))
    }

    /// By which channel to send.
    pub fn path(&self, now: Now) -> Path {
        let silent = self.silence(now);
        let over = |limit: Duration| !limit.is_zero() && silent > limit;
        let gone = over(self.settings.switch_to_tcp) || over(self.settings.dpd.saturating_mul(3));
        if self.active.load(Ordering::Relaxed) && !gone {
            Path::Dtls
        } else {
            Path::Cstp
        }
    }

    /// When [`Self::handle_timeout`] wants to be called; it may be called earlier.
    pub fn poll_timeout(&self) -> Option<Now> {
        if self.settings.dpd.is_zero() || !self.active.load(Ordering::Relaxed) {
            return None;
        }
        let last_rx = self.last_heard();
        let dead = last_rx.saturating_add(self.settings.dpd.saturating_mul(3));
        Some(self.next_probe(last_rx).min(dead))
    }

    /// Decides about probes and about the end of the channel's use.
    pub fn handle_timeout(&self, now: Now) -> DtlsTimer {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return DtlsTimer::Nothing;
        }
        if self.silence(now) >= self.settings.dpd.saturating_mul(3) {
            self.active.store(false, Ordering::Relaxed);
            return DtlsTimer::Inactive;
        }
        self.last_probe_ms.store(millis(now), Ordering::Relaxed);
        DtlsTimer::SendDpd
    }

    /// First probe after two intervals of silence, then each half interval.
    fn next_probe(&self, last_rx: Now) -> Now {
        let last_probe = Duration::from_millis(self.last_probe_ms.load(Ordering::Relaxed));
        let first = last_rx.saturating_add(self.settings.dpd.saturating_mul(2));
        first.max(last_probe.saturating_add(self.settings.dpd / 2))
    }

    fn silence(&self, now: Now) -> Duration {
        now.saturating_sub(self.last_heard())
    }

    fn alert(&self, alert: &[u8]) -> DtlsInput<'static> {
        match alert {
            [FATAL, _] | [_, CLOSE_NOTIFY] => {
                self.active.store(false, Ordering::Relaxed);
                DtlsInput::Closed
            }
            _ => DtlsInput::Ignore,
        }
    }
}

/// 584 million years fit.
fn millis(now: Now) -> u64 {
    now.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    fn control(dpd: u64, switch_to_tcp: u64) -> DtlsControl {
        let settings = DtlsSettings {
            dpd: secs(dpd),
            switch_to_tcp: secs(switch_to_tcp),
        };
        DtlsControl::new(settings, secs(100))
    }

    fn data(control: &DtlsControl, now: u64, plaintext: &[u8]) -> String {
        record(control, now, ContentType::ApplicationData, plaintext)
    }

    fn record(control: &DtlsControl, now: u64, content_type: ContentType, bytes: &[u8]) -> String {
        let mut bytes = bytes.to_vec();
        let opened = Opened {
            content_type,
            plaintext: &mut bytes,
        };
        format!("{:?}", control.received(secs(now), opened))
    }

    #[test]
    fn packets_and_their_meaning() {
        let control = control(10, 0);
        assert_eq!(data(&control, 100, &[0, 0x45, 1]), "Packet([69, 1])");
        assert_eq!(data(&control, 100, &[0]), "Ignore");
        assert_eq!(data(&control, 100, &[3, 0x5a, 0x5a]), "Respond([90, 90])");
        assert_eq!(data(&control, 100, &[4, 0, 0]), "Answered");
        assert_eq!(data(&control, 100, &[7]), "Ignore");
        assert_eq!(data(&control, 100, &[8, 1]), "Drop(Malformed)");
        assert_eq!(data(&control, 100, &[]), "Drop(Malformed)");
        assert_eq!(
            record(&control, 100, ContentType::Handshake, &[20]),
            "Ignore"
        );
    }

    #[test]
    fn dtls_is_used_from_the_clients_first_record() {
        let control = control(10, 0);
        assert_eq!(control.path(secs(100)), Path::Cstp);
        data(&control, 101, &[7]);
        assert_eq!(control.path(secs(101)), Path::Dtls);
    }

    #[test]
    fn data_by_cstp_means_cstp_until_udp_is_heard() {
        let control = control(10, 0);
        data(&control, 101, &[7]);
        control.cstp_data_received();
        assert_eq!(control.path(secs(101)), Path::Cstp);
        data(&control, 102, &[0, 1]);
        assert_eq!(control.path(secs(102)), Path::Dtls);
    }

    #[test]
    fn silence_switches_to_tcp() {
        let control = control(0, 25);
        data(&control, 100, &[7]);
        assert_eq!(control.path(secs(125)), Path::Dtls);
        assert_eq!(control.path(secs(126)), Path::Cstp);
        data(&control, 130, &[7]);
        assert_eq!(control.path(secs(130)), Path::Dtls);
    }

    #[test]
    fn a_silent_peer_is_probed_then_inactive() {
        let control = control(10, 0);
        assert_eq!(control.poll_timeout(), None, "not yet in use");
        data(&control, 100, &[7]);
        assert_eq!(control.poll_timeout(), Some(secs(120)));
        assert_eq!(control.handle_timeout(secs(119)), DtlsTimer::Nothing);
        assert_eq!(control.handle_timeout(secs(120)), DtlsTimer::SendDpd);
        assert_eq!(control.handle_timeout(secs(120)), DtlsTimer::Nothing);
        assert_eq!(control.poll_timeout(), Some(secs(125)));
        assert_eq!(control.handle_timeout(secs(125)), DtlsTimer::SendDpd);
        assert_eq!(control.path(secs(129)), Path::Dtls);
        assert_eq!(control.handle_timeout(secs(130)), DtlsTimer::Inactive);
        assert_eq!(control.path(secs(130)), Path::Cstp);
        assert_eq!(control.poll_timeout(), None);
        data(&control, 140, &[4]);
        assert_eq!(control.path(secs(140)), Path::Dtls);
        assert_eq!(control.poll_timeout(), Some(secs(160)));
    }

    #[test]
    fn without_dpd_nothing_is_ever_due() {
        let control = control(0, 0);
        data(&control, 100, &[7]);
        assert_eq!(control.poll_timeout(), None);
        assert_eq!(control.handle_timeout(secs(1_000_000)), DtlsTimer::Nothing);
        assert_eq!(control.path(secs(1_000_000)), Path::Dtls);
    }

    #[test]
    fn alerts_that_close_the_channel() {
        for (alert, result) in [([1, 0], "Closed"), ([2, 20], "Closed"), ([1, 90], "Ignore")] {
            let control = control(10, 0);
            data(&control, 100, &[7]);
            assert_eq!(record(&control, 101, ContentType::Alert, &alert), result);
            let path = if result == "Closed" {
                Path::Cstp
            } else {
                Path::Dtls
            };
            assert_eq!(control.path(secs(101)), path);
        }
    }
}
