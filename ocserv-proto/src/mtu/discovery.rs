//! Search for the largest packet that a path takes (`try-mtu-discovery`, protocol.md 9).
//!
//! All sizes are link MTUs: bytes of the outer packet. Packets that are sent anyway tell when the
//! path is too narrow; probes tell that it is wide enough:
//!
//! ```text
//!  floor ......... good ....... link ....... bad ......... ceiling
//!                  arrived      in use       was refused   as negotiated
//! ```

use std::time::Duration;

use super::{IPV4_MINIMUM, IPV6_MINIMUM};
use crate::Now;

/// An unanswered probe goes again after so long.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A probe that stays unanswered so often was too large.
const PROBE_TRIES: u8 = 3;
/// While packets go to the client, the size in use is proven again so long after it was: a path can
/// begin to lose large packets without a word (RFC 8899 4.3).
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);
/// The search ends when what arrives and what does not are so close.
const PRECISION: u16 = 8;
/// Paths change: what was too large is tried again after so long (RFC 8899 5.1.1).
const RAISE_INTERVAL: Duration = Duration::from_secs(600);

/// What is known of a path.
#[derive(Debug)]
pub struct PathMtu {
    floor: u16,
    ceiling: u16,
    link: u16,
    good: Option<u16>,
    bad: Option<Refused>,
    probe: Option<Probe>,
    /// When the probe was sent whose answer proved the size in use.
    proven: Now,
    /// The path does not even take the floor: nothing is probed any more. The caller has another way
    /// for what does not pass.
    given_up: bool,
}

/// Smallest packet that did not pass.
#[derive(Clone, Copy, Debug)]
struct Refused {
    link: u16,
    at: Now,
}

/// A probe on its way.
#[derive(Clone, Copy, Debug)]
struct Probe {
    link: u16,
    tries: u8,
    sent: Now,
    /// Answers that prove the size. The client answers all requests likewise; where a small one goes
    /// beside it, which shows that the client lives, one answer is that one's.
    awaited: u8,
}

impl PathMtu {
    /// A path of which nothing is known. It is used to the full `ceiling`, the negotiated link MTU,
    /// until it proves narrower, and never below 1280 bytes for a session with an IPv6 lease, 800
    /// for others.
    pub fn new(ceiling: u16, ipv6_lease: bool) -> Self {
        let floor = if ipv6_lease {
            IPV6_MINIMUM
        } else {
            IPV4_MINIMUM
        };
        Self {
            floor: floor.min(ceiling),
            ceiling,
            link: ceiling,
            good: None,
            bad: None,
            probe: None,
            proven: Now::ZERO,
            given_up: false,
        }
    }

    /// The link MTU to use.
    pub fn link(&self) -> u16 {
        self.link
    }

    /// A packet of this size was refused, or is known to be lost. Falls back to the largest size
    /// that arrived, else to two thirds.
    pub fn too_large(&mut self, now: Now, link: u16) {
        if self.probe.is_some_and(|probe| probe.link >= link) {
            self.probe = None;
        }
        if link <= self.ceiling && self.bad.is_none_or(|bad| link < bad.link) {
            self.bad = Some(Refused { link, at: now });
        }
        if link > self.link {
            return;
        }
        self.good = self.good.filter(|good| *good < link);
        self.probe = None;
        self.given_up = link <= self.floor;
        let two_thirds = u32::from(link) * 2 / 3;
        // At most `link`: two thirds of it.
        let guess = (two_thirds as u16).max(self.floor);
        self.link = self.good.unwrap_or(guess);
    }

    /// The kernel refused the probe on its way.
    pub fn probe_refused(&mut self, now: Now) {
        if let Some(probe) = self.probe {
            self.too_large(now, probe.link);
        }
    }

    /// The client answered a probe: its size passes.
    pub fn probe_answered(&mut self) {
        let Some(mut probe) = self.probe.take() else {
            return;
        };
        probe.awaited -= 1;
        if probe.awaited > 0 {
            self.probe = Some(probe);
            return;
        }
        self.proven = probe.sent;
        self.good = self.good.max(Some(probe.link));
        self.bad = self.bad.filter(|bad| bad.link > probe.link);
        self.link = self.link.max(probe.link);
    }

