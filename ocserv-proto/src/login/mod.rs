//! The dialogue from the first request to CONNECT (protocol.md 3, 4): passwords only.
//!
//! One [`Login`] lives as long as its TLS connection. [`Login::handle`] takes each request,
//! [`Login::outcome`] the answer to each [`Question`]; both say what to do next.

mod answers;
mod groups;
mod reply;
mod types;

pub use reply::{Reply, ReplyError};
pub use types::{Action, Group, LoginSettings, Outcome, Profile, Question};

use std::sync::Arc;

use answers::{Bytes, Dialect};

use crate::cookies;
use crate::http::{Method, Request};
use crate::secret::Secret;
use crate::urls::{self, GetPage};

/// Longest `User-Agent` that goes on, bytes (protocol.md 2.3).
const MAX_USER_AGENT_BYTES: usize = 63;
const AUTHENTICATION_FAILED: &str = "Authentication failed";
const INTERNAL_ERROR: &str = "Internal error";

/// State of one connection's dialogue.
pub struct Login {
    settings: Arc<LoginSettings>,
    dialect: Dialect,
    close_after: bool,
    /// Chosen by the URL: no other is offered.
    url_group: Option<String>,
    /// The login that waits for the user's next answer.
    attempt: Option<Attempt>,
    /// A good `webvpn` cookie was seen or made on this connection.
    authenticated: bool,
    waiting: Option<Waiting>,
}

/// A login under way. A continued one knows neither name nor group.
struct Attempt {
    sid: Secret,
    who: Option<Who>,
}

#[derive(Clone, PartialEq, Eq)]
struct Who {
    username: String,
    group: Option<String>,
}

/// What the open question is about.
enum Waiting {
    Step(Option<Who>),
    Profile,
}

impl Login {
    /// A new connection to a vhost with these settings.
    pub fn new(settings: Arc<LoginSettings>) -> Self {
        Self {
            settings,
            dialect: Dialect {
                minor_version: 1,
                unwrapped: false,
            },
            close_after: false,
            url_group: None,
            attempt: None,
            authenticated: false,
            waiting: None,
        }
    }

