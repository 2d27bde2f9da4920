//! What a packet costs on either path, and which lengths the kernel path takes because of it.
//!
//! All figures are nanoseconds. User space spends on a packet the AEAD, and its part of what moves it: an
//! input (a message of the UDP socket, a read of the tun device) and an output (a write to the tun device
//! with the walk through the host's stack, a message to the client). Where packets merge, the part is
//! small. The kernel path spends the programs' AEAD, which is slower, and one walk. The AEADs and a walk
//! are measured at start (`kernel_path::measure`); how much merges, and what outputs cost, at run time
//! (`dataplane::meter`).

use ocserv_common::kernel::{BULK_HOLD_MS, MAX_RECORD, RECORD_OVERHEAD};
use ocserv_common::pace::Limits;
use serde::{Deserialize, Serialize};

/// Packets of a session at a smaller distance are taken to arrive together, ns. Network cards gather packets
/// for 20 to 100 us before they interrupt.
const CLOSE_NS: u32 = 50_000;
/// What packets that come close are taken to merge to, until user space has seen it.
const EXPECTED_MERGE: f64 = 16.0;
/// What is left to user space without a word about costs: the crossover of the machine that the design
/// was measured on.
const UNMEASURED: u32 = 512;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Direction {
    /// From a client.
    Rx = 0,
    /// To a client.
    Tx = 1,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rx, Self::Tx];
}

/// A cost that grows with the length of the inner packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Of no bytes.
    pub base: f64,
    /// Of each byte.
    pub per_byte: f64,
}

impl Line {
    /// Through two measured lengths, bytes.
    pub fn through(short: (usize, f64), long: (usize, f64)) -> Self {
        let bytes = long.0.saturating_sub(short.0).max(1) as f64;
        let per_byte = ((long.1 - short.1) / bytes).max(0.0);
        Self {
            base: (short.1 - per_byte * short.0 as f64).max(0.0),
            per_byte,
        }
    }

    /// Of a packet of so many bytes.
    pub fn at(&self, len: f64) -> f64 {
        self.base + self.per_byte * len
    }
}

/// Inputs and outputs of a packet: 1 where nothing merges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Merge {
    /// Inputs for each packet.
    pub inputs: f64,
    /// Outputs for each packet.
    pub outputs: f64,
}

impl Merge {
    /// Every packet alone.
    pub const NONE: Self = Self {
        inputs: 1.0,
        outputs: 1.0,
    };
}

/// Parts of the way of a packet, in walks ([`Costs::walk`]). Measured on the bed of `docs/benchmarks.md`,
/// where a walk is 3.1 us: figures of single flows, of many flows in a session, of many sessions.
struct Parts {
    /// Of every packet in user space, however it merges.
    packet: f64,
    input: f64,
    /// The part of an input that the dataplane's thread does.
    input_of_thread: f64,
    output: f64,
    /// Of a packet on the kernel path through the host's stack, without its program's AEAD.
    kernel: f64,
    /// The same past the stack, from device to device.
    direct: f64,
}

/// By [`Direction`].
const PARTS: [Parts; 2] = [
    Parts {
        packet: 0.31,
        input: 0.75,
        input_of_thread: 0.25,
        output: 0.85,
        kernel: 0.48,
        direct: 0.36,
    },
    Parts {
        packet: 0.4,
        input: 0.45,
        input_of_thread: 0.25,
        output: 1.05,
        kernel: 0.48,
        direct: 0.31,
    },
];

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Opening by the program.
    pub kernel: Line,
    /// Opening in user space.
    pub user: Line,
    /// A datagram through the host's stack to itself.
    pub walk: f64,
    /// An output in user space, by [`Direction`].
    pub outputs: [f64; 2],
    /// `xdp-forward = direct`.
    pub is_direct: bool,
}

impl Costs {
    /// With what a walk says of outputs.
    pub fn new(kernel: Line, user: Line, walk: f64) -> Self {
        Self {
            kernel,
            user,
            walk,
            outputs: PARTS.map(|parts| parts.output * walk),
            is_direct: false,
        }
    }

