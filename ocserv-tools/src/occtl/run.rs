//! Carries out commands: asks the server and renders the answer (cli.md §3).

use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use ocserv_proto::control::{Request, Response, SessionInfo};

use super::commands::{self, Action, Found, Listing};
use super::connection::{AskError, Connection, ask};
use super::format::Clock;
use super::options::Options;
use super::{bans, datapath, events, sessions, status, users};

/// Exit status of `show user` and `show id` without a match.
const NO_MATCH: u8 = 2;

/// What commands need to know.
#[derive(Debug)]
pub struct Session {
    socket: PathBuf,
    json: bool,
    debug: bool,
    /// `exit` was typed.
    pub ended: bool,
}

/// Exit status, and text for standard output.
type Outcome = (u8, String);

impl Session {
    /// With the options of the command line.
    pub fn new(options: &Options, json: bool) -> Self {
        Self {
            socket: options.socket.clone(),
            json,
            debug: options.debug,
            ended: false,
        }
    }

    /// Carries out one line of input.
    pub fn command(&mut self, input: &str) -> Outcome {
        match commands::find(input) {
            Found::Run(action, value) => self.run(action, &value),
            Found::Incomplete(list) => (1, list),
            Found::Unknown => {
                eprintln!("unknown command: {input}");
                eprintln!("use help or '?' to get a list of the available commands");
                (1, String::new())
            }
        }
    }

    /// One request, one answer.
    pub fn ask(&self, request: &Request) -> Result<Response, AskError> {
        ask(&self.socket, request)
    }

    fn run(&mut self, action: Action, value: &str) -> Outcome {
        match action {
            Action::Help => (0, commands::help(Listing::Interactive)),
            Action::Exit => {
                self.ended = true;
                (0, String::new())
            }
            Action::Reset => {
                reset_terminal();
                (0, String::new())
            }
            Action::Status => self.status(),
            Action::Datapath => self.datapath(),
            Action::Users => self.users(&Request::Users, users::table),
            Action::User => self.one_user(&Request::User(value.to_owned())),
            Action::Id => match value.parse() {
                Ok(id) => self.one_user(&Request::Id(id)),
                Err(_) => (1, commands::beginning_with("")),
            },
            Action::Iroutes => self.iroutes(),
            Action::SessionsAll => self.sessions(&Request::SessionsAll),
            Action::SessionsValid => self.sessions(&Request::SessionsValid),
            Action::Session => self.one_session(value),
            Action::IpBans | Action::IpBanPoints => self.bans(action == Action::IpBans),
            Action::Events => self.events(),
            _ => self.order(action, value),
        }
    }

    /// Commands that change something.
    fn order(&self, action: Action, value: &str) -> Outcome {
        let id = value.parse::<u32>();
        match (action, id) {
            (Action::DisconnectId | Action::TerminateId, Err(_)) => {
                (1, commands::beginning_with(""))
            }
            (Action::DisconnectId, Ok(id)) => self.tell(
                &Request::DisconnectId(id),
                &format!("connection ID '{value}' was disconnected"),
                &format!("could not disconnect ID '{value}'"),
            ),
            (Action::TerminateId, Ok(id)) => self.tell(
                &Request::TerminateId(id),
                &format!("connection ID '{value}' was terminated (session invalidated)"),
                &format!("could not terminate ID '{value}'"),
            ),
            (Action::DisconnectUser, _) => self.tell(
                &Request::DisconnectUser(value.to_owned()),
                &format!("user '{value}' was disconnected"),
                &format!("could not disconnect user '{value}'"),
            ),
            (Action::TerminateUser, _) => self.tell(
                &Request::TerminateUser(value.to_owned()),
                &format!("user '{value}' was terminated (session invalidated)"),
                &format!("could not terminate user '{value}'"),
            ),
            (Action::TerminateSession, _) => self.terminate_session(value),
            (Action::UnbanIp, _) => self.unban(value),
            (Action::Reload, _) => self.schedule(
                &Request::Reload,
                "Server scheduled to reload",
                "scheduling reload",
            ),
            _ => self.schedule(
                &Request::Stop,
                "Server scheduled to stop",
                "scheduling server stop",
            ),
        }
    }

    fn tell(&self, request: &Request, done: &str, failed: &str) -> Outcome {
        match self.ask(request) {
            Ok(Response::Done) => (0, format!("{done}\n")),
            Ok(_) => (1, format!("{failed}\n")),
            Err(error) => complain(&error),
        }
    }

    fn schedule(&self, request: &Request, done: &str, failed: &str) -> Outcome {
        match self.ask(request) {
            Ok(Response::Done) => (0, format!("{done}\n")),
            Err(error @ AskError::Connect(_)) => complain(&error),
            Ok(Response::Failed(reason)) => {
                eprintln!("{reason}");
                (1, format!("Error {failed}\n"))
            }
            Ok(_) | Err(AskError::Answer) => (1, format!("Error {failed}\n")),
        }
    }

    fn unban(&self, value: &str) -> Outcome {
        let Ok(ip) = value.parse::<IpAddr>() else {
            eprintln!("Cannot parse IP: {value}");
            return (1, String::new());
        };
        let done = format!("IP '{value}' was unbanned");
        self.tell(
            &Request::UnbanIp(ip),
            &done,
            &format!("could not unban IP '{value}'"),
        )
    }

