//! `corelane init` and `corelane cert`, with OpenSSL as the judge of what they make.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use corelane::accounts::operations::{Actor, CertificateView, Operation, Outcome};
use corelane::accounts::service::{Accounts, AccountsOptions};
use corelane::lab::{Postgres, wait_until};
use corelane::login::pki::{PkiDirectory, Purpose, Validity};
use corelane::sys::clock;
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
    // What `--ca-pin` takes.
    let pin = PkiDirectory::open(&pki).unwrap().pin().unwrap();
    assert!(said.contains(&format!("the pin {pin}:")), "{said}");
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
    let said = done(&["cert", "revoke", serial], &pki);
    assert!(said.contains(serial) && said.contains("no accounts were told"), "{said}");
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

/// The actions that the audit log has, oldest first, each with what it says of it.
fn audit(config: &Path) -> Vec<(String, String)> {
    let output = corelane(&["audit", "--json", "-c", config.to_str().unwrap()]);
    assert!(output.status.success(), "{}", error_text(&output));
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut actions: Vec<_> =
        entries.iter().map(|entry| (text(&entry["action"]), text(&entry["detail"]))).collect();
    actions.reverse();
    actions
}

/// What the audit log says of a certificate.
fn audit_of(config: &Path, serial: &str) -> Vec<String> {
    let of_it = audit(config).into_iter().filter(|(_, detail)| detail.contains(serial));
    of_it.map(|(action, _)| action).collect()
}

#[test]
fn accounts_know_of_certificates_and_of_whom_they_are_for() {
    let directory = TempDir::new().unwrap();
    let etc = directory.path().join("etc");
    done(&["init", "vpn", "--address", "192.0.2.1"], &etc);
    let (pki, config, out) = (etc.join("pki"), etc.join("server.toml"), directory.path());
    let out_text = out.to_str().unwrap();

    let (code, message) = refused(&["cert", "issue", "alice", "--out", out_text], &pki);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("alice"), "{message}");
    assert!(list(&pki).iter().all(|issued| issued["user"].is_null()), "nothing was issued");
    assert!(!out.join("alice.key").exists());

    let added =
        corelane(&["user", "add", "alice", "--no-password", "-c", config.to_str().unwrap()]);
    assert!(added.status.success(), "{}", error_text(&added));
    let said = done(&["cert", "issue", "alice", "--out", out_text], &pki);
    assert!(said.contains("the accounts know of it"), "{said}");
    let serial = list(&pki).iter().find(|issued| issued["user"] == "alice").unwrap()["serial"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(audit_of(&config, &serial), ["certificate_issued"]);
    let said = done(&["cert", "revoke", "--user", "alice"], &pki);
    assert!(said.contains("the accounts know that it is revoked"), "{said}");
    assert_eq!(audit_of(&config, &serial), ["certificate_issued", "certificate_revoked"]);
    assert!(!is_believed(&pki, &out.join("alice.crt"), "sslclient"));

    // The accounts cannot be asked: it is revoked all the same, and the command says what is left.
    fs::remove_file(out.join("alice.crt")).unwrap();
    fs::remove_file(out.join("alice.key")).unwrap();
    done(&["cert", "issue", "alice", "--out", out_text], &pki);
    let kept = fs::read(&config).unwrap();
    fs::write(&config, "nonsense = ").unwrap();
    let (_, message) = refused(&["cert", "revoke", "--user", "alice"], &pki);
    assert!(message.contains("the accounts") && message.contains("do not know"), "{message}");
    assert!(!is_believed(&pki, &out.join("alice.crt"), "sslclient"));
    assert!(list(&pki).iter().all(|issued| issued["user"].is_null() || issued["state"] != "good"));
    fs::write(&config, kept).unwrap();
}

/// Servers that share a database hear of a revocation from it, whichever list they read; also of
/// a certificate that was issued before the accounts were told of any.
#[test]
fn a_revocation_reaches_a_server_that_shares_the_database() {
    let postgres = Postgres::start().unwrap();
    let database = postgres.database("accounts").unwrap();
    let directory = TempDir::new().unwrap();
    let etc = directory.path().join("etc");
    done(&["init", "vpn", "--address", "192.0.2.1"], &etc);
    let (pki, config) = (etc.join("pki"), etc.join("server.toml"));
    let moved: Vec<String> = fs::read_to_string(&config)
        .unwrap()
        .lines()
        .map(|line| match line.starts_with("database = ") {
            true => format!("database = {database:?}"),
            false => line.to_owned(),
        })
        .collect();
    fs::write(&config, moved.join("\n")).unwrap();
    let spool = directory.path().join("other.spool");
    let options = AccountsOptions::new(database.parse().unwrap(), spool, "other".parse().unwrap());
    let other = Accounts::open(options).unwrap();
    let ask = |operation| other.execute(&Actor::local(0), operation).unwrap();

    let added =
        corelane(&["user", "add", "alice", "--no-password", "-c", config.to_str().unwrap()]);
    assert!(added.status.success(), "{}", error_text(&added));
    done(&["cert", "issue", "alice", "--out", directory.path().to_str().unwrap()], &pki);
    let directly = PkiDirectory::open(&pki).unwrap();
    let validity = Validity::days(clock::unix_time(), 30);
    let alice = Purpose::User("alice".parse().unwrap());
    directly.issue(&alice, validity, &mut rand::rng()).unwrap();
    done(&["cert", "revoke", "--user", "alice"], &pki);
    wait_until(Duration::from_secs(10), "the other server to hear of it", || {
        let Outcome::Certificates(known) = ask(Operation::CertificateList { user: None }) else {
            return None;
        };
        let is_revoked = |known: &CertificateView| known.revoked.is_some();
        (known.len() == 2 && known.iter().all(is_revoked)).then_some(())
    })
    .unwrap();
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
