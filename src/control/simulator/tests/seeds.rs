//! Storms of many seeds; equal seeds, equal runs; canaries.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::control::simulator::plan::Sabotage;
use crate::control::simulator::storm::{Outcome, run};
use crate::control::simulator::world::World;
use crate::sys::process;
use crate::telemetry::drops::DropReason;

/// Seeds of an ordinary run.
const SEEDS: u64 = 3000;

/// What the weather of so many seeds makes machines drop: that it is foul enough.
const WEATHERED: [DropReason; 11] = [
    DropReason::DatagramTruncated,
    DropReason::DatagramUnknownType,
    DropReason::SessionUnknown,
    DropReason::LaneWrong,
    DropReason::Replayed,
    DropReason::AuthenticationFailed,
    DropReason::KeyExhausted,
    DropReason::HandshakeMacInvalid,
    DropReason::HandshakeReplayed,
    DropReason::HandshakeUnexpected,
    DropReason::HandshakeCookieRequired,
];

/// The seeds that the environment asks for: `CORELANE_SIM_SEED` is one, `CORELANE_SIM_SEEDS` how
/// many from 0 on, or a range such as `5000..9000`.
fn seeds() -> Range<u64> {
    let number = |text: &str| -> u64 {
        text.parse().unwrap_or_else(|error| panic!("`{text}` is no number of seeds: {error}"))
    };
    if let Ok(seed) = std::env::var("CORELANE_SIM_SEED") {
        let seed = number(&seed);
        return seed..seed + 1;
    }
    match std::env::var("CORELANE_SIM_SEEDS") {
        Ok(text) => match text.split_once("..") {
            Some((first, end)) => number(first)..number(end),
            None => 0..number(&text),
        },
        Err(_) => 0..SEEDS,
    }
}

#[test]
fn seeds_break_no_rule_and_recover() {
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let outcomes = Mutex::new(Vec::new());
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end || !failures.lock().unwrap().is_empty() {
                        return;
                    }
                    match run(seed, None) {
                        Ok(outcome) => outcomes.lock().unwrap().push(outcome),
                        Err(failure) => failures.lock().unwrap().push(failure.to_string()),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let outcomes = outcomes.into_inner().unwrap();
    assert_eq!(outcomes.len() as u64, seeds.end - seeds.start);
    println!("{}", summary(&outcomes));
    if outcomes.len() as u64 >= SEEDS {
        let seen: BTreeSet<_> = outcomes.iter().flat_map(|outcome| &outcome.reasons).collect();
        let unseen: Vec<_> = WEATHERED.iter().filter(|it| !seen.contains(&it.name())).collect();
        assert!(unseen.is_empty(), "no weather of any seed led to {unseen:?}");
    }
}

fn summary(outcomes: &[Outcome]) -> String {
    let sum = |field: fn(&Outcome) -> u64| -> u64 { outcomes.iter().map(field).sum() };
    let slowest = outcomes.iter().map(|outcome| outcome.recovered_after).max();
    let elapsed: Duration = outcomes.iter().map(|outcome| outcome.elapsed).sum();
    let mut reasons = BTreeMap::<_, u32>::new();
    for reason in outcomes.iter().flat_map(|outcome| &outcome.reasons) {
        *reasons.entry(*reason).or_default() += 1;
    }
    format!(
        "{} seeds: {} s of virtual time, {} events, {} inner packets, {} sessions; slowest \
         recovery {:?}; seeds that dropped for a reason: {reasons:?}",
        outcomes.len(),
        elapsed.as_secs(),
        sum(|outcome| outcome.steps),
        sum(|outcome| outcome.packets),
        sum(|outcome| outcome.sessions),
        slowest.unwrap_or_default(),
    )
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 0..24 {
        let [first, second] = [0; 2].map(|_| run(seed, None).map_err(|failure| failure.what));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.unwrap().hash != run(seed + 1, None).ok().unwrap().hash);
    }
}

/// Each kind of sabotage under a fixed seed, and what must be said of it.
#[test]
fn canaries_fail() {
    for (sabotage, seed, expected) in [
        (Sabotage::RepeatNonces, 1, "used twice"),
        (Sabotage::ForgetCounters, 4, "delivered twice"),
        (Sabotage::AlterPackets, 1, "was altered"),
        (Sabotage::SwallowPackets, 1, "do not add up to one"),
        // A worker objects by itself before the oracle does.
        (Sabotage::KeepSessions, 5, "the control thread bounds them"),
        (Sabotage::DeadTimers, 1, "spins"),
        (Sabotage::StuckClocks, 1632, "at the age of"),
        (Sabotage::KeepGuests, 11, "a dismissed peer was delivered"),
        (Sabotage::EndlessCut, 1, "no ping was answered"),
    ] {
        let sound = run(seed, None);
        assert!(sound.is_ok(), "{sabotage:?}: the seed fails without it");
        let failure = run(seed, Some(sabotage)).err();
        let failure = failure.unwrap_or_else(|| panic!("{sabotage:?} went unnoticed"));
        assert!(failure.what.contains(expected), "{sabotage:?}: {}", failure.what);
        let replay = format!("CORELANE_SIM_SEED={seed} cargo test");
        assert!(failure.to_string().contains(&replay), "the report tells how to replay it");
    }
}

/// Lets an hour pass for a server and a client that talk; the CPU time that took this thread.
fn simulate_an_hour() -> Duration {
    let mut world = World::connected(2, 2);
    world.captures = false;
    world.traffic = Some(Duration::from_secs(1));
    let before = process::thread_cpu_time().unwrap();
    world.run_for(Duration::from_secs(3600));
    let took = process::thread_cpu_time().unwrap() - before;
    world.traffic = None;
    world.run_for(Duration::from_secs(1));
    println!("an hour of virtual time, {} events, took {took:?}", world.trace.steps());
    assert!(world.client.sent >= 2 * 3600);
    assert_eq!(world.client.sent, world.server.received);
    assert_eq!(world.server.sent, world.client.received);
    assert!((29..=32).contains(&world.client_status().rekeys));
    // A packet is five events; probes and timers are as many again.
    let steps = world.trace.steps();
    assert!((50_000..200_000).contains(&steps), "{steps} events");
    took
}

/// Optimised it is a small part of a second, unoptimised about one; machines differ. Work for each
/// event that grows with the events before it would take minutes. What else a machine does costs
/// cycles, too, so the best of a few tries counts.
#[test]
fn an_hour_of_traffic_takes_seconds() {
    const TRIES: u32 = 3;
    const BOUND: Duration = Duration::from_secs(8);
    let is_fast = (0..TRIES).any(|_| simulate_an_hour() < BOUND);
    assert!(is_fast, "an hour takes more than {BOUND:?} of CPU time");
}
