//! Running one check after the other, and counting tests.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

/// What passed and failed so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, and steps that failed without a failed test.
    pub failed: u64,
    failed_steps: Vec<String>,
}

impl Tally {
    /// Runs a program as one step. Its output is shown; results of `cargo test` in it are counted.
    /// Returns whether it succeeded.
    pub fn command(&mut self, name: &str, command: &mut Command) -> bool {
        println!("==> {name}");
        let started = Instant::now();
        let outcome = run_counting(command);
        let (succeeded, counts) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                println!("{error:#}");
                (false, Counts::default())
            }
        };
        self.passed += counts.passed;
        self.failed += counts.failed;
        if !succeeded && counts.failed == 0 {
            self.failed += 1;
        }
        self.finish(name, succeeded, started);
        succeeded
    }

    /// Runs own code as one step. Returns whether it succeeded.
    pub fn check(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> bool {
        println!("==> {name}");
        let started = Instant::now();
        let outcome = work();
        if let Err(error) = &outcome {
            println!("{error:#}");
            self.failed += 1;
        }
        self.finish(name, outcome.is_ok(), started);
        outcome.is_ok()
    }

    /// Counts a step that could not be run as failed.
    pub fn not_run(&mut self, name: &str, why: &str) {
        println!("==> {name}\n<== {name}: NOT RUN, {why}\n");
        self.failed += 1;
        self.failed_steps.push(name.to_owned());
    }

    /// Shows a step that this machine cannot run and need not. It counts as nothing.
    pub fn skipped(&mut self, name: &str, why: &str) {
        println!("==> {name}\n<== {name}: SKIPPED, {why}\n");
    }

    fn finish(&mut self, name: &str, succeeded: bool, started: Instant) {
        let word = if succeeded { "ok" } else { "FAILED" };
        println!("<== {name}: {word} ({} s)\n", started.elapsed().as_secs());
        if !succeeded {
            self.failed_steps.push(name.to_owned());
        }
    }

    /// Names of the steps that failed.
    pub fn failed_steps(&self) -> &[String] {
        &self.failed_steps
    }
}

/// Numbers from the `test result:` lines of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

fn run_counting(command: &mut Command) -> Result<(bool, Counts)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let output = child.stdout.take().context("no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(found) = parse_result(&line) {
            counts.passed += found.passed;
            counts.failed += found.failed;
        }
    }
    Ok((child.wait()?.success(), counts))
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Counts> {
    let (_, rest) = line.split_once("test result: ")?;
    let number_before = |word: &str| {
        let before = rest.split(word).next()?;
        before.split_whitespace().next_back()?.parse().ok()
    };
    Some(Counts {
        passed: number_before(" passed")?,
        failed: number_before(" failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Counts, Tally, parse_result};
    use std::process::Command;

    #[test]
    fn results_of_cargo_test_are_read() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out";
        assert_eq!(
            parse_result(line),
            Some(Counts {
                passed: 12,
                failed: 3
            })
        );
        assert_eq!(parse_result("test login ... ok"), None);
        assert_eq!(parse_result("test result: nonsense"), None);
    }

    #[test]
    fn a_failed_program_without_failed_tests_counts_as_one_failure() {
        let mut tally = Tally::default();
        assert!(tally.command("true", &mut Command::new("true")));
        assert!(!tally.command("false", &mut Command::new("false")));
        assert!(!tally.command("missing", &mut Command::new("/nonexistent/program")));
        let mut tests = Command::new("sh");
        tests.args([
            "-c",
            "echo 'test result: FAILED. 2 passed; 5 failed; 0 ignored'; exit 1",
        ]);
        assert!(!tally.command("tests", &mut tests));
        assert_eq!((tally.passed, tally.failed), (2, 7));
        assert_eq!(tally.failed_steps(), ["false", "missing", "tests"]);
    }
}
