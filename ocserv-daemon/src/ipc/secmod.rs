//! Messages to and from the security module.
//!
//! Three kinds of channel: the supervisor's ([`ToSecmod`]/[`FromSecmod`]), one for each gate's
//! questions ([`AuthRequest`]/[`AuthReply`], many in flight), and a few for each gate that carry one
//! blocking call at a time ([`SignRequest`]/[`SignReply`]), because rustls signs synchronously.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ocserv_proto::config::UserConfig;
use ocserv_proto::secret::Secret;
use serde::{Deserialize, Serialize};

use super::ids::{ConnId, ConnTicket, GateId, SessionName};

/// Supervisor → secmod.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToSecmod {
    /// First message, and again at each reload. One descriptor follows: a sealed memfd with a
    /// [`SecmodSetup`].
    Configure,
    /// A gate was started. Descriptors: its [`AuthRequest`] channel, then its signing channels.
    GateAdded {
        /// The gate at the other end.
        gate: GateId,
    },
    /// A client presents a cookie with CONNECT.
    OpenSession {
        /// Comes back in the answer.
        request: u64,
        /// The connection and the addresses that the supervisor saw.
        ticket: ConnTicket,
        /// The 32 bytes of the `webvpn` cookie.
        cookie: Secret,
    },
    /// A tunnel ended (or its opening failed after [`ToSecmod::OpenSession`]).
    CloseSession {
        /// Which one.
        name: SessionName,
        /// On which connection. A session that was opened on another one meanwhile stays open.
        conn: ConnId,
        /// Whether the cookie may open it again.
        keep_cookie: bool,
    },
    /// The administrator ends a session that may have no tunnel.
    InvalidateSession {
        /// Which one.
        name: SessionName,
    },
    /// After a restart of secmod: sessions that its predecessor knew. Sent before the first gate.
    Restore {
        /// Their records, as they came in [`FromSecmod::SessionChanged`].
        sessions: Vec<SessionRecord>,
    },
    /// Finish: no further work is accepted.
    Stop,
}

/// Secmod → supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromSecmod {
    /// The configuration is in force.
    Configured {
        /// Group names offered because of `auto-select-group`, by vhost index.
        auto_groups: Vec<Vec<String>>,
        /// What each vhost's keys can sign, by vhost index, then key index.
        keys: Vec<Vec<KeyInfo>>,
    },
    /// The configuration was refused; a previous one stays in force.
    ConfigureFailed {
        /// For the administrator: which file, what is wrong, what to do.
        message: String,
    },
    /// Answer to [`ToSecmod::OpenSession`].
    SessionOpened {
        /// From the question.
        request: u64,
        /// The session, or why it is refused.
        result: Result<Box<OpenedSession>, OpenRefused>,
    },
    /// A session was created or changed; the supervisor keeps the record for occtl and for
    /// [`ToSecmod::Restore`].
    SessionChanged(Box<SessionRecord>),
    /// A session is gone: expired, invalidated or failed.
    SessionGone {
        /// Which one.
        name: SessionName,
    },
    /// A failed authentication: points for the address, and statistics.
    AuthFailed {
        /// On which connection.
        conn: ConnId,
        /// From where.
        remote: IpAddr,
        /// The name that was tried, for the log.
        username: String,
        /// `ban-points-wrong-password`, or 0 where none apply.
        points: u32,
    },
    /// A completed authentication.
    AuthSucceeded {
        /// On which connection.
        conn: ConnId,
        /// Who.
        username: String,
        /// The session that it created.
        name: SessionName,
        /// From the first form to the success.
        took: Duration,
    },
}

/// Everything secmod needs to work; travels in a memfd.
#[derive(Debug, Serialize, Deserialize)]
pub struct SecmodSetup {
    /// The whole configuration.
    pub config: ocserv_proto::config::Config,
    /// Key for [`ConnTicket::mac`].
    pub ticket_key: Secret,
}

/// What a private key is, as far as a gate must know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyInfo {
    /// TLS `SignatureScheme` code points (RFC 8446 §4.2.3) that this key can make, best first.
    pub schemes: Vec<u16>,
    /// The certificate chain of the same index, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// State of a stored session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionState {
    /// The login dialogue is under way.
    Authenticating,
    /// The login succeeded: the cookie is good.
    Authenticated,
}

/// A session in secmod's table, without its cookie: the table is keyed by the cookie's SHA-256.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Public name.
    pub name: SessionName,
    /// SHA-256 of the cookie.
    pub cookie_hash: [u8; 32],
    /// Dialogue or done.
    pub state: SessionState,
    /// Index of the vhost in the configuration; 0 is the default one.
    pub vhost: u32,
    /// Name of the user.
    pub username: String,
    /// Name of the group; empty for none.
    pub groupname: String,
    /// Address at login (`deny-roaming` compares with it).
    pub remote: IpAddr,
    /// The client's `User-Agent`, at most 63 bytes.
    pub user_agent: String,
    /// When the login began.
    pub created: SystemTime,
    /// When the login succeeded; `session-timeout` counts from here.
    pub authenticated: Option<SystemTime>,
    /// When it ends unless used; `None` while a tunnel is open.
    pub expires: Option<SystemTime>,
    /// A tunnel is open now.
    pub in_use: bool,
    /// A tunnel was opened at least once.
    pub activated: bool,
    /// The connection that a tunnel is open on.
    pub conn: Option<ConnId>,
}

