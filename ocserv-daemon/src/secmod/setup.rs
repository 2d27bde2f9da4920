//! A configuration in force: keys loaded, methods chosen.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use ocserv_proto::config::{Config, VhostConfig};
use ocserv_proto::secret::Secret;

use super::Secmod;
use super::keys::{self, ServerKey};
use super::method::{self, AuthMethod};
use crate::ipc::channel::read_memfd;
use crate::ipc::secmod::{FromSecmod, KeyInfo, SecmodSetup};

/// What is in force until a better one comes.
pub struct Active {
    /// The whole configuration.
    pub config: Config,
    /// By vhost index, then key index.
    pub keys: Vec<Vec<Arc<ServerKey>>>,
    methods: Vec<Arc<dyn AuthMethod>>,
}

impl Active {
    /// A vhost and how its users log in.
    pub fn vhost(&self, index: u32) -> Option<(&VhostConfig, &Arc<dyn AuthMethod>)> {
        let index = index as usize;
        self.config.vhosts.get(index).zip(self.methods.get(index))
    }
}

/// [`Active`] on its way from the thread that reads the files.
struct Loaded {
    config: Config,
    ticket_key: Secret,
    keys: Vec<Vec<Arc<ServerKey>>>,
    methods: Vec<Arc<dyn AuthMethod>>,
    auto_groups: Vec<Vec<String>>,
}

impl Secmod {
    /// Takes over a configuration, or keeps the one in force and says why.
    pub(super) async fn configure(&self, fds: Vec<OwnedFd>) {
        if self.active().is_some() {
            tracing::info!("reloading configuration");
        }
        let loaded = self.pool.run(move || load(fds)).await;
        let loaded = loaded.unwrap_or_else(|| Err("loading the configuration failed".to_owned()));
        let event = match loaded {
            Ok(loaded) => {
                self.follow_vhosts(&loaded.config).await;
                self.put_in_force(loaded)
            }
            Err(message) => FromSecmod::ConfigureFailed { message },
        };
        self.emit(event).await;
        ocserv_sys::memory::give_back();
    }

    /// Sessions name their vhost by its index: it may have moved.
    async fn follow_vhosts(&self, new: &Config) {
        let Some(old) = self.active() else { return };
        let moved = moved_vhosts(&old.config, new);
        if moved.iter().zip(0..).all(|(new, old)| *new == Some(old)) {
            return;
        }
        let (changed, gone) = {
            let mut state = self.state.borrow_mut();
            state.tls.clear();
            let unfinished = state.conversations.clear();
            let (changed, mut gone) = state.sessions.renumber(&moved);
            gone.extend(
                unfinished
                    .iter()
                    .filter_map(|hash| state.sessions.remove(hash)),
            );
            (changed, gone)
        };
        for record in changed
            .into_iter()
            .filter(|record| record.authenticated.is_some())
        {
            self.emit(FromSecmod::SessionChanged(Box::new(record)))
                .await;
        }
        for record in gone {
            self.emit(FromSecmod::SessionGone { name: record.name })
                .await;
        }
    }

    fn put_in_force(&self, loaded: Loaded) -> FromSecmod {
        let Loaded {
            config,
            ticket_key,
            keys,
            methods,
            auto_groups,
        } = loaded;
        let infos = keys.iter().map(|keys| infos(keys)).collect();
        let mut state = self.state.borrow_mut();
        state.tls.resize(config.max_clients);
        state.ticket_key = ticket_key;
        state.active = Some(Rc::new(Active {
            config,
            keys,
            methods,
        }));
        FromSecmod::Configured {
            auto_groups,
            keys: infos,
        }
    }
}

/// For each old index the new one, by name; the default vhost stays the first.
fn moved_vhosts(old: &Config, new: &Config) -> Vec<Option<u32>> {
    let index = |name: &str| {
        (0..)
            .zip(&new.vhosts)
            .find(|(_, vhost)| vhost.name.eq_ignore_ascii_case(name))
    };
    old.vhosts
        .iter()
        .map(|vhost| index(&vhost.name).map(|(index, _)| index))
        .collect()
}

fn infos(keys: &[Arc<ServerKey>]) -> Vec<KeyInfo> {
    keys.iter().map(|key| key.info().clone()).collect()
}

fn load(fds: Vec<OwnedFd>) -> Result<Loaded, String> {
    let fd = fds
        .into_iter()
        .next()
        .ok_or("the configuration is missing")?;
    let SecmodSetup { config, ticket_key } =
        read_memfd(fd).map_err(|error| format!("cannot read the configuration: {error}"))?;
    let mut loaded = Loaded {
        config,
        ticket_key,
        keys: vec![],
        methods: vec![],
        auto_groups: vec![],
    };
    for vhost in &loaded.config.vhosts {
        let name = if vhost.name.is_empty() {
            "default"
        } else {
            &vhost.name
        };
        let keys = keys::load(vhost, |text| tracing::warn!("vhost:{name}: {text}"))
            .map_err(|error| format!("vhost:{name}: {error}"))?;
        let method = method::for_vhost(vhost)?;
        let groups = if vhost.auto_select_group {
            method.group_names()
        } else {
            Vec::new()
        };
        loaded.keys.push(keys.into_iter().map(Arc::new).collect());
        loaded.auto_groups.push(groups);
        loaded.methods.push(method);
    }
    Ok(loaded)
}
