//! The pieces of occtl: what is typed ([`options`], [`commands`]), what is asked ([`connection`],
//! [`run`]), and what is printed (the rest).

mod bans;
mod commands;
mod connection;
mod datapath;
mod events;
mod format;
mod interactive;
mod json;
mod options;
mod run;
mod screen;
mod sessions;
mod status;
mod text;
mod users;

use std::io::IsTerminal;

use options::Parsed;
use run::Session;

/// Runs occtl with the words after its name; returns the exit status.
pub fn main(words: impl Iterator<Item = String>) -> u8 {
    let options = match options::parse(words) {
        Parsed::Help => {
            print!("{}", options::help());
            return 0;
        }
        Parsed::Version => {
            eprint!("{}", options::banner());
            return 0;
        }
        Parsed::Run(options) => options,
    };
    if options.command.is_empty() {
        return interactive::run(&options);
    }
    let pager = options.pager && !options.json && std::io::stdout().is_terminal();
    let mut session = Session::new(&options, options.json);
    let (code, output) = session.command(&options.command);
    screen::show(&output, pager);
    code
}
