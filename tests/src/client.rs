//! Stock `openconnect`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::bed::{Bed, GATEWAY4, HOST, PASSWORD, PORT, USER};
use crate::namespace::Namespace;
use crate::process;
use crate::wait;

/// What `openconnect` calls to set the tunnel up: records its environment in the directory given
/// as argument, then sets addresses, MTU and routes.
const VPNC_SCRIPT: &str = r#"#!/bin/sh
env >"$1/env.tmp"
mv "$1/env.tmp" "$1/env.$reason"
[ "$reason" = connect ] || exit 0
ip link set dev "$TUNDEV" up mtu "$INTERNAL_IP4_MTU"
[ -z "$INTERNAL_IP4_ADDRESS" ] || ip address add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
[ -z "$INTERNAL_IP6_ADDRESS" ] || ip -6 address add "$INTERNAL_IP6_ADDRESS/128" dev "$TUNDEV" nodad
if [ -z "$CISCO_SPLIT_INC" ]; then
    ip route add 0.0.0.0/1 dev "$TUNDEV"
    ip route add 128.0.0.0/1 dev "$TUNDEV"
fi
index=0
while [ "$index" -lt "${CISCO_SPLIT_INC:-0}" ]; do
    eval "net=\$CISCO_SPLIT_INC_${index}_ADDR/\$CISCO_SPLIT_INC_${index}_MASKLEN"
    ip route add "$net" dev "$TUNDEV"
    index=$((index + 1))
done
if [ -n "$INTERNAL_IP6_ADDRESS" ] && [ -z "$CISCO_IPV6_SPLIT_INC" ]; then
    ip -6 route add ::/1 dev "$TUNDEV"
    ip -6 route add 8000::/1 dev "$TUNDEV"
fi
index=0
while [ "$index" -lt "${CISCO_IPV6_SPLIT_INC:-0}" ]; do
    eval "net=\$CISCO_IPV6_SPLIT_INC_${index}_ADDR/\$CISCO_IPV6_SPLIT_INC_${index}_MASKLEN"
    ip -6 route add "$net" dev "$TUNDEV"
    index=$((index + 1))
done
touch "$1/is_set_up"
"#;

/// Counts the clients of this process, for file and device names.
static NEXT_CLIENT: AtomicU32 = AtomicU32::new(0);

/// How to log in: a user, a machine, options of `openconnect`.
#[derive(Clone, Debug)]
pub struct Login {
    site: usize,
    host: String,
    path: String,
    address: String,
    user: Option<String>,
    input: String,
    password_on_stdin: bool,
    arguments: Vec<String>,
}

impl Login {
    /// The user of most tests, from the first client machine.
    pub fn new() -> Self {
        Self::as_user(USER, PASSWORD)
    }

    /// Another user.
    pub fn as_user(user: &str, password: &str) -> Self {
        Self {
            site: 0,
            host: HOST.to_owned(),
            address: GATEWAY4.to_owned(),
            path: "/".to_owned(),
            user: Some(user.to_owned()),
            input: format!("{password}\n"),
            password_on_stdin: true,
            arguments: Vec::new(),
        }
    }

    /// With a cookie instead of a password.
    pub fn with_cookie(cookie: &str) -> Self {
        let mut login = Self::new().argument("--cookie-on-stdin");
        login.user = None;
        login.password_on_stdin = false;
        login.input = format!("webvpn={cookie}\n");
        login
    }

    /// From client machine `index`.
    pub fn from_site(mut self, index: usize) -> Self {
        self.site = index;
        self
    }

    /// By another host name of the gateway.
    pub fn to_host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    /// By another address of the gateway.
    pub fn to_address(mut self, address: &str) -> Self {
        self.address = address.to_owned();
        self
    }

    /// With a path in the URL, beginning with `/`.
    pub fn to_path(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }

    /// Answers each prompt by one of these lines, as a person at a terminal would.
    pub fn typing(mut self, lines: &[&str]) -> Self {
        self.password_on_stdin = false;
        self.input = lines.iter().map(|line| format!("{line}\n")).collect();
        self
    }

