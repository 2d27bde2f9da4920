//! A new configuration while the server runs (config.md §2.6, behaviour.md §12).

use std::sync::Arc;

use super::Supervisor;
use super::setup::VhostFiles;

impl Supervisor {
    /// Reads the configuration file again; it comes into force when secmod has accepted it.
    ///
    /// # Errors
    /// When the file cannot be used; everything stays as it is.
    pub(super) fn reload(&mut self) -> anyhow::Result<()> {
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
    pub(super) async fn apply_reload(&mut self) {
        self.bans.configure(self.ban_settings());
        if let Err(error) = self.take_server_addresses().await {
            tracing::error!("{error:#}");
        }
        tracing::info!("configuration reloaded");
    }
}
