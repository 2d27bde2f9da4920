//! Dates, spans and byte counts (cli.md §4, "Common formats").

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The moment of the output, and where dates are shown.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Unix seconds.
    pub now: u64,
    /// Zone of printed dates.
    pub zone: TimeZone,
}

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        let now = Timestamp::now().as_second();
        Self {
            now: u64::try_from(now).unwrap_or(0),
            zone: TimeZone::system(),
        }
    }

    /// DATE: `2026-11-22 05:06`.
    pub fn date(&self, then: u64) -> String {
        let then = i64::try_from(then)
            .ok()
            .and_then(|then| Timestamp::from_second(then).ok());
        match then {
            Some(then) => then
                .to_zoned_datetime(self.zone.clone())
                .strftime("%Y-%m-%d %H:%M")
                .to_string(),
            None => String::new(),
        }
    }

    /// IVAL since `then`; unknown for the future.
    pub fn since(&self, then: u64) -> String {
        self.now
            .checked_sub(then)
            .map_or_else(|| "   ?   ".to_owned(), span)
    }

    /// `DATE (IVAL)`.
    pub fn date_and_since(&self, then: u64) -> String {
        format!("{} ({})", self.date(then), self.since(then))
    }
}

/// IVAL of a number of seconds.
pub fn span(seconds: u64) -> String {
    match seconds {
        172_800.. => format!("{:2}days", seconds / 86_400),
        3_600.. => format!("{:2}h:{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        61.. => format!("{:2}m:{:02}s", seconds / 60, seconds % 60),
        _ => format!("{seconds:5}s"),
    }
}

/// BYTES: `592 bytes`, `40.0 KB`.
pub fn bytes(count: u64) -> String {
    let scaled = |unit: f64| count as f64 / unit;
    match count {
        0..1_000 => format!("{count} bytes"),
        1_000..1_000_000 => format!("{:.1} KB", scaled(1e3)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", scaled(1e6)),
        _ => format!("{:.1} GB", scaled(1e9)),
    }
}

/// BYTES a second.
pub fn rate(count: u64) -> String {
    format!("{}/sec", bytes(count))
}

/// A cell that is never empty.
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "(none)" } else { text }
}

/// Without control characters: what clients send must not steer the administrator's terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// 2026-11-23 16:29:46 UTC.
    pub fn clock() -> Clock {
        Clock {
            now: 1_795_451_386,
            zone: TimeZone::UTC,
        }
    }

    #[test]
    fn spans_have_their_widths() {
        let expected = [
            (0, "    0s"),
            (60, "   60s"),
            (61, " 1m:01s"),
            (3_599, "59m:59s"),
            (3_600, " 1h:00m"),
            (172_799, "47h:59m"),
            (172_800, " 2days"),
            (86_400 * 400, "400days"),
        ];
        for (seconds, text) in expected {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(clock().since(clock().now + 1), "   ?   ");
    }

    #[test]
    fn byte_counts_are_decimal() {
        let expected = [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_000, "1.0 KB"),
            (40_000, "40.0 KB"),
            (1_500_000, "1.5 MB"),
            (12_345_678_901, "12.3 GB"),
        ];
        for (count, text) in expected {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(rate(98), "98 bytes/sec");
    }

    #[test]
    fn dates_are_local() {
        assert_eq!(
            clock().date_and_since(1_795_451_380),
            "2026-11-23 16:29 (    6s)"
        );
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let clock = Clock {
            now: 0,
            zone: berlin,
        };
        assert_eq!(clock.date(1_795_451_380), "2026-11-23 17:29");
        assert_eq!(clock.date(u64::MAX), "");
    }
}
