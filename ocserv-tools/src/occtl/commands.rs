//! The table of commands, and how input finds its entry (cli.md §§2-3).

use std::fmt::Write as _;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `disconnect user`.
    DisconnectUser,
    /// `disconnect id`.
    DisconnectId,
    /// `terminate user`.
    TerminateUser,
    /// `terminate id`.
    TerminateId,
    /// `terminate session`.
    TerminateSession,
    /// `unban ip`.
    UnbanIp,
    /// `reload`.
    Reload,
    /// `show status`.
    Status,
    /// `show datapath`.
    Datapath,
    /// `show users`.
    Users,
    /// `show ip bans`.
    IpBans,
    /// `show ip ban points`.
    IpBanPoints,
    /// `show iroutes`.
    Iroutes,
    /// `show sessions all`.
    SessionsAll,
    /// `show sessions valid`.
    SessionsValid,
    /// `show session`.
    Session,
    /// `show user`.
    User,
    /// `show id`.
    Id,
    /// `show events`.
    Events,
    /// `stop now`.
    Stop,
    /// `reset`.
    Reset,
    /// `help`.
    Help,
    /// `exit`.
    Exit,
}

/// What follows a command's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Nothing; more words are ignored.
    None,
    /// A word that the help shows, and that may be missing.
    Word(&'static str),
    /// A value.
    Value(&'static str),
}

/// Where an entry is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listing {
    /// In `occtl -h` and below.
    CommandLine,
    /// In `help` and below.
    Interactive,
    /// Only after incomplete input.
    Hidden,
}

/// An entry of the table.
#[derive(Debug)]
pub struct Command {
    /// What must be typed.
    pub name: &'static str,
    /// What may follow.
    pub argument: Argument,
    help: &'static str,
    listing: Listing,
    /// What it does.
    pub action: Action,
}

const fn entry(
    name: &'static str,
    argument: Argument,
    help: &'static str,
    listing: Listing,
    action: Action,
) -> Command {
    Command {
        name,
        argument,
        help,
        listing,
        action,
    }
}

use Argument::{None as NoArgument, Value, Word};
use Listing::{CommandLine, Hidden, Interactive};

/// The order decides between names that are prefixes of each other.
#[rustfmt::skip]
pub const COMMANDS: [Command; 27] = [
    entry("disconnect user", Value("[NAME]"), "Disconnect the specified user", CommandLine, Action::DisconnectUser),
    entry("disconnect id", Value("[ID]"), "Disconnect the specified ID", CommandLine, Action::DisconnectId),
    entry("terminate user", Value("[NAME]"), "Disconnect user and invalidate session cookies", CommandLine, Action::TerminateUser),
    entry("terminate id", Value("[ID]"), "Disconnect ID and invalidate session cookies", CommandLine, Action::TerminateId),
    entry("terminate session", Value("[SID]"), "Invalidate the specified session of a disconnected user", CommandLine, Action::TerminateSession),
    entry("unban ip", Value("[IP]"), "Unban the specified IP", CommandLine, Action::UnbanIp),
    entry("reload", NoArgument, "Reloads the server configuration", CommandLine, Action::Reload),
    entry("show status", NoArgument, "Prints the status and statistics of the server", CommandLine, Action::Status),
    entry("show datapath", NoArgument, "Prints the paths that packets take and their statistics", CommandLine, Action::Datapath),
    entry("show users", NoArgument, "Prints the connected users", CommandLine, Action::Users),
    entry("show ip bans", NoArgument, "Prints the banned IP addresses", CommandLine, Action::IpBans),
    entry("show ip ban points", NoArgument, "Prints all the known IP addresses which have points", CommandLine, Action::IpBanPoints),
    entry("show iroutes", NoArgument, "Prints the routes provided by users of the server", CommandLine, Action::Iroutes),
    entry("show sessions all", NoArgument, "Prints all the session IDs", CommandLine, Action::SessionsAll),
    entry("show sessions valid", NoArgument, "Prints all the valid for reconnection sessions", CommandLine, Action::SessionsValid),
    entry("show session", Value("[SID]"), "Prints information on the specified session", CommandLine, Action::Session),
    entry("show user", Value("[NAME]"), "Prints information on the specified user", CommandLine, Action::User),
    entry("show id", Value("[ID]"), "Prints information on the specified ID", CommandLine, Action::Id),
    entry("show events", NoArgument, "Provides information about connecting users", CommandLine, Action::Events),
    entry("stop", Word("now"), "Terminates the server", CommandLine, Action::Stop),
    entry("reset", NoArgument, "Resets the screen and terminal", Interactive, Action::Reset),
    entry("help", Word("or ?"), "Prints this help", Interactive, Action::Help),
    entry("exit", NoArgument, "Exits this application", Interactive, Action::Exit),
    entry("?", NoArgument, "Prints this help", Hidden, Action::Help),
    entry("quit", NoArgument, "Exits this application", Hidden, Action::Exit),
    entry("show cookies all", NoArgument, "Alias for show sessions all", Hidden, Action::SessionsAll),
    entry("show cookies valid", NoArgument, "Alias for show sessions valid", Hidden, Action::SessionsValid),
];

/// What input means.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A command, with its value if it takes one.
    Run(Action, String),
    /// Not enough: the entries that it may become, in help form.
    Incomplete(String),
    /// Nothing begins like this.
    Unknown,
}

