//! Loading the object.

use std::collections::HashSet;
use std::mem::offset_of;

use aya::maps::Array;
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use ocserv_common::kernel::{MAX_SLOTS, Settings};
use thiserror::Error;

use super::KernelPath;
use super::direct::DirectMaps;
use super::sessions::SessionMaps;
use super::shards::ShardMaps;
use super::sockets::{ROUTE_PROGRAM, SocketMaps};
use super::words;
use crate::costs::RecordLimits;

/// The programs, as `cargo xtask build-ebpf` made them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("ocserv-ebpf.o");

/// The oldest kernel: before it, TC programs have no links, so that they would outlive a supervisor
/// that crashed, with the keys in their maps.
const OLDEST_KERNEL: (u32, u32) = (6, 6);
/// Programs of XDP.
const XDP_PROGRAMS: [&str; 2] = ["xdp_rx", "xdp_tx"];
/// Programs of TC.
const TC_PROGRAMS: [&str; 3] = ["tc_deliver", "tc_rx", "tc_tx"];
/// The ring for what the programs say, and its bytes: they speak seldom, and it is read every second.
const WORDS: &str = "AYA_LOGS";
const WORDS_LEN: u32 = 16 * 1024;
/// Two channels, or leases of two families.
const PER_SESSION: u32 = 2;

/// What the programs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Sessions that may be open at once.
    pub slots: u32,
    /// Lengths of records that they take.
    pub limits: RecordLimits,
    /// `xdp-forward = direct`.
    pub direct: bool,
    /// The tun device.
    pub tun_ifindex: u32,
    /// XDP programs hand packets of sessions over to sockets.
    pub sockets: bool,
}

/// Why there is no kernel path. The text is for the administrator.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Too old.
    #[error("Linux {0} is too old: 6.6 or later is needed")]
    OldKernel(String),
    /// `PREEMPT_RT`: softirqs interrupt each other there, which the programs' memory does not allow for.
    #[error("a real-time kernel (PREEMPT_RT) is not supported")]
    Realtime,
    /// No rights.
    #[error("no right to load programs (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed)")]
    Rights,
    /// The kernel refused a program; the verifier's last words.
    #[error("the kernel refuses program {0}: {1}")]
    Refused(&'static str, String),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// A map or program that the object does not have.
pub fn missing(name: &str) -> anyhow::Error {
    anyhow::anyhow!("the object has no {name}")
}

impl KernelPath {
    /// Loads programs and maps into the kernel. Nothing is attached yet.
    ///
    /// # Errors
    /// [`LoadError`]; everything works without.
    pub fn load(options: Options) -> Result<Self, LoadError> {
        let mut xdp = XDP_PROGRAMS.to_vec();
        if options.sockets {
            xdp.push(ROUTE_PROGRAM);
        }
        Self::load_some(options, &xdp, &TC_PROGRAMS)
    }

    /// The same with some of the programs.
    pub(super) fn load_some(
        options: Options,
        xdp: &[&'static str],
        tc: &[&'static str],
    ) -> Result<Self, LoadError> {
        check_kernel()?;
        let other = |error: anyhow::Error| LoadError::Other(format!("{error:#}"));
        let mut ebpf = load_maps(&options)?;
        set_options(&mut ebpf, &options).map_err(other)?;
        for name in xdp.iter().copied() {
            let program: &mut Xdp = program(&mut ebpf, name)?;
            program.load().map_err(|error| refusal(name, &error))?;
        }
        for name in tc.iter().copied() {
            let program: &mut SchedClassifier = program(&mut ebpf, name)?;
            program.load().map_err(|error| refusal(name, &error))?;
        }
        Ok(Self {
            shards: ShardMaps::take(&mut ebpf).map_err(other)?,
            sessions: SessionMaps::take(&mut ebpf).map_err(other)?,
            direct: DirectMaps::take(&mut ebpf).map_err(other)?,
            sockets: SocketMaps::take(&mut ebpf).map_err(other)?,
            words: words::take(&mut ebpf).map_err(other)?,
            ebpf,
            options,
            attached: Vec::new(),
            refused: HashSet::new(),
        })
    }

    /// Changes the lengths of records that the programs take.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn set_limits(&mut self, limits: RecordLimits) -> anyhow::Result<()> {
        let options = Options {
            limits,
            ..self.options
        };
        set_options(&mut self.ebpf, &options)?;
        self.options = options;
        Ok(())
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = ebpf.program_mut(name);
    program
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| LoadError::Other(missing(name).to_string()))
}

fn check_kernel() -> Result<(), LoadError> {
    let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    let (release, build) = nix::sys::utsname::uname()
        .map(|name| (text(name.release()), text(name.version())))
        .unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST_KERNEL {
        return Err(LoadError::OldKernel(release));
    }
    let realtime = std::fs::read_to_string("/sys/kernel/realtime").unwrap_or_default();
    if is_realtime(&realtime, &build) {
        return Err(LoadError::Realtime);
    }
    Ok(())
}

/// Whether the kernel is a real-time one, by `/sys/kernel/realtime` and the version of `uname`. The file came
/// with the patches; Linux 6.12, which has their function itself, does not have it.
fn is_realtime(file: &str, build: &str) -> bool {
    let words = ["PREEMPT_RT", "PREEMPT RT"];
    file.trim() == "1" || words.iter().any(|words| build.contains(words))
}

fn load_maps(options: &Options) -> Result<Ebpf, LoadError> {
    let slots = options.slots.clamp(1, MAX_SLOTS);
    let entries = slots * PER_SESSION;
    EbpfLoader::new()
        // The object refers to no type of the kernel. What the loader has read of them (megabytes, in small
        // parts) goes before what stays is allocated among it.
        .btf(None)
        .map_max_entries("FLOWS", entries)
        .map_max_entries("LEASES", entries)
        .map_max_entries(WORDS, WORDS_LEN)
        .load(OBJECT)
        .map_err(|error| match error {
            error if is_permission(&error) => LoadError::Rights,
            EbpfError::MapError(error) => LoadError::Other(format!("map: {}", chain(&error))),
            error => LoadError::Other(chain(&error)),
        })
}

fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error() == Some(libc::EPERM);
        }
        cause = error.source();
    }
    false
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn refusal(name: &'static str, error: &ProgramError) -> LoadError {
    if is_permission(error) {
        return LoadError::Rights;
    }
    let ProgramError::LoadError { verifier_log, .. } = error else {
        return LoadError::Refused(name, chain(error));
    };
    let log = verifier_log.to_string();
    let said = log
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("processed "));
    LoadError::Refused(name, said.unwrap_or("no reason given").to_owned())
}

