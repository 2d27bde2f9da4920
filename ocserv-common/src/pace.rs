//! Which path a session's packets of one direction take: the kernel's or user space's.
//!
//! A packet is cheaper in the kernel while it is short, or alone. User space is cheaper for packets that
//! come close behind each other, if it can merge them: what it then spends on a packet is a part of what
//! the walk through the host's stack costs. So a program looks at the distances, and user space, which
//! sees how much it really merged, tells the session's limit back ([`Pace::tell`]).
//!
//! Whenever a packet is left to user space for its length, those behind it follow for a while, and then until
//! there is a pause, in which user space gets done with them: so none overtakes. Where no pause comes, that ends
//! after some time too, and a few may overtake. All of this is a matter of cost: what threads and processors overwrite of each other
//! changes which path a packet takes, never whether it arrives.

use crate::session::Counter;

/// Lengths that programs take, of one direction. A length is that of the record, header included, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Limits {
    /// Longest record.
    pub alone: u32,
    /// Longest record of a session whose packets come close behind each other, until user space tells
    /// otherwise.
    pub close: u32,
    /// What is close, ns; 0: distances are not looked at.
    pub close_ns: u32,
    /// How long packets follow those that were left to user space, at least, ms.
    pub hold_ms: u32,
}

impl Limits {
    /// One limit for all.
    pub const fn fixed(longest: u32, hold_ms: u32) -> Self {
        Self {
            alone: longest,
            close: longest,
            close_ns: 0,
            hold_ms,
        }
    }
}

/// How the packets of a session follow each other in one direction. Valid when all-zero.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Pace {
    /// When a packet was last left to user space for its length, ms of `CLOCK_MONOTONIC`; 0: those that
    /// followed it are through.
    pub bulk_ms: Counter,
    /// When the last packet came, ns.
    last_ns: Counter,
    /// The share of packets that came close behind another, of [`WHOLE`]; recent ones count more.
    close: Counter,
    /// What user space told, see [`Pace::tell`].
    told: Counter,
}

/// User space is done with a packet of a session after this time, ns, if no other follows.
const PAUSE_NS: u64 = 1_000_000;
/// Without such a pause, packets follow for so many times the shortest hold.
const LONGEST_HOLD: u64 = 5;
/// All packets.
const WHOLE: u64 = 1 << 16;
/// A packet changes the share by this part of the difference, as a power of two.
const WEIGHT: u32 = 4;
/// With more than this share close, a session's packets are taken to come in bursts...
const BURSTS: u64 = WHOLE / 4 * 3;
/// ...and until there is less than that.
const NO_BURSTS: u64 = WHOLE / 2;
/// Bits of a length in what user space told.
const LENGTH_BITS: u32 = 16;

impl Pace {
    /// Whether a program takes a record of `len` bytes. If not, those behind it follow. What was taken
    /// and proves authentic is to be told by [`Self::taken`]: junk makes no bursts.
    #[inline(always)]
    pub fn takes(&self, now_ns: u64, len: u32, limits: &Limits) -> bool {
        let share = self.share(now_ns, limits);
        let takes = self.decide(now_ns, len, limits, share);
        if !takes {
            self.note(now_ns, share);
        }
        takes
    }

    /// The same, for a program before another one that asks [`Self::takes`] of what this one leaves: a
    /// packet counts once.
    #[inline(always)]
    pub fn takes_early(&self, now_ns: u64, len: u32, limits: &Limits) -> bool {
        self.decide(now_ns, len, limits, self.share(now_ns, limits))
    }

    #[inline(always)]
    fn decide(&self, now_ns: u64, len: u32, limits: &Limits, share: u64) -> bool {
        let now_ms = now_ns / 1_000_000;
        let is_held = self.is_held(now_ns, now_ms, limits);
        let is_burst = share > if is_held { NO_BURSTS } else { BURSTS };
        let longest = if is_burst {
            let told = self.told.get();
            let close = if told >> LENGTH_BITS > now_ms {
                (told & ((1 << LENGTH_BITS) - 1)) as u32
            } else {
                limits.close
            };
            close.min(limits.alone)
        } else {
            limits.alone
        };
        if len > longest {
            self.leave(now_ms);
            return false;
        }
        !is_held
    }

    /// Whether a packet follows those that were left to user space. For programs that look at no lengths.
    #[inline(always)]
    pub fn holds(&self, now_ns: u64, limits: &Limits) -> bool {
        self.is_held(now_ns, now_ns / 1_000_000, limits)
    }

