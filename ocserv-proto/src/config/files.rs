//! Files that the configuration names and that must be there at start.

use std::path::{Path, PathBuf};

use super::auth::AuthMethod;
use super::types::{Config, VhostConfig};

/// A file for the daemon to look at before it starts, and with `-t`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCheck {
    /// Its path as configured (a `user-profile` may also lie below `chroot-dir`).
    pub path: PathBuf,
    /// The key that names it.
    pub key: &'static str,
    /// Name of the vhost.
    pub vhost: String,
    /// What it must be.
    pub need: FileNeed,
}

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileNeed {
    /// A readable file.
    Readable,
    /// A program.
    Executable,
}

impl Config {
    /// Everything that must exist, for the checks of config.md §8 that need the file system.
    pub fn files_to_check(&self) -> Vec<FileCheck> {
        let scripts = [
            ("connect-script", &self.connect_script),
            ("disconnect-script", &self.disconnect_script),
            ("host-update-script", &self.host_update_script),
        ];
        let script = |(key, path): (&'static str, &Option<PathBuf>)| {
            let path = path.clone()?;
            let (vhost, need) = ("default".to_owned(), FileNeed::Executable);
            Some(FileCheck {
                path,
                key,
                vhost,
                need,
            })
        };
        let mut files: Vec<FileCheck> = scripts.into_iter().filter_map(script).collect();
        for vhost in &self.vhosts {
            let readable = vhost_files(vhost).into_iter().map(|(key, path)| FileCheck {
                path: path.to_owned(),
                key,
                vhost: vhost.name.clone(),
                need: FileNeed::Readable,
            });
            files.extend(readable);
        }
        files
    }
}

fn vhost_files(vhost: &VhostConfig) -> Vec<(&'static str, &Path)> {
    let certificates = vhost
        .server_cert
        .iter()
        .map(|path| ("server-cert", path.as_path()));
    let keys = vhost
        .server_key
        .iter()
        .map(|path| ("server-key", path.as_path()));
    let passwords = vhost.auth.iter().map(|m| ("auth", m));
    let passwords = passwords.chain(vhost.enable_auth.iter().map(|m| ("enable-auth", m)));
    let passwords = passwords.filter_map(|(key, method)| match method {
        AuthMethod::Plain {
            passwd: Some(path), ..
        } => Some((key, path.as_path())),
        _ => None,
    });
    let single = [
        ("pin-file", &vhost.pin_file),
        ("ocsp-response", &vhost.ocsp_response),
        ("user-profile", &vhost.user.user_profile),
        ("default-group-config", &vhost.default_group_config),
        ("default-user-config", &vhost.default_user_config),
    ];
    let single = single
        .into_iter()
        .filter_map(|(key, path)| Some((key, path.as_deref()?)));
    certificates
        .chain(keys)
        .chain(passwords)
        .chain(single)
        .collect()
}
