//! Which binaries are under test.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The three programs under test.
#[derive(Clone, Debug)]
pub struct Program {
    /// The gateway.
    pub ocserv: PathBuf,
    /// The control tool.
    pub occtl: PathBuf,
    /// The password file tool.
    pub ocpasswd: PathBuf,
    /// True for Debian's ocserv, whose processes have other names.
    pub is_reference: bool,
}

impl Program {
    /// Debian's ocserv, installed on this machine.
    pub fn reference() -> Self {
        Self {
            ocserv: "/usr/sbin/ocserv".into(),
            occtl: "/usr/bin/occtl".into(),
            ocpasswd: "/usr/bin/ocpasswd".into(),
            is_reference: true,
        }
    }

    /// Our programs in one directory.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn in_directory(directory: &std::path::Path) -> Result<Self> {
        let program = Self {
            ocserv: directory.join("ocserv"),
            occtl: directory.join("occtl"),
            ocpasswd: directory.join("ocpasswd"),
            is_reference: false,
        };
        for path in [&program.ocserv, &program.occtl, &program.ocpasswd] {
            if !path.exists() {
                bail!("{} is missing: run `cargo build` first", path.display());
            }
        }
        Ok(program)
    }

    /// `OCSERV_TESTS_PROGRAM=reference`, or the directory of `OCSERV_BIN`, or the cargo target
    /// directory that this test was built into.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn from_environment() -> Result<Self> {
        if std::env::var_os("OCSERV_TESTS_PROGRAM").is_some_and(|value| value == "reference") {
            return Ok(Self::reference());
        }
        if let Some(binary) = std::env::var_os("OCSERV_BIN") {
            let binary = PathBuf::from(binary);
            return Self::in_directory(binary.parent().context("OCSERV_BIN has no directory")?);
        }
        // A test is `<target>/<profile>/deps/<name>`, an xtask `<target>/<profile>/xtask`.
        let own = std::env::current_exe()?;
        let directory = own.parent().context("no directory of the test")?;
        let profile = if directory.ends_with("deps") {
            directory.parent().context("no target directory")?
        } else {
            directory
        };
        Self::in_directory(profile)
    }
}
