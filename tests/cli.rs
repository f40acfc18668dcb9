//! Drives the real binary: what it prints, where, and how it exits.

#![expect(clippy::expect_used, reason = "a test ends where its set-up fails")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use tempfile::TempDir;

const PUBLIC_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

fn corelane(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("RUST_LOG")
        .env_remove("JOURNAL_STREAM");
    command
}

fn run(arguments: &[&str]) -> Output {
    corelane(arguments).output().expect("the binary starts")
}

fn run_with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = corelane(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // A command that does not read its input is the business of the assertions.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the binary ends")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is text")
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
}

fn write(directory: &TempDir, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).expect("a temporary file can be written");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode can be set");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A server's file in order but for its key file, which is `key`.
fn server_file(directory: &TempDir, key: &Path) -> PathBuf {
    let content = format!(
        "[server]\nprivate_key_file = \"{}\"\n[tun]\naddresses = [\"10.77.0.1/24\"]\n\
         [[peer]]\npublic_key = \"{PUBLIC_KEY}\"\nallowed_ips = [\"10.77.0.2/32\"]\n",
        key.display()
    );
    write(directory, "server.toml", &content, 0o644)
}

#[test]
fn keys_make_the_round_trip_and_never_repeat() {
    let (one, other) = (run(&["key", "generate"]), run(&["key", "generate"]));
    assert_code(&one, 0);
    assert_ne!(one.stdout, other.stdout);
    let private = stdout(&one);
    assert_eq!(private.len(), 45, "44 characters and a line feed");
    let public = run_with_input(&["key", "public"], &private);
    assert_code(&public, 0);
    assert_eq!(stdout(&public).len(), 45);
    assert_eq!(public.stdout, run_with_input(&["key", "public"], private.trim()).stdout);
    assert_ne!(public.stdout, one.stdout);
    let preshared = run(&["key", "preshared"]);
    assert_code(&preshared, 0);
    assert_ne!(preshared.stdout, run(&["key", "preshared"]).stdout);
}

#[test]
fn the_public_key_is_the_one_rfc_7748_gives() {
    // Section 6.1, Alice's key pair.
    let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    assert_eq!(stdout(&run_with_input(&["key", "public"], private)).trim(), PUBLIC_KEY);
}

#[test]
fn what_is_no_key_is_refused_without_repeating_it() {
    for input in ["", "hunter2", "AAAA", &"A".repeat(1000)] {
        let output = run_with_input(&["key", "public"], input);
        assert_code(&output, 1);
        assert!(output.stdout.is_empty());
        assert!(!stderr(&output).contains("hunter2") && stderr(&output).contains("stdin is not"));
    }
}

