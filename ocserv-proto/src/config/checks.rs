//! Checks that end the start, and values derived from others (config.md §8).
//!
//! What needs the system is left to the daemon: [`Config::files_to_check`], accounts, host names.

use super::auth::AuthMethod;
use super::draft::{DEFAULT_PRIORITIES, VhostDraft};
use super::error::{ConfigError, Message};
use super::priorities;
use super::read::Environment;
use super::types::{Config, VhostConfig, XdpForward, XdpMode};
use super::value::Read;

/// Smallest `no-compress-limit`.
const MIN_COMPRESS: u32 = 64;

pub(super) fn derive_global(config: &mut Config) {
    if config.udp_listen_host.is_none() {
        config.udp_listen_host.clone_from(&config.listen_host);
    }
}

pub(super) fn check_global(
    config: &Config,
    default: &VhostDraft,
    source: &str,
    environment: Environment,
) -> Read<()> {
    let missing = |key: &str, example: &str| {
        let message = format!("error: the '{key}' configuration option must be specified!");
        Err(ConfigError::new(
            default.place(source, &[key]),
            message,
            format!("add '{example}'"),
        ))
    };
    if config.socket_file.as_os_str().is_empty() {
        return missing("socket-file", "socket-file = /run/ocserv.socket");
    }
    if config.tcp_port == 0 && !environment.sockets_given {
        return Err(ConfigError::new(
            default.place(source, &["tcp-port"]),
            "error: the tcp-port option is mandatory!",
            "add 'tcp-port = 443'",
        ));
    }
    if config.device.is_empty() {
        return missing("device", "device = vpns");
    }
    if config.xdp == XdpMode::Tc && config.xdp_forward == XdpForward::Direct {
        return Err(ConfigError::new(
            default.place(source, &["xdp"]),
            "error: 'xdp = tc' has no 'xdp-forward = direct'",
            "use 'xdp = native' or 'xdp = generic', or 'xdp-forward = stack'",
        ));
    }
    Ok(())
}

/// Keys without effect because of others.
pub(super) fn idle_keys(config: &Config, default: &VhostDraft, source: &str) -> Vec<Message> {
    let is_direct = config.xdp_forward == XdpForward::Direct;
    let needs_direct = "has a meaning only with 'xdp-forward = direct'";
    let is_off = config.xdp == XdpMode::Off;
    let needs_xdp = "has no meaning with 'xdp = off'";
    let idle = [
        (
            "xdp-interface",
            !config.xdp_interfaces.is_empty() && is_off,
            needs_xdp,
        ),
        ("xdp-forward", is_direct && is_off, needs_xdp),
        (
            "xdp-forward",
            is_direct && !is_off && config.xdp_lan_interfaces.is_empty(),
            "forwards by no device: name those of the LAN with 'xdp-lan-interface'",
        ),
        (
            "xdp-lan-interface",
            !config.xdp_lan_interfaces.is_empty() && !is_direct,
            needs_direct,
        ),
        (
            "xdp-sockets",
            config.xdp_sockets && !is_direct,
            needs_direct,
        ),
        (
            "xdp-max-record",
            config.xdp_max_record.is_some() && config.uses_sockets(),
            "has no meaning with 'xdp-sockets = true', which takes records of every length",
        ),
    ];
    let warning = |(key, _, why)| {
        let place = default.place(source, &[key]);
        Message::warning(format!("{place}: '{key}': {why}"))
    };
    let idle = idle.into_iter().filter(|(_, is_idle, _)| *is_idle);
    idle.map(warning).collect()
}

/// One vhost, with its draft for the places of its keys.
struct Check<'a> {
    draft: &'a VhostDraft,
    config: &'a VhostConfig,
    source: &'a str,
}

impl Check<'_> {
    fn refuse(
        &self,
        keys: &[&str],
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Read<()> {
        Err(ConfigError::new(
            self.draft.place(self.source, keys),
            message,
            remedy,
        ))
    }
}

