//! What a tree of processes holds: memory, descriptors, maps of the kernel.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cost;

/// What is held at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// Memory of the processes, bytes (proportional set size).
    pub memory: u64,
    /// The part of it that belongs to no file, bytes.
    pub anonymous: u64,
    /// Memory of the maps that the processes have descriptors of, bytes; each map once.
    pub maps: u64,
    /// The processes with their open descriptors.
    pub processes: Vec<Process>,
}

/// A process.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Held {
    /// By a process and all that it started.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn by(root: i32) -> Result<Self> {
        let mut maps = HashMap::new();
        let mut processes = Vec::new();
        for pid in cost::pids(root)? {
            // A process can end meanwhile.
            if let Ok(process) = Process::read(pid, &mut maps) {
                processes.push(process);
            }
        }
        Ok(Self {
            memory: cost::memory(root)?,
            anonymous: cost::anonymous_memory(root)?,
            maps: maps.values().sum(),
            processes,
        })
    }

    /// Descriptors of all.
    pub fn descriptors(&self) -> usize {
        let each = self.processes.iter().map(|process| process.descriptors);
        each.sum()
    }
}

impl Process {
    fn read(pid: i32, maps: &mut HashMap<u64, u64>) -> Result<Self> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
        let mut descriptors = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("descriptors")? {
            descriptors += 1;
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            maps.extend(map_in(&info));
        }
        Ok(Self {
            pid,
            name: name.trim().to_owned(),
            descriptors,
        })
    }
}

/// Number and memory of the map that a descriptor stands for, by its `fdinfo`.
fn map_in(info: &str) -> Option<(u64, u64)> {
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    // Programs have memory as well, and maps inside maps no number.
    Some((number("map_id")?, number("memlock")?))
}

#[cfg(test)]
mod tests {
    use super::{Held, map_in};

    #[test]
    fn maps_are_told_from_other_descriptors() {
        let map = "pos:\t0\nflags:\t02\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t17\nfrozen:\t0\n";
        assert_eq!(map_in(map), Some((17, 4096)));
        assert_eq!(map_in("pos:\t0\nprog_id:\t5\nmemlock:\t4096\n"), None);
        assert_eq!(map_in(""), None);
    }

    #[test]
    fn this_process_holds_descriptors() {
        let own = std::process::id().try_into().unwrap();
        let held = Held::by(own).unwrap();
        assert!(held.memory > 0);
        assert!(held.descriptors() >= 3);
    }
}
