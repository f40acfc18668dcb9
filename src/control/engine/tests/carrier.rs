//! A client whose UDP is cut goes on by a carrier, and comes back.

use super::connecting::current_session;
use super::*;
use crate::control::simulator::oracle::Purpose;
use crate::limits::{UDP_CONNECT_WITHIN, UDP_HOLD_FIRST, UDP_TRIAL_MAX};
use crate::wire::MessageType;

/// How soon it is noticed that UDP is silent.
const NOTICED_WITHIN: Duration = Duration::from_millis(1100);
/// How soon UDP is gone back to once it works again.
const RETURNED_WITHIN: Duration =
    UDP_TRIAL_MAX.saturating_add(UDP_HOLD_FIRST).saturating_add(Duration::from_secs(1));

/// A world whose client watches UDP, and has traffic.
fn watched(server_workers: u8, client_workers: u8) -> World {
    let mut world = World::connected(server_workers, client_workers);
    let now = world.clocks(Who::Client);
    world.client.engine.watch_udp(now, true);
    world.traffic = Some(ms(20));
    world.run_for(SECOND * 3);
    world
}

fn cut_udp(world: &mut World) {
    world.filter = Box::new(|_, _| true);
}

fn mend_udp(world: &mut World) {
    world.filter = Box::new(|_, _| false);
}

pub(super) fn use_carrier(world: &mut World, relay: Option<SocketAddr>) {
    let now = world.clocks(Who::Client);
    world.client.engine.use_carrier(now, relay);
    world.pump();
}

pub(super) fn told(world: &World, wanted: impl Fn(&EngineEvent) -> bool) -> usize {
    world.client.events.iter().filter(|(_, event)| wanted(event)).count()
}

fn silences(world: &World) -> usize {
    told(world, |event| matches!(event, EngineEvent::UdpSilent { .. }))
}

pub(super) fn returns(world: &World) -> usize {
    told(world, |event| matches!(event, EngineEvent::UdpRestored { .. }))
}

/// Waits until the client says that UDP is silent, and gives it a carrier.
fn change_over(world: &mut World) {
    let before = silences(world);
    let took = world.run_until(NOTICED_WITHIN, |world| silences(world) > before);
    assert!(took.is_some(), "not noticed");
    use_carrier(world, Some(RELAY));
    // Once there and back.
    world.run_for(ms(30));
}

fn assert_nothing_is_lost(world: &mut World, span: Duration) {
    let counts = |world: &World| {
        [world.client.sent, world.server.received, world.server.sent, world.client.received]
    };
    world.traffic = None;
    world.run_for(SECOND);
    let before = counts(world);
    world.traffic = Some(ms(20));
    world.run_for(span);
    world.traffic = None;
    world.run_for(SECOND);
    let after = counts(world);
    let [sent, received, sent_back, received_back] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
    assert_eq!((sent, sent_back), (received, received_back));
    assert!(sent > 0 && sent_back > 0);
    world.traffic = Some(ms(20));
}

fn leads_to_relay(world: &World) -> Vec<bool> {
    let relay = RELAY.to_string();
    world.client_status().paths.iter().map(|it| it.endpoint.as_ref() == Some(&relay)).collect()
}

#[test]
fn the_session_survives_the_way_to_a_carrier_and_back() {
    for (server, client) in [(1, 1), (2, 2), (4, 2), (1, 3)] {
        let mut world = watched(server, client);
        let session = current_session(&world);
        let workers = usize::from(client);
        cut_udp(&mut world);
        change_over(&mut world);
        assert_eq!(leads_to_relay(&world), vec![true; workers]);
        assert_nothing_is_lost(&mut world, SECOND * 20);
        mend_udp(&mut world);
        let took = world.run_until(RETURNED_WITHIN, |world| returns(world) == 1);
        assert!(took >= Some(UDP_HOLD_FIRST), "{server} and {client} workers: {took:?}");
        assert_eq!(leads_to_relay(&world), vec![false; workers]);
        assert_eq!(world.client.engine.carrier(), None);
        assert_nothing_is_lost(&mut world, SECOND * 20);
        assert_eq!(current_session(&world), session);
        assert_eq!((world.client.connects(), returns(&world)), (1, 1));
    }
}

#[test]
fn a_download_that_stops_is_noticed_although_the_client_sends_nothing() {
    let mut world = watched(1, 1);
    world.traffic = None;
    world.run_for(SECOND * 2);
    for _ in 0..200 {
        world.send_inner(Who::Server, 0, Purpose::Data, 1000);
        world.run_for(ms(10));
    }
    assert_eq!(silences(&world), 0);
    cut_udp(&mut world);
    assert!(world.run_until(NOTICED_WITHIN, |world| silences(world) == 1).is_some());
}

#[test]
fn a_watched_tunnel_asks_once_after_traffic_and_is_silent_while_idle() {
    let mut world = watched(2, 2);
    world.traffic = None;
    // The size of the paths is looked at once more.
    world.run_for(SECOND * 15);
    let before = world.captured.len();
    world.run_for(SECOND * 80);
    assert_eq!(world.captured.len(), before);
    assert_eq!(silences(&world), 0);
}

