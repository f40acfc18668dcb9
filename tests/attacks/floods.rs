//! Floods. Which figures a session keeps under one is for perf/flood.rs to say; here it is
//! asserted why: what floods is dropped by the thread that it is for, and leaves nothing behind.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use corelane::lab::wait_until;
use corelane::limits::{HANDSHAKES_UNPROVED_BURST, HANDSHAKES_UNPROVED_PPS};
use corelane::sys::clock;
use corelane::telemetry::drops::DropReason::{
    ControlQueueFull, DatagramUnknownType, HandshakeCookieRequired, HandshakeInvalid,
    HandshakeOverload, SessionUnknown,
};

use crate::flooder::{Flood, Kind};
use crate::harness::{Options, PATIENCE, SERVER_V4};
use crate::stage::{Drops, SERVER, Side, Stage};
use crate::tools::{PingSummary, attempt};

/// Datagrams per second, of which a server that has nothing else to do misses none.
const RATE: u32 = 3000;
const FLOODED_FOR: Duration = Duration::from_millis(1500);
/// Datagrams per second of a large flood, if the machine can send so many.
const LARGE: u32 = 100_000;
/// Batches that a worker may have moved without any traffic: probes of paths, mostly.
const IDLE_BATCHES: u64 = 50;

fn build() -> (Stage, crate::daemon::Daemon) {
    let mut stage = Stage::prepare(Options { workers: (2, 2), ..Options::default() });
    let (v4, v6) = (Ipv4Addr::new(10, 77, 0, 3), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3));
    let (mut newcomer, peer) = stage.tunnel.another_client(v4, v6);
    newcomer.flags = ["--tun", "other0"].map(str::to_owned).into();
    stage.tunnel.peers.push(peer);
    stage.tunnel.write_server_config();
    stage.start();
    (stage, newcomer)
}

fn flood(stage: &Stage, kind: Kind, rate: u32) -> Flood {
    let (host, key) = (&stage.attacker.host, &stage.tunnel.server_key);
    Flood::start(host, kind, SERVER.into(), key, rate).unwrap()
}

fn batches(stage: &Stage) -> u64 {
    stage.status(Side::Server).workers.iter().map(|worker| worker.batches).sum()
}

/// What a flood has come to.
struct Ebbed {
    /// How many datagrams there were.
    sent: u64,
    drops: Drops,
    /// How many of them a busy machine has let pile up in the kernel until there was no room.
    overflowed: u64,
    /// How many batches the workers have moved meanwhile.
    batches: u64,
    took: Duration,
}

/// Floods a server that has nothing else to do.
fn flood_alone(stage: &Stage, kind: Kind) -> Ebbed {
    let began = clock::now();
    let (before, batches_before) = (stage.drops(Side::Server), batches(stage));
    let flood = flood(stage, kind, RATE);
    thread::sleep(FLOODED_FOR);
    let sent = flood.stop();
    assert!(sent >= 1000, "{sent} datagrams");
    stage.await_added(Side::Server, &before, sent);
    let mut drops = stage.drops(Side::Server);
    for (reason, count) in before {
        *drops.get_mut(&reason).unwrap() -= count;
    }
    let overflowed = drops.remove(ControlQueueFull.name()).unwrap_or(0);
    let batches = batches(stage) - batches_before;
    Ebbed { sent, drops, overflowed, batches, took: clock::now() - began }
}

/// While the flood goes on, nothing of the session is lost and somebody new gets in.
#[track_caller]
fn serve_through(stage: &mut Stage, newcomer: &mut crate::daemon::Daemon, kind: Kind) {
    let flood = flood(stage, kind, RATE);
    let client = stage.tunnel.lab.client();
    let pinged = attempt(client, &format!("ping -n -q -i 0.01 -c 200 -W 5 {SERVER_V4}"));
    assert_eq!(PingSummary::of(&pinged), PingSummary { sent: 200, received: 200 });
    newcomer.start(client);
    let status = newcomer.await_status(PATIENCE, "the newcomer", |it| it.state == "up");
    let handshake_ms = status.peers[0].handshake_ms.unwrap();
    assert!(handshake_ms < 2000.0, "connected after {handshake_ms} ms");
    assert_eq!(newcomer.terminate().code(), Some(0));
    assert!(flood.stop() > 1000);
    await_ebb(stage);
}

