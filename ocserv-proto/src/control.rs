//! The control socket between occtl and the supervisor (cli.md §§3-4).
//!
//! A message is a length (u32, big endian, of what follows), a version byte and a postcard body.
//! occtl sends one [`Request`]; the server sends one [`Response`] and closes, except for
//! [`Request::Events`], which is answered by the users and then by events until a side closes.

mod datapath;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use datapath::{DatapathDevice, DatapathInfo, PathTraffic, ProgramInfo, SocketTraffic};

/// Largest request, without its length field.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Largest answer, without its length field.
pub const MAX_RESPONSE: usize = 16 * 1024 * 1024;
/// Bytes of the length field.
pub const LENGTH_LEN: usize = 4;
/// Changes when a message type changes: an occtl of another version is refused, not misread. What
/// is added at the end of [`Request`] or [`Response`] changes none.
const VERSION: u8 = 1;

/// What occtl asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// `show status`. Answer: [`Response::Status`].
    Status,
    /// `show users`. Answer: [`Response::Users`].
    Users,
    /// `show user NAME`: every session of the user. Answer: [`Response::Users`], maybe empty.
    User(String),
    /// `show id ID`. Answer: [`Response::Users`] with at most one.
    Id(u32),
    /// `show sessions all`. Answer: [`Response::Sessions`].
    SessionsAll,
    /// `show sessions valid`: authenticated ones only. Answer: [`Response::Sessions`].
    SessionsValid,
    /// `show session SID`: full name or a prefix. Answer: [`Response::Sessions`].
    Session(String),
    /// `show ip bans`: banned now. Answer: [`Response::Bans`].
    IpBans,
    /// `show ip ban points`: every address with points. Answer: [`Response::Bans`].
    IpBanPoints,
    /// `show iroutes`: users that have one. Answer: [`Response::Users`].
    Iroutes,
    /// `show events`. Answer: [`Response::Users`], then [`Response::Event`] without end;
    /// [`Response::Failed`] instead of the first event if there is a listener already.
    Events,
    /// `disconnect user NAME`. Answer: [`Response::Done`] or [`Response::Failed`].
    DisconnectUser(String),
    /// `disconnect id ID`.
    DisconnectId(u32),
    /// `terminate user NAME`: disconnect, and drop the cookies.
    TerminateUser(String),
    /// `terminate id ID`.
    TerminateId(u32),
    /// `terminate session SID`: full name or a prefix. Answer: [`Response::Terminated`],
    /// [`Response::Sessions`] if it is ambiguous (or empty: none), or [`Response::Failed`].
    TerminateSession(String),
    /// `unban ip IP`.
    UnbanIp(IpAddr),
    /// `reload`.
    Reload,
    /// `stop now`.
    Stop,
    /// `show datapath`. Answer: [`Response::Datapath`].
    Datapath,
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<StatusInfo>),
    /// Open tunnels and connections in authentication, oldest first.
    Users(Vec<UserInfo>),
    /// Stored sessions, oldest first.
    Sessions(Vec<SessionInfo>),
    /// Addresses with a score.
    Bans(Vec<BanInfo>),
    /// A user came or went.
    Event(Box<Event>),
    /// The command was carried out.
    Done,
    /// The session's cookie is gone.
    Terminated {
        /// Its public name.
        session: String,
        /// Its user.
        username: String,
        /// A connection still uses it, and keeps running.
        in_use: bool,
    },
    /// The command was not carried out; the reason is for people.
    Failed(String),
    /// To [`Request::Datapath`].
    Datapath(Box<DatapathInfo>),
}

