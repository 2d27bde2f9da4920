//! The supervisor's state and its one loop: every event is handled here, one after the other, and
//! nothing in it waits for a client.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ocserv_proto::config::Config;
use ocserv_proto::secret::Secret;
use tokio::sync::mpsc;

use super::bans::BanList;
use super::closing::Closing;
use super::control::ControlCall;
use super::devices::Device;
use super::events::EventFeed;
use super::gates::Gates;
use super::lease::LeasePool;
use super::listen::Listeners;
use super::network::Network;
use super::peers::Peer;
use super::setup::{Learned, VhostFiles};
use super::shards::Shards;
use super::socket_link::SocketLink;
use super::state::{Connection, Slots};
use super::stats::Stats;
use super::tunnels::{OpenResult, Undo};
use crate::costs::{Costs, RecordLimits};
use crate::ipc::dataplane::{FromDataplane, ToDataplane};
use crate::ipc::gate::FromGate;
use crate::ipc::ids::{ConnId, GateId, SessionName};
use crate::ipc::secmod::{FromSecmod, SessionRecord, ToSecmod};
use crate::kernel_path::KernelPath;
use crate::logging;

/// Everything that happens to the supervisor.
#[derive(Debug)]
pub enum Event {
    /// A client connected.
    Accepted(std::net::TcpStream),
    /// A gate spoke.
    FromGate(GateId, FromGate),
    /// A gate's process ended.
    GateGone(GateId),
    /// The pause before a gate's restart is over.
    StartGate,
    /// The pause before secmod's restart is over.
    StartSecmod,
    /// The pause before that secmod is asked again to take the configuration is over.
    ConfigureSecmod(u32),
    /// Secmod spoke.
    FromSecmod(FromSecmod),
    /// Secmod's process of that start number ended.
    SecmodGone(u32),
    /// The dataplane spoke.
    FromDataplane(FromDataplane),
    /// The dataplane's process of that start number ended.
    DataplaneGone(u32),
    /// Leases were probed and the connect script ended.
    Opened(ConnId, u64, OpenResult, Box<Undo>),
    /// occtl asks.
    Control(ControlCall),
    /// The pause before the dataplane's restart is over.
    StartDataplane,
    /// A queue that was taken may be free now.
    OpenSockets,
    /// Devices or their addresses have changed.
    DevicesChanged,
    /// The tun device was switched off.
    TunIsDown,
    /// It is on again.
    TunIsUp,
    /// The tun device was deleted.
    TunGone,
    /// A second passed.
    Tick,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Maintenance,
    /// SIGTERM or SIGINT.
    Stop,
}

impl Event {
    /// The last event of a process.
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::GateGone(_) | Self::SecmodGone(_) | Self::DataplaneGone(_)
        )
    }
}

/// How far the end of the server has come.
#[derive(Clone, Copy, Debug)]
pub enum Stopping {
    /// Still answering (`server-drain-ms`).
    Draining {
        /// When it ends.
        until: Instant,
    },
    /// Sessions are told to end.
    Ending {
        /// When the rest is killed.
        until: Instant,
    },
}

/// What is to be kept of the start.
#[derive(Debug)]
pub struct Launch {
    /// The configuration.
    pub config: Config,
    /// Its file, for reloads.
    pub config_path: PathBuf,
    /// Where logs go.
    pub logging: logging::Settings,
    /// uid and gid of the unprivileged processes.
    pub run_as: Option<(u32, u32)>,
    /// `-x`.
    pub traceable: bool,
}

