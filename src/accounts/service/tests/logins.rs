use std::time::Duration;

use crate::accounts::credentials::password::{self, HashCost};
use crate::accounts::credentials::{demand::LoginPolicy, totp};
use crate::accounts::model::{Certificate, SessionEnd, UnixMs};
use crate::accounts::operations::{NewPassword, Operation, Outcome};
use crate::accounts::refusal::RefusalCode;
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::testing::{Rig, by_password, from_device, name, secret};
use crate::accounts::service::{Accounts, AccountsOptions, LoginAttempt, Notice, ShownCertificate};
use crate::limits::TOTP_STEP_S;

pub(super) fn policy(alternatives: &[&str]) -> LoginPolicy {
    LoginPolicy::new(alternatives.iter().map(|text| text.parse().unwrap()).collect())
}

fn certificate(user: &str, serial: &str) -> ShownCertificate {
    ShownCertificate {
        serial: serial.to_owned(),
        fingerprint: [7; 32],
        user: user.to_owned(),
        not_after: UnixMs(i64::MAX),
    }
}

fn code(rig: &Rig, attempt: LoginAttempt) -> Result<(), RefusalCode> {
    rig.login(attempt).map(drop).map_err(|refusal| refusal.code)
}

/// The secret in an `otpauth://` address.
pub(super) fn totp_secret(address: &str) -> Vec<u8> {
    let text = address.split("secret=").nth(1).unwrap().split('&').next().unwrap();
    totp_rs::Secret::try_from_base32(text).unwrap().as_bytes().to_vec()
}

pub(super) fn unix_s() -> u64 {
    Moment::now().unix.0 as u64 / 1000
}

#[test]
fn a_password_opens_a_session_with_addresses_that_the_device_keeps() {
    let rig = Rig::new();
    rig.add("alice");
    let first = rig.login(by_password("alice", 1)).unwrap();
    assert_eq!(first.user, name("alice"));
    assert_eq!(first.ipv4, Some("10.9.0.2".parse().unwrap()));
    assert_eq!(first.ipv6, Some("fd09::1".parse().unwrap()));
    let other = rig.login(by_password("alice", 2)).unwrap();
    assert_ne!(other.ipv4, first.ipv4);
    let again = rig.login(by_password("alice", 1)).unwrap();
    assert_eq!((again.ipv4, again.device), (first.ipv4, first.device));
    assert_ne!(again.session, first.session);
    assert_eq!(rig.accounts.session_count(), 2);

    let rig = rig.reopened();
    assert_eq!(rig.accounts.session_count(), 0);
    let later = rig.login(by_password("alice", 1)).unwrap();
    assert_eq!((later.ipv4, later.ipv6), (first.ipv4, first.ipv6));
    let audit = rig.audit_text();
    assert_eq!(audit.lines().filter(|line| line.contains("\"login\"")).count(), 4, "{audit}");
}

#[test]
fn who_cannot_prove_who_he_is_is_told_the_same_whatever_is_wrong() {
    let rig = Rig::new();
    rig.add("alice");
    rig.add("bob");
    rig.run(Operation::UserDisable { name: name("bob") }).unwrap();
    let wrong = LoginAttempt { password: Some(secret("wrong horse")), ..by_password("alice", 1) };
    let refusal = rig.login(wrong).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Denied);
    let token = secret("clane_AAAA");
    for attempt in [
        by_password("nobody", 2),
        by_password("bob", 3),
        by_password("", 4),
        by_password("a'; DROP TABLE users; --", 5),
        by_password(&"n".repeat(255), 6),
        by_password("alice\0", 7),
        LoginAttempt { token: Some(token), ..from_device(8) },
        LoginAttempt { certificate: Some(certificate("nobody", "1")), ..from_device(9) },
        LoginAttempt { certificate: Some(certificate("bob", "1")), ..by_password("alice", 10) },
        LoginAttempt { user: None, ..by_password("alice", 11) },
    ] {
        let said = format!("{attempt:?}");
        assert_eq!(rig.login(attempt).unwrap_err(), refusal, "{said}");
    }
    let audit = rig.audit_text();
    for reason in ["wrong password", "unknown user", "disabled user", "unknown token"] {
        assert!(audit.contains(reason), "{reason}: {audit}");
    }
    assert!(!audit.contains("DROP TABLE"), "{audit}");
    assert!(code(&rig, by_password("alice", 1)).is_ok());
}

