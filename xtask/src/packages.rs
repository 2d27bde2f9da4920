//! Debian packages: which are missing, and installing them.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// What building needs.
pub const BUILD: &[&str] = &["gcc", "libc6-dev", "libssl-dev", "pkg-config"];
/// What the network bed needs.
pub const BED: &[&str] = &["openconnect", "iproute2", "iputils-ping", "openssl"];
/// What the tests need besides.
pub const TESTS: &[&str] = &["ethtool", "nftables"];
/// What the kernel programs need: compiler, `core` for BPF and clippy, and LLVM for bpf-linker, which
/// cargo builds. No clang and no libbpf. The cargo and rustc of `rust-toolchain.toml` stay first in PATH.
pub const EBPF: &[&str] = &[
    "llvm-22-dev",
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "rust-web-clippy",
];

/// What the comparison needs besides.
pub const BENCH: &[&str] = &["ethtool", "iperf3", "nftables"];

/// Installs those of `wanted` that are missing, and says which.
///
/// # Errors
/// When the package manager fails; the message has the command to type.
pub fn install_missing(wanted: &[&[&str]]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .concat()
        .into_iter()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        println!("      all packages are there");
        return Ok(());
    }
    println!("      installing: {}", missing.join(" "));
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    for arguments in [vec!["update", "-q"], install] {
        let status = Command::new("apt-get")
            .args(&arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()
            .context("apt-get")?;
        if !status.success() {
            bail!("apt-get failed; install by hand: {}", missing.join(" "));
        }
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"install ok installed")
}
