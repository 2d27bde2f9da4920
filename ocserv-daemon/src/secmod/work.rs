//! Work that takes a processor for long: hashing passwords, signing handshakes.

use std::num::NonZero;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// Password checks that may wait; beyond it logins are refused.
const MAX_WAITING: usize = 1024;

/// Threads that a runtime for [`Pool`] needs.
pub fn threads() -> usize {
    // One password check must never keep the only thread from signing.
    std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .max(2)
}

/// Hands work to the runtime's blocking threads.
#[derive(Debug)]
pub struct Pool {
    checks: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

impl Pool {
    /// A pool on a runtime with [`threads`] blocking threads. Password checks leave one of them to
    /// signatures.
    pub fn new() -> Self {
        Self {
            checks: Arc::new(Semaphore::new(threads() - 1)),
            queue: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Runs a password check in its turn; `None` when too many wait already.
    pub async fn check<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _place = self.queue.try_acquire().ok()?;
        let turn = Arc::clone(&self.checks).acquire_owned().await.ok()?;
        let work = move || {
            let result = work();
            drop(turn);
            result
        };
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// Runs something short. The callers bound how many of these there are.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        tokio::task::spawn_blocking(work).await.ok()
    }
}
