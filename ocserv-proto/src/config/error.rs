//! Errors and messages, with the reference's wording where it has one (config.md 1.12, §8).

use std::fmt;

/// Why a file is refused. Its text is complete, `error: ` included where the reference prints it;
/// a second line says where and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}\n  {place}: {remedy}")]
pub struct ConfigError {
    /// What is wrong; the reference's line.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to do.
    pub remedy: String,
}

impl ConfigError {
    pub(super) fn new(place: Place, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            place,
            remedy: remedy.into(),
        }
    }
}

/// A file, and the line in it if one is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file as the caller gave it.
    pub source: String,
    /// Counted from 1.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// Something to tell that does not stop the start. Displayed as `note: ...` or `warning: ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How grave.
    pub level: Level,
    /// Without the prefix.
    pub text: String,
}

impl Message {
    pub(super) fn note(text: impl Into<String>) -> Self {
        Self {
            level: Level::Note,
            text: text.into(),
        }
    }

    pub(super) fn warning(text: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            text: text.into(),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.level {
            Level::Note => "note",
            Level::Warning => "warning",
        };
        write!(f, "{prefix}: {}", self.text)
    }
}

/// Gravity of a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For information.
    Note,
    /// Something does not do what the file seems to want.
    Warning,
}
