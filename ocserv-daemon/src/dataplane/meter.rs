//! What merges, and what outputs cost: so that packets take the path that is cheaper for them
//! (`crate::costs`).
//!
//! The kernel path leaves a session's packets to user space when they come close behind each other. What
//! is seen of them here decides whether it goes on so: the session's record tells the programs.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use ocserv_common::kernel::{MAX_RECORD, RECORD_OVERHEAD};
use ocserv_common::pace::Pace;
use ocserv_proto::Now;
use ocserv_sys::tun::PacketBatch;
use ocserv_sys::udp::{RxBatch, UdpPort};

use super::session::Session;
use super::table::SessionTable;
use super::to_client::NOBODY;
use super::worker::Worker;
use crate::costs::{Batch, Costs, Direction, Merge};

/// Packets after which a session is judged.
const JUDGED: u32 = 256;
/// A session whose packets do not merge stays in the kernel for a second, then for twice as long each
/// time, up to 2 to the power of this.
const MOST_PATIENCE: u32 = 3;
const SECOND_MS: u64 = 1000;
/// One of so many batches is timed once so many have been: the thread's clock is a system call.
const TIMED: u32 = 16;
/// Packets that a timed batch must have.
const LEAST_TIMED: u32 = 8;
/// A timed batch changes what is known by this part of the difference, the first ones by more.
const WEIGHT: f64 = 1.0 / TIMED as f64;
/// A change of this part is worth telling.
const NEWS: f64 = 0.1;

/// Counts of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    packets: u32,
    bytes: u32,
    inputs: u32,
    outputs: u32,
}

impl Tally {
    fn add(&mut self, len: usize, begins_input: bool, begins_output: bool) {
        self.packets += 1;
        self.bytes += len as u32;
        self.inputs += u32::from(begins_input);
        self.outputs += u32::from(begins_output);
    }

    fn merge(&self) -> Merge {
        let part = |count: u32| f64::from(count) / f64::from(self.packets.max(1));
        Merge {
            inputs: part(self.inputs),
            outputs: part(self.outputs),
        }
    }
}

/// What merged of a session's packets in one direction since it was last judged. Threads that add at
/// once lose counts of each other, which does no harm.
#[derive(Debug, Default)]
pub struct Merging {
    packets: AtomicU32,
    bytes: AtomicU32,
    inputs: AtomicU32,
    outputs: AtomicU32,
    patience: AtomicU32,
    /// Until when the last verdict holds, ms.
    until_ms: AtomicU64,
}

impl Merging {
    /// Adds; when there is enough to judge, returns it and begins anew.
    fn add(&self, more: &Tally) -> Option<Tally> {
        let places = [&self.packets, &self.bytes, &self.inputs, &self.outputs];
        let more = [more.packets, more.bytes, more.inputs, more.outputs];
        let mut sums = [0; 4];
        for ((sum, place), more) in sums.iter_mut().zip(places).zip(more) {
            *sum = place.load(Ordering::Relaxed).wrapping_add(more);
        }
        let [packets, bytes, inputs, outputs] = sums;
        let is_enough = packets >= JUDGED;
        for (place, sum) in places.into_iter().zip(sums) {
            place.store(if is_enough { 0 } else { sum }, Ordering::Relaxed);
        }
        is_enough.then_some(Tally {
            packets,
            bytes,
            inputs,
            outputs,
        })
    }

    /// Until when a verdict holds, ms. While one does, others only confirm it: the packets that are still
    /// left to user space after it are no new try.
    fn holds(&self, is_kernel: bool, now_ms: u64) -> u64 {
        if !is_kernel {
            self.patience.store(0, Ordering::Relaxed);
            self.until_ms.store(0, Ordering::Relaxed);
            return now_ms + SECOND_MS;
        }
        let until_ms = self.until_ms.load(Ordering::Relaxed);
        if now_ms < until_ms {
            return until_ms;
        }
        let patience = self.patience.load(Ordering::Relaxed).min(MOST_PATIENCE);
        let next = (patience + 1).min(MOST_PATIENCE);
        self.patience.store(next, Ordering::Relaxed);
        let until_ms = now_ms + (SECOND_MS << patience);
        self.until_ms.store(until_ms, Ordering::Relaxed);
        until_ms
    }
}

