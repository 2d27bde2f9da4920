//! A running gateway.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::bed::{Bed, PORT};
use crate::config::Config;
use crate::namespace::{Namespace, Protocol};
use crate::process;
use crate::program::Program;
use crate::wait;

/// The processes of the server besides its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds keys and checks passwords.
    Secmod,
    /// Talks TLS with clients.
    Gate,
    /// Moves packets; the reference has none.
    Dataplane,
}

impl Role {
    fn process_name(self, program: &Program) -> &'static str {
        match (self, program.is_reference) {
            (Self::Secmod, false) => "ocserv-secmod",
            (Self::Gate, false) => "ocserv-gate",
            (Self::Dataplane, false) => "ocserv-dataplane",
            (Self::Secmod, true) => "ocserv-sm",
            (Self::Gate | Self::Dataplane, true) => "ocserv-worker",
        }
    }
}

/// A server in the gateway's namespace. Dropping it kills its processes.
#[derive(Debug)]
pub struct Server {
    main: Child,
    program: Program,
    gateway: Namespace,
    directory: PathBuf,
    log_path: PathBuf,
}

impl Server {
    /// Writes the configuration, starts the server in the foreground, and waits until it listens.
    ///
    /// # Errors
    /// When it ends or does not listen; the message has its log.
    pub fn start(bed: &Bed, config: &Config) -> Result<Self> {
        Self::start_with(bed, config, &["-d", "3"])
    }

