//! Single requests by `openssl s_client`, for what `openconnect` does not show.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::bed::{Bed, GATEWAY4, HOST, PORT};
use crate::process;
use crate::wait;

/// What came of a connection.
#[derive(Debug)]
pub struct Exchange {
    /// Everything that `s_client` printed: the handshake's outcome, then what the server sent.
    pub text: String,
    /// False when the handshake failed.
    pub succeeded: bool,
}

impl Exchange {
    /// The status line of the answer, empty if there was none.
    pub fn status_line(&self) -> &str {
        self.text
            .lines()
            .find(|line| line.starts_with("HTTP/1."))
            .unwrap_or_default()
            .trim()
    }

    /// The value of an answer's header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Connects from the first client machine with options of `s_client`, sends `request`, and reads
/// until the head of an answer has come or the server closes.
///
/// # Errors
/// When `openssl` cannot be started or nothing comes.
pub fn exchange(bed: &Bed, host: &str, options: &[&str], request: &str) -> Result<Exchange> {
    let log_path = bed.directory().join("s_client.log");
    let log = std::fs::File::create(&log_path)?;
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-ign_eof", "-servername", host])
        .args(["-verify_return_error", "-verify_hostname", host, "-CAfile"])
        .arg(bed.authority().certificate())
        .args(["-connect", &format!("{GATEWAY4}:{PORT}")])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = bed.client(0).spawn(&mut command)?;
    let mut input = child.stdin.take().context("s_client's input")?;
    // When the handshake fails, nobody reads this.
    let _ = input.write_all(request.as_bytes());
    let mut text = String::new();
    let came = wait::until_true("an answer or the end of the connection", wait::LONG, || {
        // In this order: what s_client prints, it prints before it ends.
        let ended = matches!(child.try_wait(), Ok(Some(_)));
        let bytes = std::fs::read(&log_path).unwrap_or_default();
        text = String::from_utf8_lossy(&bytes).into_owned();
        ended || has_answer_head(&text)
    });
    process::reap(&mut child);
    came?;
    let succeeded = text.contains(", Cipher is ") && !text.contains("Cipher is (NONE)");
    Ok(Exchange { text, succeeded })
}

fn has_answer_head(text: &str) -> bool {
    text.split_once("\nHTTP/1.")
        .is_some_and(|(_, answer)| answer.contains("\r\n\r\n"))
}

/// Connects to the default host with one request.
///
/// # Errors
/// As [`exchange`].
pub fn request(bed: &Bed, request: &str) -> Result<Exchange> {
    exchange(bed, HOST, &[], request)
}

/// The tunnel request with a cookie, as a client sends it.
pub fn connect_request(cookie: &str) -> String {
    format!(
        "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n\
         User-Agent: Open AnyConnect VPN Agent v9.01-3\r\nCookie: webvpn={cookie}\r\n\
         X-CSTP-Version: 1\r\nX-CSTP-Hostname: laptop\r\nX-CSTP-Base-MTU: 1500\r\n\
         X-CSTP-Address-Type: IPv6,IPv4\r\nX-CSTP-Full-IPv6-Capability: true\r\n\r\n"
    )
}
