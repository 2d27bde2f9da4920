//! A session's record in shared memory: sequence counters, replay windows and traffic counters.
//!
//! An array of [`SessionShared`] is mapped by the supervisor and the dataplane, and is a map of the
//! kernel path where there is one, so that counters and windows outlive any one of them: no nonce repeats and no replay
//! passes after a restart. The supervisor writes the beginning of a record ([`SessionShared::reset`],
//! [`ChannelState::start`]) before it announces session or keys; the dataplane never does.

use crate::atomic::{AtomicU64, Ordering};
use crate::pace::Pace;
use crate::replay::{MAX_SEQUENCE, ReplayWindow};

/// Why a packet was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// The inner source address is not the session's.
    Source = 0,
    /// Sequence number seen before, or too old.
    Replay = 1,
    /// The authentication tag does not fit.
    Auth = 2,
    /// Not a record, frame or IP packet of the expected form.
    Malformed = 3,
    /// Larger than the channel takes.
    TooBig = 4,
    /// Over the session's rate limit.
    RateLimit = 5,
    /// A bounded queue was full.
    QueueFull = 6,
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = 7;
    /// All of them, in the order of their counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Source,
        Self::Replay,
        Self::Auth,
        Self::Malformed,
        Self::TooBig,
        Self::RateLimit,
        Self::QueueFull,
    ];
}

/// What both directions of one DTLS channel share. A session has two and alternates between them, so
/// that an old channel works until the new one is used.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct ChannelState {
    tx_seq: AtomicU64,
    epoch: AtomicU64,
    generation: AtomicU64,
    /// Whether the client can be reached by this channel.
    pub live: Liveness,
    spare: [u64; 1],
    window: ReplayWindow,
}

/// Signs of life of a channel, seen by whichever side opened the record. Times are milliseconds of
/// `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Liveness {
    /// 1 while packets to the client go by this channel: its record was heard, and neither silence
    /// nor a packet by CSTP has spoken against it since.
    pub active: Counter,
    /// When the last authentic packet came; before it, when the keys were installed.
    pub last_rx_ms: Counter,
    /// When the first authentic record of any kind came; 0: not yet.
    pub confirmed_ms: Counter,
    /// Number of the device that the kernel path last opened a record from; 0: none yet. Packets to the
    /// client go by it.
    pub ifindex: Counter,
}

impl Liveness {
    /// Of a channel whose keys were installed just now: not used until the client is heard.
    fn start(&self, now_ms: u64) {
        self.active.set(0);
        self.last_rx_ms.set(now_ms);
        self.confirmed_ms.set(0);
        self.ifindex.set(0);
    }

    /// An authentic record came, be it an alert: the client has the keys.
    pub fn confirm(&self, now_ms: u64) {
        if self.confirmed_ms.get() == 0 {
            // Two that write at once write the same moment.
            self.confirmed_ms.set(now_ms.max(1));
        }
    }

    /// An authentic packet (application data) came.
    pub fn heard(&self, now_ms: u64) {
        self.last_rx_ms.set(now_ms);
        if self.active.get() == 0 {
            self.active.set(1);
        }
        self.confirm(now_ms);
    }

    /// Packets to the client go by another way until it is heard again.
    pub fn set_inactive(&self) {
        self.active.set(0);
    }

    /// Whether the first record came at least `age_ms` ago.
    pub fn confirmed_for(&self, now_ms: u64, age_ms: u64) -> bool {
        let confirmed = self.confirmed_ms.get();
        confirmed != 0 && now_ms >= confirmed.saturating_add(age_ms)
    }

    /// Whether a packet may go by this channel: it is active and was heard within `silence_ms` (0: for
    /// any time).
    pub fn usable(&self, now_ms: u64, silence_ms: u64) -> bool {
        self.active.get() != 0
            && (silence_ms == 0 || now_ms.saturating_sub(self.last_rx_ms.get()) <= silence_ms)
    }
}

impl ChannelState {
    /// Begins a channel: `next_send` is the first unused number of ours, `next_receive` the peer's.
    /// Only for a channel that no one uses. `generation` names the keys, is never used for others
    /// and never 0; a second call for the same keys does nothing, because it would repeat nonces.
    /// `now_ms` is when the keys were installed: silence counts from there.
    pub fn start(
        &self,
        generation: u64,
        epoch: u16,
        next_send: u64,
        next_receive: u64,
        now_ms: u64,
    ) {
        if self.generation.load(Ordering::Acquire) == generation {
            return;
        }
        // Whoever dies in between leaves a record of no keys, which is begun again.
        self.generation.store(0, Ordering::Release);
        self.epoch.store(u64::from(epoch), Ordering::Relaxed);
        self.window.reset(next_receive);
        self.live.start(now_ms);
        self.tx_seq.store(next_send, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
    }

    /// The keys that the record stands for, 0 for none.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes the next `count` sequence numbers and returns the first. `None`: the epoch is used up
    /// and nothing may be sealed with its key any more.
    pub fn take_tx_seq(&self, count: u32) -> Option<u64> {
        let first = self.tx_seq.fetch_add(u64::from(count), Ordering::Relaxed);
        (first.saturating_add(u64::from(count)) <= MAX_SEQUENCE + 1).then_some(first)
    }

    /// Epoch given to [`Self::start`].
    pub fn epoch(&self) -> u16 {
        self.epoch.load(Ordering::Relaxed) as u16
    }

    /// Replay window of received records.
    pub fn window(&self) -> &ReplayWindow {
        &self.window
    }
}

/// A counter of its own; relaxed, since nothing else is published by it.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One session. Valid when all-zero. "rx" is client to server, times are seconds of
/// `CLOCK_MONOTONIC`, bytes are those of inner packets.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct SessionShared {
    /// The two DTLS channels.
    pub channels: [ChannelState; 2],
    /// Inner packets from the client.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Last packet in either direction that counts as activity (`idle-timeout`).
    pub last_data_secs: Counter,
    /// Last authentic record received by UDP (`switch-to-tcp-timeout`, DPD).
    pub last_udp_rx_secs: Counter,
    /// Which path packets from the client take.
    pub rx_pace: Pace,
    /// Inner packets to the client.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Which path packets to the client take.
    pub tx_pace: Pace,
    spare_tx: [u64; 2],
    drops: [Counter; DropReason::COUNT],
    spare_drops: u64,
}