    /// As [`Server::start`], with options of the command line instead of verbose logging.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(bed: &Bed, config: &Config, options: &[&str]) -> Result<Self> {
        Self::run(bed, config, Command::new(&bed.program().ocserv), options)
    }

    /// As [`Server::start`], by a program with options that becomes the server, e.g. `setpriv`.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_through(bed: &Bed, config: &Config, wrapper: &[&str]) -> Result<Self> {
        let (program, options) = wrapper.split_first().context("no program")?;
        let mut command = Command::new(program);
        command.args(options).arg(&bed.program().ocserv);
        Self::run(bed, config, command, &["-d", "3"])
    }

    fn run(bed: &Bed, config: &Config, mut command: Command, options: &[&str]) -> Result<Self> {
        let path = bed.write_file("ocserv.conf", &config.render())?;
        let log_path = bed.directory().join("ocserv.log");
        let log = File::create(&log_path)?;
        command
            .arg("-f")
            .args(options)
            .arg("-c")
            .arg(path)
            .arg("-p");
        command.arg(bed.directory().join("ocserv.pid"));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let main = bed.gateway().spawn(&mut command)?;
        let mut server = Self {
            main,
            program: bed.program().clone(),
            gateway: bed.gateway().clone(),
            directory: bed.directory().to_owned(),
            log_path,
        };
        server.wait_until_serving()?;
        Ok(server)
    }

    fn wait_until_serving(&mut self) -> Result<()> {
        let udp = self.config_has("udp-port");
        let occtl = self.directory.join("occtl.sock");
        let listens = wait::until("the server to listen", wait::SHORT, || {
            let ended = self.main.try_wait().ok().flatten();
            let tcp = self.gateway.is_bound(Protocol::Tcp, PORT).unwrap_or(false);
            let udp = !udp || self.gateway.is_bound(Protocol::Udp, PORT).unwrap_or(false);
            let up = tcp && udp && occtl.exists();
            (ended.is_some() || up).then_some(ended)
        });
        match listens {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("the server ended at once: {status}"),
            Err(error) => Err(error),
        }
    }

    fn config_has(&self, key: &str) -> bool {
        fs::read_to_string(self.directory.join("ocserv.conf")).is_ok_and(|text| {
            text.lines()
                .any(|line| line.starts_with(&format!("{key} = ")))
        })
    }

    /// `ocserv -t` on a configuration.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn test_config(bed: &Bed, config: &Config) -> Result<Output> {
        let path = bed.write_file("tested.conf", &config.render())?;
        let program = bed.program().ocserv.display().to_string();
        bed.gateway()
            .output(&program, &["-t", "-c", &path.display().to_string()])
    }

    /// Everything that it logged so far.
    pub fn log(&self) -> String {
        fs::read(&self.log_path)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Waits for a text in the log.
    ///
    /// # Errors
    /// When it did not come.
    pub fn wait_log(&self, text: &str) -> Result<()> {
        wait::until_true(&format!("`{text}` in the server's log"), wait::LONG, || {
            self.log().contains(text)
        })
    }

    /// The process that was started.
    pub fn pid(&self) -> i32 {
        self.main.id().try_into().unwrap_or_default()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Processes of one role.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn pids(&self, role: Role) -> Result<Vec<i32>> {
        let name = role.process_name(&self.program);
        let mut pids = self.gateway.pids()?;
        pids.retain(|pid| {
            let line = process::command_line(*pid);
            let first = line.split_whitespace().next().unwrap_or_default();
            first == name || first.strip_suffix(':') == Some(name)
        });
        Ok(pids)
    }

    /// Gates that hold a TCP connection of a client.
    ///
    /// # Errors
    /// When `ss` or `ip` fails.
    pub fn gates_of(&self, client: &str) -> Result<Vec<i32>> {
        let sockets = self.gateway.must("ss", &["-tnpH", "dst", client])?;
        let mut gates = self.pids(Role::Gate)?;
        gates.retain(|pid| sockets.contains(&format!("pid={pid},")));
        Ok(gates)
    }

    /// Waits until a role has processes, and returns them.
    ///
    /// # Errors
    /// When none appeared.
    pub fn wait_pids(&self, role: Role) -> Result<Vec<i32>> {
        wait::until(&format!("a {role:?} process"), wait::SHORT, || {
            self.pids(role).ok().filter(|pids| !pids.is_empty())
        })
    }

    /// Kills all processes of a role by SIGKILL, and waits until others have taken their place.
    ///
    /// # Errors
    /// When the role has no process or is not started again.
    pub fn kill_and_wait_replaced(&self, role: Role) -> Result<()> {
        let victims = self.wait_pids(role)?;
        for pid in &victims {
            process::signal(*pid, Signal::SIGKILL);
        }
        wait::until_true(&format!("a new {role:?}"), wait::SHORT, || {
            self.pids(role)
                .is_ok_and(|now| !now.is_empty() && now.iter().all(|pid| !victims.contains(pid)))
        })
    }

    /// Runs `occtl` with `arguments`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn occtl(&self, arguments: &[&str]) -> Result<Output> {
        let socket = self.directory.join("occtl.sock").display().to_string();
        let program = self.program.occtl.display().to_string();
        let mut words = vec!["-s", socket.as_str()];
        words.extend(arguments);
        self.gateway.output(&program, &words)
    }

    /// Runs `occtl`, which must succeed, and returns its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn occtl_text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.occtl(arguments)?;
        if !output.status.success() {
            bail!(
                "occtl {}: {}: {}",
                arguments.join(" "),
                output.status,
                process::text(&output)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `occtl` in its interactive mode on some input, and returns what it printed.
    ///
    /// # Errors
    /// When it fails or hangs.
    pub fn occtl_typing(&self, input: &str) -> Result<String> {
        let path = self.directory.join("occtl.log");
        let mut child = self.spawn_occtl(&[], &path)?;
        let mut pipe = child.stdin.take().context("occtl's input")?;
        pipe.write_all(input.as_bytes())?;
        drop(pipe);
        let status = process::wait_exit(&mut child, "occtl", wait::SHORT);
        process::reap(&mut child);
        let said = fs::read_to_string(&path)?;
        if !status?.success() {
            bail!("occtl: {said}");
        }
        Ok(said)
    }

    /// Starts `occtl show events`.
    ///
    /// # Errors
    /// When it does not begin to listen.
    pub fn watch_events(&self) -> Result<Events> {
        let path = self.directory.join("events.log");
        let mut events = Events {
            child: self.spawn_occtl(&["show", "events"], &path)?,
            path,
        };
        events.wait_for("Press 'q'")?;
        Ok(events)
    }

    fn spawn_occtl(&self, arguments: &[&str], output: &Path) -> Result<Child> {
        let output = File::create(output)?;
        // Written into a file, lines would stay in the program's buffer.
        let mut command = Command::new("stdbuf");
        command.arg("-oL").arg(&self.program.occtl).arg("-s");
        command
            .arg(self.directory.join("occtl.sock"))
            .args(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output);
        self.gateway.spawn(&mut command)
    }

    /// Replaces the configuration file and sends SIGHUP.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reload(&self, text: &str) -> Result<()> {
        fs::write(self.directory.join("ocserv.conf"), text)?;
        process::signal(self.pid(), Signal::SIGHUP);
        Ok(())
    }

    /// True while the first process lives.
    pub fn is_running(&mut self) -> bool {
        matches!(self.main.try_wait(), Ok(None))
    }

    /// Ends the server by SIGTERM.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        process::signal(self.pid(), Signal::SIGTERM);
        process::wait_exit(&mut self.main, "the server", limit)
    }

    /// What a server that has ended must not leave: devices, routes, processes, sockets.
    ///
    /// # Errors
    /// When the namespace cannot be looked at.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let is_tunnel = |name: &String| name.starts_with("vpns") || name.starts_with("tun");
        left.extend(self.gateway.devices()?.into_iter().filter(is_tunnel));
        for family in ["-4", "-6"] {
            let routes = self.gateway.ip(&format!("{family} route show table all"))?;
            let is_ours = |line: &&str| line.contains("10.30.0.") || line.contains("fd30:");
            left.extend(
                routes
                    .lines()
                    .filter(is_ours)
                    .map(|line| format!("route {line}")),
            );
        }
        let processes = self.gateway.pids()?;
        left.extend(
            processes
                .into_iter()
                .map(|pid| process::command_line(pid) + " (process)"),
        );
        for entry in fs::read_dir(&self.directory).context("the bed's directory")? {
            use std::os::unix::fs::FileTypeExt;
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_socket() || name == "ocserv.pid" {
                left.push(format!("file {name}"));
            }
        }
        Ok(left)
    }
}

/// A running `occtl show events`. Dropping it ends it.
#[derive(Debug)]
pub struct Events {
    child: Child,
    path: PathBuf,
}

impl Events {
    /// Waits for a text among what it has printed.
    ///
    /// # Errors
    /// When it did not come.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        wait::until_true(&format!("the event `{text}`"), wait::SHORT, || {
            fs::read_to_string(&self.path).is_ok_and(|printed| printed.contains(text))
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        process::reap(&mut self.child);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        process::reap(&mut self.main);
        for pid in self.gateway.pids().unwrap_or_default() {
            process::signal(pid, Signal::SIGKILL);
        }
    }
}