#[test]
fn a_key_written_where_others_can_read_it_brings_a_warning() {
    let directory = TempDir::new().expect("a temporary directory");
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        let path = write(&directory, "key", "", mode);
        let file = fs::File::create(&path).expect("it can be written");
        let output = corelane(&["key", "generate"]).stdout(file).output().expect("it starts");
        assert_code(&output, 0);
        assert_eq!(stderr(&output).contains("warning: others can read"), warned, "{mode:o}");
        fs::remove_file(path).expect("it can be removed");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    for arguments in [
        &[][..],
        &["fly"],
        &["serve", "--mtu", "100"],
        &["serve", "--workers", "129"],
        &["serve", "--peer", "x=10.0.0.0/8"],
        &["up", "--server", "nowhere"],
        &["config", "show"],
        &["completion", "klingon"],
    ] {
        let output = run(arguments);
        assert_code(&output, 2);
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["serve", "--help"], &["--version"], &["version"]] {
        let output = run(arguments);
        assert_code(&output, 0);
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    let version = format!("corelane {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&run(&["version"])), version);
}

#[test]
fn a_bad_file_is_reported_whole_with_places_carets_and_suggestions() {
    let directory = TempDir::new().expect("a temporary directory");
    let content = "[server]\nlisen = 1\n[tun]\n  mtu = 100\n[[peer]]\npublic_key = \"x\"\n";
    let file = write(&directory, "server.toml", content, 0o644);
    let path = text(&file);
    for arguments in [&["config", "check", path][..], &["serve", "-c", path]] {
        let output = run(arguments);
        assert_code(&output, 3);
        let said = stderr(&output);
        for expected in [
            format!("{path}:2:1: error: unknown key `lisen`\n  |\n2 | lisen = 1\n  | ^^^^^\n"),
            "  = help: did you mean `listen`?\n".to_owned(),
            format!("{path}:4:9: error: `mtu` takes an integer from 1280 to 65408, not 100\n"),
            "4 |   mtu = 100\n  |         ^^^\n".to_owned(),
            format!("{path}:6:14: error: `public_key` takes a public key"),
            format!("{path}:1:2: error: `private_key_file` is missing"),
        ] {
            assert!(said.contains(&expected), "{expected}\nis not in\n{said}");
        }
    }
}

#[test]
fn flags_that_contradict_each_other_are_a_configuration_error_that_names_them() {
    let output =
        run(&["serve", "--workers", "3", "--cpus", "0-1", "--set", "tuning.udp_gos=false"]);
    assert_code(&output, 3);
    let said = stderr(&output);
    assert!(said.contains("--cpus: error: 3 workers cannot be pinned to 2 CPUs"), "{said}");
    assert!(said.contains("--set: error: there is no key `udp_gos`"), "{said}");
    assert!(said.contains("did you mean `udp_gso`?"), "{said}");
    assert!(said.contains("command line: error: `private_key_file` is missing"), "{said}");
}

#[test]
fn a_file_that_is_missing_ends_with_5() {
    for arguments in [
        &["config", "check", "/nonexistent/server.toml"][..],
        &["config", "show", "--effective", "-c", "/nonexistent/server.toml"],
        &["serve", "-c", "/nonexistent/server.toml"],
        &["up", "-c", "/nonexistent/client.toml"],
    ] {
        let output = run(arguments);
        assert_code(&output, 5);
        assert!(stderr(&output).contains("/nonexistent/"), "{}", stderr(&output));
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let directory = TempDir::new().expect("a temporary directory");
    let private = stdout(&run(&["key", "generate"]));
    let key = write(&directory, "server.key", &private, 0o600);
    let file = server_file(&directory, &key);
    let good = run(&["config", "check", text(&file)]);
    assert_code(&good, 0);
    assert_eq!(stdout(&good), format!("{}: ok for `corelane serve`\n", file.display()));
    for mode in [0o640, 0o604, 0o620, 0o644] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).expect("its mode can be set");
        let output = run(&["config", "check", text(&file)]);
        assert_code(&output, 3);
        let said = stderr(&output);
        assert!(said.contains(&format!("`chmod 600 {}`", key.display())), "{said}");
        assert!(said.contains("server.toml:2:20: error: "), "{said}");
        assert!(!said.contains(private.trim()));
    }
}

#[test]
fn the_effective_configuration_tells_origins_and_no_secrets() {
    let directory = TempDir::new().expect("a temporary directory");
    let private = stdout(&run(&["key", "generate"]));
    let key = write(&directory, "server.key", &private, 0o600);
    let file = server_file(&directory, &key);
    let output =
        run(&["config", "show", "--effective", "-c", text(&file), "--set", "tun.mtu=1300"]);
    assert_code(&output, 0);
    let shown = stdout(&output);
    assert!(!shown.contains(private.trim()));
    for (line, origin) in
        [("mtu = 1300", "--set"), ("addresses = ", "file, line 4"), ("name = ", "default")]
    {
        let found = shown.lines().any(|shown| shown.starts_with(line) && shown.ends_with(origin));
        assert!(found, "{line} from {origin} is not in\n{shown}");
    }
    let client = run(&["config", "show", "--effective", "--role", "client"]);
    assert!(stdout(&client).contains("socket = \"/run/corelane/up.sock\""));
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completion", shell]);
        assert_code(&output, 0);
        assert!(stdout(&output).contains("corelane"), "{shell}");
    }
    let directory = TempDir::new().expect("a temporary directory");
    let target = directory.path().join("man").join("man1");
    assert_code(&run(&["man", text(&target)]), 0);
    for page in ["corelane.1", "corelane-serve.1", "corelane-up.1", "corelane-status.1"] {
        let text = fs::read_to_string(target.join(page)).expect(page);
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child =
        corelane(&["completion", "bash"]).stdout(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn without_a_daemon_status_down_and_reload_end_with_4() {
    let directory = TempDir::new().expect("a temporary directory");
    let socket = directory.path().join("none.sock");
    for command in ["status", "down", "reload"] {
        let output = run(&[command, "--status-socket", text(&socket)]);
        assert_code(&output, 4);
        assert!(stderr(&output).contains("no daemon answers on"), "{}", stderr(&output));
    }
}

/// A daemon that answers one question, then goes.
fn daemon_answering(socket: &Path, answer: String) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(socket).expect("a socket can be made");
    let socket = socket.to_owned();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client comes");
        // Gone before the answer, so that nobody who has it finds the socket again.
        drop(listener);
        fs::remove_file(socket).expect("the socket is there");
        let mut request = String::new();
        let reader = stream.try_clone().expect("a socket can be shared");
        BufReader::new(reader).read_line(&mut request).expect("the request is a line");
        stream.write_all(answer.as_bytes()).expect("the client listens");
        request
    })
}