    /// Whether a small request is to go beside the probe that [`Self::handle_timeout`] told: the client
    /// may be silent because nothing reaches it.
    pub fn needs_small(&self) -> bool {
        self.probe.is_some_and(|probe| probe.awaited > 1)
    }

    /// The probe counts as not sent: it was not, or another packet is on its way that the client
    /// answers likewise, so that an answer does not tell any more which size passed.
    pub fn forget_probe(&mut self) {
        self.probe = None;
    }

    /// The client sent a control packet of this size: the path is that wide, at least towards here.
    /// Whether it is so towards the client is probed next, unless it is known not to be: a client's
    /// packets may arrive in fragments.
    pub fn heard(&mut self, link: u16) {
        let link = link.min(self.ceiling);
        if link > self.link && self.bad.is_none_or(|bad| link < bad.link) {
            self.link = link;
        }
    }

    /// To be called each second or so; returns the size of a probe to send. `last_heard` is when
    /// the client was last heard: a silent one is not asked again, and says nothing about a size.
    /// `busy`: packets go to the client, whose silence may mean that none arrives.
    pub fn handle_timeout(&mut self, now: Now, last_heard: Now, busy: bool) -> Option<u16> {
        let awaited = 1 + u8::from(busy);
        if let Some(probe) = &mut self.probe {
            let is_heard = last_heard > probe.sent;
            let may_live = busy && probe.awaited == 1;
            if now < probe.sent + PROBE_INTERVAL || !is_heard && !may_live {
                return None;
            }
            if !is_heard || probe.tries < PROBE_TRIES {
                probe.tries += u8::from(is_heard);
                probe.sent = now;
                probe.awaited = awaited;
                return Some(probe.link);
            }
            let lost = probe.link;
            self.too_large(now, lost);
        }
        let link = self.next_size(now, busy)?;
        self.probe = Some(Probe {
            link,
            tries: 1,
            sent: now,
            awaited,
        });
        Some(link)
    }