    /// Longest record that is cheaper in the kernel, header included, bytes; 0: none is.
    pub fn longest(&self, direction: Direction, merge: Merge) -> u32 {
        let parts = &PARTS[direction as usize];
        let output = self.outputs[direction as usize];
        let pass = if self.is_direct {
            self.walk * parts.direct
        } else {
            // The stack that outputs walk through is the one that these packets walk through.
            output / parts.output * parts.kernel
        };
        let user = self.user.base
            + self.walk * (parts.packet + parts.input * merge.inputs)
            + output * merge.outputs;
        let kernel = self.kernel.base + pass;
        let room = user - kernel;
        let per_byte = self.kernel.per_byte - self.user.per_byte;
        if room < 0.0 {
            return 0;
        }
        // Division by nothing gives infinity, which the conversion limits.
        let len = (room / per_byte.max(0.0)) as u32;
        len.saturating_add(RECORD_OVERHEAD).min(MAX_RECORD)
    }

    /// What the programs are to take.
    pub fn limits(&self) -> RecordLimits {
        let of = |direction, close| Limits {
            alone: self.longest(direction, Merge::NONE),
            close: self.longest(direction, close),
            close_ns: CLOSE_NS,
            hold_ms: BULK_HOLD_MS,
        };
        let merged = 1.0 / EXPECTED_MERGE;
        RecordLimits {
            rx: of(
                Direction::Rx,
                Merge {
                    inputs: merged,
                    outputs: merged,
                },
            ),
            // What the host could merge comes as a super-packet, which user space always gets. Programs
            // before the stack see it while it is not merged yet.
            tx: of(
                Direction::Tx,
                Merge {
                    inputs: if self.is_direct { merged } else { 1.0 },
                    outputs: merged,
                },
            ),
        }
    }

    /// Takes the mean of what threads found that outputs cost, in which NaN stands for nothing.
    pub fn learn(&mut self, threads: &[[f64; 2]]) {
        for (direction, (known, parts)) in self.outputs.iter_mut().zip(&PARTS).enumerate() {
            let expected = parts.output * self.walk;
            let found = threads.iter().map(|outputs| outputs[direction]);
            let found: Vec<_> = found.filter(|output| !output.is_nan()).collect();
            if !found.is_empty() {
                let mean = found.iter().sum::<f64>() / found.len() as f64;
                *known = mean.clamp(expected / 10.0, expected * 10.0);
            }
        }
    }

    /// What an output of a batch cost whose packets did not merge, from the time that the thread spent.
    /// `None`: that cannot be.
    pub fn output(&self, direction: Direction, batch: &Batch) -> Option<f64> {
        let parts = &PARTS[direction as usize];
        let packets = f64::from(batch.packets);
        let aead = self.user.at(f64::from(batch.bytes) / packets.max(1.0));
        let inputs = f64::from(batch.inputs) * self.walk * parts.input_of_thread;
        let left = batch.thread_ns - packets * aead - inputs;
        let output = left / f64::from(batch.outputs);
        // Ten times what was expected is a pause of something else.
        let expected = parts.output * self.walk;
        (output > expected / 10.0 && output < expected * 10.0).then_some(output)
    }
}

/// What a thread did at once.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Packets.
    pub packets: u32,
    /// Their bytes.
    pub bytes: u32,
    /// What they came by.
    pub inputs: u32,
    /// What they went by.
    pub outputs: u32,
    /// Processor time of the thread.
    pub thread_ns: f64,
}

/// Lengths that the programs take, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLimits {
    /// From clients.
    pub rx: Limits,
    /// To clients.
    pub tx: Limits,
}

impl RecordLimits {
    /// `xdp-max-record` as a number.
    pub const fn fixed(longest: u32) -> Self {
        let limits = Limits::fixed(longest, BULK_HOLD_MS);
        Self {
            rx: limits,
            tx: limits,
        }
    }

    /// When costs could not be measured.
    pub const UNMEASURED: Self = Self::fixed(UNMEASURED);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bed's machine.
    fn bed() -> Costs {
        let kernel = Line::through((64, 860.0), (1400, 4600.0));
        let user = Line::through((64, 190.0), (1400, 560.0));
        Costs::new(kernel, user, 3100.0)
    }

