//! The steps of a login, from a gate's question to its answer.

use std::net::IpAddr;
use std::time::SystemTime;

use ocserv_proto::config::VhostConfig;
use ocserv_proto::secret::Secret;
use ring::rand::{SecureRandom, SystemRandom};

use super::Secmod;
use super::conversation::{Conversation, Unavailable};
use super::method::{Prompt, Verdict};
use super::sessions::{CookieHash, NewSession, SID_LEN, cookie_hash, session_name};
use super::user_files;
use crate::ipc::ids::ConnTicket;
use crate::ipc::secmod::{AuthOutcome, AuthQuestion, FromSecmod};

/// Longest user name, bytes.
const MAX_USERNAME_LEN: usize = 255;
/// Longest `User-Agent` in a record, bytes.
const MAX_USER_AGENT_LEN: usize = 63;
/// Sessions of finished logins; beyond it nobody new gets in.
const MAX_SESSIONS: usize = 65_536;

const FAILED: &str = "Authentication failed";
const INTERNAL: &str = "Internal error";

/// What begins a login.
struct Start {
    vhost: u32,
    username: String,
    group: Option<String>,
    password: Option<Secret>,
    user_agent: String,
}

/// One answer on its way to the method.
struct Step {
    hash: CookieHash,
    sid: Secret,
    ticket: ConnTicket,
    password: Secret,
}

fn denied(reason: &str) -> AuthOutcome {
    AuthOutcome::Denied {
        reason: reason.to_owned(),
    }
}

fn challenge(sid: Secret, prompt: Prompt) -> AuthOutcome {
    AuthOutcome::Challenge {
        sid,
        message: prompt.message,
        counter: prompt.counter,
    }
}

impl Secmod {
    /// Answers one question. The ticket was verified.
    pub async fn answer(&self, ticket: ConnTicket, question: AuthQuestion) -> AuthOutcome {
        let now = SystemTime::now();
        match question {
            AuthQuestion::Check { cookie } => self.check(&cookie, now).await,
            _ if self.too_late(&ticket, now) => {
                tracing::info!(remote = %ticket.remote.ip(), "a login came after auth-timeout");
                denied(FAILED)
            }
            AuthQuestion::Start {
                vhost,
                username,
                group,
                password,
                user_agent,
            } => {
                let start = Start {
                    vhost,
                    username,
                    group,
                    password,
                    user_agent,
                };
                self.start_login(ticket, start, now).await
            }
            AuthQuestion::Continue { sid, password } => {
                let Some(hash) = cookie_hash(&sid) else {
                    return AuthOutcome::Known(false);
                };
                if !self.state.borrow().sessions.is_pending(&hash, now) {
                    return AuthOutcome::Known(false);
                }
                self.step(Step {
                    hash,
                    sid,
                    ticket,
                    password,
                })
                .await
            }
        }
    }

    /// Whether a cookie is good, and the profile that its user alone gets (config.md §4,
    /// user-profile).
    async fn check(&self, cookie: &Secret, now: SystemTime) -> AuthOutcome {
        let owner = {
            let state = self.state.borrow();
            let record =
                cookie_hash(cookie).and_then(|hash| state.sessions.authenticated(&hash, now));
            record.map(|record| {
                (
                    record.vhost,
                    record.username.clone(),
                    record.groupname.clone(),
                )
            })
        };
        let Some((vhost, username, groupname)) = owner else {
            return AuthOutcome::Known(false);
        };
        let active = self.active();
        let Some((vhost, _)) = active.as_ref().and_then(|active| active.vhost(vhost)) else {
            return AuthOutcome::Known(false);
        };
        let vhost = vhost.clone();
        let read = move || user_files::own_profile(&vhost, &username, &groupname);
        match self.pool.run(read).await.flatten() {
            Some(content) => AuthOutcome::OwnProfile(content),
            None => AuthOutcome::Known(true),
        }
    }

    /// A connection may authenticate only within `auth-timeout` of its acceptance.
    fn too_late(&self, ticket: &ConnTicket, now: SystemTime) -> bool {
        let Some(active) = self.active() else {
            return true;
        };
        now.duration_since(ticket.accepted_at)
            .is_ok_and(|age| age > active.config.auth_timeout)
    }

