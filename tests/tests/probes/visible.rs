//! What can be seen of a process from outside: its descriptors, its environment, its memory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// The descriptors of a process: number and what `/proc` says of it.
pub fn descriptors(pid: i32) -> Result<Vec<(i32, String)>> {
    fs::read_dir(format!("/proc/{pid}/fd"))?
        .map(|entry| {
            let path = entry?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let target = fs::read_link(&path)?.display().to_string();
            Ok((number.context("descriptor")?, target))
        })
        .collect()
}

/// The kinds of descriptors that a process has; sockets by protocol and state.
pub fn descriptor_kinds(pid: i32) -> Result<BTreeSet<String>> {
    let sockets = Sockets::around(pid)?;
    let kind = |target: String| match target.strip_prefix("socket:[") {
        Some(rest) => sockets.kind(rest.trim_end_matches(']')),
        None => target,
    };
    Ok(descriptors(pid)?
        .into_iter()
        .map(|(_, target)| kind(target))
        .collect())
}

/// The tables of `/proc/PID/net`.
struct Sockets(Vec<(&'static str, String)>);

impl Sockets {
    fn around(pid: i32) -> Result<Self> {
        ["tcp", "tcp6", "udp", "udp6", "unix"]
            .into_iter()
            .map(|table| {
                Ok((
                    table,
                    fs::read_to_string(format!("/proc/{pid}/net/{table}"))?,
                ))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    fn kind(&self, inode: &str) -> String {
        let found = self.0.iter().find_map(|(table, text)| {
            text.lines().find_map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                match (*table, words.as_slice()) {
                    ("unix", [_, _, _, _, kind, _, own, name @ ..]) if *own == inode => {
                        Some(unix_kind(kind, name))
                    }
                    ("udp" | "udp6", [_, _, _, _, _, _, _, _, _, own, ..]) if *own == inode => {
                        Some("udp bound".to_owned())
                    }
                    ("tcp" | "tcp6", [_, _, _, state, _, _, _, _, _, own, ..]) if *own == inode => {
                        Some(tcp_kind(state))
                    }
                    _ => None,
                }
            })
        });
        found.unwrap_or_else(|| "unknown socket".to_owned())
    }
}

/// States of `/proc/net/tcp`: neither a listening socket nor one to connect with is a connection.
fn tcp_kind(state: &str) -> String {
    match state {
        "07" | "0A" => format!("tcp state {state}"),
        _ => "tcp connection".to_owned(),
    }
}

/// Types of `/proc/net/unix`; a socket with a name is neither.
fn unix_kind(kind: &str, name: &[&str]) -> String {
    match (kind, name) {
        ("0001", []) => "unix pair".to_owned(),
        ("0005", []) => "unix messages".to_owned(),
        _ => format!("unix type {kind} {}", name.join(" ")),
    }
}

/// The names of a process's environment variables.
pub fn environment(pid: i32) -> Result<BTreeSet<String>> {
    let bytes = fs::read(format!("/proc/{pid}/environ"))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(text
        .split('\0')
        .filter_map(|variable| Some(variable.split_once('=')?.0.to_owned()))
        .collect())
}

/// Parts of its memory that can be written and executed.
pub fn writable_code(pid: i32) -> Result<Vec<String>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let is_both = |line: &&str| {
        let rights = line.split_whitespace().nth(1).unwrap_or_default();
        rights.contains('w') && rights.contains('x')
    };
    Ok(maps.lines().filter(is_both).map(str::to_owned).collect())
}

/// What of `/proc/PID` another process of the user `uid` can look at, of what it has for those who may
/// trace the process.
pub fn open_to_its_user(pid: i32, uid: u32) -> Result<Vec<String>> {
    let parts = ["readlink root", "readlink cwd", "readlink exe", "ls fd"];
    let files = ["environ", "maps", "mem", "auxv"].map(|file| format!("head -c0 {file}"));
    let mut open = Vec::new();
    for part in parts.map(str::to_owned).into_iter().chain(files) {
        let (program, file) = part.rsplit_once(' ').context("part")?;
        let status = Command::new("sh")
            .args(["-c", &format!("exec {program} /proc/{pid}/{file}")])
            .uid(uid)
            .gid(uid)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if status.success() {
            open.push(part);
        }
    }
    Ok(open)
}
