//! What a DTLS channel's packets and its silence mean: control packets, liveness, choice of path.
//!
//! All state is atomic, since any dataplane thread may hold a packet of the session. What a kernel
//! program takes part in is the channel's [`Liveness`] in shared memory; here are the decisions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ocserv_common::session::{DropReason, Liveness};

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

impl DtlsSettings {
    /// A channel that was silent for longer is not used to send, ms; 0: no limit. The smaller of
    /// `switch-to-tcp-timeout` and three intervals of DPD; what is longer than 49 days counts as 49.
    pub fn silence_ms(&self) -> u32 {
        let limits = [self.switch_to_tcp, dead_after(self)];
        let shortest = limits.into_iter().filter(|limit| !limit.is_zero()).min();
        shortest.map_or(0, |limit| {
            u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1)
        })
    }
}

/// Silence that three intervals of DPD make; zero: off.
fn dead_after(settings: &DtlsSettings) -> Duration {
    settings.dpd.saturating_mul(3)
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

/// Decides about one DTLS channel by its [`Liveness`]. A new one is inactive until the first record
/// of the client shows that it has finished the handshake too.
#[derive(Debug)]
pub struct DtlsControl {
    settings: DtlsSettings,
    silence_ms: u32,
    last_probe_ms: AtomicU64,
}

impl DtlsControl {
    /// Of a channel that no probe was sent by.
    pub fn new(settings: DtlsSettings) -> Self {
        Self {
            settings,
            silence_ms: settings.silence_ms(),
            last_probe_ms: AtomicU64::new(0),
        }
    }

    /// Takes the content of an authentic record. Handshake records (a repeated Finished) belong to
    /// the gate as they came from the wire; hand them over before opening them.
    pub fn received<'a>(live: &Liveness, now: Now, opened: Opened<'a>) -> DtlsInput<'a> {
        live.confirm(millis(now));
        match opened.content_type {
            ContentType::ApplicationData => {}
            ContentType::Alert => return alert(live, opened.plaintext),
            ContentType::Handshake | ContentType::ChangeCipherSpec => return DtlsInput::Ignore,
        }
        live.heard(millis(now));
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

    /// By which channel to send.
    pub fn path(&self, live: &Liveness, now: Now) -> Path {
        if live.usable(millis(now), u64::from(self.silence_ms)) {
            Path::Dtls
        } else {
            Path::Cstp
        }
    }

    /// When [`Self::handle_timeout`] wants to be called; it may be called earlier.
    pub fn poll_timeout(&self, live: &Liveness) -> Option<Now> {
        if self.settings.dpd.is_zero() || live.active.get() == 0 {
            return None;
        }
        let last_rx = last_heard(live);
        let dead = last_rx.saturating_add(dead_after(&self.settings));
        Some(self.next_probe(last_rx).min(dead))
    }

    /// Decides about probes and about the end of the channel's use.
    pub fn handle_timeout(&self, live: &Liveness, now: Now) -> DtlsTimer {
        if self.poll_timeout(live).is_none_or(|due| now < due) {
            return DtlsTimer::Nothing;
        }
        if now.saturating_sub(last_heard(live)) >= dead_after(&self.settings) {
            live.set_inactive();
            return DtlsTimer::Inactive;
        }
        self.last_probe_ms.store(millis(now), Ordering::Relaxed);
        DtlsTimer::SendDpd
    }

    /// The probe that [`Self::handle_timeout`] asked for was not sent: the next call asks again.
    pub fn probe_not_sent(&self) {
        self.last_probe_ms.store(0, Ordering::Relaxed);
    }

    /// First probe after two intervals of silence, then each half interval.
    fn next_probe(&self, last_rx: Now) -> Now {
        let last_probe = Duration::from_millis(self.last_probe_ms.load(Ordering::Relaxed));
        let first = last_rx.saturating_add(self.settings.dpd.saturating_mul(2));
        first.max(last_probe.saturating_add(self.settings.dpd / 2))
    }
}

/// When the last authentic packet came by a channel.
pub fn last_heard(live: &Liveness) -> Now {
    Duration::from_millis(live.last_rx_ms.get())
}

fn alert(live: &Liveness, alert: &[u8]) -> DtlsInput<'static> {
    match alert {
        [FATAL, _] | [_, CLOSE_NOTIFY] => {
            live.set_inactive();
            DtlsInput::Closed
        }
        _ => DtlsInput::Ignore,
    }
}