/// A session that may be opened.
#[derive(Debug, Serialize, Deserialize)]
pub struct OpenedSession {
    /// The record after opening.
    pub record: SessionRecord,
    /// Settings of this user: the vhost's, changed by group and user files (config.md §7).
    pub settings: UserConfig,
}

/// Why a cookie opens nothing. All give `401 Cookie is not acceptable`; the reason is for the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenRefused {
    /// Unknown or expired.
    Unknown,
    /// `deny-roaming` and another address.
    Roamed,
    /// A per-user or per-group file cannot be used (config.md §7.5).
    BadUserConfig(String),
    /// `session-timeout` has passed since the login.
    SessionTimeout,
}

/// Gate → secmod, answered in any order by [`AuthReply`] with the same `request`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AuthRequest {
    /// Chosen by the gate.
    pub request: u64,
    /// The connection that asks.
    pub ticket: ConnTicket,
    /// The question.
    pub question: AuthQuestion,
}

/// What a gate may ask.
#[derive(Debug, Serialize, Deserialize)]
pub enum AuthQuestion {
    /// A login with a user name, maybe with the password in the same form.
    Start {
        /// Index of the vhost that SNI chose.
        vhost: u32,
        /// As typed.
        username: String,
        /// Chosen group; empty or `default-select-group` already mapped to `None`.
        group: Option<String>,
        /// First password, if the form had one.
        password: Option<Secret>,
        /// `User-Agent`, at most 63 bytes.
        user_agent: String,
    },
    /// The next answer of a login, maybe from another connection (`webvpncontext`).
    Continue {
        /// The 32 bytes of the `webvpncontext` cookie.
        sid: Secret,
        /// The answer.
        password: Secret,
    },
    /// Is this `webvpn` cookie good (for `/profiles` and for marking a connection authenticated)?
    Check {
        /// The 32 bytes of the cookie.
        cookie: Secret,
    },
}

/// Secmod → gate.
#[derive(Debug, Serialize, Deserialize)]
pub struct AuthReply {
    /// From the question.
    pub request: u64,
    /// The answer.
    pub outcome: AuthOutcome,
}

/// Outcome of one step.
#[derive(Debug, Serialize, Deserialize)]
pub enum AuthOutcome {
    /// Ask the user for more.
    Challenge {
        /// For `webvpncontext`, 32 bytes.
        sid: Secret,
        /// Message of the form, unescaped; may have several lines.
        message: String,
        /// 0: input `password`, label `Password:`; n > 0: `secondary_password`, `Password<n>:`.
        counter: u32,
    },
    /// The login is complete.
    Granted {
        /// For `webvpn` and `webvpncontext`, 32 bytes.
        cookie: Secret,
        /// Who.
        username: String,
    },
    /// The login failed for good: `401 <reason>`.
    Denied {
        /// Reason phrase of protocol.md §4.5, e.g. `Authentication failed`.
        reason: String,
    },
    /// Answer to [`AuthQuestion::Check`], or to [`AuthQuestion::Continue`] of an unknown SID.
    Known(
        /// Whether it is.
        bool,
    ),
    /// As `Known(true)`, for a user with an own `user-profile`.
    OwnProfile(
        /// The file, at most 64 KiB.
        Vec<u8>,
    ),
}

/// Gate → secmod on a signing channel: one call, one reply (none for [`SignRequest::StoreTls`]).
#[derive(Debug, Serialize, Deserialize)]
pub enum SignRequest {
    /// Sign `message` (hash it too, as the scheme says).
    Sign {
        /// Vhost index.
        vhost: u32,
        /// Key index in the vhost.
        key: u32,
        /// `SignatureScheme` code point.
        scheme: u16,
        /// The bytes to sign, at most 64 KiB.
        message: Vec<u8>,
    },
    /// Keep a TLS session for resumption. No reply.
    StoreTls {
        /// Index of the vhost: part of the key.
        vhost: u32,
        /// The client's address without port: part of the key (protocol.md 1.6).
        remote: IpAddr,
        /// Session id or ticket.
        id: Vec<u8>,
        /// rustls' own encoding, at most 4 KiB.
        value: Secret,
    },
    /// Look a TLS session up.
    LoadTls {
        /// Index of the vhost.
        vhost: u32,
        /// The client's address.
        remote: IpAddr,
        /// Session id or ticket.
        id: Vec<u8>,
        /// Forget it too (TLS 1.3 tickets are used once).
        take: bool,
    },
}

/// Secmod → gate on a signing channel.
#[derive(Debug, Serialize, Deserialize)]
pub enum SignReply {
    /// The signature as it goes on the wire, or `None` (refused; logged by secmod).
    Signature(Option<Vec<u8>>),
    /// The stored session.
    Tls(Option<Secret>),
}
