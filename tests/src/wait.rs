//! Waiting for a condition, never for a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Limit for what takes well below a second on an idle machine.
pub const SHORT: Duration = Duration::from_secs(10);
/// Limit for what has timers of its own: DTLS handshakes, DPD, reconnects.
pub const LONG: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(20);

/// Calls `probe` until it returns something.
///
/// # Errors
/// When `limit` passed first; the message names `what`.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for: {what}", limit.as_secs());
        }
        sleep(INTERVAL);
    }
}

/// Calls `probe` until it returns true.
///
/// # Errors
/// As [`until`].
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || probe().then_some(()))
}

/// Shows that `forbidden` stays false for `span`; the only waits of a fixed length.
///
/// # Errors
/// As soon as it is true.
pub fn never(what: &str, span: Duration, mut forbidden: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if forbidden() {
            bail!("must not happen: {what}");
        }
        sleep(INTERVAL);
    }
    Ok(())
}
