//! The dataplane: one process, one thread per core, the keys of all sessions, next to no parsing.
//!
//! ```text
//!  client ── UDP ──► from_client ──► tun        tun ──► to_client ──► UDP ── client
//!                        │                                  │
//!                        ▼ handshakes                       ▼ when DTLS is not in use
//!                       gate ◄──────── packet link ────────► gate ── CSTP ── client
//! ```
//!
//! Each thread owns a tun queue and a UDP socket per address, and a copy of the lookup tables; the
//! control task sends it changes. There is no lock on a packet's way: what threads share about a
//! session is atomic, and its sequence counters and replay windows live in shared memory, where they
//! outlast this process.

mod channel;
mod control;
mod from_client;
mod from_gate;
mod icmp;
mod limit;
mod mailbox;
mod meter;
mod output;
mod past_the_stack;
mod pending;
mod routes;
mod session;
mod session_mtu;
mod sockets;
mod table;
mod to_client;
mod trouble;
mod ways;
mod worker;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::stat::fstat;
use nix::time::{ClockId, clock_gettime};
use ocserv_proto::Now;
use ocserv_sys::sandbox;
use ocserv_sys::shared_map::{Backing, SharedSessions};
use ocserv_sys::tun::TunQueue;
use ocserv_sys::udp::{self, PathMtu, UdpPort};
use ocserv_sys::xsk::Frames;
use tokio::sync::mpsc;

use self::control::{Control, Features, Records};
use self::mailbox::{Inbox, Mailbox, Report, mailbox};
use self::worker::Worker;
use crate::confine::confine;
use crate::costs::Costs;
use crate::ipc::channel::Channel;
use crate::ipc::dataplane::{FRAME_SIZE, ToDataplane};
use crate::role::Confinement;

/// Packets that are read and sent together; of datagrams that the kernel has merged, messages.
const BATCH: usize = 64;
/// Largest datagram: an inner packet of 16 KiB in a record.
const MAX_DATAGRAM: usize = 17 * 1024;
/// Reports that may wait for the control task.
const REPORTS: usize = 1024;

/// Runs the role: `supervisor` is the channel to the supervisor.
///
/// # Errors
/// When it cannot be set up or confined, or a thread fails; the supervisor starts another one.
pub fn run(supervisor: OwnedFd, confinement: Confinement) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let supervisor = Channel::new(supervisor)?;
        let Some((setup, fds)) = supervisor.recv::<ToDataplane>().await? else {
            return Ok(());
        };
        let setup = Setup::take(setup, fds)?;
        let role = if setup.sockets {
            sandbox::Role::DataplaneWithSockets
        } else {
            sandbox::Role::Dataplane
        };
        confine(&confinement, role)?;
        let (sender, reports) = mpsc::channel(REPORTS);
        let threads = start_threads(setup.threads, setup.costs, &sender)?;
        ocserv_sys::memory::give_back();
        Control::new(supervisor, threads, reports, setup.records, setup.features)
            .run()
            .await
    })
}

/// What the first message brings.
struct Setup {
    records: Records,
    features: Features,
    threads: Vec<ThreadParts>,
    costs: Option<Costs>,
    sockets: bool,
}

/// What a thread is given.
struct ThreadParts {
    tun: TunQueue,
    ports: Vec<UdpPort>,
    sockets: Option<SocketParts>,
}

/// What a thread needs for sockets past the host's stack (`xdp-sockets`).
pub struct SocketParts {
    /// Memory of its sockets.
    pub frames: Frames,
    /// The program that knows where packets go.
    pub route: Arc<OwnedFd>,
    /// The tun device: where the host hands packets to this process.
    pub tun_ifindex: u32,
    /// Records are not to be fragmented (`try-mtu-discovery`).
    pub dont_fragment: bool,
}

