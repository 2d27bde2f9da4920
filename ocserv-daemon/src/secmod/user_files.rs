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

/// Longest profile of a user, in bytes: it must fit a message between the processes.
const MAX_PROFILE_LEN: usize = 64 * 1024;
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

/// The `user-profile` of a user's or group's file, where it names another one than the vhost's. A
/// file that cannot be read is logged, and the vhost's is served.
pub fn own_profile(vhost: &VhostConfig, username: &str, groupname: &str) -> Option<Vec<u8>> {
    let path = settings(vhost, username, groupname).ok()?.user_profile?;
    if vhost.user.user_profile.as_ref() == Some(&path) {
        return None;
    }
    match std::fs::read(&path) {
        Ok(content) if content.len() <= MAX_PROFILE_LEN => Some(content),
        Ok(_) => {
            tracing::warn!("user-profile '{}' is longer than 64 KiB", path.display());
            None
        }
        Err(error) => {
            tracing::warn!("user-profile '{}': {error}", path.display());
            None
        }
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use ocserv_proto::config;
    use tempfile::TempDir;

    use super::*;

    fn vhost() -> VhostConfig {
        let text = b"auth = plain[passwd=/p]\ntcp-port = 443\ndevice = vpns\nsocket-file = /s\n\
            server-cert = /c\nserver-key = /k\nipv4-network = 10.0.0.0/24\nmtu = 1400\n";
        config::parse("test", text).unwrap().config.vhosts.remove(0)
    }

    /// A vhost with a directory of user files and one of group files.
    fn bed() -> (TempDir, VhostConfig) {
        let dir = tempfile::tempdir().unwrap();
        let mut vhost = vhost();
        for (name, setting) in [
            ("users", &mut vhost.config_per_user),
            ("groups", &mut vhost.config_per_group),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            *setting = Some(path);
        }
        (dir, vhost)
    }

    fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_users_file_outweighs_the_groups_file() {
        let (dir, vhost) = bed();
        assert_eq!(settings(&vhost, "ann", "staff").unwrap().mtu, 1400);
        write(&dir, "groups/staff", "mtu = 1300\nno-udp = true\n");
        write(&dir, "users/ann", "mtu = 1200\n");
        let ann = settings(&vhost, "ann", "staff").unwrap();
        assert_eq!((ann.mtu, ann.no_udp), (1200, true));
        assert_eq!(settings(&vhost, "bob", "staff").unwrap().mtu, 1300);
        assert_eq!(settings(&vhost, "bob", "").unwrap().mtu, 1400);
    }

    #[test]
    fn default_files_stand_in_and_must_be_there() {
        let (dir, mut vhost) = bed();
        vhost.default_user_config = Some(write(&dir, "default-user", "mtu = 1250\n"));
        assert_eq!(settings(&vhost, "ann", "").unwrap().mtu, 1250);
        write(&dir, "users/ann", "no-udp = true\n");
        assert_eq!(settings(&vhost, "ann", "").unwrap().mtu, 1400);
        vhost.default_group_config = Some(dir.path().join("missing"));
        assert!(settings(&vhost, "ann", "staff").is_err());
    }

    #[test]
    fn user_names_with_slash_dots_or_nul_open_no_file() {
        let (dir, vhost) = bed();
        write(&dir, "secret", "mtu = 1111\n");
        std::fs::create_dir(dir.path().join("users/sub")).unwrap();
        write(&dir, "users/sub/ann", "mtu = 1111\n");
        let long = "x".repeat(300);
        for name in [
            "../secret",
            "sub/ann",
            "/etc/hosts",
            ".",
            "..",
            "",
            "a\0b",
            "/",
            &long,
        ] {
            assert!(settings(&vhost, name, "").is_err(), "{name:?} as user");
            if !name.is_empty() {
                assert!(settings(&vhost, "ann", name).is_err(), "{name:?} as group");
            }
        }
    }

    #[test]
    fn links_and_directories_are_not_opened() {
        let (dir, vhost) = bed();
        let target = write(&dir, "elsewhere", "mtu = 1111\n");
        symlink(target, dir.path().join("users/ann")).unwrap();
        assert!(settings(&vhost, "ann", "").is_err());
        std::fs::create_dir(dir.path().join("users/bob")).unwrap();
        assert!(settings(&vhost, "bob", "").is_err());
    }

    #[test]
    fn a_broken_file_refuses_the_session() {
        let (dir, vhost) = bed();
        write(&dir, "users/ann", "this is no setting\n");
        let error = settings(&vhost, "ann", "").unwrap_err();
        assert!(error.contains("users/ann"), "{error}");
        write(&dir, "users/bob", &" ".repeat(1024 * 1024 + 1));
        assert!(settings(&vhost, "bob", "").is_err());
    }
}
