//! The seam for authentication methods: one method, one module, one implementation of
//! [`AuthMethod`].
//!
//! A method may block (files, servers): its calls run on threads of their own, never on the
//! runtime's.

use std::sync::Arc;

use ocserv_proto::config::{AuthMethod as Configured, VhostConfig};
use ocserv_proto::secret::Secret;

use super::plain::Plain;

/// A configured method of one vhost.
pub trait AuthMethod: Send + Sync {
    /// Begins the dialogue with one user.
    fn begin(&self, username: &str) -> Box<dyn Dialogue>;

    /// Every group that the method knows (`auto-select-group`).
    fn group_names(&self) -> Vec<String>;
}

/// One user's login.
pub trait Dialogue: Send {
    /// What to ask first.
    fn first(&mut self) -> Prompt;

    /// Takes an answer.
    fn answer(&mut self, answer: &Secret) -> Verdict;
}

/// A question to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Text of the form.
    pub message: String,
    /// 0: the password; n > 0: the n-th further question (protocol.md §4.3).
    pub counter: u32,
}

/// What an answer led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The user must answer this too.
    Ask {
        /// The question.
        prompt: Prompt,
        /// The answer before was wrong: it costs points.
        wrong: bool,
    },
    /// The answer was wrong, and it was the last try.
    Failed,
    /// The user is who he says.
    Passed {
        /// His groups; the first is the default.
        groups: Vec<String>,
    },
}

/// The method by which users of `vhost` log in.
///
/// # Errors
/// When no configured alternative can be served. A combination is never served in part: that would
/// drop a factor.
pub fn for_vhost(vhost: &VhostConfig) -> Result<Arc<dyn AuthMethod>, String> {
    let alternatives = std::iter::once(vhost.auth.as_slice())
        .chain(vhost.enable_auth.iter().map(std::slice::from_ref));
    for alternative in alternatives {
        if let [
            Configured::Plain {
                passwd: Some(passwd),
                otp: None,
            },
        ] = alternative
        {
            return Ok(Arc::new(Plain::new(passwd.clone())));
        }
    }
    let words: Vec<&str> = vhost
        .auth
        .iter()
        .chain(&vhost.enable_auth)
        .map(Configured::name)
        .collect();
    let name = if vhost.name.is_empty() {
        "default"
    } else {
        &vhost.name
    };
    Err(format!(
        "vhost:{name}: authentication by '{}' is not available: use 'plain[passwd=FILE]'",
        words.join("+")
    ))
}
