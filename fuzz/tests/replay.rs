//! Feeds every corpus to its target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ocserv_fuzz::TARGETS;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Without extension; hidden files left out.
fn names_in(path: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            Some(path.file_stem()?.to_string_lossy().into_owned())
        })
        .filter(|name| !name.starts_with('.'))
        .collect()
}

#[test]
fn every_corpus_passes() {
    for (name, target) in TARGETS {
        let corpus = directory("corpus").join(name);
        let mut files: Vec<PathBuf> = fs::read_dir(&corpus)
            .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", corpus.display());
        for file in files {
            // Shown when the target panics.
            println!("{}", file.display());
            target(&fs::read(&file).unwrap());
        }
    }
}

#[test]
fn every_target_has_binary_and_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for place in ["fuzz_targets", "corpus"] {
        let mut names = names_in(&directory(place));
        if !cfg!(feature = "daemon") {
            names.retain(|name| !["ipc", "packet_link"].contains(&name.as_str()));
        }
        assert_eq!(names, targets, "{place}");
    }
}
