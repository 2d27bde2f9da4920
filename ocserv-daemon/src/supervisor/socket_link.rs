//! Sockets past the host's stack (`xdp-sockets`): one for each queue of a device that has XDP programs, opened
//! here, served by the dataplane.
//!
//! Whatever fails here costs speed only: what comes by a queue without a socket goes to the dataplane by the
//! host's stack.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use ocserv_common::kernel::{MAX_SOCKET_FRAME, SOCKET_QUEUES};
use ocserv_sys::process;
use ocserv_sys::xsk::{self, FrameMemory};

use super::{Event, Supervisor};
use crate::ipc::dataplane::{FRAME_SIZE, ToDataplane};
use crate::kernel_path::{DeviceRole, Mode};

/// Frames of each thread.
const FRAMES: u32 = 8192;
/// Largest MTU of a device whose packets fit the frames, bytes.
const MAX_MTU: u32 = 1500;
// With an Ethernet header and two VLAN tags.
const _: () = assert!(MAX_MTU + 22 <= MAX_SOCKET_FRAME && MAX_SOCKET_FRAME < FRAME_SIZE);
/// A queue that is taken may be free again once the kernel has ended its former socket: for so long it is
/// tried again.
const BUSY_FOR: Duration = Duration::from_secs(2);
/// The pause before that.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// The sockets of the dataplane that runs.
#[derive(Debug, Default)]
pub struct SocketLink {
    /// The frames of each thread; empty: there are no sockets.
    memory: Vec<FrameMemory>,
    /// By number of the device.
    devices: HashMap<u32, DeviceSockets>,
    /// By device and queue: those that the dataplane has been told of, and does not serve yet.
    waiting: HashMap<(u32, u32), OwnedFd>,
    /// Devices of which it was told that they lack sockets.
    told: HashSet<u32>,
    /// [`Event::OpenSockets`] is on its way.
    is_timed: bool,
}

/// The sockets of a device.
#[derive(Debug, Default)]
struct DeviceSockets {
    /// As it was when they were opened.
    mtu: u32,
    progress: Progress,
    /// Those that packets come by.
    ready: u64,
}

/// How far a device's queues are opened.
#[derive(Debug, Default)]
struct Progress {
    next: u32,
    is_over: bool,
    /// The next queue was taken, then for the first time.
    busy_since: Option<Instant>,
}

/// What became of an attempt to open the rest of a device's queues.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// All are open.
    Complete,
    /// One is taken, and worth another attempt.
    Busy,
    /// This one, and those behind it, will not be.
    Failed(u32, String),
}

impl Progress {
    /// Opens queue by queue, until the device has no more or one cannot be.
    fn go_on(&mut self, now: Instant, mut open: impl FnMut(u32) -> io::Result<()>) -> Outcome {
        while self.next < SOCKET_QUEUES {
            let Err(error) = open(self.next) else {
                self.next += 1;
                self.busy_since = None;
                continue;
            };
            match error.raw_os_error() {
                Some(nix::libc::EINVAL) if self.next > 0 => break,
                Some(nix::libc::EBUSY) if now < *self.busy_since.get_or_insert(now) + BUSY_FOR => {
                    return Outcome::Busy;
                }
                _ => {
                    self.is_over = true;
                    return Outcome::Failed(self.next, words(&error));
                }
            }
        }
        self.is_over = true;
        Outcome::Complete
    }
}

fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(nix::libc::ENOBUFS) => {
            "the limit of locked memory (RLIMIT_MEMLOCK) is too low, and cannot be raised"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Opens a socket. The kernel counts pinned memory as locked, unless the process has CAP_IPC_LOCK.
fn open(memory: &mut FrameMemory, ifindex: u32, queue: u32) -> io::Result<OwnedFd> {
    match xsk::open(memory, ifindex, queue) {
        Err(error)
            if error.raw_os_error() == Some(nix::libc::ENOBUFS)
                && process::raise_lock_limit().is_ok() =>
        {
            xsk::open(memory, ifindex, queue)
        }
        result => result,
    }
}

impl SocketLink {
    /// Makes the memory for another dataplane; copies for its first message, by thread.
    fn begin(&mut self, threads: usize) -> io::Result<Vec<OwnedFd>> {
        self.end();
        let memory: Vec<_> = (0..threads)
            .map(|_| FrameMemory::create(FRAMES, FRAME_SIZE))
            .collect::<io::Result<_>>()?;
        let copies = memory.iter().map(|one| one.as_fd().try_clone_to_owned());
        let copies = copies.collect::<io::Result<_>>()?;
        self.memory = memory;
        Ok(copies)
    }

    /// The dataplane is gone, and with it all sockets: what is left of them here would hold their queues.
    fn end(&mut self) {
        self.memory.clear();
        self.devices.clear();
        self.waiting.clear();
    }

    /// Opens what a device lacks. What was opened, with queue and thread.
    fn open_device(&mut self, ifindex: u32, mtu: u32) -> (Vec<(u32, u32, OwnedFd)>, Outcome) {
        let device = self.devices.entry(ifindex).or_default();
        device.mtu = mtu;
        let mut opened = Vec::new();
        let Self {
            memory, waiting, ..
        } = self;
        let threads = memory.len() as u32;
        let outcome = device.progress.go_on(Instant::now(), |queue| {
            let thread = queue % threads;
            let socket = open(&mut memory[thread as usize], ifindex, queue)?;
            waiting.insert((ifindex, queue), socket.try_clone()?);
            opened.push((queue, thread, socket));
            Ok(())
        });
        for memory in memory {
            // Who shares the memory has its first socket for that, and a socket of a device that is gone is
            // of no use to others.
            memory.release();
        }
        (opened, outcome)
    }

    /// Forgets the sockets of a device. `false`: there are none.
    fn forget(&mut self, ifindex: u32) -> bool {
        self.waiting.retain(|(of, _), _| *of != ifindex);
        self.devices.remove(&ifindex).is_some()
    }

    /// Sockets that packets come by.
    pub fn count(&self) -> u64 {
        self.devices.values().map(|device| device.ready).sum()
    }
}

impl Supervisor {
    /// What another dataplane needs for sockets: frames by thread, and the route program. `None`: it gets
    /// none.
    pub(super) fn begin_sockets(&mut self) -> Option<(Vec<OwnedFd>, OwnedFd)> {
        let kernel = self
            .kernel
            .as_ref()
            .filter(|kernel| kernel.options().sockets)?;
        let parts = kernel.route_program().and_then(|route| {
            let memory = self.sockets.begin(self.threads);
            Ok((memory.context("memory of frames")?, route))
        });
        parts
            .inspect_err(|error| {
                tracing::warn!("xdp-sockets: {error:#}; all packets go by the host's stack");
            })
            .ok()
    }

    /// The dataplane is gone.
    pub(super) fn end_sockets(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            for ifindex in self.sockets.devices.keys() {
                kernel.forget_sockets(*ifindex);
            }
        }
        self.sockets.end();
    }

    /// Opens the sockets that devices with programs lack.
    pub(super) fn open_sockets(&mut self) {
        let Some(kernel) = &self.kernel else {
            return;
        };
        if self.sockets.memory.is_empty() || self.dataplane.is_none() {
            return;
        }
        let attached: Vec<_> = kernel
            .attached()
            .iter()
            .filter(|has| has.role != DeviceRole::Tun && has.mode != Mode::Tc)
            .map(|has| (has.ifindex, has.role == DeviceRole::Lan))
            .collect();
        for (ifindex, is_lan) in attached {
            self.open_sockets_of(ifindex, is_lan);
        }
    }

    fn open_sockets_of(&mut self, ifindex: u32, is_lan: bool) {
        let mut devices = self.devices.iter();
        let Some(mtu) = devices.find(|d| d.index == ifindex).map(|d| d.mtu) else {
            return;
        };
        if let Some(has) = self.sockets.devices.get(&ifindex) {
            if has.mtu == mtu && has.progress.is_over {
                return;
            }
            if has.mtu != mtu {
                self.close_sockets(ifindex);
            }
        }
        if mtu > MAX_MTU {
            self.tell_lack(ifindex, &format!("an MTU of {mtu} is more than {MAX_MTU}"));
            return;
        }
        let (opened, outcome) = self.sockets.open_device(ifindex, mtu);
        for (queue, thread, socket) in opened {
            let added = ToDataplane::SocketAdded {
                thread,
                ifindex,
                queue,
                is_lan,
            };
            if let Some(dataplane) = &self.dataplane {
                dataplane.send(added, vec![socket]);
            }
        }
        match outcome {
            Outcome::Complete => {}
            Outcome::Busy if self.sockets.is_timed => {}
            Outcome::Busy => {
                self.sockets.is_timed = true;
                self.send_later(BUSY_PAUSE, Event::OpenSockets);
            }
            Outcome::Failed(queue, error) => {
                self.tell_lack(ifindex, &format!("queue {queue}: {error}"));
            }
        }
    }

    /// The pause before another attempt is over.
    pub(super) fn on_open_sockets(&mut self) {
        self.sockets.is_timed = false;
        self.open_sockets();
    }

    /// A device has no programs any more, or another MTU.
    pub(super) fn close_sockets(&mut self, ifindex: u32) {
        if let Some(kernel) = &mut self.kernel {
            kernel.forget_sockets(ifindex);
        }
        if self.sockets.forget(ifindex) {
            self.tell_dataplane(ToDataplane::SocketsGone { ifindex });
        }
    }

    /// A device is gone: what is told of the next one with its number is news.
    pub(super) fn forget_lack(&mut self, ifindex: u32) {
        self.sockets.told.remove(&ifindex);
    }

    /// The dataplane serves a socket: packets may come by it. The dataplane's copy is the only one then.
    pub(super) fn on_socket_ready(&mut self, ifindex: u32, queue: u32) {
        let Some(socket) = self.sockets.waiting.remove(&(ifindex, queue)) else {
            return;
        };
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        if let Err(error) = kernel.add_socket(ifindex, queue, &socket) {
            self.tell_lack(ifindex, &format!("queue {queue}: {error:#}"));
            return;
        }
        let is_waiting = self.sockets.waiting.keys().any(|(of, _)| *of == ifindex);
        let Some(device) = self.sockets.devices.get_mut(&ifindex) else {
            return;
        };
        device.ready += 1;
        if device.progress.is_over && !is_waiting {
            let ready = device.ready;
            let name = self.name_of(ifindex);
            tracing::info!("xdp-sockets: sockets of device {name}: {ready}");
        }
    }

    /// The dataplane cannot serve a socket.
    pub(super) fn on_socket_refused(&mut self, ifindex: u32, queue: u32, error: &str) {
        if self.sockets.waiting.remove(&(ifindex, queue)).is_some() {
            self.tell_lack(ifindex, &format!("queue {queue}: dataplane: {error}"));
        }
    }

    /// Tells, once for each device, that it lacks sockets.
    fn tell_lack(&mut self, ifindex: u32, why: &str) {
        if self.sockets.told.insert(ifindex) {
            let name = self.name_of(ifindex);
            tracing::warn!(
                "xdp-sockets: device {name}: {why}; packets of sessions go by the host's stack there"
            );
        }
    }

    fn name_of(&self, ifindex: u32) -> &str {
        let mut devices = self.devices.iter();
        devices
            .find(|d| d.index == ifindex)
            .map_or("?", |d| &*d.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(number: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(number))
    }

    #[test]
    fn queues_are_opened_until_there_are_no_more() {
        let mut progress = Progress::default();
        let mut opened = Vec::new();
        let outcome = progress.go_on(Instant::now(), |queue| {
            if queue == 3 {
                return error(nix::libc::EINVAL);
            }
            opened.push(queue);
            Ok(())
        });
        assert_eq!(outcome, Outcome::Complete);
        assert_eq!(opened, [0, 1, 2]);
        assert!(progress.is_over);
    }

    #[test]
    fn more_queues_than_are_looked_at() {
        let mut progress = Progress::default();
        let mut count = 0;
        let outcome = progress.go_on(Instant::now(), |_| {
            count += 1;
            Ok(())
        });
        assert_eq!((outcome, count), (Outcome::Complete, SOCKET_QUEUES));
    }

    #[test]
    fn a_device_without_a_single_queue_has_failed() {
        let mut progress = Progress::default();
        let outcome = progress.go_on(Instant::now(), |_| error(nix::libc::EINVAL));
        assert!(matches!(outcome, Outcome::Failed(0, _)), "{outcome:?}");
        assert!(progress.is_over);
    }

    #[test]
    fn a_queue_that_is_taken_is_tried_again_for_a_while() {
        let mut progress = Progress::default();
        let start = Instant::now();
        let taken = |queue| match queue {
            0 => Ok(()),
            _ => error(nix::libc::EBUSY),
        };
        assert_eq!(progress.go_on(start, taken), Outcome::Busy);
        let last = start + BUSY_FOR - BUSY_PAUSE;
        assert_eq!(progress.go_on(last, taken), Outcome::Busy);
        assert_eq!((progress.next, progress.is_over), (1, false));
        let outcome = progress.go_on(start + BUSY_FOR, taken);
        assert!(matches!(outcome, Outcome::Failed(1, _)), "{outcome:?}");
        assert!(progress.is_over);
    }

    #[test]
    fn each_queue_has_its_own_time_to_become_free() {
        let mut progress = Progress::default();
        let start = Instant::now();
        let busy = |free: u32| {
            move |queue| {
                if queue < free {
                    Ok(())
                } else {
                    error(nix::libc::EBUSY)
                }
            }
        };
        assert_eq!(progress.go_on(start, busy(0)), Outcome::Busy);
        let later = start + BUSY_FOR;
        assert_eq!(progress.go_on(later - BUSY_PAUSE, busy(1)), Outcome::Busy);
        assert_eq!(progress.go_on(later, busy(1)), Outcome::Busy);
        assert_eq!(progress.next, 1);
    }

    #[test]
    fn other_failures_are_not_tried_again() {
        let mut progress = Progress::default();
        let outcome = progress.go_on(Instant::now(), |_| error(nix::libc::ENOBUFS));
        let Outcome::Failed(0, why) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(why.contains("RLIMIT_MEMLOCK"), "{why}");
        assert!(progress.is_over);
    }

    #[test]
    fn each_thread_has_memory_of_its_own() {
        let mut link = SocketLink::default();
        let copies = link.begin(2).unwrap();
        assert_eq!((copies.len(), link.memory.len()), (2, 2));
        for copy in &copies {
            let frames = xsk::Frames::map(copy, FRAME_SIZE).unwrap();
            assert_eq!(frames.count(), FRAMES as usize);
        }
        link.devices.insert(
            7,
            DeviceSockets {
                ready: 3,
                ..DeviceSockets::default()
            },
        );
        assert_eq!(link.count(), 3);
        assert!(link.forget(7) && !link.forget(7));
        link.end();
        assert!(link.memory.is_empty());
    }
}
