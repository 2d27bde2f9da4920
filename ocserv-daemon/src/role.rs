//! Which part of the server this process is, and how the supervisor starts the others.
//!
//! The binary executes itself: `argv[0]` names the role for `ps`, the environment variable
//! [`ROLE_VARIABLE`] selects it, and descriptor [`CHANNEL_FD`] is the channel to the supervisor.
//! Nothing is inherited but that channel, standard error, and settings of loader and libraries.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use ocserv_sys::process;
use serde::{Deserialize, Serialize};

/// Selects the role of a started process; absent in the supervisor.
pub const ROLE_VARIABLE: &str = "OCSERV_ROLE";

/// The first descriptor behind the standard ones.
const FIRST_OTHER_FD: RawFd = 3;
/// Variables that gates and dataplane inherit, by the beginnings of their names: settings of loader,
/// allocator and libraries. All others may hold secrets of whoever started the server.
const INHERITED: [&str; 6] = [
    "GLIBC_TUNABLES",
    "LD_",
    "MALLOC_",
    "OPENSSL_",
    "RUST_",
    "TZ",
];

/// The parts of the server besides the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Keys, passwords, cookies.
    Secmod,
    /// TLS, HTTP, CSTP and DTLS handshakes.
    Gate,
    /// Records and packets.
    Dataplane,
}

impl Role {
    /// Name in `ps` and in the environment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Secmod => "ocserv-secmod",
            Self::Gate => "ocserv-gate",
            Self::Dataplane => "ocserv-dataplane",
        }
    }

    /// The inverse of [`Role::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Secmod, Self::Gate, Self::Dataplane]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// What a role gives up before it reads a byte from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// `run-as-user` and `run-as-group` as uid and gid; `None`: stay as started.
    pub user: Option<(u32, u32)>,
    /// `isolate-workers`: seccomp and Landlock.
    pub isolate: bool,
    /// `-x`: leave ptrace and core dumps possible.
    pub traceable: bool,
    /// `limit-worker-memory`: bytes of data that may be added to those of the start.
    pub more_memory: Option<u64>,
}

/// What a started role reads from its environment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleArguments {
    /// Which part.
    pub role: Role,
    /// What to give up.
    pub confinement: Confinement,
    /// Where and how much to log.
    pub logging: crate::logging::Settings,
}

/// The command that executes this binary as `arguments.role`, with `channel` as its descriptor 0.
///
/// The channel stands in for standard input: the one descriptor besides stdout and stderr that a
/// child gets without a hole between fork and exec.
///
/// All other descriptors of this process become close-on-exec: whoever started the server may have left
/// some open, and libraries make some (the tun crate a UDP socket).
///
/// # Errors
/// When the arguments cannot be encoded.
pub fn command(arguments: &RoleArguments, channel: OwnedFd) -> std::io::Result<Command> {
    let encoded = serde_json::to_string(arguments).map_err(std::io::Error::other)?;
    process::close_on_exec_from(FIRST_OTHER_FD)?;
    let mut command = Command::new("/proc/self/exe");
    // Secmod is root, and its libraries (PKCS#11, Kerberos) have variables of their own.
    if arguments.role != Role::Secmod {
        let is_inherited = |name: &OsStr| {
            let name = name.as_encoded_bytes();
            INHERITED
                .iter()
                .any(|start| name.starts_with(start.as_bytes()))
        };
        command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_inherited(name)));
    }
    command
        .arg0(arguments.role.name())
        .env(ROLE_VARIABLE, encoded)
        .stdin(Stdio::from(channel))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .process_group(0);
    Ok(command)
}

/// The arguments of this process, if it was started by [`command`].
///
/// # Errors
/// When the variable is set to something else.
pub fn from_environment() -> anyhow::Result<Option<RoleArguments>> {
    match std::env::var(ROLE_VARIABLE) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(_) => Ok(None),
    }
}

/// Takes over the channel to the supervisor.
///
/// # Errors
/// When descriptor 0 is not open.
pub fn take_channel() -> std::io::Result<OwnedFd> {
    let stdin = std::io::stdin();
    let channel = std::os::fd::AsFd::as_fd(&stdin).try_clone_to_owned()?;
    // Descriptor 0 must not stay a second handle on the channel: the supervisor's death shows as
    // its end. `/dev/null` takes its place.
    let null = std::fs::File::open("/dev/null")?;
    replace_stdin(std::os::fd::AsFd::as_fd(&null))?;
    Ok(channel)
}

fn replace_stdin(with: BorrowedFd<'_>) -> std::io::Result<()> {
    Ok(nix::unistd::dup2_stdin(with)?)
}
