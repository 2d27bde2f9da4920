//! The session table: who may open a tunnel with which cookie, until when.
//!
//! Keyed by the cookie's SHA-256, so that a lookup tells nothing about cookies that exist. Time is
//! an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ocserv_proto::config::UserConfig;
use ocserv_proto::secret::Secret;
use ring::digest;

use crate::ipc::ids::{ConnId, SessionName};
use crate::ipc::secmod::{OpenRefused, SessionRecord, SessionState};

/// Added to `cookie-timeout`: a client that reconnects at the last moment still gets in.
const COOKIE_SLACK: Duration = Duration::from_secs(15);
/// Length of a session id, bytes.
pub const SID_LEN: usize = 32;

/// SHA-256 of a cookie.
pub type CookieHash = [u8; 32];

/// The key of the table for a cookie; `None` for a wrong length.
pub fn cookie_hash(cookie: &Secret) -> Option<CookieHash> {
    if cookie.len() != SID_LEN {
        return None;
    }
    digest::digest(&digest::SHA256, cookie.expose())
        .as_ref()
        .try_into()
        .ok()
}

/// Public name of a session (behaviour.md 5.1).
pub fn session_name(sid: &Secret) -> SessionName {
    let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, sid.expose());
    SessionName(STANDARD.encode(sha1.as_ref()))
}

/// What is known when a login begins.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Index of the vhost.
    pub vhost: u32,
    /// As typed.
    pub username: String,
    /// The client's address.
    pub remote: IpAddr,
    /// `User-Agent`.
    pub user_agent: String,
}

/// How a session was closed.
#[derive(Debug)]
pub enum Closed {
    /// The cookie may open it again.
    Kept(Box<SessionRecord>),
    /// The cookie is void.
    Removed(Box<SessionRecord>),
}

/// All sessions, finished logins and unfinished ones.
#[derive(Debug, Default)]
pub struct SessionTable {
    by_cookie: HashMap<CookieHash, SessionRecord>,
    by_name: HashMap<SessionName, CookieHash>,
}