#[test]
fn a_policy_of_several_proofs_wants_all_of_one_alternative() {
    let rig = Rig::with(|options| {
        options.policy = policy(&["certificate+password", "password+totp", "token"]);
    });
    rig.add("alice");
    let alone = rig.login(by_password("alice", 1)).unwrap_err();
    assert_eq!(alone.code, RefusalCode::CodeNeeded);
    let with_certificate =
        LoginAttempt { certificate: Some(certificate("alice", "1")), ..by_password("alice", 1) };
    assert_eq!(code(&rig, with_certificate.clone()), Ok(()));
    let wrong = LoginAttempt { password: Some(secret("wrong horse")), ..with_certificate };
    assert_eq!(code(&rig, wrong), Err(RefusalCode::Denied));
    let only_certificate =
        LoginAttempt { certificate: Some(certificate("alice", "1")), ..from_device(1) };
    let too_little = rig.login(only_certificate).unwrap_err();
    assert_eq!(too_little.code, RefusalCode::Denied);
    assert!(too_little.message.contains("certificate+password or password+totp or token"));

    let rig = Rig::with(|options| options.policy = policy(&["certificate"]));
    rig.add("alice");
    for attempt in [by_password("alice", 1), by_password("nobody", 1), from_device(1)] {
        assert_eq!(code(&rig, attempt), Err(RefusalCode::CertificateNeeded));
    }
}

#[test]
fn a_code_is_taken_once_and_a_recovery_code_in_its_place_once() {
    let rig = Rig::new();
    rig.add("alice");
    let set = rig.totp("alice");
    let secret_bytes = totp_secret(set.address.expose());
    let with = |text: &str, device| LoginAttempt {
        code: Some(secret(text)),
        ..by_password("alice", device)
    };
    assert_eq!(code(&rig, by_password("alice", 1)), Err(RefusalCode::CodeNeeded));
    // A step may end between making a code and its use; the next one is good, too.
    let now = totp::code_at(&secret_bytes, unix_s());
    assert_eq!(code(&rig, with(&now, 1)), Ok(()));
    assert_eq!(code(&rig, with(&now, 2)), Err(RefusalCode::Denied), "replayed");
    assert!(rig.audit_text().contains("a code that was used before"));
    let next = totp::code_at(&secret_bytes, unix_s() + TOTP_STEP_S);
    assert_eq!(code(&rig, with(&next, 2)), Ok(()));
    let recovery = set.recovery_codes[3].expose();
    assert_eq!(code(&rig, with(recovery, 3)), Ok(()));
    assert_eq!(code(&rig, with(recovery, 4)), Err(RefusalCode::Denied));

    let rig = rig.reopened();
    assert_eq!(code(&rig, with(&next, 5)), Err(RefusalCode::Denied), "after a restart");
    assert_eq!(code(&rig, with(recovery, 6)), Err(RefusalCode::Denied));
    assert_eq!(code(&rig, with(set.recovery_codes[4].expose(), 7)), Ok(()));
    rig.run(Operation::UserTotpOff { name: name("alice") }).unwrap();
    assert_eq!(code(&rig, by_password("alice", 8)), Ok(()));
}

