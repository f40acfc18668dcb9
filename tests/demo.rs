//! `corelane demo` as a newcomer runs it. Needs root, or user namespaces and a `/dev/net/tun` that
//! everybody may open.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

fn demo(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.arg("demo").env("TMPDIR", directory);
    command
}

/// Processes that were started with a path inside `directory`.
fn processes_of(directory: &Path) -> Vec<String> {
    let path = directory.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|command| command.contains(path))
        .collect()
}

fn assert_nothing_left(directory: &Path) {
    let left: Vec<_> = fs::read_dir(directory).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes_of(directory), Vec::<String>::new());
}

#[test]
fn a_demo_measures_everything_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let output = demo(directory.path())
        .args(["--duration", "1", "--workers", "2", "--json", "--keep-logs"])
        .arg(logs.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["ping"]["tunnel"]["received"], report["ping"]["tunnel"]["sent"]);
    let tests = report["tcp"].as_array().unwrap();
    assert_eq!(tests.len(), 3);
    for test in tests {
        assert!(test["tunnel"]["bytes"].as_u64().unwrap() > 0, "{test}");
        assert!(test["ratio_percent"].as_f64().unwrap() > 0.0, "{test}");
    }
    for test in report["udp"].as_array().unwrap() {
        assert!(test["packets_per_second"].as_f64().unwrap() > 0.0, "{test}");
    }
    for side in ["server", "client"] {
        assert_eq!(report[side]["workers"], 2, "{side}");
        assert!(logs.path().join(format!("{side}.log")).is_file());
    }
    assert!(report["client"]["handshake_ms"].as_f64().unwrap() > 0.0);
    assert!(report["cpu"]["server_s_per_gb"].as_f64().unwrap() > 0.0);
    assert_eq!(report["proof"]["outer"]["with_pattern"], 0);
    assert_eq!(report["proof"]["inner"]["with_pattern"], report["proof"]["delivered"]);
    assert_nothing_left(directory.path());
}

#[test]
fn a_demo_of_logins_shows_every_promise_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let output = demo(directory.path())
        .args(["--login", "--duration", "1", "--json", "--keep-logs"])
        .arg(logs.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], 1);
    let figure = |part: &str, name: &str| report[part][name].as_f64().unwrap();
    for phase in ["udp_bps", "tls_bps", "again_bps"] {
        assert!(figure("carrier", phase) > 1e6, "{report}");
    }
    // Twice what is promised: other tests want this machine, too.
    assert!(figure("carrier", "to_tls_ms") < 4000.0, "{report}");
    assert!(figure("failover", "online_again_ms") < 6000.0, "{report}");
    assert!(figure("revocation", "took_ms") < 2000.0, "{report}");
    assert!(report["revocation"]["answer"].as_str().unwrap().contains("closed in"), "{report}");
    assert_eq!(report["revocation"]["peers_afterwards"], 0);
    for name in ["first", "second", "client"] {
        assert!(logs.path().join(format!("{name}.log")).is_file(), "{name}");
    }
    assert_nothing_left(directory.path());
}

#[test]
fn a_demo_of_the_gateway_shows_every_protocol_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let output = demo(directory.path())
        .args(["--proxy", "--duration", "0.5", "--workers", "2", "--json", "--keep-logs"])
        .arg(logs.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["schema"], &report["workers"]), (&1.into(), &2.into()));
    for part in ["requests", "routes"] {
        let rows = report[part].as_array().unwrap();
        let by: Vec<_> = rows.iter().map(|row| row["by"].as_str().unwrap()).collect();
        assert_eq!(
            by,
            ["direct", "SOCKS5", "SOCKS4a", "HTTP CONNECT", "HTTP forwarded", "SOCKS5 in TLS"],
            "{part}"
        );
    }
    for route in &report["routes"].as_array().unwrap()[1..] {
        assert!(route["bps"].as_f64().unwrap() > 1e6, "{route}");
        assert!(route["cpu_s_per_gb"].as_f64().unwrap() > 0.0, "{route}");
    }
    let refusals = report["refusals"].as_array().unwrap();
    let answers: Vec<_> = refusals.iter().map(|row| row["answer"].as_str().unwrap()).collect();
    assert_eq!(answers, ["02", "403", "02", "403"]);
    // Five pages and five throughputs were let through, four requests were not.
    assert_eq!((&report["clients"], &report["origins_reached"]), (&14.into(), &10.into()));
    assert!(logs.path().join("gateway.log").is_file());
    assert_nothing_left(directory.path());
}

#[test]
fn a_signal_in_the_middle_ends_everything_with_a_word() {
    for signal in ["INT", "TERM"] {
        let directory = tempfile::tempdir().unwrap();
        let mut child = demo(directory.path())
            .args(["--duration", "60"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("TCP") {
            let piece = stderr.fill_buf().unwrap();
            assert!(!piece.is_empty(), "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(piece);
            let len = piece.len();
            stderr.consume(len);
        }
        assert_eq!(processes_of(directory.path()).len(), 2, "a server and a client");
        let killed = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
        assert!(rest.contains("interrupted"), "{rest}");
        assert_nothing_left(directory.path());
    }
}

#[test]
fn a_held_demo_says_how_to_enter_the_hosts_and_ends_well() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = demo(directory.path())
        .args(["--duration", "0.2", "--hold"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let command = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("ping:").map(|command| command.trim().to_owned()))
        .expect("the command to ping");
    let output = Command::new("sh").args(["-c", &format!("{command} -c 1 -W 5")]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    assert_nothing_left(directory.path());
}
