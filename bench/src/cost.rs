//! What a tree of processes has cost, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Fields of `/proc/PID/stat` after the name, counted from the state.
const PARENT: usize = 1;
/// User and system time of the process, then of its children that have ended.
const TIMES: std::ops::Range<usize> = 11..15;

/// Processor time of a process and all its descendants, ended ones included.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn processor_time(root: i32) -> Result<Duration> {
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    let processes = processes()?;
    let ticks: u64 = tree(root, &processes)
        .iter()
        .filter_map(|pid| Some(processes.get(pid)?.ticks))
        .sum();
    Ok(Duration::from_secs_f64(
        ticks as f64 / ticks_per_second as f64,
    ))
}

/// Memory of a process and all its living descendants: bytes, where a page that several processes
/// share counts in parts (proportional set size).
///
/// # Errors
/// When `/proc` cannot be read.
pub fn memory(root: i32) -> Result<u64> {
    memory_of(root, "Pss:")
}

/// The part of [`memory`] that belongs to no file: it does not depend on who else runs the program.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn anonymous_memory(root: i32) -> Result<u64> {
    memory_of(root, "Pss_Anon:")
}

fn memory_of(root: i32, field: &str) -> Result<u64> {
    let processes = processes()?;
    Ok(tree(root, &processes)
        .into_iter()
        .map(|pid| proportional_set_size(pid, field).unwrap_or(0))
        .sum())
}

/// Processes of a tree.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn pids(root: i32) -> Result<Vec<i32>> {
    Ok(tree(root, &processes()?))
}

struct Process {
    parent: i32,
    ticks: u64,
}

fn processes() -> Result<HashMap<i32, Process>> {
    let entries = fs::read_dir("/proc").context("/proc")?;
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parse_stat(&stat)?))
    };
    Ok(entries.filter_map(read).collect())
}

fn parse_stat(stat: &str) -> Option<Process> {
    // The name before may hold blanks and brackets.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    let times = fields.get(TIMES)?;
    Some(Process {
        parent: fields.get(PARENT)?.parse().ok()?,
        ticks: times
            .iter()
            .filter_map(|time| time.parse::<u64>().ok())
            .sum(),
    })
}

fn tree(root: i32, processes: &HashMap<i32, Process>) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = processes
            .iter()
            .filter(|(_, process)| process.parent == parent);
        found.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

fn proportional_set_size(pid: i32, field: &str) -> Option<u64> {
    const KIB: u64 = 1024;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * KIB)
}

#[cfg(test)]
mod tests {
    use super::{parse_stat, processor_time, tree};
    use std::collections::HashMap;

    #[test]
    fn times_of_ended_children_count() {
        let stat = "7 (a ) b) S 3 7 7 0 -1 4194304 0 0 0 0 10 20 300 4000 20 0 1 0";
        let process = parse_stat(stat).unwrap();
        assert_eq!((process.parent, process.ticks), (3, 4330));
    }

    #[test]
    fn a_tree_has_grandchildren_and_no_strangers() {
        let rows = [(10, 1), (11, 10), (12, 11), (13, 1), (14, 12)];
        let processes: HashMap<_, _> = rows
            .into_iter()
            .map(|(pid, parent)| (pid, super::Process { parent, ticks: 0 }))
            .collect();
        let mut found = tree(10, &processes);
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12, 14]);
    }

    #[test]
    fn this_process_can_be_read() {
        let own = std::process::id().try_into().unwrap();
        processor_time(own).unwrap();
        let anonymous = super::anonymous_memory(own).unwrap();
        assert!(anonymous > 0 && anonymous < super::memory(own).unwrap());
    }
}
