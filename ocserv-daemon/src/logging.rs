//! Logs: tracing events to stderr, syslog or journald, in the line forms of behaviour.md §15.
//!
//! An event may carry two fields that become part of the prefix, `user` and `remote`:
//! `main[alice]:192.0.2.7:5501 new user session`. Other fields follow the text as `name=value`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The journal's native socket.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// This project's crates.
const OWN: [&str; 3] = ["ocserv_daemon", "ocserv_proto", "ocserv_sys"];

/// Where the lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Standard error, each line begins with `ocserv[PID]: `.
    Stderr,
    /// `/dev/log`, with a facility number (RFC 5424 §6.2.1).
    Syslog(u8),
    /// The journal's native socket, with a facility number.
    Journald(u8),
}

/// How a process logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where to.
    pub targets: Vec<Target>,
    /// `-d` or `log-level`, 0 to 9.
    pub level: u8,
}

/// The largest tracing level that `-d` asks for (behaviour.md §15: 2 is info, 3 debug, from 4 on
/// headers and packets).
fn max_level(level: u8) -> Level {
    match level {
        0 => Level::ERROR,
        1 => Level::WARN,
        2 => Level::INFO,
        3 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

/// Number of a `syslog-facility` name, `None` for an unknown one.
pub fn facility(name: &str) -> Option<u8> {
    let number = match name {
        "user" => 1,
        "daemon" => 3,
        "auth" => 4,
        "authpriv" => 10,
        _ => {
            16 + name
                .strip_prefix("local")?
                .parse::<u8>()
                .ok()
                .filter(|n| *n < 8)?
        }
    };
    Some(number)
}

/// Syslog as this system has it: the journal where it runs, `/dev/log` elsewhere.
pub fn system_log(facility: u8) -> Target {
    if std::path::Path::new(JOURNAL).exists() {
        Target::Journald(facility)
    } else {
        Target::Syslog(facility)
    }
}

/// Installs the subscriber of this process. `who` is the prefix: `main`, `sec-mod`, `worker`.
/// Sockets are opened here, before the process gives up its rights.
pub fn install(who: &'static str, settings: &Settings) {
    let sink = |target: &Target| match target {
        Target::Stderr => Some(Sink::Stderr),
        // Without a log daemon stderr must do, but each line once.
        other => other
            .daemon()
            .or_else(|| (!settings.targets.contains(&Target::Stderr)).then_some(Sink::Stderr)),
    };
    let log = Log {
        who,
        sinks: settings.targets.iter().filter_map(sink).collect(),
        own: LevelFilter::from_level(max_level(settings.level)),
        // Libraries speak from level 9 on ("TLS library").
        others: if settings.level >= 9 {
            LevelFilter::TRACE
        } else {
            LevelFilter::ERROR
        },
    };
    // A second call (tests that run several roles in one process) keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(log);
}

impl Target {
    /// The socket of the log daemon. It stays connected: a confined process may not name one.
    fn daemon(self) -> Option<Sink> {
        let connect = |path: &str| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect(path).ok()?;
            // A log daemon that hangs must not stop the server.
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        };
        match self {
            Self::Stderr => None,
            Self::Syslog(facility) => Some(Sink::Syslog {
                socket: connect("/dev/log")?,
                facility,
            }),
            Self::Journald(facility) => Some(Sink::Journald {
                socket: connect(JOURNAL)?,
                facility,
            }),
        }
    }
}

enum Sink {
    Stderr,
    Syslog { socket: UnixDatagram, facility: u8 },
    Journald { socket: UnixDatagram, facility: u8 },
}

/// Writes a line for each event. There are no spans.
struct Log {
    who: &'static str,
    sinks: Vec<Sink>,
    /// For this project's crates.
    own: LevelFilter,
    others: LevelFilter,
}

impl Log {
    fn limit(&self, target: &str) -> LevelFilter {
        let is_own = OWN.iter().any(|name| target.starts_with(name));
        if is_own { self.own } else { self.others }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.limit(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.own.max(self.others))
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = fields.line(self.who);
        for sink in &self.sinks {
            sink.write(&line, *event.metadata().level());
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Sink {
    fn write(&self, line: &str, level: Level) {
        let pid = std::process::id();
        // A log that cannot be written has nowhere to be reported.
        match self {
            Self::Stderr => {
                let line = format!("ocserv[{pid}]: {line}\n");
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            Self::Syslog { socket, facility } => {
                let priority = u32::from(*facility) * 8 + severity(level);
                let line = format!("<{priority}>ocserv[{pid}]: {line}");
                let _ = socket.send(line.as_bytes());
            }
            Self::Journald { socket, facility } => {
                let _ = socket.send(&journal_entry(line, level, *facility));
            }
        }
    }
}

/// An entry of the journal's native protocol. The line holds no control character, so the simple
/// form of its fields serves.
fn journal_entry(line: &str, level: Level, facility: u8) -> Vec<u8> {
    format!(
        "MESSAGE={line}\nPRIORITY={}\nSYSLOG_FACILITY={facility}\nSYSLOG_IDENTIFIER=ocserv\nSYSLOG_PID={}\n",
        severity(level),
        std::process::id()
    )
    .into_bytes()
}

fn severity(level: Level) -> u32 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    user: String,
    remote: String,
    others: String,
}

impl Fields {
    fn line(&self, who: &str) -> String {
        let mut line = who.to_owned();
        if !self.user.is_empty() {
            let _ = write!(line, "[{}]", self.user);
        }
        line.push(':');
        if !self.remote.is_empty() {
            line.push_str(&self.remote);
        }
        let _ = write!(line, " {}{}", self.message, self.others);
        // Text from clients must not start a line of its own.
        line.replace(|c: char| c.is_control(), " ")
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "user" => write!(self.user, "{value:?}"),
            "remote" => write!(self.remote, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "user" => self.user.push_str(value),
            "remote" => self.remote.push_str(value),
            _ => self.record_debug(field, &value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_reference_form_and_stay_one_line() {
        let fields = Fields {
            message: "user logged in\nforged".to_owned(),
            user: "alice".to_owned(),
            remote: "192.0.2.7:5501".to_owned(),
            others: " n=1".to_owned(),
        };
        assert_eq!(
            fields.line("main"),
            "main[alice]:192.0.2.7:5501 user logged in forged n=1"
        );
        let bare = Fields {
            message: "hello".to_owned(),
            ..Fields::default()
        };
        assert_eq!(bare.line("sec-mod"), "sec-mod: hello");
    }

    #[test]
    fn a_journal_entry_has_one_line_a_field() {
        let entry = String::from_utf8(journal_entry("main: hello", Level::WARN, 3)).unwrap();
        let fields: Vec<&str> = entry.lines().collect();
        assert_eq!(
            fields[..3],
            ["MESSAGE=main: hello", "PRIORITY=4", "SYSLOG_FACILITY=3"]
        );
    }

    #[test]
    fn libraries_speak_less_than_this_project() {
        let log = Log {
            who: "main",
            sinks: Vec::new(),
            own: LevelFilter::from_level(max_level(2)),
            others: LevelFilter::ERROR,
        };
        assert_eq!(log.limit("ocserv_daemon::gate"), LevelFilter::INFO);
        assert_eq!(log.limit("rustls::server"), LevelFilter::ERROR);
        assert_eq!(log.max_level_hint(), Some(LevelFilter::INFO));
        tracing::subscriber::with_default(log, || {
            assert!(tracing::enabled!(target: "ocserv_proto", Level::INFO));
            assert!(!tracing::enabled!(target: "ocserv_proto", Level::DEBUG));
            assert!(tracing::enabled!(target: "rustls", Level::ERROR));
            assert!(!tracing::enabled!(target: "rustls", Level::WARN));
        });
    }

    #[test]
    fn facilities_have_their_numbers() {
        assert_eq!(facility("daemon"), Some(3));
        assert_eq!(facility("local7"), Some(23));
        assert_eq!(facility("local8"), None);
        assert_eq!(facility("mail"), None);
    }
}
