//! The text of one setting, and its reading by the reference's forgiving rules (config.md §1).

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, Message, Place};

/// A value that does not stop the start, or why it does.
pub(super) type Read<T> = Result<T, ConfigError>;

/// One setting as the key table sees it.
pub(super) struct Value<'a> {
    /// The key.
    pub key: &'static str,
    /// White space and quotes at both ends stripped.
    pub text: &'a str,
    /// Only white space stripped.
    pub raw: &'a str,
    /// Where it stands.
    pub place: Place,
    /// Where warnings go.
    pub messages: &'a mut Vec<Message>,
    /// The value switches something off: nothing to warn about if it is not built.
    pub off: bool,
}

impl Value<'_> {
    /// An error at this line.
    pub(super) fn refuse<T>(
        &self,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Read<T> {
        Err(ConfigError::new(self.place.clone(), message, remedy))
    }

    /// An error that the reference follows with its line number.
    pub(super) fn refuse_line<T>(&self, message: &str, remedy: impl Into<String>) -> Read<T> {
        let line = self.place.line.unwrap_or(0);
        self.refuse(
            format!("{message}\nerror: config file error in line {line}"),
            remedy,
        )
    }

    /// Adds a warning that names place and key.
    pub(super) fn warn(&mut self, what: impl std::fmt::Display) {
        let text = format!("{}: '{}': {what}", self.place, self.key);
        self.messages.push(Message::warning(text));
    }

    /// `true` or `yes` in any case; all else is false, with a warning unless it is a plain "no".
    pub(super) fn boolean(&mut self) -> Read<bool> {
        let is = |word: &str| self.text.eq_ignore_ascii_case(word);
        let yes = is("true") || is("yes");
        if !yes && !is("false") && !is("no") {
            self.warn(format!(
                "'{}' counts as 'false'; write 'true' or 'false'",
                self.text
            ));
        }
        self.off = !yes;
        Ok(yes)
    }

    /// A number by C's rules, kept within `min..=max`.
    pub(super) fn number(&mut self, min: i64, max: i64) -> Read<i64> {
        let (number, rest) = leading_number(self.text);
        if !rest.is_empty() || self.text.is_empty() {
            self.warn(format!("'{}' counts as {number}", self.text));
        }
        if !(min..=max).contains(&number) {
            let kept = number.clamp(min, max);
            self.warn(format!("{number} is out of range, {kept} is used"));
            return Ok(kept);
        }
        Ok(number)
    }

    /// A count or limit.
    pub(super) fn count(&mut self) -> Read<u32> {
        self.number(0, i64::from(u32::MAX)).map(|n| n as u32)
    }

    /// A port; one that cannot exist is an error.
    pub(super) fn port(&mut self) -> Read<u16> {
        let (number, _) = leading_number(self.text);
        if !(0..=65535).contains(&number) {
            let message = format!("error: '{}': {number} is not a port number", self.key);
            return self.refuse(message, "give a number from 0 to 65535");
        }
        self.number(0, 65535).map(|n| n as u16)
    }

    /// Seconds.
    pub(super) fn seconds(&mut self) -> Read<Duration> {
        self.count().map(|n| Duration::from_secs(n.into()))
    }

    /// Seconds, 0 = off.
    pub(super) fn seconds_or_off(&mut self) -> Read<Option<Duration>> {
        self.seconds().map(|d| (!d.is_zero()).then_some(d))
    }

    /// Milliseconds.
    pub(super) fn milliseconds(&mut self) -> Read<Duration> {
        self.count().map(|n| Duration::from_millis(n.into()))
    }

    /// Bytes per second, stored by the reference in thousands.
    pub(super) fn rate(&mut self) -> Read<u64> {
        let rate = u64::from(self.count()?) / 1000 * 1000;
        if rate == 0 && leading_number(self.text).0 > 0 {
            self.warn("below 1000 means no limit");
        }
        Ok(rate)
    }

    /// Text; empty counts as unset.
    pub(super) fn text(&mut self) -> Read<Option<String>> {
        Ok((!self.text.is_empty()).then(|| self.text.to_owned()))
    }

    /// A file or directory; empty counts as unset.
    pub(super) fn path(&mut self) -> Read<Option<PathBuf>> {
        Ok((!self.text.is_empty()).then(|| PathBuf::from(self.text)))
    }

    /// A name server: an address. Others are passed over, as they never worked.
    pub(super) fn name_server(&mut self) -> Read<Option<IpAddr>> {
        if self.text == "local" {
            return self.refuse(
                "error: the 'local' DNS keyword is no longer supported.",
                "give the server's address",
            );
        }
        self.address()
    }

    /// An address, or nothing with a warning.
    pub(super) fn address<T: std::str::FromStr>(&mut self) -> Read<Option<T>> {
        let address = self.text.parse().ok();
        if address.is_none() {
            self.warn(format!(
                "'{}' is not an address of the right kind; line ignored",
                self.text
            ));
        }
        Ok(address)
    }
}

/// Strips white space and quotes at both ends, any number of them (config.md 1.6).
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c == '"' || matches!(c, ' ' | '\t'..='\r'))
}

/// C's `strtol` with base 10: the number that the text begins with, and what follows it.
pub(super) fn leading_number(text: &str) -> (i64, &str) {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = unsigned.split_at(digits);
    if digits.is_empty() {
        return (0, text);
    }
    let magnitude = digits.bytes().fold(0i64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    (
        if text.starts_with('-') {
            -magnitude
        } else {
            magnitude
        },
        rest,
    )
}
