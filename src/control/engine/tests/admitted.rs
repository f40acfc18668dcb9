//! Peers with a lease: admitted, renewed, dismissed; and clients that go to another server.

use crossbeam_channel::{TryRecvError, bounded};

use super::connecting::current_session;
use super::*;
use crate::control::simulator::side::peer;
use crate::dataplane::messages::Receipt;
use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::limits::{REKEY_AFTER, TUN_MTU_DEFAULT};
use crate::sys::clock;
use crate::telemetry::drops::DropReason;

const ADDRESS: &str = "10.7.0.2/32";

fn disconnected(reason: DisconnectReason) -> impl Fn(&EngineEvent) -> bool {
    move |event| matches!(event, EngineEvent::Disconnected { reason: r, .. } if *r == reason)
}

fn guest(world: &World, secret: u8) -> PeerSetup {
    let mut setup = peer(world.keys.client(), &[ADDRESS]);
    setup.preshared_key = PresharedKey::new([secret; 32]);
    setup
}

/// The client takes a lease of its server with this secret.
fn take_lease(world: &mut World, secret: u8) {
    world.options.preshared_key = PresharedKey::new([secret; 32]);
    let choice = ServerChoice {
        key: world.keys.server(),
        address: crate::control::simulator::network::SERVER,
        tun_mtu: TUN_MTU_DEFAULT,
        options: world.options.clone(),
    };
    let now = world.clocks(Who::Client);
    world.client.engine.choose_server(now, choice);
    world.pump();
}

/// A server without configured peers, and a client with a lease of it.
fn with_lease(workers: u8) -> World {
    let mut world = World::new(workers, workers);
    world.server.engine.reload(Reload::Server { peers: Vec::new() });
    let setup = guest(&world, 1);
    world.server.engine.admit_peer(setup).unwrap();
    take_lease(&mut world, 1);
    world.begin();
    world.run_for(SECOND);
    assert_eq!(world.client.engine.state(), EngineState::Up);
    world
}

fn owns_address(world: &World) -> bool {
    world.server.prefixes.clone().unwrap().lookup("10.7.0.2".parse().unwrap()).is_some()
}

#[test]
fn a_peer_that_is_admitted_connects_and_a_reload_leaves_it_alone() {
    let mut world = with_lease(2);
    let session = current_session(&world);
    let peers = vec![peer(PublicKey([9; 32]), &["10.8.0.0/16"])];
    world.server.engine.reload(Reload::Server { peers });
    world.traffic = Some(ms(20));
    world.run_for(SECOND);
    assert_eq!(current_session(&world), session);
    assert!(owns_address(&world));
    assert!(world.server.received > 0 && world.client.received > 0);
    let status = world.server.engine.status(world.now);
    assert_eq!(status.len(), 2, "configured and admitted");
    assert_eq!(status[1].allowed_ips, [ADDRESS]);
}

#[test]
fn a_peer_that_is_dismissed_is_gone_at_once_and_hears_of_it() {
    let mut world = with_lease(2);
    world.traffic = Some(ms(20));
    world.run_for(SECOND);
    assert!(world.server.engine.dismiss_peer(&world.keys.client()));
    let (guard, gone) = bounded::<()>(0);
    world.server.engine.acknowledge(Receipt::new(guard));
    assert_eq!(gone.try_recv(), Err(TryRecvError::Empty), "the workers have not been told yet");
    world.pump();
    assert_eq!(gone.try_recv(), Err(TryRecvError::Disconnected));
    assert!(!owns_address(&world));
    assert_eq!(world.server.sessions(), 0);
    assert!(world.server.has_event(disconnected(DisconnectReason::Dismissed)));
    let (sent, received) = (world.server.sent, world.server.received);
    world.run_for(SECOND * 20);
    assert!(world.client.has_event(disconnected(DisconnectReason::Closed)));
    assert_eq!((world.server.sent, world.server.received), (sent, received));
    assert!(world.server.drops(DropReason::HandshakePeerUnknown) > 0, "it is let in no more");
    assert!(!world.server.engine.dismiss_peer(&world.keys.client()), "once");

    let setup = guest(&world, 2);
    world.server.engine.admit_peer(setup).unwrap();
    take_lease(&mut world, 2);
    world.run_for(SECOND);
    assert_eq!(world.client.engine.state(), EngineState::Up, "it has logged in again");
}

#[test]
fn a_receipt_waits_for_the_slowest_worker() {
    let mut world = with_lease(2);
    world.thread_delay = SECOND;
    let (guard, gone) = bounded::<()>(0);
    world.server.engine.dismiss_peer(&world.keys.client());
    world.server.engine.acknowledge(Receipt::new(guard));
    world.pump();
    assert_eq!(gone.try_recv(), Err(TryRecvError::Empty));
    world.run_for(SECOND);
    assert_eq!(gone.try_recv(), Err(TryRecvError::Disconnected));
}

#[test]
fn a_renewed_secret_makes_a_session_beside_the_one_in_use() {
    let mut world = with_lease(2);
    world.traffic = Some(ms(5));
    let before = current_session(&world);
    world.run_for(SECOND);
    // Between the two messages, the server has the new secret and the client does not.
    let setup = guest(&world, 2);
    world.server.engine.admit_peer(setup).unwrap();
    world.pump();
    world.run_for(ms(300));
    assert_eq!(current_session(&world), before);
    take_lease(&mut world, 2);
    world.run_for(SECOND);
    assert_ne!(current_session(&world), before);
    world.traffic = None;
    world.run_for(SECOND);
    assert_eq!(world.client.sent, world.server.received, "nothing was lost");
    assert_eq!(world.server.sent, world.client.received);
    assert_eq!((world.client.connects(), world.client_status().rekeys), (1, 1));
}

