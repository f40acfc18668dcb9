//! The rules of the house that no compiler knows: reads the tree and fails on what breaks them.
//!
//! Lines of at most 100 columns, files of at most 600 lines, functions of at most 70; `unsafe` in
//! `src/sys` alone; no test that is ignored and no note about work left to do; imports that run
//! downwards only; and no file named in a document that does not exist. CONTRIBUTING.md says why.

#![expect(clippy::unwrap_used, reason = "a tree that cannot be read fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// The rooms of `src`, lowest floor first: a room imports from lower floors and from itself.
/// `src/lib.rs` tells what each is for.
const FLOORS: &[&[&str]] = &[
    &["limits", "exit", "rate"],
    &["wire", "packet", "telemetry"],
    &["session"],
    &["handshake", "routing"],
    &["sys", "policy"],
    &["dataplane", "host", "accounts"],
    &["control", "lab", "login"],
    &["proxy"],
    &["bench", "config"],
    &["daemon", "demo"],
    &["cli"],
];

/// Words that have no place in the code, and what to do instead. Each is written in two pieces
/// here, or this file would break its own rule.
const BANNED: &[(&str, &str, &str)] = &[
    ("TO", "DO", "do it, or open an issue"),
    ("FIX", "ME", "do it, or open an issue"),
    ("db", "g!(", "log it, or leave it out"),
    ("to", "do!(", "write it"),
    ("unimplem", "ented!(", "write it"),
    ("#[ign", "ore", "a test that never runs proves nothing"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file, by its path from the root.
struct Source {
    name: String,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Self {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, text }
    }

    /// Whether the whole file is compiled for tests only.
    fn is_test(&self) -> bool {
        let tests = ["tests.rs", "testing.rs", "allocations.rs"];
        tests.iter().any(|test| self.name.ends_with(&format!("/{test}")))
            || self.name.contains("/tests/")
    }

    /// The room of `src` it belongs to.
    fn room(&self) -> Option<&str> {
        let path = self.name.strip_prefix("src/")?;
        let room = path.split('/').next()?;
        Some(room.strip_suffix(".rs").unwrap_or(room))
    }

    /// The lines that are code of the program: number, and text without a line comment. Items under
    /// `#[cfg(test)]` are left out; rustfmt makes them end at the indentation they begin with.
    fn program_lines(&self) -> Vec<(usize, &str)> {
        let mut kept = Vec::new();
        let mut lines = (1..).zip(self.text.lines());
        while let Some((number, line)) = lines.next() {
            if line.trim_start() == "#[cfg(test)]" {
                let indent = indentation(line);
                let ends = |text: &str| {
                    indentation(text) == indent && (text.ends_with(';') || text.trim() == "}")
                };
                for (_, skipped) in lines.by_ref() {
                    if ends(skipped) {
                        break;
                    }
                }
                continue;
            }
            let code = line.split("//").next().unwrap_or_default();
            if !code.trim().is_empty() {
                kept.push((number, code));
            }
        }
        kept
    }
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Files below `directory` whose names end with `.extension`, in order.
fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root().join(directory)];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let directories = ["src", "tests", "perf", "fuzz/fuzz_targets"];
    let sources: Vec<_> = directories
        .iter()
        .flat_map(|directory| files(directory, "rs"))
        .map(|path| Source::read(&path))
        .collect();
    assert!(sources.len() > 100, "the tree is larger than that: {}", sources.len());
    sources
}

/// Fails with every objection at once.
fn assert_none(objections: &[String]) {
    assert!(objections.is_empty(), "\n{}\n", objections.join("\n"));
}

#[test]
fn lines_and_files_are_short() {
    let mut objections = Vec::new();
    for Source { name, text } in sources() {
        for (number, line) in (1..).zip(text.lines()) {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                objections.push(format!("{name}:{number}: {columns} columns"));
            }
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            objections.push(format!("{name}: {lines} lines; put something in a file of its own"));
        }
    }
    assert_none(&objections);
}

