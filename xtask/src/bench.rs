//! `cargo xtask bench`: the comparison with Debian's ocserv, and the cost of the kernel programs. Built for
//! release.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{packages, require_root, root};

/// Debian's ocserv. Not installed by us: its package would start a gateway.
const REFERENCE: &str = "/usr/sbin/ocserv";

/// Builds and measures; `arguments` go to `ocserv-bench`.
///
/// # Errors
/// When something is missing or the measurement fails.
pub fn run(arguments: &[String]) -> Result<()> {
    require_root("bench")?;
    packages::install_missing(&[packages::BUILD, packages::BED, packages::BENCH])?;
    ensure!(
        Path::new(REFERENCE).exists(),
        "{REFERENCE} is missing; type: apt-get install ocserv && systemctl disable --now ocserv"
    );
    build(&["ocserv-daemon", "ocserv-tools", "ocserv-bench"])?;
    start(arguments)
}

/// Measures the kernel programs.
///
/// # Errors
/// As [`run`].
pub fn run_ebpf(quick: bool, json: Option<String>) -> Result<()> {
    require_root("bench ebpf")?;
    packages::install_missing(&[packages::BUILD, packages::BED])?;
    build(&["ocserv-bench"])?;
    let mut arguments = vec!["ebpf".to_owned()];
    if quick {
        arguments.push("--quick".to_owned());
    }
    if let Some(path) = json {
        arguments.extend(["--json".to_owned(), path]);
    }
    start(&arguments)
}

fn build(members: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release"])
        .args(members.iter().flat_map(|member| ["-p", member]))
        .current_dir(root()?)
        .status()
        .context("cargo")?;
    if !status.success() {
        bail!("cargo build --release: {status}");
    }
    Ok(())
}

/// Starts `ocserv-bench`.
fn start(arguments: &[String]) -> Result<()> {
    // This program is `<target>/debug/xtask`.
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("no target")?;
    let status = Command::new(target.join("release/ocserv-bench"))
        .args(arguments)
        .current_dir(root()?)
        .status()
        .context("ocserv-bench")?;
    if !status.success() {
        bail!("ocserv-bench: {status}");
    }
    Ok(())
}
