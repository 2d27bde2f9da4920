//! The project's commands. Builds without any system library, because it installs them.

mod bench;
mod demo;
mod ebpf;
mod packages;
mod step;
mod test;
mod tidy;

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's commands")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Shows a stock openconnect client log in to the gateway and move traffic. Needs root.
    Demo {
        /// Leaves everything running until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
    /// Compares with Debian's ocserv: logins, memory, throughput. Needs root.
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(subcommand)]
        other: Option<Benchmark>,
        /// Options of `ocserv-bench`, e.g. `-- --quick`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Everything that CI checks. Needs root.
    Test,
    /// Builds the kernel programs into the object that is committed.
    BuildEbpf,
    /// Compares the committed object of the kernel programs with their source.
    CheckEbpf,
    /// The house rules: file length, unsafe code, leftovers, names.
    Tidy,
}

#[derive(Subcommand)]
enum Benchmark {
    /// What a record costs in the kernel programs, beside user space. Needs root.
    Ebpf {
        /// Few runs, to see that it works.
        #[arg(long)]
        quick: bool,
        /// Where the JSON result goes.
        #[arg(long)]
        json: Option<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo { keep } => demo::run(keep),
        Task::Bench {
            other: Some(Benchmark::Ebpf { quick, json }),
            ..
        } => bench::run_ebpf(quick, json),
        Task::Bench { arguments, .. } => bench::run(&arguments),
        Task::Test => test::run(),
        Task::BuildEbpf => ebpf::build(),
        Task::CheckEbpf => ebpf::check(),
        Task::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The directory of the workspace.
fn root() -> Result<std::path::PathBuf> {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .map(Into::into)
        .ok_or_else(|| anyhow::anyhow!("xtask is not in a workspace"))
}

/// The cargo that runs this program, in the workspace.
fn own_cargo(arguments: &[&str]) -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root()?);
    Ok(command)
}

/// Ends with the command to type, unless this is root.
fn require_root(task: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    anyhow::bail!(
        "network namespaces and packages need root; type:\n    sudo env \"PATH=$PATH\" cargo xtask {task}"
    )
}