    /// With a further option, e.g. `--no-dtls`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    fn command(&self, bed: &Bed) -> Command {
        let mut command = Command::new("openconnect");
        command
            .arg("--verbose")
            .arg("--no-system-trust")
            .arg("--cafile")
            .arg(bed.authority().certificate())
            .arg(format!("--resolve={}:{}", self.host, self.address))
            .args(self.user.iter().map(|user| format!("--user={user}")))
            .args(self.password_on_stdin.then_some("--passwd-on-stdin"))
            .args(&self.arguments)
            .arg(format!("https://{}:{PORT}{}", self.host, self.path));
        command
    }

    /// Logs in and returns the cookie, without a tunnel.
    ///
    /// # Errors
    /// When the login fails; the message has what the client said.
    pub fn cookie(&self, bed: &Bed) -> Result<String> {
        let output = self.try_cookie(bed)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        // The line may carry other cookies: `openconnect_strapkey=…; webvpn=…`.
        match printed.lines().find_map(|line| line.split_once("webvpn=")) {
            Some((_, value)) if output.status.success() => Ok(value
                .split([';', '\''])
                .next()
                .unwrap_or(value)
                .trim()
                .to_owned()),
            _ => bail!("no cookie: {}", process::text(&output)),
        }
    }

    /// Tries to log in without a tunnel; the caller judges what came.
    ///
    /// # Errors
    /// When `openconnect` cannot be started or hangs.
    pub fn try_cookie(&self, bed: &Bed) -> Result<Output> {
        let mut command = self.clone().argument("--cookieonly").command(bed);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = bed.client(self.site).spawn(&mut command)?;
        self.type_input(&mut child)?;
        // Its output is short, so the pipes do not fill up before it ends.
        if let Err(error) = process::wait_exit(&mut child, "the login", wait::LONG) {
            process::reap(&mut child);
            return Err(error);
        }
        Ok(child.wait_with_output()?)
    }

    fn type_input(&self, child: &mut Child) -> Result<()> {
        let mut input = child.stdin.take().context("the client's input")?;
        // A client that has ended already does not read; its exit status says why.
        let _ = input.write_all(self.input.as_bytes());
        Ok(())
    }

    /// Starts `openconnect`, without waiting for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, bed: &Bed) -> Result<Client> {
        let number = NEXT_CLIENT.fetch_add(1, Ordering::Relaxed);
        let directory = bed.directory().join(format!("client{number}"));
        fs::create_dir(&directory)?;
        let script = bed.directory().join("vpnc-script");
        if !script.exists() {
            bed.write_script("vpnc-script", VPNC_SCRIPT)?;
        }
        let device = format!("tun{number}");
        let log_path = bed.directory().join(format!("client{number}.log"));
        let log = File::create(&log_path)?;
        let mut command = self.command(bed);
        command
            .arg(format!("--interface={device}"))
            .arg(format!(
                "--script={} {}",
                script.display(),
                directory.display()
            ))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        let namespace = bed.client(self.site).clone();
        let mut child = namespace.spawn(&mut command)?;
        self.type_input(&mut child)?;
        Ok(Client {
            child,
            namespace,
            device,
            directory,
            log_path,
        })
    }

    /// Logs in and waits for the tunnel over TLS.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn connect(&self, bed: &Bed) -> Result<Client> {
        let mut client = self.start(bed)?;
        client.wait_connected()?;
        Ok(client)
    }

    /// Logs in and waits until DTLS is up too.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn connect_dtls(&self, bed: &Bed) -> Result<Client> {
        let mut client = self.connect(bed)?;
        client.wait_log(DTLS_UP)?;
        Ok(client)
    }
}

impl Default for Login {
    fn default() -> Self {
        Self::new()
    }
}

/// What `openconnect` logs when DTLS is up.
pub const DTLS_UP: &str = "Established DTLS connection";
/// What `openconnect` logs at each CONNECT that was accepted.
pub const CSTP_UP: &str = "CSTP connected";

/// A running `openconnect`. Dropping it kills it.
#[derive(Debug)]
pub struct Client {
    child: Child,
    namespace: Namespace,
    device: String,
    directory: PathBuf,
    log_path: PathBuf,
}

impl Client {
    /// The machine that it runs on.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its tun device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Everything that it logged so far.
    pub fn log(&self) -> String {
        fs::read(&self.log_path)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Waits until the tunnel device is set up.
    ///
    /// # Errors
    /// When the client ends or takes too long.
    pub fn wait_connected(&mut self) -> Result<()> {
        let marker = self.directory.join("is_set_up");
        self.wait_for("the tunnel device to be set up", |_| marker.exists())
    }

    /// Waits for a text in its log.
    ///
    /// # Errors
    /// When the client ends or takes too long.
    pub fn wait_log(&mut self, text: &str) -> Result<()> {
        self.wait_log_times(text, 1)
    }

    /// Waits until a text stands `times` times in its log.
    ///
    /// # Errors
    /// When the client ends or takes too long.
    pub fn wait_log_times(&mut self, text: &str, times: usize) -> Result<()> {
        let what = format!("`{text}` ({times}x) in the client's log");
        self.wait_for(&what, |client| client.count(text) >= times)
    }

    fn wait_for(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let ended = wait::until(what, wait::LONG, || {
            // In this order: what a client does, it does before it ends.
            let ended = self.child.try_wait().ok().flatten();
            let is_met = condition(self);
            (is_met || ended.is_some()).then_some(if is_met { None } else { ended })
        })?;
        match ended {
            None => Ok(()),
            Some(status) => bail!("the client ended ({status}) before: {what}"),
        }
    }

    /// How often a text stands in its log.
    pub fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Waits until the client ends by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        process::wait_exit(&mut self.child, "the client", limit)
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal: SIGINT logs out, SIGHUP detaches, SIGUSR2 reconnects.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.child.id().try_into().unwrap_or_default(), signal);
    }

    /// Logs out, as Ctrl-C does, and waits for the end.
    ///
    /// # Errors
    /// When the client does not end.
    pub fn log_out(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGINT);
        self.wait_exit(wait::SHORT)
    }

    /// The environment in which the client called its script with `reason`.
    ///
    /// # Errors
    /// When it did not.
    pub fn script_environment(&self, reason: &str) -> Result<HashMap<String, String>> {
        let path = self.directory.join(format!("env.{reason}"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let pair = |line: &str| {
            let (name, value) = line.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        Ok(text.lines().filter_map(pair).collect())
    }

    /// One variable of the script's environment at connect.
    ///
    /// # Errors
    /// When it is not there.
    pub fn pushed(&self, variable: &str) -> Result<String> {
        self.script_environment("connect")?
            .remove(variable)
            .with_context(|| format!("the client was given no {variable}"))
    }

    /// Its IPv4 address in the tunnel.
    ///
    /// # Errors
    /// When it has none.
    pub fn address4(&self) -> Result<String> {
        self.pushed("INTERNAL_IP4_ADDRESS")
    }

    /// Its IPv6 address in the tunnel.
    ///
    /// # Errors
    /// When it has none.
    pub fn address6(&self) -> Result<String> {
        self.pushed("INTERNAL_IP6_ADDRESS")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        process::reap(&mut self.child);
    }
}
