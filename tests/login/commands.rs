//! `corelane init` and `corelane cert`, with OpenSSL as the judge of what they make.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn corelane(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(arguments).env_remove("RUST_LOG").output().unwrap()
}

/// The command with `--dir`, which must succeed. Returns what it says.
fn done(arguments: &[&str], directory: &Path) -> String {
    let output = corelane(&[arguments, &["--dir", directory.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", error_text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The same command, which must fail. Returns exit code and message.
fn refused(arguments: &[&str], directory: &Path) -> (i32, String) {
    let output = corelane(&[arguments, &["--dir", directory.to_str().unwrap()]].concat());
    assert!(!output.status.success(), "{arguments:?}");
    (output.status.code().unwrap(), error_text(&output))
}

fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether OpenSSL believes a certificate of the authority in `pki`, revocations considered.
fn is_believed(pki: &Path, certificate: &Path, purpose: &str) -> bool {
    let mut command = Command::new("openssl");
    command.args(["verify", "-crl_check", "-purpose", purpose]);
    command.arg("-CAfile").arg(pki.join("ca.crt")).arg("-CRLfile").arg(pki.join("ca.crl"));
    let output = command.arg(certificate).output().unwrap();
    output.status.success()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Every file below a directory with its content.
fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(snapshot(&entry.path())),
            false => found.push((entry.path(), fs::read(entry.path()).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_server_is_set_up_once_and_its_configuration_is_in_order() {
    let directory = TempDir::new().unwrap();
    let etc = directory.path().join("etc");
    let init = ["init", "vpn", "--domain", "vpn.example.org", "--address", "192.0.2.1"];
    let said = done(&init, &etc);
    assert!(said.contains("corelane invite"), "{said}");
    let pki = etc.join("pki");
    for secret in [etc.join("server.key"), pki.join("ca.key"), pki.join("server.key")] {
        assert_eq!(mode(&secret), 0o600, "{}", secret.display());
    }
    assert_eq!(mode(&pki), 0o700);
    assert_eq!(mode(&etc.join("accounts.db")), 0o600);
    assert!(is_believed(&pki, &pki.join("server.crt"), "sslserver"));

    let config = etc.join("server.toml");
    let check = corelane(&["config", "check", config.to_str().unwrap()]);
    assert!(check.status.success(), "{}", error_text(&check));
    assert!(check.stderr.is_empty(), "{}", error_text(&check));
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("endpoints = [\"vpn.example.org:20443\"]"), "{text}");
    assert!(!text.contains('@'), "{text}");

    let before = snapshot(&etc);
    let (code, message) = refused(&init, &etc);
    assert_eq!(code, 1);
    assert!(message.contains("is there already"), "{message}");
    assert!(before == snapshot(&etc), "nothing is touched");
}

#[test]
fn a_set_up_that_fails_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    // A directory stands where the database is to be moved to.
    fs::create_dir_all(directory.path().join("accounts.db-journal/in-the-way")).unwrap();
    fs::create_dir_all(directory.path().join("accounts.db-wal/in-the-way")).unwrap();
    let init = ["init", "vpn", "--address", "2001:db8::1"];
    refused(&init, directory.path());
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().starts_with("accounts.db-")), "{left:?}");
}

#[test]
fn certificates_are_issued_shown_renewed_and_revoked() {
    let directory = TempDir::new().unwrap();
    let (pki, out) = (directory.path().join("pki"), directory.path().join("out"));
    let out_text = out.to_str().unwrap();
    assert!(done(&["cert", "init"], &pki).contains("pin"));
    assert_eq!(refused(&["cert", "init"], &pki).0, 1);

    done(&["cert", "issue", "alice", "--out", out_text], &pki);
    let certificate = out.join("alice.crt");
    assert_eq!(mode(&out.join("alice.key")), 0o600);
    assert!(is_believed(&pki, &certificate, "sslclient"));
    assert!(!is_believed(&pki, &certificate, "sslserver"));
    let (_, message) = refused(&["cert", "issue", "alice", "--out", out_text], &pki);
    assert!(message.contains("alice.crt is there already"), "{message}");
    assert_eq!(list(&pki).len(), 1, "what has no place is not issued");

    let server = ["cert", "issue", "--domain", "two.example.org", "--out", out_text];
    done(&server, &pki);
    assert!(is_believed(&pki, &out.join("two.example.org.crt"), "sslserver"));
    assert_eq!(refused(&["cert", "renew"], &pki).0, 5, "no server's certificate to renew");
    done(&["cert", "renew", "--domain", "one.example.org"], &pki);
    let first = fs::read(pki.join("server.crt")).unwrap();
    assert!(done(&["cert", "renew"], &pki).contains("one.example.org"));
    assert!(fs::read(pki.join("server.crt")).unwrap() != first);

    let all = list(&pki);
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|issued| issued["state"] == "good"));
    let serial = all.iter().find(|issued| issued["user"] == "alice").unwrap()["serial"].clone();
    let serial = serial.as_str().unwrap();
    assert!(done(&["cert", "revoke", serial], &pki).contains(serial));
    assert!(!is_believed(&pki, &certificate, "sslclient"));
    assert!(is_believed(&pki, &pki.join("server.crt"), "sslserver"), "the others are good");
    done(&["cert", "revoke", serial], &pki);
    let table = done(&["cert", "list"], &pki);
    assert!(table.lines().any(|line| line.contains(serial) && line.contains("revoked")), "{table}");

    assert_eq!(refused(&["cert", "revoke", "--user", "alice"], &pki).0, 5);
    for no_serial in ["00", "../ca", "", "zz"] {
        assert_eq!(refused(&["cert", "revoke", no_serial], &pki).0, 5, "{no_serial}");
    }
    assert_eq!(refused(&["cert", "issue", "a/b", "--out", out_text], &pki).0, 2);
    assert_eq!(refused(&["cert", "issue", "bob"], directory.path()).0, 5, "no authority there");
}

fn list(pki: &Path) -> Vec<serde_json::Value> {
    serde_json::from_str(&done(&["cert", "list", "--json"], pki)).unwrap()
}

/// Two that revoke at a time must not lose what the other one says.
#[test]
fn revocations_at_the_same_time_all_count() {
    let directory = TempDir::new().unwrap();
    let (pki, out) = (directory.path().join("pki"), directory.path().join("out"));
    done(&["cert", "init"], &pki);
    let users: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    for user in &users {
        done(&["cert", "issue", user, "--out", out.to_str().unwrap()], &pki);
    }
    std::thread::scope(|scope| {
        for user in &users {
            scope.spawn(|| done(&["cert", "revoke", "--user", user], &pki));
        }
    });
    assert!(list(&pki).iter().all(|issued| issued["state"] == "revoked"));
}
