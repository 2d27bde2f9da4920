//! Durations of many runs, and what is read from them.

use serde::Serialize;

/// Nanoseconds of each run.
#[derive(Debug, Default)]
pub struct Samples(Vec<f64>);

/// What is shown of them, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The shortest run.
    pub min: f64,
    /// The run in the middle.
    pub median: f64,
}

impl Samples {
    /// Adds a run.
    pub fn add(&mut self, nanoseconds: f64) {
        self.0.push(nanoseconds);
    }

    /// Shortest and middle run; 0 without runs.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        Summary {
            min: sorted.first().copied().unwrap_or(0.0),
            median: sorted.get(sorted.len() / 2).copied().unwrap_or(0.0),
        }
    }
}

impl Summary {
    /// What is left without the time of `other`.
    pub fn without(self, other: Self) -> Self {
        Self {
            min: (self.min - other.min).max(0.0),
            median: (self.median - other.median).max(0.0),
        }
    }
}

/// The straight line through points that has the least squares: value at 0, and slope.
pub fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let variance: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    let slope = covariance / variance;
    (y - slope * x, slope)
}

#[cfg(test)]
mod tests {
    use super::{Samples, Summary, line};

    #[test]
    fn points_on_a_line_give_the_line() {
        let (start, slope) = line(&[(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)]);
        assert!((start - 3.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_summary_has_the_shortest_and_the_middle_run() {
        let mut samples = Samples::default();
        for value in [9.0, 4.0, 6.0] {
            samples.add(value);
        }
        let summary = samples.summary();
        assert_eq!((summary.min, summary.median), (4.0, 6.0));
        let other = Summary {
            min: 5.0,
            median: 1.0,
        };
        assert_eq!(summary.without(other).min, 0.0, "noise, not a gain of time");
    }
}
