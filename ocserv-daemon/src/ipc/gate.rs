//! Messages between the supervisor and a gate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use ocserv_proto::config::{Route, UserConfig, VhostConfig};
use ocserv_proto::dtls::ChannelKeys;
use ocserv_proto::secret::Secret;
use serde::{Deserialize, Serialize};

use super::ids::{ConnId, ConnTicket, SessionName, Slot};
use super::secmod::KeyInfo;

/// Longest text of a client, in bytes.
const MAX_TEXT: usize = 63;

/// Supervisor → gate.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToGate {
    /// First message, and again at each reload. One descriptor: a sealed memfd with a [`GateSetup`].
    /// Connections that are open keep the settings that they began with.
    Configure,
    /// The channel to secmod was made (again). Descriptors: the question channel, then the signing
    /// channels.
    Secmod,
    /// The packet link to the dataplane was made (again). One descriptor.
    Dataplane,
    /// Serve this connection. One descriptor: the accepted TCP socket, non-blocking.
    Connection {
        /// To be shown to secmod with every question.
        ticket: ConnTicket,
    },
    /// Answer to [`FromGate::OpenTunnel`].
    Tunnel {
        /// For which connection.
        conn: ConnId,
        /// The tunnel's settings, or the refusal.
        result: Result<Box<TunnelGrant>, TunnelRefused>,
    },
    /// Answer to [`FromGate::InstallKeys`]: dataplane has the keys, the last flight may go out.
    KeysInstalled {
        /// For which connection.
        conn: ConnId,
    },
    /// End this connection; a tunnel gets a CSTP DISCONNECT first.
    Disconnect {
        /// Which one.
        conn: ConnId,
        /// Why (not shown to the client, except by the frame itself).
        reason: EndReason,
    },
    /// End all connections with DISCONNECT, then exit.
    Stop,
}

/// Gate → supervisor. All of it is hostile input to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromGate {
    /// Sandboxed, configured, ready for connections.
    Ready,
    /// The client sent CONNECT with a cookie.
    OpenTunnel {
        /// On this connection.
        conn: ConnId,
        /// What it told.
        request: Box<TunnelRequest>,
    },
    /// The tunnel's final parameters, for occtl; sent after the CONNECT answer.
    TunnelUp {
        /// On this connection.
        conn: ConnId,
        /// Inner MTU.
        mtu: u16,
        /// TLS session in occtl's form, e.g. `(TLS1.3)-(ECDHE-X25519)-(RSA-PSS-RSAE-SHA256)-(AES-256-GCM)`.
        tls_cipher: String,
    },
    /// A DTLS handshake is about to complete: give these keys to the dataplane.
    InstallKeys {
        /// On this connection.
        conn: ConnId,
        /// The key block and where the record layer starts.
        keys: Box<ChannelKeys>,
        /// The flow that the handshake came on: client address, then local address.
        peer: SocketAddr,
        /// Local address that the client sent to.
        local: SocketAddr,
        /// In occtl's form, e.g. `(DTLS1.2)-(PSK)-(AES-256-GCM)`.
        cipher: String,
    },
    /// The connection ended (always the last word on it).
    Closed {
        /// Which one.
        conn: ConnId,
        /// Why.
        reason: EndReason,
    },
}

/// Why a connection or session ended: the reason words of cli.md §4.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// TCP closed, TLS error, or anything else: the cookie stays good.
    Unspecified,
    /// The client said it leaves (DISCONNECT 0xb0).
    UserDisconnect,
    /// The client will be back (DISCONNECT 0x91 or empty).
    TemporaryDisconnect,
    /// occtl or shutdown.
    ServerDisconnect,
    /// `idle-timeout`.
    IdleTimeout,
    /// The peer is silent.
    DpdTimeout,
    /// Protocol error.
    Error,
    /// `session-timeout`.
    SessionTimeout,
    /// Closed without a byte.
    HealthProbe,
    /// The same cookie opened a new tunnel elsewhere.
    Replaced,
}

impl TunnelRequest {
    /// Cuts the client's texts to what a well-behaved gate passes on (behaviour.md §16), and takes
    /// control characters out of them.
    pub fn trim(&mut self) {
        let texts = [
            &mut self.user_agent,
            &mut self.device_type,
            &mut self.device_platform,
        ];
        for text in texts.into_iter().chain(self.hostname.as_mut()) {
            if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                *text = text
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(MAX_TEXT / 4)
                    .collect();
            }
        }
    }
}

