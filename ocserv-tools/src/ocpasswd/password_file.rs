//! Replacing the password file in one step.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use ocserv_proto::passwd::PasswdError;

/// Writes `change(content)` to `FILE.tmp`, which is the lock too, and renames it. Where `create` is
/// set, a missing file counts as empty.
pub fn update(
    path: &Path,
    create: bool,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, PasswdError>,
) -> anyhow::Result<()> {
    let lock = Lock::take(path)?;
    let old = match std::fs::read(path) {
        Ok(old) => old,
        Err(error) if create && error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(_) => bail!("Cannot open '{}' for reading.", path.display()),
    };
    lock.commit(path, &change(&old)?)
}

/// `FILE.tmp`, created by us alone; removed when dropped before the rename.
struct Lock {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl Lock {
    fn take(target: &Path) -> anyhow::Result<Self> {
        let mut name = OsString::from(target);
        name.push(".tmp");
        let path = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => Ok(Self {
                path,
                file,
                renamed: false,
            }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("file '{}' is locked.", target.display())
            }
            Err(_) if !target.exists() => bail!("Cannot open '{}' for reading.", target.display()),
            Err(_) => bail!("Cannot open '{}' for writing.", path.display()),
        }
    }

    fn commit(mut self, target: &Path, content: &[u8]) -> anyhow::Result<()> {
        let failed = |_| anyhow!("Cannot write to '{}'.", self.path.display());
        self.file.write_all(content).map_err(failed)?;
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(&self.path, target).map_err(failed)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.renamed {
            // A failure leaves the lock for the administrator to see.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
