//! What a record costs in the kernel programs, by the kernel's test harness (`BPF_PROG_TEST_RUN`), with
//! the AEAD of user space beside it. `docs/benchmarks.md` says how to read it.
//!
//! A program changes its frame, so each run is a call of its own with a fresh frame. Its time is the one
//! that the kernel measures around the program, less that of a run that leaves the program at once.

mod bed;
mod packets;
mod report;
mod samples;
mod user_space;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use ocserv_proto::dtls::Cipher;

use self::bed::{Bed, CONTROL, DATA, Network, Ran};
use self::report::{Report, Row};
use self::samples::Samples;
use self::user_space::UserSpace;

/// Bytes of inner packets.
const SIZES: [usize; 6] = [64, 128, 256, 512, 1024, 1400];
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// What `ocserv-bench ebpf` takes.
#[derive(Debug, Args)]
pub struct Options {
    /// Few runs, to see that it works.
    #[arg(long)]
    quick: bool,
    /// Where the JSON result goes.
    #[arg(long, default_value = "target/bench-ebpf.json")]
    json: PathBuf,
}

/// How often.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rounds over all sizes, so that what disturbs one meets all.
    rounds: usize,
    /// Runs of a size in a round.
    runs: usize,
}

/// Samples of one size.
#[derive(Debug, Default)]
struct Measured {
    open: Samples,
    /// A replay: dropped where the AEAD would begin.
    before_aead: Samples,
    /// A control packet: left to user space where the AEAD has ended.
    past_aead: Samples,
    seal: Samples,
    chacha: [Samples; 2],
    aes: [Samples; 2],
}

/// Measures and reports.
///
/// # Errors
/// When the programs do not load, or do other than expected.
pub fn run(options: &Options) -> Result<()> {
    let scale = if options.quick {
        Scale {
            rounds: 5,
            runs: 40,
        }
    } else {
        Scale {
            rounds: 100,
            runs: 100,
        }
    };
    let network = Network::new()?;
    let report = network.run(|| measure(scale))?;
    report.write_json(&options.json)?;
    println!("{}", report.markdown());
    println!("the numbers as JSON: {}", options.json.display());
    Ok(())
}

fn measure(scale: Scale) -> Result<Report> {
    let mut bed = Bed::new()?;
    bed.activate()?;
    let mut report = Report::begin(scale.rounds * scale.runs);
    let mut measured: [Measured; SIZES.len()] = Default::default();
    let mut empty = [Samples::default(), Samples::default()];
    let mut chacha = UserSpace::new(Cipher::ChaCha20Poly1305)?;
    let mut aes = UserSpace::new(Cipher::Aes128Gcm)?;
    for _ in 0..scale.rounds {
        for (len, measured) in SIZES.into_iter().zip(&mut measured) {
            kernel_round(&mut bed, scale.runs, len, measured, &mut empty)?;
            for _ in 0..scale.runs / 4 {
                let [open, seal] = &mut measured.chacha;
                chacha.measure(len, open, seal)?;
                let [open, seal] = &mut measured.aes;
                aes.measure(len, open, seal)?;
            }
        }
    }
    let [xdp, tc] = empty.map(|samples| samples.summary());
    report.set_empty(xdp, tc);
    for (len, measured) in SIZES.into_iter().zip(measured) {
        let of = |samples: &Samples| samples.summary();
        report.add(Row {
            inner: len,
            open: of(&measured.open).without(xdp),
            before_aead: of(&measured.before_aead).without(xdp),
            past_aead: of(&measured.past_aead).without(xdp),
            seal: of(&measured.seal).without(tc),
            chacha_open: of(&measured.chacha[0]),
            chacha_seal: of(&measured.chacha[1]),
            aes_open: of(&measured.aes[0]),
            aes_seal: of(&measured.aes[1]),
        });
    }
    Ok(report)
}

/// Runs of one size.
fn kernel_round(
    bed: &mut Bed,
    runs: usize,
    len: usize,
    measured: &mut Measured,
    [empty_xdp, empty_tc]: &mut [Samples; 2],
) -> Result<()> {
    let frames = bed.frames(runs, DATA, len)?;
    for frame in &frames {
        take(&bed.xdp("xdp_rx", frame)?, XDP_PASS, &mut measured.open)?;
    }
    for frame in &frames {
        take(
            &bed.xdp("xdp_rx", frame)?,
            XDP_DROP,
            &mut measured.before_aead,
        )?;
        // Without `direct` it passes everything.
        take(&bed.xdp("xdp_tx", frame)?, XDP_PASS, empty_xdp)?;
    }
    for frame in &bed.frames(runs, CONTROL, len)? {
        take(
            &bed.xdp("xdp_rx", frame)?,
            XDP_PASS,
            &mut measured.past_aead,
        )?;
    }
    let packet = packets::inner([10, 20, 0, 2].into(), packets::LEASE, len);
    for _ in 0..runs {
        take(&bed.tc("tc_tx", &packet)?, TC_REDIRECT, &mut measured.seal)?;
        // Nothing is marked.
        take(&bed.tc("tc_deliver", &packet)?, u32::MAX, empty_tc)?;
    }
    Ok(())
}

fn take(ran: &Ran, verdict: u32, samples: &mut Samples) -> Result<()> {
    ensure!(
        ran.verdict == verdict,
        "verdict {} in place of {verdict}",
        ran.verdict
    );
    samples.add(ran.duration.as_nanos() as f64);
    Ok(())
}
