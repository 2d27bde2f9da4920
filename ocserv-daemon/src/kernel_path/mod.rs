//! The kernel path as the supervisor sees it: programs, maps, devices. The programs themselves are in
//! `ocserv-ebpf`; the layouts that both sides share in `ocserv_common::kernel`.
//!
//! Everything here vanishes with the process: maps and programs with their descriptors, attachments
//! with their links. Nothing is pinned.

mod attachment;
mod direct;
mod loading;
mod measure;
mod sessions;
mod shards;
mod sockets;
mod words;

use std::collections::HashSet;

use aya::Ebpf;
use aya_log::EbpfLogger;
use ocserv_common::kernel::{Counted, Counts};

pub use self::attachment::{Attached, DeviceRole, Mode};
pub use self::loading::{LoadError, OBJECT, Options, missing};
pub use self::measure::costs;
pub use self::sessions::{NewChannel, fits};

use self::direct::DirectMaps;
use self::sessions::SessionMaps;
use self::shards::ShardMaps;
use self::sockets::SocketMaps;
use self::words::Words;

/// Loaded programs with their maps.
pub struct KernelPath {
    ebpf: Ebpf,
    options: Options,
    shards: ShardMaps,
    sessions: SessionMaps,
    direct: DirectMaps,
    sockets: SocketMaps,
    words: EbpfLogger<Words>,
    attached: Vec<Attached>,
    /// Devices that take no programs.
    refused: HashSet<u32>,
}

impl KernelPath {
    /// Sums of what the programs counted on all CPUs.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn counts(&self) -> anyhow::Result<Counts> {
        let map = self.ebpf.map("COUNTS").ok_or_else(|| missing("COUNTS"))?;
        let map = aya::maps::PerCpuArray::<_, [u64; Counted::COUNT]>::try_from(map)?;
        let mut sums = [0; Counted::COUNT];
        for values in map.get(&0, 0)?.iter() {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        Ok(Counts { values: sums })
    }

    /// Names and kernel numbers of the programs.
    pub fn programs(&self) -> Vec<(String, u32)> {
        let number = |(name, program): (&str, &aya::programs::Program)| {
            Some((name.to_owned(), program.info().ok()?.id()))
        };
        self.ebpf.programs().filter_map(number).collect()
    }

    /// What it was loaded with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The programs, for tests that run them.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Flows that lead to sessions: one for each channel, and one more for a while when it moved.
    pub fn flow_count(&self) -> usize {
        self.sessions.flow_count()
    }

    /// Sessions that are in the kernel.
    pub fn session_count(&self) -> usize {
        self.sessions.count()
    }
}
