//! The network: clients – gateway – lan, with certificates and users.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};

use crate::guard::Guard;
use crate::namespace::Namespace;
use crate::pki::{Authority, KeyKind, Names};
use crate::process;
use crate::program::Program;

/// The gateway's TCP and UDP port.
pub const PORT: u16 = 4443;
/// The gateway's host name, which its certificate carries.
pub const HOST: &str = "vpn.example.test";
/// The gateway's public addresses. Clients are not in its subnets, since these are never banned.
pub const GATEWAY4: &str = "192.0.2.1";
/// See [`GATEWAY4`].
pub const GATEWAY6: &str = "2001:db8:2::1";
/// The lan host's addresses.
pub const LAN4: &str = "10.20.0.2";
/// See [`LAN4`].
pub const LAN6: &str = "fd20::2";
/// The user of most tests, in the group `staff`.
pub const USER: &str = "alice";
/// The password of [`USER`].
pub const PASSWORD: &str = "correct horse";
/// The second user, in the groups `guests` and `staff`.
pub const OTHER_USER: &str = "bob";
/// The password of [`OTHER_USER`].
pub const OTHER_PASSWORD: &str = "battery staple";

/// Counts the beds of this process, so that tests can run side by side.
static NEXT_BED: AtomicU32 = AtomicU32::new(0);

/// A network of its own. Dropping it removes everything.
#[derive(Debug)]
pub struct Bed {
    name: String,
    directory: PathBuf,
    clients: Vec<Namespace>,
    gateway: Namespace,
    lan: Namespace,
    authority: Authority,
    program: Program,
    remover: Remover,
}

