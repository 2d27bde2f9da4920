//! The values of the main file. Field names are key names with `_` for `-`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::auth::AuthMethod;
use super::priorities::TlsPolicy;
use super::user::UserConfig;
use crate::secret::Secret;

/// A whole configuration file. Global keys (scopes G and G! of config.md §4) are fields of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Virtual hosts; index 0 is the default one, named `default`.
    pub vhosts: Vec<VhostConfig>,

    /// Address or name to listen on; `None`: every address.
    pub listen_host: Option<String>,
    /// UDP counterpart; set to `listen_host` where the file gave none.
    pub udp_listen_host: Option<String>,
    /// Network namespace of the listening sockets.
    pub listen_netns: Option<String>,
    /// TCP port; 0 where sockets are handed over and the file gave none.
    pub tcp_port: u16,
    /// UDP port; 0 turns DTLS off.
    pub udp_port: u16,
    /// Expect a PROXY header on TCP connections.
    pub listen_proxy_proto: bool,

    /// Prefix of the tun device's name.
    pub device: String,
    /// Account of unprivileged processes: name or number.
    pub run_as_user: Option<String>,
    /// Group of unprivileged processes: name or number.
    pub run_as_group: Option<String>,
    /// Sandbox the unprivileged processes.
    pub isolate_workers: bool,
    /// `RLIMIT_DATA` for unprivileged processes.
    pub limit_worker_memory: bool,
    /// Directory to chroot to.
    pub chroot_dir: Option<PathBuf>,
    /// Connections that one gate process serves; 0: one gate for each core shares them all.
    pub sessions_per_gate: u32,
    /// Number of authentication processes asked for; 0: automatic.
    pub sec_mod_scale: u32,

    /// Prefix of the internal sockets' path.
    pub socket_file: PathBuf,
    /// Open the control socket.
    pub use_occtl: bool,
    /// Path of the control socket.
    pub occtl_socket_file: PathBuf,
    /// File to write the process id to.
    pub pid_file: Option<PathBuf>,
    /// 0 to 9; `-d` wins.
    pub log_level: u8,
    /// Syslog facility word, e.g. `daemon`, `local0`.
    pub syslog_facility: String,
    /// Write login records.
    pub use_utmp: bool,
    /// Length of the "current period" of counters; `None`: never reset.
    pub server_stats_reset_time: Option<Duration>,
    /// Test switch of the reference: no statistics from secmod.
    pub debug_no_secmod_stats: bool,

    /// From accept to CONNECT.
    pub auth_timeout: Duration,
    /// Points of an address forgotten after this time without a new one.
    pub ban_reset_time: Duration,
    /// Length of a ban.
    pub ban_time: Duration,
    /// Score at which an address is banned; 0: bans off.
    pub max_ban_score: u32,
    /// Points for a failed password.
    pub ban_points_wrong_password: u32,
    /// Points for a TCP connection.
    pub ban_points_connection: u32,
    /// Points for a KKDCP request.
    pub ban_points_kkdcp: u32,
    /// Concurrent connections; 0: no limit asked for.
    pub max_clients: u32,
    /// One connection accepted per this time under load; `None`: off.
    pub rate_limit_ms: Option<Duration>,
    /// After SIGTERM keep answering this long.
    pub server_drain_ms: Duration,
    /// Interval of session-table cleaning.
    pub sec_mod_db_cleanup_time: Duration,

    /// Run at session start.
    pub connect_script: Option<PathBuf>,
    /// Run at session end.
    pub disconnect_script: Option<PathBuf>,
    /// Run when the client's host name is known.
    pub host_update_script: Option<PathBuf>,
    /// Command for each iroute when a session opens, as written.
    pub route_add_cmd: Option<String>,
    /// Command for each iroute when a session closes, as written.
    pub route_del_cmd: Option<String>,

    /// Probe an address before leasing it.
    pub ping_leases: bool,
    /// Set DF and probe the path MTU.
    pub try_mtu_discovery: bool,
    /// Allow DTLS-PSK.
    pub dtls_psk: bool,
    /// Algorithms, best first.
    pub compression_algo_priority: Vec<String>,

    /// Where the path inside the kernel begins.
    pub xdp: XdpMode,
    /// Devices that it watches; empty: those that own the listening addresses.
    pub xdp_interfaces: Vec<String>,
    /// Where it passes inner packets to.
    pub xdp_forward: XdpForward,
    /// Devices of the networks behind the gateway, for [`XdpForward::Direct`].
    pub xdp_lan_interfaces: Vec<String>,
    /// Largest record that it takes, header included, bytes; larger ones go to user space. `None`: as
    /// costs on this machine say.
    pub xdp_max_record: Option<u32>,
    /// Packets of sessions pass through user space past the host's stack, by `AF_XDP` sockets
    /// ([`XdpForward::Direct`] only, see [`Config::uses_sockets`]).
    pub xdp_sockets: bool,
}

