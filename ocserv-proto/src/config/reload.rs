//! Keys that a reload does not change (scopes G! and V!, config.md 2.6).

use super::types::{Config, VhostConfig};

/// One pass over the fixed fields of both values: names those that differ and puts the old value
/// into the new configuration.
macro_rules! keep {
    ($old:expr, $new:expr, $changed:expr; $($field:ident => $key:literal),* $(,)?) => {
        $(if $old.$field != $new.$field {
            $new.$field.clone_from(&$old.$field);
            if !$changed.contains(&$key) {
                $changed.push($key);
            }
        })*
    };
}

impl Config {
    /// Names of fixed keys that differ in `new`. A vhost that only one side has counts as no
    /// difference: it is added or removed.
    pub fn changed_fixed_keys(old: &Config, new: &Config) -> Vec<&'static str> {
        new.clone().keep_fixed_keys(old)
    }

    /// Puts the fixed values of `old` into `self`, a configuration just read again. Returns the
    /// names of keys that differed, for a warning.
    pub fn keep_fixed_keys(&mut self, old: &Config) -> Vec<&'static str> {
        let mut changed = Vec::new();
        keep!(old, self, changed;
            listen_host => "listen-host",
            udp_listen_host => "udp-listen-host",
            listen_netns => "listen-netns",
            tcp_port => "tcp-port",
            udp_port => "udp-port",
            run_as_user => "run-as-user",
            run_as_group => "run-as-group",
            chroot_dir => "chroot-dir",
            sessions_per_gate => "sessions-per-gate",
            sec_mod_scale => "sec-mod-scale",
            socket_file => "socket-file",
            occtl_socket_file => "occtl-socket-file",
            pid_file => "pid-file",
            log_level => "log-level",
            syslog_facility => "syslog-facility",
            server_stats_reset_time => "server-stats-reset-time",
            debug_no_secmod_stats => "debug-no-secmod-stats",
            try_mtu_discovery => "try-mtu-discovery",
            xdp => "xdp",
            xdp_interfaces => "xdp-interface",
            xdp_forward => "xdp-forward",
            xdp_lan_interfaces => "xdp-lan-interface",
            xdp_max_record => "xdp-max-record",
            xdp_sockets => "xdp-sockets",
        );
        for vhost in &mut self.vhosts {
            if let Some(old) = old
                .vhosts
                .iter()
                .find(|o| o.name.eq_ignore_ascii_case(&vhost.name))
            {
                keep_fixed_vhost_keys(old, vhost, &mut changed);
            }
        }
        changed
    }
}

fn keep_fixed_vhost_keys(
    old: &VhostConfig,
    new: &mut VhostConfig,
    changed: &mut Vec<&'static str>,
) {
    keep!(old, new, changed;
        auth => "auth",
        enable_auth => "enable-auth",
        acct => "acct",
        server_cert => "server-cert",
        server_key => "server-key",
        key_pin => "key-pin",
        pin_file => "pin-file",
        srk_pin => "srk-pin",
        srk_pin_file => "srk-pin-file",
        ca_cert => "ca-cert",
        dh_params => "dh-params",
    );
}