/// What a thread knows of costs.
pub struct Meter {
    costs: Costs,
    /// What was told, by `Direction`; NaN: nothing yet.
    told: [f64; 2],
    /// What was learned since the start.
    learned: [f64; 2],
    batches: [u32; 2],
    /// Batches that something was learned from, up to [`TIMED`].
    lessons: [u32; 2],
}

impl Meter {
    /// As measured at start.
    pub fn new(costs: Costs) -> Self {
        Self {
            costs,
            told: [f64::NAN; 2],
            learned: [f64::NAN; 2],
            batches: [0; 2],
            lessons: [0; 2],
        }
    }

    /// The thread's processor time, if the batch that begins is one to be timed.
    pub fn begin(&mut self, direction: Direction) -> Option<Duration> {
        let batches = &mut self.batches[direction as usize];
        *batches = batches.wrapping_add(1);
        let is_timed = self.lessons[direction as usize] < TIMED || batches.is_multiple_of(TIMED);
        is_timed.then(thread_time)?
    }

    /// Learns from a timed batch whose outputs were single packets.
    fn learn(&mut self, direction: Direction, all: &Tally, begun: Duration) {
        if all.packets < LEAST_TIMED || all.outputs * 2 < all.packets {
            return;
        }
        let Some(now) = thread_time() else { return };
        let batch = Batch {
            packets: all.packets,
            bytes: all.bytes,
            inputs: all.inputs,
            outputs: all.outputs,
            thread_ns: now.saturating_sub(begun).as_nanos() as f64,
        };
        if let Some(output) = self.costs.output(direction, &batch) {
            let known = &mut self.costs.outputs[direction as usize];
            let lessons = &mut self.lessons[direction as usize];
            *lessons = (*lessons + 1).min(TIMED);
            // The first estimate, from a walk at start, counts as much as a batch.
            let weight = WEIGHT.max(1.0 / f64::from(*lessons + 1));
            *known += (output - *known) * weight;
            self.learned[direction as usize] = *known;
        }
    }

    /// What outputs cost by now, ns, if it is worth telling; NaN for a direction that nothing is known of.
    pub fn news(&self) -> Option<[f64; 2]> {
        let is_new = |(now, told): (&f64, &f64)| {
            !now.is_nan() && (told.is_nan() || (now - told).abs() > told * NEWS)
        };
        let mut pairs = self.learned.iter().zip(&self.told);
        pairs.any(is_new).then_some(self.learned)
    }

    /// It was told.
    pub fn told(&mut self) {
        self.told = self.learned;
    }

    /// Adds packets of a session, and tells its record when there is enough to judge.
    fn add(&self, session: &Session, direction: Direction, tally: &Tally, now: Now) {
        let merging = &session.merging[direction as usize];
        if let Some(tally) = merging.add(tally) {
            let shared = session.shared();
            let pace = match direction {
                Direction::Rx => &shared.rx_pace,
                Direction::Tx => &shared.tx_pace,
            };
            self.judge(pace, merging, direction, &tally, now);
        }
    }

    fn judge(&self, pace: &Pace, merging: &Merging, to: Direction, tally: &Tally, now: Now) {
        let longest = self.costs.longest(to, tally.merge());
        let usual = tally.bytes / tally.packets.max(1) + RECORD_OVERHEAD;
        let is_kernel = longest >= usual;
        let until_ms = merging.holds(is_kernel, now.as_millis() as u64);
        // Costs are lines, so what is cheaper for the usual length is cheaper for all of them together.
        // A packet that was left for its length would take those behind it along.
        pace.tell(if is_kernel { MAX_RECORD } else { longest }, until_ms);
    }
}

fn thread_time() -> Option<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
    Some(time.into())
}

/// Packets that follow each other and are of one session.
struct Runs<'a> {
    meter: &'a Meter,
    table: &'a SessionTable,
    direction: Direction,
    now: Now,
    slot: u32,
    run: Tally,
    all: Tally,
}

