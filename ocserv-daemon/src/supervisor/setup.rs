//! The configuration as the gates get it: certificates and files, no key and no password.

use std::sync::Arc;

use ocserv_proto::config::{Config, Route, VhostConfig, supplemental};

use super::Supervisor;
use crate::ipc::gate::{GateSetup, GateVhost, Profile};
use crate::ipc::secmod::KeyInfo;
use crate::role::{Confinement, Role, RoleArguments};

/// What secmod found while it took a configuration over, by vhost index.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// `auto-select-group`.
    pub auto_groups: Vec<Vec<String>>,
    /// Certificates and what their keys sign.
    pub keys: Vec<Vec<KeyInfo>>,
}

/// Files that the supervisor reads for the gates, once for each configuration.
#[derive(Clone, Debug, Default)]
pub struct VhostFiles {
    ocsp: Option<Vec<u8>>,
    profile: Option<Profile>,
    /// iroutes of the users' files, where `expose-iroutes` wants them.
    pub iroutes: Vec<(String, Vec<Route>)>,
}

impl VhostFiles {
    /// Reads `ocsp-response` and `user-profile`.
    ///
    /// # Errors
    /// Names the key and the file that cannot be read.
    pub fn read(vhost: &VhostConfig) -> anyhow::Result<Self> {
        let read = |key: &str, path: &std::path::Path| {
            std::fs::read(path).map_err(|error| {
                anyhow::anyhow!(
                    "vhost:{}: {key}: cannot read '{}': {error}",
                    vhost.name,
                    path.display()
                )
            })
        };
        let ocsp = match &vhost.ocsp_response {
            Some(path) => Some(read("ocsp-response", path)?),
            None => None,
        };
        let profile = match &vhost.user.user_profile {
            Some(path) => Some(Profile {
                file_name: path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                content: read("user-profile", path)?,
            }),
            None => None,
        };
        let iroutes = if vhost.expose_iroutes {
            scan_iroutes(vhost)
        } else {
            Vec::new()
        };
        Ok(Self {
            ocsp,
            profile,
            iroutes,
        })
    }

    /// [`VhostFiles::read`] for every vhost.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn read_all(config: &Config) -> anyhow::Result<Vec<Self>> {
        config.vhosts.iter().map(Self::read).collect()
    }
}

/// The iroutes of all users' files; a file that cannot be used is left to its user's login.
fn scan_iroutes(vhost: &VhostConfig) -> Vec<(String, Vec<Route>)> {
    let Some(entries) = vhost
        .config_per_user
        .as_ref()
        .and_then(|dir| std::fs::read_dir(dir).ok())
    else {
        return Vec::new();
    };
    let one = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry
            .ok()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))?;
        let name = entry.file_name().into_string().ok()?;
        let text = std::fs::read(entry.path()).ok()?;
        let (parsed, _) = supplemental::parse(&entry.path().to_string_lossy(), &text).ok()?;
        (!parsed.iroute.is_empty()).then_some((name, parsed.iroute))
    };
    entries.filter_map(one).collect()
}

/// Bytes of data beyond the start that the reference allows a worker (behaviour.md 1.4).
const WORKER_MEMORY: u64 = 64 << 20;
/// The same for each connection of a shared gate: TLS buffers, a request, packets that wait.
const CONNECTION_MEMORY: u64 = 512 << 10;

impl Supervisor {
    /// The gates' view of the configuration in force.
    pub fn gate_setup(&self) -> GateSetup {
        let vhosts = self.config.vhosts.iter().enumerate().map(|(index, vhost)| {
            let files = self.files.get(index).cloned().unwrap_or_default();
            GateVhost {
                config: vhost.without_secrets(),
                keys: self.learned.keys.get(index).cloned().unwrap_or_default(),
                ocsp: files.ocsp,
                profile: files.profile,
                auto_groups: self
                    .learned
                    .auto_groups
                    .get(index)
                    .cloned()
                    .unwrap_or_default(),
            }
        });
        GateSetup {
            generation: self.generation,
            vhosts: vhosts.collect(),
            udp_port: self.udp_port,
            auth_timeout: self.config.auth_timeout,
            try_mtu_discovery: self.config.try_mtu_discovery,
            dtls_psk: self.config.dtls_psk,
            kernel_path: self.opens_in_kernel(),
            log_level: self.logging.level,
            max_connections: u32::try_from(self.client_limit()).unwrap_or(u32::MAX),
        }
    }

    /// How to start a process of that role.
    pub fn role_arguments(&self, role: Role) -> RoleArguments {
        let confined = role != Role::Secmod;
        RoleArguments {
            role,
            confinement: Confinement {
                user: self.run_as.filter(|_| confined),
                isolate: self.config.isolate_workers && confined,
                traceable: self.traceable,
                more_memory: (self.config.limit_worker_memory && role == Role::Gate)
                    .then(|| self.gate_memory()),
            },
            logging: self.logging.clone(),
        }
    }

    /// `limit-worker-memory`: what the reference gives a worker, and for a gate that serves many
    /// connections a share for each.
    fn gate_memory(&self) -> u64 {
        let connections = match self.config.sessions_per_gate {
            0 => self.client_limit() as u64,
            own => u64::from(own),
        };
        WORKER_MEMORY + connections * CONNECTION_MEMORY
    }

    /// Shares the configuration with tasks.
    pub fn config(&self) -> Arc<Config> {
        self.config.clone()
    }
}
