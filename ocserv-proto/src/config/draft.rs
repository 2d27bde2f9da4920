//! A configuration while its file is being read: defaults, and what vhosts take over.

use std::collections::HashMap;
use std::time::Duration;

use super::auth::AuthMethod;
use super::error::Place;
use super::priorities::TlsPolicy;
use super::supplemental::SupplementalConfig;
use super::types::{Config, RekeyMethod, VhostConfig, XdpForward, XdpMode};
use super::user::UserConfig;

/// `tls-priorities` where the file gives none.
pub(super) const DEFAULT_PRIORITIES: &str = "NORMAL:%SERVER_PRECEDENCE:%COMPAT";

/// A vhost while its lines are being read.
#[derive(Clone)]
pub(super) struct VhostDraft {
    pub config: VhostConfig,
    /// The keys that per-user files share, as such a file.
    pub user: SupplementalConfig,
    pub tls_priorities_given: bool,
    pub dtls_legacy_given: bool,
    /// Where each key stood last.
    lines: HashMap<&'static str, usize>,
}

impl VhostDraft {
    /// The default vhost before the first line.
    pub(super) fn first() -> Self {
        Self {
            config: default_vhost(),
            user: SupplementalConfig::default(),
            tls_priorities_given: false,
            dtls_legacy_given: false,
            lines: HashMap::new(),
        }
    }

    /// A vhost at its first section: the default vhost's settings so far, but not those that are
    /// fixed at start (config.md 2.2).
    pub(super) fn inherit(&self, name: String) -> Self {
        let mut draft = self.clone();
        let blank = default_vhost();
        let config = &mut draft.config;
        config.name = name;
        config.auth = blank.auth;
        config.enable_auth = blank.enable_auth;
        config.acct = blank.acct;
        config.server_cert = blank.server_cert;
        config.server_key = blank.server_key;
        config.key_pin = blank.key_pin;
        config.pin_file = blank.pin_file;
        config.srk_pin = blank.srk_pin;
        config.srk_pin_file = blank.srk_pin_file;
        config.ca_cert = blank.ca_cert;
        config.dh_params = blank.dh_params;
        draft
    }

    /// After the last line: takes from the default vhost what is fixed at start and was not given
    /// here. A RADIUS server's group settings are not taken over (config.md 2.2).
    pub(super) fn complete_from(&mut self, default: &VhostConfig) {
        let config = &mut self.config;
        if config.auth.is_empty() {
            config.auth = default.auth.iter().map(without_groupconfig).collect();
        }
        if config.enable_auth.is_empty() {
            config.enable_auth = default
                .enable_auth
                .iter()
                .map(without_groupconfig)
                .collect();
        }
        if config.acct.is_none() {
            config.acct = default.acct.as_ref().map(without_groupconfig);
        }
        if config.server_cert.is_empty() && config.server_key.is_empty() {
            config.server_cert.clone_from(&default.server_cert);
            config.server_key.clone_from(&default.server_key);
        }
        take_over(&mut config.key_pin, &default.key_pin);
        take_over(&mut config.pin_file, &default.pin_file);
        take_over(&mut config.srk_pin, &default.srk_pin);
        take_over(&mut config.srk_pin_file, &default.srk_pin_file);
        take_over(&mut config.ca_cert, &default.ca_cert);
        take_over(&mut config.dh_params, &default.dh_params);
    }

    /// The shared keys as settings: what a user without files has.
    pub(super) fn settle_user(&mut self) {
        let mut user = UserConfig::default();
        let file = &self.user;
        file.apply_single_values(&mut user);
        user.no_route.clone_from(&file.no_route);
        user.split_dns.clone_from(&file.split_dns);
        user.dns.clone_from(&file.dns);
        user.nbns.clone_from(&file.nbns);
        if !file.default_route {
            user.route.clone_from(&file.route);
        }
        self.config.user = user;
    }

    pub(super) fn remember(&mut self, key: &'static str, line: usize) {
        self.lines.insert(key, line);
    }

    /// Where the first of `keys` that was given stands.
    pub(super) fn place(&self, source: &str, keys: &[&str]) -> Place {
        let line = keys.iter().find_map(|key| self.lines.get(key)).copied();
        Place {
            source: source.to_owned(),
            line,
        }
    }

