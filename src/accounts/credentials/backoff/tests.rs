use super::*;
use crate::sys::clock;

fn source(text: &str) -> LoginSource {
    text.parse::<IpAddr>().unwrap().into()
}

fn stranger(at: &str, user: &str) -> Claimant {
    Claimant {
        source: source(at),
        user: Some(user.parse().unwrap()),
        known_device: None,
        known_source: false,
    }
}

/// Fails once.
fn fail(backoff: &mut Backoff, claimant: &Claimant, now: Instant) -> Result<(), Duration> {
    backoff.begin(claimant, now).map(drop)
}

#[test]
fn pauses_truth_table() {
    let s = Duration::from_secs;
    let table = [
        /* 1: free       */ (0, s(0)),
        /* 2             */ (4, s(0)),
        /* 3: the first  */ (5, s(1)),
        /* 4: doubled    */ (6, s(2)),
        /* 5             */ (13, s(256)),
        /* 6: the longest*/ (14, s(300)),
        /* 7             */ (36, s(300)),
        /* 8             */ (37, s(300)),
        /* 9             */ (u32::MAX, s(300)),
    ];
    for (number, (failures, pause)) in (1..).zip(table) {
        assert_eq!(pause_after(failures), pause, "row {number}");
    }
}

#[test]
fn sources_are_networks_of_one_customer() {
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
}

#[test]
fn a_source_that_guesses_waits_ever_longer_whoever_it_claims_to_be() {
    let mut backoff = Backoff::default();
    let mut now = clock::now();
    let mut tries = 0;
    let end = now + Duration::from_secs(24 * 3600);
    while now < end {
        let user = format!("user{tries}");
        match fail(&mut backoff, &stranger("192.0.2.1", &user), now) {
            Ok(()) => tries += 1,
            Err(wait) => now += wait,
        }
    }
    assert!((250..320).contains(&tries), "{tries} guesses a day");
}

#[test]
fn many_tries_at_once_gain_nothing() {
    let mut backoff = Backoff::default();
    let now = clock::now();
    let begun = (0..100).filter(|_| fail(&mut backoff, &stranger("::1", "a"), now).is_ok()).count();
    assert_eq!(begun, FAILURES_FREE as usize);
}

#[test]
fn what_succeeds_costs_nothing() {
    let mut backoff = Backoff::default();
    let now = clock::now();
    for _ in 0..1000 {
        let charge = backoff.begin(&stranger("192.0.2.1", "alice"), now).unwrap();
        backoff.give_back(charge);
    }
    assert!(backoff.sources.younger.is_empty() && backoff.users.younger.is_empty());
}

#[test]
fn a_success_of_ones_own_does_not_buy_guesses_at_others() {
    let mut backoff = Backoff::default();
    let now = clock::now();
    let mut guesses = 0;
    for _ in 0..100 {
        if let Ok(charge) = backoff.begin(&stranger("192.0.2.1", "mallory"), now) {
            backoff.give_back(charge);
        }
        guesses += u32::from(fail(&mut backoff, &stranger("192.0.2.1", "alice"), now).is_ok());
    }
    assert_eq!(guesses, FAILURES_FREE);
}

#[test]
fn nobody_locks_a_user_out_of_a_known_device_or_from_a_known_source() {
    let mut backoff = Backoff::default();
    let now = clock::now();
    for number in 0..10_000 {
        let at = format!("198.51.{}.{}", number / 256, number % 256);
        let _ = fail(&mut backoff, &stranger(&at, "alice"), now);
    }
    let elsewhere = stranger("192.0.2.1", "alice");
    assert!(fail(&mut backoff, &elsewhere, now).is_err(), "the name is under attack");
    let at_home = Claimant { known_source: true, ..elsewhere.clone() };
    assert!(fail(&mut backoff, &at_home, now).is_ok());
    let device = Some(PublicKey([7; 32]));
    let with_device = Claimant { known_device: device, ..stranger("198.51.0.1", "alice") };
    assert!(fail(&mut backoff, &with_device, now).is_ok(), "even from an attacker's source");
    let with_token = Claimant { user: None, ..elsewhere };
    assert!(fail(&mut backoff, &with_token, now).is_ok());
}

#[test]
fn a_known_device_or_source_that_guesses_waits_too() {
    let mut backoff = Backoff::default();
    let now = clock::now();
    let device = Claimant { known_device: Some(PublicKey([7; 32])), ..stranger("::1", "alice") };
    let home = Claimant { known_source: true, ..stranger("192.0.2.9", "alice") };
    for claimant in [device, home] {
        let begun = (0..100).filter(|_| fail(&mut backoff, &claimant, now).is_ok()).count();
        assert_eq!(begun, FAILURES_FREE as usize);
    }
}

#[test]
fn failures_are_forgotten_one_by_one() {
    let mut backoff = Backoff::default();
    let now = clock::now();
    while fail(&mut backoff, &stranger("192.0.2.1", "alice"), now).is_ok() {}
    let later = now + FAILURE_FORGOTTEN_AFTER;
    assert!(fail(&mut backoff, &stranger("192.0.2.1", "alice"), later).is_ok());
    assert!(fail(&mut backoff, &stranger("192.0.2.1", "alice"), later).is_err());
    let much_later = later + FAILURE_FORGOTTEN_AFTER * FAILURES_FREE;
    let claimant = stranger("192.0.2.1", "alice");
    let begun = (0..100).filter(|_| fail(&mut backoff, &claimant, much_later).is_ok()).count();
    assert_eq!(begun, FAILURES_FREE as usize);
}

#[test]
fn the_tables_stay_bounded_and_keep_the_latest() {
    let mut backoff = Backoff::default();
    let now = clock::now();
    let guesser = stranger("192.0.2.1", "alice");
    while fail(&mut backoff, &guesser, now).is_ok() {}
    for number in 0..3 * FAILURES_REMEMBERED as u32 {
        let at = std::net::Ipv4Addr::from(number).to_string();
        let _ = fail(&mut backoff, &stranger(&at, &format!("u{number}")), now);
        if number == FAILURES_REMEMBERED as u32 - 10 {
            assert!(fail(&mut backoff, &guesser, now).is_err());
        }
    }
    for table in [&backoff.sources, &backoff.users, &backoff.devices] {
        assert!(table.younger.len() <= FAILURES_REMEMBERED);
        assert!(table.older.len() <= FAILURES_REMEMBERED);
    }
}
