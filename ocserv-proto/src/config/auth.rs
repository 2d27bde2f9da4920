//! Authentication and accounting methods with their sub-options (config.md §3).

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A method of `auth`, `enable-auth` or `acct`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthMethod {
    /// Password file.
    Plain {
        /// ocpasswd file; `None`: no password is asked (one-time passwords only).
        passwd: Option<PathBuf>,
        /// users.oath file.
        otp: Option<PathBuf>,
    },
    /// PAM.
    Pam {
        /// PAM service name.
        service: String,
        /// Lowest unix gid that `auto-select-group` offers.
        gid_min: u32,
    },
    /// RADIUS.
    Radius {
        /// Client configuration file.
        config: PathBuf,
        /// Per-user settings come from RADIUS.
        groupconfig: bool,
        /// NAS-Identifier.
        nas_identifier: Option<String>,
        /// Separator of group names in Class: `;` or `,`.
        group_separator: char,
    },
    /// Kerberos.
    Gssapi {
        /// Service keytab; `None`: the system's.
        keytab: Option<PathBuf>,
        /// The principal must map to a local account.
        require_local_user_map: bool,
        /// The ticket must be newer than this.
        tgt_freshness_time: Option<Duration>,
        /// Lowest unix gid that `auto-select-group` offers.
        gid_min: u32,
    },
    /// OpenID Connect bearer tokens.
    Oidc {
        /// JSON configuration file.
        config: PathBuf,
    },
    /// TLS client certificate.
    Certificate,
}

impl AuthMethod {
    /// The method's word in the file and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plain { .. } => "plain",
            Self::Pam { .. } => "pam",
            Self::Radius { .. } => "radius",
            Self::Gssapi { .. } => "gssapi",
            Self::Oidc { .. } => "oidc",
            Self::Certificate => "certificate",
        }
    }

    /// Whether the user types a name and a password.
    pub fn asks_password(&self) -> bool {
        matches!(
            self,
            Self::Plain { .. } | Self::Pam { .. } | Self::Radius { .. }
        )
    }

    /// The same method without the names of its files.
    pub fn without_files(&self) -> Self {
        match self.clone() {
            Self::Plain { .. } => Self::Plain {
                passwd: None,
                otp: None,
            },
            Self::Radius {
                groupconfig,
                nas_identifier,
                group_separator,
                ..
            } => Self::Radius {
                config: PathBuf::new(),
                groupconfig,
                nas_identifier,
                group_separator,
            },
            Self::Gssapi {
                require_local_user_map,
                tgt_freshness_time,
                gid_min,
                ..
            } => Self::Gssapi {
                keytab: None,
                require_local_user_map,
                tgt_freshness_time,
                gid_min,
            },
            Self::Oidc { .. } => Self::Oidc {
                config: PathBuf::new(),
            },
            other => other,
        }
    }
}