    async fn start_login(&self, ticket: ConnTicket, start: Start, now: SystemTime) -> AuthOutcome {
        let Some(active) = self.active() else {
            return denied(INTERNAL);
        };
        let Some((vhost, method)) = active.vhost(start.vhost) else {
            return denied(INTERNAL);
        };
        let name = &start.username;
        // No file has such users; their names must not reach records and logs.
        if name.is_empty() || name.len() > MAX_USERNAME_LEN || name.chars().any(char::is_control) {
            let cut = printable(start.username, MAX_USERNAME_LEN);
            self.report_failure(&ticket, cut).await;
            return denied(FAILED);
        }
        let Some((sid, hash)) = new_sid() else {
            return denied(INTERNAL);
        };
        let mut dialogue = method.begin(name);
        let prompt = dialogue.first();
        let conversation = Conversation {
            conn: ticket.conn,
            remote: ticket.remote.ip(),
            vhost: start.vhost,
            username: start.username.clone(),
            group: wanted_group(vhost, start.group),
            started: now,
            dialogue: Some(dialogue),
        };
        let session = NewSession {
            vhost: start.vhost,
            username: start.username,
            remote: ticket.remote.ip(),
            user_agent: printable(start.user_agent, MAX_USER_AGENT_LEN),
        };
        if !self
            .enter_login(&sid, hash, conversation, session, now)
            .await
        {
            return denied(INTERNAL);
        }
        match start.password.filter(|password| !password.is_empty()) {
            Some(password) => {
                self.step(Step {
                    hash,
                    sid,
                    ticket,
                    password,
                })
                .await
            }
            None => challenge(sid, prompt),
        }
    }

    /// Puts a login into the tables; false when they are full.
    async fn enter_login(
        &self,
        sid: &Secret,
        hash: CookieHash,
        conversation: Conversation,
        session: NewSession,
        now: SystemTime,
    ) -> bool {
        let Some(active) = self.active() else {
            return false;
        };
        let (evicted, record) = {
            let mut state = self.state.borrow_mut();
            if state.sessions.len() >= MAX_SESSIONS {
                tracing::error!("too many sessions: a login is refused");
                return false;
            }
            let evicted = state.conversations.insert(hash, conversation);
            (
                evicted,
                state
                    .sessions
                    .begin(sid, session, now, active.config.auth_timeout),
            )
        };
        for hash in evicted {
            self.end_login(&hash).await;
        }
        if let Some(record) = record {
            self.emit(FromSecmod::SessionChanged(Box::new(record)))
                .await;
        }
        true
    }

    async fn step(&self, step: Step) -> AuthOutcome {
        let Step {
            hash,
            sid,
            ticket,
            password,
        } = step;
        let taken = self
            .state
            .borrow_mut()
            .conversations
            .take_dialogue(&hash, ticket.conn);
        let mut dialogue = match taken {
            Ok(dialogue) => dialogue,
            Err(Unavailable::Unknown) => return AuthOutcome::Known(false),
            Err(Unavailable::Busy) => return denied(FAILED),
        };
        let work = move || {
            let verdict = dialogue.answer(&password);
            (dialogue, verdict)
        };
        let Some((dialogue, verdict)) = self.pool.check(work).await else {
            tracing::error!("too many logins wait for a password check: one is refused");
            self.end_login(&hash).await;
            return denied(INTERNAL);
        };
        match verdict {
            Verdict::Ask { prompt, wrong } => {
                if wrong {
                    self.report_failure(&ticket, self.username_of(&hash)).await;
                }
                let alive = self
                    .state
                    .borrow_mut()
                    .conversations
                    .put_back(&hash, dialogue);
                if alive {
                    challenge(sid, prompt)
                } else {
                    denied(FAILED)
                }
            }
            Verdict::Failed => self.fail(&hash, &ticket).await,
            Verdict::Passed { groups } => self.pass(hash, sid, ticket, groups).await,
        }
    }

