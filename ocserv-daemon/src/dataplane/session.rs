//! A session as all threads share it. Nothing in it is locked that a packet needs.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ocserv_common::session::{ChannelState, Liveness, SessionShared};
use ocserv_proto::Now;
use ocserv_proto::dtls::DtlsChannel;
use ocserv_proto::dtls::control::Path;
use ocserv_sys::shared_map::SharedSessions;

use super::channel::{Channel, Flow};
use super::limit::RateLimit;
use super::meter::Merging;
use super::routes::Prefix;
use super::session_mtu::SessionMtu;
use crate::ipc::dataplane::SessionParams;

/// How long the previous channel still opens records once the new one is in use.
const GRACE: Duration = Duration::from_secs(30);
/// A channel moves at most this often (protocol.md 8.6).
const MOVE_INTERVAL: Duration = Duration::from_secs(3);

/// Datagrams of its handshakes that its gate gets, a second: one has about ten, but anyone can send them.
const HANDSHAKES_PER_SECOND: u64 = 100;

/// One open session.
pub struct Session {
    /// As the supervisor gave it; `mtu` there is the first one.
    pub params: SessionParams,
    /// Client to server.
    pub rx_limit: RateLimit,
    /// Server to client.
    pub tx_limit: RateLimit,
    /// Of datagrams that its gate is to look at.
    pub handshakes: RateLimit,
    /// Flow of the handshake that is under way: the gate may answer there only.
    pub handshake: ArcSwapOption<Flow>,
    /// Largest inner packet.
    pub mtu: SessionMtu,
    /// What merges of its packets, by `Direction`.
    pub merging: [Merging; 2],
    sources: Vec<Prefix>,
    channels: [ArcSwapOption<Channel>; 2],
    newest: AtomicUsize,
    /// By channel record: the keys whose use ended, until the supervisor was told; 0: none.
    ended: [AtomicU64; 2],
    moved_ms: AtomicU64,
    shared: Arc<SharedSessions>,
}

impl Session {
    /// With `discover`, the MTU follows the path. `None`: there is no record for the slot, or a
    /// prefix length is out of range.
    pub fn new(params: SessionParams, shared: Arc<SharedSessions>, discover: bool) -> Option<Self> {
        shared.get(params.slot.0 as usize)?;
        Some(Self {
            sources: sources(&params)?,
            rx_limit: RateLimit::new(params.rx_limit),
            tx_limit: RateLimit::new(params.tx_limit),
            handshakes: RateLimit::new(HANDSHAKES_PER_SECOND),
            handshake: ArcSwapOption::empty(),
            mtu: SessionMtu::new(params.mtu, discover),
            merging: Default::default(),
            channels: [ArcSwapOption::empty(), ArcSwapOption::empty()],
            newest: AtomicUsize::new(0),
            ended: Default::default(),
            moved_ms: AtomicU64::new(0),
            params,
            shared,
        })
    }

    /// Its index.
    pub fn slot(&self) -> u32 {
        self.params.slot.0
    }

    /// Its record in shared memory.
    pub fn shared(&self) -> &SessionShared {
        // There since `new`; what was mapped stays.
        &self.shared[self.params.slot.0 as usize]
    }

    /// The record of a channel: counter, window, liveness.
    pub fn record(&self, channel: &Channel) -> &ChannelState {
        &self.shared().channels[channel.index & 1]
    }

    /// Signs of life of a channel.
    pub fn live(&self, channel: &Channel) -> &Liveness {
        &self.record(channel).live
    }

    /// The addresses and networks that belong to the client.
    pub fn prefixes(&self) -> &[Prefix] {
        &self.sources
    }

    /// Whether a packet from the client may carry this source address.
    pub fn owns(&self, source: IpAddr) -> bool {
        self.sources.iter().any(|prefix| prefix.contains(source))
    }

    /// Puts a channel in place, whose record was started. That of the newest keys is the preferred
    /// one: after a restart of the dataplane they come in any order.
    pub fn install(&self, index: usize, crypto: DtlsChannel, flow: Flow) {
        let settings = self.params.dtls_settings();
        let generation = self.shared().channels[index & 1].generation();
        let channel = Channel::new(index, generation, crypto, flow, settings);
        self.mtu
            .new_path(channel.overhead(), self.params.ipv6.is_some());
        self.channels[index & 1].store(Some(Arc::new(channel)));
        let other = self.channels[1 - (index & 1)].load();
        if other.as_deref().is_none_or(|o| o.generation < generation) {
            self.newest.store(index & 1, Ordering::Release);
        }
    }

