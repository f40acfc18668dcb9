//! Two servers on one PostgreSQL: what is good once is good once at both together.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::logins::{policy, totp_secret, unix_s};
use crate::accounts::credentials::totp;
use crate::accounts::refusal::{Refusal, RefusalCode};
use crate::accounts::secret::Secret;
use crate::accounts::service::testing::{Rig, by_password, from_device, name, secret};
use crate::accounts::service::{Grant, LoginAttempt};
use crate::accounts::store::DatabaseUrl;
use crate::accounts::store::testing::postgres_database;
use crate::handshake::keys::PublicKey;
use crate::lab::{Postgres, wait_until};
use crate::limits::{CLAIM_AGAIN_AFTER, CLAIM_WITHIN, TOTP_STEP_S};
use crate::sys::clock;

const SOON: Duration = Duration::from_secs(60);
const ROUNDS: u8 = 20;

fn two_servers(database: &DatabaseUrl) -> [Rig; 2] {
    ["here", "there"].map(|server| {
        Rig::with(|options| {
            options.database = database.clone();
            options.server = name(server);
            options.policy = policy(&["password", "token"]);
        })
    })
}

/// Waits until both servers know the same of a user: the code's secret, tokens, devices.
fn await_agreement(rigs: &[Rig; 2], user: &str) {
    let known = |rig: &Rig| {
        let state = rig.accounts.shared().state();
        let user = state.book.user_named(&name(user))?.clone();
        let (tokens, devices) = (state.book.tokens_of(user.id), state.book.devices_of(user.id));
        Some((tokens.count(), devices.count(), user))
    };
    let agree = || {
        let here = known(&rigs[0])?;
        (known(&rigs[1])? == here).then_some(())
    };
    wait_until(SOON, "the servers to agree", agree).unwrap();
}

fn invite(rig: &Rig, user: &str) -> Secret {
    let json = format!(
        r#"{{"operation":"token_create","user":"{user}","label":"x","scope":"invite",
            "expires_s":3600}}"#
    );
    rig.token(&json).token
}

fn with_code(user: &str, device: u8, code: &str) -> LoginAttempt {
    LoginAttempt { code: Some(secret(code)), ..by_password(user, device) }
}

fn with_token(device: u8, token: &Secret) -> LoginAttempt {
    LoginAttempt { token: Some(token.clone()), ..from_device(device) }
}

fn refused(outcome: Result<Grant, Refusal>) -> RefusalCode {
    outcome.unwrap_err().code
}

