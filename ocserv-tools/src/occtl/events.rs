//! `show events` (cli.md §4.7).

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use ocserv_proto::control::{Event, Response};

use super::connection::Connection;
use super::format::{Clock, printable, span};
use super::{json, users};

const HINT: &str = "\nPress 'q' or CTRL+C to quit\n\n";

/// Prints users, then events until 'q', the end of input, or the server's end. Returns the status.
pub fn follow(mut connection: Connection, json: bool) -> u8 {
    let users = match connection.receive() {
        Ok(Response::Users(users)) => users,
        Ok(_) => return failed("unexpected answer"),
        Err(error) => return failed(&error.message()),
    };
    let clock = Clock::system();
    match json {
        true => print(&users::json(&users, &clock)),
        false => print(&users::table(&users, &clock)),
    }
    print(HINT);
    let _keys = KeyMode::enter();
    loop {
        match wait(&connection) {
            Ok(Ready::Quit) => return 0,
            Ok(Ready::Nothing) => {}
            Ok(Ready::Event) => match connection.receive() {
                Ok(Response::Event(event)) => print(&line(&event, json, &Clock::system())),
                Ok(Response::Failed(reason)) => return failed(&reason),
                Ok(_) => return failed("unexpected answer"),
                Err(_) => return failed("server closed the connection"),
            },
            Err(error) => return failed(&error.to_string()),
        }
    }
}

fn failed(reason: &str) -> u8 {
    eprintln!("events: {reason}");
    1
}

fn print(text: &str) {
    // A reader that has left ends the command by its closed input.
    let _ = io::stdout().write_all(text.as_bytes());
    let _ = io::stdout().flush();
}

enum Ready {
    Event,
    Quit,
    Nothing,
}

fn wait(connection: &Connection) -> io::Result<Ready> {
    let stdin = io::stdin();
    let mut watched = [
        PollFd::new(connection.descriptor(), PollFlags::POLLIN),
        PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
    ];
    poll(&mut watched, PollTimeout::NONE)?;
    let [socket, keys] = watched.map(|fd| fd.any().unwrap_or(false));
    if socket {
        return Ok(Ready::Event);
    }
    let mut typed = [0; 64];
    if keys {
        let count = nix::unistd::read(stdin.as_fd(), &mut typed)?;
        let typed = typed.get(..count).unwrap_or_default();
        if typed.is_empty() || typed.contains(&b'q') {
            return Ok(Ready::Quit);
        }
    }
    Ok(Ready::Nothing)
}

/// Keys without Enter and echo, while this lives.
struct KeyMode(Option<Termios>);

impl KeyMode {
    fn enter() -> Self {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Self(None);
        }
        let Ok(before) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut keys = before.clone();
        keys.local_flags
            .remove(LocalFlags::ICANON | LocalFlags::ECHO);
        match tcsetattr(&stdin, SetArg::TCSANOW, &keys) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for KeyMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // The terminal may be gone.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// A line, or an array with one object: the user's, with what happened (the reference does not tell).
fn line(event: &Event, json: bool, clock: &Clock) -> String {
    let user = &event.user;
    if json {
        let mut object = users::object(user, clock);
        match &event.end {
            None => object.text("Event", "connected"),
            Some(end) => {
                object
                    .text("Event", "disconnected")
                    .text("Reason", &end.reason);
                object.number("raw_duration", end.duration)
            }
        };
        return json::array(&[object]);
    }
    let (what, end) = match &event.end {
        None => ("connected", String::new()),
        Some(end) => {
            let time = span(end.duration);
            (
                "disconnect",
                format!(" (reason: {}, time: {time})", printable(&end.reason)),
            )
        }
    };
    format!(
        "{}: {what} user '{}' ({}) from {} with IP {}{end}\n",
        user.vhost,
        printable(&user.username),
        user.id,
        users::remote_ip(user),
        users::vpn_ip(user)
    )
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::clock;
    use super::super::users::tests::user;
    use super::*;
    use ocserv_proto::control::EventEnd;

    fn left() -> Event {
        let end = EventEnd {
            reason: "user disconnected".to_owned(),
            duration: 3,
        };
        Event {
            user: user(),
            end: Some(end),
        }
    }

    #[test]
    fn lines_are_those_of_the_reference() {
        let came = Event {
            user: user(),
            end: None,
        };
        let expected =
            "default: connected user 'test' (14998) from 127.0.0.1 with IP 192.168.77.190\n";
        assert_eq!(line(&came, false, &clock()), expected);
        let expected = "default: disconnect user 'test' (14998) from 127.0.0.1 \
                        with IP 192.168.77.190 (reason: user disconnected, time:     3s)\n";
        assert_eq!(line(&left(), false, &clock()), expected);
    }

    #[test]
    fn json_tells_what_happened() {
        let text = line(&left(), true, &clock());
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed[0]["ID"], 14998);
        assert_eq!(parsed[0]["Event"], "disconnected");
        assert_eq!(parsed[0]["Reason"], "user disconnected");
        assert_eq!(parsed[0]["raw_duration"], 3);
    }
}