#[test]
fn a_secret_of_an_earlier_login_opens_nothing() {
    let mut world = with_lease(1);
    let setup = guest(&world, 2);
    world.server.engine.admit_peer(setup).unwrap();
    world.run_for(REKEY_AFTER * 2);
    assert_eq!(world.client.engine.state(), EngineState::Connecting);
    assert_eq!(world.server.connects(), 1);
}

#[test]
fn what_the_configuration_says_comes_first() {
    let mut world = World::connected(1, 1);
    let setup = guest(&world, 1);
    assert_eq!(world.server.engine.admit_peer(setup), Err(AdmitError::KeyConfigured));
    assert!(!world.server.engine.dismiss_peer(&world.keys.client()));
    let (first, second) = (PublicKey([8; 32]), PublicKey([9; 32]));
    let taken = AdmitError::PrefixTaken(ADDRESS.parse().unwrap());
    let engine = &mut world.server.engine;
    assert_eq!(engine.admit_peer(peer(first, &["10.7.0.3/32", ADDRESS])), Err(taken));
    assert_eq!(engine.admit_peer(peer(first, &["10.7.0.3/32"])), Ok(()), "nothing was left behind");
    let taken = AdmitError::PrefixTaken("10.7.0.3/32".parse().unwrap());
    assert_eq!(engine.admit_peer(peer(second, &["10.7.0.3/32"])), Err(taken));
    assert_eq!(engine.admit_peer(peer(first, &["10.7.0.4/32"])), Ok(()), "moved");
    assert_eq!(engine.admit_peer(peer(second, &["10.7.0.3/32"])), Ok(()), "and so this is free");
    world.pump();
    assert_eq!(world.client.engine.state(), EngineState::Up);
    // The configuration takes an address, and gives it back.
    let lookup = |world: &World| {
        world.server.prefixes.clone().unwrap().lookup("10.7.0.4".parse().unwrap()).unwrap()
    };
    let owner = lookup(&world);
    let configured = peer(PublicKey([7; 32]), &["10.7.0.4/32"]);
    world.server.engine.reload(Reload::Server { peers: vec![configured] });
    world.pump();
    assert_ne!(lookup(&world), owner);
    world.server.engine.reload(Reload::Server { peers: Vec::new() });
    world.pump();
    assert_eq!(lookup(&world), owner);
}

#[test]
fn a_client_goes_to_another_server_and_says_goodbye_to_the_first() {
    let mut world = World::connected(2, 2);
    world.traffic = Some(ms(20));
    world.run_for(SECOND);
    let choice = ServerChoice {
        key: PublicKey([9; 32]),
        address: "198.51.100.9:4500".parse().unwrap(),
        tun_mtu: TUN_MTU_DEFAULT,
        options: world.options.clone(),
    };
    let now = world.clocks(Who::Client);
    world.client.engine.choose_server(now, choice);
    world.pump();
    assert!(world.client.has_event(disconnected(DisconnectReason::ServerChanged)));
    assert_eq!(world.client.sessions(), 0);
    world.run_for(ms(11));
    assert!(world.server.has_event(disconnected(DisconnectReason::Closed)));
    let to = |world: &World| world.captured.last().map(|(_, packet)| packet.to.to_string());
    world.run_for(SECOND * 3);
    assert_eq!(to(&world).as_deref(), Some("198.51.100.9:4500"));
    take_lease(&mut world, 0);
    world.run_for(SECOND);
    assert_eq!(world.client.engine.state(), EngineState::Up, "and back");
}

#[test]
fn logins_cost_the_same_however_many_there_have_been() {
    const PEERS: u32 = 20_000;
    let mut world = World::new(1, 1);
    let setup = |number: u32| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let v4 = std::net::Ipv4Addr::from(0x0a80_0000 + number);
        let v6 = std::net::Ipv6Addr::from((0xfd00 << 112) + u128::from(number));
        peer(PublicKey(key), &[&format!("{v4}/32"), &format!("{v6}/128")])
    };
    let setups: Vec<PeerSetup> = (0..PEERS).map(setup).collect();
    let keys: Vec<PublicKey> = setups.iter().map(|setup| setup.public_key).collect();
    // A worker lets go of a table when the next one comes.
    let drain = |world: &mut World, held: Option<_>| {
        while world.server.engine.poll_event().is_some() {}
        std::iter::from_fn(|| world.server.engine.poll_command()).last().or(held)
    };
    let (began, mut held) = (clock::now(), None);
    for setup in setups {
        world.server.engine.admit_peer(setup).unwrap();
        held = drain(&mut world, held);
    }
    for key in keys {
        assert!(world.server.engine.dismiss_peer(&key));
        held = drain(&mut world, held);
    }
    let each = (clock::now() - began) / (2 * PEERS);
    eprintln!("an admission or a dismissal took {each:?}");
    // Some 100 times what it takes without optimisation on a slow machine; to make the whole table
    // anew takes longer.
    assert!(each < ms(2), "{each:?}");
}
