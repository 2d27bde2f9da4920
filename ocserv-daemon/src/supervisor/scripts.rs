//! Runs the administrator's scripts and route commands (behaviour.md §7): by path and without a
//! shell, in an own process group, never longer than a deadline.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::process::{Child, Command};

use ocserv_proto::config::{Config, Route};

use super::route_command::{self, RouteCommandError};
use super::script_env::{NAMES, environment};

pub use super::script_env::{Hook, ScriptContext};

/// A script that runs longer is killed; a connect script's session is refused then.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Set by whoever started the server, and not for its scripts.
const OWN_VARIABLES: [&str; 4] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// Why a script counts as failed.
#[derive(Debug, Error)]
pub enum ScriptError {
    /// It could not be run or awaited.
    #[error("cannot run {command}: {error}")]
    Start {
        /// Path or command line.
        command: String,
        /// The system's error.
        error: io::Error,
    },
    /// It exited with something else than 0, or by a signal.
    #[error("{command} failed: {status}")]
    Failed {
        /// Path or command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It was killed at the deadline.
    #[error("{command} did not end within {} s and was killed", deadline.as_secs())]
    TimedOut {
        /// Path or command line.
        command: String,
        /// What it was given.
        deadline: Duration,
    },
    /// A route command was not built.
    #[error(transparent)]
    Route(#[from] RouteCommandError),
}

/// Runs the configured script of `hook`, if there is one. If this future is dropped, the script is
/// killed.
///
/// # Errors
/// If it does not exit with 0 before [`DEADLINE`].
pub async fn run_hook(
    config: &Config,
    hook: Hook,
    context: &ScriptContext,
) -> Result<(), ScriptError> {
    let path = match hook {
        Hook::Connect => &config.connect_script,
        Hook::HostUpdate => &config.host_update_script,
        Hook::Disconnect => &config.disconnect_script,
    };
    match path {
        Some(path) => run_script(path, &environment(context, hook), DEADLINE).await,
        None => Ok(()),
    }
}

/// Runs `route-add-cmd` or `route-del-cmd` for a route, by `/bin/sh -c`.
///
/// # Errors
/// If it cannot be built, or does not exit with 0 before [`DEADLINE`].
pub async fn run_route_command(
    template: &str,
    route: &Route,
    device: &str,
) -> Result<(), ScriptError> {
    let line = route_command::expand(template, route, device)?;
    run_shell(&line, DEADLINE).await
}

/// Runs the script at `path` with these variables beside the server's environment.
async fn run_script(
    path: &Path,
    env: &[(&'static str, String)],
    deadline: Duration,
) -> Result<(), ScriptError> {
    let mut command = Command::new(path);
    for name in NAMES {
        command.env_remove(name);
    }
    command.envs(env.iter().map(|(name, value)| (name, value)));
    run(command, path.display().to_string(), deadline).await
}

/// The text comes from the configuration and from [`route_command::expand`], never from a client.
async fn run_shell(line: &str, deadline: Duration) -> Result<(), ScriptError> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line);
    run(command, format!("'{line}'"), deadline).await
}

async fn run(mut command: Command, name: String, deadline: Duration) -> Result<(), ScriptError> {
    for own in OWN_VARIABLES {
        command.env_remove(own);
    }
    let mut group = match start(command) {
        Ok(group) => group,
        Err(error) => {
            return Err(ScriptError::Start {
                command: name,
                error,
            });
        }
    };
    match tokio::time::timeout(deadline, group.wait()).await {
        Err(_) => Err(ScriptError::TimedOut {
            command: name,
            deadline,
        }),
        Ok(Err(error)) => Err(ScriptError::Start {
            command: name,
            error,
        }),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(ScriptError::Failed {
            command: name,
            status,
        }),
    }
}

fn start(mut command: Command) -> io::Result<Group> {
    let output = io::stderr().as_fd().try_clone_to_owned()?;
    command
        .stdin(Stdio::null())
        .stdout(output)
        .process_group(0)
        .spawn()
        .map(Group::new)
}

/// A running script with its children. Killed when dropped, unless it ended by itself: what it
/// left in the background then is meant to stay.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn new(child: Child) -> Self {
        let leader = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        Self { child, leader }
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.leader = None;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // The group exists as long as its leader has not been waited for; tokio reaps it.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script_env::tests::session;
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use tokio::sync::Mutex;

    const LONG: Duration = Duration::from_secs(60);

    /// A script cannot start while a process that another test just forked has it open for writing.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("script");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_script_gets_the_variables_and_nothing_else() {
        let _turn = ONE_AT_A_TIME.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let text = format!(
            "{{ echo $#; cat; ls -l /proc/self/fd/0 | grep -c /dev/null; env; }} > {}",
            out.display()
        );
        let path = script(directory.path(), &text);
        let env = environment(&session(), Hook::Connect);
        run_script(&path, &env, LONG).await.unwrap();
        let written = std::fs::read_to_string(&out).unwrap();
        assert!(
            written.starts_with("0\n1\n"),
            "no argument, empty stdin: {written}"
        );
        for (name, value) in &env {
            assert!(written.contains(&format!("{name}={value}\n")), "{name}");
        }
        assert!(!written.contains("STATS_"));
        assert!(written.contains("\nPATH="), "the environment is inherited");
    }

    #[tokio::test]
    async fn exit_code_and_signal_count() {
        let _turn = ONE_AT_A_TIME.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let path = script(directory.path(), "exit 3");
        let error = run_script(&path, &[], LONG).await.unwrap_err();
        assert!(matches!(error, ScriptError::Failed { status, .. } if status.code() == Some(3)));
        let path = script(directory.path(), "kill -TERM $$");
        let error = run_script(&path, &[], LONG).await.unwrap_err();
        assert!(matches!(error, ScriptError::Failed { status, .. } if status.code().is_none()));
        let error = run_script(&directory.path().join("none"), &[], LONG)
            .await
            .unwrap_err();
        assert!(matches!(error, ScriptError::Start { .. }));
    }

    #[tokio::test]
    async fn a_hanging_script_is_killed_with_its_children() {
        let _turn = ONE_AT_A_TIME.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let text = format!("sleep 1000 & echo $! > {}; wait", pids.display());
        let path = script(directory.path(), &text);
        let error = run_script(&path, &[], Duration::from_millis(500))
            .await
            .unwrap_err();
        assert!(matches!(error, ScriptError::TimedOut { .. }));
        let child: i32 = std::fs::read_to_string(&pids)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        wait_for_end(child).await;
    }

    #[tokio::test]
    async fn a_script_nobody_waits_for_is_killed() {
        let _turn = ONE_AT_A_TIME.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let path = script(
            directory.path(),
            &format!("echo $$ > {}; sleep 1000", pids.display()),
        );
        let task = tokio::spawn(async move { run_script(&path, &[], LONG).await });
        let pid = loop {
            match std::fs::read_to_string(&pids)
                .unwrap_or_default()
                .trim()
                .parse::<i32>()
            {
                Ok(pid) => break pid,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        task.abort();
        wait_for_end(pid).await;
    }

    #[tokio::test]
    async fn route_commands_run_by_the_shell() {
        let _turn = ONE_AT_A_TIME.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        run_shell(&format!("echo a b > {} && true", out.display()), LONG)
            .await
            .unwrap();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "a b\n");
        assert!(run_shell("false", LONG).await.is_err());
    }

    /// Returns when the process is dead (a zombie counts); the test's own time limit bounds it.
    async fn wait_for_end(pid: i32) {
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
