//! Programs with a deadline, and what `/proc` says about processes.

use std::process::{Child, Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// Seconds that a program called by the bed may take.
const LIMIT_SECONDS: &str = "60";

/// Runs a program to its end; `timeout` ends it if it hangs.
///
/// # Errors
/// When it cannot be started.
pub fn output(program: &str, arguments: &[&str]) -> Result<Output> {
    Command::new("timeout")
        .args(["-k", "1", LIMIT_SECONDS, program])
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("{program} {}", arguments.join(" ")))
}

/// Runs a program that must succeed, and returns its standard output.
///
/// # Errors
/// When it fails; the message has its standard error.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = output(program, arguments)?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Standard output and standard error of a finished program as one text.
pub fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// Sends a signal; a process that has gone already is no error.
pub fn signal(pid: i32, signal: Signal) {
    // The only failures are "no such process" and, never as root, "not permitted".
    let _ = kill(Pid::from_raw(pid), signal);
}

/// True while the process exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit(") ").next().map(|rest| !rest.starts_with('Z')))
        .unwrap_or(false)
}

/// The command line of a process, blanks between the words; empty when it has gone.
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

/// One field of `/proc/PID/status`, e.g. `CapEff`.
///
/// # Errors
/// When the process has gone or the field does not exist.
pub fn status_field(pid: i32, field: &str) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .with_context(|| format!("no {field} in /proc/{pid}/status"))
}

/// Every process of the machine.
pub fn all_pids() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Waits for a child to end.
///
/// # Errors
/// When it has not ended after `limit`.
pub fn wait_exit(child: &mut Child, what: &str, limit: Duration) -> Result<ExitStatus> {
    wait::until(&format!("{what} to end"), limit, || {
        child.try_wait().ok().flatten()
    })
}

/// Ends a child by SIGKILL and reaps it.
pub fn reap(child: &mut Child) {
    // Both fail only when the child has been reaped before.
    let _ = child.kill();
    let _ = child.wait();
}
