//! What the gateway does under load that is not alone: for long, beside floods, for small packets
//! beside bulk, and on two processors.

pub mod cores;
pub mod floods;
pub mod latency;
pub mod soak;

mod flood;
mod series;
mod stamp;
mod streams;
mod tally;
mod threads;
mod turnover;
mod watch;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

/// What of these figures is wanted.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Length of the figure `soak` after its warm-up.
    #[arg(long, default_value_t = 30.0, value_parser = minutes)]
    minutes: f64,
    /// Only these floods of the figure `floods`.
    #[arg(long, value_enum, value_delimiter = ',')]
    trouble: Vec<floods::Trouble>,
}

fn minutes(text: &str) -> Result<f64, String> {
    let found = text.parse::<f64>().map_err(|error| error.to_string())?;
    if found.is_finite() && (0.5..=100_000.0).contains(&found) {
        return Ok(found);
    }
    Err("not between half a minute and 100,000".to_owned())
}

/// What came out.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// Under load and turnover for long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak: Option<soak::Soak>,
    /// One packet thread, and one for each processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<cores::Cores>,
    /// Throughput beside floods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floods: Option<floods::Floods>,
    /// Delay of small packets beside bulk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<latency::Latency>,
}

impl Results {
    /// The tables of what was measured.
    pub fn markdown(&self) -> String {
        let soak = self.soak.as_ref().map(soak::Soak::markdown);
        let latency = self.latency.as_ref().map(latency::Latency::markdown);
        let floods = self.floods.as_ref().map(floods::Floods::markdown);
        let cores = self.cores.as_ref().map(cores::Cores::markdown);
        [cores, latency, floods, soak]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Whether everything is as it must be.
    ///
    /// # Errors
    /// When it is not.
    pub fn verdict(&self) -> Result<()> {
        let faults = self.soak.iter().flat_map(soak::Soak::faults);
        let faults: Vec<_> = faults.collect();
        if faults.is_empty() {
            return Ok(());
        }
        bail!("{}", faults.join("; "));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_length_is_finite_and_not_too_short() {
        assert_eq!(super::minutes("0.5"), Ok(0.5));
        for refused in ["0", "-1", "nan", "inf", "x"] {
            assert!(super::minutes(refused).is_err(), "{refused}");
        }
    }
}
