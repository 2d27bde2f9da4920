//! Wall-clock time as people of this place read it.

use std::ffi::c_char;
use std::time::{SystemTime, UNIX_EPOCH};

/// `time` in the form of ctime(3), e.g. `Mon Nov 23 15:57:39 2026`; empty if it has none.
pub fn text(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let seconds = libc::time_t::try_from(seconds).unwrap_or(libc::time_t::MAX);
    let mut buffer = [0 as c_char; 64];
    // SAFETY: ctime_r(3) writes at most 26 bytes, and both arguments live through the call.
    let written = unsafe { libc::ctime_r(&raw const seconds, buffer.as_mut_ptr()) };
    if written.is_null() {
        return String::new();
    }
    buffer
        .iter()
        .map(|c| c.cast_unsigned() as char)
        .take_while(|c| !matches!(c, '\n' | '\0'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_weekday_month_day_clock_and_year() {
        let text = text(UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000));
        // The hour depends on the time zone.
        assert!(
            text.starts_with("Sun Sep  9") || text.starts_with("Sat Sep  8"),
            "{text}"
        );
        assert!(text.ends_with("2001"), "{text}");
    }
}
