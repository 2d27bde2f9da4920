//! The process that removes a bed when its owner ends, however it ends.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;

/// Waits for the end of its standard input, which is the death of its owner or its wish. The
/// arguments are the directory and the prefix of the namespaces' names.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for path in /run/netns/"$2"-*; do
    [ -e "$path" ] || continue
    namespace=${path##*/}
    for round in 1 2 3 4 5 6 7 8 9 10; do
        pids=$(ip netns pids "$namespace")
        [ -n "$pids" ] || break
        kill -9 $pids 2>/dev/null
        sleep 0.05
    done
    ip netns del "$namespace"
done
rm -rf "$1"
"#;

/// A running guard. Dropping it removes the bed and waits until that is done.
#[derive(Debug)]
pub struct Guard {
    shell: Child,
}

impl Guard {
    /// Starts the guard of `directory` and of all namespaces called `prefix-*`.
    ///
    /// # Errors
    /// When there is no shell.
    pub fn start(directory: &Path, prefix: &str) -> Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "bed-guard"])
            .arg(directory)
            .arg(prefix)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A group of its own, so that Ctrl-C reaches the owner only.
            .process_group(0)
            .spawn()
            .context("the bed's guard")?;
        Ok(Self { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // Fails only if somebody else reaped the shell.
        let _ = self.shell.wait();
    }
}