#[cfg(not(all(loom, test)))]
const _: () = {
    assert!(size_of::<ReplayWindow>() == 512);
    assert!(size_of::<ChannelState>() == 576);
    assert!(size_of::<SessionShared>() == 1344);
    assert!(align_of::<SessionShared>() == 64);
};

impl SessionShared {
    /// Makes the counters ready for another session. The channels are left alone: whoever still
    /// seals for the last session must not meet a number twice, and new keys start them anew.
    pub fn reset(&self) {
        let counters = [
            &self.rx_packets,
            &self.rx_bytes,
            &self.last_data_secs,
            &self.last_udp_rx_secs,
            &self.tx_packets,
            &self.tx_bytes,
        ];
        for counter in counters.into_iter().chain(&self.drops) {
            counter.set(0);
        }
        self.rx_pace.reset();
        self.tx_pace.reset();
    }

    /// Counts a packet that was not delivered.
    pub fn count_drop(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    /// Packets not delivered for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_are_taken_in_runs() {
        let channel = ChannelState::default();
        channel.start(7, 1, 1, 1, 100);
        assert_eq!(channel.take_tx_seq(1), Some(1));
        assert_eq!(channel.take_tx_seq(10), Some(2));
        assert_eq!(channel.take_tx_seq(1), Some(12));
        assert_eq!(channel.epoch(), 1);
        assert!(
            !channel.window().would_accept(0),
            "the client's Finished is a replay"
        );
    }

    #[test]
    fn a_record_begins_once_for_its_keys() {
        let channel = ChannelState::default();
        channel.start(7, 1, 1, 1, 100);
        assert_eq!(channel.take_tx_seq(5), Some(1));
        assert!(channel.window().commit(9));
        channel.start(7, 1, 1, 1, 100);
        assert_eq!(
            channel.take_tx_seq(1),
            Some(6),
            "told again after a restart"
        );
        assert!(!channel.window().would_accept(9));
        channel.start(8, 1, 1, 1, 100);
        assert_eq!(channel.take_tx_seq(1), Some(1), "other keys");
        assert!(channel.window().would_accept(9));
    }

    #[test]
    fn liveness_is_of_the_keys() {
        let channel = ChannelState::default();
        let live = &channel.live;
        let state = || {
            (
                live.active.get(),
                live.last_rx_ms.get(),
                live.confirmed_ms.get(),
            )
        };
        channel.start(7, 1, 1, 1, 100);
        assert_eq!(state(), (0, 100, 0));
        live.confirm(150);
        assert_eq!(state(), (0, 100, 150), "an alert");
        live.heard(200);
        live.heard(300);
        assert_eq!(state(), (1, 300, 150));
        channel.start(7, 1, 1, 1, 400);
        assert_eq!(state(), (1, 300, 150), "told again after a restart");
        channel.start(8, 1, 1, 1, 400);
        assert_eq!(state(), (0, 400, 0), "other keys");
    }

    #[test]
    fn a_silent_or_inactive_channel_is_not_usable() {
        let live = Liveness::default();
        assert!(!live.usable(100, 0), "never heard");
        live.heard(100);
        assert!(live.usable(150, 50));
        assert!(!live.usable(151, 50));
        assert!(live.usable(1_000_000, 0), "no limit");
        live.set_inactive();
        assert!(!live.usable(100, 0));
        live.heard(0);
        assert!(live.confirmed_for(140, 40));
        assert!(!live.confirmed_for(139, 40));
        assert!(!Liveness::default().confirmed_for(139, 40));
    }

    #[test]
    fn an_epoch_ends_before_its_numbers_repeat() {
        let channel = ChannelState::default();
        channel.start(7, 1, MAX_SEQUENCE - 1, 0, 100);
        assert_eq!(channel.take_tx_seq(2), Some(MAX_SEQUENCE - 1));
        assert_eq!(channel.take_tx_seq(1), None);
        assert_eq!(channel.take_tx_seq(1), None, "for good");
    }

    #[test]
    fn reset_leaves_nothing_of_the_last_session() {
        let session = SessionShared::default();
        session.rx_bytes.add(9);
        session.last_data_secs.set(4);
        for (n, reason) in DropReason::ALL.into_iter().enumerate() {
            session.count_drop(reason);
            assert_eq!(session.drops(reason), 1);
            assert_eq!(reason as usize, n);
        }
        session.reset();
        assert_eq!(session.rx_bytes.get() + session.last_data_secs.get(), 0);
        assert!(
            DropReason::ALL
                .iter()
                .all(|reason| session.drops(*reason) == 0)
        );
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two senders never seal with the same number.
    #[test]
    fn loom_no_sequence_number_is_taken_twice() {
        loom::model(|| {
            let channel = Arc::new(ChannelState::default());
            let other = Arc::clone(&channel);
            let thread = thread::spawn(move || other.take_tx_seq(2).unwrap());
            let here = channel.take_tx_seq(3).unwrap();
            let there = thread.join().unwrap();
            assert!((here, there) == (0, 3) || (here, there) == (2, 0));
        });
    }
}
