//! What peers may do, and what they have used.

use super::*;
use crate::control::simulator::side::peer;
use crate::limits::REKEY_AFTER;
use crate::policy::bounds::Bounds;
use crate::policy::{Defaults, Policies};
use crate::telemetry::counters::{Carried, Traffic};

fn policy(world: &World, rules: &[&str]) -> Option<Arc<PeerPolicy>> {
    let rules: Vec<_> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let defaults = Defaults { isolate: false, ..Defaults::default() };
    Some(Policies::default().compile(world.now, &"ada", &Bounds::default(), &rules, defaults))
}

/// What the server's workers have counted.
fn counted(
    world: &World,
    traffic: impl Fn(&crate::telemetry::counters::WorkerCounters) -> &Traffic,
) -> u64 {
    world.server.workers.iter().map(|worker| traffic(&worker.real.counters).bytes.get()).sum()
}

#[test]
fn use_is_counted_to_the_byte_across_rekeys_and_removal() {
    let mut world = World::connected(2, 2);
    let client = world.keys.client();
    assert!(!world.server.engine.set_policy(&PublicKey([9; 32]), None), "there is no such peer");
    let policy = policy(&world, &[]);
    assert!(world.server.engine.set_policy(&client, policy));
    world.pump();
    let mut used = Carried::default();
    world.traffic = Some(ms(100));
    for turn in 0..4 {
        world.run_for(REKEY_AFTER / 2);
        if turn == 3 {
            world.server.engine.reload(Reload::Server { peers: Vec::new() });
            world.pump();
            assert_eq!(world.server.sessions(), 0);
        }
        for (peer, carried) in world.server.engine.take_usage() {
            assert_eq!(peer, client);
            used.add(carried);
        }
    }
    let expected = Carried {
        sent_bytes: counted(&world, |it| &it.to_wire),
        received_bytes: counted(&world, |it| &it.from_wire),
    };
    assert_eq!(used, expected);
    assert!(used.sent_bytes > 0 && used.received_bytes > 0);
    assert!(world.server.engine.take_usage().is_empty());
}

#[test]
fn nothing_is_counted_for_a_peer_without_a_policy() {
    let mut world = World::connected(1, 1);
    world.traffic = Some(ms(100));
    world.run_for(SECOND);
    assert!(world.server.engine.take_usage().is_empty());
    assert!(world.client.engine.take_usage().is_empty());
    let mut configured = peer(world.keys.client(), &["10.7.0.2/32"]);
    configured.policy = policy(&world, &[]);
    world.server.engine.reload(Reload::Server { peers: vec![configured] });
    world.pump();
    assert_eq!(world.server.engine.take_usage().len(), 1);
}