/// Shows the same at both servers at once, from two devices: one gets in, and one alone.
fn race(rigs: &[Rig; 2], round: u8, what: &str, attempt: impl Fn(u8) -> LoginAttempt) {
    let barrier = Barrier::new(rigs.len());
    let outcomes: Vec<_> = thread::scope(|scope| {
        let start = |(rig, device): (&Rig, u8)| {
            // From elsewhere each time: those who lose are not to be held back for it.
            let from = format!("198.51.{round}.{device}:4000").parse().unwrap();
            let attempt = LoginAttempt { from, ..attempt(device) };
            let (accounts, barrier) = (rig.accounts.clone(), &barrier);
            scope.spawn(move || {
                let (answer, outcome) = crossbeam_channel::bounded(1);
                barrier.wait();
                accounts.login(attempt, Box::new(move |granted| answer.send(granted).unwrap()));
                outcome.recv_timeout(SOON).unwrap()
            })
        };
        let racers: Vec<_> = rigs.iter().zip([1, 2]).map(start).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{what}: {lost:?}");
    lost.into_iter().for_each(|outcome| assert_eq!(refused(outcome), RefusalCode::Denied));
}

#[test]
fn of_two_servers_that_are_shown_one_code_or_invite_at_once_one_takes_it() {
    let rigs = two_servers(&postgres_database());
    for round in 0..ROUNDS {
        let user = format!("user{round}");
        rigs[0].add(&user);
        let set = rigs[0].totp(&user);
        let invite = invite(&rigs[0], &user);
        await_agreement(&rigs, &user);
        let code = totp::code_at(&totp_secret(set.address.expose()), unix_s());
        let recovery = set.recovery_codes[0].expose();
        race(&rigs, round, "a code", |device| LoginAttempt {
            device_key: PublicKey([round * 2 + device; 32]),
            ..with_code(&user, device, &code)
        });
        race(&rigs, round, "a recovery code", |device| LoginAttempt {
            device_key: PublicKey([100 + round * 2 + device; 32]),
            ..with_code(&user, device, recovery)
        });
        race(&rigs, round, "an invite", |device| LoginAttempt {
            device_key: PublicKey([200 + round * 2 + device; 32]),
            ..with_token(device, &invite)
        });
    }
}

#[test]
fn while_the_database_is_away_only_codes_of_known_devices_are_taken() {
    let mut postgres = Postgres::start().unwrap();
    let rigs = two_servers(&postgres.database("fleet").unwrap().parse().unwrap());
    let [here, there] = &rigs;
    here.add("alice");
    here.add("bob");
    let key = totp_secret(here.totp("alice").address.expose());
    let recovery = there.totp("bob").recovery_codes;
    let invite = invite(here, "alice");
    // Bob has no device yet, alice has.
    here.login(with_code("alice", 1, &totp::code_at(&key, unix_s() - TOTP_STEP_S))).unwrap();
    await_agreement(&rigs, "alice");
    await_agreement(&rigs, "bob");
    postgres.stop().unwrap();

    let code = totp::code_at(&key, unix_s());
    for rig in &rigs {
        let begun = clock::now();
        assert_eq!(refused(rig.login(with_token(5, &invite))), RefusalCode::Busy);
        let lost = with_code("bob", 3, recovery[0].expose());
        assert_eq!(refused(rig.login(lost)), RefusalCode::Busy);
        let unknown = rig.login(with_code("alice", 4, &code)).unwrap_err();
        assert_eq!(unknown.code, RefusalCode::Busy, "a device that nobody knows");
        assert!(unknown.retry_after.is_some() && unknown.message.contains("database is away"));
        assert!(clock::now() - begun < 3 * CLAIM_WITHIN + SOON / 6, "a bounded time");
    }
    here.login(with_code("alice", 1, &code)).unwrap();
    assert_eq!(refused(here.login(with_code("alice", 1, &code))), RefusalCode::Denied, "once");

    postgres.run().unwrap();
    let until = clock::now() + CLAIM_AGAIN_AFTER + SOON;
    while there.login(with_token(5, &invite)).is_err_and(|it| it.code == RefusalCode::Busy) {
        assert!(clock::now() < until, "the database is there again");
        thread::sleep(Duration::from_millis(100));
    }
    let elsewhere = refused(here.login(with_token(6, &invite)));
    assert_eq!(elsewhere, RefusalCode::Denied, "it is used up");
}

#[test]
fn a_database_that_is_silent_keeps_a_login_for_a_bounded_time() {
    let mut postgres = Postgres::start().unwrap();
    let rigs = two_servers(&postgres.database("fleet").unwrap().parse().unwrap());
    let [here, _there] = &rigs;
    here.add("alice");
    let key = totp_secret(here.totp("alice").address.expose());
    here.login(with_code("alice", 1, &totp::code_at(&key, unix_s() - TOTP_STEP_S))).unwrap();
    postgres.pause().unwrap();
    let begun = clock::now();
    here.login(with_code("alice", 1, &totp::code_at(&key, unix_s()))).unwrap();
    let waited = clock::now() - begun;
    assert!((CLAIM_WITHIN..4 * CLAIM_WITHIN).contains(&waited), "{waited:?}");
    let begun = clock::now();
    here.login(with_code("alice", 1, &totp::code_at(&key, unix_s() + TOTP_STEP_S))).unwrap();
    assert!(clock::now() - begun < CLAIM_WITHIN, "it is not asked again at once");
    postgres.resume().unwrap();
}