const REPORT: &str = r#"{"answer":"status","schema":1,"role":"server","version":"9.9.9","pid":42,
    "uptime_s":3700.5,"state":"up","tun":"corelane0","mtu":1408,"public_key":"KEY",
    "endpoints":["[::]:20443"],"offloads":{"tun_checksum":true,"tun_tcp_segmentation":true,
    "tun_udp_segmentation":false,"udp_gso":true,"udp_gro":true,"steering":true},
    "workers":[{"worker":0,"cpu":3,"to_wire_packets":1234567,"to_wire_bytes":1610612736,
    "from_wire_packets":1,"from_wire_bytes":1,"batches":2,"average_batch":31.5,"busy_share":0.25,
    "gso_fallbacks":0,"tun_fallbacks":7,"reordered":0}],
    "peers":[{"public_key":"PEER","allowed_ips":["10.77.0.2/32"],"connected":true,
    "paths":[{"path":0,"endpoint":"192.0.2.2:4711","state":"up","plaintext_max":1408}],
    "lanes_in_use":{"sending":[0],"receiving":[0]},"session_age_s":12.0,"last_handshake_s":12.0,
    "handshake_ms":1.5,"rekeys":3,"received_bytes":2048,"sent_bytes":4096,"rtt_ms":0.25,
    "features":["checksum_offload"]}],
    "drops":{"replayed":0,"no_route":1500},"last_error":null}"#;

#[test]
fn status_shows_a_report_to_people_and_to_programs() {
    let directory = TempDir::new().expect("a temporary directory");
    let socket = directory.path().join("status.sock");
    let answer = format!("{}\n", REPORT.replace('\n', ""));
    let daemon = daemon_answering(&socket, answer.clone());
    let output = run(&["status", "--status-socket", text(&socket)]);
    assert_eq!(daemon.join().expect("the daemon ran"), "{\"request\":\"status\"}\n");
    assert_code(&output, 0);
    let shown = stdout(&output);
    for expected in [
        "up for 1 h 1 min",
        "missing: TUN UDP segmentation",
        "1.50 GiB",
        "1,234,567 packets",
        "7 split TUN writes",
        "192.0.2.2:4711, up, up to 1408 B",
        "connected, last handshake 12 s ago, took 1.5 ms, RTT 0.25 ms, 3 rekeys",
        "1,500  no_route  No peer owns the destination address of a packet.",
    ] {
        assert!(shown.contains(expected), "{expected}\nis not in\n{shown}");
    }
    assert!(!shown.contains("replayed") && !shown.contains('\u{1b}'), "{shown}");

    let daemon = daemon_answering(&socket, answer);
    let output = run(&["status", "--json", "--status-socket", text(&socket)]);
    daemon.join().expect("the daemon ran");
    assert_code(&output, 0);
    assert_eq!(stdout(&output).lines().count(), 1);
    assert!(stdout(&output).starts_with("{\"schema\":1,"), "{}", stdout(&output));
}

#[test]
fn down_waits_until_the_daemon_has_gone() {
    let directory = TempDir::new().expect("a temporary directory");
    let socket = directory.path().join("status.sock");
    let daemon = daemon_answering(&socket, "{\"answer\":\"ok\"}\n".to_owned());
    assert_code(&run(&["down", "--status-socket", text(&socket)]), 0);
    assert_eq!(daemon.join().expect("the daemon ran"), "{\"request\":\"down\"}\n");
    assert!(!socket.exists());
}

#[test]
fn a_refused_reload_ends_with_1_and_the_reason() {
    let directory = TempDir::new().expect("a temporary directory");
    let socket = directory.path().join("status.sock");
    let answer = "{\"answer\":\"error\",\"message\":\"server.toml:3:1: unknown key\"}\n";
    let daemon = daemon_answering(&socket, answer.to_owned());
    let output = run(&["reload", "--status-socket", text(&socket)]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("the daemon refused: server.toml:3:1: unknown key"));
    assert_eq!(daemon.join().expect("the daemon ran"), "{\"request\":\"reload\"}\n");
}