impl SessionTable {
    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.by_cookie.len()
    }

    /// Enters a login that has just begun; it ends after `auth_timeout`.
    pub fn begin(
        &mut self,
        sid: &Secret,
        new: NewSession,
        now: SystemTime,
        auth_timeout: Duration,
    ) -> Option<SessionRecord> {
        let record = SessionRecord {
            name: session_name(sid),
            cookie_hash: cookie_hash(sid)?,
            state: SessionState::Authenticating,
            vhost: new.vhost,
            username: new.username,
            groupname: String::new(),
            remote: new.remote,
            user_agent: new.user_agent,
            created: now,
            authenticated: None,
            expires: Some(now + auth_timeout),
            in_use: false,
            activated: false,
            conn: None,
        };
        self.insert(record.clone());
        Some(record)
    }

    /// The login succeeded: the cookie is good for `cookie_timeout`.
    pub fn authenticate(
        &mut self,
        hash: &CookieHash,
        groupname: String,
        now: SystemTime,
        cookie_timeout: Duration,
    ) -> Option<SessionRecord> {
        let record = self.by_cookie.get_mut(hash)?;
        record.state = SessionState::Authenticated;
        record.groupname = groupname;
        record.authenticated = Some(now);
        record.expires = Some(now + cookie_timeout + COOKIE_SLACK);
        Some(record.clone())
    }

    /// The session of a good cookie.
    pub fn authenticated(&self, hash: &CookieHash, now: SystemTime) -> Option<&SessionRecord> {
        self.by_cookie
            .get(hash)
            .filter(|record| record.state == SessionState::Authenticated && !expired(record, now))
    }

    /// Whether a login with this session id is under way.
    pub fn is_pending(&self, hash: &CookieHash, now: SystemTime) -> bool {
        self.by_cookie.get(hash).is_some_and(|record| {
            record.state == SessionState::Authenticating && !expired(record, now)
        })
    }

    /// Opens a session; one that is open already moves to `conn`.
    ///
    /// # Errors
    /// Why the cookie opens nothing. After [`OpenRefused::SessionTimeout`] the session should be
    /// removed.
    pub fn open(
        &mut self,
        hash: &CookieHash,
        conn: ConnId,
        remote: IpAddr,
        settings: &UserConfig,
        now: SystemTime,
    ) -> Result<SessionRecord, OpenRefused> {
        let record = self.authenticated(hash, now).ok_or(OpenRefused::Unknown)?;
        if settings.deny_roaming && record.remote != remote {
            return Err(OpenRefused::Roamed);
        }
        let age = record
            .authenticated
            .and_then(|since| now.duration_since(since).ok());
        if let (Some(limit), Some(age)) = (settings.session_timeout, age)
            && age >= limit
        {
            return Err(OpenRefused::SessionTimeout);
        }
        let record = self.by_cookie.get_mut(hash).ok_or(OpenRefused::Unknown)?;
        record.in_use = true;
        record.activated = true;
        record.conn = Some(conn);
        record.expires = None;
        Ok(record.clone())
    }

    /// A tunnel ended. With `conn`: only if that is the connection that the session is open on.
    pub fn close(
        &mut self,
        name: &SessionName,
        conn: Option<ConnId>,
        keep_cookie: bool,
        now: SystemTime,
        cookie_timeout: Duration,
    ) -> Option<Closed> {
        let open_on = self.by_cookie.get(self.by_name.get(name)?)?.conn;
        if conn.is_some() && open_on.is_some() && open_on != conn {
            return None;
        }
        if !keep_cookie {
            return self
                .remove_named(name)
                .map(|record| Closed::Removed(Box::new(record)));
        }
        let record = self.by_cookie.get_mut(self.by_name.get(name)?)?;
        record.in_use = false;
        record.conn = None;
        record.expires = Some(now + cookie_timeout + COOKIE_SLACK);
        Some(Closed::Kept(Box::new(record.clone())))
    }

    /// Index of the vhost of a session.
    pub fn vhost_of(&self, name: &SessionName) -> Option<u32> {
        Some(self.by_cookie.get(self.by_name.get(name)?)?.vhost)
    }

    /// Removes a session.
    pub fn remove(&mut self, hash: &CookieHash) -> Option<SessionRecord> {
        let record = self.by_cookie.remove(hash)?;
        self.by_name.remove(&record.name);
        Some(record)
    }

    /// Removes a session by its public name.
    pub fn remove_named(&mut self, name: &SessionName) -> Option<SessionRecord> {
        let hash = *self.by_name.get(name)?;
        self.remove(&hash)
    }

    /// Takes over what an earlier process knew. Its unfinished logins are lost: their dialogue died
    /// with it.
    pub fn restore(&mut self, records: Vec<SessionRecord>) {
        for record in records {
            if record.state == SessionState::Authenticated {
                self.insert(record);
            }
        }
    }

    /// Follows the vhosts of a new configuration: `moved` gives the new index for each old one.
    /// Gives back the sessions that changed, and those whose vhost is no more.
    pub fn renumber(&mut self, moved: &[Option<u32>]) -> (Vec<SessionRecord>, Vec<SessionRecord>) {
        let (mut changed, mut homeless) = (Vec::new(), Vec::new());
        for (hash, record) in &mut self.by_cookie {
            match moved.get(record.vhost as usize).copied().flatten() {
                Some(index) if index == record.vhost => {}
                Some(index) => {
                    record.vhost = index;
                    changed.push(record.clone());
                }
                None => homeless.push(*hash),
            }
        }
        let gone = homeless
            .iter()
            .filter_map(|hash| self.remove(hash))
            .collect();
        (changed, gone)
    }

    /// Removes what has expired.
    pub fn expire(&mut self, now: SystemTime) -> Vec<SessionRecord> {
        let old: Vec<CookieHash> = self
            .by_cookie
            .iter()
            .filter(|(_, record)| expired(record, now))
            .map(|(hash, _)| *hash)
            .collect();
        old.iter().filter_map(|hash| self.remove(hash)).collect()
    }

    fn insert(&mut self, record: SessionRecord) {
        self.by_name.insert(record.name.clone(), record.cookie_hash);
        self.by_cookie.insert(record.cookie_hash, record);
    }
}