/// Methods of a vhost: combination, and what this version can do.
pub(super) fn check_methods(
    draft: &VhostDraft,
    source: &str,
    messages: &mut Vec<Message>,
) -> Read<()> {
    let check = Check {
        draft,
        config: &draft.config,
        source,
    };
    let (config, label, prefix) = (check.config, draft.label(), draft.prefix());
    if config.auth.is_empty() {
        let message = format!("error: {prefix}the 'auth' configuration option was not specified!");
        return check.refuse(
            &[],
            message,
            "add 'auth = \"plain[passwd=/etc/ocserv/ocpasswd]\"'",
        );
    }
    let names: Vec<&str> = config.auth.iter().map(AuthMethod::name).collect();
    let text = format!(
        "{label}: setting '{}' as primary authentication method",
        names.join("+")
    );
    messages.push(Message::note(text));
    let all = || config.auth.iter().chain(&config.enable_auth);
    for method in &config.enable_auth {
        let text = format!(
            "{label}: enabling '{}' as authentication method",
            method.name()
        );
        messages.push(Message::note(text));
    }
    if all().filter(|method| method.asks_password()).count() > 1 {
        let message =
            format!("error: {label}: you cannot mix multiple password authentication methods");
        return check.refuse(&["enable-auth", "auth"], message, "keep one of them");
    }
    check_certificate(&check)?;
    note_accounting(&check, messages);
    check_supplemental(&check, messages)?;
    all().try_for_each(|method| check_built(&check, method))
}

fn check_certificate(check: &Check<'_>) -> Read<()> {
    let config = check.config;
    let prefix = check.draft.prefix();
    if !config
        .auth
        .iter()
        .chain(&config.enable_auth)
        .any(|m| *m == AuthMethod::Certificate)
    {
        return Ok(());
    }
    let remedy = "add e.g. 'cert-user-oid = 0.9.2342.19200300.100.1.1'";
    match config.cert_user_oid.as_deref() {
        None => check.refuse(
            &["enable-auth", "auth"],
            format!(
                "error: {prefix}a certificate is requested by the option 'cert-user-oid' is not set"
            ),
            remedy,
        ),
        Some(oid) if !oid.starts_with(|c: char| c.is_ascii_digit()) && oid != "SAN(rfc822name)" => {
            let message =
                format!("error: {prefix}the option 'cert-user-oid' has a unsupported value");
            check.refuse(&["cert-user-oid"], message, remedy)
        }
        Some(_) => Ok(()),
    }
}

fn note_accounting(check: &Check<'_>, messages: &mut Vec<Message>) {
    if let Some(acct) = &check.config.acct {
        let (name, prefix) = (acct.name(), check.draft.prefix());
        messages.push(Message::note(format!(
            "{prefix}setting '{name}' as accounting method"
        )));
    }
}

fn check_supplemental(check: &Check<'_>, messages: &mut Vec<Message>) -> Read<()> {
    let config = check.config;
    let prefix = check.draft.prefix();
    let from_radius = config.auth.iter().chain(&config.enable_auth).any(|m| {
        matches!(
            m,
            AuthMethod::Radius {
                groupconfig: true,
                ..
            }
        )
    });
    if from_radius && (config.config_per_user.is_some() || config.config_per_group.is_some()) {
        let message = format!(
            "error: {prefix}specified config-per-user or config-per-group but supplemental config is 'radius'"
        );
        let keys = ["config-per-user", "config-per-group"];
        return check.refuse(&keys, message, "remove them, or 'groupconfig=true'");
    }
    let kind = if from_radius { "radius" } else { "file" };
    messages.push(Message::note(format!(
        "{prefix}setting '{kind}' as supplemental config option"
    )));
    Ok(())
}

/// A login way that is not built must not be missing silently.
fn check_built(check: &Check<'_>, method: &AuthMethod) -> Read<()> {
    let label = check.draft.label();
    match method {
        AuthMethod::Plain { otp: None, .. } => Ok(()),
        AuthMethod::Plain { otp: Some(_), .. } => check.refuse(
            &["auth", "enable-auth"],
            format!("error: {label}: the 'otp' option of 'plain' is not supported by this version"),
            "remove 'otp=...'",
        ),
        other => {
            let name = other.name();
            let key = if check.config.auth.contains(other) {
                "auth"
            } else {
                "enable-auth"
            };
            check.refuse(
                &[key],
                format!("error: {label}: unknown or unsupported auth method: {name}"),
                format!("this version authenticates with 'plain' only; '{name}' comes later"),
            )
        }
    }
}

/// All but the methods; fills in derived values.
pub(super) fn check_vhost(
    global: &Config,
    draft: &mut VhostDraft,
    source: &str,
    messages: &mut Vec<Message>,
) -> Read<()> {
    derive_vhost(draft, messages);
    let policy = tls_policy(global, draft, source, messages)?;
    draft.config.tls_policy = policy;
    let check = Check {
        draft,
        config: &draft.config,
        source,
    };
    check_keys(&check)?;
    check_networks(&check)?;
    check_dtls(&check, global)
}

