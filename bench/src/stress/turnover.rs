//! Sessions that are opened anew all the time, beside the load.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;
use std::time::Duration;

use anyhow::{Context, Result};
use ocserv_tests::Namespace;
use rustls::ClientConfig;

use crate::records::session::Session;

/// New sessions, one after the other; dropping it ends the thread that opens them.
pub struct Turnover {
    opened: Receiver<Result<Session>>,
    _stop: Sender<()>,
}

impl Turnover {
    /// Opens one each `interval` in the client's namespace. One that nobody takes holds up the next.
    pub fn begin<'scope>(
        scope: &'scope Scope<'scope, '_>,
        client: &'scope Namespace,
        settings: Arc<ClientConfig>,
        interval: Duration,
    ) -> Self {
        let (to, opened) = sync_channel(1);
        let (stop, stopped) = channel();
        scope.spawn(move || {
            let failed = to.clone();
            let work = move || open_all(&settings, interval, &to, &stopped);
            if let Err(error) = client.run(work) {
                // Who has gone need not know.
                let _ = failed.send(Err(error));
            }
        });
        Self {
            opened,
            _stop: stop,
        }
    }

    /// The session that was opened last, if there is one that was not taken.
    ///
    /// # Errors
    /// When the server refused it.
    pub fn take(&self) -> Result<Option<Session>> {
        let taken = self.opened.try_recv().ok();
        taken.transpose().context("a login beside the load")
    }
}

fn open_all(
    settings: &Arc<ClientConfig>,
    interval: Duration,
    to: &SyncSender<Result<Session>>,
    stopped: &Receiver<()>,
) {
    loop {
        let session = Session::open(settings);
        if to.send(session).is_err() {
            return;
        }
        match stopped.recv_timeout(interval) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
