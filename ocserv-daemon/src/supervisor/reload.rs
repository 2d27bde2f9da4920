//! A new configuration while the server runs (config.md §2.6, behaviour.md §12).

use std::sync::Arc;
use std::time::SystemTime;

use ocserv_proto::config::Config;

use super::Supervisor;
use super::setup::VhostFiles;

impl Supervisor {
    /// Reads the configuration file again; it comes into force when secmod has accepted it.
    ///
    /// # Errors
    /// When the file cannot be used; everything stays as it is.
    pub(super) fn reload(&mut self) -> anyhow::Result<()> {
        if self.pending.is_some() || !self.secmod_ready {
            self.reload_wanted = true;
            return Ok(());
        }
        tracing::info!("reloading configuration");
        let mut config = super::start::read_config(&self.config_path, |message| {
            tracing::warn!("{message}");
        })?;
        for key in config.keep_fixed_keys(&self.config) {
            tracing::warn!("'{key}' changes only at a restart");
        }
        let files = VhostFiles::read_all(&config)?;
        let config = Arc::new(config);
        self.configure_secmod(&config)?;
        self.pending = Some((config, files));
        Ok(())
    }

    /// Takes a configuration that secmod has accepted over where it may change at run time.
    pub(super) async fn apply_reload(&mut self, before: &Config) {
        self.renumber_vhosts(before);
        self.bans.configure(self.ban_settings());
        if let Err(error) = self.take_server_addresses().await {
            tracing::error!("{error:#}");
        }
        self.file_times = file_times(&self.config);
        tracing::info!("configuration reloaded");
    }

    /// Tunnels follow their virtual host by its name; one whose host is gone counts as the default's
    /// until secmod's word ends its session.
    fn renumber_vhosts(&mut self, before: &Config) {
        let place = |index: u32| {
            let name = &before.vhosts.get(index as usize)?.name;
            let found = self
                .config
                .vhosts
                .iter()
                .position(|vhost| &vhost.name == name)?;
            u32::try_from(found).ok()
        };
        let open = self
            .connections
            .values_mut()
            .filter_map(|c| c.tunnel.as_mut());
        for tunnel in open {
            tunnel.vhost = place(tunnel.vhost).unwrap_or(0);
        }
    }

    /// Keys, certificates and OCSP answers are read again when one of their files changed
    /// (config.md 2.7).
    pub(super) fn refresh_files(&mut self) {
        let changed = file_times(&self.config);
        if changed == self.file_times || self.pending.is_some() || !self.secmod_ready {
            return;
        }
        self.file_times = changed;
        tracing::info!("certificates or keys have changed");
        let again = VhostFiles::read_all(&self.config)
            .and_then(|files| Ok((files, self.configure_secmod(&self.config())?)));
        match again {
            Ok((files, ())) => self.pending = Some((self.config(), files)),
            Err(error) => tracing::error!("the certificates in force are kept: {error:#}"),
        }
    }
}

/// When the files of the virtual hosts' certificates were changed last.
pub fn file_times(config: &Config) -> Vec<Option<SystemTime>> {
    let files = config.vhosts.iter().flat_map(|vhost| {
        vhost
            .server_cert
            .iter()
            .chain(&vhost.server_key)
            .chain(&vhost.ocsp_response)
    });
    files
        .map(|path| {
            std::fs::metadata(path)
                .and_then(|file| file.modified())
                .ok()
        })
        .collect()
}
