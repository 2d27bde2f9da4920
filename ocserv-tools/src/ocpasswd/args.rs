//! The command line of cli.md §6.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

const DEFAULT_FILE: &str = "/etc/ocserv/ocpasswd";

const USAGE: &str = "\
ocpasswd - password utility of the ocserv-xdp VPN gateway
Usage:  ocpasswd [ -<flag> [<val>] | --<name>[{=| }<val>] ]... [username]

   -c, --passwd=file          Password file
   -g, --groupname=str        User's group name
   -d, --delete               Delete user
   -l, --lock                 Lock user
   -u, --unlock               Unlock user
   -v, --version              output version information and exit
   -h, --help                 display extended usage information and exit

Sets the password of a user in the file of the 'plain' authentication method,
or changes the user's line in another way. The password is asked for on a
terminal, else it is the first line of standard input.
";

#[derive(Parser)]
#[command(name = "ocpasswd", disable_help_flag = true, infer_long_args = true)]
struct Args {
    #[arg(short = 'c', long = "passwd", default_value = DEFAULT_FILE)]
    file: PathBuf,
    #[arg(short, long = "groupname", visible_alias = "group")]
    groups: Option<String>,
    #[arg(short, long)]
    delete: bool,
    #[arg(short, long)]
    lock: bool,
    #[arg(short, long)]
    unlock: bool,
    #[arg(short, long)]
    help: bool,
    #[arg(short, long)]
    version: bool,
    usernames: Vec<String>,
}

/// What the command line asks for.
pub enum Command {
    /// Print this and end well.
    Print(String),
    /// Change the file.
    Change(Change),
}

/// A change of one user's line.
pub struct Change {
    /// The password file.
    pub file: PathBuf,
    /// Whose line.
    pub username: String,
    /// How.
    pub action: Action,
}

/// Kind of change.
pub enum Action {
    /// A new password; without groups the line gets `*`.
    Set {
        /// Comma list.
        groups: Option<String>,
    },
    /// Remove the line.
    Delete,
    /// Put the lock mark.
    Lock,
    /// Take the lock mark away.
    Unlock,
}

/// Reads the command line; the error is the text to print before failing.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let args = Args::try_parse_from(args).map_err(|error| {
        let text = error.to_string();
        let reason = text.lines().next().unwrap_or_default();
        format!(
            "ocpasswd: {}\n{USAGE}",
            reason.strip_prefix("error: ").unwrap_or(reason)
        )
    })?;
    if args.help {
        return Ok(Command::Print(USAGE.to_owned()));
    }
    if args.version {
        return Ok(Command::Print(format!(
            "ocpasswd - {}\n",
            env!("CARGO_PKG_VERSION")
        )));
    }
    let action = match (args.delete, args.lock, args.unlock) {
        (false, false, false) => Action::Set {
            groups: args.groups,
        },
        (true, false, false) => Action::Delete,
        (false, true, false) => Action::Lock,
        (false, false, true) => Action::Unlock,
        _ => return Err(USAGE.to_owned()),
    };
    let [username] = <[String; 1]>::try_from(args.usernames).map_err(|_| USAGE.to_owned())?;
    Ok(Command::Change(Change {
        file: args.file,
        username,
        action,
    }))
}
