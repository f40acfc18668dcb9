//! What the documents say about the program is what the program does: every drop reason, key,
//! figure and command that there is is written down, as it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use corelane::exit::ExitCode;
use corelane::limits;
use corelane::telemetry::drops::DropReason;
use corelane::telemetry::status::{
    LanesInUse, OffloadStatus, PathStatus, PeerStatus, ProxyStatus, STATUS_SCHEMA, StatusReport,
    UpstreamStatus, WorkerStatus,
};
use serde_json::Value;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The cells of every row of every table in a document.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let inside = |line: &'_ str| line.starts_with("| ") && line.ends_with(" |");
    let lines = document.lines().filter(|line| inside(line));
    lines.map(|line| line[2..line.len() - 2].split(" | ").map(str::trim).collect()).collect()
}

/// Words in code font.
fn in_code_font(document: &str) -> BTreeSet<&str> {
    document.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[track_caller]
fn assert_none(missing: &[String]) {
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn every_drop_reason_is_explained_with_what_to_do() {
    let operations = document("docs/operations.md");
    let rows = rows(&operations);
    let mut missing = Vec::new();
    for reason in DropReason::ALL {
        let name = format!("`{}`", reason.name());
        match rows.iter().find(|row| row[0] == name).map(Vec::as_slice) {
            Some([_, what, todo]) if *what == reason.description() && !todo.is_empty() => {}
            Some(row) => missing.push(format!("{row:?} is not: {}", reason.description())),
            None => missing.push(name),
        }
    }
    assert_none(&missing);
}

#[test]
fn every_direct_dependency_is_justified() {
    let page = document("docs/dependencies.md");
    let explained = in_code_font(&page);
    let mut missing = Vec::new();
    for file in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let manifest: toml::Table = document(file).parse().unwrap();
        for table in ["dependencies", "dev-dependencies"] {
            let Some(table) = manifest.get(table) else { continue };
            let names = table.as_table().unwrap().keys();
            missing.extend(
                names
                    .filter(|name| !explained.contains(name.as_str()) && *name != "corelane")
                    .cloned(),
            );
        }
    }
    assert_none(&missing);
}

/// A key of an annotated example, with its annotations.
struct Key {
    name: String,
    default: String,
    reload: String,
}

/// Every key of an annotated example: `# Default:` and `# Reload:` stand above it.
fn annotated_keys(file: &str) -> Vec<Key> {
    let (mut section, mut default, mut reload) = (String::new(), None, None);
    let mut keys = Vec::new();
    for line in document(file).lines() {
        if let Some(value) = line.strip_prefix("# Default: ") {
            default = Some(value.to_owned());
        } else if let Some(value) = line.strip_prefix("# Reload: ") {
            reload = Some(value.to_owned());
        } else if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
            && let (Some(default), Some(reload)) = (default.take(), reload.take())
        {
            keys.push(Key { name: format!("{section}.{key}"), default, reload });
        }
    }
    assert!(keys.len() > 20, "{file}: {} keys", keys.len());
    keys
}

#[test]
fn every_key_of_the_configuration_is_in_the_table_with_its_default() {
    let operations = document("docs/operations.md");
    let rows = rows(&operations);
    let mut missing = Vec::new();
    for file in ["config/server.toml", "config/client.toml"] {
        for Key { name, default, reload } in annotated_keys(file) {
            let default = match default.as_str() {
                "none, it is indispensable" => "none, needed".to_owned(),
                "none" => default,
                // The roles differ; the table names the server's.
                "\"/run/corelane/up.sock\"" => "`\"/run/corelane/serve.sock\"`".to_owned(),
                value => format!("`{value}`"),
            };
            let wanted = [format!("`{name}`"), default, reload];
            let is_there = |row: &Vec<&str>| row.len() == 4 && row[..3] == wanted;
            if !rows.iter().any(is_there) {
                missing.push(wanted.join(" | "));
            }
        }
    }
    assert_none(&missing);
}

/// A report in which every list has an entry.
fn full_report() -> StatusReport {
    let text = String::new;
    StatusReport {
        schema: STATUS_SCHEMA,
        role: text(),
        version: text(),
        pid: 0,
        uptime_s: 0.0,
        state: text(),
        tun: text(),
        mtu: 0,
        public_key: text(),
        endpoints: Vec::new(),
        offloads: OffloadStatus::default(),
        workers: vec![WorkerStatus {
            worker: 0,
            cpu: None,
            to_wire_packets: 0,
            to_wire_bytes: 0,
            from_wire_packets: 0,
            from_wire_bytes: 0,
            batches: 0,
            average_batch: 0.0,
            busy_share: 0.0,
            gso_fallbacks: 0,
            tun_fallbacks: 0,
            reordered: 0,
        }],
        peers: vec![PeerStatus {
            public_key: text(),
            allowed_ips: Vec::new(),
            connected: false,
            paths: vec![PathStatus { path: 0, endpoint: None, state: text(), plaintext_max: 0 }],
            lanes_in_use: LanesInUse::default(),
            session_age_s: None,
            last_handshake_s: None,
            handshake_ms: None,
            rekeys: 0,
            received_bytes: 0,
            sent_bytes: 0,
            rtt_ms: None,
            features: Vec::new(),
        }],
        drops: Default::default(),
        accounts: Some(Default::default()),
        proxy: Some(ProxyStatus {
            upstreams: vec![UpstreamStatus::default()],
            ..ProxyStatus::default()
        }),
        last_error: None,
    }
}

fn keys_of(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.insert(key.clone());
                keys_of(value, keys);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys_of(value, keys)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_status_is_explained() {
    let mut keys = BTreeSet::new();
    keys_of(&serde_json::to_value(full_report()).unwrap(), &mut keys);
    assert!(keys.len() > 40, "{keys:?}");
    let operations = document("docs/operations.md");
    let section = operations.split("\n## ").find(|section| section.starts_with("Status\n"));
    let explained = in_code_font(section.unwrap());
    let missing = keys.into_iter().filter(|key| !explained.contains(key.as_str()));
    assert_none(&missing.collect::<Vec<_>>());
}

#[test]
fn every_exit_code_is_listed() {
    let operations = document("docs/operations.md");
    let rows = rows(&operations);
    let help = Command::new(env!("CARGO_BIN_EXE_corelane")).arg("--help").output().unwrap();
    let help =
        String::from_utf8(help.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut missing = Vec::new();
    for (code, word) in ExitCode::ALL {
        let code = (*code as u8).to_string();
        if !rows.iter().any(|row| row[0] == code && row.len() == 2) {
            missing.push(format!("{code} in the table"));
        }
        if !help.contains(&format!("{code} {word}")) {
            missing.push(format!("{code} {word} in the help: {help}"));
        }
    }
    assert_none(&missing);
}

/// Asks systemd, with the program that was built in the place of the one that is installed.
#[test]
fn the_systemd_units_are_sound_and_never_give_up() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["corelane-client.service", "corelane-proxy.service", "corelane-server.service"] {
        let unit = document(&format!("scripts/{name}"));
        // A name server that is not there yet, or an address, must not stop it for good; a
        // configuration that is wrong must.
        for line in ["StartLimitIntervalSec=0", "Restart=on-failure"] {
            assert!(unit.lines().any(|it| it == line), "{name}: {line}");
        }
        let hopeless = [ExitCode::Usage, ExitCode::ConfigInvalid].map(|it| (it as u8).to_string());
        let hopeless = format!("RestartPreventExitStatus={}", hopeless.join(" "));
        assert!(unit.lines().any(|it| it == hopeless), "{name}: {hopeless}");

        let unit = unit.replace("/usr/local/bin/corelane", env!("CARGO_BIN_EXE_corelane"));
        let file = directory.path().join(name);
        fs::write(&file, unit).unwrap();
        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(file)
            .output()
            .expect("systemd-analyze, of Debian's package systemd, checks the units");
        let complaints = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && !complaints.contains(name), "{complaints}");
    }
}

/// A duration as the table of timers has it.
fn written(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms < 1000 => format!("{ms} ms"),
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        _ => format!("{} s", duration.as_secs_f64()),
    }
}

