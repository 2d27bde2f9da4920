//! Whether secmod can work with a configuration, tried before the server goes into the background:
//! a key that does not load is an error on the administrator's terminal, not a line in a log.

use std::time::Duration;

use anyhow::Context;
use ocserv_proto::config::Config;
use ocserv_proto::secret::Secret;
use ocserv_sys::seqpacket;

use crate::ipc::channel::{Channel, memfd_with};
use crate::ipc::secmod::{FromSecmod, SecmodSetup, ToSecmod};
use crate::logging;
use crate::role::{self, Confinement, Role, RoleArguments};

/// Time to load keys (a slow disk, a token).
const DEADLINE: Duration = Duration::from_secs(30);

/// Starts a secmod with the configuration and ends it again.
///
/// # Errors
/// What secmod says is wrong.
pub fn configuration(config: &Config, logging: &logging::Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        match tokio::time::timeout(DEADLINE, ask(config, logging)).await {
            Ok(result) => result,
            Err(_) => anyhow::bail!("error: the keys do not load within {DEADLINE:?}"),
        }
    })
}

async fn ask(config: &Config, logging: &logging::Settings) -> anyhow::Result<()> {
    let (ours, theirs) = seqpacket::pair()?;
    let arguments = RoleArguments {
        role: Role::Secmod,
        confinement: Confinement {
            user: None,
            isolate: false,
            traceable: false,
            more_memory: None,
        },
        // The real one will say it all again.
        logging: logging::Settings {
            targets: Vec::new(),
            level: logging.level,
        },
    };
    let mut command = tokio::process::Command::from(role::command(&arguments, theirs)?);
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .context("cannot start secmod")?;
    drop(command);
    let channel = Channel::new(ours)?;
    let setup = SecmodSetup {
        config: config.clone(),
        ticket_key: Secret::new(vec![0; 32]),
    };
    let fd = memfd_with(&setup)?;
    channel
        .send(&ToSecmod::Configure, &[std::os::fd::AsFd::as_fd(&fd)])
        .await?;
    let answer = channel.recv::<FromSecmod>().await?;
    channel.send(&ToSecmod::Stop, &[]).await?;
    drop(channel);
    let _ = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
    match answer {
        Some((FromSecmod::Configured { .. }, _)) => Ok(()),
        Some((FromSecmod::ConfigureFailed { message }, _)) => anyhow::bail!("{message}"),
        _ => anyhow::bail!("error: the security module ended without an answer"),
    }
}