fn expired(record: &SessionRecord, now: SystemTime) -> bool {
    record.expires.is_some_and(|expires| expires <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTH_TIMEOUT: Duration = Duration::from_secs(240);
    const COOKIE_TIMEOUT: Duration = Duration::from_secs(300);
    const CONN: ConnId = ConnId(1);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn after(seconds: u64) -> SystemTime {
        start() + Duration::from_secs(seconds)
    }

    fn home() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    fn sid() -> Secret {
        Secret::new(vec![7; SID_LEN])
    }

    fn hash() -> CookieHash {
        cookie_hash(&sid()).unwrap()
    }

    fn begun() -> SessionTable {
        let mut table = SessionTable::default();
        let new = NewSession {
            vhost: 0,
            username: "ann".to_owned(),
            remote: home(),
            user_agent: "agent".to_owned(),
        };
        table.begin(&sid(), new, start(), AUTH_TIMEOUT).unwrap();
        table
    }

    fn logged_in() -> SessionTable {
        let mut table = begun();
        table
            .authenticate(&hash(), "staff".to_owned(), start(), COOKIE_TIMEOUT)
            .unwrap();
        table
    }

    fn open(table: &mut SessionTable, now: SystemTime) -> Result<SessionRecord, OpenRefused> {
        table.open(&hash(), CONN, home(), &UserConfig::default(), now)
    }

    #[test]
    fn the_public_name_is_base64_of_sha1() {
        // printf '\7%.0s' {1..32} | openssl sha1 -binary | base64
        assert_eq!(session_name(&sid()).0, "AGlquNQh+BY2bBN+xmgT/SGNWSc=");
        assert_eq!(cookie_hash(&Secret::new(vec![7; 31])), None);
    }

    #[test]
    fn an_unfinished_login_opens_nothing_and_ends() {
        let mut table = begun();
        assert!(table.authenticated(&hash(), start()).is_none());
        assert_eq!(open(&mut table, start()).unwrap_err(), OpenRefused::Unknown);
        assert!(table.expire(after(239)).is_empty());
        assert_eq!(table.expire(after(240)).len(), 1);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_cookie_lives_for_its_timeout_and_the_slack() {
        let mut table = logged_in();
        assert!(table.authenticated(&hash(), after(314)).is_some());
        assert!(table.authenticated(&hash(), after(315)).is_none());
        assert_eq!(
            open(&mut table, after(315)).unwrap_err(),
            OpenRefused::Unknown
        );
    }

    #[test]
    fn an_open_session_never_expires_and_its_end_starts_the_clock_again() {
        let mut table = logged_in();
        let record = open(&mut table, after(10)).unwrap();
        assert!(record.in_use && record.activated);
        assert_eq!((record.conn, record.expires), (Some(CONN), None));
        assert_eq!(record.groupname, "staff");
        assert!(table.expire(after(1_000_000)).is_empty());

        let name = session_name(&sid());
        let closed = table
            .close(&name, None, true, after(1_000_000), COOKIE_TIMEOUT)
            .unwrap();
        let Closed::Kept(record) = closed else {
            panic!("{closed:?}")
        };
        assert!(!record.in_use && record.activated);
        assert!(open(&mut table, after(1_000_314)).is_ok());
    }

    #[test]
    fn a_cookie_in_use_opens_a_second_time() {
        let mut table = logged_in();
        open(&mut table, start()).unwrap();
        let settings = UserConfig::default();
        let record = table
            .open(&hash(), ConnId(2), home(), &settings, start())
            .unwrap();
        assert_eq!(record.conn, Some(ConnId(2)));
    }

    #[test]
    fn closing_without_keeping_voids_the_cookie() {
        let mut table = logged_in();
        open(&mut table, start()).unwrap();
        let closed = table.close(&session_name(&sid()), None, false, start(), COOKIE_TIMEOUT);
        assert!(matches!(closed, Some(Closed::Removed(_))));
        assert_eq!(open(&mut table, start()).unwrap_err(), OpenRefused::Unknown);
        assert!(
            table
                .close(&session_name(&sid()), None, false, start(), COOKIE_TIMEOUT)
                .is_none()
        );
    }

    #[test]
    fn deny_roaming_compares_with_the_address_of_the_login() {
        let mut table = logged_in();
        let elsewhere: IpAddr = "198.51.100.1".parse().unwrap();
        let strict = UserConfig {
            deny_roaming: true,
            ..UserConfig::default()
        };
        let refused = table.open(&hash(), CONN, elsewhere, &strict, start());
        assert_eq!(refused.unwrap_err(), OpenRefused::Roamed);
        assert!(table.open(&hash(), CONN, home(), &strict, start()).is_ok());
        assert!(
            table
                .open(&hash(), CONN, elsewhere, &UserConfig::default(), start())
                .is_ok()
        );
    }

    #[test]
    fn session_timeout_is_not_bypassed_by_reconnecting() {
        let mut table = logged_in();
        let settings = UserConfig {
            session_timeout: Some(Duration::from_secs(600)),
            ..UserConfig::default()
        };
        for seconds in [0, 200, 400, 599] {
            let now = after(seconds);
            table.open(&hash(), CONN, home(), &settings, now).unwrap();
            table
                .close(&session_name(&sid()), None, true, now, COOKIE_TIMEOUT)
                .unwrap();
        }
        let refused = table.open(&hash(), CONN, home(), &settings, after(600));
        assert_eq!(refused.unwrap_err(), OpenRefused::SessionTimeout);
    }

    #[test]
    fn sessions_follow_their_vhost_or_end_with_it() {
        let mut table = logged_in();
        let (changed, gone) = table.renumber(&[Some(0)]);
        assert!(changed.is_empty() && gone.is_empty());
        let (changed, gone) = table.renumber(&[Some(3)]);
        assert_eq!((changed[0].vhost, gone.len()), (3, 0));
        let (changed, gone) = table.renumber(&[Some(0), Some(1), Some(2), None]);
        assert_eq!((changed.len(), gone.len(), table.len()), (0, 1, 0));
    }

    #[test]
    fn only_finished_logins_are_restored() {
        let finished = logged_in().authenticated(&hash(), start()).unwrap().clone();
        let unfinished = begun().expire(after(240)).pop().unwrap();
        let mut table = SessionTable::default();
        table.restore(vec![unfinished]);
        assert_eq!(table.len(), 0);
        table.restore(vec![finished]);
        assert_eq!(table.vhost_of(&session_name(&sid())), Some(0));
        assert!(open(&mut table, start()).is_ok());
    }
}
