//! The kernel and user space at one session at once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, Xdp};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ocserv_common::replay::WINDOW;
use ocserv_common::session::ChannelState;
use ocserv_proto::dtls::DtlsChannel;

use crate::bed::{Bed, FLOW4, FORWARDED, PASS, TC_REDIRECT, client_channel, keys, run};
use crate::net::alone;
use crate::packets::{Client, frame, inner};
use crate::seal;

/// Records of a race; few enough for the window to hold them all.
const RECORDS: usize = WINDOW as usize;
/// Races, each with keys of its own.
const ROUNDS: u64 = 6;
/// Numbers that each sender takes.
const SENT: usize = 4000;

/// Puts the calling thread on a CPU, if the machine has it.
fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    // On a machine with one CPU the threads take turns, which tests less.
    let _ = cpus
        .set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus));
}

/// Ends the other side's waiting, however this side ends.
struct AtEnd<'a>(&'a AtomicUsize);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }
}

/// Numbers that the program accepted. `progress`: the one that it works on.
fn open_in_kernel(program: &Xdp, frames: &[Vec<u8>], progress: &AtomicUsize) -> Result<Vec<usize>> {
    let _end = AtEnd(progress);
    pin(0);
    let mut accepted = Vec::new();
    for (number, bytes) in frames.iter().enumerate() {
        progress.store(number, Ordering::Relaxed);
        let ran = run(program, bytes, None)?;
        if (ran.verdict, ran.marked) == (PASS, true) {
            accepted.push(number);
        }
    }
    Ok(accepted)
}

/// Numbers that user space accepted: first those that the program works on at the moment and the next
/// ones, then all from the last to the first.
fn open_here(
    records: &[Vec<u8>],
    progress: &AtomicUsize,
    open: impl Fn(&[u8]) -> bool,
) -> Vec<usize> {
    pin(1);
    let mut accepted = Vec::new();
    let mut try_one = |number: usize| {
        if records.get(number).is_some_and(|record| open(record)) {
            accepted.push(number);
        }
    };
    let mut tries = 0;
    loop {
        let current = progress.load(Ordering::Relaxed);
        if current >= records.len() {
            break;
        }
        try_one(current + tries % 3);
        tries += 1;
    }
    (0..records.len()).rev().for_each(try_one);
    accepted
}

#[test]
fn each_record_is_accepted_once_by_either_side() {
    let mut bed = Bed::new().unwrap();
    let packet = inner("10.9.0.5", "10.20.0.2", 60);
    for round in 1..=ROUNDS {
        let channel = bed.install(0, round, FLOW4).unwrap();
        let mut client = Client::new(round as u8);
        let records: Vec<_> = (0..RECORDS).map(|_| client.record(0, &packet)).collect();
        let frames: Vec<_> = records.iter().map(|record| frame(FLOW4, record)).collect();
        let program = bed.kernel.ebpf_mut().program("xdp_rx").unwrap();
        let program: &Xdp = program.try_into().unwrap();
        let window = bed.shared[crate::bed::SLOT as usize].channels[0].window();
        let progress = AtomicUsize::new(0);
        let open = |record: &[u8]| channel.open(&mut record.to_vec(), window).is_ok();
        let (here, there) = thread::scope(|scope| {
            let there = scope.spawn(|| open_in_kernel(program, &frames, &progress));
            let here = scope.spawn(|| open_here(&records, &progress, open));
            (here.join().unwrap(), there.join().unwrap().unwrap())
        });
        let all: HashSet<_> = here.iter().chain(&there).collect();
        assert_eq!(
            all.len(),
            here.len() + there.len(),
            "one was accepted twice"
        );
        assert_eq!(all.len(), RECORDS);
    }
}

/// Numbers that the program sealed with.
fn seal_in_kernel(
    program: &SchedClassifier,
    client: &DtlsChannel,
    progress: &AtomicUsize,
) -> Result<Vec<u64>> {
    let _end = AtEnd(progress);
    pin(0);
    let packet = inner("10.20.0.2", "10.9.0.5", 60);
    let mut taken = Vec::new();
    for number in 1..=SENT {
        let ran = run(program, &packet, Some(&FORWARDED.bytes()))?;
        assert_eq!(ran.verdict, TC_REDIRECT);
        taken.push(seal::open(&ran.packet, FLOW4, client, 0, false).sequence);
        progress.store(number, Ordering::Relaxed);
    }
    Ok(taken)
}

/// Takes a number for each one that the program has taken, as soon as it has.
fn take_here(state: &ChannelState, progress: &AtomicUsize) -> Vec<u64> {
    pin(1);
    let mut taken = Vec::new();
    while taken.len() < SENT {
        if progress.load(Ordering::Relaxed) >= taken.len() {
            taken.push(state.take_tx_seq(1).unwrap());
        }
    }
    taken
}

#[test]
fn no_number_is_sealed_with_twice() {
    alone(|| {
        let mut bed = seal::bed_towards(FLOW4)?;
        let client = client_channel(1);
        let program = bed.kernel.ebpf_mut().program("tc_tx").context("tc_tx")?;
        let program: &SchedClassifier = program.try_into()?;
        let state = &bed.shared[crate::bed::SLOT as usize].channels[0];
        let progress = AtomicUsize::new(0);
        let (here, there) = thread::scope(|scope| {
            let there = scope.spawn(|| seal_in_kernel(program, &client, &progress));
            let here = scope.spawn(|| take_here(state, &progress));
            (here.join().unwrap(), there.join().unwrap())
        });
        let there = there?;
        let all: HashSet<_> = here.iter().chain(&there).collect();
        assert_eq!(all.len(), 2 * SENT);
        let first = keys(1).next_send;
        assert!((first..first + 2 * SENT as u64).all(|number| all.contains(&number)));
        Ok(())
    })
    .unwrap();
}
