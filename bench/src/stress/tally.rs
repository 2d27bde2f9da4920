//! What became of the packets of a stream.

/// Counts of a stream.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Packets that were sent.
    pub sent: u64,
    /// Those that arrived.
    pub arrived: u64,
    /// Those that arrived after one that was sent later (RFC 4737, type-P-reordered).
    pub reordered: u64,
    /// Nanoseconds from sender to receiver, of each that arrived.
    delays: Vec<u64>,
    /// The first number that counts, and the one after the highest that arrived.
    first: u64,
    next: u64,
}

impl Tally {
    /// Counts packets from this number on.
    pub fn from_number(first: u64) -> Self {
        Self {
            first,
            next: first,
            ..Self::default()
        }
    }

    /// Counts an arrival.
    pub fn arrive(&mut self, number: u64, delay: u64) {
        if number < self.first {
            return;
        }
        self.arrived += 1;
        self.delays.push(delay);
        if number < self.next {
            self.reordered += 1;
        } else {
            self.next = number + 1;
        }
    }

    /// The number after the highest that arrived.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Packets that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.arrived)
    }

    /// The delays, the longest last.
    pub fn sorted_delays(&self) -> Vec<u64> {
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        delays
    }
}

/// The value that a share of all does not exceed (nearest rank); `None` without any.
pub fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::{Tally, percentile};

    #[test]
    fn percentiles_by_nearest_rank() {
        let hundred: Vec<_> = (1..=100).collect();
        let of_hundred = [0.0, 0.5, 0.99, 1.0].map(|share| percentile(&hundred, share));
        assert_eq!(of_hundred, [Some(1), Some(50), Some(99), Some(100)]);
        assert_eq!(percentile(&[7, 9], 0.99), Some(9));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn what_is_overtaken_is_reordered_and_gaps_are_lost() {
        let mut tally = Tally::from_number(10);
        tally.sent = 8;
        for number in [10, 11, 14, 12, 13, 15] {
            tally.arrive(number, 2 * number);
        }
        assert_eq!((tally.arrived, tally.reordered, tally.lost()), (6, 2, 2));
        assert_eq!(tally.next(), 16);
        assert_eq!(tally.sorted_delays(), [20, 22, 24, 26, 28, 30]);
    }

    #[test]
    fn late_ones_of_an_earlier_measurement_do_not_count() {
        let mut tally = Tally::from_number(10);
        tally.arrive(9, 1);
        assert_eq!((tally.arrived, tally.reordered), (0, 0));
    }
}