    /// Forgets a channel for good; the supervisor is to hear of it.
    pub fn end_channel(&self, channel: &Channel) {
        let index = channel.index & 1;
        self.channels[index].store(None);
        self.ended[index].store(channel.generation, Ordering::Relaxed);
    }

    /// Calls `tell` with record and number of the keys of each channel that ended. Where it fails they
    /// come again next time.
    pub fn tell_ended(&self, mut tell: impl FnMut(u8, u64) -> bool) {
        for (index, ended) in (0..).zip(&self.ended) {
            let generation = ended.load(Ordering::Relaxed);
            if generation != 0 && tell(index, generation) {
                // Unless others ended meanwhile.
                let _ = ended.compare_exchange(generation, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Makes room for other keys.
    pub fn drop_channel(&self, index: usize) {
        self.channels[index & 1].store(None);
    }

    /// Forgets both channels.
    pub fn drop_channels(&self) {
        for channel in &self.channels {
            channel.store(None);
        }
    }

    /// Calls `f` with the channels there are, the preferred one first, until it yields something.
    pub fn each_channel<R>(&self, mut f: impl FnMut(&Channel) -> Option<R>) -> Option<R> {
        let newest = self.newest.load(Ordering::Acquire) & 1;
        [newest, 1 - newest].into_iter().find_map(|index| {
            let channel = self.channels[index].load();
            channel.as_deref().and_then(&mut f)
        })
    }

    /// Whether a handshake of the session is or was going on with this flow: a gate may have
    /// anything sent there, and nowhere else.
    pub fn is_clients(&self, flow: &Flow) -> bool {
        self.handshake.load().as_deref() == Some(flow)
            || self
                .each_channel(|channel| (channel.flow() == *flow).then_some(()))
                .is_some()
    }

    /// Calls `f` with the channel to send by, if DTLS is in use.
    pub fn with_sending<R>(&self, now: Now, f: impl FnOnce(&Channel) -> R) -> Option<R> {
        let mut f = Some(f);
        self.each_channel(
            |channel| match channel.control.path(self.live(channel), now) {
                Path::Dtls => f.take().map(|f| f(channel)),
                Path::Cstp => None,
            },
        )
    }

    /// Takes the next sequence number to send with. `None`: the key is used up, or the record in
    /// shared memory has been given to another channel.
    pub fn take_sequence(&self, channel: &Channel) -> Option<u64> {
        let record = self.record(channel);
        let sequence = record.take_tx_seq(1)?;
        (record.generation() == channel.generation).then_some(sequence)
    }

    /// Whether a channel may move to another address now.
    pub fn may_move(&self, now: Now) -> bool {
        let moved = self.moved_ms.load(Ordering::Relaxed);
        moved == 0 || now >= Duration::from_millis(moved) + MOVE_INTERVAL
    }

    /// A channel moves to another address.
    pub fn move_channel(&self, channel: &Channel, flow: Flow, now: Now) {
        channel.move_to(flow);
        self.mtu
            .new_path(channel.overhead(), self.params.ipv6.is_some());
        self.moved_ms.store(millis(now).max(1), Ordering::Relaxed);
    }

    /// Drops the previous channel when its time is over.
    pub fn retire_previous(&self, now: Now) {
        let newest = self.newest.load(Ordering::Acquire) & 1;
        let newest = self.channels[newest].load();
        let Some(newest) = newest.as_deref() else {
            return;
        };
        let previous = self.channels[1 - (newest.index & 1)].load();
        let over = self
            .live(newest)
            .confirmed_for(millis(now), GRACE.as_millis() as u64);
        if let Some(previous) = previous.as_deref()
            // Keys that are being put in its place are newer.
            && previous.generation < newest.generation
            && over
        {
            self.end_channel(previous);
        }
    }

    /// A DATA packet came by CSTP: the client wants TCP (protocol.md 7).
    pub fn data_by_cstp(&self) {
        self.each_channel(|channel| {
            self.live(channel).set_inactive();
            None::<()>
        });
    }
}

fn sources(params: &SessionParams) -> Option<Vec<Prefix>> {
    let mut sources = Vec::new();
    sources.extend(params.ipv4.map(|address| Prefix::host(address.into())));
    if let Some((address, len)) = params.ipv6 {
        sources.push(Prefix::host(address.into()));
        sources.push(Prefix::new(address.into(), len)?);
    }
    for (address, len) in &params.iroutes {
        sources.push(Prefix::new(*address, *len)?);
    }
    Some(sources)
}

fn millis(now: Now) -> u64 {
    now.as_millis() as u64
}

#[cfg(test)]
pub mod tests {
    use ocserv_proto::dtls::{ChannelKeys, Cipher, DtlsControl};
    use ocserv_proto::secret::Secret;
    use ocserv_sys::shared_map::Backing;

    use super::*;
    use crate::ipc::ids::{GateId, Slot};

    /// A session with a lease of both families and a network behind it.
    pub fn session(slot: u32) -> Session {
        Session::new(params(slot), records(), false).unwrap()
    }

    pub fn records() -> Arc<SharedSessions> {
        let shared = SharedSessions::new(4);
        let memory = SharedSessions::create_shard().unwrap();
        shared.add(0, &memory, Backing::Memfd).unwrap();
        Arc::new(shared)
    }

    pub fn params(slot: u32) -> SessionParams {
        SessionParams {
            slot: Slot(slot),
            gate: GateId(1),
            ipv4: Some([10, 9, 0, 2 + slot as u8].into()),
            ipv6: Some(("fd00::1:0".parse().unwrap(), 112)),
            iroutes: vec![("192.168.7.0".parse().unwrap(), 24)],
            app_id: Some([slot as u8; 32]),
            mtu: 1400,
            dpd: 90,
            switch_to_tcp: 0,
            rx_limit: 0,
            tx_limit: 0,
            net_priority: None,
        }
    }

    pub fn flow(peer: &str) -> Flow {
        Flow {
            peer: peer.parse().unwrap(),
            local: "198.51.100.1:443".parse().unwrap(),
        }
    }

    pub fn crypto(epoch: u16) -> DtlsChannel {
        crypto_of(1, epoch)
    }

    /// The same of either side: with keys of this byte.
    pub fn crypto_of(byte: u8, epoch: u16) -> DtlsChannel {
        let bytes = |len| Secret::new(vec![byte; len]);
        let keys = ChannelKeys {
            cipher: Cipher::Aes128Gcm,
            epoch,
            next_send: 1,
            next_receive: 1,
            client_key: bytes(16),
            client_iv: bytes(4),
            server_key: bytes(16),
            server_iv: bytes(4),
        };
        DtlsChannel::new(&keys).unwrap()
    }

    /// Keys numbered `generation` for a channel record.
    fn install(session: &Session, index: usize, generation: u64, peer: &str, now: Now) {
        session.shared().channels[index].start(generation, 1, 5, 1, millis(now));
        session.install(index, crypto(1), flow(peer));
    }

    fn used_by_client(session: &Session, index: usize, now: Now) {
        session.each_channel(|channel| {
            if channel.index == index {
                let content_type = ocserv_proto::dtls::record::ContentType::ApplicationData;
                let plaintext = &mut [7];
                let opened = ocserv_proto::dtls::channel::Opened {
                    content_type,
                    plaintext,
                };
                DtlsControl::received(session.live(channel), now, opened);
            }
            None::<()>
        });
    }

    fn sending(session: &Session, now: Now) -> Option<usize> {
        session.with_sending(now, |channel| channel.index)
    }

    /// Channels whose end is reported, to somebody who takes it or not.
    fn told(session: &Session, taken: bool) -> Vec<(u8, u64)> {
        let mut told = Vec::new();
        session.tell_ended(|index, generation| {
            told.push((index, generation));
            taken
        });
        told
    }

    #[test]
    fn sources_are_lease_prefix_and_networks_behind_the_client() {
        let session = session(0);
        for own in ["10.9.0.2", "fd00::1:0", "fd00::1:ffff", "192.168.7.200"] {
            assert!(session.owns(own.parse().unwrap()), "{own}");
        }
        for other in ["10.9.0.3", "fd00::2:0", "192.168.8.1", "0.0.0.0", "fe80::1"] {
            assert!(!session.owns(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn a_slot_or_prefix_out_of_range_is_refused() {
        let empty = Arc::new(SharedSessions::new(4));
        assert!(Session::new(params(0), empty, false).is_none());
        let shared = records();
        assert!(Session::new(params(4), Arc::clone(&shared), false).is_none());
        let mut bad = params(0);
        bad.iroutes.push(("10.0.0.0".parse().unwrap(), 33));
        assert!(Session::new(bad, shared, false).is_none());
    }

    #[test]
    fn the_old_channel_sends_until_the_client_uses_the_new_one() {
        let session = session(0);
        let at = Duration::from_secs;
        assert_eq!(sending(&session, at(1)), None);
        install(&session, 0, 1, "192.0.2.1:1", at(1));
        assert_eq!(
            sending(&session, at(1)),
            None,
            "the client may not have its keys yet"
        );
        used_by_client(&session, 0, at(2));
        assert_eq!(sending(&session, at(2)), Some(0));
        install(&session, 1, 2, "192.0.2.1:2", at(10));
        assert_eq!(sending(&session, at(10)), Some(0));
        session.retire_previous(at(100));
        used_by_client(&session, 0, at(100));
        assert_eq!(
            sending(&session, at(100)),
            Some(0),
            "the new one was never used"
        );
        used_by_client(&session, 1, at(101));
        assert_eq!(sending(&session, at(101)), Some(1));
    }

    #[test]
    fn the_old_channel_ends_after_its_grace() {
        let session = session(0);
        let at = Duration::from_secs;
        install(&session, 0, 1, "192.0.2.1:1", at(1));
        install(&session, 1, 2, "192.0.2.1:1", at(2));
        used_by_client(&session, 1, at(3));
        let channels = || {
            let mut indices = Vec::new();
            session.each_channel(|channel| {
                indices.push(channel.index);
                None::<()>
            });
            indices
        };
        session.retire_previous(at(32));
        assert_eq!(channels(), [1, 0]);
        assert_eq!(told(&session, true), []);
        session.retire_previous(at(33));
        assert_eq!(channels(), [1]);
        assert_eq!(told(&session, false), [(0, 1)], "no room for the report");
        assert_eq!(told(&session, true), [(0, 1)]);
        assert_eq!(told(&session, true), [], "told");
        session.drop_channel(1);
        assert_eq!(channels(), [0usize; 0]);
    }

    #[test]
    fn keys_that_are_told_again_find_their_liveness() {
        let before = session(0);
        let at = Duration::from_secs;
        install(&before, 1, 2, "192.0.2.1:1", at(1));
        used_by_client(&before, 1, at(2));
        let after = Session::new(params(0), Arc::clone(&before.shared), false).unwrap();
        install(&after, 1, 2, "192.0.2.1:1", at(40));
        assert_eq!(sending(&after, at(40)), Some(1), "no need to wait for it");
        assert_eq!(sending(&after, at(2 + 3 * 90)), Some(1));
        assert_eq!(sending(&after, at(3 + 3 * 90)), None, "silent since 2 s");
    }

    #[test]
    fn the_newest_keys_are_preferred_whatever_comes_last() {
        let session = session(0);
        let at = Duration::from_secs;
        install(&session, 0, 8, "192.0.2.1:1", at(1));
        install(&session, 1, 7, "192.0.2.1:1", at(1));
        used_by_client(&session, 1, at(2));
        used_by_client(&session, 0, at(2));
        assert_eq!(sending(&session, at(2)), Some(0));
        session.retire_previous(at(60));
        assert_eq!(sending(&session, at(60)), Some(0), "the older one went");
    }

    #[test]
    fn a_channel_that_is_newer_is_not_the_previous_one() {
        let session = session(0);
        let at = Duration::from_secs;
        install(&session, 0, 1, "192.0.2.1:1", at(1));
        used_by_client(&session, 0, at(2));
        install(&session, 1, 2, "192.0.2.1:1", at(90));
        // As a thread sees it that looked a moment before.
        session.newest.store(0, Ordering::Release);
        session.retire_previous(at(100));
        used_by_client(&session, 1, at(100));
        session.newest.store(1, Ordering::Release);
        assert_eq!(sending(&session, at(100)), Some(1));
    }

    #[test]
    fn a_record_given_to_another_channel_yields_no_number() {
        let session = session(0);
        install(&session, 0, 1, "192.0.2.1:1", Duration::from_secs(1));
        let take = || session.each_channel(|channel| session.take_sequence(channel));
        assert_eq!(take(), Some(5));
        session.shared().reset();
        assert_eq!(
            take(),
            Some(6),
            "counters of another session are no matter of the channel's"
        );
        session.shared().channels[0].start(2, 1, 1, 1, 0);
        assert_eq!(take(), None);
    }

    #[test]
    fn a_channel_moves_at_most_every_three_seconds() {
        let session = session(0);
        assert!(session.may_move(Duration::ZERO));
        install(&session, 0, 1, "192.0.2.1:1", Duration::from_secs(1));
        session.each_channel(|channel| {
            session.move_channel(channel, flow("192.0.2.1:2"), Duration::from_secs(10));
            Some(())
        });
        assert!(!session.may_move(Duration::from_millis(12_999)));
        assert!(session.may_move(Duration::from_secs(13)));
    }
}
