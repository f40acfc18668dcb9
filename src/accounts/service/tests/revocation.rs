use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::accounts::model::{Certificate, SessionEnd, UnixMs};
use crate::accounts::operations::{Done, Operation, Outcome};
use crate::accounts::refusal::RefusalCode;
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::testing::{Rig, by_password, from_device, name};
use crate::accounts::service::{Grant, LoginAttempt, Notice, ShownCertificate};
use crate::limits::LEASES_LOOK_EVERY;

fn next(notices: &Receiver<Notice>) -> Notice {
    notices.recv_timeout(Duration::from_secs(60)).unwrap()
}

/// The next notice is that a session has ended.
fn ended(notices: &Receiver<Notice>, granted: &Grant, why: SessionEnd) {
    match next(notices) {
        Notice::SessionEnded { session, device_key, end, .. } => {
            assert_eq!((session, device_key, end), (granted.session, granted.device_key, why));
        }
        other => panic!("{other:?}"),
    }
}

fn done(outcome: Outcome) -> Done {
    match outcome {
        Outcome::Done(done) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_way_of_revoking_ends_the_sessions_that_rest_on_it_and_no_others() {
    let rig = Rig::new();
    let add_certificate = |serial: &str| Operation::CertificateAdd {
        certificate: Certificate {
            serial: serial.to_owned(),
            user: name("alice"),
            fingerprint: [7; 32],
            created: UnixMs(0),
            expires: UnixMs(i64::MAX),
            revoked: None,
        },
    };
    rig.add("alice");
    rig.add("bob");
    rig.run(add_certificate("0a")).unwrap();
    let token = rig.token(
        r#"{"operation":"token_create","user":"alice","label":"x","scope":"tunnel",
            "expires_s":null}"#,
    );
    let shown = ShownCertificate {
        serial: "0a".to_owned(),
        fingerprint: [7; 32],
        user: "alice".to_owned(),
        not_after: UnixMs(i64::MAX),
    };
    let bystander = rig.login(by_password("bob", 9)).unwrap();
    let by_certificate =
        rig.login(LoginAttempt { certificate: Some(shown), ..from_device(1) }).unwrap();
    let by_token =
        rig.login(LoginAttempt { token: Some(token.token.clone()), ..from_device(2) }).unwrap();
    let by_device = rig.login(by_password("alice", 3)).unwrap();
    let by_user = rig.login(by_password("alice", 4)).unwrap();
    let notices = rig.accounts.subscribe();
    let actor = {
        let notices = rig.accounts.subscribe();
        thread::spawn(move || notices.iter().for_each(drop))
    };
    // The device's name was taken, so it has a number.
    let device = Operation::DeviceRemove { user: name("alice"), device: name("laptop-3") };
    let table = [
        (Operation::CertificateRevoke { serial: "0a".to_owned() }, &by_certificate),
        (Operation::TokenRevoke { token: token.id }, &by_token),
        (device, &by_device),
        (Operation::UserDisable { name: name("alice") }, &by_user),
    ];
    for (operation, granted) in table {
        let said = format!("{operation:?}");
        // This test reads the notices of its own only afterwards, so it holds them unacknowledged.
        let taker = notices.clone();
        let granted = granted.clone();
        let taken = thread::spawn(move || ended(&taker, &granted, SessionEnd::Revoked));
        let outcome = done(rig.run(operation).unwrap());
        taken.join().unwrap();
        assert_eq!(outcome.sessions_ended, 1, "{said}");
        assert!(outcome.closed_ms.unwrap() < 1000.0, "{said}: {outcome:?}");
        assert!(outcome.stored, "{said}");
    }
    assert_eq!(rig.accounts.session_count(), 1);
    assert!(notices.is_empty());
    rig.run(Operation::UserEnable { name: name("alice") }).unwrap();
    assert!(rig.login(by_password("alice", 4)).is_ok());
    assert_eq!(bystander.user, name("bob"));
    let rig = { rig.reopened() };
    drop(notices);
    actor.join().unwrap();
    let token = LoginAttempt { token: Some(token.token), ..from_device(2) };
    assert_eq!(rig.login(token).unwrap_err().code, RefusalCode::Denied, "after a restart too");
}

/// A login of alice by a certificate that is good for so long.
fn by_certificate(device: u8, good_for: Duration) -> LoginAttempt {
    let shown = ShownCertificate {
        serial: format!("{device:02x}"),
        fingerprint: [7; 32],
        user: "alice".to_owned(),
        not_after: UnixMs(Moment::now().unix.0 + good_for.as_millis() as i64),
    };
    LoginAttempt { certificate: Some(shown), ..from_device(device) }
}

#[test]
fn a_session_ends_when_its_certificate_expires_and_no_lease_outlasts_it() {
    const HOUR: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_secs(2);
    let rig = Rig::with(|options| options.lease = HOUR);
    rig.add("alice");
    let begun = Moment::now().instant;
    let by_password = rig.login(by_password("alice", 1)).unwrap();
    let lasting = rig.login(by_certificate(2, 2 * HOUR)).unwrap();
    assert!(lasting.expires >= begun + HOUR, "a certificate that is good for long cuts nothing");
    let notices = rig.accounts.subscribe();
    let short = rig.login(by_certificate(3, SHORT)).unwrap();
    assert!(short.expires <= Moment::now().instant + SHORT);
    assert!(rig.renew(&short).unwrap() <= Moment::now().instant + SHORT, "nor does a renewed one");
    ended(&notices, &short, SessionEnd::CertificateExpired);
    let late = Moment::now().instant - begun;
    assert!(late < SHORT + 2 * LEASES_LOOK_EVERY + Duration::from_secs(2), "{late:?}");
    assert_eq!(rig.renew(&short).unwrap_err().code, RefusalCode::LeaseExpired);
    assert!(rig.renew(&by_password).is_ok() && rig.renew(&lasting).is_ok());
    let audit = rig.audit_text();
    let entry = audit.lines().find(|line| line.contains("session_end")).unwrap();
    for part in ["certificate_expired", "\"alice\"", "192.0.2.3", "certificate 03"] {
        assert!(entry.contains(part), "{part} in {entry}");
    }
    assert_eq!(audit.lines().filter(|line| line.contains("session_end")).count(), 1);
    let expired = rig.login(by_certificate(3, Duration::ZERO)).unwrap_err();
    assert_eq!(expired.code, RefusalCode::CertificateExpired);
    assert!(expired.message.contains("corelane cert issue"), "{}", expired.message);
}

#[test]
fn the_wall_clock_decides_when_a_certificate_has_expired_and_a_renewal_says_so() {
    let rig = Rig::new();
    rig.add("alice");
    let granted = rig.login(by_certificate(1, Duration::from_secs(3600))).unwrap();
    let now = Moment::now();
    let expired = Moment { unix: UnixMs(now.unix.0 + 3_600_000), ..now };
    let mut state = rig.accounts.shared().state();
    let live = state.live.get(&granted.session).unwrap();
    assert_eq!((state.overdue(live, now), state.fate(live, now.unix)), (None, None));
    let end = Some(SessionEnd::CertificateExpired);
    assert_eq!((state.overdue(live, expired), state.fate(live, expired.unix)), (end, end));
    let out = Moment { instant: live.expires, ..now };
    assert_eq!(state.overdue(live, out), Some(SessionEnd::Expired), "the clock was set back");
    state.live.get_mut(&granted.session).unwrap().certificate.as_mut().unwrap().not_after =
        now.unix;
    drop(state);
    // Whichever of the two comes first, the renewal or the look that is taken all the time.
    let code = rig.renew(&granted).unwrap_err().code;
    assert!([RefusalCode::CertificateExpired, RefusalCode::LeaseExpired].contains(&code), "{code}");
    assert_eq!(rig.accounts.session_count(), 0);
}

#[test]
fn a_kick_lets_the_device_come_back_and_removal_does_not() {
    let rig = Rig::new();
    rig.add("alice");
    let granted = rig.login(by_password("alice", 1)).unwrap();
    let notices = rig.accounts.subscribe();
    let acting = notices.clone();
    let actor = thread::spawn(move || acting.recv().map(|_| ()));
    rig.run(Operation::SessionKick { session: granted.session }).unwrap();
    actor.join().unwrap().unwrap();
    assert!(rig.run(Operation::SessionKick { session: granted.session }).is_err());
    let again = rig.login(by_password("alice", 1)).unwrap();
    let removed = thread::scope(|scope| {
        scope.spawn(|| ended(&notices, &again, SessionEnd::Revoked));
        rig.run(Operation::UserRemove { name: name("alice") }).unwrap()
    });
    assert_eq!(done(removed).sessions_ended, 1);
    assert_eq!(rig.login(by_password("alice", 1)).unwrap_err().code, RefusalCode::Denied);
    rig.add("alice");
    let anew = rig.login(by_password("alice", 1)).unwrap();
    assert_ne!(anew.device, again.device, "another user of the same name");
}

#[test]
fn one_who_never_acts_does_not_stop_the_administrator() {
    let rig = Rig::new();
    rig.add("alice");
    rig.login(by_password("alice", 1)).unwrap();
    let _never_read = rig.accounts.subscribe();
    let outcome = done(rig.run(Operation::UserDisable { name: name("alice") }).unwrap());
    assert_eq!((outcome.sessions_ended, outcome.closed_ms), (1, None));
}

#[test]
fn other_bounds_and_rules_reach_those_who_are_online() {
    let rig = Rig::new();
    rig.add("alice");
    rig.run_json(r#"{"operation":"group_add","name":"staff","limits":{"set":{"up_bps":5}}}"#);
    let granted = rig.login(by_password("alice", 1)).unwrap();
    assert_eq!(granted.bounds.up_bps, None);
    let notices = rig.accounts.subscribe();
    let changed = |expected: Option<u64>, rules: &[&str]| match next(&notices) {
        Notice::PolicyChanged { session, bounds, acl, .. } => {
            assert_eq!((session, bounds.up_bps), (granted.session, expected));
            assert_eq!(acl.iter().map(ToString::to_string).collect::<Vec<_>>(), rules);
        }
        other => panic!("{other:?}"),
    };
    for (json, up, rules) in [
        (r#"{"operation":"user_set","name":"alice","join":["staff"]}"#, Some(5), &[][..]),
        (
            r#"{"operation":"group_set","name":"staff","limits":{"acl":["allow 10.0.0.0/8"]}}"#,
            Some(5),
            &["allow 10.0.0.0/8"],
        ),
        (
            r#"{"operation":"user_set","name":"alice","limits":{"set":{"up_bps":9}}}"#,
            Some(9),
            &["allow 10.0.0.0/8"],
        ),
        (r#"{"operation":"group_remove","name":"staff"}"#, Some(9), &[]),
        (r#"{"operation":"user_set","name":"alice","limits":{"unset":["up"]}}"#, None, &[]),
    ] {
        thread::scope(|scope| {
            scope.spawn(|| changed(up, rules));
            rig.run_json(json);
        });
    }
    rig.run_json(r#"{"operation":"user_set","name":"alice"}"#);
    assert!(notices.is_empty(), "nothing has changed");
}
