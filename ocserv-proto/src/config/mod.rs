//! The configuration file: text in, typed values out (config.md).
//!
//! [`Config`] is a whole file: global settings and one [`VhostConfig`] for each virtual host, the
//! default one first. [`UserConfig`] holds what per-user and per-group files may change. Files are
//! read by the caller; nothing here opens one.

pub mod auth;
pub mod priorities;
pub mod supplemental;
pub mod types;
pub mod user;
pub mod values;

pub use auth::AuthMethod;
pub use priorities::{Cipher, Group, TlsPolicy};
pub use supplemental::SupplementalConfig;
pub use types::{Config, Kkdcp, RekeyMethod, SelectGroup, VhostConfig};
pub use user::UserConfig;
pub use values::{NetPriority, PortProtocol, PortRule, PortRules, Route};
