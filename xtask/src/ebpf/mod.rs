//! The kernel programs (`ocserv-ebpf`): building the object that is committed, and proving that it is
//! what the source says.

mod record;
mod tools;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use self::record::Record;
use self::tools::Tools;
use crate::step::Tally;
use crate::{own_cargo, root};

const TARGET: &str = "bpfel-unknown-none";
const MANIFEST: &str = "ocserv-ebpf/Cargo.toml";
const OBJECT: &str = "ocserv-daemon/src/kernel_path/ocserv-ebpf.o";
const WRAPPER: &str = "xtask/src/ebpf/stable-metadata.sh";
const TARGET_DIRECTORY: &str = "target/ebpf";

/// Flags of the compiler, without the remapped paths. `bpf_target_arch` says whose registers probes
/// read; the gateway has none, so one object serves every little-endian machine.
const FLAGS: [&str; 4] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Ctarget-cpu=v3",
];
/// The profile, whatever the manifest says: the verifier and the byte comparison depend on it.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
];

/// Whether the committed object can be compared with its source.
enum Comparison {
    Possible(Tools, Record),
    /// The tools here are not those that made it.
    Impossible(String),
}

/// `cargo xtask build-ebpf`: writes the object and its record.
///
/// # Errors
/// When a tool is missing or the programs do not compile.
pub fn build() -> Result<()> {
    let tools = Tools::find()?;
    let object = root()?.join(OBJECT);
    let record = compile(&tools, &object)?;
    fs::write(record_of(&object), record.to_string())?;
    println!("{OBJECT}\n{record}");
    Ok(())
}

/// `cargo xtask check-ebpf`: compares the committed object with its source.
///
/// # Errors
/// When they differ, and on Debian 12 when they cannot be compared.
pub fn check() -> Result<()> {
    match prepare()? {
        Comparison::Possible(tools, recorded) => {
            compare(&tools, &recorded)?;
            println!("{OBJECT} is what the source says");
        }
        Comparison::Impossible(why) if is_debian_12() => bail!("{}", not_compared(&why)),
        Comparison::Impossible(why) => println!("{}", not_compared(&why)),
    }
    Ok(())
}

/// The same as steps of `cargo xtask test`, with format and clippy of the programs.
///
/// # Errors
/// When this is not in a workspace.
pub fn steps(tally: &mut Tally) -> Result<()> {
    let mut format = own_cargo(&["fmt", "--manifest-path", MANIFEST, "--check"])?;
    tally.command("format of the kernel programs", &mut format);
    clippy(tally)?;
    let name = "object of the kernel programs";
    match prepare() {
        Ok(Comparison::Possible(tools, recorded)) => {
            tally.check(name, || compare(&tools, &recorded));
        }
        Ok(Comparison::Impossible(why)) => missing(tally, name, &not_compared(&why)),
        Err(error) => {
            tally.check(name, || Err(error));
        }
    }
    Ok(())
}

fn clippy(tally: &mut Tally) -> Result<()> {
    let name = "clippy of the kernel programs";
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(error) => {
            missing(tally, name, &format!("{error:#}"));
            return Ok(());
        }
    };
    let Some(mut clippy) = tools.clippy()? else {
        missing(tally, name, "the compiler has no clippy beside it");
        return Ok(());
    };
    fetch()?;
    configure(&mut clippy, &tools)?;
    tally.command(name, clippy.args(["--", "-D", "warnings"]));
    Ok(())
}

/// On Debian 12 everything can be installed, so that something is missing is a fault.
fn missing(tally: &mut Tally, name: &str, why: &str) {
    if is_debian_12() {
        tally.not_run(name, why);
    } else {
        tally.skipped(name, why);
    }
}

fn not_compared(why: &str) -> String {
    format!("NOT COMPARED: {OBJECT} may not be what the source says\n{why}")
}

/// Checks the committed object against its record, and the record against the tools that are here.
fn prepare() -> Result<Comparison> {
    let object = root()?.join(OBJECT);
    let path = record_of(&object);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let recorded = Record::parse(&text).with_context(|| format!("what is {}", path.display()))?;
    if recorded.sha256 != sha256(&object)? {
        bail!("{OBJECT} is not the object of its record; run `cargo xtask build-ebpf`");
    }
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(error) => return Ok(Comparison::Impossible(format!("{error:#}"))),
    };
    if tools.versions != recorded.versions {
        return Ok(Comparison::Impossible(format!(
            "made with: {}\nhere is:   {}",
            recorded.versions.join("; "),
            tools.versions.join("; ")
        )));
    }
    Ok(Comparison::Possible(tools, recorded))
}

