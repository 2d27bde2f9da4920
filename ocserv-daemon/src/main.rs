//! `ocserv`: see `ocserv_daemon`.

use std::process::ExitCode;

use clap::Parser;
use ocserv_daemon::cli::{self, Options};
use ocserv_daemon::role::{self, Role, RoleArguments};
use ocserv_daemon::{confine, dataplane, gate, logging, secmod, supervisor};

fn main() -> ExitCode {
    ocserv_sys::memory::keep_less();
    match role::from_environment() {
        Ok(Some(arguments)) => run_role(&arguments),
        Ok(None) => run_supervisor(),
        Err(error) => fail(&error),
    }
}

fn run_supervisor() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    if options.version {
        eprintln!("{}", cli::version_text());
        return ExitCode::SUCCESS;
    }
    if !options.extra.is_empty() {
        eprintln!("no additional command line options are allowed");
        return ExitCode::FAILURE;
    }
    match supervisor::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn run_role(arguments: &RoleArguments) -> ExitCode {
    let who = match arguments.role {
        Role::Secmod => "sec-mod",
        Role::Gate => "worker",
        Role::Dataplane => "dataplane",
    };
    logging::install(who, &arguments.logging);
    if let Err(error) = ocserv_sys::process::set_name(arguments.role.name()) {
        tracing::debug!("the process keeps its name: {error}");
    }
    let result = role::take_channel()
        .map_err(anyhow::Error::from)
        .and_then(|channel| match arguments.role {
            Role::Secmod => {
                confine::confine_secmod(&arguments.confinement)?;
                secmod::run(channel)
            }
            Role::Gate => gate::run(channel, arguments.confinement),
            Role::Dataplane => dataplane::run(channel, arguments.confinement),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("{error:#}");
    ExitCode::FAILURE
}
