//! Command line (cli.md §2).

use std::fmt::Write as _;
use std::path::PathBuf;

use super::commands;

const DEFAULT_SOCKET: &str = "/var/run/occtl.socket";

/// Options and the command that follows them.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// `-s`.
    pub socket: PathBuf,
    /// `-j`.
    pub json: bool,
    /// Not `-n`.
    pub pager: bool,
    /// `--debug`.
    pub debug: bool,
    /// The other words, joined by blanks; empty for interactive mode.
    pub command: String,
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// `-h`, or what is not understood.
    Help,
    /// `-v`.
    Version,
    /// A command or interactive mode.
    Run(Options),
}

/// Reads the words after the program's name.
pub fn parse(mut words: impl Iterator<Item = String>) -> Parsed {
    let mut options = Options {
        socket: PathBuf::from(DEFAULT_SOCKET),
        json: false,
        pager: true,
        debug: false,
        command: String::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => return Parsed::Help,
            "-v" | "--version" => return Parsed::Version,
            "-j" | "--json" => options.json = true,
            "-n" | "--no-pager" => options.pager = false,
            "--debug" => options.debug = true,
            "-s" | "--socket-file" => match words.next() {
                Some(path) => options.socket = PathBuf::from(path),
                None => return Parsed::Help,
            },
            option if option.starts_with('-') => match option.strip_prefix("--socket-file=") {
                Some(path) => options.socket = PathBuf::from(path),
                None => return Parsed::Help,
            },
            _ => {
                let command: Vec<String> = std::iter::once(word).chain(words).collect();
                options.command = command.join(" ");
                return Parsed::Run(options);
            }
        }
    }
    Parsed::Run(options)
}

/// Text of `-h`.
pub fn help() -> String {
    let mut text = String::from(
        "occtl: [OPTIONS...] {COMMAND}\n\n\
         \x20 -s --socket-file       Specify the server's occtl socket file\n\
         \x20 -h --help              Show this help\n\
         \x20    --debug             Enable more verbose information in some commands\n\
         \x20 -v --version           Show the program's version\n\
         \x20 -j --json              Use JSON formatting for output\n\
         \x20 -n --no-pager          Do not use a pager\n\n",
    );
    let _ = writeln!(text, "{}", commands::help(commands::Listing::CommandLine));
    text
}

/// Greeting of interactive mode, and text of `-v`.
pub fn banner() -> String {
    format!(
        "OpenConnect server control (occtl) version {}\n\
         Part of ocserv-xdp, licensed under MIT or Apache-2.0; there is NO WARRANTY.\n\n\
         For help type ? or 'help'\n{}\n",
        env!("CARGO_PKG_VERSION"),
        "=".repeat(66)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Parsed {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn options(line: &str) -> Options {
        match parsed(line) {
            Parsed::Run(options) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_stand_before_the_command() {
        let all = options("-s /tmp/x -j -n --debug show users -j");
        assert_eq!(all.socket, PathBuf::from("/tmp/x"));
        assert!(all.json && !all.pager && all.debug);
        assert_eq!(all.command, "show users -j");
        assert_eq!(options("--socket-file=/y").socket, PathBuf::from("/y"));
        let none = options("");
        assert_eq!(none.socket, PathBuf::from("/var/run/occtl.socket"));
        assert!(!none.json && none.pager && !none.debug && none.command.is_empty());
    }

    #[test]
    fn what_is_not_understood_gets_help() {
        for line in ["-h", "--help", "--zzz", "-s", "-x show users"] {
            assert_eq!(parsed(line), Parsed::Help, "{line}");
        }
        assert_eq!(parsed("-v"), Parsed::Version);
    }

    #[test]
    fn help_has_the_measured_form() {
        let help = help();
        assert!(help.starts_with("occtl: [OPTIONS...] {COMMAND}\n\n  -s --socket-file "));
        assert!(help.contains("\n\nAvailable Commands\n disconnect user [NAME]\t"));
        assert!(help.ends_with("         stop now\tTerminates the server\n\n"));
    }
}