#[test]
fn the_timers_of_the_protocol_are_those_of_the_program() {
    use limits::*;
    let protocol = document("docs/protocol.md");
    let rows = rows(&protocol);
    let two = |one: Duration, other: Duration| format!("{}; {}", written(one), written(other));
    let tries = |wait: Duration, probes: u32| format!("{}; {probes} probes", written(wait));
    // (what the row says, among other things, and the value)
    let timers = [
        ("first wait for an answer", two(HANDSHAKE_RETRY_FIRST, HANDSHAKE_RETRY_MAX)),
        ("12 initiations without an answer", written(RECONNECT_PAUSE_MAX)),
        ("replaces a session at the age of", written(REKEY_AFTER)),
        ("below a quarter of that age", written(REKEY_JITTER_MAX)),
        ("neither sends nor receives", written(REJECT_AFTER)),
        ("nothing heard for", written(DEAD_PEER_PROBE_AFTER)),
        ("then every", tries(DEAD_PEER_PROBE_EVERY, DEAD_PEER_PROBES_MAX)),
        ("unconfirmed paths", two(PATH_CONFIRM_RETRY, PATH_CONFIRM_WITHIN)),
        ("fell back to one", two(PATHS_RETRY_FIRST, PATHS_RETRY_MAX)),
        ("after a close", written(RECONNECT_AFTER_CLOSE_MAX)),
        ("size of a path in use", written(RTT_PROBE_EVERY)),
        ("probe of a size", tries(PATH_MTU_PROBE_WAIT, PATH_MTU_PROBES_MAX)),
        ("the wanted size is tried again", two(PATH_MTU_RAISE_FIRST, PATH_MTU_RAISE_MAX)),
        ("cookie secret", written(COOKIE_SECRET_LIFE)),
        ("probes of the session before", written(SESSION_HANDOVER)),
        ("sessions per peer", SESSIONS_PER_PEER_MAX.to_string()),
    ];
    assert_eq!((HANDSHAKE_TRIES_BEFORE_PAUSE, REKEY_JITTER_DIVISOR), (12, 4));
    assert_eq!(HANDSHAKE_RETRIES_EVEN, 4, "the row of the first wait says so");
    assert_eq!((REKEY_AFTER_PACKETS, REJECT_AFTER_PACKETS), ((1 << 28) - (1 << 24), 1 << 28));
    let mut missing = Vec::new();
    for (what, value) in timers {
        if !rows.iter().any(|row| row.len() == 2 && row[0].contains(what) && row[1] == value) {
            missing.push(format!("{what}: {value}"));
        }
    }
    assert_none(&missing);
}

