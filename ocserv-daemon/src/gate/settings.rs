//! The configuration in the form that connections use.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ocserv_proto::config::VhostConfig;
use ocserv_proto::login::{Group, LoginSettings, Profile};
use sha1::{Digest, Sha1};

use super::tls::{Certificates, SignPool, VhostTls, server_config};
use crate::ipc::gate::{GateSetup, GateVhost};

/// What a connection keeps from accept to its end.
pub struct Settings {
    vhosts: Vec<Vhost>,
    /// UDP port to announce; 0 turns DTLS off.
    pub udp_port: u16,
    /// From accept to CONNECT.
    pub auth_timeout: Duration,
    /// `dtls-psk`.
    pub dtls_psk: bool,
    /// The kernel path is on.
    pub kernel_path: bool,
    /// Most connections at once.
    pub max_connections: usize,
}

/// One virtual host.
pub struct Vhost {
    /// Certificates and policy.
    pub tls: VhostTls,
    /// What its forms say.
    pub login: Arc<LoginSettings>,
    /// The rest.
    pub config: VhostConfig,
}

impl Settings {
    /// Prepares what the supervisor sent.
    ///
    /// # Errors
    /// When there is no vhost, or one whose policy leaves no cipher.
    pub fn new(setup: GateSetup, pool: &Arc<SignPool>) -> anyhow::Result<Self> {
        let vhosts: Vec<Vhost> = setup
            .vhosts
            .into_iter()
            .zip(0..)
            .map(|(vhost, index)| prepare(vhost, index, pool))
            .collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(!vhosts.is_empty(), "configuration without a vhost");
        Ok(Self {
            vhosts,
            udp_port: setup.udp_port,
            auth_timeout: setup.auth_timeout,
            dtls_psk: setup.dtls_psk,
            kernel_path: setup.kernel_path,
            max_connections: usize::try_from(setup.max_connections).unwrap_or(usize::MAX),
        })
    }

    /// The vhost of this SNI; the default one for none or an unknown one (protocol.md 1.3).
    pub fn by_name(&self, name: Option<&str>) -> &Vhost {
        let named = name.and_then(|name| {
            self.vhosts
                .iter()
                .skip(1)
                .find(|vhost| vhost.config.name.eq_ignore_ascii_case(name))
        });
        // There is a first one: see `new`.
        named.unwrap_or(&self.vhosts[0])
    }

    /// The vhost of this index.
    pub fn by_index(&self, index: u32) -> &Vhost {
        let index = usize::try_from(index).unwrap_or(0);
        self.vhosts.get(index).unwrap_or(&self.vhosts[0])
    }
}

fn prepare(vhost: GateVhost, index: u32, pool: &Arc<SignPool>) -> anyhow::Result<Vhost> {
    let policy = &vhost.config.tls_policy;
    let ocsp = vhost.ocsp.as_deref();
    let certificates = Arc::new(Certificates::new(
        index,
        &vhost.keys,
        &policy.signatures,
        ocsp,
        pool,
    ));
    let template = server_config(policy, Arc::clone(&certificates))
        .with_context(|| format!("tls-priorities of vhost {}", vhost.config.name))?;
    Ok(Vhost {
        login: Arc::new(login_settings(&vhost)),
        tls: VhostTls {
            index,
            template,
            certificates,
        },
        config: vhost.config,
    })
}

fn login_settings(vhost: &GateVhost) -> LoginSettings {
    let config = &vhost.config;
    let certificate = vhost.keys.first().and_then(|key| key.chain.first());
    LoginSettings {
        groups: groups(vhost),
        default_select_group: config.default_select_group.clone(),
        select_group_by_url: config.select_group_by_url || config.cisco_client_compat,
        banner: config.banner.clone(),
        pre_login_banner: config.pre_login_banner.clone(),
        cookie_timeout_secs: config.cookie_timeout.as_secs(),
        cert_sha1_hex: certificate.map(|der| sha1_hex(der)).unwrap_or_default(),
        profile: vhost.profile.as_ref().map(|profile| Profile {
            file_name: profile.file_name.clone(),
            sha1_hex: sha1_hex(&profile.content),
            content: profile.content.clone(),
        }),
        included_http_headers: config.included_http_headers.clone(),
    }
}

/// `select-group` in file order, then what `auto-select-group` found beside it.
fn groups(vhost: &GateVhost) -> Vec<Group> {
    let mut groups: Vec<Group> = vhost
        .config
        .select_group
        .iter()
        .map(|group| Group {
            name: group.name.clone(),
            label: group.label.clone(),
        })
        .collect();
    for name in &vhost.auto_groups {
        if !groups.iter().any(|group| group.name == *name) {
            groups.push(Group {
                name: name.clone(),
                label: None,
            });
        }
    }
    groups
}

fn sha1_hex(bytes: &[u8]) -> String {
    hex::encode_upper(Sha1::digest(bytes))
}