/// The supervisor.
pub struct Supervisor {
    pub(super) config: Arc<Config>,
    pub(super) config_path: PathBuf,
    /// A reload that secmod has not answered yet.
    pub(super) pending: Option<(Arc<Config>, Vec<VhostFiles>)>,
    pub(super) generation: u64,
    pub(super) files: Vec<VhostFiles>,
    /// Times of the certificate files.
    pub(super) file_times: Vec<Option<SystemTime>>,
    pub(super) learned: Learned,
    pub(super) logging: logging::Settings,
    pub(super) run_as: Option<(u32, u32)>,
    pub(super) traceable: bool,
    pub(super) threads: usize,
    pub(super) udp_port: u16,
    /// Packets may pass inside the kernel.
    pub(super) kernel: Option<KernelPath>,
    /// Why there is none.
    pub(super) kernel_off: String,
    /// What packets cost, where that decides about their paths (`xdp-max-record = auto`).
    pub(super) costs: Option<Costs>,
    /// What outputs cost by each packet thread, see [`Costs::learn`].
    pub(super) thread_costs: Vec<[f64; 2]>,
    /// What the programs take again once the tun device is on.
    pub(super) resting: Option<RecordLimits>,
    /// That of the newest tunnel.
    pub(super) last_order: u64,
    /// The host's devices, as the kernel path last saw them.
    pub(super) devices: Vec<Device>,
    /// Devices that the configuration names for it, and that are not there.
    pub(super) absent_devices: Vec<String>,
    /// Those past the host's stack.
    pub(super) sockets: SocketLink,
    pub(super) ticket_key: Secret,

    pub(super) events: mpsc::Sender<Event>,
    pub(super) listeners: Listeners,
    pub(super) accepting: bool,
    pub(super) stopping: Option<Stopping>,
    pub(super) started: SystemTime,

    pub(super) gates: Gates,
    pub(super) secmod: Option<Peer<ToSecmod>>,
    pub(super) secmod_starts: u32,
    /// Deaths of secmod since it last took a configuration over.
    pub(super) secmod_failures: u32,
    /// When it was started.
    pub(super) secmod_since: Instant,
    /// It has taken a configuration over.
    pub(super) secmod_ready: bool,
    /// A reload was asked for while another was under way.
    pub(super) reload_wanted: bool,
    pub(super) dataplane: Option<Peer<ToDataplane>>,
    pub(super) dataplane_starts: u32,
    pub(super) dataplane_since: Instant,
    /// Questions to secmod by number: which connection waits.
    pub(super) questions: HashMap<u64, ConnId>,
    pub(super) next_question: u64,

    pub(super) device: String,
    pub(super) tun: ocserv_sys::tun::TunDevice,
    pub(super) network: Network,
    /// The session records.
    pub(super) shared: Shards,
    pub(super) slots: Slots,
    /// DTLS keys installed so far: names the last ones.
    pub(super) generation_of_keys: u64,

    pub(super) connections: HashMap<ConnId, Connection>,
    pub(super) next_conn: u32,
    pub(super) records: BTreeMap<SessionName, SessionRecord>,
    pub(super) leases: LeasePool,
    /// Ends of tunnels whose scripts still run.
    pub(super) closing: Vec<Closing>,
    /// Open tunnels of each iroute.
    pub(super) iroute_users: HashMap<(IpAddr, u8), u32>,
    pub(super) bans: BanList,
    pub(super) stats: Stats,
    pub(super) feed: EventFeed,
    /// Milliseconds that accepting pauses before each connection.
    pub(super) accept_pause: Arc<std::sync::atomic::AtomicU64>,
}

impl Supervisor {
    /// Handles events until the server has ended.
    ///
    /// # Errors
    /// What ended it, if that was not somebody's wish.
    pub async fn serve(mut self, mut inbox: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        let mut tun_is_gone = false;
        while let Some(event) = inbox.recv().await {
            tun_is_gone |= matches!(event, Event::TunGone);
            self.handle(event).await?;
            if self.has_ended() {
                break;
            }
        }
        self.finish().await;
        anyhow::ensure!(!tun_is_gone, "the tun device is gone");
        Ok(())
    }