impl Bed {
    /// A bed with `clients` client machines.
    ///
    /// # Errors
    /// Without root, or when a program is missing.
    pub fn new(clients: usize, program: Program) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the test bed needs root: run it with sudo");
        }
        let number = NEXT_BED.fetch_add(1, Ordering::Relaxed);
        let name = format!("oxc-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let remover = Remover(Arc::new(Mutex::new(Some(Guard::start(&directory, &name)?))));
        let gateway = Namespace::create(&format!("{name}-gw"))?;
        let lan = Namespace::create(&format!("{name}-lan"))?;
        let clients = (0..clients)
            .map(|index| Namespace::create(&format!("{name}-c{index}")))
            .collect::<Result<Vec<_>>>()?;
        let authority = Authority::create(&directory)?;
        let bed = Self {
            name,
            directory,
            clients,
            gateway,
            lan,
            authority,
            program,
            remover,
        };
        bed.wire()?;
        bed.issue_certificate("server", HOST, KeyKind::P256, None)?;
        bed.add_user(USER, PASSWORD, "staff")?;
        bed.add_user(OTHER_USER, OTHER_PASSWORD, "guests,staff")?;
        Ok(bed)
    }

    /// Its files; the guard removes them.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name that all namespaces of this bed begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the server runs.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// Where the host behind the gateway is.
    pub fn lan(&self) -> &Namespace {
        &self.lan
    }

    /// The machine of client `index`.
    pub fn client(&self, index: usize) -> &Namespace {
        &self.clients[index]
    }

    /// The machines of all clients.
    pub fn clients(&self) -> &[Namespace] {
        &self.clients
    }

    /// The binaries under test.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The authority that clients trust.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Writes `FILE.pem` and `FILE.key` for a host name on the gateway.
    ///
    /// # Errors
    /// When `openssl` fails.
    pub fn issue_certificate(
        &self,
        file: &str,
        host: &str,
        kind: KeyKind,
        pin: Option<&str>,
    ) -> Result<()> {
        let names = Names {
            host: host.to_owned(),
            address: GATEWAY4.to_owned(),
        };
        self.authority.issue(file, kind, &names, pin).map(drop)
    }

    /// Adds a user to the password file by `ocpasswd`.
    ///
    /// # Errors
    /// When `ocpasswd` fails.
    pub fn add_user(&self, name: &str, password: &str, groups: &str) -> Result<()> {
        let mut child = std::process::Command::new(&self.program.ocpasswd)
            .arg("-c")
            .arg(self.directory.join("passwd"))
            .args(["-g", groups, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("ocpasswd")?;
        let mut input = child.stdin.take().context("ocpasswd's input")?;
        std::io::Write::write_all(&mut input, format!("{password}\n").as_bytes())?;
        drop(input);
        let status = process::wait_exit(&mut child, "ocpasswd", crate::wait::SHORT)?;
        if !status.success() {
            bail!("ocpasswd: {status}");
        }
        Ok(())
    }

    /// Writes a file of the bed, and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Writes an executable shell script of the bed, and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_script(&self, name: &str, body: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write_file(name, &format!("#!/bin/sh\n{body}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Removes the bed, and checks that nothing of it is left.
    ///
    /// # Errors
    /// Names what was left.
    pub fn close(self) -> Result<()> {
        self.remover.remove_now();
        let left = leftovers(&self.name, &self.directory);
        if !left.is_empty() {
            bail!("left behind: {}", left.join(", "));
        }
        Ok(())
    }

    /// A handle by which another thread can remove the bed, for Ctrl-C.
    pub fn remover(&self) -> Remover {
        self.remover.clone()
    }

    /// Makes the machines at both ends complete the checksums of what they send, as those behind a
    /// network card appear to. Between namespaces they are left open otherwise, and the kernel path
    /// leaves such packets to the host's stack.
    ///
    /// # Errors
    /// When `ethtool` fails.
    pub fn complete_checksums(&self) -> Result<()> {
        let ends = self.clients.iter().chain([&self.lan]);
        for end in ends {
            end.must("ethtool", &["-K", "eth0", "tx", "off", "tso", "off"])?;
        }
        Ok(())
    }

    /// Puts a bridge, `bridge0`, which has no XDP of its own, between the gateway and its lan.
    ///
    /// # Errors
    /// When a device cannot be changed.
    pub fn bridge_lan(&self) -> Result<()> {
        for line in [
            "link add bridge0 type bridge",
            "address flush dev lan0",
            "link set lan0 master bridge0",
            "link set bridge0 up",
            "address add 10.20.0.1/24 dev bridge0",
            "address add fd20::1/64 dev bridge0 nodad",
        ] {
            self.gateway().ip(line)?;
        }
        Ok(())
    }

    /// Loses all datagrams between the clients and the gateway's port.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn block_udp(&self) -> Result<()> {
        let ends = self.clients.iter().chain([&self.gateway]);
        ends.into_iter().try_for_each(|end| end.block_udp(PORT))
    }

    /// Undoes [`Bed::block_udp`].
    ///
    /// # Errors
    /// When nothing was blocked.
    pub fn unblock_udp(&self) -> Result<()> {
        let ends = self.clients.iter().chain([&self.gateway]);
        ends.into_iter().try_for_each(Namespace::unblock_udp)
    }

    /// The ends of all logs of the bed, for a failed test.
    pub fn logs(&self) -> String {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return String::new();
        };
        let mut paths: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        let mut text = String::new();
        for path in paths
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
        {
            let log = fs::read(path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<_> = log.lines().collect();
            let tail = lines
                .iter()
                .skip(lines.len().saturating_sub(LOG_TAIL_LINES));
            text.push_str(&format!("--- {}\n", path.display()));
            tail.for_each(|line| text.push_str(&format!("{line}\n")));
        }
        text
    }

    /// The cables, addresses and routes.
    fn wire(&self) -> Result<()> {
        self.gateway.sysctl("net/ipv4/ip_forward", "1")?;
        self.gateway.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        cable(&self.gateway, "lan0", &self.lan, "eth0")?;
        self.gateway.ip("address add 10.20.0.1/24 dev lan0")?;
        self.gateway.ip("address add fd20::1/64 dev lan0 nodad")?;
        self.lan.ip(&format!("address add {LAN4}/24 dev eth0"))?;
        self.lan
            .ip(&format!("address add {LAN6}/64 dev eth0 nodad"))?;
        self.lan.ip("route add default via 10.20.0.1")?;
        self.lan.ip("-6 route add default via fd20::1")?;
        for (index, client) in self.clients.iter().enumerate() {
            let wan = format!("wan{index}");
            cable(&self.gateway, &wan, client, "eth0")?;
            self.address_site(index)?;
        }
        Ok(())
    }

    /// Addresses and routes of a client's machine, and of the gateway towards it.
    pub(crate) fn address_site(&self, index: usize) -> Result<()> {
        let site = Site::new(index);
        let (gateway, wan) = (&self.gateway, format!("wan{index}"));
        gateway.ip(&format!("address add {GATEWAY4}/32 dev {wan}"))?;
        gateway.ip(&format!("address add {GATEWAY6}/128 dev {wan} nodad"))?;
        let (net4, net6) = (&site.prefix4, &site.prefix6);
        gateway.ip(&format!("route add {net4}.0/24 dev {wan} src {GATEWAY4}"))?;
        gateway.ip(&format!("-6 route add {net6}::/64 dev {wan}"))?;
        let client = self.client(index);
        let (own4, own6) = (site.address4(), site.address6());
        client.ip(&format!("address add {own4}/32 dev eth0"))?;
        client.ip(&format!("address add {own6}/128 dev eth0 nodad"))?;
        client.ip(&format!("route add {GATEWAY4}/32 dev eth0 src {own4}"))?;
        client.ip(&format!("-6 route add {GATEWAY6}/128 dev eth0"))?;
        Ok(())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.remover.remove_now();
    }
}