/// 584 million years fit.
fn millis(now: Now) -> u64 {
    now.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use ocserv_common::session::ChannelState;

    use super::*;

    fn secs(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    fn settings(dpd: u64, switch_to_tcp: u64) -> DtlsSettings {
        DtlsSettings {
            dpd: secs(dpd),
            switch_to_tcp: secs(switch_to_tcp),
        }
    }

    /// A channel whose keys were installed at 100 s.
    fn channel(dpd: u64, switch_to_tcp: u64) -> Channel {
        let state = ChannelState::default();
        state.start(1, 1, 1, 1, millis(secs(100)));
        Channel {
            control: DtlsControl::new(settings(dpd, switch_to_tcp)),
            state,
        }
    }

    struct Channel {
        control: DtlsControl,
        state: ChannelState,
    }

    impl Channel {
        fn data(&self, now: u64, plaintext: &[u8]) -> String {
            self.record(now, ContentType::ApplicationData, plaintext)
        }

        fn record(&self, now: u64, content_type: ContentType, bytes: &[u8]) -> String {
            let mut bytes = bytes.to_vec();
            let opened = Opened {
                content_type,
                plaintext: &mut bytes,
            };
            let input = DtlsControl::received(&self.state.live, secs(now), opened);
            format!("{input:?}")
        }

        fn path(&self, now: u64) -> Path {
            self.control.path(&self.state.live, secs(now))
        }

        fn poll_timeout(&self) -> Option<Now> {
            self.control.poll_timeout(&self.state.live)
        }

        fn handle_timeout(&self, now: u64) -> DtlsTimer {
            self.control.handle_timeout(&self.state.live, secs(now))
        }
    }

    #[test]
    fn packets_and_their_meaning() {
        let channel = channel(10, 0);
        assert_eq!(channel.data(100, &[0, 0x45, 1]), "Packet([69, 1])");
        assert_eq!(channel.data(100, &[0]), "Ignore");
        assert_eq!(channel.data(100, &[3, 0x5a, 0x5a]), "Respond([90, 90])");
        assert_eq!(channel.data(100, &[4, 0, 0]), "Answered");
        assert_eq!(channel.data(100, &[7]), "Ignore");
        assert_eq!(channel.data(100, &[8, 1]), "Drop(Malformed)");
        assert_eq!(channel.data(100, &[]), "Drop(Malformed)");
        assert_eq!(channel.record(100, ContentType::Handshake, &[20]), "Ignore");
    }

    #[test]
    fn dtls_is_used_from_the_clients_first_record() {
        let channel = channel(10, 0);
        assert_eq!(channel.path(100), Path::Cstp);
        channel.data(101, &[7]);
        assert_eq!(channel.path(101), Path::Dtls);
    }

    #[test]
    fn data_by_cstp_means_cstp_until_udp_is_heard() {
        let channel = channel(10, 0);
        channel.data(101, &[7]);
        channel.state.live.set_inactive();
        assert_eq!(channel.path(101), Path::Cstp);
        channel.data(102, &[0, 1]);
        assert_eq!(channel.path(102), Path::Dtls);
    }

    #[test]
    fn the_shortest_silence_counts() {
        let silence = |dpd, switch_to_tcp| settings(dpd, switch_to_tcp).silence_ms();
        assert_eq!(silence(0, 0), 0);
        assert_eq!(silence(0, 25), 25_000);
        assert_eq!(silence(10, 0), 30_000);
        assert_eq!(silence(10, 25), 25_000);
        assert_eq!(silence(8, 25), 24_000);
        assert_eq!(silence(u64::from(u32::MAX), 0), u32::MAX);
    }

    #[test]
    fn silence_switches_to_tcp() {
        let channel = channel(0, 25);
        channel.data(100, &[7]);
        assert_eq!(channel.path(125), Path::Dtls);
        assert_eq!(channel.path(126), Path::Cstp);
        channel.data(130, &[7]);
        assert_eq!(channel.path(130), Path::Dtls);
    }

    #[test]
    fn a_silent_peer_is_probed_then_inactive() {
        let channel = channel(10, 0);
        assert_eq!(channel.poll_timeout(), None, "not yet in use");
        channel.data(100, &[7]);
        assert_eq!(channel.poll_timeout(), Some(secs(120)));
        assert_eq!(channel.handle_timeout(119), DtlsTimer::Nothing);
        assert_eq!(channel.handle_timeout(120), DtlsTimer::SendDpd);
        channel.control.probe_not_sent();
        assert_eq!(channel.handle_timeout(120), DtlsTimer::SendDpd);
        assert_eq!(channel.handle_timeout(120), DtlsTimer::Nothing);
        assert_eq!(channel.poll_timeout(), Some(secs(125)));
        assert_eq!(channel.handle_timeout(125), DtlsTimer::SendDpd);
        assert_eq!(channel.path(129), Path::Dtls);
        assert_eq!(channel.handle_timeout(130), DtlsTimer::Inactive);
        assert_eq!(channel.path(130), Path::Cstp);
        assert_eq!(channel.poll_timeout(), None);
        channel.data(140, &[4]);
        assert_eq!(channel.path(140), Path::Dtls);
        assert_eq!(channel.poll_timeout(), Some(secs(160)));
    }

    #[test]
    fn without_dpd_nothing_is_ever_due() {
        let channel = channel(0, 0);
        channel.data(100, &[7]);
        assert_eq!(channel.poll_timeout(), None);
        assert_eq!(channel.handle_timeout(1_000_000), DtlsTimer::Nothing);
        assert_eq!(channel.path(1_000_000), Path::Dtls);
    }

    #[test]
    fn alerts_that_close_the_channel() {
        for (alert, result) in [([1, 0], "Closed"), ([2, 20], "Closed"), ([1, 90], "Ignore")] {
            let channel = channel(10, 0);
            channel.data(100, &[7]);
            assert_eq!(channel.record(101, ContentType::Alert, &alert), result);
            let path = if result == "Closed" {
                Path::Cstp
            } else {
                Path::Dtls
            };
            assert_eq!(channel.path(101), path);
        }
    }
}
