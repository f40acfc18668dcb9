//! A whole run: a plan rages, then the world is calm, and the tunnel must work again.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::network::Weather;
use super::oracle::Purpose;
use super::plan::{Plan, Sabotage};
use super::side::Who;
use super::trace::Step;
use super::world::{Due, World};
use crate::control::engine::{EngineEvent, Reload};
use crate::limits::{
    ACTIVITY_SCAN_EVERY, DEAD_PEER_PROBE_AFTER, DEAD_PEER_PROBE_EVERY, DEAD_PEER_PROBES_MAX,
    PATH_CONFIRM_WITHIN, RECONNECT_PAUSE_MAX,
};

/// What a datagram takes when the world is calm.
const CALM_LATENCY: Duration = Duration::from_millis(20);
/// How often a ping is sent until one is answered.
const PING_EVERY: Duration = Duration::from_millis(100);
/// How long it takes to notice that nothing comes back: until the scan that sees the silence begin,
/// then the wait, then the probes, each up to a scan late.
const SILENCE_NOTICED: Duration = Duration::from_millis(
    DEAD_PEER_PROBE_AFTER.as_millis() as u64
        + DEAD_PEER_PROBES_MAX as u64 * DEAD_PEER_PROBE_EVERY.as_millis() as u64
        + (2 + DEAD_PEER_PROBES_MAX as u64) * ACTIVITY_SCAN_EVERY.as_millis() as u64,
);
/// How soon after the world has calmed a ping is answered. At worst a session has just been made
/// whose paths will not be confirmed, then the longest pause between attempts begins, and the
/// session that follows turns out to be unknown to a server that was about to restart; handshakes
/// and pings take a second more.
const RECOVERY_WITHIN: Duration = Duration::from_secs(
    PATH_CONFIRM_WITHIN.as_secs() + RECONNECT_PAUSE_MAX.as_secs() + SILENCE_NOTICED.as_secs() + 2,
);
/// How often every worker sends a packet while the world settles.
const SETTLING_TRAFFIC_EVERY: Duration = Duration::from_secs(1);
/// How long what is not quite in order yet may take: paths that are silent are found out and given
/// up, and a session without them is made and confirmed.
const SETTLED_AFTER: Duration =
    Duration::from_secs(2 * (SILENCE_NOTICED.as_secs() + 1) + PATH_CONFIRM_WITHIN.as_secs());

/// What a run that broke no rule amounted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Stands for everything that happened.
    pub(crate) hash: u64,
    /// Events of all kinds.
    pub(crate) steps: u64,
    /// Inner packets that were sent.
    pub(crate) packets: u64,
    /// Sessions that were confirmed or replaced, on both sides.
    pub(crate) sessions: u64,
    /// Virtual time.
    pub(crate) elapsed: Duration,
    /// From the calm to the first answer.
    pub(crate) recovered_after: Duration,
    /// Why datagrams were dropped on arrival.
    pub(crate) reasons: BTreeSet<&'static str>,
}

/// A rule that was broken, and how it came to that.
pub(crate) struct Failure {
    pub(crate) what: String,
    report: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)
    }
}

