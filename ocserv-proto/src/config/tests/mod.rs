//! Table-driven tests; comments name the row of config.md.

mod checks;
mod datapath;
mod keys;
mod methods;
mod priorities;
mod reload;
mod robust;
mod supplemental;
mod vhosts;

use super::{Config, Parsed, parse};

/// The least that starts.
const BASE: &str = "\
auth = \"plain[passwd=/etc/ocserv/ocpasswd]\"
tcp-port = 443
udp-port = 443
socket-file = /run/ocserv.socket
server-cert = /etc/ocserv/cert.pem
server-key = /etc/ocserv/key.pem
device = vpns
ipv4-network = 192.168.1.0/24
";

/// Parses [`BASE`] followed by `lines`.
fn with(lines: &str) -> Parsed {
    let text = format!("{BASE}{lines}");
    parse("t.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{lines}: {error}"))
}

fn config(lines: &str) -> Config {
    with(lines).config
}

/// The error of [`BASE`] followed by `lines`: all of its text.
fn error(lines: &str) -> String {
    error_of(&format!("{BASE}{lines}"))
}

fn error_of(text: &str) -> String {
    match parse("t.conf", text.as_bytes()) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

/// [`BASE`] without the lines of `keys`, followed by `lines`.
fn without(keys: &[&str], lines: &str) -> String {
    let keep = |line: &&str| !keys.iter().any(|key| line.starts_with(&format!("{key} ")));
    let kept: Vec<&str> = BASE.lines().filter(keep).collect();
    format!("{}\n{lines}", kept.join("\n"))
}

fn messages(lines: &str) -> Vec<String> {
    with(lines)
        .messages
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Warnings only.
fn warnings(lines: &str) -> Vec<String> {
    messages(lines)
        .into_iter()
        .filter(|m| m.starts_with("warning: "))
        .collect()
}
