//! `cargo xtask test`: everything that CI checks, in order.

use std::process::Stdio;

use anyhow::{Result, bail};

use crate::step::Tally;
use crate::{ebpf, own_cargo as cargo, packages, require_root, root, tidy};

/// Black-box tests at once: they wait more than they compute.
const BED_THREADS: &str = "--test-threads=4";

/// Runs all checks; ends with `N passed, N failed`.
///
/// # Errors
/// When anything failed.
pub fn run() -> Result<()> {
    require_root("test")?;
    let mut tally = Tally::default();
    tally.check("packages", || {
        packages::install_missing(&[
            packages::BUILD,
            packages::BED,
            packages::TESTS,
            packages::EBPF,
        ])
    });
    tally.check("house rules", tidy::run);
    tally.command("format", &mut cargo(&["fmt", "--all", "--check"])?);
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    tally.command("clippy", &mut cargo(&clippy)?);
    ebpf::steps(&mut tally)?;
    let units = [
        "test",
        "--workspace",
        "--exclude",
        "ocserv-tests",
        "--no-fail-fast",
    ];
    tally.command("unit tests", &mut cargo(&units)?);
    loom(&mut tally)?;
    corpora(&mut tally)?;
    if tally.command("build", &mut cargo(&["build"])?) {
        let black_box = [
            "test",
            "-p",
            "ocserv-tests",
            "--no-fail-fast",
            "--",
            BED_THREADS,
        ];
        tally.command("black-box tests", &mut cargo(&black_box)?);
    } else {
        tally.not_run("black-box tests", "because the build failed");
    }
    advisories(&mut tally)?;
    if !tally.failed_steps().is_empty() {
        println!("failed steps: {}", tally.failed_steps().join(", "));
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("not everything passed");
    }
    Ok(())
}

/// Concurrency proofs, in a target directory of their own: the flag changes every crate.
fn loom(tally: &mut Tally) -> Result<()> {
    let target = root()?.join("target/loom");
    let mut command = cargo(&[
        "test",
        "-p",
        "ocserv-common",
        "--release",
        "--lib",
        "--tests",
    ])?;
    command
        .arg("--target-dir")
        .arg(target)
        .arg("loom")
        .env("RUSTFLAGS", "--cfg loom");
    tally.command("loom", &mut command);
    Ok(())
}

/// Every input that fuzzing found interesting, through every parser.
fn corpora(tally: &mut Tally) -> Result<()> {
    let target = root()?.join("target/fuzz");
    let mut command = cargo(&["test", "--manifest-path", "fuzz/Cargo.toml"])?;
    command.arg("--target-dir").arg(target);
    tally.command("fuzz corpora", &mut command);
    Ok(())
}

/// `cargo deny` where it is installed; it needs the network for the advisory database.
fn advisories(tally: &mut Tally) -> Result<()> {
    let probe = cargo(&["deny", "--version"])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if probe.is_ok_and(|status| status.success()) {
        tally.command("cargo deny", &mut cargo(&["deny", "check"])?);
    } else {
        tally.skipped("cargo deny", "it is not installed");
    }
    Ok(())
}