#[test]
fn functions_are_short() {
    let mut objections = Vec::new();
    for Source { name, text } in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| begins_function(line)) {
            let indent = indentation(line);
            // A signature ends with `{`, or with `;` where there is no body.
            let rest = lines[start..].iter().enumerate();
            let end = rest.clone().find(|(_, line)| {
                indentation(line) == indent && (line.trim_start() == "}" || line.ends_with(';'))
            });
            let is_one_line = line.ends_with('}') || line.ends_with(';');
            let length = if is_one_line { 1 } else { end.map_or(1, |(length, _)| length + 1) };
            if length > FUNCTION_LINES_MAX {
                objections.push(format!("{name}:{}: a function of {length} lines", start + 1));
            }
        }
    }
    assert_none(&objections);
}

fn begins_function(line: &str) -> bool {
    let mut words = line.trim_start().split(' ').peekable();
    let before = |word: &&str| {
        word.starts_with("pub") || matches!(*word, "const" | "async" | "unsafe" | "extern")
    };
    while words.next_if(before).is_some() {
        // `pub(in super::super) fn` has a blank inside.
        while words.next_if(|word| word.ends_with(')') || word.starts_with('"')).is_some() {}
    }
    words.next() == Some("fn")
}

#[test]
fn unsafe_code_stays_in_one_room() {
    let keyword = concat!("uns", "afe");
    let mut objections = Vec::new();
    for source in sources().iter().filter(|source| source.room() != Some("sys")) {
        for (number, line) in (1..).zip(source.text.lines()) {
            let code = line.split("//").next().unwrap_or_default();
            let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            if words.any(|word| word == keyword) && !code.contains('"') {
                objections.push(format!("{}:{number}: {keyword} outside src/sys", source.name));
            }
        }
    }
    assert_none(&objections);
}

#[test]
fn nothing_is_left_for_later() {
    let mut objections = Vec::new();
    for Source { name, text } in sources() {
        for (number, line) in (1..).zip(text.lines()) {
            for (head, tail, instead) in BANNED {
                let word = format!("{head}{tail}");
                if line.contains(&word) {
                    objections.push(format!("{name}:{number}: `{word}`: {instead}"));
                }
            }
        }
    }
    assert_none(&objections);
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn every_room_has_a_floor() {
    let lib = Source::read(&root().join("src/lib.rs"));
    let mut declared: Vec<&str> = lib
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod "))
        .filter_map(|rest| rest.strip_suffix(';'))
        .collect();
    let mut listed: Vec<&str> = FLOORS.iter().flat_map(|rooms| rooms.iter().copied()).collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(declared, listed);
}

#[test]
fn imports_run_downwards() {
    let mut objections = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let Some((room, own)) = source.room().and_then(|room| Some((room, floor(room)?))) else {
            continue;
        };
        for (number, code) in source.program_lines() {
            for other in rooms_named(code, source) {
                match floor(&other) {
                    _ if other == room => {}
                    Some(floor) if floor < own => {}
                    Some(_) => objections.push(format!(
                        "{}:{number}: `{room}` may not import from `{other}`",
                        source.name
                    )),
                    None => objections.push(format!("{}:{number}: `{other}`?", source.name)),
                }
            }
        }
    }
    assert_none(&objections);
}

/// The rooms that a line of code names: what follows `crate::`, and what follows so many `super::`
/// that they lead out of the room.
fn rooms_named(code: &str, source: &Source) -> Vec<String> {
    let name = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and the like do not occur; `corelane::` is no import of a room by a room.
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(list.split(", ").map(name)),
            None => found.push(name(rest)),
        }
    }
    let depth = source.name.trim_end_matches("/mod.rs").matches('/').count();
    if let Some(at) = code.find("super::") {
        let mut rest = &code[at..];
        let mut levels = 0;
        while let Some(shorter) = rest.strip_prefix("super::") {
            (rest, levels) = (shorter, levels + 1);
        }
        if levels >= depth {
            found.push(name(rest));
        }
    }
    found
}

