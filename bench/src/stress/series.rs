//! What a row of readings says about growth.

/// Growth of memory by less than this share, or than so many bytes, is none.
const FLAT_SHARE: f64 = 0.01;
const FLAT_BYTES: f64 = 256.0 * 1024.0;
/// Maps have an entry of about 100 bytes more or less for each login under way.
const FLAT_MAPS: f64 = 4.0 * 1024.0;

/// A straight line through points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Units of the value a second.
    pub slope: f64,
    /// Seconds between the first point and the last.
    pub span: f64,
    /// What the line has at the first point.
    pub begin: f64,
}

impl Line {
    /// By least squares through points of (seconds, value), which are in the order of time. `None`: there
    /// are less than two moments.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let (first, last) = (points.first()?.0, points.last()?.0);
        let count = points.len() as f64;
        let mean_at = points.iter().map(|point| point.0).sum::<f64>() / count;
        let mean = points.iter().map(|point| point.1).sum::<f64>() / count;
        let spread: f64 = points.iter().map(|point| (point.0 - mean_at).powi(2)).sum();
        let shared = points
            .iter()
            .map(|point| (point.0 - mean_at) * (point.1 - mean));
        let slope = shared.sum::<f64>() / spread;
        (spread > 0.0).then_some(Self {
            slope,
            span: last - first,
            begin: mean - slope * (mean_at - first),
        })
    }

    /// Whether memory along this line grows by so little that it is none.
    pub fn is_flat(&self) -> bool {
        self.growth() < FLAT_BYTES.max(self.begin * FLAT_SHARE)
    }

    /// The same for the memory of maps.
    pub fn is_flat_for_maps(&self) -> bool {
        self.growth() < FLAT_MAPS
    }

    fn growth(&self) -> f64 {
        self.slope * self.span
    }
}

/// Those of the second half.
pub fn second_half<T>(points: &[T]) -> &[T] {
    &points[points.len() / 2..]
}

/// Whether counts grow: in the last quarter all are above all of the first quarter. Counts that go up and
/// down with the work do not.
pub fn grows(counts: &[usize]) -> bool {
    let quarter = counts.len().div_ceil(4);
    if counts.len() < 2 * quarter {
        return false;
    }
    let most_before = counts[..quarter].iter().max();
    let least_after = counts[counts.len() - quarter..].iter().min();
    least_after > most_before
}

/// First, quarter points and last.
pub fn five<T>(points: &[T]) -> Option<[&T; 5]> {
    let last = points.len().checked_sub(1)?;
    Some([0, 1, 2, 3, 4].map(|quarter| &points[last * quarter / 4]))
}

#[cfg(test)]
mod tests {
    use super::{FLAT_BYTES, Line, five, grows, second_half};

    #[test]
    fn a_line_is_found_among_noise() {
        let noise = [1.0, -1.0, -1.0, 1.0];
        let points: Vec<_> = (0..40)
            .map(|at| {
                (
                    10.0 * f64::from(at),
                    500.0 + 30.0 * f64::from(at) + noise[at as usize % 4],
                )
            })
            .collect();
        let line = Line::through(&points).unwrap();
        assert!((line.slope - 3.0).abs() < 0.01, "{line:?}");
        assert!((line.begin - 500.0).abs() < 1.0, "{line:?}");
        assert_eq!(line.span, 390.0);
        assert_eq!(Line::through(&[(1.0, 2.0)]), None);
        assert_eq!(Line::through(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }

    #[test]
    fn growth_counts_beyond_a_share_and_beyond_an_amount() {
        let line = |begin, growth| Line {
            slope: growth / 100.0,
            span: 100.0,
            begin,
        };
        let large = 1000.0 * FLAT_BYTES;
        assert!(line(FLAT_BYTES, FLAT_BYTES * 0.99).is_flat());
        assert!(!line(FLAT_BYTES, FLAT_BYTES * 1.01).is_flat());
        assert!(line(large, large * 0.0099).is_flat());
        assert!(!line(large, large * 0.0101).is_flat());
        assert!(line(large, -large).is_flat());
        assert!(line(large, 4000.0).is_flat_for_maps());
        assert!(!line(large, 5000.0).is_flat_for_maps());
    }

    #[test]
    fn counts_grow_when_they_do_not_come_back() {
        assert!(!grows(&[]));
        assert!(!grows(&[5]));
        assert!(!grows(&[5, 9, 5, 8, 6, 5, 9, 5]));
        assert!(!grows(&[5, 7, 5, 8, 6, 5, 8, 7]));
        assert!(grows(&[5, 7, 5, 8, 6, 5, 8, 9]));
    }

    #[test]
    fn quarter_points_have_both_ends() {
        let points: Vec<_> = (0..=8).collect();
        assert_eq!(five(&points), Some([&0, &2, &4, &6, &8]));
        assert_eq!(five(&[7]), Some([&7; 5]));
        assert_eq!(five::<u8>(&[]), None);
        assert_eq!(second_half(&points), [4, 5, 6, 7, 8]);
    }
}
