//! Interactive mode: a prompt with history and completion (cli.md §3).

use std::io::IsTerminal;

use ocserv_proto::control::{Request, Response};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};

use super::commands::{Action, Argument, COMMANDS};
use super::options::{Options, banner};
use super::run::Session;
use super::screen;

/// Reads commands until `exit` or the end of input. Returns the exit status.
pub fn run(options: &Options) -> u8 {
    eprint!("{}", banner());
    let mut editor = match Editor::<Completion, DefaultHistory>::new() {
        Ok(editor) => editor,
        Err(error) => {
            eprintln!("cannot use the terminal: {error}");
            return 1;
        }
    };
    editor.set_helper(Some(Completion {
        session: Session::new(options, false),
    }));
    // A pager would wait for keys that a script on standard input does not press.
    let terminals = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let pager = options.pager && terminals;
    let mut session = Session::new(options, false);
    while !session.ended {
        match editor.readline("> ") {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                // A line that is not remembered is only less comfortable.
                let _ = editor.add_history_entry(line.as_str());
                let (_, output) = session.command(line.trim());
                screen::show(&output, pager);
            }
            Err(ReadlineError::Interrupted) => {}
            Err(_) => break,
        }
    }
    0
}

struct Completion {
    session: Session,
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..pos).unwrap_or(line);
        Ok((0, candidates(typed, |action| self.values(action))))
    }
}

impl Completion {
    /// What the server knows for the place after a command.
    fn values(&self, action: Action) -> Vec<String> {
        let request = match action {
            Action::UnbanIp => Request::IpBanPoints,
            Action::Session | Action::TerminateSession => Request::SessionsAll,
            _ => Request::Users,
        };
        let by_id = matches!(
            action,
            Action::Id | Action::DisconnectId | Action::TerminateId
        );
        match self.session.ask(&request) {
            Ok(Response::Bans(list)) => list.iter().map(|ban| ban.ip.to_string()).collect(),
            Ok(Response::Sessions(list)) => list.into_iter().map(|s| s.session).collect(),
            Ok(Response::Users(list)) if by_id => {
                list.iter().map(|user| user.id.to_string()).collect()
            }
            Ok(Response::Users(list)) => list.into_iter().map(|user| user.username).collect(),
            _ => Vec::new(),
        }
    }
}

/// Whole lines that `typed` may become.
fn candidates(typed: &str, values: impl Fn(Action) -> Vec<String>) -> Vec<String> {
    let names = COMMANDS.iter().map(|command| command.name.to_owned());
    let mut lines: Vec<String> = names.filter(|name| name.starts_with(typed)).collect();
    let command = COMMANDS.iter().find(|command| {
        let rest = typed.strip_prefix(command.name);
        matches!(command.argument, Argument::Value(_))
            && rest.is_some_and(|rest| rest.starts_with(' '))
    });
    if let Some(command) = command {
        let whole = values(command.action)
            .into_iter()
            .map(|v| format!("{} {v}", command.name));
        lines.extend(whole.filter(|line| line.starts_with(typed)));
    }
    lines.sort();
    lines.dedup();
    lines
}

impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Helper for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(action: Action) -> Vec<String> {
        match action {
            Action::User => vec!["test".to_owned(), "tost".to_owned(), "test".to_owned()],
            Action::Id => vec!["17".to_owned()],
            _ => Vec::new(),
        }
    }

    #[test]
    fn commands_and_values_are_completed() {
        assert_eq!(
            candidates("show ip", values),
            ["show ip ban points", "show ip bans"]
        );
        assert_eq!(candidates("show d", values), ["show datapath"]);
        assert_eq!(candidates("show user te", values), ["show user test"]);
        assert_eq!(
            candidates("show user ", values),
            ["show user test", "show user tost"]
        );
        assert_eq!(candidates("show id ", values), ["show id 17"]);
        assert_eq!(candidates("unban ip ", values), [""; 0]);
        assert_eq!(candidates("x", values), [""; 0]);
    }
}
