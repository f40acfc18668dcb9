//! Whether the time of a refusal tells who exists.

use crate::accounts::credentials::password::HashCost;
use crate::accounts::service::LoginAttempt;
use crate::accounts::service::testing::{Rig, by_password, secret};
use crate::sys::clock;

/// Samples of each class.
const SAMPLES: u16 = 600;
/// The bound that is usual for leakage tests: |t| beyond it comes by chance once in 10^5.
const T_MAX: f64 = 4.5;

/// Welch's t of two samples.
fn welch_t(one: &[f64], other: &[f64]) -> f64 {
    let mean = |sample: &[f64]| sample.iter().sum::<f64>() / sample.len() as f64;
    let variance_of_mean = |sample: &[f64]| {
        let mean = mean(sample);
        let squares = sample.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        squares / (sample.len() as f64 - 1.0) / sample.len() as f64
    };
    let spread = (variance_of_mean(one) + variance_of_mean(other)).sqrt();
    (mean(one) - mean(other)) / spread
}

/// Both without the largest tenth, which other programs on the machine make.
fn trimmed(mut sample: Vec<f64>) -> Vec<f64> {
    sample.sort_by(f64::total_cmp);
    sample.truncate(sample.len() * 9 / 10);
    sample
}

/// The statistic, for wrong passwords of one who exists and of others who do not, mixed in time.
fn t_of(
    rig: &Rig,
    unknown: impl Fn(u16) -> LoginAttempt,
    known: impl Fn(u16) -> LoginAttempt,
) -> f64 {
    let measure = |attempt: LoginAttempt| {
        let start = clock::now();
        let refusal = rig.login(attempt).unwrap_err();
        let took = clock::now().duration_since(start).as_secs_f64();
        (took, refusal)
    };
    let (mut of_unknown, mut of_known) = (Vec::new(), Vec::new());
    for number in 0..SAMPLES {
        // Neither class always follows the other.
        let ((one, said), (other, said_other)) = if number % 2 == 0 {
            let one = measure(unknown(number));
            (one, measure(known(number)))
        } else {
            let other = measure(known(number));
            (measure(unknown(number)), other)
        };
        assert_eq!(said, said_other, "the words are the same");
        of_unknown.push(one);
        of_known.push(other);
    }
    welch_t(&trimmed(of_unknown), &trimmed(of_known))
}

/// A wrong password from a source of its own, so that nobody is slowed down.
fn wrong(user: &str, number: u16) -> LoginAttempt {
    let [high, low] = number.to_be_bytes();
    LoginAttempt {
        from: format!("10.{}.{high}.{low}:4000", user.len()).parse().unwrap(),
        password: Some(secret("wrong horse")),
        ..by_password(user, 1)
    }
}

#[test]
fn an_unknown_user_and_a_wrong_password_take_equally_long() {
    // Enough for a difference in hashing to show, and little enough for thousands of samples.
    let cost = HashCost { memory_kib: 64, passes: 1 };
    let rig = Rig::with(|options| {
        options.hash_cost = cost;
        options.audit_log = None;
    });
    // Many users, since failures in one name slow down the next in that name.
    let exists = |number: u16| format!("u{number:05}");
    for number in 0..SAMPLES {
        rig.add_quickly(&exists(number));
    }
    let mut t = f64::INFINITY;
    // A busy machine can disturb one run, and a real difference shows in all of them.
    for _ in 0..3 {
        t = t_of(
            &rig,
            |number| wrong(&format!("n{number:05}"), number),
            |number| wrong(&exists(number), number.wrapping_add(0x8000)),
        );
        if t.abs() < T_MAX {
            break;
        }
    }
    assert!(t.abs() < T_MAX, "Welch's t is {t:.1}");
}

#[test]
fn the_measure_would_see_who_exists_if_nobody_were_hashed_for_the_others() {
    let rig = Rig::with(|options| options.hash_cost = HashCost { memory_kib: 64, passes: 1 });
    for number in 0..SAMPLES {
        rig.add_quickly(&format!("u{number:05}"));
    }
    let t = t_of(
        &rig,
        // Without a password nothing is hashed.
        |number| LoginAttempt {
            password: None,
            token: Some(secret("clane_x")),
            ..wrong("n", number)
        },
        |number| wrong(&format!("u{number:05}"), number.wrapping_add(0x8000)),
    );
    assert!(t.abs() > T_MAX, "Welch's t is {t:.1}");
}