    async fn pass(
        &self,
        hash: CookieHash,
        sid: Secret,
        ticket: ConnTicket,
        groups: Vec<String>,
    ) -> AuthOutcome {
        let wanted = {
            let state = self.state.borrow();
            let login = state.conversations.get(&hash);
            login.map(|login| (login.group.clone(), login.vhost, login.started))
        };
        // Gone: pushed out by others while its password was checked.
        let Some((wanted, vhost, started)) = wanted else {
            return denied(FAILED);
        };
        let Some(group) = choose_group(wanted.as_deref(), groups) else {
            return self.fail(&hash, &ticket).await;
        };
        let Some(active) = self.active() else {
            return denied(INTERNAL);
        };
        let Some((vhost, _)) = active.vhost(vhost) else {
            return denied(INTERNAL);
        };
        let now = SystemTime::now();
        let record = {
            let mut state = self.state.borrow_mut();
            state.conversations.remove(&hash);
            state
                .sessions
                .authenticate(&hash, group, now, vhost.cookie_timeout)
        };
        let Some(record) = record else {
            return denied(FAILED);
        };
        let (username, name) = (record.username.clone(), session_name(&sid));
        tracing::debug!(
            remote = %ticket.remote.ip(),
            "user '{username}' authenticated (session: {})",
            name.short()
        );
        self.emit(FromSecmod::SessionChanged(Box::new(record)))
            .await;
        let took = now.duration_since(started).unwrap_or_default();
        let succeeded = FromSecmod::AuthSucceeded {
            conn: ticket.conn,
            username: username.clone(),
            name,
            took,
        };
        self.emit(succeeded).await;
        AuthOutcome::Granted {
            cookie: sid,
            username,
        }
    }

    async fn fail(&self, hash: &CookieHash, ticket: &ConnTicket) -> AuthOutcome {
        self.report_failure(ticket, self.username_of(hash)).await;
        self.end_login(hash).await;
        denied(FAILED)
    }

    /// Forgets an unfinished login.
    pub(super) async fn end_login(&self, hash: &CookieHash) {
        let record = {
            let mut state = self.state.borrow_mut();
            state.conversations.remove(hash);
            state.sessions.remove(hash)
        };
        if let Some(record) = record {
            self.emit(FromSecmod::SessionGone { name: record.name })
                .await;
        }
    }

    async fn report_failure(&self, ticket: &ConnTicket, username: String) {
        let remote: IpAddr = ticket.remote.ip();
        tracing::info!(%remote, "failed authentication for '{}'", username.escape_debug());
        let points = self
            .active()
            .map_or(0, |active| active.config.ban_points_wrong_password);
        let failed = FromSecmod::AuthFailed {
            conn: ticket.conn,
            remote,
            username,
            points,
        };
        self.emit(failed).await;
    }

    fn username_of(&self, hash: &CookieHash) -> String {
        let state = self.state.borrow();
        state
            .conversations
            .get(hash)
            .map(|login| login.username.clone())
            .unwrap_or_default()
    }
}

/// `default-select-group` means the user's own default group.
fn wanted_group(vhost: &VhostConfig, group: Option<String>) -> Option<String> {
    group.filter(|group| !group.is_empty() && vhost.default_select_group.as_ref() != Some(group))
}

/// The wanted group if it is one of the user's; without a wish the first, or none (behaviour.md
/// 4.2).
fn choose_group(wanted: Option<&str>, groups: Vec<String>) -> Option<String> {
    match wanted {
        Some(wanted) => groups.into_iter().find(|group| group == wanted),
        None => Some(groups.into_iter().next().unwrap_or_default()),
    }
}

fn new_sid() -> Option<(Secret, CookieHash)> {
    let mut sid = vec![0; SID_LEN];
    SystemRandom::new().fill(&mut sid).ok()?;
    let sid = Secret::new(sid);
    let hash = cookie_hash(&sid)?;
    Some((sid, hash))
}

/// Text for records and logs: cut to `max` bytes, without control characters.
fn printable(mut text: String, max: usize) -> String {
    text.retain(|c| !c.is_control());
    text.truncate(text.floor_char_boundary(max));
    text
}
