//! Replays every file of the fuzz corpora through the functions that the fuzz targets call, so a
//! case that once mattered is checked by every ordinary test run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use corelane::{handshake, session, wire};

/// A function that must not panic, whatever the bytes.
type Target = fn(&[u8]);

/// Every fuzz target by name.
const TARGETS: &[(&str, Target)] = &[
    ("wire_message", wire::fuzz::message),
    ("path_message", wire::fuzz::path_message),
    ("data_message", session::fuzz::data_message),
    ("handshake_initiation", handshake_initiation),
    ("handshake_response", handshake::fuzz::response),
    ("cookie_reply", handshake::fuzz::cookie_reply),
];

fn handshake_initiation(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "the origin of the hook's virtual time")]
    handshake::fuzz::initiation(Instant::now(), data);
}

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The names in a directory, sorted.
fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_target_takes_every_file_of_its_corpus() {
    for (name, target) in TARGETS {
        let corpus = fuzz_dir().join("corpus").join(name);
        let files = names_in(&corpus);
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            println!("{name}/{file}");
            target(&fs::read(corpus.join(&file)).unwrap());
        }
        target(&[]);
    }
}

#[test]
fn targets_corpora_and_sources_correspond() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|(name, _)| String::from(*name)).collect();
    assert_eq!(names_in(&fuzz_dir().join("corpus")), listed);
    let sources = listed.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names_in(&fuzz_dir().join("fuzz_targets")), sources);
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    for name in &listed {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in Cargo.toml");
    }
}
