//! `occtl`: control and inspection of a running server (cli.md §§2-4).

#[path = "../occtl/mod.rs"]
mod occtl;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(occtl::main(std::env::args().skip(1)))
}
