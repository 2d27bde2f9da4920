//! From the command line to the event loop.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use ocserv_common::kernel::MAX_SLOTS;
use ocserv_proto::config::{self, Config};
use ocserv_proto::secret::Secret;
use ocserv_sys::shared_map::Backing;
use ocserv_sys::tun::TunDevice;
use ocserv_sys::{memory, process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::bans::{BanList, BanSettings, CAPACITY};
use super::core::Launch;
use super::events::EventFeed;
use super::lease::LeasePool;
use super::network::Network;
use super::setup::VhostFiles;
use super::shards::Shards;
use super::state::Slots;
use super::stats::Stats;
use super::{Event, Supervisor, accept, check, control, kernel_link, listen, opening, tun_watch};
use crate::cli::Options;
use crate::logging;

/// Where the configuration is looked for without `-c` (config.md 1.1).
const DEFAULT_PATHS: [&str; 2] = ["/etc/ocserv/ocserv.conf", "/etc/ocserv.conf"];
/// Events that may wait for the loop; senders wait when it is full.
const QUEUE: usize = 1024;
/// Session records without `max-clients`.
const DEFAULT_SLOTS: u32 = 8192;
/// Tun devices that are tried, `vpns0` to `vpns15`.
const DEVICE_NUMBERS: u32 = 16;
/// Interval of the maintenance (behaviour.md §11).
const MAINTENANCE: Duration = Duration::from_secs(900);

/// Runs the server as the command line says.
///
/// # Errors
/// What keeps the server from starting; the text is for the administrator.
pub fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "This server requires root access to operate."
    );
    let config_path = config_path(options)?;
    let config = read_config(&config_path, |message| eprintln!("{message}"))?;
    let run_as = accounts(&config)?;
    let files = VhostFiles::read_all(&config)?;
    let settings = log_settings(options, &config)?;
    check::configuration(&config, &settings)?;
    if options.test_config {
        return Ok(());
    }
    if !options.foreground {
        nix::unistd::daemon(options.no_chdir, false).context("cannot go into the background")?;
    }
    logging::install("main", &settings);
    if !options.traceable {
        // It knows the record keys of all sessions. Scripts are not concerned: exec ends it.
        process::set_dumpable(false).context("cannot forbid dumps")?;
    }
    if let Err(error) = process::raise_file_limit() {
        tracing::warn!(
            "the limit of open files stays as it is, which may be too few for all clients: {error}"
        );
    }
    let pid_file = PidFile::write(options.pid_file.as_ref().or(config.pid_file.as_ref()))?;
    let launch = Launch {
        config,
        config_path,
        logging: settings,
        run_as,
        traceable: options.traceable,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(launch, files));
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    drop(pid_file);
    result
}

fn config_path(options: &Options) -> anyhow::Result<PathBuf> {
    if let Some(path) = &options.config {
        // The server changes its directory later; reloads must still find the file.
        return std::path::absolute(path).context("cannot resolve the configuration's path");
    }
    let found = DEFAULT_PATHS
        .iter()
        .map(Path::new)
        .find(|path| path.exists());
    Ok(found.unwrap_or(Path::new(DEFAULT_PATHS[0])).to_owned())
}

/// Reads and checks a configuration file; notes and warnings go to `say`.
///
/// # Errors
/// In the reference's words, with file and line.
pub fn read_config(path: &Path, mut say: impl FnMut(&str)) -> anyhow::Result<Config> {
    let text = std::fs::read(path).map_err(|error| {
        anyhow::anyhow!(
            "error: cannot access config file: {}\n  {error}\nUsage: ocserv -c [config]\n\
             Use ocserv --help for more information.",
            path.display()
        )
    })?;
    let parsed = config::parse(&path.to_string_lossy(), &text)?;
    for message in &parsed.messages {
        say(&message.to_string());
    }
    Ok(parsed.config)
}

/// uid and gid of `run-as-user` and `run-as-group`.
fn accounts(config: &Config) -> anyhow::Result<Option<(u32, u32)>> {
    let number = |text: &str| text.parse::<u32>().ok();
    let user = match config.run_as_user.as_deref() {
        None => None,
        Some(name) => match nix::unistd::User::from_name(name)? {
            Some(user) => Some((user.uid.as_raw(), user.gid.as_raw())),
            None => Some((
                number(name).with_context(|| format!("error: unknown user: {name}"))?,
                nix::unistd::getgid().as_raw(),
            )),
        },
    };
    let group = match config.run_as_group.as_deref() {
        None => None,
        Some(name) => Some(match nix::unistd::Group::from_name(name)? {
            Some(group) => group.gid.as_raw(),
            None => number(name).with_context(|| format!("error: unknown group: {name}"))?,
        }),
    };
    Ok(match (user, group) {
        (None, None) => None,
        (Some((uid, gid)), group) => Some((uid, group.unwrap_or(gid))),
        (None, Some(gid)) => Some((0, gid)),
    })
}