    /// A program took a packet.
    #[inline(always)]
    pub fn taken(&self, now_ns: u64, limits: &Limits) {
        self.note(now_ns, self.share(now_ns, limits));
    }

    /// A packet goes to user space, for its length or another reason that those behind it may not have:
    /// they must not overtake it.
    #[inline(always)]
    pub fn leave(&self, now_ms: u64) {
        self.bulk_ms.set(now_ms);
    }

    /// Tells how long records may be for the kernel while they come in bursts, until that moment, ms.
    pub fn tell(&self, longest: u32, until_ms: u64) {
        let longest = u64::from(longest).min((1 << LENGTH_BITS) - 1);
        self.told.set(until_ms << LENGTH_BITS | longest);
    }

    /// Forgets everything, for another session.
    pub fn reset(&self) {
        for value in [&self.bulk_ms, &self.last_ns, &self.close, &self.told] {
            value.set(0);
        }
    }

    #[inline(always)]
    fn is_held(&self, now_ns: u64, now_ms: u64, limits: &Limits) -> bool {
        let begun = self.bulk_ms.get();
        if begun == 0 {
            return false;
        }
        // Another processor may have written a later time than this one has read.
        let since = now_ms.saturating_sub(begun);
        let hold = u64::from(limits.hold_ms);
        let in_row = now_ns.saturating_sub(self.last_ns.get()) < PAUSE_NS;
        if since < hold || in_row && since < LONGEST_HOLD * hold {
            return true;
        }
        // It is over for those that follow closely, too.
        self.bulk_ms.set(0);
        false
    }

    /// The share of close packets with the one that comes now.
    #[inline(always)]
    fn share(&self, now_ns: u64, limits: &Limits) -> u64 {
        let gap = now_ns.saturating_sub(self.last_ns.get());
        let before = self.close.get();
        if gap < u64::from(limits.close_ns) {
            before + (WHOLE.saturating_sub(before) >> WEIGHT)
        } else {
            before - (before >> WEIGHT)
        }
    }

    #[inline(always)]
    fn note(&self, now_ns: u64, share: u64) {
        self.last_ns.set(now_ns);
        self.close.set(share);
    }
}

