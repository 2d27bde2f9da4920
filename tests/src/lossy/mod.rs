//! A link between a client and the gateway that loses, delays and repeats packets, or gets narrow.
//! What befalls a packet is drawn from a seed; the same packets have the same fate.

mod frame;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bed::Bed;
use crate::namespace::Namespace;

/// A delayed packet comes behind at most so many later ones.
const WINDOW: u64 = 8;
/// It is not held back longer, so that the last one of a burst comes at all.
const LONGEST_DELAY: Duration = Duration::from_millis(4);
/// How long the link sleeps when there is nothing to carry. The devices cannot be waited for.
const NAP: Duration = Duration::from_micros(300);
/// Longest frame.
const MAX_FRAME: usize = 2048;

/// What a link does to packets of TCP and UDP. Others pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Of 1000 packets, how many are lost.
    pub lost: u64,
    /// Of 1000 packets, how many come behind later ones.
    pub delayed: u64,
    /// Of 1000 packets, how many come twice, the second one as a delayed one.
    pub repeated: u64,
    /// Longest IP packet, in bytes.
    pub mtu: usize,
    /// What becomes of longer ones.
    pub narrow: Narrow,
}

/// How a link with a small MTU behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// As a router, both ways, of IPv4 only: with DF the sender is told ("fragmentation needed"),
    /// without DF there are fragments.
    Router,
    /// What goes to the client is lost, and nobody is told.
    SilentToClient,
}

impl Faults {
    /// A link as it should be.
    pub const NONE: Self = Self {
        lost: 0,
        delayed: 0,
        repeated: 0,
        mtu: 1500,
        narrow: Narrow::Router,
    };

    /// A bad radio link: 1.5 % lost, others out of order or repeated.
    pub const BAD: Self = Self {
        lost: 15,
        delayed: 40,
        repeated: 10,
        ..Self::NONE
    };
}

/// What has befallen packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lost.
    pub lost: u64,
    /// Came behind a later one, or 4 ms late.
    pub delayed: u64,
    /// Came twice.
    pub repeated: u64,
    /// Were too long.
    pub too_long: u64,
}

/// The link. Dropping it ends it.
#[derive(Debug)]
pub struct LossyLink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    faults: Mutex<Faults>,
    counts: Mutex<Counts>,
    stop: AtomicBool,
}

impl LossyLink {
    /// Puts it in the place of the first client's cable. Its ends give out finished packets, so
    /// nothing remains to be done about their checksums.
    ///
    /// # Errors
    /// When a device cannot be made.
    pub fn insert(bed: &Bed, seed: u64) -> Result<Self> {
        bed.gateway().ip("link delete wan0")?;
        let gateway = tap(bed.gateway(), "wan0")?;
        let client = tap(bed.client(0), "eth0")?;
        bed.address_site(0)?;
        let shared = Arc::new(Shared {
            faults: Mutex::new(Faults::NONE),
            counts: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let ends = [gateway, client];
        let thread = {
            let shared = Arc::clone(&shared);
            spawn(move || carry(ends, seed, &shared))
        };
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Changes what it does.
    pub fn set(&self, faults: Faults) {
        *lock(&self.shared.faults) = faults;
    }

    /// What it has done.
    pub fn counts(&self) -> Counts {
        *lock(&self.shared.counts)
    }
}

impl Drop for LossyLink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it has made the test fail already.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An Ethernet device whose other end is ours.
fn tap(namespace: &Namespace, name: &str) -> Result<tun::Device> {
    let device = namespace.run(|| {
        let mut configuration = tun::Configuration::default();
        configuration.tun_name(name).layer(tun::Layer::L2);
        tun::Device::new(&configuration)
    })?;
    let device = device.context(name.to_owned())?;
    device.set_nonblock()?;
    namespace.ip(&format!("link set {name} up"))?;
    Ok(device)
}

/// The packets that go one way.
struct Way {
    towards_client: bool,
    random: u64,
    /// Packets of traffic so far.
    number: u64,
    held: VecDeque<Held>,
}

struct Held {
    frame: Vec<u8>,
    behind: u64,
    until: Instant,
}

/// Where frames come from and go to; what goes wrong there is a packet lost.
struct Ends<'a> {
    from: &'a mut dyn Write,
    to: &'a mut dyn Write,
}

fn carry([mut gateway, mut client]: [tun::Device; 2], seed: u64, shared: &Shared) {
    let mut ways = [true, false].map(|towards_client| Way {
        towards_client,
        random: seed ^ u64::from(towards_client) << 32,
        number: 0,
        held: VecDeque::new(),
    });
    let mut frame = [0; MAX_FRAME];
    while !shared.stop.load(Ordering::Relaxed) {
        let faults = *lock(&shared.faults);
        let mut counts = *lock(&shared.counts);
        let mut idle = true;
        for way in &mut ways {
            let (from, to) = if way.towards_client {
                (&mut gateway, &mut client)
            } else {
                (&mut client, &mut gateway)
            };
            while let Ok(len) = from.read(&mut frame) {
                idle = false;
                way.pass(&frame[..len], faults, &mut counts, Ends { from, to });
            }
            way.release(to);
        }
        *lock(&shared.counts) = counts;
        if idle {
            sleep(NAP);
        }
    }
}

impl Way {
    fn pass(&mut self, frame: &[u8], faults: Faults, counts: &mut Counts, ends: Ends<'_>) {
        let Ends { from, to } = ends;
        if !frame::is_traffic(frame) {
            let _ = to.write(frame);
            return;
        }
        let is_router = faults.narrow == Narrow::Router;
        if frame::packet_len(frame) > faults.mtu && (is_router || self.towards_client) {
            counts.too_long += 1;
            if is_router {
                for fragment in frame::fragments(frame, faults.mtu) {
                    let _ = to.write(&fragment);
                }
                let answer = frame::fragmentation_needed(frame, faults.mtu);
                let _ = answer.map(|answer| from.write(&answer));
            }
            return;
        }
        self.number += 1;
        let [lost, delayed, repeated] =
            [faults.lost, faults.delayed, faults.repeated].map(|share| self.draw() % 1000 < share);
        let behind = self.number + 1 + self.draw() % WINDOW;
        counts.lost += u64::from(lost);
        if lost {
            return;
        }
        counts.delayed += u64::from(delayed);
        counts.repeated += u64::from(repeated);
        if !delayed {
            let _ = to.write(frame);
        }
        if delayed || repeated {
            self.hold(frame, behind);
        }
        if delayed && repeated {
            self.hold(frame, behind + 1);
        }
        self.release(to);
    }

    fn hold(&mut self, frame: &[u8], behind: u64) {
        self.held.push_back(Held {
            frame: frame.to_vec(),
            behind,
            until: Instant::now() + LONGEST_DELAY,
        });
    }

    /// Lets those go whose turn it is.
    fn release(&mut self, to: &mut dyn Write) {
        let now = Instant::now();
        self.held.retain(|held| {
            let stays = held.behind > self.number && held.until > now;
            if !stays {
                let _ = to.write(&held.frame);
            }
            stays
        });
    }

    /// The next number (SplitMix64).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
