//! A session's MTU: as negotiated, or as the search finds it (`try-mtu-discovery`).
//!
//! Packets read one atomic number. The search behind it is locked, and touched by refused records,
//! control packets and the timer only.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use ocserv_proto::Now;
use ocserv_proto::mtu::discovery::PathMtu;

/// Largest inner packet of a session, bytes.
#[derive(Debug)]
pub struct SessionMtu {
    current: AtomicU16,
    negotiated: AtomicU16,
    /// What the supervisor knows.
    told: AtomicU16,
    /// `None`: `try-mtu-discovery` is off.
    search: Option<Mutex<Option<Search>>>,
}

#[derive(Debug)]
struct Search {
    path: PathMtu,
    /// Bytes that an outer packet is larger than the inner one.
    overhead: u16,
    ipv6_lease: bool,
    /// Bytes that had gone to the client at the last probe.
    sent: u64,
}

/// A request whose answer proves that its size passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeProbe {
    /// Length of its payload.
    pub len: usize,
    /// A small request goes beside it.
    pub with_small: bool,
}

impl SessionMtu {
    /// An MTU that was negotiated.
    pub fn new(negotiated: u16, discover: bool) -> Self {
        Self {
            current: AtomicU16::new(negotiated),
            negotiated: AtomicU16::new(negotiated),
            told: AtomicU16::new(negotiated),
            search: discover.then(Mutex::default),
        }
    }

    /// Largest inner packet now.
    pub fn get(&self) -> u16 {
        self.current.load(Ordering::Relaxed)
    }

    /// Gate and client agreed on another MTU.
    pub fn negotiated(&self, mtu: u16) {
        self.negotiated.store(mtu, Ordering::Relaxed);
        self.told.store(mtu, Ordering::Relaxed);
        self.current.store(mtu, Ordering::Relaxed);
        self.with(|search| *search = Search::new(mtu, search.overhead, search.ipv6_lease));
    }

    /// Records go another way now, of which nothing is known: a new channel, or a client that moved.
    pub fn new_path(&self, overhead: u16, ipv6_lease: bool) {
        let Some(lock) = &self.search else { return };
        let negotiated = self.negotiated.load(Ordering::Relaxed);
        let mut search = lock.lock().unwrap_or_else(PoisonError::into_inner);
        *search = Some(Search::new(negotiated, overhead, ipv6_lease));
        self.current.store(negotiated, Ordering::Relaxed);
    }

    /// The path refused an inner packet of this length.
    pub fn refused(&self, now: Now, len: usize) {
        self.with(|search| {
            let link = search.link(len);
            search.path.too_large(now, link);
        });
    }

    /// The path refused the last probe.
    pub fn probe_refused(&self, now: Now) {
        self.with(|search| search.path.probe_refused(now));
    }

    /// The client answered a control packet.
    pub fn answered(&self) {
        self.with(|search| search.path.probe_answered());
    }

    /// The client sent a control packet with a payload of this length.
    pub fn heard(&self, len: usize) {
        if len > usize::from(self.get()) {
            self.with(|search| {
                let link = search.link(len);
                search.path.heard(link);
            });
        }
    }

    /// Another packet asks for an answer, or the probe was not sent.
    pub fn forget_probe(&self) {
        self.with(|search| search.path.forget_probe());
    }

    /// A probe that is to be sent now. `sent`: bytes of inner packets that went to the client so far.
    pub fn probe(&self, now: Now, last_heard: Now, sent: u64) -> Option<SizeProbe> {
        self.with(|search| {
            // Less can have no large packet in it.
            let busy = sent.saturating_sub(search.sent) >= u64::from(search.path.link());
            let link = search.path.handle_timeout(now, last_heard, busy)?;
            search.sent = sent;
            Some(SizeProbe {
                len: usize::from(link.saturating_sub(search.overhead)),
                with_small: search.path.needs_small(),
            })
        })
        .flatten()
    }

    /// The MTU, if the supervisor knows another one.
    pub fn news(&self) -> Option<u16> {
        let current = self.get();
        (self.told.load(Ordering::Relaxed) != current).then_some(current)
    }

    /// The supervisor was told.
    pub fn told(&self, mtu: u16) {
        self.told.store(mtu, Ordering::Relaxed);
    }

    fn with<R>(&self, f: impl FnOnce(&mut Search) -> R) -> Option<R> {
        let mut search = self
            .search
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let search = search.as_mut()?;
        let result = f(search);
        let mtu = search.path.link().saturating_sub(search.overhead);
        self.current.store(mtu, Ordering::Relaxed);
        Some(result)
    }
}

impl Search {
    fn new(negotiated: u16, overhead: u16, ipv6_lease: bool) -> Self {
        Self {
            path: PathMtu::new(negotiated.saturating_add(overhead), ipv6_lease),
            overhead,
            ipv6_lease,
            sent: 0,
        }
    }

    /// Length of the outer packet around an inner one.
    fn link(&self, len: usize) -> u16 {
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        len.saturating_add(self.overhead)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Now = Duration::from_secs(10);

    #[test]
    fn without_the_key_nothing_changes_the_mtu() {
        let mtu = SessionMtu::new(1434, false);
        mtu.new_path(66, false);
        mtu.refused(NOW, 1434);
        mtu.heard(9000);
        assert_eq!(
            (mtu.get(), mtu.news(), mtu.probe(NOW, NOW, 9000)),
            (1434, None, None)
        );
    }

    #[test]
    fn a_refused_packet_lowers_and_an_answered_probe_raises() {
        let mtu = SessionMtu::new(1434, true);
        mtu.refused(NOW, 1434);
        assert_eq!(mtu.get(), 1434, "not in use yet");
        mtu.new_path(66, false);
        mtu.refused(NOW, 1434);
        assert_eq!(mtu.get(), 934);
        assert_eq!(mtu.news(), Some(934));
        mtu.told(934);
        assert_eq!(mtu.news(), None);
        let probe = |now| mtu.probe(now, now, 0).map(|probe| probe.len);
        assert_eq!(probe(NOW), Some(934));
        mtu.answered();
        assert_eq!(probe(NOW), Some(1184));
        mtu.answered();
        assert_eq!(mtu.get(), 1184);
        mtu.heard(1200);
        assert_eq!(mtu.get(), 1200);
    }

    #[test]
    fn a_size_is_proven_again_while_packets_go_to_the_client() {
        let mtu = SessionMtu::new(1434, true);
        mtu.new_path(66, false);
        assert_eq!(mtu.probe(NOW, NOW, 0).map(|probe| probe.len), Some(1434));
        mtu.answered();
        let later = 2 * NOW;
        assert_eq!(mtu.probe(later, NOW, 1400), None);
        let proof = SizeProbe {
            len: 1434,
            with_small: true,
        };
        assert_eq!(mtu.probe(later, NOW, 1500), Some(proof));
    }

    #[test]
    fn another_way_or_agreement_begins_anew() {
        let mtu = SessionMtu::new(1434, true);
        mtu.new_path(66, true);
        mtu.refused(NOW, 1434);
        assert_eq!(mtu.get(), 1280 - 66);
        mtu.new_path(86, true);
        assert_eq!(mtu.get(), 1434);
        mtu.negotiated(1300);
        mtu.refused(NOW, 1300);
        assert_eq!(mtu.get(), 1280 - 86);
    }
}
