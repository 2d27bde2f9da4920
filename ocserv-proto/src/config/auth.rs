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

/// Why a method is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MethodError {
    /// No such method.
    #[error("unknown or unsupported auth method")]
    Unknown,
    /// Brackets or pairs are wrong.
    #[error("error parsing {0}")]
    Syntax(String),
    /// No such sub-option of this method.
    #[error("unknown option '{0}'")]
    Option(String),
    /// A sub-option has no good value.
    #[error("{0}")]
    Value(&'static str),
}

/// Most `key=value` pairs of a method.
const MAX_OPTIONS: usize = 5;

/// A parsed method, and whether an old bracket form was used.
pub(super) struct ParsedMethod {
    pub method: AuthMethod,
    pub legacy: bool,
}

/// Reads `method` or `method[key=value,...]`, or the old forms with a path first.
pub(super) fn parse_method(text: &str) -> Result<ParsedMethod, MethodError> {
    let (name, options) = match text.split_once('[') {
        None => (text.trim(), None),
        Some((name, rest)) => {
            let syntax = || MethodError::Syntax(format!("[{rest}"));
            (
                name.trim(),
                Some(rest.trim_end().strip_suffix(']').ok_or_else(syntax)?),
            )
        }
    };
    let mut options = Options::parse(options.unwrap_or_default())?;
    let method = match name.to_ascii_lowercase().as_str() {
        "plain" => plain(&mut options)?,
        "pam" => AuthMethod::Pam {
            service: options
                .take("service")
                .unwrap_or_else(|| "ocserv".to_owned()),
            gid_min: options.number("gid-min")?.unwrap_or(0),
        },
        "radius" => radius(&mut options)?,
        "gssapi" => gssapi(&mut options)?,
        "oidc" => AuthMethod::Oidc {
            config: options.path("config").ok_or(NO_CONFIG)?,
        },
        "certificate" if options.pairs.is_empty() && options.old_path.is_none() => {
            AuthMethod::Certificate
        }
        "certificate" => return Err(MethodError::Value("'certificate' takes no options")),
        _ => return Err(MethodError::Unknown),
    };
    match options.pairs.first() {
        Some((key, _)) => Err(MethodError::Option(key.clone())),
        None => Ok(ParsedMethod {
            method,
            legacy: options.legacy,
        }),
    }
}

const NO_CONFIG: MethodError = MethodError::Value("the 'config' option is missing");

fn plain(options: &mut Options) -> Result<AuthMethod, MethodError> {
    let passwd = options.old_path.take().or_else(|| options.path("passwd"));
    let otp = options.path("otp");
    if passwd.is_none() && otp.is_none() {
        return Err(MethodError::Value("'plain' needs the 'passwd' option"));
    }
    Ok(AuthMethod::Plain { passwd, otp })
}

fn radius(options: &mut Options) -> Result<AuthMethod, MethodError> {
    let config = options
        .old_path
        .take()
        .or_else(|| options.path("config"))
        .ok_or(NO_CONFIG)?;
    let group_separator = match options.take("group-separator").as_deref() {
        None | Some("semicolon") => ';',
        Some("comma") => ',',
        Some(_) => {
            return Err(MethodError::Value(
                "'group-separator' is 'semicolon' or 'comma'",
            ));
        }
    };
    Ok(AuthMethod::Radius {
        config,
        groupconfig: options.boolean("groupconfig", false),
        nas_identifier: options.take("nas-identifier"),
        group_separator,
    })
}

fn gssapi(options: &mut Options) -> Result<AuthMethod, MethodError> {
    let tgt_freshness_time = match options.number("tgt-freshness-time")? {
        Some(0) => return Err(MethodError::Value("'tgt-freshness-time' must be above 0")),
        seconds => seconds.map(|s| Duration::from_secs(s.into())),
    };
    Ok(AuthMethod::Gssapi {
        keytab: options.path("keytab"),
        require_local_user_map: options.boolean("require-local-user-map", true),
        tgt_freshness_time,
        gid_min: options.number("gid-min")?.unwrap_or(0),
    })
}

/// The pairs in brackets; each is taken out by the method that knows it.
struct Options {
    pairs: Vec<(String, String)>,
    /// First word of an old form: `plain[/path]`, `radius[/path,groupconfig]`.
    old_path: Option<PathBuf>,
    legacy: bool,
}

impl Options {
    fn parse(text: &str) -> Result<Self, MethodError> {
        let mut options = Self {
            pairs: Vec::new(),
            old_path: None,
            legacy: false,
        };
        if text.trim().is_empty() {
            return Ok(options);
        }
        for (index, pair) in text.split(',').map(str::trim).enumerate() {
            if index == MAX_OPTIONS {
                return Err(MethodError::Syntax(format!("[{text}]")));
            }
            match pair.split_once('=') {
                Some((key, value)) => {
                    let value = super::value::strip(value);
                    options
                        .pairs
                        .push((key.trim().to_owned(), value.to_owned()));
                }
                None if index == 0 && pair.starts_with('/') => {
                    options.old_path = Some(PathBuf::from(pair));
                    options.legacy = true;
                }
                None if options.legacy && pair == "groupconfig" => {
                    options.pairs.push((pair.to_owned(), "true".to_owned()));
                }
                None => return Err(MethodError::Option(pair.to_owned())),
            }
        }
        Ok(options)
    }

    /// The last value given for `key`; empty counts as not given.
    fn take(&mut self, key: &str) -> Option<String> {
        let value = self
            .pairs
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.clone());
        self.pairs.retain(|(k, _)| k != key);
        value.filter(|v| !v.is_empty())
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.take(key).map(PathBuf::from)
    }

    fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.take(key).map_or(default, |value| {
            value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("yes")
        })
    }

    fn number(&mut self, key: &str) -> Result<Option<u32>, MethodError> {
        let number = self
            .take(key)
            .map(|value| super::value::leading_number(&value).0);
        number
            .map(|n| u32::try_from(n).map_err(|_| MethodError::Value("a number is out of range")))
            .transpose()
    }
}