impl EndReason {
    /// The reason as far as a gate may decide it: the others are the supervisor's own.
    pub fn by_client(self) -> Self {
        match self {
            Self::ServerDisconnect | Self::IdleTimeout | Self::SessionTimeout | Self::Replaced => {
                Self::Unspecified
            }
            other => other,
        }
    }

    /// The words that logs and `occtl show events` print.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unspecified | Self::Replaced => "unspecified",
            Self::UserDisconnect => "user disconnected",
            Self::TemporaryDisconnect => "anyconnect client disconnected",
            Self::ServerDisconnect => "server disconnected",
            Self::IdleTimeout => "idle timeout",
            Self::DpdTimeout => "DPD timeout",
            Self::Error => "unspecified error",
            Self::SessionTimeout => "session timeout",
            Self::HealthProbe => "TCP health probe",
        }
    }
}

/// A gate's configuration; travels in a memfd. It holds no private key and no password.
#[derive(Debug, Serialize, Deserialize)]
pub struct GateSetup {
    /// Counts up at each reload.
    pub generation: u64,
    /// Virtual hosts; index 0 is the default one.
    pub vhosts: Vec<GateVhost>,
    /// UDP port to announce; 0 turns DTLS off.
    pub udp_port: u16,
    /// Time from accept to CONNECT.
    pub auth_timeout: Duration,
    /// `try-mtu-discovery`.
    pub try_mtu_discovery: bool,
    /// `dtls-psk`.
    pub dtls_psk: bool,
    /// The kernel path is on: it takes one cipher only.
    pub kernel_path: bool,
    /// Largest `-d`/`log-level` wanted.
    pub log_level: u8,
    /// Most connections that this gate may hold at once.
    pub max_connections: u32,
}

/// One virtual host as a gate sees it.
#[derive(Debug, Serialize, Deserialize)]
pub struct GateVhost {
    /// The vhost's settings with key file names, PINs and password files blanked out.
    pub config: VhostConfig,
    /// Certificates, and what their keys can sign.
    pub keys: Vec<KeyInfo>,
    /// OCSP answer to staple, DER.
    pub ocsp: Option<Vec<u8>>,
    /// The AnyConnect profile.
    pub profile: Option<Profile>,
    /// Names for the form from `auto-select-group`.
    pub auto_groups: Vec<String>,
}

/// The configured `user-profile` file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// Its name without directories.
    pub file_name: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// What the client told in CONNECT, as far as the supervisor needs it.
#[derive(Debug, Serialize, Deserialize)]
pub struct TunnelRequest {
    /// 32 bytes of the `webvpn` cookie.
    pub cookie: Secret,
    /// `X-CSTP-Hostname`, validated.
    pub hostname: Option<String>,
    /// `User-Agent`, at most 63 bytes.
    pub user_agent: String,
    /// `X-AnyConnect-Identifier-DeviceType`, at most 63 bytes.
    pub device_type: String,
    /// `X-AnyConnect-Identifier-Platform`, at most 63 bytes.
    pub device_platform: String,
    /// The client can take an IPv4 address.
    pub wants_ipv4: bool,
    /// The client can take an IPv6 address.
    pub wants_ipv6: bool,
    /// Vhost index of the TLS connection; must be the session's.
    pub vhost: u32,
}

/// Why a tunnel was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelRefused {
    /// `401 Cookie is not acceptable`.
    Cookie,
    /// `503`, `X-Reason: Server configuration error` (no addresses).
    NoAddress,
    /// `503`.
    Internal,
}

/// What the supervisor grants.
#[derive(Debug, Serialize, Deserialize)]
pub struct TunnelGrant {
    /// Index of the session's counters; first word of every packet on the dataplane link.
    pub slot: Slot,
    /// Public name, for the log.
    pub name: SessionName,
    /// User name (for `%{U}`).
    pub username: String,
    /// Group name or empty (for `%{G}`).
    pub groupname: String,
    /// IPv4 lease and the netmask to announce.
    pub ipv4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// IPv6 lease and prefix length to announce.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Effective settings of this user.
    pub settings: UserConfig,
    /// iroutes of others (`expose-iroutes`), to be announced too.
    pub extra_routes: Vec<Route>,
    /// 32 bytes for `X-DTLS-App-ID`, fresh for each CONNECT.
    pub app_id: [u8; 32],
    /// Server's tun MTU (upper bound).
    pub tun_mtu: u16,
    /// Time of login, for `X-CSTP-Session-Timeout-Remaining`.
    pub authenticated: SystemTime,
    /// `X-CSTP-Hostname` to echo.
    pub hostname: Option<String>,
    /// Server's address inside the tunnel.
    pub server_ips: Vec<IpAddr>,
}