fn set_options(ebpf: &mut Ebpf, options: &Options) -> anyhow::Result<()> {
    let map = ebpf
        .map_mut("SETTINGS")
        .ok_or_else(|| missing("SETTINGS"))?;
    let mut map = Array::<_, [u32; SETTINGS_WORDS]>::try_from(map)?;
    let [rx, tx] = [options.limits.rx, options.limits.tx]
        .map(|limits| [limits.alone, limits.close, limits.close_ns, limits.hold_ms]);
    let mut words = [0; SETTINGS_WORDS];
    words[..4].copy_from_slice(&rx);
    words[4..8].copy_from_slice(&tx);
    words[8] = options.tun_ifindex;
    words[9] = options.direct.into();
    words[10] = options.sockets.into();
    map.set(0, words, 0)?;
    Ok(())
}

/// The layout of `Settings`, which the programs read.
const SETTINGS_WORDS: usize = size_of::<Settings>() / 4;
const _: () = {
    assert!(offset_of!(Settings, rx) == 0 && offset_of!(Settings, tx) == 16);
    assert!(offset_of!(Settings, tun_ifindex) == 32 && offset_of!(Settings, direct) == 36);
    assert!(offset_of!(Settings, sockets) == 40 && SETTINGS_WORDS == 11);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_kernels_are_known() {
        for (file, version) in [
            ("1\n", ""),
            ("", "#1 SMP PREEMPT_RT Debian 6.12.9-1 (2025-01-10)"),
            ("", "#1 SMP PREEMPT RT Debian 4.19.67-2 (2019-08-28)"),
        ] {
            assert!(is_realtime(file, version), "{file} {version}");
        }
        for (file, version) in [
            ("0\n", ""),
            ("", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.115-1 (2024-11-01)"),
            ("", "#1 SMP PREEMPT Fri Jan 10 2025"),
        ] {
            assert!(!is_realtime(file, version), "{file} {version}");
        }
    }
}