#[test]
fn one_direction_of_udp_that_is_cut_is_as_good_as_both() {
    for cut_up in [true, false] {
        let mut world = watched(2, 2);
        let session = current_session(&world);
        world.filter = Box::new(move |_, packet| packet.to_server() == cut_up);
        // What still arrives, or does not, would show in the end; nobody waits for that here.
        world.run_for(ms(500));
        use_carrier(&mut world, Some(RELAY));
        world.run_for(ms(30));
        // Inquiries go on meanwhile, and neither they nor their answers move anything.
        assert_nothing_is_lost(&mut world, SECOND * 30);
        assert_eq!(leads_to_relay(&world), [true, true]);
        assert_eq!(current_session(&world), session);
        assert_eq!(returns(&world), 0);
    }
}

#[test]
fn one_path_that_is_cut_keeps_the_carrier() {
    let mut world = watched(2, 2);
    cut_udp(&mut world);
    change_over(&mut world);
    world.filter = Box::new(|_, packet| packet.path() == Some(1));
    assert_nothing_is_lost(&mut world, SECOND * 60);
    assert_eq!(returns(&world), 0);
}

#[test]
fn a_client_connects_by_a_carrier_where_udp_never_worked() {
    let mut world = World::new(2, 2);
    let now = world.clocks(Who::Client);
    world.client.engine.watch_udp(now, true);
    cut_udp(&mut world);
    world.begin();
    let took = world.run_until(SECOND * 3, |world| silences(world) == 1).unwrap();
    assert!(took >= UDP_CONNECT_WITHIN && took < UDP_CONNECT_WITHIN + ms(300), "{took:?}");
    use_carrier(&mut world, Some(RELAY));
    let is_up = |world: &World| world.client.engine.state() == EngineState::Up;
    assert!(world.run_until(ms(100), is_up).is_some());
    assert_nothing_is_lost(&mut world, SECOND * 300);
    assert!(world.client_status().rekeys >= 2, "sessions are renewed on the way");
    mend_udp(&mut world);
    assert!(world.run_until(RETURNED_WITHIN, |world| returns(world) == 1).is_some());
    assert_eq!(world.client.connects(), 1);
}

#[test]
fn a_carrier_that_is_lost_is_asked_for_again() {
    let mut world = watched(1, 2);
    cut_udp(&mut world);
    change_over(&mut world);
    assert_nothing_is_lost(&mut world, SECOND * 5);
    world.carrier_works = false;
    use_carrier(&mut world, None);
    assert!(world.run_until(NOTICED_WITHIN, |world| silences(world) == 2).is_some());
    world.carrier_works = true;
    use_carrier(&mut world, Some(RELAY));
    world.run_for(ms(30));
    assert_nothing_is_lost(&mut world, SECOND * 5);
    assert_eq!(world.client.connects(), 1);
}

#[test]
fn udp_that_comes_and_goes_is_trusted_ever_more_slowly() {
    let mut world = watched(1, 1);
    let mut holds = Vec::new();
    for round in 1..=3 {
        cut_udp(&mut world);
        change_over(&mut world);
        mend_udp(&mut world);
        let took = world.run_until(SECOND * 60, |world| returns(world) == round);
        holds.push(took.unwrap());
        world.run_for(SECOND);
    }
    assert!(holds[1] > holds[0] && holds[2] > holds[1] + SECOND * 3, "{holds:?}");
}

#[test]
fn a_client_that_does_not_watch_stays_where_it_is_told_to_be() {
    let mut world = World::connected(2, 2);
    use_carrier(&mut world, Some(RELAY));
    world.run_for(ms(30));
    assert_nothing_is_lost(&mut world, SECOND * 100);
    assert_eq!(leads_to_relay(&world), [true, true]);
    assert_eq!((silences(&world), returns(&world)), (0, 0));
    let over_udp = |packet: &Packet| packet.to_server() && packet.is(MessageType::Data);
    let since = world.elapsed() - SECOND * 100;
    let late = world.captured.iter().filter(|(at, packet)| *at > since && over_udp(packet));
    assert_eq!(late.count(), 0, "nothing is sent over UDP");
}

#[test]
fn each_way_has_a_size_of_its_own() {
    let mut world = World::new(1, 1);
    world.weather.mtu = 1400;
    world.begin();
    let now = world.clocks(Who::Client);
    world.client.engine.watch_udp(now, true);
    world.traffic = Some(ms(20));
    world.run_for(SECOND * 30);
    let sizes = |world: &World| {
        [world.client_status(), world.server_status()].map(|it| it.paths[0].plaintext_max)
    };
    assert_eq!(sizes(&world), [1328, 1328]);
    cut_udp(&mut world);
    change_over(&mut world);
    world.run_for(SECOND * 5);
    assert_eq!(sizes(&world), [1408, 1408]);
    mend_udp(&mut world);
    assert!(world.run_until(RETURNED_WITHIN, |world| returns(world) == 1).is_some());
    world.run_for(SECOND * 20);
    assert_eq!(sizes(&world), [1328, 1328]);
}