/// Values of `show status` (cli.md §4.1). Times are Unix seconds, spans whole seconds unless named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusInfo {
    /// Process id of the supervisor.
    pub server_pid: u32,
    /// Process ids of the security modules.
    pub secmod_pids: Vec<u32>,
    /// Start of the server.
    pub up_since: u64,
    /// Open tunnels.
    pub active_sessions: u64,
    /// Ended sessions since the start.
    pub total_sessions: u64,
    /// Failed logins since the start.
    pub total_auth_failures: u64,
    /// Addresses that are banned now.
    pub banned_ips: u64,
    /// Entries of secmod's session table.
    pub secmod_client_entries: u64,
    /// Stored TLS sessions.
    pub tls_db_entries: u64,
    /// Median latency of packets, milliseconds.
    pub median_latency_ms: u64,
    /// Standard deviation of the latency, milliseconds.
    pub stdev_latency_ms: u64,
    /// The current period of statistics.
    pub period: PeriodInfo,
    /// Smallest MTU of the open sessions, 0 without any.
    pub min_mtu: u16,
    /// Largest MTU of the open sessions, 0 without any.
    pub max_mtu: u16,
}

/// Statistics since the last reset (`server-stats-reset-time`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeriodInfo {
    /// Unix seconds of the reset.
    pub since: u64,
    /// Sessions that ended.
    pub sessions_handled: u64,
    /// Ended by `session-timeout`.
    pub timed_out: u64,
    /// Ended by `idle-timeout`.
    pub idle_timed_out: u64,
    /// Ended by an error.
    pub errors: u64,
    /// Failed logins.
    pub auth_failures: u64,
    /// Average seconds from first form to success.
    pub avg_auth_secs: u64,
    /// Longest of them.
    pub max_auth_secs: u64,
    /// Average seconds of a session.
    pub avg_session_secs: u64,
    /// Longest of them.
    pub max_session_secs: u64,
    /// Bytes from clients in ended sessions.
    pub rx_bytes: u64,
    /// Bytes to clients in ended sessions.
    pub tx_bytes: u64,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserState {
    /// A tunnel is open.
    #[default]
    Connected,
    /// No login yet, or scripts still run.
    PreAuth,
    /// The login failed.
    AuthFailed,
    /// The login is under way.
    Authenticating,
}

impl UserState {
    /// The word that occtl prints.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::PreAuth => "pre-auth",
            Self::AuthFailed => "auth failed",
            Self::Authenticating => "authenticating",
        }
    }
}

/// A connection as `show user` prints it (cli.md §4.3). Empty texts and lists are left out there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// Number of the connection.
    pub id: u32,
    /// User name.
    pub username: String,
    /// Group name.
    pub groupname: String,
    /// How far it is.
    pub state: UserState,
    /// `default` or the name of the vhost.
    pub vhost: String,
    /// The tun device.
    pub device: String,
    /// Inner MTU, once negotiated.
    pub mtu: Option<u16>,
    /// The client's address.
    pub remote_ip: Option<IpAddr>,
    /// Server address that it connected to.
    pub local_device_ip: Option<IpAddr>,
    /// IPv4 lease and the server's side.
    pub ipv4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// IPv6 lease and the server's side.
    pub ipv6: Option<(Ipv6Addr, Ipv6Addr)>,
    /// `User-Agent`.
    pub user_agent: String,
    /// Client → server limit in bytes per second, 0 = none.
    pub limit_rx: u64,
    /// Server → client limit in bytes per second, 0 = none.
    pub limit_tx: u64,
    /// Bytes from and to the client; `None` when the counters are gone.
    pub traffic: Option<(u64, u64)>,
    /// DPD interval, seconds.
    pub dpd: u32,
    /// Keepalive interval, seconds.
    pub keepalive: u32,
    /// The client's host name.
    pub hostname: String,
    /// When this tunnel was opened, Unix seconds.
    pub connected_at: u64,
    /// When the session began (login), Unix seconds.
    pub session_started_at: u64,
    /// Public name of the session, 28 characters.
    pub session: String,
    /// TLS session, e.g. `(TLS1.3)-(ECDHE-X25519)-(RSA-PSS-RSAE-SHA256)-(AES-256-GCM)`.
    pub tls_cipher: String,
    /// DTLS session, e.g. `(DTLS1.2)-(PSK)-(AES-256-GCM)`.
    pub dtls_cipher: String,
    /// Compression of the CSTP channel.
    pub cstp_compression: String,
    /// Compression of the DTLS channel.
    pub dtls_compression: String,
    /// DNS servers.
    pub dns: Vec<String>,
    /// NBNS servers.
    pub nbns: Vec<String>,
    /// `split-dns`.
    pub split_dns: Vec<String>,
    /// Routes; empty = default route.
    pub routes: Vec<String>,
    /// `no-route`.
    pub no_routes: Vec<String>,
    /// Networks behind the client.
    pub iroutes: Vec<String>,
    /// `restrict-user-to-routes`.
    pub restrict_to_routes: bool,
    /// `restrict-user-to-ports`, e.g. `tcp(443)`.
    pub restrict_to_ports: Vec<String>,
}