    /// First the size in use, then between it and what was refused.
    fn next_size(&mut self, now: Now, busy: bool) -> Option<u16> {
        if self.given_up {
            return None;
        }
        let is_old = now >= self.proven + CONFIRM_INTERVAL;
        if self.good != Some(self.link) || busy && is_old {
            return Some(self.link);
        }
        if let Some(bad) = self.bad {
            let gap = bad.link.saturating_sub(self.link);
            if gap > PRECISION {
                return Some(self.link + gap / 2);
            }
            if now < bad.at + RAISE_INTERVAL {
                return None;
            }
            self.bad = None;
        }
        (self.link < self.ceiling).then_some(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    /// Lets a path of `width` bytes answer for `seconds`. Packets that are too large are refused by
    /// the kernel, or vanish if `silently`.
    fn search(path: &mut PathMtu, from: u64, seconds: u64, width: u16, silently: bool) -> Vec<u16> {
        let mut probes = Vec::new();
        for second in from..from + seconds {
            let heard = at(second) + Duration::from_millis(500);
            if let Some(link) =
                path.handle_timeout(at(second), heard - Duration::from_secs(1), false)
            {
                probes.push(link);
                if link <= width {
                    path.probe_answered();
                } else if !silently {
                    path.probe_refused(at(second));
                }
            }
        }
        probes
    }

    #[test]
    fn a_wide_path_is_proven_by_one_probe() {
        let mut path = PathMtu::new(1500, false);
        assert_eq!(search(&mut path, 10, 5000, 1500, false), [1500]);
        assert_eq!(path.link(), 1500);
    }

    #[test]
    fn a_refused_packet_means_two_thirds_then_the_last_good_size() {
        let mut path = PathMtu::new(1500, false);
        path.too_large(at(10), 1500);
        assert_eq!(path.link(), 1000);
        path.too_large(at(10), 1490);
        assert_eq!(path.link(), 1000, "sent before the first one was refused");
        assert_eq!(path.handle_timeout(at(11), at(10), false), Some(1000));
        path.probe_answered();
        assert_eq!(path.handle_timeout(at(12), at(11), false), Some(1245));
        path.probe_answered();
        assert_eq!(path.link(), 1245);
        path.too_large(at(12), 1245);
        assert_eq!(path.link(), 830, "what arrived once does not any more");

        let mut path = PathMtu::new(1500, false);
        assert_eq!(search(&mut path, 10, 1, 1500, false), [1500]);
        path.heard(9000);
        path.too_large(at(12), 1500);
        assert_eq!(path.handle_timeout(at(13), at(12), false), Some(1000));
        path.probe_answered();
        path.heard(1400);
        assert_eq!(path.link(), 1400);
        path.too_large(at(14), 1400);
        assert_eq!(path.link(), 1000, "the last good size");
    }

    #[test]
    fn the_search_ends_close_to_the_path() {
        for silently in [false, true] {
            for width in [1300, 1200, 1499, 801] {
                let mut path = PathMtu::new(1500, false);
                search(&mut path, 10, 60, width, silently);
                let found = path.link();
                assert!(found <= width && width - found <= 8, "{width}: {found}");
                assert!(search(&mut path, 70, 500, width, silently).is_empty());
            }
        }
    }

    #[test]
    fn a_path_that_widens_is_found_out_after_ten_minutes() {
        let mut path = PathMtu::new(1500, false);
        search(&mut path, 10, 60, 1300, false);
        assert!(path.link() <= 1300);
        let probes = search(&mut path, 70, 700, 1500, false);
        assert_eq!(probes, [1500]);
        assert_eq!(path.link(), 1500);
    }

    #[test]
    fn at_the_floor_the_search_is_given_up() {
        for (ipv6_lease, floor) in [(false, 800), (true, 1280)] {
            let mut path = PathMtu::new(1500, ipv6_lease);
            search(&mut path, 10, 60, floor - 1, false);
            assert_eq!(path.link(), floor);
            assert!(path.given_up);
            assert!(search(&mut path, 70, 5000, 1500, false).is_empty());
            path.heard(1400);
            assert_eq!(path.link(), floor);
        }
    }

    #[test]
    fn a_floor_is_never_above_what_was_negotiated() {
        let mut path = PathMtu::new(1270, true);
        assert_eq!(path.link(), 1270);
        path.too_large(at(1), 1270);
        assert!(path.given_up && path.link() == 1270);
    }

    #[test]
    fn a_larger_control_packet_of_the_client_raises() {
        let mut path = PathMtu::new(1500, false);
        path.too_large(at(10), 1500);
        path.heard(900);
        assert_eq!(path.link(), 1000);
        path.heard(1350);
        assert_eq!(path.link(), 1350);
        assert_eq!(
            path.handle_timeout(at(11), at(10), false),
            Some(1350),
            "to be proven"
        );
        path.heard(1500);
        assert_eq!(path.link(), 1350, "that was refused");

        let mut path = PathMtu::new(1500, false);
        path.too_large(at(10), 1400);
        path.heard(1399);
        path.heard(16_000);
        assert_eq!(path.link(), 1399);
    }

    #[test]
    fn three_unanswered_probes_of_a_client_that_is_heard() {
        let mut path = PathMtu::new(1500, false);
        assert_eq!(path.handle_timeout(at(10), at(9), false), Some(1500));
        assert_eq!(
            path.handle_timeout(at(100), at(10), false),
            None,
            "not heard since"
        );
        assert_eq!(path.handle_timeout(at(100), at(99), false), Some(1500));
        assert_eq!(path.handle_timeout(at(100), at(100), false), None);
        assert_eq!(path.handle_timeout(at(101), at(101), false), Some(1500));
        assert_eq!(path.link(), 1500);
        assert_eq!(path.handle_timeout(at(102), at(102), false), Some(1000));
        assert_eq!(path.link(), 1000);
    }

    /// A client that says nothing but answers, on a path of `width` bytes that loses larger packets
    /// silently, while packets go to it: the probes of so many seconds.
    fn search_busy(path: &mut PathMtu, from: u64, seconds: u64, width: u16) -> Vec<u16> {
        let mut heard = at(from);
        let mut probes = Vec::new();
        for second in from..from + seconds {
            let Some(link) = path.handle_timeout(at(second), heard, true) else {
                continue;
            };
            probes.push(link);
            let arrives = [link <= width, path.needs_small()];
            for _ in arrives.iter().filter(|arrives| **arrives) {
                heard = at(second) + Duration::from_millis(20);
                path.probe_answered();
            }
        }
        probes
    }

    #[test]
    fn a_path_that_gets_narrow_silently_is_noticed() {
        let mut path = PathMtu::new(1500, false);
        let proofs = search_busy(&mut path, 10, 20, 1500);
        assert_eq!(proofs, [1500; 4], "one in 5 s");
        let probes = search_busy(&mut path, 30, 4, 1300);
        assert_eq!(probes, [1500, 1500, 1500, 1000]);
        search_busy(&mut path, 34, 40, 1300);
        assert!((1292..=1300).contains(&path.link()), "{}", path.link());
    }

    #[test]
    fn a_client_that_answers_nothing_says_nothing_about_a_size() {
        let mut path = PathMtu::new(1500, false);
        assert_eq!(search_busy(&mut path, 10, 1, 1500), [1500]);
        for second in 15..60 {
            let asked = path.handle_timeout(at(second), at(14), true);
            assert_eq!(asked, (second == 15).then_some(1500));
        }
        assert_eq!(path.link(), 1500);
        let asked = path.handle_timeout(at(60), at(60), true);
        assert_eq!(asked, Some(1500), "heard again");
        assert!(path.needs_small());
    }

    #[test]
    fn a_client_that_gets_nothing_more_is_asked_by_a_small_request_too() {
        let mut path = PathMtu::new(1500, false);
        assert_eq!(path.handle_timeout(at(10), at(9), false), Some(1500));
        assert!(!path.needs_small());
        assert_eq!(path.handle_timeout(at(11), at(9), true), Some(1500));
        assert!(path.needs_small());
        path.probe_answered();
        assert_eq!(path.good, None, "that of the small one");
        path.probe_answered();
        assert_eq!(path.good, Some(1500));
    }

    #[test]
    fn a_client_that_gets_nothing_is_left_in_peace() {
        let mut path = PathMtu::new(1500, false);
        assert_eq!(search_busy(&mut path, 10, 1, 1500), [1500]);
        assert_eq!(path.handle_timeout(at(100), at(99), false), None);
    }

    #[test]
    fn an_ambiguous_answer_counts_for_no_probe() {
        let mut path = PathMtu::new(1500, false);
        assert_eq!(path.handle_timeout(at(10), at(9), false), Some(1500));
        path.forget_probe();
        path.probe_answered();
        path.probe_refused(at(10));
        assert_eq!(path.handle_timeout(at(11), at(10), false), Some(1500));
    }

    proptest! {
        #[test]
        fn no_events_lead_out_of_the_bounds(
            ceiling in 600u16..17000, ipv6_lease: bool,
            events in prop::collection::vec((0u8..6, any::<u16>()), 0..200),
        ) {
            let mut path = PathMtu::new(ceiling, ipv6_lease);
            let floor = if ipv6_lease { IPV6_MINIMUM } else { IPV4_MINIMUM }.min(ceiling);
            for (second, (event, link)) in events.into_iter().enumerate() {
                let now = at(second as u64 * 300);
                match event {
                    0 => path.too_large(now, link),
                    1 => path.probe_refused(now),
                    2 => path.probe_answered(),
                    3 => path.heard(link),
                    _ => {
                        let probe = path.handle_timeout(now, now, event == 5);
                        prop_assert!(probe.is_none_or(|link| (floor..=ceiling).contains(&link)));
                    }
                }
                prop_assert!((floor..=ceiling).contains(&path.link()));
            }
        }
    }
}
