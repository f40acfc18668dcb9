use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::accounts::credentials::demand::LoginPolicy;
use crate::accounts::model::{AuditEntry, Certificate, SessionEnd, UnixMs};
use crate::accounts::operations::{Operation, Outcome};
use crate::accounts::refusal::{Refusal, RefusalCode};
use crate::accounts::secret::Secret;
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::testing::{PASSWORD, Rig, name, secret};
use crate::accounts::service::{Notice, PassProof, ShownCertificate};

fn password(user: &str, password: &str) -> PassProof {
    PassProof::Password { user: user.to_owned(), password: secret(password) }
}

fn token_of(rig: &Rig, user: &str, scope: &str) -> Secret {
    let made = rig.token(&format!(
        r#"{{"operation":"token_create","user":"{user}","label":"x","scope":"{scope}",
            "expires_s":null}}"#
    ));
    made.token
}

fn next(notices: &Receiver<Notice>) -> Notice {
    notices.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn a_password_or_a_token_for_the_proxy_is_enough_and_nothing_else_is() {
    let rig = Rig::new();
    rig.add("alice");
    rig.add("bob");
    let (own, tunnel) = (token_of(&rig, "alice", "proxy"), token_of(&rig, "alice", "tunnel"));
    let good = [
        password("alice", PASSWORD),
        password("alice", own.expose()),
        PassProof::Token(own.clone()),
    ];
    for proof in good {
        assert_eq!(rig.pass(proof).unwrap().name.as_str(), "alice");
    }
    let bad = [
        password("alice", "wrong"),
        password("nobody", PASSWORD),
        password("", PASSWORD),
        password("bob", own.expose()),
        PassProof::Token(tunnel.clone()),
        password("alice", tunnel.expose()),
        PassProof::Token(secret("clane_wrong")),
        PassProof::Token(secret(PASSWORD)),
    ];
    let mut answers = Vec::new();
    // From one host, too many would have failed.
    for (host, proof) in (1..).zip(bad) {
        answers.push(rig.pass_from(host, proof).unwrap_err());
    }
    rig.run_json(r#"{"operation":"user_disable","name":"bob"}"#);
    answers.push(rig.pass(password("bob", PASSWORD)).unwrap_err());
    let first = answers[0].clone();
    assert_eq!(first.code, RefusalCode::Denied);
    assert!(answers.iter().all(|answer| *answer == first), "{answers:?}");
    assert!(rig.audit_text().contains("token that is not for the proxy"));
}

#[test]
fn who_has_codes_needs_a_token_and_so_does_everybody_where_a_password_is_too_little() {
    let rig = Rig::new();
    rig.add("alice");
    let held = rig.pass(password("alice", PASSWORD)).unwrap();
    rig.totp("alice");
    assert!(held.has_ended(), "it would not be issued any more");
    let code = |outcome: Result<_, Refusal>| outcome.map(drop).map_err(|refusal| refusal.code);
    assert_eq!(code(rig.pass(password("alice", PASSWORD))), Err(RefusalCode::Denied));
    let token = token_of(&rig, "alice", "proxy");
    assert_eq!(code(rig.pass(password("alice", token.expose()))), Ok(()));

    for (require, enough) in [("certificate", false), ("password+totp", false), ("password", true)]
    {
        let policy = LoginPolicy::new(vec![require.parse().unwrap()]);
        let rig = Rig::with(|options| options.policy = policy);
        rig.add("alice");
        let passed = rig.pass(password("alice", PASSWORD)).is_ok();
        assert_eq!(passed, enough, "{require}");
    }
}

#[test]
fn a_pass_ends_with_what_it_rests_on_and_others_stay() {
    let rig = Rig::new();
    for (said, by_token) in [
        (r#"{"operation":"user_disable","name":"alice"}"#, None),
        (
            r#"{"operation":"user_password","name":"alice","password":{"given":"another one"}}"#,
            Some(false),
        ),
        (r#"{"operation":"user_remove","name":"alice"}"#, None),
    ] {
        rig.add("alice");
        rig.add("bob");
        let token = token_of(&rig, "alice", "proxy");
        let by_password = rig.pass(password("alice", PASSWORD)).unwrap();
        let with_token = rig.pass(PassProof::Token(token)).unwrap();
        let bystander = rig.pass(password("bob", PASSWORD)).unwrap();
        rig.run_json(said);
        let ended = (by_password.has_ended(), with_token.has_ended(), bystander.has_ended());
        assert_eq!(ended, (true, by_token.is_none(), false), "{said}");
        rig.run_json(r#"{"operation":"user_remove","name":"bob"}"#);
        assert!(bystander.has_ended());
        if !said.contains("user_remove") {
            rig.run_json(r#"{"operation":"user_remove","name":"alice"}"#);
        }
    }
}

#[test]
fn a_token_that_is_revoked_ends_its_pass_and_whoever_revokes_waits_for_those_who_close() {
    let rig = Rig::new();
    rig.add("alice");
    let notices = rig.accounts.subscribe();
    let made = rig.token(
        r#"{"operation":"token_create","user":"alice","label":"x","scope":"proxy",
            "expires_s":null}"#,
    );
    let pass = rig.pass(PassProof::Token(made.token.clone())).unwrap();
    let closer = std::thread::spawn(move || match next(&notices) {
        Notice::PassEnded { pass, done } => {
            std::thread::sleep(Duration::from_millis(30));
            drop(done);
            pass.id
        }
        other => panic!("{other:?}"),
    });
    let said = format!(r#"{{"operation":"token_revoke","token":{}}}"#, made.id.0);
    let Outcome::Done(done) = rig.run_json(&said) else { panic!() };
    assert_eq!((done.sessions_ended, done.proxy_logins_ended), (0, 1));
    assert!(done.closed_ms.unwrap() >= 30.0, "{done:?}");
    assert!(pass.has_ended());
    assert_eq!(closer.join().unwrap(), pass.id);
    assert!(rig.pass(PassProof::Token(made.token)).is_err());
}

#[test]
fn other_bounds_and_rules_reach_the_pass_and_a_quota_ends_it() {
    let rig = Rig::new();
    rig.add("alice");
    let notices = rig.accounts.subscribe();
    let pass = rig.pass(password("alice", PASSWORD)).unwrap();
    rig.run_json(r#"{"operation":"user_set","name":"alice","limits":{"set":{"day_bytes":1000}}}"#);
    let changed = next(&notices);
    assert!(matches!(changed, Notice::PassChanged { .. }), "{changed:?}");
    assert_eq!(pass.terms().bounds.day_bytes, Some(1000));
    rig.accounts.add_proxy_usage(pass.user, 600, 399);
    assert!(!pass.has_ended());
    rig.accounts.add_proxy_usage(pass.user, 0, 1);
    let ended = next(&notices);
    assert!(matches!(ended, Notice::PassEnded { .. }) && pass.has_ended(), "{ended:?}");
    assert_eq!(pass.end(), Some(SessionEnd::QuotaExceeded));
    let refusal = rig.pass(password("alice", PASSWORD)).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::QuotaExceeded);

    let stats = r#"{"operation":"stats","user":"alice","since_s":86400,"by":"user"}"#;
    let Outcome::Usage(usage) = rig.run_json(stats) else { panic!() };
    assert_eq!((usage[0].sent_bytes, usage[0].received_bytes), (600, 400));
    let rig = rig.reopened();
    let Outcome::Usage(usage) = rig.run_json(stats) else { panic!() };
    assert_eq!((usage[0].sent_bytes, usage[0].received_bytes), (600, 400), "after a restart");
}

#[test]
fn whoever_has_used_a_quota_up_is_told_of_by_name_if_that_was_proved() {
    let rig = Rig::new();
    rig.add("alice");
    let token = token_of(&rig, "alice", "proxy");
    rig.run_json(r#"{"operation":"user_set","name":"alice","limits":{"set":{"day_bytes":1000}}}"#);
    let notices = rig.accounts.subscribe();
    let pass = rig.pass(password("alice", PASSWORD)).unwrap();
    rig.accounts.add_proxy_usage(pass.user, 600, 400);
    assert!(matches!(next(&notices), Notice::PassEnded { .. }));
    for (proof, code, user) in [
        (password("alice", PASSWORD), RefusalCode::QuotaExceeded, Some(name("alice"))),
        (PassProof::Token(token), RefusalCode::QuotaExceeded, Some(name("alice"))),
        (password("alice", "wrong"), RefusalCode::Denied, None),
    ] {
        let refusal = rig.pass(proof).unwrap_err();
        assert_eq!((refusal.code, refusal.user), (code, user));
    }
    let audit = rig.audit_text();
    let entries = audit.lines().map(|line| serde_json::from_str::<AuditEntry>(line).unwrap());
    let logins = entries.filter(|entry| entry.action == "proxy_login");
    let told: Vec<_> = logins.map(|entry| format!("{} {}", entry.subject, entry.outcome)).collect();
    assert_eq!(told, ["alice quota_exceeded", "alice quota_exceeded", "alice denied"]);
}

#[test]
fn guessing_at_the_proxy_has_to_wait_as_at_the_login() {
    let rig = Rig::new();
    rig.add("alice");
    let mut codes = Vec::new();
    while codes.last() != Some(&RefusalCode::TooManyFailures) {
        codes.push(rig.pass(password("alice", "wrong")).unwrap_err().code);
        assert!(codes.len() < 100, "{codes:?}");
    }
    let right = rig.pass(password("alice", PASSWORD)).unwrap_err();
    assert!(right.retry_after.is_some(), "{right:?}");
}

/// Has the accounts list a certificate.
fn list(rig: &Rig, user: &str, serial: &str, expires: UnixMs) {
    let certificate = Certificate {
        serial: serial.to_owned(),
        user: name(user),
        fingerprint: [7; 32],
        created: UnixMs(0),
        expires,
        revoked: None,
    };
    rig.run(Operation::CertificateAdd { certificate }).unwrap();
}

fn certificate(user: &str, serial: &str, with: Option<PassProof>) -> PassProof {
    let shown = ShownCertificate {
        serial: serial.to_owned(),
        fingerprint: [7; 32],
        user: user.to_owned(),
        not_after: UnixMs(i64::MAX),
    };
    PassProof::Certificate { shown: Box::new(shown), with: with.map(Box::new) }
}

#[test]
fn a_listed_certificate_shows_who_somebody_is_and_no_other_does() {
    let rig = Rig::new();
    rig.add("alice");
    rig.add("bob");
    list(&rig, "alice", "0a", UnixMs(i64::MAX));
    let past = UnixMs(Moment::now().unix.0 - 1000);
    list(&rig, "alice", "0b", past);
    let own = token_of(&rig, "alice", "proxy");
    for with in [None, Some(password("alice", PASSWORD)), Some(PassProof::Token(own))] {
        let pass = rig.pass(certificate("alice", "0a", with)).unwrap();
        assert_eq!(pass.name.as_str(), "alice");
    }
    let other = |proof: PassProof| match proof {
        PassProof::Certificate { mut shown, with } => {
            shown.fingerprint = [8; 32];
            PassProof::Certificate { shown, with }
        }
        other => other,
    };
    for (what, proof) in [
        ("not listed", certificate("alice", "0c", None)),
        ("another one with that number", other(certificate("alice", "0a", None))),
        ("of somebody else", certificate("bob", "0a", None)),
        ("expired", certificate("alice", "0b", None)),
        ("with a wrong password", certificate("alice", "0a", Some(password("alice", "wrong")))),
        ("proofs of two", certificate("alice", "0a", Some(password("bob", PASSWORD)))),
    ] {
        assert_eq!(rig.pass(proof).unwrap_err().code, RefusalCode::Denied, "{what}");
    }
    // One that is not listed takes nothing away from a password.
    let beside = certificate("machine-7", "0c", Some(password("alice", PASSWORD)));
    assert_eq!(rig.pass(beside).unwrap().name.as_str(), "alice");
    let audit = rig.audit_text();
    assert!(audit.contains("proofs of two users") && audit.contains("expired certificate"));
    assert!(!audit.contains("unlisted certificate"), "nobody has failed who is asked for more");
}

#[test]
fn a_certificate_is_as_much_as_the_server_wants_to_see() {
    for (require, alone, with_password) in [
        ("certificate", true, true),
        ("certificate+password", false, true),
        ("certificate+password+totp", false, false),
        ("certificate+token", false, false),
        ("password", false, true),
        ("token", false, false),
    ] {
        let policy = LoginPolicy::new(vec![require.parse().unwrap()]);
        let rig = Rig::with(|options| options.policy = policy);
        rig.add("alice");
        list(&rig, "alice", "0a", UnixMs(i64::MAX));
        let is_enough = |with| rig.pass(certificate("alice", "0a", with)).is_ok();
        assert_eq!(is_enough(None), alone, "{require}");
        let password = password("alice", PASSWORD);
        assert_eq!(is_enough(Some(password.clone())), with_password, "{require}");
        if require.starts_with("certificate") {
            assert!(rig.pass(password).is_err(), "{require}: without the certificate");
        }
        let token = token_of(&rig, "alice", "proxy");
        assert!(is_enough(Some(PassProof::Token(token))), "{require}: such a token always is");
    }
    // Who has codes is asked for one with a password, and cannot be here; not with a certificate.
    let rig = Rig::new();
    rig.add("alice");
    list(&rig, "alice", "0a", UnixMs(i64::MAX));
    rig.totp("alice");
    assert!(rig.pass(password("alice", PASSWORD)).is_err());
    assert!(rig.pass(certificate("alice", "0a", None)).is_ok());
}

#[test]
fn a_certificate_that_is_revoked_or_runs_out_ends_what_rests_on_it() {
    let rig = Rig::new();
    rig.add("alice");
    list(&rig, "alice", "0a", UnixMs(i64::MAX));
    list(&rig, "alice", "0b", UnixMs(Moment::now().unix.0 + 60_000));
    let alone = rig.pass(certificate("alice", "0a", None)).unwrap();
    let both = rig.pass(certificate("alice", "0a", Some(password("alice", PASSWORD)))).unwrap();
    let other = rig.pass(certificate("alice", "0b", None)).unwrap();
    assert!(alone.expires > other.expires);
    rig.run_json(
        r#"{"operation":"user_password","name":"alice","password":{"given":"another one"}}"#,
    );
    assert_eq!((alone.has_ended(), both.has_ended(), other.has_ended()), (false, true, false));
    rig.run_json(r#"{"operation":"certificate_revoke","serial":"0a"}"#);
    assert_eq!((alone.has_ended(), other.has_ended()), (true, false));
    assert!(rig.pass(certificate("alice", "0a", None)).is_err());
    assert!(rig.pass(certificate("alice", "0b", None)).is_ok(), "which was not revoked");
    rig.run_json(r#"{"operation":"user_disable","name":"alice"}"#);
    assert!(other.has_ended());
}