const _: () = assert!(size_of::<Limits>() == 16);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        alone: 1000,
        close: 300,
        close_ns: 50_000,
        hold_ms: 20,
    };
    const SECOND: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    /// Packets of `len` bytes at a distance of `gap` ns; how many were taken, and the time after them.
    fn run(pace: &Pace, from: u64, gap: u64, count: u64, len: u32) -> (u64, u64) {
        let at = |number| from + number * gap;
        let taken = (0..count).filter(|number| takes(pace, at(*number), len, &LIMITS));
        (taken.count() as u64, at(count))
    }

    /// Asks, and takes an authentic packet.
    fn takes(pace: &Pace, now_ns: u64, len: u32, limits: &Limits) -> bool {
        let takes = pace.takes(now_ns, len, limits);
        if takes {
            pace.taken(now_ns, limits);
        }
        takes
    }

    #[test]
    fn junk_makes_no_bursts() {
        let pace = Pace::default();
        let at = |number: u64| SECOND + number * 5_000;
        assert!((0..1000).all(|number: u64| pace.takes(at(number), 900, &LIMITS)));
    }

    #[test]
    fn a_packet_that_two_programs_see_counts_once() {
        let pace = Pace::default();
        // Bursts first, then packets too far from each other to be close.
        let (_, after) = run(&pace, SECOND, 1000, 100, 900);
        let (gap, seen) = (2 * MS, 10_000);
        let taken = (0..120).filter(|number| {
            let at = after + number * gap;
            let takes = pace.takes_early(at, 900, &LIMITS);
            if takes {
                pace.taken(at, &LIMITS);
            }
            takes || self::takes(&pace, at + seen, 900, &LIMITS)
        });
        assert!(taken.count() > 80);
    }

    #[test]
    fn a_fixed_limit_knows_no_bursts() {
        let pace = Pace::default();
        let fixed = Limits::fixed(500, 20);
        assert!((0..200).all(|number| takes(&pace, SECOND + number, 500, &fixed)));
        assert!(!pace.takes(SECOND, 501, &fixed));
    }

    #[test]
    fn what_follows_a_long_record_goes_the_same_way_for_a_while() {
        let pace = Pace::default();
        assert!(pace.takes(SECOND, 100, &LIMITS));
        assert!(!pace.takes(SECOND + MS, 1001, &LIMITS));
        assert!(!pace.takes(SECOND + 2 * MS, 100, &LIMITS));
        assert!(!pace.takes(SECOND + 20 * MS, 100, &LIMITS));
        assert!(pace.takes(SECOND + 21 * MS, 100, &LIMITS));
        // A clock that went on elsewhere.
        pace.leave(SECOND / MS + 500);
        assert!(!pace.takes(SECOND, 100, &LIMITS));
    }

    #[test]
    fn what_is_left_holds_those_behind_it_for_a_while() {
        let pace = Pace::default();
        assert!(!pace.holds(SECOND, &LIMITS));
        pace.leave(SECOND / MS);
        assert!(pace.holds(SECOND, &LIMITS));
        assert!(pace.holds(SECOND + 19 * MS, &LIMITS));
        assert!(!pace.holds(SECOND + 20 * MS, &LIMITS));
        assert!(!pace.holds(SECOND + 19 * MS, &LIMITS), "it is over");
    }

    #[test]
    fn the_kernel_takes_over_in_a_pause() {
        let pace = Pace::default();
        assert!(!takes(&pace, SECOND, 1001, &LIMITS));
        // A packet each 100 us, not close: user space always has one.
        let (taken, now) = run(&pace, SECOND + 100_000, 100_000, 400, 100);
        assert_eq!(taken, 0, "40 ms");
        assert!(takes(&pace, now + MS, 100, &LIMITS), "a pause");
        assert_eq!(run(&pace, now + MS + 100_000, 100_000, 400, 100).0, 400);
    }

    #[test]
    fn without_a_pause_the_kernel_takes_over_after_all() {
        let pace = Pace::default();
        assert!(!takes(&pace, SECOND, 1001, &LIMITS));
        let (taken, _) = run(&pace, SECOND + 100_000, 100_000, 2000, 100);
        assert_eq!(taken, 1001, "of 200 ms, but the first 100");
    }

    #[test]
    fn records_far_apart_are_the_kernels() {
        let pace = Pace::default();
        let (taken, _) = run(&pace, SECOND, 60_000, 1000, 1000);
        assert_eq!(taken, 1000);
    }

    #[test]
    fn bursts_go_to_user_space_and_come_back_when_they_end() {
        let pace = Pace::default();
        let (taken, now) = run(&pace, SECOND, 5_000, 10_000, 301);
        assert!((20..40).contains(&taken), "{taken}");
        // The first of those far apart go the same way, for order.
        let (taken, now) = run(&pace, now, MS, 100, 301);
        assert!((60..80).contains(&taken), "{taken}");
        let (taken, _) = run(&pace, now, MS, 100, 301);
        assert_eq!(taken, 100);
    }

    #[test]
    fn short_records_of_bursts_are_the_kernels() {
        let pace = Pace::default();
        assert_eq!(run(&pace, SECOND, 5_000, 10_000, 300).0, 10_000);
    }

    #[test]
    fn bursts_of_ten_in_each_millisecond_are_bursts() {
        let pace = Pace::default();
        let mut taken = 0;
        for burst in 0..200 {
            taken += run(&pace, SECOND + burst * MS, 10_000, 10, 900).0;
        }
        assert!(taken < 100, "{taken}");
    }

    #[test]
    fn user_space_tells_otherwise_for_a_time() {
        let pace = Pace::default();
        let until = SECOND / MS + 500;
        pace.tell(800, until);
        assert_eq!(run(&pace, SECOND, 5_000, 1000, 800).0, 1000);
        assert!(run(&pace, SECOND + 100 * MS, 5_000, 1000, 801).0 < 40);
        let after = (until + 100) * MS;
        assert!(run(&pace, after, 5_000, 1000, 800).0 < 40);
        // Never more than for one that comes alone.
        pace.tell(60_000, u64::MAX);
        assert!(!pace.takes(after + SECOND, 1001, &LIMITS));
    }

    #[test]
    fn another_session_begins_anew() {
        let pace = Pace::default();
        run(&pace, SECOND, 5_000, 1000, 900);
        pace.tell(900, u64::MAX);
        pace.reset();
        let values = [&pace.bulk_ms, &pace.last_ns, &pace.close, &pace.told];
        assert!(values.into_iter().all(|value| value.get() == 0));
    }
}