/// Builds the programs anew and compares with what is committed.
fn compare(tools: &Tools, recorded: &Record) -> Result<()> {
    let root = root()?;
    let rebuilt = root.join(TARGET_DIRECTORY).join("check.o");
    let record = compile(tools, &rebuilt)?;
    if record != *recorded || fs::read(&rebuilt)? != fs::read(root.join(OBJECT))? {
        bail!(
            "{OBJECT} is not what the source says; run `cargo xtask build-ebpf` and commit it\n\
             recorded:\n{recorded}rebuilt:\n{record}"
        );
    }
    Ok(())
}

/// Builds the programs, and leaves the object without DWARF in `object`.
fn compile(tools: &Tools, object: &Path) -> Result<Record> {
    fetch()?;
    let built = root()?.join(TARGET_DIRECTORY).join(TARGET);
    // Cargo does not notice that linker or wrapper are others than before.
    if built.exists() {
        fs::remove_dir_all(&built)?;
    }
    let mut build = tools.cargo("build")?;
    let flags = configure(&mut build, tools)?;
    let status = build.status().with_context(|| format!("{build:?}"))?;
    if !status.success() {
        bail!("the kernel programs do not compile");
    }
    if let Some(directory) = object.parent() {
        fs::create_dir_all(directory)?;
    }
    tools.strip(&built.join("release/ocserv-ebpf"), object)?;
    Ok(Record {
        versions: tools.versions.clone(),
        sha256: sha256(object)?,
        flags,
    })
}

/// Unpacks the dependencies, so that the directories to remap exist.
fn fetch() -> Result<()> {
    let mut fetch = own_cargo(&["fetch", "--quiet", "--locked", "--manifest-path", MANIFEST])?;
    if !fetch.status().context("cargo fetch")?.success() {
        bail!("the dependencies of the kernel programs cannot be fetched");
    }
    Ok(())
}

/// Gives a cargo command what makes the object the same everywhere. Returns the compiler's flags, with
/// what differs from machine to machine as `<words>`.
fn configure(command: &mut Command, tools: &Tools) -> Result<String> {
    let root = root()?;
    command.args(["--locked", "--release", "--target", TARGET]);
    command.args(["--manifest-path", MANIFEST]);
    command.arg("--target-dir").arg(root.join(TARGET_DIRECTORY));
    command.envs(PROFILE);
    command.env("RUSTC_WRAPPER", root.join(WRAPPER));
    command.env_remove("RUSTC_WORKSPACE_WRAPPER");

    let mut remaps = vec![("<workspace>", root, "/src")];
    remaps.extend(registry_sources().map(|directory| ("<registry>", directory, "/cargo")));
    remaps.push(("<core>", tools.core_sources(), "/rustc"));
    let mut flags: Vec<OsString> = FLAGS.map(Into::into).to_vec();
    let mut shown = FLAGS.map(String::from).to_vec();
    for (word, path, name) in remaps {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(path);
        flag.push(format!("={name}"));
        flags.push(flag);
        shown.push(format!("--remap-path-prefix={word}={name}"));
    }
    // A machine with a mirror has two registries.
    shown.dedup();
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}".as_ref()));
    Ok(shown.join(" "))
}

/// Where cargo unpacks packages, a directory for each registry.
fn registry_sources() -> impl Iterator<Item = PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let entries = home.and_then(|home| fs::read_dir(home.join("registry/src")).ok());
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn record_of(object: &Path) -> PathBuf {
    object.with_added_extension("txt")
}

/// Of a file, in hexadecimal.
fn sha256(path: &Path) -> Result<String> {
    let mut command = Command::new("sha256sum");
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let output = command.stdin(Stdio::from(file)).output()?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let sum = line.split(' ').next().filter(|sum| sum.len() == 64);
    sum.map(Into::into).context("sha256sum")
}

fn is_debian_12() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| names_debian_12(&text))
}

fn names_debian_12(os_release: &str) -> bool {
    let has = |wanted: &str| {
        os_release
            .lines()
            .any(|line| line.replace('"', "") == wanted)
    };
    has("ID=debian") && has("VERSION_ID=12")
}

#[cfg(test)]
mod tests {
    use super::names_debian_12;

    #[test]
    fn debian_12_is_told_from_others() {
        let text = "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert!(names_debian_12(text));
        assert!(!names_debian_12(&text.replace("12", "13")));
        assert!(!names_debian_12(&text.replace("ID=debian", "ID=other")));
        assert!(!names_debian_12(""));
    }
}
