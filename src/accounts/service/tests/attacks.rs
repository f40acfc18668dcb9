use std::net::IpAddr;
use std::time::Duration;

use crate::accounts::credentials::backoff::{Claimant, LoginSource};
use crate::accounts::refusal::RefusalCode;
use crate::accounts::service::LoginAttempt;
use crate::accounts::service::testing::{Rig, by_password, from_device, name, secret};
use crate::limits::FAILURES_FREE;
use crate::sys::clock;

fn wrong(user: &str, from: &str) -> LoginAttempt {
    LoginAttempt {
        from: from.parse().unwrap(),
        password: Some(secret("wrong horse")),
        ..by_password(user, 200)
    }
}

/// Fails from there in that name, each time as soon as it may, until it has to wait for minutes.
fn fail_often(rig: &Rig, user: &str, from: &str) {
    let claimant = Claimant {
        source: LoginSource::from(from.parse::<IpAddr>().unwrap()),
        user: Some(name(user)),
        known_device: None,
        known_source: false,
    };
    let mut state = rig.accounts.shared().state();
    let mut now = clock::now();
    for _ in 0..2 * FAILURES_FREE + 10 {
        match state.backoff.begin(&claimant, now) {
            Ok(_failed) => {}
            Err(wait) => now += wait,
        }
    }
}

#[test]
fn a_guesser_is_told_to_wait_and_users_get_in_all_the_same() {
    let rig = Rig::new();
    rig.add("alice");
    rig.add("bob");
    let granted = rig.login(by_password("alice", 1)).unwrap();
    let denied = rig.login(wrong("alice", "203.0.113.9:1")).unwrap_err();
    assert_eq!((denied.code, denied.retry_after), (RefusalCode::Denied, None));
    fail_often(&rig, "alice", "203.0.113.9");
    let told = rig.login(wrong("alice", "203.0.113.9:1")).unwrap_err();
    assert_eq!(told.code, RefusalCode::TooManyFailures);
    assert!(told.retry_after.unwrap() >= Duration::from_secs(60));
    let right = LoginAttempt { from: "203.0.113.9:1".parse().unwrap(), ..by_password("bob", 9) };
    let told = rig.login(right).unwrap_err();
    assert_eq!(told.code, RefusalCode::TooManyFailures, "whoever the source claims to be");

    // It failed in her name: she still gets in with her device, and from where she was.
    let elsewhere = "203.0.113.77:1".parse().unwrap();
    let known_device = LoginAttempt { from: elsewhere, ..by_password("alice", 1) };
    assert_eq!(rig.login(known_device).unwrap().device, granted.device);
    let new_device =
        LoginAttempt { from: "192.0.2.1:9".parse().unwrap(), ..by_password("alice", 3) };
    assert!(rig.login(new_device).is_ok(), "a source that she came from");
    let unknown =
        LoginAttempt { from: "203.0.113.78:1".parse().unwrap(), ..by_password("alice", 4) };
    assert_eq!(rig.login(unknown).unwrap_err().code, RefusalCode::TooManyFailures);
    let invite = rig.token(
        r#"{"operation":"token_create","user":"alice","label":"","scope":"invite",
            "expires_s":60}"#,
    );
    let invited = LoginAttempt {
        from: "203.0.113.79:1".parse().unwrap(),
        token: Some(invite.token),
        ..from_device(5)
    };
    assert!(rig.login(invited).is_ok(), "an invite gets her in from anywhere");
}

#[test]
fn guessing_tokens_slows_the_guesser_down() {
    let rig = Rig::new();
    rig.add("alice");
    let guess = |number: u32| LoginAttempt {
        token: Some(secret(&format!("clane_{number:043}"))),
        ..from_device(1)
    };
    let outcomes: Vec<_> =
        (0..20).map(|number| rig.login(guess(number)).unwrap_err().code).collect();
    let denied = outcomes.iter().filter(|code| **code == RefusalCode::Denied).count();
    // A busy machine may let a pause of a second go by meanwhile.
    assert!((FAILURES_FREE as usize..FAILURES_FREE as usize + 5).contains(&denied), "{denied}");
}

#[test]
fn a_storm_of_logins_is_answered_to_the_last_one_and_those_beyond_the_queue_at_once() {
    let rig = Rig::new();
    rig.add("alice");
    let (answer, outcomes) = crossbeam_channel::unbounded();
    const LOGINS: u16 = 3000;
    let start = clock::now();
    for number in 0..LOGINS {
        let [high, low] = number.to_be_bytes();
        let attempt = wrong("alice", &format!("10.1.{high}.{low}:1"));
        let answer = answer.clone();
        rig.accounts.login(attempt, Box::new(move |outcome| answer.send(outcome).unwrap()));
    }
    let handed_in = clock::now().duration_since(start);
    for _ in 0..LOGINS {
        let refusal = outcomes.recv_timeout(Duration::from_secs(60)).unwrap().unwrap_err();
        let expected = [RefusalCode::Denied, RefusalCode::Busy, RefusalCode::TooManyFailures];
        assert!(expected.contains(&refusal.code), "{refusal:?}");
    }
    assert!(outcomes.is_empty());
    assert!(handed_in < Duration::from_secs(5), "{handed_in:?} for handing in");
}

#[test]
fn a_refusal_names_nobody_who_may_have_typed_a_password_for_a_name() {
    let rig = Rig::new();
    let _ = rig.login(by_password("my secret password!", 1));
    let _ = rig.login(by_password("mallory", 2));
    let audit = rig.audit_text();
    assert!(!audit.contains("my secret"), "{audit}");
    assert!(audit.contains("(no name)") && audit.contains("mallory"), "{audit}");
}