/// A stored session (cli.md §4.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Public name, 28 characters.
    pub session: String,
    /// Unix seconds of the login's begin.
    pub created: u64,
    /// Unix seconds; `None` while it does not run.
    pub expires: Option<u64>,
    /// The login succeeded.
    pub authenticated: bool,
    /// User name.
    pub username: String,
    /// Group name.
    pub groupname: String,
    /// `default` or the name of the vhost.
    pub vhost: String,
    /// `User-Agent`.
    pub user_agent: String,
    /// Address at login.
    pub remote_ip: IpAddr,
    /// A tunnel was opened at least once.
    pub activated: bool,
    /// A tunnel is open now.
    pub in_use: bool,
    /// A client certificate was verified.
    pub certificate_auth: bool,
}

/// An address with points (cli.md §4.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanInfo {
    /// The address; for IPv6 the first of its /64.
    pub ip: IpAddr,
    /// Its points.
    pub score: u32,
    /// Unix seconds of the end of the ban; `None`: not banned.
    pub expires: Option<u64>,
}

/// A line of `show events` (cli.md §4.7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The user.
    pub user: UserInfo,
    /// Set at a disconnect.
    pub end: Option<EventEnd>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEnd {
    /// Reason words of cli.md §4.7.
    pub reason: String,
    /// Seconds that it was connected.
    pub duration: u64,
}

/// A message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// Longer than allowed.
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
    /// The other side is another version.
    #[error("the other side speaks version {0} of the control protocol, not {VERSION}")]
    Version(u8),
    /// Truncated, malformed, or with bytes left over.
    #[error("malformed message")]
    Malformed,
}

/// Length of the message that the length field announces, checked against `max`.
pub fn message_len(field: [u8; LENGTH_LEN], max: usize) -> Result<usize, ControlError> {
    let len = u32::from_be_bytes(field) as usize;
    match len {
        0 => Err(ControlError::Malformed),
        len if len > max => Err(ControlError::TooLong(len)),
        len => Ok(len),
    }
}

/// A whole request message, with its length.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, ControlError> {
    encode(request, MAX_REQUEST)
}

/// Reads what follows the length field of a request.
pub fn decode_request(message: &[u8]) -> Result<Request, ControlError> {
    decode(message, MAX_REQUEST)
}

/// A whole response message, with its length.
pub fn encode_response(response: &Response) -> Result<Vec<u8>, ControlError> {
    encode(response, MAX_RESPONSE)
}

/// Reads what follows the length field of a response.
pub fn decode_response(message: &[u8]) -> Result<Response, ControlError> {
    decode(message, MAX_RESPONSE)
}

fn encode<T: Serialize>(value: &T, max: usize) -> Result<Vec<u8>, ControlError> {
    let start = vec![0, 0, 0, 0, VERSION];
    let mut message = postcard::to_extend(value, start).map_err(|_| ControlError::Malformed)?;
    let len = message.len().saturating_sub(LENGTH_LEN);
    if len > max {
        return Err(ControlError::TooLong(len));
    }
    let field = u32::try_from(len).map_err(|_| ControlError::TooLong(len))?;
    if let Some(start) = message.first_chunk_mut::<LENGTH_LEN>() {
        *start = field.to_be_bytes();
    }
    Ok(message)
}

