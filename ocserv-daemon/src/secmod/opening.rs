//! Opening and closing sessions for the supervisor.

use std::time::SystemTime;

use ocserv_proto::secret::Secret;

use super::Secmod;
use super::sessions::{Closed, CookieHash, cookie_hash};
use super::user_files;
use crate::ipc::ids::{ConnId, ConnTicket, SessionName};
use crate::ipc::secmod::{FromSecmod, OpenRefused, OpenedSession};

impl Secmod {
    /// Opens the session of `cookie` on the connection of `ticket`, with the settings of its user.
    pub(super) async fn open_session(
        &self,
        ticket: &ConnTicket,
        cookie: &Secret,
    ) -> Result<Box<OpenedSession>, OpenRefused> {
        let hash = cookie_hash(cookie).ok_or(OpenRefused::Unknown)?;
        let result = self.try_open(ticket, &hash).await;
        if let Err(reason) = &result {
            tracing::info!(remote = %ticket.remote.ip(), "a cookie is refused: {reason:?}");
        }
        if matches!(result, Err(OpenRefused::SessionTimeout)) {
            let record = self.state.borrow_mut().sessions.remove(&hash);
            if let Some(record) = record {
                self.emit(FromSecmod::SessionGone { name: record.name })
                    .await;
            }
        }
        result
    }

    async fn try_open(
        &self,
        ticket: &ConnTicket,
        hash: &CookieHash,
    ) -> Result<Box<OpenedSession>, OpenRefused> {
        let active = self.active().ok_or(OpenRefused::Unknown)?;
        let known = {
            let state = self.state.borrow();
            let record = state.sessions.authenticated(hash, SystemTime::now());
            record.map(|record| {
                (
                    record.vhost,
                    record.username.clone(),
                    record.groupname.clone(),
                )
            })
        };
        let (vhost, username, groupname) = known.ok_or(OpenRefused::Unknown)?;
        let (vhost, _) = active.vhost(vhost).ok_or(OpenRefused::Unknown)?;
        let vhost = vhost.clone();
        // The files may lie on a slow file system.
        let settings = self
            .pool
            .run(move || user_files::settings(&vhost, &username, &groupname))
            .await
            .unwrap_or_else(|| Err("reading the files failed".to_owned()))
            .map_err(OpenRefused::BadUserConfig)?;
        let record = self.state.borrow_mut().sessions.open(
            hash,
            ticket.conn,
            ticket.remote.ip(),
            &settings,
            SystemTime::now(),
        )?;
        self.emit(FromSecmod::SessionChanged(Box::new(record.clone())))
            .await;
        Ok(Box::new(OpenedSession { record, settings }))
    }

    /// A tunnel ended, or the administrator ends a session.
    pub(super) async fn close_session(
        &self,
        name: &SessionName,
        conn: Option<ConnId>,
        keep_cookie: bool,
    ) {
        let closed = {
            let mut state = self.state.borrow_mut();
            let vhost = state.sessions.vhost_of(name);
            let active = state.active.clone();
            let timeout = vhost
                .and_then(|vhost| active.as_ref()?.vhost(vhost).map(|(v, _)| v.cookie_timeout))
                .unwrap_or_default();
            state
                .sessions
                .close(name, conn, keep_cookie, SystemTime::now(), timeout)
        };
        match closed {
            Some(Closed::Kept(record)) => {
                tracing::info!(
                    "temporarily closing session for {} (session: {})",
                    record.username,
                    name.short()
                );
                self.emit(FromSecmod::SessionChanged(record)).await;
            }
            Some(Closed::Removed(record)) => {
                tracing::info!(
                    "invalidating session of user '{}' (session: {})",
                    record.username,
                    name.short()
                );
                self.state
                    .borrow_mut()
                    .conversations
                    .remove(&record.cookie_hash);
                self.emit(FromSecmod::SessionGone { name: record.name })
                    .await;
            }
            None => {}
        }
    }
}