impl Setup {
    fn take(message: ToDataplane, fds: Vec<OwnedFd>) -> anyhow::Result<Self> {
        let ToDataplane::Setup {
            threads,
            udp_per_thread,
            slots,
            kernel_maps,
            try_mtu_discovery,
            costs,
            sockets,
            tun_ifindex,
            ..
        } = message
        else {
            bail!("the first message is not the set-up");
        };
        let path_mtu = if try_mtu_discovery {
            PathMtu::Discover
        } else {
            PathMtu::Fragment
        };
        let mut fds = fds.into_iter();
        let route = match sockets {
            true => Some(Arc::new(
                fds.next_back().context("the route program is missing")?,
            )),
            false => None,
        };
        let mut read = HashSet::new();
        let threads = (0..threads)
            .map(|_| {
                let tun = TunQueue::new(fds.next().context("a tun queue is missing")?);
                let ports = (0..udp_per_thread)
                    .map(|_| {
                        let fd = fds.next().context("a UDP socket is missing")?;
                        let stat = fstat(&fd).context("UDP socket")?;
                        let mut port = UdpPort::new(fd, path_mtu).context("UDP socket")?;
                        // Threads may share one that was handed over. What belongs together is then read
                        // by the first, in order; the others send by it.
                        port.set_reads(read.insert((stat.st_dev, stat.st_ino)));
                        Ok(port)
                    })
                    .collect::<anyhow::Result<_>>()?;
                let sockets = match &route {
                    Some(route) => Some(SocketParts {
                        frames: map_frames(fds.next())?,
                        route: Arc::clone(route),
                        tun_ifindex,
                        dont_fragment: try_mtu_discovery,
                    }),
                    None => None,
                };
                Ok(ThreadParts {
                    tun,
                    ports,
                    sockets,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        if threads.is_empty() {
            bail!("no thread to run");
        }
        let features = Features {
            mtu_discovery: try_mtu_discovery,
            priority_messages: udp::takes_priority(),
        };
        let backing = if kernel_maps {
            Backing::KernelMap
        } else {
            Backing::Memfd
        };
        let records = Records {
            shared: Arc::new(SharedSessions::new(slots)),
            backing,
        };
        Ok(Self {
            records,
            features,
            threads,
            costs,
            sockets,
        })
    }
}

fn map_frames(memory: Option<OwnedFd>) -> anyhow::Result<Frames> {
    let memory = memory.context("memory of frames is missing")?;
    Frames::map(&memory, FRAME_SIZE).context("memory of frames")
}

fn start_threads(
    parts: Vec<ThreadParts>,
    costs: Option<Costs>,
    reports: &mpsc::Sender<Report>,
) -> anyhow::Result<Vec<Mailbox>> {
    let count = parts.len();
    let mut mailboxes = Vec::with_capacity(count);
    for (id, parts) in parts.into_iter().enumerate() {
        let (mailbox, inbox) = mailbox()?;
        let guard = FailureGuard {
            id,
            reports: reports.clone(),
        };
        std::thread::Builder::new()
            .name(format!("packets-{id}"))
            .spawn(move || guard.watch(count, parts, costs, &inbox))
            .context("cannot start a packet thread")?;
        mailboxes.push(mailbox);
    }
    Ok(mailboxes)
}

/// Tells the control task of a thread that ended by an error or a panic.
struct FailureGuard {
    id: usize,
    reports: mpsc::Sender<Report>,
}

impl FailureGuard {
    fn watch(self, threads: usize, parts: ThreadParts, costs: Option<Costs>, inbox: &Inbox) {
        let reports = self.reports.clone();
        let ThreadParts {
            tun,
            ports,
            sockets,
        } = parts;
        let worker = move || {
            Worker::new((self.id, threads), (tun, ports), costs, sockets, reports).run(inbox)
        };
        let work = std::panic::AssertUnwindSafe(worker);
        let failure = match std::panic::catch_unwind(work) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "panicked".to_owned(),
        };
        let _ = self.reports.blocking_send(Report::Failed(self.id, failure));
    }
}

/// `CLOCK_MONOTONIC`, which all processes of the machine share.
fn clock() -> Now {
    // It cannot fail for this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Now::from)
        .unwrap_or_default()
}