fn decode<T: serde::de::DeserializeOwned>(message: &[u8], max: usize) -> Result<T, ControlError> {
    if message.len() > max {
        return Err(ControlError::TooLong(message.len()));
    }
    let (version, body) = message.split_first().ok_or(ControlError::Malformed)?;
    if *version != VERSION {
        return Err(ControlError::Version(*version));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(ControlError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_has_this_form() {
        let message = encode_request(&Request::User("test".to_owned())).unwrap();
        assert_eq!(message, [0, 0, 0, 7, 1, 2, 4, b't', b'e', b's', b't']);
        assert_eq!(message_len([0, 0, 0, 7], MAX_REQUEST), Ok(7));
        assert_eq!(
            decode_request(&message[4..]),
            Ok(Request::User("test".to_owned()))
        );
    }

    #[test]
    fn requests_and_responses_survive_the_socket() {
        let request = Request::UnbanIp("2001:db8::1".parse().unwrap());
        let message = encode_request(&request).unwrap();
        assert_eq!(decode_request(&message[4..]), Ok(request));

        let user = UserInfo {
            id: 7,
            username: "test".to_owned(),
            ipv4: Some(("192.0.2.7".parse().unwrap(), "192.0.2.1".parse().unwrap())),
            traffic: Some((1, u64::MAX)),
            routes: vec!["10.0.0.0/255.0.0.0".to_owned()],
            ..UserInfo::default()
        };
        let end = EventEnd {
            reason: "idle timeout".to_owned(),
            duration: 3,
        };
        let response = Response::Event(Box::new(Event {
            user,
            end: Some(end),
        }));
        let message = encode_response(&response).unwrap();
        assert_eq!(decode_response(&message[4..]), Ok(response));
    }

    #[test]
    fn what_was_added_has_the_numbers_behind_the_others() {
        let stop = encode_request(&Request::Stop).unwrap();
        assert_eq!(stop, [0, 0, 0, 2, 1, 18]);
        let request = encode_request(&Request::Datapath).unwrap();
        assert_eq!(request, [0, 0, 0, 2, 1, 19]);
        let failed = encode_response(&Response::Failed(String::new())).unwrap();
        assert_eq!(failed, [0, 0, 0, 3, 1, 7, 0]);
        let info = DatapathInfo {
            state: "on".to_owned(),
            max_record: 512,
            devices: vec![DatapathDevice {
                name: "eth0".to_owned(),
                role: "wan".to_owned(),
                mode: "tc".to_owned(),
            }],
            left: vec![("long".to_owned(), 3)],
            ..DatapathInfo::default()
        };
        let response = Response::Datapath(Box::new(info));
        let message = encode_response(&response).unwrap();
        assert_eq!(message[4..6], [1, 8]);
        assert_eq!(decode_response(&message[4..]), Ok(response));
    }

    #[test]
    fn malformed_requests_are_refused() {
        assert_eq!(decode_request(&[]), Err(ControlError::Malformed));
        assert_eq!(decode_request(&[1]), Err(ControlError::Malformed));
        assert_eq!(decode_request(&[2, 0]), Err(ControlError::Version(2)));
        assert_eq!(
            decode_request(&[1, 0, 0]),
            Err(ControlError::Malformed),
            "left-over byte"
        );
        assert_eq!(
            decode_request(&[1, 200]),
            Err(ControlError::Malformed),
            "no such request"
        );
        assert_eq!(
            decode_request(&[1, 2, 255, 255, 255, 255, 15]),
            Err(ControlError::Malformed)
        );
        assert_eq!(
            message_len([0, 1, 0, 1], MAX_REQUEST),
            Err(ControlError::TooLong(65537))
        );
        assert_eq!(
            message_len([0; 4], MAX_REQUEST),
            Err(ControlError::Malformed)
        );
    }

    #[test]
    fn oversized_messages_are_not_made() {
        let name = "x".repeat(MAX_REQUEST);
        assert!(matches!(
            encode_request(&Request::User(name)),
            Err(ControlError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode_request(&bytes);
            let _ = decode_response(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            if let Ok(request) = decode_request(&bytes) {
                let again = encode_request(&request).unwrap();
                prop_assert_eq!(decode_request(&again[4..]), Ok(request));
            }
            let _ = decode_response(&bytes);
        }
    }
}
