//! Replays every file of the fuzz corpora through the functions that the fuzz targets call, so a
//! case that once mattered is checked by every ordinary test run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use proptest::prelude::*;
use proptest::sample::Index;

use corelane::{
    accounts, bench, cli, config, dataplane, handshake, host, login, packet, proxy, session, sys,
    wire,
};

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
    ("packet_parse", packet::fuzz::parse),
    ("packet_split", packet::fuzz::split),
    ("packet_coalesce", packet::fuzz::coalesce),
    ("packet_round_trip", packet::fuzz::round_trip),
    ("worker_to_wire", |data| dataplane::fuzz::worker_to_wire(now(), data)),
    ("worker_from_wire", |data| dataplane::fuzz::worker_from_wire(now(), data)),
    ("replay_window", session::fuzz::replay_window),
    ("control_message", sys::udp::fuzz::control_message),
    ("netlink_answer", host::netlink::fuzz::netlink_answer),
    ("dns_answer", host::resolver::fuzz::dns_answer),
    ("key_text", handshake::fuzz::key_text),
    ("account_operation", accounts::fuzz::operation),
    ("account_spool", accounts::journal::fuzz::spool),
    ("bench_message", bench::fuzz::bench_message),
    ("command_line", cli::fuzz::command_line),
    ("status_exchange", cli::fuzz::status_exchange),
    ("invite", login::fuzz::invite),
    ("control_frames", login::fuzz::control_frames),
    ("config_text", config_text),
    ("carrier_frames", login::carrier::fuzz::frames),
    ("socks_server", proxy::fuzz::socks_server),
    ("socks_client", proxy::fuzz::socks_client),
    ("socks_datagram", proxy::fuzz::socks_datagram),
    ("proxy_header", proxy::fuzz::proxy_header),
    ("proxy_target", proxy::fuzz::proxy_target),
    ("forwarded_for", proxy::fuzz::forwarded_for),
    ("http_requests", proxy::http::fuzz::requests),
    ("http_responses", proxy::http::fuzz::responses),
    ("http_connect_reply", proxy::http::fuzz::connect_reply),
];

fn config_text(data: &[u8]) {
    // Every outcome is fine but a panic.
    let _ = config::check_bytes("corpus", data);
}

fn handshake_initiation(data: &[u8]) {
    handshake::fuzz::initiation(now(), data);
}

/// The origin of a hook's virtual time.
fn now() -> Instant {
    sys::clock::now()
}

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of a target's corpus: name and content.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = fuzz_dir().join("corpus").join(target);
    let read = |file: &String| {
        let path = dir.join(file);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    names_in(&dir).into_iter().map(|file| (file.clone(), read(&file))).collect()
}

/// The names in a directory, sorted.
fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .map(|entry| entry.unwrap_or_else(|error| panic!("{}: {error}", dir.display())))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn every_target_takes_every_file_of_its_corpus() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(!files.is_empty(), "{name} has no corpus");
        for (file, content) in files {
            println!("{name}/{file}");
            target(&content);
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
    let manifest = include_str!("../fuzz/Cargo.toml");
    for name in &listed {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in Cargo.toml");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a fuzzer does first: files of the corpus cut short and with bytes changed.
    #[test]
    fn every_target_takes_damaged_files_of_its_corpus(
        file in any::<Index>(),
        len in any::<Index>(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
    ) {
        for (name, target) in TARGETS {
            let files = corpus(name);
            let (_, mut content) = files[file.index(files.len())].clone();
            for (position, value) in &changes {
                let position = position.index(content.len());
                content[position] = *value;
            }
            target(&content);
            content.truncate(len.index(content.len() + 1));
            target(&content);
        }
    }
}