#[test]
fn a_login_while_the_clock_was_wrong_does_not_lock_a_user_out() {
    let rig = Rig::new();
    rig.add("alice");
    let secret_bytes = totp_secret(rig.totp("alice").address.expose());
    {
        // As after a login at a clock that is a year ahead.
        let shared = rig.accounts.shared();
        let mut state = shared.state();
        let user = state.book().user_named(&name("alice")).unwrap().id;
        let step = (unix_s() / TOTP_STEP_S) as i64 + 1_000_000;
        let change = crate::accounts::change::Change::TotpUsed { user, step };
        shared.make(&mut state, &[change], Moment::now());
    }
    let now = secret(&totp::code_at(&secret_bytes, unix_s()));
    let attempt = LoginAttempt { code: Some(now), ..by_password("alice", 1) };
    assert_eq!(code(&rig, attempt.clone()), Ok(()));
    assert_eq!(code(&rig, attempt), Err(RefusalCode::Denied), "nor is a replay taken");
}

#[test]
fn an_invite_works_once_and_leaves_a_token_that_only_its_device_can_use() {
    let rig = Rig::new();
    let add =
        Operation::UserAdd { name: name("alice"), groups: [].into(), password: NewPassword::None };
    rig.run(add).unwrap();
    let invite = rig.token(
        r#"{"operation":"token_create","user":"alice","label":"invite","scope":"invite",
            "expires_s":3600}"#,
    );
    let redeem = LoginAttempt { token: Some(invite.token.clone()), ..from_device(1) };
    let granted = rig.login(redeem.clone()).unwrap();
    let own = granted.device_token.unwrap();
    let again = LoginAttempt { token: Some(invite.token), ..from_device(2) };
    assert_eq!(code(&rig, again), Err(RefusalCode::Denied));
    assert_eq!(code(&rig, redeem), Err(RefusalCode::Denied), "not even from the same device");
    let with_own = LoginAttempt { token: Some(own.clone()), ..from_device(1) };
    let granted = rig.login(with_own).unwrap();
    assert!(granted.device_token.is_none());
    let stolen = LoginAttempt { token: Some(own), ..from_device(3) };
    assert_eq!(code(&rig, stolen), Err(RefusalCode::Denied));
    assert!(rig.audit_text().contains("token of another device"));
}

#[test]
fn tokens_have_scopes_and_end() {
    let rig = Rig::new();
    rig.add("alice");
    let create = |scope: &str, expires: &str| {
        rig.token(&format!(
            r#"{{"operation":"token_create","user":"alice","label":"x","scope":"{scope}",
                "expires_s":{expires}}}"#
        ))
    };
    let try_token = |token: &crate::accounts::operations::TokenMade, device| {
        code(&rig, LoginAttempt { token: Some(token.token.clone()), ..from_device(device) })
    };
    let lasting = create("tunnel", "null");
    assert_eq!(try_token(&lasting, 1), Ok(()));
    assert_eq!(try_token(&lasting, 2), Ok(()), "as often as wanted");
    assert_eq!(try_token(&create("proxy", "null"), 3), Err(RefusalCode::Denied));
    assert_eq!(try_token(&create("tunnel", "0"), 4), Err(RefusalCode::Denied), "expired");
    for bad in [r#""scope":"device","expires_s":null"#, r#""scope":"invite","expires_s":null"#] {
        let json = format!(r#"{{"operation":"token_create","user":"alice","label":"x",{bad}}}"#);
        assert!(rig.run(serde_json::from_str(&json).unwrap()).is_err(), "{bad}");
    }
    let Outcome::Tokens(tokens) = rig.run_json(r#"{"operation":"token_list","user":null}"#) else {
        panic!("no tokens");
    };
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().any(|token| token.last_used.is_some()));
}