fn derive_vhost(draft: &mut VhostDraft, messages: &mut Vec<Message>) {
    let prefix = draft.prefix();
    let config = &mut draft.config;
    config.no_compress_limit = config.no_compress_limit.max(MIN_COMPRESS);
    for (on, key) in [
        (config.cisco_client_compat, "cisco-client-compat"),
        (config.cisco_svc_client_compat, "cisco-svc-client-compat"),
    ] {
        if on && !config.dtls_legacy {
            config.dtls_legacy = true;
            let text = format!("{prefix}the {key} option implies dtls-legacy = true; enabling");
            messages.push(Message::note(text));
        }
    }
    config.select_group_by_url |= config.cisco_client_compat;
}

fn tls_policy(
    global: &Config,
    draft: &mut VhostDraft,
    source: &str,
    messages: &mut Vec<Message>,
) -> Read<priorities::TlsPolicy> {
    let config = &mut draft.config;
    if !draft.tls_priorities_given {
        config.tls_priorities = match config.cisco_client_compat {
            true => format!("{DEFAULT_PRIORITIES}:-VERS-TLS1.3"),
            false => DEFAULT_PRIORITIES.to_owned(),
        };
    }
    let string = &draft.config.tls_priorities;
    let parsed = priorities::parse(string).map_err(|why| {
        let message = format!("error: {}tls-priorities: {why}", draft.prefix());
        ConfigError::new(
            draft.place(source, &["tls-priorities"]),
            message,
            why.remedy(),
        )
    })?;
    let prefix = draft.prefix();
    for text in parsed.warnings {
        messages.push(Message::warning(format!("{prefix}tls-priorities: {text}")));
    }
    if parsed.policy.dtls_ciphers.is_empty() && global.udp_port != 0 {
        let text = format!("{prefix}tls-priorities: no cipher for DTLS is left; only TLS is used");
        messages.push(Message::warning(text));
    }
    Ok(parsed.policy)
}

fn check_keys(check: &Check<'_>) -> Read<()> {
    let (config, prefix) = (check.config, check.draft.prefix());
    let keys = ["server-key", "server-cert"];
    if config.server_cert.is_empty() && config.server_key.is_empty() {
        let message = format!(
            "error: {prefix}the 'server-cert' and 'server-key' configuration options must be specified!"
        );
        return check.refuse(&keys, message, "add both, as PEM files");
    }
    if config.server_cert.len() != config.server_key.len() {
        let message =
            format!("error: {prefix}the specified number of keys doesn't match the certificates");
        return check.refuse(&keys, message, "give each 'server-cert' its 'server-key'");
    }
    Ok(())
}

fn check_networks(check: &Check<'_>) -> Read<()> {
    let (file, prefix) = (&check.draft.user, check.draft.prefix());
    if file.ipv4_network.is_none() && file.ipv6_network.is_none() {
        let message = format!("error: {prefix}no ipv4-network or ipv6-network options set.");
        return check.refuse(&[], message, "add e.g. 'ipv4-network = 192.168.1.0/24'");
    }
    if file.ipv4_network.is_some() && file.ipv4_prefix.is_none() {
        let message = format!("error: {prefix}no mask found for IPv4 network.");
        return check.refuse(
            &["ipv4-network"],
            message,
            "write address/prefix or 'ipv4-netmask'",
        );
    }
    if file.ipv6_network.is_none() {
        return Ok(());
    }
    let Some(network) = file.ipv6_prefix else {
        let message = format!("error: {prefix}no prefix found for IPv6 network.");
        return check.refuse(&["ipv6-network"], message, "write address/prefix");
    };
    let subnet = check.config.user.ipv6_subnet_prefix;
    if subnet <= network {
        let message = format!(
            "error: {prefix}the subnet prefix ({subnet}) cannot be smaller or equal to network's ({network})"
        );
        let keys = ["ipv6-subnet-prefix", "ipv6-network"];
        return check.refuse(&keys, message, "make 'ipv6-subnet-prefix' longer");
    }
    Ok(())
}

fn check_dtls(check: &Check<'_>, global: &Config) -> Read<()> {
    let (config, prefix) = (check.config, check.draft.prefix());
    if config.match_tls_dtls_ciphers && (config.dtls_legacy || config.cisco_client_compat) {
        let message = format!(
            "error: {prefix}'match-tls-dtls-ciphers' cannot be applied when 'dtls-legacy' or 'cisco-client-compat' is on"
        );
        return check.refuse(
            &["match-tls-dtls-ciphers"],
            message,
            "add 'dtls-legacy = false'",
        );
    }
    if config.cisco_svc_client_compat && !matches!(global.udp_port, 0 | 443) {
        let message = format!("error: {prefix}'cisco-svc-client-compat' needs udp-port 0 or 443");
        return check.refuse(&["cisco-svc-client-compat"], message, "change 'udp-port'");
    }
    Ok(())
}
