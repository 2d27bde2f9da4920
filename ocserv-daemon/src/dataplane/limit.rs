//! `rx-data-per-sec` and `tx-data-per-sec`: token windows of 500 ms (behaviour.md 10.9).

use std::sync::atomic::{AtomicU64, Ordering};

use ocserv_proto::Now;

const WINDOW_MS: u128 = 500;
/// The state's lower bits count what the window has used, the upper ones number the window.
const USED_BITS: u32 = 40;
const USED_MASK: u64 = (1 << USED_BITS) - 1;
/// Threads look at the clock once a batch, so one of them may have a window that another has left: so
/// many windows ahead is newer, and anything else long past.
const MOST_AHEAD: u64 = 2;

/// Limits a rate over all threads; what is over the limit is dropped, not queued.
#[derive(Debug)]
pub struct RateLimit {
    per_window: u64,
    state: AtomicU64,
}

impl RateLimit {
    /// At most `per_second` units (0: no limit).
    pub fn new(per_second: u64) -> Self {
        let per_window = per_second.div_ceil(2).min(USED_MASK / 2);
        Self {
            per_window,
            state: AtomicU64::new(0),
        }
    }

    /// Takes `amount` units. The one that crosses the limit still passes, so that a packet larger
    /// than a window's share gets through at all.
    pub fn allows(&self, now: Now, amount: usize) -> bool {
        if self.per_window == 0 {
            return true;
        }
        let current = ((now.as_millis() / WINDOW_MS) as u64) << USED_BITS;
        let mut old = self.state.load(Ordering::Relaxed);
        loop {
            let known = old & !USED_MASK;
            let (window, used) = if known.wrapping_sub(current) >> USED_BITS <= MOST_AHEAD {
                (known, old & USED_MASK)
            } else {
                (current, 0)
            };
            if used >= self.per_window {
                return false;
            }
            let new = window | used.saturating_add(amount as u64).min(USED_MASK);
            match self
                .state
                .compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_window_has_half_of_a_second() {
        let limit = RateLimit::new(4000);
        let at = Duration::from_millis;
        assert!(limit.allows(at(1000), 1500));
        assert!(limit.allows(at(1499), 1500), "crosses the limit");
        assert!(!limit.allows(at(1499), 1));
        assert!(limit.allows(at(1500), 1), "the next window");
    }

    #[test]
    fn zero_is_no_limit() {
        let limit = RateLimit::new(0);
        assert!((0..1000).all(|_| limit.allows(Duration::ZERO, usize::MAX)));
    }

    #[test]
    fn a_packet_larger_than_the_limit_passes_once_a_window() {
        let limit = RateLimit::new(10);
        assert!(limit.allows(Duration::from_secs(1), usize::MAX));
        assert!(!limit.allows(Duration::from_secs(1), 1));
        assert!(limit.allows(Duration::from_secs(2), 1));
    }

    #[test]
    fn threads_that_disagree_about_the_window_share_the_limit() {
        let limit = RateLimit::new(4000);
        let (ahead, behind) = (Duration::from_millis(1000), Duration::from_millis(999));
        let passed = (0..100).filter(|n| {
            let now = if n % 2 == 0 { ahead } else { behind };
            limit.allows(now, 1000)
        });
        assert_eq!(passed.count(), 2);
    }

    #[test]
    fn what_is_long_past_does_not_look_new() {
        // The number of the window has 24 bits.
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        for up in [1, 49, 60, 97, 98, 150, 200] {
            let limit = RateLimit::new(2);
            for day in [up, up + 50, up + 100] {
                assert!(limit.allows(days(day), 1), "{up} {day}");
                assert!(!limit.allows(days(day), 1));
                assert!(limit.allows(days(day) + Duration::from_secs(1), 1));
            }
        }
    }
}
