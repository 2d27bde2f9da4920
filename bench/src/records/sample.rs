//! One sample: bursts through the gateway, and what they cost it.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ocserv_tests::Bed;

use super::Case;
use super::cores::Meter;
use super::generator::{Burst, Generator, Moved};
use super::path::{Path, Sockets};
use super::session::Session;

/// Datagrams that are made ahead and then sent at once.
const BURST: usize = 4096;
/// A sample with more losses than this share is none.
const MOST_LOST: f64 = 0.05;

/// Bursts that may pass before the first that counts.
const WARM_UPS: usize = 8;

/// What packets pass.
pub struct Subject<'a> {
    /// Its network.
    pub bed: &'a Bed,
    /// Sessions that records are made for; without any the client's machine sends plain datagrams.
    pub sessions: &'a [Session],
    /// Where datagrams to the client's machine go if there is no session.
    pub client: Ipv4Addr,
}

/// What a sample consists of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Packets that arrived.
    pub delivered: usize,
    /// Packets that did not.
    pub lost: usize,
    /// How long they took.
    pub wall: Duration,
    /// What the gateway spent on them.
    pub processor: Duration,
    /// Share of the packets that passed in the kernel, where that is known.
    pub in_kernel: Option<f64>,
}

impl Sample {
    fn add(&mut self, moved: Moved, processor: Duration) {
        self.delivered += moved.delivered;
        self.lost += moved.lost;
        self.wall += moved.wall;
        self.processor += processor;
    }

    /// Nanoseconds of the gateway's processor for each delivered packet.
    pub fn cost(&self) -> f64 {
        self.processor.as_secs_f64() * 1e9 / self.delivered as f64
    }

    /// Delivered packets a second.
    pub fn rate(&self) -> f64 {
        self.delivered as f64 / self.wall.as_secs_f64()
    }

    /// Share of the packets that got lost.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / (self.delivered + self.lost) as f64
    }
}

/// Sends bursts until their time adds up to `span`. `meter` is that of everything that moves packets in
/// the gateway.
///
/// # Errors
/// When packets get lost or changed, or a process of the subject has ended.
pub fn take(subject: &Subject<'_>, meter: &Meter, case: Case, span: Duration) -> Result<Sample> {
    let sockets = Sockets::open(subject, &case)?;
    let mut path = Path::new(case, subject, &sockets)?;
    let mut way = Way {
        meter,
        generator: Generator::new(),
        burst: Burst::default(),
    };
    way.warm_up(&mut path)?;
    let mut sample = Sample::default();
    while sample.wall < span {
        let (moved, processor) = way.run(&mut path)?;
        sample.add(moved, processor);
    }
    let strangers = path.sinks.strangers();
    ensure!(
        sample.loss() <= MOST_LOST,
        "{} of {} packets lost, {strangers} others arrived",
        sample.lost,
        sample.lost + sample.delivered
    );
    Ok(sample)
}

struct Way<'a> {
    meter: &'a Meter,
    generator: Generator,
    burst: Burst,
}

impl Way<'_> {
    /// Neighbours are looked up, the ways of sessions settle, programs meet code that was not in memory; and
    /// the load finds how much the gateway's queues hold, so that it is as busy as it can be.
    fn warm_up(&mut self, path: &mut Path<'_>) -> Result<()> {
        let mut was_whole = false;
        for _ in 1..WARM_UPS {
            let Ok((moved, _)) = self.run(path) else {
                continue;
            };
            // What is lost at first tells nothing of queues.
            let goes_on = (moved.lost == 0 || was_whole).then(|| self.generator.adapt(&moved));
            was_whole |= moved.lost == 0;
            if goes_on == Some(false) {
                return Ok(());
            }
        }
        self.run(path).map(drop)
    }

    fn run(&mut self, path: &mut Path<'_>) -> Result<(Moved, Duration)> {
        path.keep_alive()?;
        path.fill(&mut self.burst, BURST)?;
        let before = self.meter.read()?;
        let moved = self
            .generator
            .run(&self.burst, &path.out, &mut path.sinks)?;
        let processor = self.meter.read()?.saturating_sub(before);
        let strangers = path.sinks.strangers();
        path.check()
            .with_context(|| format!("{moved:?}, {strangers} others arrived"))?;
        Ok((moved, processor))
    }
}