    /// Decides about a request. While a question is open no further request may come; one that
    /// does closes the connection.
    pub fn handle(&mut self, request: &Request) -> Action {
        if self.waiting.is_some() {
            return Action::Close;
        }
        let agent = request.header("User-Agent").unwrap_or_default();
        self.dialect = Dialect {
            minor_version: request.minor_version(),
            unwrapped: is_unwrapped_client(agent),
        };
        let wants_close = request
            .header("Connection")
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("close"));
        self.close_after = wants_close || request.minor_version() == 0;
        match request.method() {
            Method::Get => self.get(request),
            Method::Post => self.post(request),
            Method::Connect => self.connect(request),
            Method::Other => self.not_found(),
        }
    }

    /// Takes the answer to the question that [`Self::handle`] asked. An answer of the wrong kind
    /// ends the login with `401 Internal error`.
    pub fn outcome(&mut self, outcome: Outcome) -> Action {
        match (self.waiting.take(), outcome) {
            (None, _) => Action::Close,
            (
                Some(Waiting::Step(who)),
                Outcome::Challenge {
                    sid,
                    message,
                    counter,
                },
            ) => {
                let form =
                    answers::password_form(self.dialect, &self.settings, &sid, &message, counter);
                self.attempt = Some(Attempt { sid, who });
                self.respond(form)
            }
            (Some(Waiting::Step(_)), Outcome::Granted { cookie }) => {
                self.attempt = None;
                self.authenticated = true;
                self.respond(answers::success(self.dialect, &self.settings, &cookie))
            }
            (Some(Waiting::Step(_)), Outcome::Known(false)) => self.login_form(None),
            (Some(Waiting::Profile), Outcome::Known(true)) => {
                self.authenticated = true;
                self.profile()
            }
            (Some(Waiting::Profile), Outcome::OwnProfile(content)) => {
                self.authenticated = true;
                self.respond(answers::page(
                    self.dialect,
                    &self.settings,
                    "text/xml",
                    &content,
                ))
            }
            (Some(Waiting::Profile), Outcome::Known(false)) => self.refuse_cookie(),
            (Some(_), Outcome::Denied { reason }) => self.denied(&reason),
            (Some(_), _) => self.denied(INTERNAL_ERROR),
        }
    }

    /// The answer to CONNECT with a cookie that opens nothing (protocol.md 5.2).
    pub fn refuse_cookie(&self) -> Action {
        refuse(answers::bare_error(
            self.dialect,
            "401 Cookie is not acceptable",
        ))
    }

    /// The answer to CONNECT when the server fails; clients retry.
    pub fn unavailable(&self) -> Action {
        refuse(answers::bare_error(self.dialect, "503 Service Unavailable"))
    }

    fn get(&mut self, request: &Request) -> Action {
        match urls::get_page(request.path()) {
            GetPage::Login => self.login_form(None),
            GetPage::Static(page) => {
                self.respond(answers::static_page(self.dialect, &self.settings, page))
            }
            // Asked for in any case: the user may have a profile of his own.
            GetPage::Profile => match cookies::session_id(request, cookies::WEBVPN) {
                Some(cookie) => {
                    self.waiting = Some(Waiting::Profile);
                    Action::Ask(Question::Check { cookie })
                }
                None if self.authenticated => self.profile(),
                None => self.unavailable(),
            },
            GetPage::Unknown => self.not_found(),
        }
    }

    fn post(&mut self, request: &Request) -> Action {
        if !urls::is_login_post(request.path()) {
            if self.attempt.is_some() || self.authenticated {
                return self.not_found();
            }
            self.url_group = groups::from_path(&self.settings, request.path()).map(str::to_owned);
        }
        match Reply::parse(request.body()) {
            Ok(reply) => self.step(request, reply),
            // An HTTP error makes openconnect try again without XML (protocol.md 4.11).
            Err(ReplyError::Xml(_)) => refuse(answers::error(self.dialect, "400 Bad Request")),
            Err(ReplyError::Encoding | ReplyError::Unacceptable(_)) => {
                self.denied(AUTHENTICATION_FAILED)
            }
        }
    }

    fn step(&mut self, request: &Request, reply: Reply) -> Action {
        let typed_group = self.url_group.as_deref().or(reply.group.as_deref());
        match (reply.username, reply.password) {
            (Some(username), password) => {
                let group = groups::requested(&self.settings, typed_group);
                self.start_or_continue(request, Who { username, group }, password)
            }
            (None, Some(password)) => match self.pending(request) {
                Some(Attempt { sid, who }) => self.ask_continue(sid, who, password),
                None => self.login_form(reply.group.as_deref()),
            },
            (None, None) => self.login_form(reply.group.as_deref()),
        }
    }

    /// Some clients repeat the name with each answer: the same one goes on with its login.
    fn start_or_continue(
        &mut self,
        request: &Request,
        who: Who,
        password: Option<Secret>,
    ) -> Action {
        match (self.attempt.take(), password) {
            (
                Some(Attempt {
                    sid,
                    who: Some(same),
                }),
                Some(password),
            ) if same == who => self.ask_continue(sid, Some(who), password),
            (_, password) => {
                let question = Question::Start {
                    username: who.username.clone(),
                    group: who.group.clone(),
                    password: password.filter(|password| !password.is_empty()),
                    user_agent: user_agent(request),
                };
                self.waiting = Some(Waiting::Step(Some(who)));
                Action::Ask(question)
            }
        }
    }

    fn ask_continue(&mut self, sid: Secret, who: Option<Who>, password: Secret) -> Action {
        self.waiting = Some(Waiting::Step(who));
        Action::Ask(Question::Continue { sid, password })
    }

    /// This connection's login, or one that the client began on another connection.
    fn pending(&mut self, request: &Request) -> Option<Attempt> {
        self.attempt.take().or_else(|| {
            let sid = cookies::session_id(request, cookies::WEBVPNCONTEXT)?;
            Some(Attempt { sid, who: None })
        })
    }

    fn connect(&mut self, request: &Request) -> Action {
        if !urls::is_tunnel(request.path()) {
            return self.not_found();
        }
        match cookies::session_id(request, cookies::WEBVPN) {
            Some(cookie) => Action::Tunnel { cookie },
            None => self.unavailable(),
        }
    }

    /// The first form; it clears `webvpncontext`, so a login under way ends here.
    fn login_form(&mut self, typed_group: Option<&str>) -> Action {
        self.attempt = None;
        let chosen = match &self.url_group {
            Some(name) => Some(name.as_str()),
            None => typed_group
                .filter(|typed| self.settings.default_select_group.as_deref() != Some(typed))
                .and_then(|typed| groups::listed(&self.settings, typed)),
        };
        let only_chosen = self.url_group.is_some();
        self.respond(answers::login_form(
            self.dialect,
            &self.settings,
            chosen,
            only_chosen,
        ))
    }

    fn profile(&self) -> Action {
        match &self.settings.profile {
            Some(profile) => {
                let content = &profile.content;
                self.respond(answers::page(
                    self.dialect,
                    &self.settings,
                    "text/xml",
                    content,
                ))
            }
            None => self.not_found(),
        }
    }

    fn not_found(&self) -> Action {
        refuse(answers::not_found(self.dialect))
    }

    fn denied(&mut self, reason: &str) -> Action {
        self.attempt = None;
        refuse(answers::denied(self.dialect, reason))
    }

    fn respond(&self, bytes: Bytes) -> Action {
        Action::Respond {
            bytes,
            close: self.close_after,
        }
    }
}

fn refuse(bytes: Bytes) -> Action {
    Action::Respond { bytes, close: true }
}

/// `Open AnyConnect VPN Agent v<N>` with N up to 3 (protocol.md 4.10).
fn is_unwrapped_client(agent: &str) -> bool {
    let Some(version) = agent.strip_prefix("Open AnyConnect VPN Agent v") else {
        return false;
    };
    let digits = version
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits.parse::<u32>().is_ok_and(|major| major <= 3)
}

fn user_agent(request: &Request) -> String {
    let agent = request.header("User-Agent").unwrap_or_default();
    let end = agent.floor_char_boundary(MAX_USER_AGENT_BYTES);
    agent.get(..end).unwrap_or_default().to_owned()
}
