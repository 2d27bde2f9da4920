//! Processor time of single threads.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

/// Processor time of all threads of some processes.
pub struct Threads(HashMap<i32, Thread>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Thread {
    name: String,
    nanoseconds: u64,
}

impl Threads {
    /// Reads it.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn of(processes: impl IntoIterator<Item = i32>) -> Result<Self> {
        let mut threads = HashMap::new();
        for pid in processes {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            for task in tasks.with_context(|| format!("process {pid}"))? {
                let path = task?.path();
                let number = path
                    .file_name()
                    .and_then(|name| name.to_str()?.parse().ok());
                let number: i32 = number.context("a thread without a number")?;
                // A thread may end meanwhile.
                if let Some(thread) = Thread::read(&path) {
                    threads.insert(number, thread);
                }
            }
        }
        Ok(Self(threads))
    }

    /// What each has used since `before`, nanoseconds, by name; most first.
    pub fn since(&self, before: &Self) -> Vec<(String, u64)> {
        let used = self.0.iter().map(|(number, thread)| {
            let earlier = before.0.get(number).map_or(0, |thread| thread.nanoseconds);
            let used = thread.nanoseconds.saturating_sub(earlier);
            (thread.name.clone(), used)
        });
        let mut used: Vec<_> = used.collect();
        used.sort_by(|one, other| (other.1, &one.0).cmp(&(one.1, &other.0)));
        used
    }
}

impl Thread {
    fn read(task: &std::path::Path) -> Option<Self> {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let times = fs::read_to_string(task.join("schedstat")).ok()?;
        Some(Self {
            name: name.trim().to_owned(),
            nanoseconds: times.split(' ').next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Thread, Threads};

    fn threads(times: &[(i32, &str, u64)]) -> Threads {
        let threads = times.iter().map(|(number, name, nanoseconds)| {
            let thread = Thread {
                name: (*name).to_owned(),
                nanoseconds: *nanoseconds,
            };
            (*number, thread)
        });
        Threads(threads.collect::<HashMap<_, _>>())
    }

    #[test]
    fn new_threads_count_from_nothing() {
        let before = threads(&[(1, "a", 100), (2, "b", 100)]);
        let after = threads(&[(1, "a", 110), (2, "b", 150), (3, "c", 30)]);
        let used = [("b", 50), ("c", 30), ("a", 10)];
        let used = used.map(|(name, time)| (name.to_owned(), time));
        assert_eq!(after.since(&before), used);
    }

    #[test]
    fn this_process_can_be_read() {
        let own = std::process::id().try_into().unwrap();
        let before = Threads::of([own]).unwrap();
        assert!(!before.since(&before).is_empty());
    }
}
