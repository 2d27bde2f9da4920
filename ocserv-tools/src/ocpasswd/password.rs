//! Asking for a password, and hashing it.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, bail};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use ring::rand::{SecureRandom, SystemRandom};
use sha_crypt::{CustomizedPasswordHasher, Params, ShaCrypt};
use zeroize::Zeroizing;

/// Longest password in bytes: what crypt(3) takes.
const MAX_PASSWORD_LEN: usize = 511;
/// Gives the 16 salt characters of crypt(3).
const SALT_LEN: usize = 12;

/// Asks twice on a terminal; else takes the first line of standard input.
pub fn ask() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let password = if std::io::stdin().is_terminal() {
        let _quiet = EchoOff::new()?;
        let first = prompt("Enter password: ")?;
        if first.is_empty() {
            bail!("Please specify a password");
        }
        if *first != *prompt("Re-enter password: ")? {
            bail!("Passwords do not match");
        }
        first
    } else {
        read_line()?
    };
    if password.is_empty() {
        bail!("Please specify a password");
    }
    Ok(password)
}

/// A `$5$` hash of crypt(3) with a random salt and the default number of rounds.
pub fn hash(password: &[u8]) -> anyhow::Result<String> {
    let mut salt = [0; SALT_LEN];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| anyhow::anyhow!("no random bytes"))?;
    let hash = ShaCrypt::SHA256
        .hash_password_customized(password, &salt, None, None, Params::RECOMMENDED)
        .map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?;
    // The default number needs no mention, and older servers have no room for it.
    Ok(hash.as_str().replacen("$rounds=5000$", "$", 1))
}

fn prompt(text: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut stderr = std::io::stderr();
    stderr.write_all(text.as_bytes())?;
    stderr.flush()?;
    let line = read_line();
    stderr.write_all(b"\n")?;
    line
}

/// One line without its end. Reads byte by byte, so that no buffer keeps a copy.
fn read_line() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut stdin = std::fs::File::from(
        std::os::fd::AsFd::as_fd(&std::io::stdin())
            .try_clone_to_owned()
            .context("standard input")?,
    );
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD_LEN));
    let mut byte = Zeroizing::new([0]);
    while stdin.read(&mut byte[..])? == 1 && byte[0] != b'\n' {
        if line.len() == MAX_PASSWORD_LEN {
            bail!("the password is longer than {MAX_PASSWORD_LEN} bytes");
        }
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.contains(&0) {
        bail!("the password has a NUL byte");
    }
    Ok(line)
}

/// The terminal without echo until dropped.
struct EchoOff(Termios);

impl EchoOff {
    fn new() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        // Signals too: one that killed us here would leave the terminal without echo.
        quiet
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ISIG);
        tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.0);
    }
}
