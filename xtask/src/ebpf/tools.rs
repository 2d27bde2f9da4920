//! The tools that turn `ocserv-ebpf` into an object: a compiler with `core` for BPF, bpf-linker, LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::TARGET;
use crate::{own_cargo, root};

/// Debian's compiler. `core` for BPF is a package of its own beside it.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
const LINKER_FEATURE: &str = "llvm-22";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const REMEDY: &str = "no compiler for the kernel programs. One of these helps:
    on Debian 12:  apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf
    with rustup:   rustup toolchain install nightly --component rust-src
    EBPF_RUSTC=/path/to/rustc, one whose target-libdir for bpfel-unknown-none holds libcore";

/// Everything that a build needs.
#[derive(Debug)]
pub struct Tools {
    compiler: Compiler,
    linker: PathBuf,
    llvm: PathBuf,
    /// What the object depends on besides its source, for the record: compiler, linker.
    pub versions: [String; 2],
}

#[derive(Debug, PartialEq, Eq)]
enum Compiler {
    /// A compiler with `core` for BPF beside it.
    Prebuilt(PathBuf),
    /// rustup's nightly, which builds `core` itself.
    Nightly { sysroot: PathBuf },
}

impl Tools {
    /// Finds the tools, and installs the linker below `target` if there is none.
    ///
    /// # Errors
    /// When one is missing, with what to install.
    pub fn find() -> Result<Self> {
        let compiler = Compiler::find()?;
        let llvm =
            std::env::var_os("LLVM_PREFIX").map_or_else(|| LLVM_PREFIX.into(), PathBuf::from);
        let llvm_version = output(Command::new(llvm.join("bin/llvm-config")).arg("--version"))
            .context("LLVM is missing; on Debian 12: apt-get install --no-install-recommends llvm-22-dev")?;
        let linker = find_linker(&llvm)?;
        let versions = [
            compiler.version()?,
            format!("{LINKER} {LINKER_VERSION}, LLVM {}", llvm_version.trim()),
        ];
        Ok(Self {
            compiler,
            linker,
            llvm,
            versions,
        })
    }

    /// A cargo command for the kernel programs: `build`, or another that compiles.
    ///
    /// # Errors
    /// When this is not in a workspace.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut command = match &self.compiler {
            Compiler::Prebuilt(rustc) => {
                let mut command = own_cargo(&[subcommand])?;
                // The library of aya uses an instruction of assembly that is not stable yet.
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Compiler::Nightly { .. } => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", subcommand]);
                command.args(["-Z", "build-std=core"]);
                command.env_remove("RUSTC").current_dir(root()?);
                command
            }
        };
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        Ok(command)
    }

    /// Clippy of the same compiler for the same target: the host's would neither see the code that is
    /// only for BPF nor know its assembly. `None` if it is not installed.
    ///
    /// # Errors
    /// When this is not in a workspace.
    pub fn clippy(&self) -> Result<Option<Command>> {
        let Compiler::Prebuilt(rustc) = &self.compiler else {
            return self.cargo("clippy").map(Some);
        };
        let program = rustc.with_file_name("cargo-clippy");
        if !program.exists() {
            return Ok(None);
        }
        let mut command = Command::new(program);
        command.arg("clippy").current_dir(root()?);
        command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        Ok(Some(command))
    }

    /// Where the sources of `core` are said to be, which the object must not tell.
    pub fn core_sources(&self) -> PathBuf {
        match &self.compiler {
            Compiler::Prebuilt(_) => {
                let release = self.versions[0].split(' ').nth(1).unwrap_or_default();
                format!("/usr/src/rustc-{release}").into()
            }
            Compiler::Nightly { sysroot } => sysroot.join("lib/rustlib/src/rust"),
        }
    }

    /// Copies an object without DWARF, which is nine tenths of it; BTF stays.
    ///
    /// # Errors
    /// When LLVM's objcopy fails.
    pub fn strip(&self, from: &Path, to: &Path) -> Result<()> {
        let mut objcopy = Command::new(self.llvm.join("bin/llvm-objcopy"));
        output(objcopy.arg("--strip-debug").arg(from).arg(to)).map(drop)
    }
}

