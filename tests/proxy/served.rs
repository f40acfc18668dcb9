//! The gateway of `corelane serve` with accounts, set up as an administrator does it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use corelane::lab::Host;
use tempfile::TempDir;

use crate::harness::Gateway;

/// A server on a host, with ada (`right horse`) and bob (`left horse`).
pub(crate) struct Served {
    pub(crate) gateway: Gateway,
    directory: TempDir,
}

impl Served {
    /// One with `proxy` in its file besides what `corelane init vpn` has made.
    pub(crate) fn start(host: &Host, proxy: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().to_str().unwrap();
        let names = ["--domain", "localhost", "--address", "127.0.0.1"];
        done(&[&["init", "vpn", "--dir", dir, "--nat", "off"], &names[..]].concat(), "");
        let config = directory.path().join("server.toml");
        let text = format!("{}\n{proxy}", std::fs::read_to_string(&config).unwrap());
        std::fs::write(&config, &text).unwrap();
        let file = config.to_str().unwrap();
        for (name, password) in [("ada", "right horse\n"), ("bob", "left horse\n")] {
            done(&["user", "add", name, "--password-stdin", "-c", file], password);
        }
        let gateway = Gateway::start_beside_a_tunnel(host, &text);
        Self { gateway, directory }
    }

    /// A command to the running server.
    pub(crate) fn administer(&self, words: &[&str]) -> String {
        let config = self.path("server.toml");
        done(&[words, &["-c", config.to_str().unwrap()]].concat(), "")
    }

    /// A token of ada for the proxy.
    pub(crate) fn token(&self) -> String {
        let made = self.administer(&["token", "create", "ada", "--scope", "proxy"]);
        let token = made.split_whitespace().find(|word| word.starts_with("clane_"));
        token.unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// What `corelane init vpn` has made, and room for more.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Runs a command of ours that has to succeed; what it said.
pub(crate) fn done(words: &[&str], stdin: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(words).env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{words:?}");
    String::from_utf8(output.stdout).unwrap()
}