impl Config {
    /// Whether sockets past the stack are wanted, and have their place.
    pub fn uses_sockets(&self) -> bool {
        self.xdp_sockets && self.xdp_forward == XdpForward::Direct && self.xdp != XdpMode::Off
    }
}

/// Settings of one virtual host (scopes V, V! and, in `user`, VU).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VhostConfig {
    /// Host name as canonicalised, compared case-insensitively with SNI; `default` for the first.
    pub name: String,
    /// What per-user and per-group files may change.
    pub user: UserConfig,

    /// Primary method: all must pass.
    pub auth: Vec<AuthMethod>,
    /// Alternatives: each suffices.
    pub enable_auth: Vec<AuthMethod>,
    /// Accounting.
    pub acct: Option<AuthMethod>,
    /// Offer the groups that the password module knows.
    pub auto_select_group: bool,
    /// Groups of the form.
    pub select_group: Vec<SelectGroup>,
    /// Label of the entry "no special group".
    pub default_select_group: Option<String>,
    /// The URL names the group.
    pub select_group_by_url: bool,

    /// Certificate chain files; n-th belongs to n-th key.
    pub server_cert: Vec<PathBuf>,
    /// Private key files.
    pub server_key: Vec<PathBuf>,
    /// Password of the key files.
    pub key_pin: Option<Secret>,
    /// File with the password of the key files.
    pub pin_file: Option<PathBuf>,
    /// TPM storage root key PIN.
    pub srk_pin: Option<Secret>,
    /// File with the TPM storage root key PIN.
    pub srk_pin_file: Option<PathBuf>,
    /// CAs of client certificates.
    pub ca_cert: Option<PathBuf>,
    /// Revocation list.
    pub crl: Option<PathBuf>,
    /// DER OCSP answer to staple.
    pub ocsp_response: Option<PathBuf>,
    /// Ignored: for GnuTLS before 3.6 only.
    pub dh_params: Option<PathBuf>,
    /// Where the user name is in a client certificate.
    pub cert_user_oid: Option<String>,
    /// Where group names are in a client certificate.
    pub cert_group_oid: Option<String>,
    /// GnuTLS priority string.
    pub tls_priorities: String,
    /// What [`Self::tls_priorities`] and the Cisco switches amount to.
    pub tls_policy: TlsPolicy,

    /// AnyConnect mode.
    pub cisco_client_compat: bool,
    /// Cisco IP phones.
    pub cisco_svc_client_compat: bool,
    /// Allow "master secret" DTLS negotiation.
    pub dtls_legacy: bool,
    /// DTLS cipher must equal the TLS cipher.
    pub match_tls_dtls_ciphers: bool,

    /// Message after connecting, at most 256 bytes.
    pub banner: Option<String>,
    /// Message in the login form.
    pub pre_login_banner: Option<String>,
    /// Header lines for the CONNECT answer, with `%{U}` and `%{G}`.
    pub custom_header: Vec<String>,
    /// Header lines for every HTTP answer before the tunnel, as written.
    pub included_http_headers: Vec<String>,
    /// Domains, blank separated.
    pub default_domain: Option<String>,
    /// PAC URL, with `%{U}` and `%{G}`.
    pub proxy_url: Option<String>,
    /// Announce `X-CSTP-DynDNS`.
    pub listen_host_is_dyndns: bool,
    /// Hide the server.
    pub camouflage: bool,
    /// Query that reveals the server.
    pub camouflage_secret: Option<Secret>,
    /// Realm of the pretended HTTP authentication.
    pub camouflage_realm: Option<String>,
    /// KDC proxy entries.
    pub kkdcp: Vec<Kkdcp>,

    /// Life of a cookie without a connection.
    pub cookie_timeout: Duration,
    /// Cookies survive a user's disconnect.
    pub persistent_cookies: bool,
    /// `None`: no rekey.
    pub rekey_time: Option<Duration>,
    /// How to rekey.
    pub rekey_method: RekeyMethod,
    /// No UDP for this time: send over TCP. `None`: off.
    pub switch_to_tcp_timeout: Option<Duration>,
    /// Offer compression.
    pub compression: bool,
    /// Smallest packet to compress, bytes.
    pub no_compress_limit: u32,
    /// Socket buffer in packets; 0: the system's default.
    pub output_buffer: u32,

    /// Derive the lease from the user name.
    pub predictable_ips: bool,
    /// User and group lists are added to the vhost's instead of replacing them.
    pub append_routes: bool,
    /// Announce other users' iroutes.
    pub expose_iroutes: bool,
    /// Directory of files named as groups.
    pub config_per_group: Option<PathBuf>,
    /// Directory of files named as users.
    pub config_per_user: Option<PathBuf>,
    /// Used where a group has no file.
    pub default_group_config: Option<PathBuf>,
    /// Used where a user has no file.
    pub default_user_config: Option<PathBuf>,
}

