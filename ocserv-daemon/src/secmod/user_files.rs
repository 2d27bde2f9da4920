//! Per-user and per-group files, read at each session open (config.md §7).
//!
//! Names come from the network: they must stay inside their directory, links are not followed, and
//! a file that cannot be used refuses the session.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ocserv_proto::config::supplemental::{self, SupplementalConfig};
use ocserv_proto::config::{UserConfig, VhostConfig};

/// Longest file, bytes.
const MAX_FILE_LEN: u64 = 1024 * 1024;

/// The settings of a user: the vhost's, changed by the group's file, then by the user's.
///
/// # Errors
/// For the log: which file or name, and what is wrong with it.
pub fn settings(
    vhost: &VhostConfig,
    username: &str,
    groupname: &str,
) -> Result<UserConfig, String> {
    let group = match &vhost.config_per_group {
        Some(dir) if !groupname.is_empty() => {
            named_file(dir, groupname, vhost.default_group_config.as_deref())?
        }
        _ => None,
    };
    let user = match &vhost.config_per_user {
        Some(dir) => named_file(dir, username, vhost.default_user_config.as_deref())?,
        None => None,
    };
    Ok(UserConfig::merged(
        &vhost.user,
        vhost.append_routes,
        group.as_ref(),
        user.as_ref(),
    ))
}

fn named_file(
    dir: &Path,
    name: &str,
    default: Option<&Path>,
) -> Result<Option<SupplementalConfig>, String> {
    if !supplemental::file_name_ok(name) {
        return Err(format!("'{}' cannot be a file name", name.escape_debug()));
    }
    let path = dir.join(name);
    let no_follow = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match OpenOptions::new()
        .read(true)
        .custom_flags(no_follow)
        .open(&path)
    {
        Ok(file) => parse(&path, file).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(path) = default else { return Ok(None) };
            let file = File::open(path).map_err(|error| described(path, &error))?;
            parse(path, file).map(Some)
        }
        Err(error) => Err(described(&path, &error)),
    }
}

fn parse(path: &Path, file: File) -> Result<SupplementalConfig, String> {
    let metadata = file.metadata().map_err(|error| described(path, &error))?;
    if !metadata.is_file() {
        return Err(format!("'{}' is not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| described(path, &error))?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(format!(
            "'{}' is longer than {MAX_FILE_LEN} bytes",
            path.display()
        ));
    }
    let (config, messages) = supplemental::parse(&path.display().to_string(), &bytes)
        .map_err(|error| format!("{}: {}", error.place, error.message))?;
    for message in messages {
        tracing::warn!("{}", message.text);
    }
    Ok(config)
}

fn described(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read '{}': {error}", path.display())
}
