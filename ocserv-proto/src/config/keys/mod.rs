//! The table of keys: name, scope, whether it works yet, and how its value is read.
//!
//! It alone decides what a file may contain; [`later_keys`] lists what it accepts without effect.

mod auth_keys;
mod datapath;
mod global;
mod user;
mod vhost;

use super::draft::VhostDraft;
use super::supplemental::SupplementalConfig;
use super::types::Config;
use super::value::{Read, Value};

/// Where a key may stand, and whether a reload changes it (config.md §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// G!: whole gateway, fixed at start.
    GlobalFixed,
    /// G: whole gateway.
    Global,
    /// V!: per vhost, fixed at start.
    VhostFixed,
    /// V: per vhost.
    Vhost,
    /// VU: per vhost and in per-user and per-group files.
    VhostUser,
    /// U: in per-user and per-group files only.
    User,
}

/// What the gateway does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has its effect.
    Works,
    /// It is read but has no effect until this feature is built: warned about by name.
    Later(&'static str),
    /// It has no meaning here, for this reason: noted.
    Ignored(&'static str),
}

/// How a value is stored.
#[derive(Clone, Copy)]
pub(super) enum Setter {
    Global(fn(&mut Config, &mut Value<'_>) -> Read<()>),
    Vhost(fn(&mut VhostDraft, &mut Value<'_>) -> Read<()>),
    User(fn(&mut SupplementalConfig, &mut Value<'_>) -> Read<()>),
}

/// One row.
pub struct Key {
    /// Name in the file.
    pub name: &'static str,
    /// Where it may stand.
    pub scope: Scope,
    /// Whether it has its effect.
    pub status: Status,
    pub(super) setter: Setter,
}

/// All keys of the main and the per-user files.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [
        global::KEYS,
        datapath::KEYS,
        auth_keys::KEYS,
        vhost::KEYS,
        user::KEYS,
    ]
    .into_iter()
    .flatten()
}

/// The row of `name`; names are case sensitive.
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

/// A key that a file uses and that has no effect yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaterKey {
    /// Name in the file.
    pub key: &'static str,
    /// The feature that it waits for.
    pub feature: &'static str,
}

/// Those of `used` that have no effect yet, each once, in the order of the table.
pub fn later_keys(used: &[&'static str]) -> Vec<LaterKey> {
    all()
        .filter(|key| used.contains(&key.name))
        .filter_map(|key| match key.status {
            Status::Later(feature) => Some(LaterKey {
                key: key.name,
                feature,
            }),
            Status::Works | Status::Ignored(_) => None,
        })
        .collect()
}

/// Stores a value that could be read.
fn put<T>(slot: &mut T, value: Read<T>) -> Read<()> {
    *slot = value?;
    Ok(())
}

/// Stores a value that a per-user file may leave open.
fn put_some<T>(slot: &mut Option<T>, value: Read<T>) -> Read<()> {
    *slot = Some(value?);
    Ok(())
}

/// Adds an entry to a list.
fn push<T>(list: &mut Vec<T>, value: Read<Option<T>>) -> Read<()> {
    list.extend(value?);
    Ok(())
}
