//! The committed fuzzing corpora, replayed.

use std::fs;
use std::path::Path;

use super::super::fuzz;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        run(&fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}

#[test]
fn parse_corpus_breaks_no_promise() {
    replay("packet_parse", fuzz::parse);
}

#[test]
fn split_corpus_breaks_no_promise() {
    replay("packet_split", fuzz::split);
}

#[test]
fn coalesce_corpus_breaks_no_promise() {
    replay("packet_coalesce", fuzz::coalesce);
}
