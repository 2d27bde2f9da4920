//! Reading the main file: from lines to a checked [`Config`].

use super::checks;
use super::draft::{VhostDraft, default_config};
use super::error::{ConfigError, Message, Place};
use super::keys::{self, Key, LaterKey, Scope, Setter, Status, later_keys};
use super::lines::{Line, Lines, MAX_LINE};
use super::types::Config;
use super::value::{Read, Value, strip};

/// A file that was accepted.
#[derive(Debug)]
pub struct Parsed {
    /// Its values.
    pub config: Config,
    /// To be printed before logging is set up, in this order.
    pub messages: Vec<Message>,
    /// Keys in use whose feature is not built yet; each has its warning in `messages` too.
    pub later: Vec<LaterKey>,
}

/// What the process is given besides the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Environment {
    /// Listening sockets are handed over (socket activation): `tcp-port` may be missing.
    pub sockets_given: bool,
}

/// Reads a main configuration file. `source` is its name for messages.
pub fn parse(source: &str, text: &[u8]) -> Result<Parsed, ConfigError> {
    parse_in(source, text, Environment::default())
}

/// [`parse`], where the process has been given more than the file.
pub fn parse_in(
    source: &str,
    text: &[u8],
    environment: Environment,
) -> Result<Parsed, ConfigError> {
    let mut reader = Reader {
        source,
        config: default_config(),
        vhosts: vec![VhostDraft::first()],
        section: Section::Vhost(0),
        messages: Vec::new(),
        used: Vec::new(),
    };
    let mut lines = Lines::new(text);
    for (number, line) in lines.by_ref() {
        reader.line(number, line)?;
    }
    for number in lines.too_long {
        let text = format!("{source}:{number}: line cut after {MAX_LINE} bytes");
        reader.messages.push(Message::warning(text));
    }
    reader.finish(environment)
}

enum Section {
    /// Index of the vhost; 0 is where the file begins.
    Vhost(usize),
    /// Unknown: its keys are ignored.
    Skipped,
}

struct Reader<'a> {
    source: &'a str,
    config: Config,
    vhosts: Vec<VhostDraft>,
    section: Section,
    messages: Vec<Message>,
    /// Keys that were given and do not merely switch something off.
    used: Vec<&'static str>,
}

