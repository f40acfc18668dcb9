//! `corelane bench` as a user runs it: two processes, flags, exit codes, JSON.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

fn corelane() -> Command {
    Command::new(env!("CARGO_BIN_EXE_corelane"))
}

/// A bench server that runs one test; killed if it is still there at the end.
struct OneTest {
    child: Child,
    address: String,
}

impl OneTest {
    fn start() -> Self {
        let mut child = corelane()
            .args(["bench", "serve", "--listen", "127.0.0.1:0", "--one-off"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Self { child, address }
    }

    fn run(mut self, flags: &[&str]) -> Output {
        let output = corelane().args(["bench", "run", &self.address]).args(flags).output().unwrap();
        assert!(self.child.wait().unwrap().success());
        output
    }
}

impl Drop for OneTest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_test_prints_a_summary_and_a_line_per_interval_only_if_asked() {
    let output = OneTest::start().run(&["-t", "0.2", "-P", "2", "-R"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("TCP, 2 streams, server to client\n"), "{text}");
    let output = OneTest::start().run(&["-t", "0.2", "--intervals"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().next().unwrap().trim_start().starts_with("0.00-"), "{text}");
}

#[test]
fn json_is_all_there_is_on_stdout() {
    for flags in [
        &["-t", "0.2", "--json"][..],
        &["-t", "0.2", "-u", "-b", "5M", "-l", "200", "--json"],
        &["--latency", "--count", "10", "--interval", "1", "--json"],
    ] {
        let output = OneTest::start().run(flags);
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["schema"], 1, "{flags:?}");
    }
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    // A port that was free a moment ago and that nothing listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let code = |arguments: &[&str]| corelane().args(arguments).output().unwrap().status.code();
    assert_eq!(code(&["bench", "run", &free.to_string()]), Some(4));
    assert_eq!(code(&["bench", "run", "127.0.0.1", "-P", "0"]), Some(2));
    assert_eq!(code(&["bench", "run", "127.0.0.1", "-u", "-l", "3"]), Some(2));
    assert_eq!(code(&["bench", "run", "no-such-host.invalid"]), Some(5));
}
