//! The rules of the house, checked on the tree itself.

#![expect(clippy::unwrap_used, reason = "a tree that cannot be read fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use corelane::telemetry::drops::DropReason;

const LINE_LEN_MAX: usize = 100;
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// Marks of work left undone, in halves so that this file does not contain them.
const UNFINISHED: [[&str; 2]; 5] =
    [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimplemented", "!("], ["dbg", "!("]];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project, with its path from the root.
fn rust_files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut directories: Vec<_> =
        ["src", "tests", "perf", "fuzz/fuzz_targets"].map(|name| root().join(name)).into();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(files.len() > 100, "the tree was not found");
    files
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

#[track_caller]
fn assert_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn lines_files_and_functions_are_short() {
    let mut offences = Vec::new();
    for (path, text) in rust_files() {
        let path = path.display();
        let lines: Vec<_> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            offences.push(format!("{path}: {} lines", lines.len()));
        }
        for (number, line) in lines.iter().enumerate() {
            if line.chars().count() > LINE_LEN_MAX {
                offences.push(format!("{path}:{}: {} columns", number + 1, line.chars().count()));
            }
            if is_function(line) {
                let indent = line.len() - line.trim_start().len();
                let end = format!("{}}}", &line[..indent]);
                let body = lines[number..].iter().position(|line| *line == end);
                if body.is_some_and(|length| length + 1 > FUNCTION_LINES_MAX) {
                    offences.push(format!("{path}:{}: long function", number + 1));
                }
            }
        }
    }
    assert_none(offences);
}

/// Whether a line, as rustfmt sets it, begins a function with a body.
fn is_function(line: &str) -> bool {
    let words: Vec<_> = line.trim_start().split_whitespace().collect();
    let name = words.iter().position(|word| *word == "fn");
    !line.trim_end().ends_with(['}', ';'])
        && name.is_some_and(|name| words[..name].iter().all(|word| is_qualifier(word)))
}

fn is_qualifier(word: &str) -> bool {
    matches!(word, "pub" | "const" | "unsafe" | "extern") || word.starts_with("pub(")
}

#[test]
fn unsafe_code_is_in_the_sys_room_alone() {
    let outside = rust_files().into_iter().filter(|(path, text)| {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        !path.starts_with("src/sys")
            && code.into_iter().any(|line| {
                line.contains(concat!("unsafe", " {")) || line.contains(concat!("unsafe", " fn"))
            })
    });
    assert_none(outside.map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn nothing_is_left_unfinished() {
    let mut offences = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if UNFINISHED.iter().any(|halves| line.contains(&halves.concat())) {
                offences.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert_none(offences);
}

#[test]
fn every_drop_reason_is_explained_to_operators() {
    let operations = document("docs/operations.md");
    let is_missing = |reason: &&DropReason| !operations.contains(&format!("`{}`", reason.name()));
    let missing = DropReason::ALL.iter().filter(is_missing);
    assert_none(missing.map(|reason| reason.name().to_owned()).collect());
}

#[test]
fn every_direct_dependency_is_justified() {
    let manifest: toml::Table = document("Cargo.toml").parse().unwrap();
    let page = document("docs/dependencies.md");
    let tables = ["dependencies", "dev-dependencies"];
    let names = tables.iter().flat_map(|table| manifest[*table].as_table().unwrap().keys());
    assert_none(names.filter(|name| !page.contains(&format!("`{name}`"))).cloned().collect());
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut offences = Vec::new();
    let pages = fs::read_dir(root().join("docs")).unwrap();
    let pages = pages.map(|entry| entry.unwrap().path());
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    for page in pages.chain(top).filter(|page| page.extension().is_some_and(|it| it == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let is_local = !file.is_empty() && !file.contains("://");
            if is_local && !page.parent().unwrap().join(file).exists() {
                offences.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert_none(offences);
}