#[test]
fn a_listed_certificate_has_to_be_the_very_one_and_in_force() {
    let rig = Rig::new();
    rig.add("alice");
    let listed = |serial: &str, fingerprint, expires: i64| Operation::CertificateAdd {
        certificate: Certificate {
            serial: serial.to_owned(),
            user: name("alice"),
            fingerprint,
            created: UnixMs(0),
            expires: UnixMs(expires),
            revoked: None,
        },
    };
    rig.run(listed("01", [7; 32], i64::MAX)).unwrap();
    rig.run(listed("02", [8; 32], i64::MAX)).unwrap();
    rig.run(listed("03", [7; 32], 1)).unwrap();
    let show = |serial: &str, device| {
        let certificate = Some(certificate("alice", serial));
        code(&rig, LoginAttempt { certificate, ..from_device(device) })
    };
    assert_eq!(show("01", 1), Ok(()));
    assert_eq!(show("02", 2), Err(RefusalCode::Denied), "another fingerprint");
    assert_eq!(show("03", 3), Err(RefusalCode::CertificateExpired));
    assert_eq!(show("99", 4), Ok(()), "of the same CA, but issued elsewhere");
    rig.run(Operation::CertificateRevoke { serial: "01".to_owned() }).unwrap();
    assert_eq!(show("01", 1), Err(RefusalCode::Denied));
}

#[test]
fn a_lease_is_renewed_and_ends_when_it_is_not() {
    let lease = Duration::from_millis(700);
    let rig = Rig::with(|options| options.lease = lease);
    rig.add("alice");
    let notices = rig.accounts.subscribe();
    let granted = rig.login(by_password("alice", 1)).unwrap();
    let (answer, renewed) = crossbeam_channel::bounded(1);
    rig.accounts.renew(granted.session, Box::new(move |until| answer.send(until).unwrap()));
    let until = renewed.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    assert!(until > granted.expires);
    let notice = notices.recv_timeout(Duration::from_secs(60)).unwrap();
    let Notice::SessionEnded { session, end, .. } = notice else { panic!("{notice:?}") };
    assert_eq!((session, end), (granted.session, SessionEnd::Expired));
    let (answer, refused) = crossbeam_channel::bounded(1);
    rig.accounts.renew(granted.session, Box::new(move |until| answer.send(until).unwrap()));
    let refused = refused.recv_timeout(Duration::from_secs(60)).unwrap().unwrap_err();
    assert_eq!(refused.code, RefusalCode::LeaseExpired);
    assert!(rig.login(by_password("alice", 1)).is_ok(), "and the password still works");
}

#[test]
fn a_password_that_was_hashed_at_a_lower_cost_is_hashed_anew_at_a_login() {
    let rig = Rig::new();
    rig.add("alice");
    let Rig { accounts, directory, .. } = rig;
    drop(accounts);
    let dearer = HashCost { memory_kib: 16, passes: 2 };
    let options = || AccountsOptions { hash_cost: dearer, ..Rig::options(&directory) };
    let accounts = Accounts::open(options()).unwrap();
    let log_in = |accounts: &Accounts, attempt| {
        let (answer, outcome) = crossbeam_channel::bounded(1);
        accounts.login(attempt, Box::new(move |granted| answer.send(granted).unwrap()));
        outcome.recv_timeout(Duration::from_secs(60)).unwrap()
    };
    let hash = |accounts: &Accounts| {
        let state = accounts.shared().state();
        state.book().user_named(&name("alice")).unwrap().password.clone().unwrap()
    };
    let cheap = hash(&accounts);
    let wrong = LoginAttempt { password: Some(secret("wrong horse")), ..by_password("alice", 1) };
    assert!(log_in(&accounts, wrong).is_err());
    assert_eq!(hash(&accounts), cheap, "a wrong password changes nothing");
    log_in(&accounts, by_password("alice", 1)).unwrap();
    let dear = hash(&accounts);
    assert!(password::is_cheaper(&cheap, dearer) && !password::is_cheaper(&dear, dearer));
    log_in(&accounts, by_password("alice", 1)).unwrap();
    assert_eq!(hash(&accounts), dear, "once");
    drop(accounts);
    let accounts = Accounts::open(options()).unwrap();
    assert_eq!(hash(&accounts), dear, "it is stored");
    log_in(&accounts, by_password("alice", 1)).unwrap();
}