impl Reader<'_> {
    fn place(&self, line: usize) -> Place {
        Place {
            source: self.source.to_owned(),
            line: Some(line),
        }
    }

    fn line(&mut self, number: usize, line: Line<'_>) -> Read<()> {
        match line {
            Line::Section(name) => self.section(number, &String::from_utf8_lossy(name)),
            Line::Setting { key, value } => self.setting(number, key, value),
            Line::Malformed => Err(ConfigError::new(
                self.place(number),
                format!("error: config file error in line {number}"),
                "write 'key = value', '[vhost:name]' or a comment",
            )),
        }
    }

    fn section(&mut self, number: usize, section: &str) -> Read<()> {
        let Some(given) = section.strip_prefix("vhost:") else {
            let text = format!("skipping unknown section '{section}'");
            self.messages.push(Message::warning(text));
            self.section = Section::Skipped;
            return Ok(());
        };
        let Some(name) = canonical_host(given) else {
            return Err(ConfigError::new(
                self.place(number),
                format!("error: virtual host name is illegal '{given}'"),
                "write [vhost:www.example.com]",
            ));
        };
        let known = self.vhosts.iter().skip(1);
        let known = known
            .map(|v| v.config.name.as_str())
            .position(|n| n.eq_ignore_ascii_case(&name));
        if let Some(index) = known {
            self.section = Section::Vhost(index + 1);
            return Ok(());
        }
        if name != given {
            let text = format!("virtual host name '{given}' was canonicalized to '{name}'");
            self.messages.push(Message::note(text));
        }
        self.messages
            .push(Message::note(format!("adding virtual host: {name}")));
        let draft = self.vhosts[0].inherit(name);
        self.vhosts.push(draft);
        self.section = Section::Vhost(self.vhosts.len() - 1);
        Ok(())
    }

    fn setting(&mut self, number: usize, name: &[u8], value: &[u8]) -> Read<()> {
        let Section::Vhost(index) = self.section else {
            return Ok(());
        };
        let name = String::from_utf8_lossy(name);
        let Some(key) = keys::find(&name).filter(|key| key.scope != Scope::User) else {
            self.messages.push(Message::warning(format!(
                "skipping unknown option '{name}'"
            )));
            return Ok(());
        };
        self.check_scope(number, key, index)?;
        let raw = text_of(&mut self.messages, self.source, number, key, value)?;
        let mut value = Value {
            key: key.name,
            text: strip(&raw),
            raw: &raw,
            place: Place {
                source: self.source.to_owned(),
                line: Some(number),
            },
            messages: &mut self.messages,
            off: false,
        };
        let draft = &mut self.vhosts[index];
        match key.setter {
            Setter::Global(set) => set(&mut self.config, &mut value)?,
            Setter::Vhost(set) => set(draft, &mut value)?,
            Setter::User(set) => set(&mut draft.user, &mut value)?,
        }
        draft.remember(key.name, number);
        if !value.off && !self.used.contains(&key.name) {
            self.used.push(key.name);
        }
        Ok(())
    }

    fn check_scope(&mut self, number: usize, key: &Key, vhost: usize) -> Read<()> {
        if vhost == 0 || !matches!(key.scope, Scope::Global | Scope::GlobalFixed) {
            return Ok(());
        }
        let name = key.name;
        if LENIENT_GLOBALS.contains(&name) {
            let text = format!(
                "{}:{number}: '{name}' holds for all virtual hosts",
                self.source
            );
            self.messages.push(Message::warning(text));
            return Ok(());
        }
        Err(ConfigError::new(
            self.place(number),
            format!("error: '{name}' cannot be set inside a virtual host section"),
            "move the line above the first section",
        ))
    }

    fn finish(mut self, environment: Environment) -> Result<Parsed, ConfigError> {
        let (default, others) = self.vhosts.split_first_mut().expect("begins with one");
        for vhost in others {
            vhost.complete_from(&default.config);
        }
        for vhost in &mut self.vhosts {
            vhost.settle_user();
        }
        for vhost in &self.vhosts {
            checks::check_methods(vhost, self.source, &mut self.messages)?;
        }
        checks::derive_global(&mut self.config);
        checks::check_global(&self.config, &self.vhosts[0], self.source, environment)?;
        let idle = checks::idle_keys(&self.config, &self.vhosts[0], self.source);
        self.messages.extend(idle);
        for vhost in &mut self.vhosts {
            checks::check_vhost(&self.config, vhost, self.source, &mut self.messages)?;
        }
        let later = later_keys(&self.used);
        self.messages.extend(later.iter().map(|later| {
            let LaterKey { key, feature } = later;
            Message::warning(format!("'{key}': not supported yet: {feature}"))
        }));
        self.messages.extend(
            keys::all()
                .filter(|k| self.used.contains(&k.name))
                .filter_map(|k| match k.status {
                    Status::Ignored(why) => {
                        Some(Message::note(format!("'{}' has no effect: {why}", k.name)))
                    }
                    Status::Works | Status::Later(_) => None,
                }),
        );
        self.config.vhosts = self.vhosts.into_iter().map(|vhost| vhost.config).collect();
        Ok(Parsed {
            config: self.config,
            messages: self.messages,
            later,
        })
    }
}

/// Global keys that the reference lets pass in a section (config.md 2.5).
const LENIENT_GLOBALS: [&str; 4] = ["listen-netns", "pid-file", "log-level", "syslog-facility"];

/// The name trimmed and, if it is not ASCII, IDNA-mapped; `None` if it is no host name.
fn canonical_host(given: &str) -> Option<String> {
    let name = strip(given);
    if name.is_empty() || name.chars().any(|c| c.is_control() || c == ' ') {
        return None;
    }
    if name.is_ascii() {
        return Some(name.to_owned());
    }
    idna::domain_to_ascii(name)
        .ok()
        .filter(|name| !name.is_empty())
}

/// The value as text. Control characters would end up in headers and environments.
pub(super) fn text_of(
    messages: &mut Vec<Message>,
    source: &str,
    line: usize,
    key: &Key,
    value: &[u8],
) -> Read<String> {
    let text = String::from_utf8_lossy(value);
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(ConfigError::new(
            Place {
                source: source.to_owned(),
                line: Some(line),
            },
            format!("error: '{}' has a control character in its value", key.name),
            "remove it",
        ));
    }
    if let std::borrow::Cow::Owned(_) = text {
        let text = format!(
            "{source}:{line}: '{}' is not UTF-8; unreadable bytes replaced",
            key.name
        );
        messages.push(Message::warning(text));
    }
    Ok(text.into_owned())
}