    /// Name in messages about methods.
    pub(super) fn label(&self) -> String {
        format!("vhost:{}", self.config.name)
    }

    /// Prefix of other messages: none for the default vhost.
    pub(super) fn prefix(&self) -> String {
        match self.config.name.as_str() {
            "default" => String::new(),
            name => format!("vhost:{name}: "),
        }
    }
}

fn take_over<T: Clone>(own: &mut Option<T>, default: &Option<T>) {
    if own.is_none() {
        own.clone_from(default);
    }
}

fn without_groupconfig(method: &AuthMethod) -> AuthMethod {
    let mut method = method.clone();
    if let AuthMethod::Radius { groupconfig, .. } = &mut method {
        *groupconfig = false;
    }
    method
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn default_vhost() -> VhostConfig {
    VhostConfig {
        name: "default".to_owned(),
        user: UserConfig::default(),
        auth: Vec::new(),
        enable_auth: Vec::new(),
        acct: None,
        auto_select_group: false,
        select_group: Vec::new(),
        default_select_group: None,
        select_group_by_url: false,
        server_cert: Vec::new(),
        server_key: Vec::new(),
        key_pin: None,
        pin_file: None,
        srk_pin: None,
        srk_pin_file: None,
        ca_cert: None,
        crl: None,
        ocsp_response: None,
        dh_params: None,
        cert_user_oid: None,
        cert_group_oid: None,
        tls_priorities: DEFAULT_PRIORITIES.to_owned(),
        tls_policy: TlsPolicy::default(),
        cisco_client_compat: false,
        cisco_svc_client_compat: false,
        dtls_legacy: true,
        match_tls_dtls_ciphers: false,
        banner: None,
        pre_login_banner: None,
        custom_header: Vec::new(),
        included_http_headers: Vec::new(),
        default_domain: None,
        proxy_url: None,
        listen_host_is_dyndns: false,
        camouflage: false,
        camouflage_secret: None,
        camouflage_realm: None,
        kkdcp: Vec::new(),
        cookie_timeout: seconds(300),
        persistent_cookies: false,
        rekey_time: Some(seconds(172_800)),
        rekey_method: RekeyMethod::NewTunnel,
        switch_to_tcp_timeout: Some(seconds(25)),
        compression: false,
        no_compress_limit: 256,
        output_buffer: 0,
        predictable_ips: true,
        append_routes: false,
        expose_iroutes: false,
        config_per_group: None,
        config_per_user: None,
        default_group_config: None,
        default_user_config: None,
    }
}

/// Global settings before the first line (config.md §4).
pub(super) fn default_config() -> Config {
    Config {
        vhosts: Vec::new(),
        listen_host: None,
        udp_listen_host: None,
        listen_netns: None,
        tcp_port: 0,
        udp_port: 0,
        listen_proxy_proto: false,
        device: String::new(),
        run_as_user: None,
        run_as_group: None,
        isolate_workers: false,
        limit_worker_memory: true,
        chroot_dir: None,
        sessions_per_gate: 0,
        sec_mod_scale: 0,
        socket_file: Default::default(),
        use_occtl: false,
        occtl_socket_file: "/var/run/occtl.socket".into(),
        pid_file: None,
        log_level: 2,
        syslog_facility: "daemon".to_owned(),
        use_utmp: true,
        server_stats_reset_time: Some(seconds(604_800)),
        debug_no_secmod_stats: false,
        auth_timeout: seconds(240),
        ban_reset_time: seconds(1200),
        ban_time: seconds(300),
        max_ban_score: 80,
        ban_points_wrong_password: 10,
        ban_points_connection: 1,
        ban_points_kkdcp: 1,
        max_clients: 0,
        rate_limit_ms: None,
        server_drain_ms: Duration::ZERO,
        sec_mod_db_cleanup_time: seconds(310),
        connect_script: None,
        disconnect_script: None,
        host_update_script: None,
        route_add_cmd: None,
        route_del_cmd: None,
        ping_leases: false,
        try_mtu_discovery: false,
        dtls_psk: true,
        compression_algo_priority: Vec::new(),
        xdp: XdpMode::Auto,
        xdp_interfaces: Vec::new(),
        xdp_forward: XdpForward::Stack,
        xdp_lan_interfaces: Vec::new(),
        xdp_max_record: None,
        xdp_sockets: false,
    }
}
