//! The house rules as code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::root;

/// A file should be readable in one sitting.
const MAX_LINES: usize = 600;
/// The only crates that may hold unsafe code.
const UNSAFE_CRATES: [&str; 3] = ["ocserv-sys", "ocserv-ebpf", "ocserv-common"];
/// Names that do not say what a module does.
const EMPTY_NAMES: [&str; 7] = [
    "util", "utils", "helper", "helpers", "manager", "misc", "common",
];
/// What must not stay in the code. In pieces, so that this file does not offend itself.
const LEFTOVERS: [&str; 7] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("unimpl", "emented!"),
    concat!("to", "do!("),
    concat!("db", "g!("),
    concat!("#[ig", "nore"),
];
const SKIPPED_DIRECTORIES: [&str; 4] = ["target", ".git", "corpus", "artifacts"];

/// Checks all files of the workspace.
///
/// # Errors
/// Lists every offence.
pub fn run() -> Result<()> {
    let root = root()?;
    let mut offences = Vec::new();
    let mut files = 0;
    for path in source_files(&root)? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let relative = path.strip_prefix(&root).unwrap_or(&path);
        files += 1;
        offences.extend(offences_of(relative, &text));
    }
    if files == 0 {
        bail!("no source files below {}", root.display());
    }
    if !offences.is_empty() {
        bail!("{} offences:\n{}", offences.len(), offences.join("\n"));
    }
    println!("      {files} files are tidy");
    Ok(())
}

fn source_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !SKIPPED_DIRECTORIES.contains(&name.as_str()) {
                    pending.push(path);
                }
            } else if [".rs", ".toml", ".sh"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What is wrong with one file.
fn offences_of(path: &Path, text: &str) -> Vec<String> {
    let shown = path.display();
    let mut offences = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let found = LEFTOVERS.iter().find(|leftover| line.contains(*leftover));
        if let Some(leftover) = found {
            offences.push(format!("{shown}:{}: {leftover}", index + 1));
        }
    }
    if path.extension().is_some_and(|end| end == "rs") {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            offences.push(format!("{shown}: {lines} lines, at most {MAX_LINES}"));
        }
        if has_empty_name(path) {
            offences.push(format!("{shown}: the name does not say what it does"));
        }
        let may_be_unsafe = UNSAFE_CRATES.iter().any(|name| path.starts_with(name));
        if !may_be_unsafe {
            let lines = text.lines().enumerate().filter(|(_, line)| is_unsafe(line));
            offences.extend(lines.map(|(index, _)| {
                format!(
                    "{shown}:{}: unsafe code outside {UNSAFE_CRATES:?}",
                    index + 1
                )
            }));
        }
    }
    offences
}

/// A module is named by its file, or by its directory if the file is `mod.rs`.
fn has_empty_name(path: &Path) -> bool {
    let stem = |path: &Path| {
        path.file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    };
    let name = match stem(path) {
        Some(name) if name == "mod" => path.parent().and_then(stem),
        name => name,
    };
    name.is_some_and(|name| EMPTY_NAMES.contains(&name.as_str()))
}

fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let words: Vec<_> = code.split_whitespace().collect();
    words.windows(2).any(|pair| {
        let keyword = pair[0].rsplit(['(', '{', '=', '|']).next();
        let next =
            pair[1].trim_end_matches(|letter: char| !letter.is_alphanumeric() && letter != '{');
        keyword == Some("unsafe")
            && (pair[1].starts_with('{') || ["fn", "impl", "extern", "trait"].contains(&next))
    })
}

#[cfg(test)]
mod tests {
    use super::{LEFTOVERS, MAX_LINES, is_unsafe, offences_of, source_files};
    use std::path::Path;

    fn count(path: &str, text: &str) -> usize {
        offences_of(Path::new(path), text).len()
    }

    #[test]
    fn leftovers_are_found_in_code_and_manifests() {
        for leftover in LEFTOVERS {
            assert_eq!(
                count("a/src/x.rs", &format!("fn a() {{}} {leftover}")),
                1,
                "{leftover}"
            );
            assert_eq!(count("a/Cargo.toml", leftover), 1, "{leftover}");
        }
        assert_eq!(count("a/src/x.rs", "fn a() {}"), 0);
    }

    #[test]
    fn workspaces_of_their_own_are_looked_at_without_what_was_built() {
        let root = crate::root().expect("a workspace");
        let files = source_files(&root).expect("files");
        for file in ["ocserv-ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
            assert!(files.contains(&root.join(file)), "{file}");
        }
        let built = |path: &&std::path::PathBuf| {
            let relative = path.strip_prefix(&root).unwrap_or(path);
            relative.iter().any(|part| part == "target")
        };
        assert_eq!(files.iter().find(built), None);
    }

    #[test]
    fn long_files_and_empty_names_are_found() {
        assert_eq!(count("a/src/x.rs", &"\n".repeat(MAX_LINES)), 0);
        assert_eq!(count("a/src/x.rs", &"\n".repeat(MAX_LINES + 1)), 1);
        for path in ["a/src/utils.rs", "a/src/helpers/mod.rs", "a/src/manager.rs"] {
            assert_eq!(count(path, ""), 1, "{path}");
        }
        assert_eq!(count("a/src/lease/mod.rs", ""), 0);
    }

    #[test]
    fn unsafe_code_is_found_where_it_may_not_be() {
        let word = "unsafe";
        for code in [
            " { a() }",
            " fn a()",
            " impl Send for A {}",
            " extern \"C\" {",
        ] {
            assert!(is_unsafe(&format!("{word}{code}")), "{code}");
        }
        assert!(is_unsafe(&format!("let a = f({word} {{ b() }});")));
        assert!(!is_unsafe(&format!("// {word} {{ in a comment }}")));
        assert!(!is_unsafe(&format!("#![deny({word}_op_in_{word}_fn)]")));
        let line = format!("{word} {{ a() }}");
        assert_eq!(count("ocserv-proto/src/x.rs", &line), 1);
        assert_eq!(count("ocserv-sys/src/x.rs", &line), 0);
        assert_eq!(count("ocserv-ebpf/src/x.rs", &line), 0);
    }
}
