//! The configuration file: text in, typed values out (config.md).
//!
//! [`Config`] is a whole file: global settings and one [`VhostConfig`] for each virtual host, the
//! default one first. [`UserConfig`] holds what per-user and per-group files may change. Files are
//! read by the caller; nothing here opens one.

pub mod auth;
mod checks;
mod draft;
mod error;
mod files;
pub mod keys;
mod lines;
pub mod priorities;
mod read;
mod reload;
pub mod supplemental;
#[cfg(test)]
mod tests;
pub mod types;
pub mod user;
mod value;
pub mod values;

pub use auth::AuthMethod;
pub use error::{ConfigError, Level, Message, Place};
pub use files::{FileCheck, FileNeed};
pub use keys::{LaterKey, later_keys};
pub use priorities::{Cipher, Group, TlsPolicy};
pub use read::{Environment, Parsed, parse, parse_in};
pub use supplemental::SupplementalConfig;
pub use types::{Config, Kkdcp, RekeyMethod, SelectGroup, VhostConfig, XdpForward, XdpMode};
pub use user::UserConfig;
pub use values::{NetPriority, PortProtocol, PortRule, PortRules, Route};
