//! How gate and dataplane give up their rights (`run-as-user`, `isolate-workers`).

use anyhow::Context;
use ocserv_sys::process;
use ocserv_sys::sandbox::{self, FileRestriction, Role};

use crate::role::Confinement;

/// Gives up what `confinement` says, for good. Before any thread is started, after all files and
/// sockets are at hand.
///
/// # Errors
/// When something could not be given up: the process must not go on.
pub fn confine(confinement: &Confinement, role: Role) -> anyhow::Result<()> {
    if let Some((uid, gid)) = confinement.user {
        sandbox::drop_privileges(uid, gid).context("cannot drop privileges")?;
    } else if confinement.isolate {
        sandbox::drop_capabilities().context("cannot drop capabilities")?;
    }
    if confinement.traceable {
        process::set_dumpable(true).context("cannot become traceable")?;
    }
    if let Some(more) = confinement.more_memory {
        process::limit_data(more).context("cannot limit the memory")?;
    }
    if confinement.isolate {
        match sandbox::restrict(role).context("cannot restrict the process")? {
            FileRestriction::Full => {}
            FileRestriction::Partial => {
                tracing::info!("this kernel's Landlock lacks some restrictions; seccomp has them");
            }
            FileRestriction::Absent => {
                tracing::warn!("this kernel has no Landlock: files are guarded by seccomp alone");
            }
        }
    }
    Ok(())
}