fn log_settings(options: &Options, config: &Config) -> anyhow::Result<logging::Settings> {
    let name = options
        .syslog_facility
        .as_deref()
        .unwrap_or(&config.syslog_facility);
    let facility = logging::facility(name)
        .with_context(|| format!("error: unknown syslog facility: {name}"))?;
    let mut targets = Vec::new();
    if options.log_stderr || (options.debug.is_some() && !options.syslog) {
        targets.push(logging::Target::Stderr);
    }
    if options.syslog || !options.log_stderr {
        targets.push(logging::system_log(facility));
    }
    Ok(logging::Settings {
        targets,
        level: options.debug.unwrap_or(config.log_level),
    })
}

struct PidFile(Option<PathBuf>);

impl PidFile {
    fn write(path: Option<&PathBuf>) -> anyhow::Result<Self> {
        if let Some(path) = path {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| format!("cannot write the pid file '{}'", path.display()))?;
        }
        Ok(Self(path.cloned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn serve(launch: Launch, files: Vec<VhostFiles>) -> anyhow::Result<()> {
    let (events, inbox) = mpsc::channel(QUEUE);
    let mut supervisor = build(launch, files, events.clone())?;
    watch_signals(&events)?;
    watch_clock(&events);
    supervisor.start_secmod()?;
    supervisor.serve(inbox).await
}

fn build(
    launch: Launch,
    files: Vec<VhostFiles>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<Supervisor> {
    let config = Arc::new(launch.config);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let listeners = listen::bind(&config, cores)?;
    let threads = listeners.threads;
    let tun = create_device(&config.device, threads)?;
    let device = tun.name().to_owned();
    let network = Network::open(&device)?;
    let slots = slot_count(config.max_clients);
    let mut key = vec![0; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key)
        .map_err(|_| anyhow::anyhow!("no randomness"))?;
    let now = SystemTime::now();
    let file_times = super::reload::file_times(&config);
    let udp_port = udp_port(&config, &listeners);
    let loaded = kernel_link::load(&config, slots, udp_port, network.index());
    let (kernel, costs, kernel_off) = match loaded {
        Ok((kernel, costs)) => (Some(kernel), costs, String::new()),
        Err(reason) => (None, None, reason),
    };
    let backing = match kernel {
        Some(_) => Backing::KernelMap,
        None => Backing::Memfd,
    };
    Ok(Supervisor {
        bans: BanList::new(ban_settings(&config), CAPACITY),
        stats: Stats::new(config.server_stats_reset_time.unwrap_or_default(), now),
        config,
        config_path: launch.config_path,
        pending: None,
        generation: 1,
        file_times,
        files,
        learned: Default::default(),
        logging: launch.logging,
        run_as: launch.run_as,
        traceable: launch.traceable,
        threads,
        udp_port,
        kernel,
        kernel_off,
        costs,
        thread_costs: vec![[f64::NAN; 2]; threads],
        resting: None,
        last_order: 0,
        devices: Vec::new(),
        absent_devices: Vec::new(),
        sockets: Default::default(),
        ticket_key: Secret::new(key),
        events,
        listeners,
        accepting: true,
        stopping: None,
        started: now,
        gates: Default::default(),
        secmod: None,
        secmod_starts: 0,
        secmod_failures: 0,
        secmod_since: Instant::now(),
        secmod_ready: false,
        reload_wanted: false,
        dataplane: None,
        dataplane_starts: 0,
        dataplane_since: Instant::now(),
        questions: HashMap::new(),
        next_question: 0,
        device,
        tun,
        network,
        shared: Shards::new(slots, backing),
        slots: Slots::new(slots),
        generation_of_keys: 0,
        connections: HashMap::new(),
        next_conn: 0,
        records: BTreeMap::new(),
        leases: LeasePool::new(),
        closing: Vec::new(),
        iroute_users: HashMap::new(),
        feed: EventFeed::new(),
        accept_pause: Default::default(),
    })
}

/// Session records for `max-clients`.
fn slot_count(max_clients: u32) -> u32 {
    if max_clients > MAX_SLOTS {
        tracing::warn!("max-clients is limited to {MAX_SLOTS}");
    }
    match max_clients {
        0 => DEFAULT_SLOTS,
        limit => limit.min(MAX_SLOTS),
    }
}

/// The UDP port that clients are told; sockets of a service manager know their own.
fn udp_port(config: &Config, listeners: &listen::Listeners) -> u16 {
    let own = listeners
        .udp
        .first()
        .and_then(|sockets| sockets.first())
        .and_then(|fd| {
            let address = socket2::SockRef::from(fd).local_addr().ok()?;
            address.as_socket().map(|address| address.port())
        });
    if config.udp_port != 0 {
        config.udp_port
    } else {
        own.unwrap_or(0)
    }
}

fn create_device(prefix: &str, queues: usize) -> anyhow::Result<TunDevice> {
    let free = (0..DEVICE_NUMBERS)
        .map(|number| format!("{prefix}{number}"))
        .find(|name| !Path::new("/sys/class/net").join(name).exists())
        .with_context(|| format!("all devices {prefix}0 to {prefix}15 exist"))?;
    let device = TunDevice::create(&free, queues)
        .with_context(|| format!("cannot create the tun device '{free}' (key device)"))?;
    // Addresses must be usable at once: there is nobody on the device to conflict with.
    let dad = format!("/proc/sys/net/ipv6/conf/{free}/accept_dad");
    if let Err(error) = std::fs::write(&dad, "0") {
        tracing::debug!("{dad}: {error}");
    }
    Ok(device)
}

/// What the configuration says of bans; the server's own subnets are exempt (behaviour.md 10.4).
pub fn ban_settings(config: &Config) -> BanSettings {
    BanSettings {
        max_score: config.max_ban_score,
        ban_time: config.ban_time,
        reset_time: config.ban_reset_time,
        exempt: local_subnets(),
    }
}

/// The networks that the server itself is in.
fn local_subnets() -> Vec<(IpAddr, u8)> {
    let Ok(devices) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let ip = |address: Option<nix::sys::socket::SockaddrStorage>| {
        let address = address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let subnet = |device: nix::ifaddrs::InterfaceAddress| {
        let prefix = match ip(device.netmask)? {
            IpAddr::V4(mask) => mask.to_bits().count_ones(),
            IpAddr::V6(mask) => mask.to_bits().count_ones(),
        };
        Some((ip(device.address)?, prefix as u8))
    };
    devices.filter_map(subnet).collect()
}

fn watch_signals(events: &mpsc::Sender<Event>) -> anyhow::Result<()> {
    let watch = |kind: SignalKind, event: fn() -> Event| -> anyhow::Result<()> {
        let mut signals = signal(kind).context("cannot watch signals")?;
        let events = events.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if events.send(event()).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    };
    watch(SignalKind::hangup(), || Event::Reload)?;
    watch(SignalKind::terminate(), || Event::Stop)?;
    watch(SignalKind::interrupt(), || Event::Stop)?;
    watch(SignalKind::user_defined2(), || Event::Maintenance)
}

fn watch_clock(events: &mpsc::Sender<Event>) {
    let ticks = events.clone();
    tokio::spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut maintained = Instant::now();
        loop {
            clock.tick().await;
            let mut due = vec![Event::Tick];
            if maintained.elapsed() >= MAINTENANCE {
                maintained = Instant::now();
                due.push(Event::Maintenance);
            }
            for event in due {
                if ticks.send(event).await.is_err() {
                    return;
                }
            }
        }
    });
}

impl Supervisor {
    /// Secmod has accepted the configuration: addresses, dataplane, gates, sockets.
    ///
    /// # Errors
    /// What keeps the server from serving.
    pub async fn open_for_business(&mut self) -> anyhow::Result<()> {
        self.network.up().await?;
        self.take_server_addresses().await?;
        tun_watch::watch(self.network.index(), self.events.clone())?;
        self.start_kernel_path().await;
        self.start_dataplane()?;
        self.start_gates();
        for socket in &self.listeners.tcp {
            let listener = accept::listener(socket).context("cannot watch a TCP socket")?;
            let pause = self.accept_pause.clone();
            tokio::spawn(accept::accept_loop(listener, self.events.clone(), pause));
        }
        if self.config.use_occtl {
            let path = &self.config.occtl_socket_file;
            let socket = control::bind(path)
                .with_context(|| format!("cannot open the control socket '{}'", path.display()))?;
            let events = self.events.clone();
            tokio::spawn(control::serve(socket, move |call| {
                let events = events.clone();
                async move { events.send(Event::Control(call)).await.is_ok() }
            }));
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!("listening on TCP port {}", self.config.tcp_port);
        memory::give_back();
        Ok(())
    }

    /// Gives the tun device the server's address of every configured pool.
    ///
    /// # Errors
    /// As netlink answers.
    pub async fn take_server_addresses(&mut self) -> anyhow::Result<()> {
        let pools: Vec<_> = self
            .config
            .vhosts
            .iter()
            .map(|vhost| opening::pools(&vhost.user))
            .collect();
        let v4: Vec<_> = pools.iter().filter_map(|(v4, _)| *v4).collect();
        let v6: Vec<_> = pools.iter().filter_map(|(_, v6)| *v6).collect();
        self.leases.reserve_servers(&v4, &v6);
        for pool in &v4 {
            self.network
                .add_address(IpAddr::V4(pool.server()), 32)
                .await?;
        }
        for pool in &v6 {
            self.network
                .add_address(IpAddr::V6(pool.server()), 128)
                .await?;
        }
        Ok(())
    }

    /// Bans as the configuration in force says.
    pub fn ban_settings(&self) -> BanSettings {
        ban_settings(&self.config)
    }

    /// Waits for scripts that run in the background.
    pub async fn wait_for_scripts(&mut self, longest: Duration) {
        let running = std::mem::take(&mut self.closing);
        let all = async {
            for end in running {
                let _ = end.done.acquire().await;
            }
        };
        if tokio::time::timeout(longest, all).await.is_err() {
            tracing::warn!("disconnect scripts still run; they are left alone");
        }
    }
}
