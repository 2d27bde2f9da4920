//! Runs `ocpasswd` as an administrator or a panel does.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha_crypt::{PasswordVerifier, ShaCrypt};

fn run(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocpasswd"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A child that needs no input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new(content: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ocpasswd"), content).unwrap();
        Self { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ocpasswd")
    }

    fn content(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn run(&self, args: &[&str], stdin: &[u8]) -> Output {
        let file = self.file();
        run(&[&["-c", path(&file)], args].concat(), stdin)
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_password_from_stdin_is_hashed_as_the_reference_does() {
    let bed = Bed::new("# kept\n");
    let output = bed.run(&["-g", "g1,g2", "ann"], b"secret\nnot this\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let content = bed.content();
    let hash = content
        .strip_prefix("# kept\nann:g1,g2:")
        .unwrap()
        .trim_end();
    let fields: Vec<_> = hash.split('$').collect();
    assert_eq!(
        (fields.len(), fields[1], fields[2].len(), fields[3].len()),
        (4, "5", 16, 43)
    );
    ShaCrypt::SHA256.verify_password(b"secret", hash).unwrap();
    assert_eq!(
        fs::metadata(bed.file()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!bed.dir.path().join("ocpasswd.tmp").exists());
}

#[test]
fn a_missing_file_is_created_only_for_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new");
    let refused = run(&["-c", path(&file), "-d", "ann"], b"");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        stderr(&refused),
        format!("Cannot open '{}' for reading.\n", path(&file))
    );
    assert!(
        fs::read_dir(dir.path()).unwrap().next().is_none(),
        "no lock stays"
    );

    assert!(
        run(&["--passwd", path(&file), "ann"], b"pw")
            .status
            .success()
    );
    assert!(fs::read_to_string(&file).unwrap().starts_with("ann:*:$5$"));
}

#[test]
fn a_new_password_resets_the_groups() {
    let bed = Bed::new("ann:g1:old\nbob:g2:keep\n");
    assert!(bed.run(&["ann"], b"pw\n").status.success());
    let content = bed.content();
    assert!(content.starts_with("ann:*:$5$"), "{content}");
    assert!(content.ends_with("\nbob:g2:keep\n"), "{content}");
}

#[test]
fn long_options_work_in_both_spellings() {
    let bed = Bed::new("");
    assert!(bed.run(&["--group=g7", "ann"], b"pw\n").status.success());
    assert!(bed.content().starts_with("ann:g7:"));
    assert!(
        bed.run(&["ann", "--groupname", "g8"], b"pw\n")
            .status
            .success()
    );
    assert!(bed.content().starts_with("ann:g8:"));
}

#[test]
fn lock_unlock_and_delete_touch_one_line() {
    let bed = Bed::new("# c\nann:*:hash\nbob:*:hash");
    for _ in 0..2 {
        assert!(bed.run(&["-l", "ann"], b"").status.success());
        assert_eq!(bed.content(), "# c\nann:*:!hash\nbob:*:hash");
    }
    assert!(bed.run(&["--unlock", "ann"], b"").status.success());
    assert_eq!(bed.content(), "# c\nann:*:hash\nbob:*:hash");
    assert!(bed.run(&["--delete", "ann"], b"").status.success());
    assert_eq!(bed.content(), "# c\nbob:*:hash");
    assert!(
        bed.run(&["-d", "nobody"], b"").status.success(),
        "as the reference"
    );
}

#[test]
fn a_lock_of_another_run_is_respected() {
    let bed = Bed::new("ann:*:hash\n");
    let lock = bed.dir.path().join("ocpasswd.tmp");
    fs::write(&lock, "").unwrap();
    let output = bed.run(&["-l", "ann"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        format!("file '{}' is locked.\n", path(&bed.file()))
    );
    assert_eq!(bed.content(), "ann:*:hash\n");
    assert!(lock.exists());
}

#[test]
fn an_empty_password_is_refused() {
    let bed = Bed::new("");
    for input in [&b""[..], b"\n", b"\r\n"] {
        let output = bed.run(&["ann"], input);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr(&output), "Please specify a password\n");
    }
    assert_eq!(bed.content(), "");
}

#[test]
fn names_that_break_the_file_are_refused() {
    let bed = Bed::new("");
    for name in ["a:b", "a\nb:*:", "#ann", ""] {
        let output = bed.run(&[name], b"pw\n");
        assert_eq!(output.status.code(), Some(1), "{name:?}");
    }
    assert_eq!(
        bed.run(&["-g", "a:b", "ann"], b"pw\n").status.code(),
        Some(1)
    );
    assert_eq!(bed.content(), "");
}

#[test]
fn wrong_command_lines_show_the_usage() {
    let bed = Bed::new("ann:*:hash\n");
    for args in [
        &[][..],
        &["a", "b"],
        &["-d", "-l", "ann"],
        &["-l", "-u", "ann"],
        &["--foo", "ann"],
    ] {
        let output = bed.run(args, b"pw\n");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains("Usage:  ocpasswd"), "{args:?}");
    }
    assert_eq!(bed.content(), "ann:*:hash\n");
}

/// Runs `ocpasswd` on a terminal and types `answers`, one at each prompt. Gives the exit status,
/// what it printed, and what the terminal echoed.
fn on_a_terminal(bed: &Bed, answers: &[&str]) -> (Option<i32>, String, String) {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocpasswd"))
        .args(["-c", path(&bed.file()), "ann"])
        .stdin(Stdio::from(terminal.slave.try_clone().unwrap()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut screen = fs::File::from(terminal.master);
    let mut printed = child.stderr.take().unwrap();
    let mut output = String::new();
    for answer in answers {
        let mut byte = [0];
        while !output.ends_with("password: ") && printed.read(&mut byte).unwrap() == 1 {
            output.push(byte[0].into());
        }
        // So that the next loop waits for the next prompt.
        output.push('|');
        screen.write_all(answer.as_bytes()).unwrap();
        screen.write_all(b"\n").unwrap();
    }
    printed.read_to_string(&mut output).unwrap();
    let status = child.wait().unwrap();
    drop(terminal.slave);
    let mut echo = Vec::new();
    // The read ends with EIO when the last slave is closed.
    let _ = screen.read_to_end(&mut echo);
    (
        status.code(),
        output,
        String::from_utf8_lossy(&echo).into_owned(),
    )
}

#[test]
fn a_terminal_asks_twice_and_echoes_nothing() {
    let bed = Bed::new("");
    let (status, output, echo) = on_a_terminal(&bed, &["hidden", "hidden"]);
    assert_eq!(status, Some(0), "{output}");
    assert_eq!(output, "Enter password: |\nRe-enter password: |\n");
    assert!(!echo.contains("hidden"), "{echo}");
    let content = bed.content();
    let hash = content.strip_prefix("ann:*:").unwrap().trim_end();
    ShaCrypt::SHA256.verify_password(b"hidden", hash).unwrap();
}

#[test]
fn two_different_passwords_are_refused() {
    let bed = Bed::new("");
    let (status, output, _) = on_a_terminal(&bed, &["one", "two"]);
    assert_eq!(status, Some(1));
    assert!(output.ends_with("Passwords do not match\n"), "{output}");
    let (status, output, _) = on_a_terminal(&bed, &[""]);
    assert_eq!(status, Some(1));
    assert!(output.ends_with("Please specify a password\n"), "{output}");
    assert_eq!(bed.content(), "");
}

#[test]
fn help_and_version_succeed() {
    let help = run(&["-h"], b"");
    assert!(help.status.success());
    assert!(stderr(&help).contains("--groupname"));
    let version = run(&["--version"], b"");
    assert!(version.status.success());
    assert!(stderr(&version).starts_with("ocpasswd - "));
}
