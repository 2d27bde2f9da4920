//! `ocpasswd`: keeps the password file of the `plain` method (cli.md §6).

#[path = "../ocpasswd/args.rs"]
mod args;
#[path = "../ocpasswd/password.rs"]
mod password;
#[path = "../ocpasswd/password_file.rs"]
mod password_file;

use std::process::ExitCode;

use args::{Action, Command};
use nix::sys::stat::{Mode, umask};
use ocserv_proto::passwd;

fn main() -> ExitCode {
    // Nobody but the owner may read hashes, not even in the temporary file.
    umask(Mode::from_bits_truncate(0o066));
    let command = match args::parse(std::env::args_os()) {
        Ok(Command::Change(change)) => change,
        Ok(Command::Print(text)) => {
            eprint!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprint!("{text}");
            return ExitCode::FAILURE;
        }
    };
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(change: &args::Change) -> anyhow::Result<()> {
    let username = change.username.as_str();
    passwd::check_username(username)?;
    match &change.action {
        Action::Set { groups } => {
            let hash = password::hash(&password::ask()?)?;
            password_file::update(&change.file, true, |old| {
                passwd::set(old, username, groups.as_deref(), &hash)
            })
        }
        Action::Delete => {
            password_file::update(&change.file, false, |old| Ok(passwd::delete(old, username)))
        }
        Action::Lock => {
            password_file::update(&change.file, false, |old| Ok(passwd::lock(old, username)))
        }
        Action::Unlock => {
            password_file::update(&change.file, false, |old| Ok(passwd::unlock(old, username)))
        }
    }
}