impl VhostConfig {
    /// A copy for an unprivileged process: key files, PINs, password files and per-user
    /// directories blanked. Which methods there are stays visible.
    pub fn without_secrets(&self) -> Self {
        Self {
            server_key: Vec::new(),
            key_pin: None,
            pin_file: None,
            srk_pin: None,
            srk_pin_file: None,
            auth: self.auth.iter().map(AuthMethod::without_files).collect(),
            enable_auth: self
                .enable_auth
                .iter()
                .map(AuthMethod::without_files)
                .collect(),
            acct: self.acct.as_ref().map(AuthMethod::without_files),
            config_per_group: None,
            config_per_user: None,
            default_group_config: None,
            default_user_config: None,
            ..self.clone()
        }
    }
}

/// `xdp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum XdpMode {
    /// The best that the kernel and the device allow, at worst none.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver, which works with every device.
    Generic,
    /// By TC, behind the driver too.
    Tc,
    /// Not at all: packets pass through user space.
    Off,
}

/// `xdp-forward`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum XdpForward {
    /// To the tun device, so that the host's firewall, NAT and accounting see them.
    #[default]
    Stack,
    /// From device to device, past the rules of the host.
    Direct,
}

/// `rekey-method`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RekeyMethod {
    /// The client opens a second connection.
    #[default]
    NewTunnel,
    /// In place: TLS renegotiation, or KeyUpdate.
    Ssl,
}

/// One entry of `select-group`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectGroup {
    /// Sent back by the client.
    pub name: String,
    /// Displayed; `None`: the name.
    pub label: Option<String>,
}

/// One entry of `kkdcp`: `/path REALM udp|tcp@host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kkdcp {
    /// URL path.
    pub path: String,
    /// Kerberos realm.
    pub realm: String,
    /// TCP instead of UDP.
    pub tcp: bool,
    /// Host name or address of the KDC.
    pub host: String,
    /// Port of the KDC.
    pub port: u16,
}