    async fn handle(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Accepted(stream) => self.on_accepted(stream),
            Event::FromGate(gate, message) => self.on_gate_message(gate, message).await,
            Event::GateGone(gate) => self.on_gate_gone(gate).await,
            Event::StartGate => self.on_start_gate(),
            Event::FromSecmod(message) => self.on_secmod_message(message).await?,
            Event::StartSecmod => self.start_secmod()?,
            Event::ConfigureSecmod(start) => self.on_configure_secmod(start)?,
            Event::SecmodGone(start) => self.on_secmod_gone(start).await?,
            Event::FromDataplane(message) => self.on_dataplane_message(message),
            Event::DataplaneGone(start) => self.on_dataplane_gone(start).await,
            Event::Opened(conn, step, result, undo) => {
                self.on_opened(conn, step, result, *undo).await;
            }
            Event::Control(call) => self.on_control(call).await,
            Event::StartDataplane => self.on_start_dataplane().await,
            Event::OpenSockets => self.on_open_sockets(),
            Event::DevicesChanged => self.follow_devices().await,
            Event::TunIsDown => self.rest_kernel_path(),
            Event::TunIsUp => self.on_tun_is_up().await,
            // No packet passes any more, so there is nothing to drain.
            Event::TunGone => self.disconnect_everyone().await,
            Event::Tick => self.on_tick().await,
            Event::Reload => self.reload().map_or_else(
                |error| tracing::error!("the configuration in force is kept: {error:#}"),
                |()| {},
            ),
            Event::Maintenance => self.maintenance(),
            Event::Stop => self.begin_stop().await,
        }
        Ok(())
    }

    /// Monotonic seconds, the clock of the shared session records.
    pub(super) fn monotonic_secs() -> u64 {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_or(0, |now| now.tv_sec().unsigned_abs())
    }

    /// Work of every second.
    async fn on_tick(&mut self) {
        self.end_overdue_tunnels().await;
        self.report_period();
        if let Some(kernel) = &mut self.kernel {
            kernel.log_words();
        }
        self.look_after_rest();
        self.set_accept_pause();
        self.leases.expire(SystemTime::now());
        match self.stopping {
            Some(Stopping::Draining { until }) if Instant::now() >= until => {
                self.disconnect_everyone().await;
            }
            _ => {}
        }
    }

    /// Begins a new period of statistics when it is time (`server-stats-reset-time`).
    fn report_period(&mut self) {
        let Some(period) = self.stats.reset_if_due(SystemTime::now()) else {
            return;
        };
        tracing::info!(
            "statistics of the last period: sessions {}, timed out {}, idle {}, errors {}, \
             authentication failures {}, rx {}, tx {}",
            period.sessions_handled,
            period.timed_out,
            period.idle_timed_out,
            period.errors,
            period.auth_failures,
            period.rx_bytes,
            period.tx_bytes
        );
    }

    /// Work of every 15 minutes, or of SIGUSR2.
    pub(super) fn maintenance(&mut self) {
        self.bans.expire(Instant::now());
        self.bans.configure(self.ban_settings());
        self.refresh_files();
        ocserv_sys::memory::give_back();
    }

    pub(super) async fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        tracing::info!("termination request received; waiting for sessions to die");
        if self.config.server_drain_ms.is_zero() {
            self.disconnect_everyone().await;
        } else {
            let until = Instant::now() + self.config.server_drain_ms;
            self.stopping = Some(Stopping::Draining { until });
        }
    }

    async fn disconnect_everyone(&mut self) {
        self.accepting = false;
        self.stopping = Some(Stopping::Ending {
            until: Instant::now() + Duration::from_secs(5),
        });
        for gate in self.gates.all.values() {
            gate.peer.send(crate::ipc::gate::ToGate::Stop, Vec::new());
        }
    }

    fn has_ended(&self) -> bool {
        match self.stopping {
            Some(Stopping::Ending { until }) => {
                self.gates.all.is_empty() || Instant::now() >= until
            }
            _ => false,
        }
    }

    /// Ends what is left: disconnect scripts run, children are reaped, files removed. Devices and
    /// routes go with the last descriptor of the tun device.
    async fn finish(mut self) {
        let open: Vec<ConnId> = self.connections.keys().copied().collect();
        for conn in open {
            self.connection_closed(conn, crate::ipc::gate::EndReason::ServerDisconnect)
                .await;
        }
        let gates = std::mem::take(&mut self.gates.all);
        let mut ends = tokio::task::JoinSet::new();
        for gate in gates.into_values() {
            ends.spawn(gate.peer.finish());
        }
        ends.join_all().await;
        if let Some(dataplane) = self.dataplane.take() {
            dataplane.send(ToDataplane::Stop, Vec::new());
            dataplane.finish().await;
        }
        if let Some(secmod) = self.secmod.take() {
            secmod.send(ToSecmod::Stop, Vec::new());
            secmod.finish().await;
        }
        self.wait_for_scripts(Duration::from_secs(5)).await;
        if self.config.use_occtl {
            let _ = std::fs::remove_file(&self.config.occtl_socket_file);
        }
        tracing::info!("the server has ended");
    }
}
