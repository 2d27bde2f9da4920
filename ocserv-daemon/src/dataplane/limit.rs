//! `rx-data-per-sec` and `tx-data-per-sec`: token windows of 500 ms (behaviour.md 10.9).

use std::sync::atomic::{AtomicU64, Ordering};

use ocserv_proto::Now;

const WINDOW_MS: u128 = 500;
/// The state's lower bits count what the window has used, the upper ones number the window.
const USED_BITS: u32 = 40;
const USED_MASK: u64 = (1 << USED_BITS) - 1;

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
        let window = ((now.as_millis() / WINDOW_MS) as u64) << USED_BITS;
        let mut old = self.state.load(Ordering::Relaxed);
        loop {
            let used = if old & !USED_MASK == window {
                old & USED_MASK
            } else {
                0
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
}