/// Removes a bed, once, from any thread.
#[derive(Clone, Debug)]
pub struct Remover(Arc<Mutex<Option<Guard>>>);

impl Remover {
    /// Kills what runs in the bed and removes it; returns when that is done.
    pub fn remove_now(&self) {
        let mut guard = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(guard.take());
    }
}

/// The addresses of one client machine.
#[derive(Clone, Debug)]
pub struct Site {
    prefix4: String,
    prefix6: String,
}

impl Site {
    /// Of client `index`.
    pub fn new(index: usize) -> Self {
        Self {
            prefix4: format!("198.51.{}", 100 + index),
            prefix6: format!("2001:db8:{}", 100 + index),
        }
    }

    /// Its IPv4 address.
    pub fn address4(&self) -> String {
        format!("{}.2", self.prefix4)
    }

    /// Another address that the gateway routes to it, for roaming.
    pub fn other_address4(&self) -> String {
        format!("{}.77", self.prefix4)
    }

    /// Its IPv6 address.
    pub fn address6(&self) -> String {
        format!("{}::2", self.prefix6)
    }
}

/// Lines of each log that a failed test shows.
const LOG_TAIL_LINES: usize = 80;

/// A veth pair, up, without segmentation offload: records must have the size of real ones.
fn cable(from: &Namespace, from_device: &str, to: &Namespace, to_device: &str) -> Result<()> {
    from.ip(&format!(
        "link add {from_device} type veth peer name {to_device} netns {}",
        to.name()
    ))?;
    from.ip(&format!("link set {from_device} up gso_max_segs 1"))?;
    to.ip(&format!("link set {to_device} up gso_max_segs 1"))?;
    Ok(())
}

fn leftovers(name: &str, directory: &Path) -> Vec<String> {
    let mut left = Vec::new();
    if let Ok(entries) = fs::read_dir("/run/netns") {
        left.extend(
            entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|entry| entry.starts_with(&format!("{name}-")))
                .map(|entry| format!("namespace {entry}")),
        );
    }
    if directory.exists() {
        left.push(format!("directory {}", directory.display()));
    }
    let path = format!("{}/", directory.display());
    left.extend(
        process::all_pids()
            .into_iter()
            .map(|pid| (pid, process::command_line(pid)))
            .filter(|(_, line)| line.contains(&path))
            .map(|(pid, line)| format!("process {pid} ({line})")),
    );
    left
}

/// The lines of the test that an error came through, if `RUST_BACKTRACE` is set.
fn places(error: &anyhow::Error) -> String {
    let trace = error.backtrace().to_string();
    let is_test = |line: &&str| line.contains("/tests/tests/") || line.contains(" ./tests/");
    trace
        .lines()
        .filter(is_test)
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs a test in a bed with one client machine; a failure shows the logs. See
/// [`scenario_with_clients`].
///
/// # Panics
/// When the test fails or leaves something behind.
pub fn scenario(test: impl FnOnce(&Bed) -> Result<()>) {
    scenario_with_clients(1, test);
}

/// Runs a test in a bed with several client machines.
///
/// # Panics
/// When the test fails or leaves something behind.
pub fn scenario_with_clients(clients: usize, test: impl FnOnce(&Bed) -> Result<()>) {
    let bed = Program::from_environment()
        .and_then(|program| Bed::new(clients, program))
        .unwrap_or_else(|error| panic!("no test bed: {error:#}"));
    match catch_unwind(AssertUnwindSafe(|| test(&bed))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}\n{}\n{}", places(&error), bed.logs()),
        Err(cause) => {
            eprintln!("{}", bed.logs());
            std::panic::resume_unwind(cause);
        }
    }
    if let Err(error) = bed.close() {
        panic!("{error:#}");
    }
}