#[test]
fn commands_in_the_documents_exist() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_corelane")).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // Of each command, the first word of its line in `--help`.
    let help = run(&["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: BTreeSet<&str> = listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains("serve") && commands.len() > 10, "{commands:?}");
    let is_letter = |c: char| c.is_ascii_lowercase() || c == '-';
    let is_word = |word: &&str| !word.starts_with('-') && word.chars().all(is_letter);
    let mut missing = Vec::new();
    for name in ["README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/architecture.md"] {
        let text = document(name);
        for rest in text.split("corelane ").skip(1) {
            let before = &text[..rest.as_ptr() as usize - text.as_ptr() as usize];
            // Of code and shell lines only: a command follows a quote, a blank or a line's start.
            let starts = before.trim_end_matches("corelane ").ends_with(['`', '\n', ' ', '(']);
            let end =
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
            let word = &rest[..end];
            let is_command = starts && end > 0 && is_word(&word) && in_a_command(before);
            if is_command && !commands.contains(word) {
                missing.push(format!("{name}: corelane {word}"));
            }
        }
    }
    assert_none(&missing);
}

/// Whether text that goes on after `before` is in code font or in a block of shell commands.
fn in_a_command(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default();
    let fences = before.lines().filter(|line| line.starts_with("```")).count();
    line.matches('`').count() % 2 == 1 || fences % 2 == 1
}

/// The names of the tests in a source file: functions right below `#[test]`.
fn tests_in(source: &str) -> BTreeSet<String> {
    let text = document(source);
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let is_test = |pair: &&[&str]| pair[0] == "#[test]";
    let functions = lines.windows(2).filter(is_test).filter_map(|pair| {
        let (name, _) = pair[1].strip_prefix("fn ")?.split_once('(')?;
        Some(name.to_owned())
    });
    functions.collect()
}

#[test]
fn every_attack_names_tests_that_exist_and_every_attacking_test_is_named() {
    let model = document("docs/threat-model.md");
    let mut objections = Vec::new();
    let mut named = BTreeSet::new();
    for row in rows(&model).into_iter().filter(|row| row[0] != "---" && row[2] != "shown by") {
        let tests = in_code_font(row[2]);
        let tests: Vec<_> = tests.into_iter().filter_map(|word| word.split_once("::")).collect();
        if tests.is_empty() {
            objections.push(format!("{}: no test", row[0]));
        }
        for (source, test) in tests {
            if !tests_in(source).contains(test) {
                objections.push(format!("{}: {source} has no test {test}", row[0]));
            }
            named.insert(format!("{source}::{test}"));
        }
    }
    assert!(named.len() > 50, "{named:?}");
    let attacks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks");
    for entry in fs::read_dir(attacks).unwrap() {
        let source = format!("tests/attacks/{}", entry.unwrap().file_name().to_str().unwrap());
        let tests = tests_in(&source).into_iter().map(|test| format!("{source}::{test}"));
        objections.extend(tests.filter(|test| !named.contains(test)));
    }
    assert_none(&objections);
}
