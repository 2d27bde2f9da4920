//! What a gate or dataplane gives up before it reads a byte from outside.
//!
//! Order: [`leave_file_systems`], [`drop_privileges`], [`forbid_dumps`], then [`restrict`]. All before the process starts a thread: Landlock
//! and capabilities belong to threads. The filter of system calls is put on all threads anyway.

mod files;
mod privileges;
mod syscalls;

use std::io;

pub use files::{FileRestriction, restrict_files};
pub use privileges::{
    drop_capabilities, drop_privileges, drop_ruling_capabilities, forbid_dumps,
    forbid_new_privileges, leave_file_systems,
};
pub use syscalls::{allowed_calls, restrict_syscalls};

/// Which allow list applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// TLS, HTTP, CSTP, DTLS handshakes.
    Gate,
    /// Records and packets.
    Dataplane,
    /// The same, by sockets past the host's stack too (`xdp-sockets`).
    DataplaneWithSockets,
}

/// Why the sandbox could not be built. The process must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Capabilities or identity could not be changed.
    #[error("{what}: {error}")]
    Privileges {
        /// The operation.
        what: &'static str,
        /// Its error.
        error: io::Error,
    },
    /// Landlock refused; its absence is not an error.
    #[error("landlock: {0}")]
    Files(#[from] landlock::RulesetError),
    /// The filter was refused: a kernel without seccomp, or an unknown architecture.
    #[error("seccomp: {0}")]
    Syscalls(#[from] seccompiler::Error),
    /// The filter could not be made.
    #[error("seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
}

/// Takes away all files, new sockets and processes, and every system call that the role does not
/// need. Returns what of Landlock the kernel could enforce, for the log.
///
/// # Errors
/// [`SandboxError`].
pub fn restrict(role: Role) -> Result<FileRestriction, SandboxError> {
    let files = restrict_files()?;
    restrict_syscalls(role)?;
    Ok(files)
}
