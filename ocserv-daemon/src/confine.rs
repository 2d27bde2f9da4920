//! How gate and dataplane give up their rights (`run-as-user`, `isolate-workers`).

use anyhow::Context;
use ocserv_sys::process;
use ocserv_sys::sandbox::{self, FileRestriction, Role};

use crate::role::Confinement;

/// Keeps secmod's secrets in its memory, and its rights from growing. It stays root: it reads keys and
/// password files.
///
/// # Errors
/// None in practice.
pub fn confine_secmod(confinement: &Confinement) -> anyhow::Result<()> {
    sandbox::forbid_new_privileges().context("cannot forbid new privileges")?;
    // It needs files as root, but neither devices nor kernel programs.
    sandbox::drop_ruling_capabilities().context("cannot give up capabilities")?;
    guard_memory(confinement.traceable)
}

/// No cores, no ptrace by others of the same user, unless `-x` asks for them. After a change of
/// identity, which sets it anew.
fn guard_memory(traceable: bool) -> anyhow::Result<()> {
    if traceable {
        process::set_dumpable(true).context("cannot become traceable")
    } else {
        sandbox::forbid_dumps().context("cannot forbid dumps")
    }
}

/// Gives up what `confinement` says, for good. Before any thread is started, after all files and
/// sockets are at hand.
///
/// # Errors
/// When something could not be given up: the process must not go on.
pub fn confine(confinement: &Confinement, role: Role) -> anyhow::Result<()> {
    if let Some(more) = confinement.more_memory {
        process::limit_data(more).context("cannot limit the memory")?;
    }
    if confinement.isolate {
        // A container may have taken the right to it away; Landlock and seccomp remain.
        if let Err(error) = sandbox::leave_file_systems() {
            tracing::warn!("the root directory stays: {error}");
        }
    }
    if let Some((uid, gid)) = confinement.user {
        sandbox::drop_privileges(uid, gid).context("cannot drop privileges")?;
    } else if confinement.isolate {
        sandbox::drop_capabilities().context("cannot drop capabilities")?;
    }
    guard_memory(confinement.traceable)?;
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