/// What still waits in the kernel's buffers is counted, too.
#[track_caller]
fn await_ebb(stage: &Stage) {
    let mut last = stage.drops(Side::Server);
    let settled = || {
        thread::sleep(Duration::from_millis(100));
        let now = stage.drops(Side::Server);
        (std::mem::replace(&mut last, now) == last).then_some(())
    };
    wait_until(PATIENCE, "the flood to ebb", settled).unwrap();
}

#[test]
fn junk_stays_with_the_control_thread() {
    let (mut stage, mut newcomer) = build();
    let Ebbed { sent, drops, overflowed, batches, .. } = flood_alone(&stage, Kind::Junk);
    let read = sent - overflowed;
    assert_eq!(drops, Drops::from([(DatagramUnknownType.name().to_owned(), read)]));
    assert!(batches < IDLE_BATCHES, "workers have moved {batches} batches");
    serve_through(&mut stage, &mut newcomer, Kind::Junk);
    stage.assert_unharmed();
}

/// Initiations with a right `mac1` from forged addresses get at no more public-key work than the
/// budget, and all others cost a cookie that is forgotten.
#[test]
fn forged_initiations_stay_with_the_control_thread_and_within_their_budget() {
    let (mut stage, mut newcomer) = build();
    let ebbed = flood_alone(&stage, Kind::Initiations);
    let Ebbed { sent, drops, overflowed, batches, took } = ebbed;
    let worked = drops[HandshakeInvalid.name()];
    let challenged = drops[HandshakeCookieRequired.name()];
    // A machine that was busy makes up for it at once, and then more come than are read.
    let unread = overflowed + drops.get(HandshakeOverload.name()).unwrap_or(&0);
    assert_eq!(worked + challenged + unread, sent, "{drops:#?}");
    let earned = took.as_secs_f64() * f64::from(HANDSHAKES_UNPROVED_PPS);
    let budget = u64::from(HANDSHAKES_UNPROVED_BURST) + earned as u64 + 1;
    assert!(worked <= budget, "{drops:#?}");
    assert!(batches < IDLE_BATCHES, "workers have moved {batches} batches");
    serve_through(&mut stage, &mut newcomer, Kind::Initiations);
    stage.assert_unharmed();
}

/// These do reach the workers: a look-up and a count each.
#[test]
fn data_messages_of_no_session_cost_a_look_up() {
    let (mut stage, mut newcomer) = build();
    let Ebbed { sent, drops, .. } = flood_alone(&stage, Kind::Strangers);
    assert_eq!(drops, Drops::from([(SessionUnknown.name().to_owned(), sent)]));
    serve_through(&mut stage, &mut newcomer, Kind::Strangers);
    stage.assert_unharmed();
}

/// What as many datagrams as the machine can send, up to 100,000 a second, do to somebody who wants
/// in, and to the server. On a machine that does nothing else it takes a quarter of a second, which
/// perf/flood.rs measures; the bound here is for one that runs other tests, unoptimised.
#[test]
fn somebody_new_gets_in_while_a_large_flood_goes_on() {
    let (stage, mut newcomer) = build();
    for kind in [Kind::Initiations, Kind::Claims, Kind::Junk, Kind::Strangers] {
        let began = clock::now();
        let flood = flood(&stage, kind, LARGE);
        // More than anybody has answered at once.
        let flooding = || (flood.sent() >= 20_000).then_some(());
        wait_until(PATIENCE, "the flood to rise", flooding).unwrap();
        let before = flood.sent();
        newcomer.start(stage.tunnel.lab.client());
        let status = newcomer.await_status(PATIENCE, "the newcomer", |it| it.state == "up");
        let meanwhile = flood.sent() - before;
        assert!(newcomer.terminate().success());
        let sent = flood.stop();
        let handshake_ms = status.peers[0].handshake_ms.unwrap();
        let rate = sent as f64 / (clock::now() - began).as_secs_f64();
        println!("{kind:?}: {rate:.0} datagrams a second, connected after {handshake_ms:.1} ms");
        assert!(meanwhile > 0, "{kind:?}: the flood had ended");
        assert!(handshake_ms < 6000.0, "{kind:?}: connected after {handshake_ms} ms");
        await_ebb(&stage);
    }
    stage.assert_unharmed();
}
