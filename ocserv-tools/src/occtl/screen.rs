//! Output through a pager (cli.md §2).

use std::io::Write;
use std::process::{Command, Stdio};

/// Prints `text`, through the pager if asked for and there is one.
pub fn show(text: &str, pager: bool) {
    if text.is_empty() || (pager && page(text)) {
        return;
    }
    // A reader that has left wants no more of it.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

/// `OCCTL_PAGER`, `PAGER`, then `less` and `more`. False: none could be run.
fn page(text: &str) -> bool {
    let chosen = ["OCCTL_PAGER", "PAGER"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .filter(|command| !command.trim().is_empty());
    match chosen {
        Some(command) => pipe(Command::new("/bin/sh").args(["-c", &command]), text),
        None => ["less", "more"]
            .iter()
            .any(|name| pipe(&mut Command::new(name), text)),
    }
}

fn pipe(command: &mut Command, text: &str) -> bool {
    let Ok(mut child) = command.env("LESS", "FRSX").stdin(Stdio::piped()).spawn() else {
        return false;
    };
    if let Some(mut input) = child.stdin.take() {
        // The pager may be left before it has read everything.
        let _ = input.write_all(text.as_bytes());
    }
    let _ = child.wait();
    true
}