/// Looks up `input`: its words joined by one blank.
pub fn find(input: &str) -> Found {
    let input = input.split_whitespace().collect::<Vec<_>>().join(" ");
    let found = COMMANDS.iter().find_map(|command| {
        let (head, rest) = input.split_at_checked(command.name.len())?;
        head.eq_ignore_ascii_case(command.name)
            .then_some((command, rest.trim()))
    });
    match found {
        Some((command, value)) => match command.argument {
            Value(_) if value.is_empty() => Found::Incomplete(beginning_with("")),
            Value(_) => Found::Run(command.action, value.to_owned()),
            NoArgument | Word(_) => Found::Run(command.action, String::new()),
        },
        None => match beginning_with(&input) {
            list if list.is_empty() => Found::Unknown,
            list => Found::Incomplete(list),
        },
    }
}

/// Entries, hidden ones too, whose name begins with `start`, in help form.
pub fn beginning_with(start: &str) -> String {
    let begins = |command: &&Command| {
        command
            .name
            .get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start))
    };
    COMMANDS.iter().filter(begins).map(help_line).collect()
}

/// The list with its title.
pub fn help(listing: Listing) -> String {
    let mut text = String::from("Available Commands\n");
    let shown = COMMANDS.iter().filter(|command| command.listing <= listing);
    text.extend(shown.map(help_line));
    text
}

fn help_line(command: &Command) -> String {
    let mut line = String::new();
    let (name, help) = (command.name, command.help);
    let _ = match command.argument {
        NoArgument => writeln!(line, " {name:>16}\t{help:>16}"),
        Value(label) | Word(label) => writeln!(line, " {name:>12} {label}\t{help:>16}"),
    };
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(input: &str) -> (Action, String) {
        match find(input) {
            Found::Run(action, value) => (action, value),
            other => panic!("{input}: {other:?}"),
        }
    }

    #[test]
    fn the_first_entry_that_begins_the_input_wins() {
        assert_eq!(run("show users"), (Action::Users, String::new()));
        assert_eq!(run("SHOW USERS extra"), (Action::Users, String::new()));
        assert_eq!(run("  show   users "), (Action::Users, String::new()));
        assert_eq!(run("show statusx"), (Action::Status, String::new()));
        assert_eq!(run("show datapath"), (Action::Datapath, String::new()));
        assert_eq!(run("show user test"), (Action::User, "test".to_owned()));
        assert_eq!(
            run("disconnect userx"),
            (Action::DisconnectUser, "x".to_owned())
        );
        assert_eq!(
            run("show ip ban points"),
            (Action::IpBanPoints, String::new())
        );
        assert_eq!(run("show sessions"), (Action::Session, "s".to_owned()));
        assert_eq!(
            run("show cookies valid"),
            (Action::SessionsValid, String::new())
        );
        assert_eq!(run("stop"), (Action::Stop, String::new()));
        assert_eq!(run("stop now"), (Action::Stop, String::new()));
        assert_eq!(run("?"), (Action::Help, String::new()));
        assert_eq!(run("quit"), (Action::Exit, String::new()));
    }

    #[test]
    fn incomplete_and_unknown_input() {
        let bans = "     show ip bans\tPrints the banned IP addresses\n \
                    show ip ban points\tPrints all the known IP addresses which have points\n";
        assert_eq!(find("show ip"), Found::Incomplete(bans.to_owned()));
        let unban = "     unban ip [IP]\tUnban the specified IP\n";
        assert_eq!(find("unban"), Found::Incomplete(unban.to_owned()));
        assert_eq!(find("show user"), Found::Incomplete(beginning_with("")));
        assert_eq!(find("foo"), Found::Unknown);
        assert_eq!(find("sho sta"), Found::Unknown);
        assert_eq!(find("é"), Found::Unknown);
    }

    #[test]
    fn help_lists_as_measured() {
        // Output of the reference, version 1.1.6, with the three lines of 1.4.2 and our own one.
        let expected = concat!(
            "Available Commands\n",
            " disconnect user [NAME]\tDisconnect the specified user\n",
            " disconnect id [ID]\tDisconnect the specified ID\n",
            " terminate user [NAME]\tDisconnect user and invalidate session cookies\n",
            " terminate id [ID]\tDisconnect ID and invalidate session cookies\n",
            " terminate session [SID]\tInvalidate the specified session of a disconnected user\n",
            "     unban ip [IP]\tUnban the specified IP\n",
            "           reload\tReloads the server configuration\n",
            "      show status\tPrints the status and statistics of the server\n",
            "    show datapath\tPrints the paths that packets take and their statistics\n",
            "       show users\tPrints the connected users\n",
            "     show ip bans\tPrints the banned IP addresses\n",
            " show ip ban points\tPrints all the known IP addresses which have points\n",
            "     show iroutes\tPrints the routes provided by users of the server\n",
            " show sessions all\tPrints all the session IDs\n",
            " show sessions valid\tPrints all the valid for reconnection sessions\n",
            " show session [SID]\tPrints information on the specified session\n",
            "    show user [NAME]\tPrints information on the specified user\n",
            "      show id [ID]\tPrints information on the specified ID\n",
            "      show events\tProvides information about connecting users\n",
            "         stop now\tTerminates the server\n",
            "            reset\tResets the screen and terminal\n",
            "         help or ?\tPrints this help\n",
            "             exit\tExits this application\n",
        );
        assert_eq!(help(Listing::Interactive), expected);
        let all = beginning_with("");
        let hidden = concat!(
            "                ?\tPrints this help\n",
            "             quit\tExits this application\n",
            " show cookies all\tAlias for show sessions all\n",
            " show cookies valid\tAlias for show sessions valid\n",
        );
        assert!(all.ends_with(hidden), "{all}");
    }
}