    #[test]
    fn a_line_goes_through_its_points() {
        let line = Line::through((100, 300.0), (300, 500.0));
        assert_eq!((line.base, line.per_byte), (200.0, 1.0));
        assert_eq!(line.at(1000.0), 1200.0);
        // A measurement that went wrong costs nothing less than nothing.
        let falling = Line::through((100, 300.0), (300, 200.0));
        assert_eq!((falling.base, falling.per_byte), (300.0, 0.0));
    }

    #[test]
    fn what_is_alone_is_the_kernels() {
        let limits = bed().limits();
        assert_eq!((limits.rx.alone, limits.tx.alone), (MAX_RECORD, MAX_RECORD));
    }

    #[test]
    fn what_merges_is_user_spaces() {
        let costs = bed();
        let limits = costs.limits();
        assert_eq!(limits.rx.close, 0);
        assert!((150..500).contains(&limits.tx.close), "{limits:?}");
        let acknowledgements = Merge {
            inputs: 1.0 / 32.0,
            outputs: 1.0,
        };
        let longest = costs.longest(Direction::Rx, acknowledgements);
        assert!((400..1000).contains(&longest), "{longest}");
    }

    #[test]
    fn a_slow_program_takes_less_and_a_slow_stack_more() {
        let slow = Costs {
            kernel: Line {
                base: 500.0,
                per_byte: 10.0,
            },
            ..bed()
        };
        let longest = slow.longest(Direction::Rx, Merge::NONE);
        assert!((300..1200).contains(&longest), "{longest}");
        let firewall = Costs {
            outputs: [20_000.0; 2],
            ..slow
        };
        assert!(firewall.longest(Direction::Rx, Merge::NONE) > longest);
    }

    #[test]
    fn outputs_are_the_mean_of_those_who_know() {
        let mut costs = bed();
        let before = costs.outputs;
        costs.learn(&[[f64::NAN; 2]]);
        assert_eq!(costs.outputs, before);
        costs.learn(&[[6000.0, f64::NAN], [8000.0, 4000.0], [f64::NAN; 2]]);
        assert_eq!(costs.outputs, [7000.0, 4000.0]);
        costs.learn(&[[f64::INFINITY, -1.0]]);
        let [most, least] = costs.outputs.map(f64::round);
        assert_eq!((most, least), (26_350.0, 326.0));
    }

    #[test]
    fn past_the_stack_the_kernel_takes_more() {
        let direct = Costs {
            is_direct: true,
            ..bed()
        };
        let stack = bed().limits();
        assert!(direct.limits().rx.close >= stack.rx.close);
        let unmerged = Merge {
            inputs: 1.0,
            outputs: 1.0 / EXPECTED_MERGE,
        };
        let longest = direct.longest(Direction::Tx, unmerged);
        assert!(longest > stack.tx.close + 200, "{longest}");
    }

    #[test]
    fn before_the_stack_a_burst_may_still_merge() {
        let direct = Costs {
            is_direct: true,
            ..bed()
        };
        let limits = direct.limits();
        assert!(limits.tx.close < 100, "{limits:?}");
        assert_eq!(limits.tx.alone, MAX_RECORD);
    }

    #[test]
    fn a_program_that_costs_no_more_takes_all() {
        let costs = bed();
        let equal = Costs {
            kernel: costs.user,
            ..costs
        };
        assert_eq!(equal.longest(Direction::Tx, Merge::NONE), MAX_RECORD);
    }

    #[test]
    fn an_output_is_what_is_left_of_a_batch() {
        let costs = bed();
        let batch = Batch {
            packets: 10,
            bytes: 10 * 64,
            inputs: 10,
            outputs: 10,
            thread_ns: 10.0 * (190.0 + 775.0 + 5000.0),
        };
        let output = costs.output(Direction::Rx, &batch).unwrap();
        assert!((output - 5000.0).abs() < 1.0, "{output}");
        let pause = Batch {
            thread_ns: 1e7,
            ..batch
        };
        assert_eq!(costs.output(Direction::Rx, &pause), None);
    }
}