impl Compiler {
    fn find() -> Result<Self> {
        if let Some(chosen) = std::env::var_os("EBPF_RUSTC") {
            let chosen = PathBuf::from(chosen);
            if !has_core(&chosen) {
                bail!("EBPF_RUSTC: {} has no core for {TARGET}", chosen.display());
            }
            return Ok(Self::Prebuilt(chosen));
        }
        if has_core(Path::new(DEBIAN_RUSTC)) {
            return Ok(Self::Prebuilt(DEBIAN_RUSTC.into()));
        }
        let nightly = ["run", "nightly", "rustc", "--print", "sysroot"];
        let sysroot = output(Command::new("rustup").args(nightly)).unwrap_or_default();
        let sysroot = PathBuf::from(sysroot.trim());
        if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return Ok(Self::Nightly { sysroot });
        }
        bail!(REMEDY)
    }

    /// `rustc 1.96.0 (ac68faa20 2026-05-25), LLVM 22.1.8`.
    fn version(&self) -> Result<String> {
        let mut command = match self {
            Self::Prebuilt(rustc) => Command::new(rustc),
            Self::Nightly { sysroot } => Command::new(sysroot.join("bin/rustc")),
        };
        let verbose = output(command.arg("-vV"))?;
        version_line(&verbose).with_context(|| format!("what is {verbose:?}"))
    }
}

/// The line for the record from what `rustc -vV` says.
fn version_line(verbose: &str) -> Option<String> {
    let llvm = verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(format!("{}, LLVM {llvm}", verbose.lines().next()?))
}

fn has_core(rustc: &Path) -> bool {
    let print = ["--print", "target-libdir", "--target", TARGET];
    let directory = output(Command::new(rustc).args(print)).unwrap_or_default();
    let entries = std::fs::read_dir(directory.trim());
    entries.is_ok_and(|entries| {
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .any(|name| name.starts_with("libcore-") && name.ends_with(".rlib"))
    })
}

/// The linker below `target`, else one of the right version in `PATH`, else a new one below `target`.
fn find_linker(llvm: &Path) -> Result<PathBuf> {
    let tools = root()?.join("target/tools");
    let own = tools.join("bin").join(LINKER);
    let is_right = |program: &Path| {
        output(Command::new(program).arg("--version"))
            .is_ok_and(|line| line.trim() == format!("{LINKER} {LINKER_VERSION}"))
    };
    if is_right(&own) {
        return Ok(own);
    }
    if is_right(Path::new(LINKER)) {
        return Ok(LINKER.into());
    }
    println!(
        "      installing {LINKER} {LINKER_VERSION} into {}",
        tools.display()
    );
    let mut install = own_cargo(&["install", LINKER, "--version", LINKER_VERSION, "--locked"])?;
    install.args([
        "--no-default-features",
        "--features",
        LINKER_FEATURE,
        "--force",
    ]);
    install.arg("--root").arg(&tools).env("LLVM_PREFIX", llvm);
    let status = install.status().context("cargo install")?;
    if !status.success() || !is_right(&own) {
        bail!("{LINKER} {LINKER_VERSION} could not be built; is llvm-22-dev installed?");
    }
    Ok(own)
}

/// Standard output of a program that must succeed.
fn output(command: &mut Command) -> Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| shown.clone())?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}: {}", output.status, message.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::version_line;

    #[test]
    fn the_version_names_compiler_and_llvm() {
        let verbose = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nLLVM version: 22.1.8\n";
        assert_eq!(
            version_line(verbose).as_deref(),
            Some("rustc 1.96.0 (ac68faa20 2026-05-25), LLVM 22.1.8")
        );
        assert_eq!(version_line("rustc 1.96.0\n"), None);
        assert_eq!(version_line(""), None);
    }
}