    fn terminate_session(&self, value: &str) -> Outcome {
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        if value.len() > 28 || !value.bytes().all(is_base64) {
            eprintln!("invalid session ID '{value}'");
            return (1, String::new());
        }
        match self.ask(&Request::TerminateSession(value.to_owned())) {
            Ok(Response::Terminated {
                session,
                username,
                in_use,
            }) => {
                let short = session.get(..6).unwrap_or(&session);
                if in_use {
                    eprintln!(
                        "warning: session '{short}' (user: {username}) has an active connection; \
                         the connection will not be dropped"
                    );
                }
                (0, format!("session '{short}' was terminated\n"))
            }
            Ok(Response::Sessions(list)) => (1, ambiguous(value, &list)),
            Ok(_) => {
                let short = value.get(..6).unwrap_or(value);
                (1, format!("could not terminate session '{short}'\n"))
            }
            Err(error) => complain(&error),
        }
    }

    fn status(&self) -> Outcome {
        let clock = Clock::system();
        match self.ask(&Request::Status) {
            Ok(Response::Status(info)) if self.json => (0, status::json(&info, self.debug, &clock)),
            Ok(Response::Status(info)) => (0, status::text(&info, self.debug, &clock)),
            Err(error @ AskError::Connect(_)) => complain(&error),
            Ok(_) | Err(AskError::Answer) => (1, status::offline(self.json)),
        }
    }

    fn datapath(&self) -> Outcome {
        match self.ask(&Request::Datapath) {
            Ok(Response::Datapath(info)) if self.json => (0, datapath::json(&info)),
            Ok(Response::Datapath(info)) => (0, datapath::text(&info)),
            Ok(other) => unexpected(other),
            Err(error) => complain(&error),
        }
    }

    fn users(
        &self,
        request: &Request,
        text: fn(&[ocserv_proto::control::UserInfo], &Clock) -> String,
    ) -> Outcome {
        let clock = Clock::system();
        match self.ask(request) {
            Ok(Response::Users(list)) if self.json => (0, users::json(&list, &clock)),
            Ok(Response::Users(list)) => (0, text(&list, &clock)),
            Ok(other) => unexpected(other),
            Err(error) => complain(&error),
        }
    }

    fn one_user(&self, request: &Request) -> Outcome {
        let (code, text) = self.users(request, users::details);
        match (code, self.json) {
            (0, false) if text.is_empty() => {
                eprintln!("user or ID not found");
                (NO_MATCH, text)
            }
            (0, true) if text == users::json(&[], &Clock::system()) => (NO_MATCH, text),
            _ => (code, text),
        }
    }

    fn iroutes(&self) -> Outcome {
        match self.ask(&Request::Iroutes) {
            Ok(Response::Users(list)) if self.json => (0, users::iroute_json(&list)),
            Ok(Response::Users(list)) => (0, users::iroute_table(&list)),
            Ok(other) => unexpected(other),
            Err(error) => complain(&error),
        }
    }

    fn sessions(&self, request: &Request) -> Outcome {
        let clock = Clock::system();
        match self.ask(request) {
            Ok(Response::Sessions(list)) if self.json => (0, sessions::json(&list, &clock)),
            Ok(Response::Sessions(list)) => (0, sessions::table(&list, &clock)),
            Ok(other) => unexpected(other),
            Err(error) => complain(&error),
        }
    }

    fn one_session(&self, value: &str) -> Outcome {
        let clock = Clock::system();
        match self.ask(&Request::Session(value.to_owned())) {
            Ok(Response::Sessions(list)) if self.json => (0, sessions::json(&list, &clock)),
            Ok(Response::Sessions(list)) if list.is_empty() => {
                (0, "Session ID not found or expired\n".to_owned())
            }
            Ok(Response::Sessions(list)) => (0, sessions::details(&list, &clock)),
            Ok(other) => unexpected(other),
            Err(error) => complain(&error),
        }
    }

    fn bans(&self, only_bans: bool) -> Outcome {
        let clock = Clock::system();
        let request = if only_bans {
            Request::IpBans
        } else {
            Request::IpBanPoints
        };
        match self.ask(&request) {
            Ok(Response::Bans(list)) => {
                let text = match (only_bans, self.json) {
                    (true, true) => bans::ban_json(&list, &clock),
                    (true, false) => bans::ban_table(&list, &clock),
                    (false, true) => bans::point_json(&list),
                    (false, false) => bans::point_table(&list),
                };
                (0, text)
            }
            Ok(other) => unexpected(other),
            Err(error) => complain(&error),
        }
    }

    fn events(&self) -> Outcome {
        match Connection::open(&self.socket, &Request::Events) {
            Ok(connection) => (events::follow(connection, self.json), String::new()),
            Err(error) => complain(&error),
        }
    }
}

fn complain(error: &AskError) -> Outcome {
    eprintln!("{}", error.message());
    (1, String::new())
}

fn unexpected(response: Response) -> Outcome {
    match response {
        Response::Failed(reason) => eprintln!("{reason}"),
        _ => eprintln!("unexpected answer"),
    }
    (1, String::new())
}

fn ambiguous(value: &str, list: &[SessionInfo]) -> String {
    if list.is_empty() {
        return format!("no session matching '{value}' was found\n");
    }
    format!(
        "ambiguous session ID '{value}' matches {} sessions:\n{}\
         use the full session ID to terminate a specific session\n",
        list.len(),
        sessions::candidates(list)
    )
}

/// RIS of ECMA-48; a file or pipe has no state to reset.
fn reset_terminal() {
    let mut stdout = std::io::stdout();
    if stdout.is_terminal() {
        let _ = stdout.write_all(b"\x1bc");
        let _ = stdout.flush();
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