impl Runs<'_> {
    fn add(&mut self, slot: u32, len: usize, begins_input: bool, begins_output: bool) {
        if slot != self.slot {
            self.flush();
            self.slot = slot;
        }
        self.run.add(len, begins_input, begins_output);
        self.all.add(len, begins_input, begins_output);
    }

    fn flush(&mut self) {
        if self.run.packets > 0
            && let Some(session) = self.table.by_slot(self.slot)
        {
            self.meter.add(session, self.direction, &self.run, self.now);
        }
        self.run = Tally::default();
    }
}

impl Worker {
    /// Before a batch: when it began, if it is one to be timed.
    pub(super) fn begin_batch(&mut self, direction: Direction) -> Option<Duration> {
        self.meter.as_mut()?.begin(direction)
    }

    fn runs(&self, direction: Direction, now: Now) -> Option<Runs<'_>> {
        Some(Runs {
            meter: self.meter.as_ref()?,
            table: &self.table,
            direction,
            now,
            slot: 0,
            run: Tally::default(),
            all: Tally::default(),
        })
    }

    /// Counts what was delivered from a batch of datagrams.
    pub(super) fn meter_received(&mut self, now: Now, batch: &RxBatch, begun: Option<Duration>) {
        // What was not delivered took its time too: such a batch says nothing about outputs.
        let begun = begun.filter(|_| self.deliver.len() * 8 >= batch.len() * 7);
        let Some(mut runs) = self.runs(Direction::Rx, now) else {
            return;
        };
        let mut leaders = self.out.tun.leaders().iter().peekable();
        for (number, delivery) in (0..).zip(&self.deliver) {
            let begins_output = leaders.next_if_eq(&&number).is_some();
            let begins_input = batch.begins_message(delivery.index);
            runs.add(
                delivery.slot,
                delivery.range.len(),
                begins_input,
                begins_output,
            );
        }
        runs.flush();
        let all = runs.all;
        self.learn(Direction::Rx, &all, begun);
    }

    /// Counts what was sent of a batch of the tun queue. Records of one client and length that follow
    /// each other go as one message.
    pub(super) fn meter_sent(&mut self, now: Now, batch: &PacketBatch, begun: Option<Duration>) {
        let Some(mut runs) = self.runs(Direction::Tx, now) else {
            return;
        };
        let merges = self.out.ports.iter().all(UdpPort::sends_runs);
        let mut last = None;
        for (index, slot) in self.owners.iter().enumerate() {
            if *slot == NOBODY {
                continue;
            }
            let len = batch.packet(index).len();
            let this = Some((*slot, len));
            runs.add(
                *slot,
                len,
                batch.begins_read(index),
                this != last || !merges,
            );
            last = this;
        }
        runs.flush();
        let begun = begun.filter(|_| runs.all.packets as usize * 8 >= self.owners.len() * 7);
        let all = runs.all;
        self.learn(Direction::Tx, &all, begun);
    }

    fn learn(&mut self, direction: Direction, all: &Tally, begun: Option<Duration>) {
        if let (Some(meter), Some(begun)) = (&mut self.meter, begun) {
            meter.learn(direction, all, begun);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::costs::Line;

    fn meter() -> Meter {
        let kernel = Line::through((64, 860.0), (1400, 4600.0));
        let user = Line::through((64, 190.0), (1400, 560.0));
        Meter::new(Costs::new(kernel, user, 3000.0))
    }

    fn tally(packets: u32, len: u32, inputs: u32, outputs: u32) -> Tally {
        Tally {
            packets,
            bytes: packets * len,
            inputs,
            outputs,
        }
    }

    /// How many of the following packets of `len` bytes the programs take.
    fn taken(pace: &Pace, from_ms: u64, len: u32) -> usize {
        let limits = meter().costs.limits().rx;
        let at = |number: u64| from_ms * 1_000_000 + number * 1000;
        let record = len + RECORD_OVERHEAD;
        (0..1000)
            .filter(|number| {
                let takes = pace.takes(at(*number), record, &limits);
                if takes {
                    pace.taken(at(*number), &limits);
                }
                takes
            })
            .count()
    }

    #[test]
    fn enough_is_judged_once() {
        let merging = Merging::default();
        assert_eq!(merging.add(&tally(200, 10, 20, 30)), None);
        let all = merging.add(&tally(100, 10, 10, 5));
        assert_eq!(all, Some(tally(300, 10, 30, 35)));
        assert_eq!(merging.add(&tally(255, 10, 0, 0)), None);
    }

    #[test]
    fn what_does_not_merge_stays_in_the_kernel_longer_each_time() {
        let merging = Merging::default();
        let mut now = 1_000_000;
        let mut seconds = |kernel| {
            let until = merging.holds(kernel, now);
            // What follows in user space says the same.
            assert!(!kernel || merging.holds(kernel, now + 40) == until);
            let holds = (until - now) / SECOND_MS;
            now = until;
            holds
        };
        assert_eq!([true; 6].map(&mut seconds), [1, 2, 4, 8, 8, 8]);
        assert_eq!([false, true].map(seconds), [1, 1]);
    }

    #[test]
    fn the_record_tells_what_was_judged() {
        let (meter, merging) = (meter(), Merging::default());
        let now = Now::from_secs(100);
        let pace = Pace::default();
        let judge = |tally| meter.judge(&pace, &merging, Direction::Rx, &tally, now);
        assert!(taken(&pace, 100_000, 64) < 40, "not judged yet");
        // Many flows: merged when received, not when written.
        judge(tally(256, 64, 8, 250));
        assert_eq!(taken(&pace, 100_100, 64), 1000);
        assert!(taken(&pace, 101_001, 64) < 40, "a second later");
        judge(tally(256, 64, 8, 8));
        assert!(taken(&pace, 100_500, 64) < 40);
    }

    #[test]
    fn lengths_that_mix_are_judged_together() {
        let (meter, merging) = (meter(), Merging::default());
        let pace = Pace::default();
        let now = Now::from_secs(100);
        // Of twelve packets seven short ones, four longer, one long; none merges.
        let mixed = tally(256, 341, 256, 256);
        meter.judge(&pace, &merging, Direction::Rx, &mixed, now);
        assert_eq!(taken(&pace, 100_100, 1400), 1000);
        let long = tally(256, 1400, 8, 256);
        meter.judge(&pace, &merging, Direction::Rx, &long, now);
        assert!(taken(&pace, 100_500, 1400) < 40);
    }

    #[test]
    fn a_change_of_costs_is_news_once() {
        let mut meter = meter();
        assert_eq!(meter.news(), None);
        meter.learned[1] = 5000.0;
        let news = meter.news().unwrap();
        assert!(news[0].is_nan() && news[1] == 5000.0);
        meter.told();
        assert_eq!(meter.news(), None);
        meter.learned[1] = 5400.0;
        assert_eq!(meter.news(), None, "little");
        meter.learned[1] = 5600.0;
        assert!(meter.news().is_some());
    }

    #[test]
    fn merged_batches_say_nothing_about_single_outputs() {
        let mut meter = meter();
        // So long ago that an output costs what is possible, in each of the cases.
        let begun = |outputs: u32| {
            let spent = Duration::from_nanos(u64::from(outputs) * 8_000);
            thread_time().unwrap().saturating_sub(spent)
        };
        while thread_time().unwrap() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        meter.learn(Direction::Rx, &tally(64, 64, 2, 31), begun(31));
        meter.learn(Direction::Rx, &tally(7, 64, 7, 7), begun(7));
        assert!(meter.learned[0].is_nan());
        meter.learn(Direction::Rx, &tally(64, 64, 64, 64), begun(64));
        assert!(meter.learned[0] > 2500.0, "{:?}", meter.learned);
        assert!(meter.learned[1].is_nan());
    }

    #[test]
    fn the_first_batches_teach_most() {
        let mut meter = meter();
        let expected = meter.costs.outputs[0];
        let mut known = Vec::new();
        for _ in 0..TIMED {
            // A fourth of what was expected.
            let spent = Duration::from_nanos((64.0 * (expected / 4.0 + 950.0)) as u64);
            while thread_time().unwrap() < spent {
                std::hint::spin_loop();
            }
            let begun = thread_time().unwrap().saturating_sub(spent);
            meter.learn(Direction::Rx, &tally(64, 64, 64, 64), begun);
            known.push(meter.costs.outputs[0]);
        }
        assert!(known[0] < expected * 0.8, "{known:?}");
        assert!(known[15] < expected * 0.5, "{known:?}");
    }
}