/// The documents that people read, by their paths from the root.
fn documents() -> Vec<PathBuf> {
    let mut documents = files("docs", "md");
    documents.extend(files("perf", "md").into_iter().filter(|path| !path.ends_with("results.md")));
    for name in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        documents.push(root().join(name));
    }
    documents
}

#[test]
fn documents_name_files_that_exist() {
    let mut objections = Vec::new();
    for path in documents() {
        let Source { name, text } = Source::read(&path);
        for (number, line) in (1..).zip(text.lines()) {
            for target in link_targets(line).filter(|target| !target.contains("://")) {
                if !leads_somewhere(&path, target) {
                    objections.push(format!("{name}:{number}: a link to `{target}`"));
                }
            }
            for word in line.split('`').skip(1).step_by(2).filter(|word| is_path_of_ours(word)) {
                if !root().join(word).exists() {
                    objections.push(format!("{name}:{number}: `{word}`"));
                }
            }
        }
    }
    assert_none(&objections);
}

/// Whether a link in `document` names a file that exists and a heading that is in it.
fn leads_somewhere(document: &Path, target: &str) -> bool {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => document.to_owned(),
        file => document.parent().unwrap().join(file),
    };
    let has_heading = || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let headings = text.lines().filter(|line| line.starts_with('#'));
        headings.map(anchor_of).any(|heading| heading == anchor)
    };
    path.exists() && (anchor.is_empty() || has_heading())
}

/// The anchor of a heading, as forges make it.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What stands between `](` and `)`.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Whether a word in code font is meant as a path in this tree: it begins with a directory that is
/// here and is nothing but a path.
fn is_path_of_ours(word: &str) -> bool {
    let first = word.split('/').next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    word.contains('/')
        && word.chars().all(is_plain)
        && !word.starts_with("perf/results")
        && ["src", "tests", "docs", "config", "scripts", "perf", "fuzz", ".ci"].contains(&first)
}

#[test]
fn the_checks_themselves_see_what_they_look_for() {
    for (line, answer) in [
        ("fn main() {", true),
        ("    pub(super) const fn new() -> Self {", true),
        ("    pub(in super::super) fn handle(&mut self) {", true),
        ("    pub unsafe extern \"C\" fn f() {", true),
        ("/// a fn in a comment", false),
        ("let f = |fn_like| 3;", false),
    ] {
        assert_eq!(begins_function(line), answer, "{line}");
    }
    let source = Source {
        name: "src/wire/data.rs".to_owned(),
        text:
            "use crate::limits::X; // crate::cli\n#[cfg(test)]\nmod tests {\n    use crate::cli;\n\
               }\nuse crate::{sys, packet::Y};\nuse super::super::lab;\nuse super::Z;\n"
                .to_owned(),
    };
    let named: Vec<_> = source
        .program_lines()
        .into_iter()
        .flat_map(|(number, code)| {
            rooms_named(code, &source).into_iter().map(move |room| (number, room))
        })
        .collect();
    let expected = [(1, "limits"), (6, "sys"), (6, "packet"), (7, "lab")];
    assert_eq!(named, expected.map(|(number, room)| (number, room.to_owned())));
    assert_eq!(link_targets("[a](b.md) and [c](d#e)").collect::<Vec<_>>(), ["b.md", "d#e"]);
    assert_eq!(anchor_of("## Keys, and why no packet is lost"), "keys-and-why-no-packet-is-lost");
    assert!(is_path_of_ours("src/sys") && is_path_of_ours(".ci/run"));
    assert!(!is_path_of_ours("src/*.rs") && !is_path_of_ours("/etc/x") && !is_path_of_ours("src"));
}
