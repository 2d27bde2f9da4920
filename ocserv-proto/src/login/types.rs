//! What goes into the dialogue and comes out of it.

use zeroize::Zeroizing;

use crate::secret::Secret;

/// An entry of the group list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The value that the server knows.
    pub name: String,
    /// What the user sees (`select-group = name[label]`); `None`: the name.
    pub label: Option<String>,
}

/// The `user-profile` file.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Last component of its path.
    pub file_name: String,
    /// SHA-1 of `content`, upper-case hex.
    pub sha1_hex: String,
    /// The file.
    pub content: Vec<u8>,
}

/// What a vhost says about the dialogue.
#[derive(Clone, Debug, Default)]
pub struct LoginSettings {
    /// Group list in file order, `auto-select-group` ones included.
    pub groups: Vec<Group>,
    /// Label of the entry that means "no group".
    pub default_select_group: Option<String>,
    /// The path of the URL may choose the group (also true with `cisco-client-compat`).
    pub select_group_by_url: bool,
    /// `banner`, shown after the login.
    pub banner: Option<String>,
    /// `pre-login-banner`, shown in the forms.
    pub pre_login_banner: Option<String>,
    /// `cookie-timeout`, seconds.
    pub cookie_timeout_secs: u64,
    /// SHA-1 of the DER of the first server certificate, upper-case hex.
    pub cert_sha1_hex: String,
    /// `user-profile`.
    pub profile: Option<Profile>,
    /// `included-http-headers`, whole lines.
    pub included_http_headers: Vec<String>,
}

/// What to do next.
#[derive(Debug)]
pub enum Action {
    /// Send these bytes; then close the connection (with alert access_denied after an error), or
    /// read the next request.
    Respond {
        /// A whole answer.
        bytes: Zeroizing<Vec<u8>>,
        /// Close after it.
        close: bool,
    },
    /// Ask secmod and give its answer to `Login::outcome`.
    Ask(Question),
    /// The request was CONNECT to the tunnel: open the session of this cookie.
    Tunnel {
        /// The 32 bytes of the `webvpn` cookie.
        cookie: Secret,
    },
    /// Close without an answer.
    Close,
}

/// A question to secmod.
#[derive(Debug, PartialEq, Eq)]
pub enum Question {
    /// A login begins.
    Start {
        /// 1 to 255 bytes without control characters.
        username: String,
        /// Chosen group; `None` for none or `default-select-group`.
        group: Option<String>,
        /// The password, if the form had one; at most 1024 bytes.
        password: Option<Secret>,
        /// `User-Agent`, at most 63 bytes; empty without.
        user_agent: String,
    },
    /// The next answer of a login.
    Continue {
        /// The 32 bytes of the `webvpncontext` cookie.
        sid: Secret,
        /// At most 1024 bytes.
        password: Secret,
    },
    /// Is this `webvpn` cookie good?
    Check {
        /// Its 32 bytes.
        cookie: Secret,
    },
}

/// Secmod's answer.
#[derive(Debug)]
pub enum Outcome {
    /// Ask the user for more.
    Challenge {
        /// For `webvpncontext`, 32 bytes.
        sid: Secret,
        /// Message of the form, unescaped; may have several lines.
        message: String,
        /// 0: input `password`, label `Password:`; n > 0: `secondary_password`, `Password<n>:`.
        counter: u32,
    },
    /// The login is complete.
    Granted {
        /// For `webvpn` and `webvpncontext`, 32 bytes.
        cookie: Secret,
    },
    /// The login failed for good.
    Denied {
        /// Reason phrase of protocol.md 4.5, e.g. `Authentication failed`.
        reason: String,
    },
    /// Answer to [`Question::Check`], and to [`Question::Continue`] of an unknown SID.
    Known(
        /// Whether it is.
        bool,
    ),
    /// As `Known(true)`, for a user whose own `user-profile` is to be served.
    OwnProfile(
        /// The file.
        Vec<u8>,
    ),
}

impl Group {
    /// What the user sees.
    pub fn text(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }
}