/// Runs the plan of a seed.
pub(crate) fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Outcome, Failure> {
    let plan = Plan::of(seed);
    let mut world = world_of(&plan);
    world.sabotage = sabotage;
    let result = catch_unwind(AssertUnwindSafe(|| rage(&mut world, &plan)));
    let result = result.unwrap_or_else(|panic| Err(format!("panic: {}", message_of(&*panic))));
    result.map_err(|what| {
        let report = format!(
            "seed {seed}: {what}\n\n{plan:#?}\n\nthe last events:\n{}\nseed {seed}: {what}\n\
             replay it with: CORELANE_SIM_SEED={seed} cargo test --lib simulator::tests::seeds\n",
            world.trace
        );
        Failure { what, report }
    })
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn world_of(plan: &Plan) -> World {
    let Plan { server_workers, client_workers, rekey_after, .. } = *plan;
    let mut world = World::seeded(plan.seed, server_workers, client_workers, rekey_after);
    world.options.keepalive = plan.keepalive;
    world.captures = false;
    world.oracle.strict = false;
    world.thread_delay = plan.thread_delay;
    world.weather = plan.weather.clone();
    world.traffic = Some(plan.traffic_every);
    world.traffic_len = plan.traffic_len;
    if plan.is_guest {
        world.become_guest();
    }
    for (after, mishap) in &plan.mishaps {
        world.schedule(world.start + *after, Due::Mishap(*mishap));
    }
    world
}

fn rage(world: &mut World, plan: &Plan) -> Result<Outcome, String> {
    let options = world.options.clone();
    world.client.engine.reload(Reload::Client(options));
    world.begin();
    run_on(world, plan.lasts)?;
    calm(world)?;
    let recovered_after = recover(world, plan)?;
    settle(world, plan)?;
    let sessions = [&world.server, &world.client].map(|side| {
        let made = |event: &&(_, _)| {
            matches!(event.1, EngineEvent::Connected { .. } | EngineEvent::Rekeyed { .. })
        };
        side.events.iter().filter(made).count() as u64
    });
    Ok(Outcome {
        hash: world.trace.hash(),
        steps: world.trace.steps(),
        packets: world.oracle.next_number(),
        sessions: sessions.iter().sum(),
        elapsed: world.elapsed(),
        recovered_after,
        reasons: world.trace.reasons().clone(),
    })
}

fn run_on(world: &mut World, span: Duration) -> Result<(), String> {
    world.run_for(span);
    world.oracle.objection().map_or(Ok(()), |what| Err(what.to_owned()))
}

/// Mends the network and wakes every machine. What is on its way still arrives.
fn calm(world: &mut World) -> Result<(), String> {
    world.note(Step::Calm);
    world.weather = Weather::calm(CALM_LATENCY);
    if world.sabotage == Some(Sabotage::EndlessCut) {
        world.weather.loss = 1.0;
    }
    world.end_twin(false);
    world.traffic = None;
    let now = world.now;
    let asleep = [&world.server, &world.client].map(|side| side.sleeps_until);
    let awake = asleep.into_iter().flatten().max().unwrap_or(now);
    run_on(world, awake.saturating_duration_since(now))?;
    // Whoever looks after a lease sees to it that there is one.
    world.log_in();
    Ok(())
}

/// Pings until one is answered.
fn recover(world: &mut World, plan: &Plan) -> Result<Duration, String> {
    let began = world.now;
    let limit = RECOVERY_WITHIN + timestamps_ahead(world) + twin_remembered(plan);
    let pongs = world.pongs;
    while world.pongs == pongs {
        let waited = world.now - began;
        if waited > limit {
            return Err(format!("no ping was answered within {limit:?} of calm"));
        }
        let worker = world.client.workers.iter().position(|worker| !worker.detached).unwrap_or(0);
        world.send_inner(Who::Client, worker, Purpose::Ping, 0);
        run_on(world, PING_EVERY)?;
    }
    Ok(world.now - began)
}

/// A client whose clock was set back, and whose process has not seen the time before, is refused
/// until its clock has caught up with its last initiation: replays look the same.
fn timestamps_ahead(world: &World) -> Duration {
    world.newest_timestamp.saturating_sub(world.clocks(Who::Client).unix)
}

/// A server answers where a key was last confirmed. If another process had the same key and is gone
/// without a word, that is there, until the client replaces its session.
fn twin_remembered(plan: &Plan) -> Duration {
    if plan.has_twin() { plan.rekey_after } else { Duration::ZERO }
}

/// With traffic on every path, everything is in order after a while, and then nothing is lost.
fn settle(world: &mut World, plan: &Plan) -> Result<(), String> {
    world.traffic = Some(SETTLING_TRAFFIC_EVERY);
    world.traffic_len = 0;
    run_on(world, SETTLED_AFTER + twin_remembered(plan))?;
    let first = world.oracle.next_number();
    world.traffic = Some(PING_EVERY);
    run_on(world, Duration::from_secs(1))?;
    world.traffic = None;
    run_on(world, Duration::from_millis(500))?;
    match world.oracle.undelivered_since(first).as_slice() {
        [] => Ok(()),
        lost => Err(format!("in calm {} packets were lost, first {}", lost.len(), lost[0])),
    }
}
