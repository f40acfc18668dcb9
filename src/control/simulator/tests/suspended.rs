//! Machines that were suspended for longer than their sessions may live.

use std::time::Duration;

use crate::control::engine::EngineState;
use crate::control::simulator::oracle::Purpose;
use crate::control::simulator::plan::Mishap;
use crate::control::simulator::{Packet, Who, World};
use crate::limits::REJECT_AFTER;
use crate::telemetry::drops::DropReason;
use crate::wire::MessageType;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const LASTS: Duration = REJECT_AFTER.saturating_add(Duration::from_secs(5));

fn suspend(world: &mut World, who: Who) {
    world.befall(Mishap::Suspend { who, lasts: LASTS, clock_stops: false });
}

/// A world in which `who` has just woken up, its workers before its control thread, and a datagram
/// for it that was sealed in time and has been on its way for long.
fn just_woken(who: Who) -> (World, Packet) {
    let mut world = World::connected(1, 1);
    world.filter = Box::new(|_, _| true);
    let sender = if who == Who::Server { Who::Client } else { Who::Server };
    world.send_inner(sender, 0, Purpose::Data, 100);
    let lost = world.captured.last().unwrap().1.clone();
    suspend(&mut world, who);
    world.run_for(LASTS - MS);
    world.now += MS;
    world.side(who).sleeps_until = None;
    (world, lost)
}

#[test]
fn a_machine_that_wakes_up_uses_no_session_past_its_last_age() {
    for who in [Who::Client, Who::Server] {
        let (mut world, lost) = just_woken(who);
        let now = world.now;
        let (sent, received) = (world.side(who).sent, world.side(who).received);
        world.send_inner(who, 0, Purpose::Data, 100);
        assert_eq!(world.side(who).sent, sent, "{who:?}");
        let worker = &world.side(who).workers[0].real;
        assert_eq!(worker.dropped(DropReason::NoSession), 1, "{who:?}");
        let age_s = world.side(who).engine.status(now)[0].session_age_s;
        assert!(age_s > Some(REJECT_AFTER.as_secs_f64()), "the control thread has not noticed");
        world.deliver(lost);
        assert_eq!((world.side(who).received, world.side(who).unknown()), (received, 1), "{who:?}");

        world.filter = Box::new(|_, _| false);
        world.run_for(SECOND * 20);
        assert_eq!(world.client.engine.state(), EngineState::Up, "{who:?}");
        world.send_inner(who, 0, Purpose::Data, 100);
        assert_eq!(world.side(who).sent, sent + 1, "{who:?}");
    }
}

#[test]
fn an_answer_that_has_waited_for_too_long_makes_no_session() {
    let mut world = World::new(1, 1);
    world.begin();
    // The initiation is on its way, and its answer will find the client asleep.
    suspend(&mut world, Who::Client);
    world.run_for(LASTS - MS);
    assert!(world.captured.iter().any(|(_, packet)| packet.is(MessageType::Response)));
    assert_eq!(world.client.drops(DropReason::HandshakeUnexpected), 0);
    world.run_for(MS);
    assert_eq!(world.client.drops(DropReason::HandshakeUnexpected), 1);
    assert_eq!(world.client.sessions(), 0);
    world.run_for(SECOND);
    assert_eq!(world.client.engine.state(), EngineState::Up);
}
