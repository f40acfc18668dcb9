//! What other threads want of the engine.

use crossbeam_channel::bounded;

use super::*;
use crate::control::engine::AdmitError;
use crate::dataplane::messages::Receipt;

fn guest() -> PeerSetup {
    PeerSetup {
        public_key: *identity(3).public(),
        preshared_key: PresharedKey::default(),
        allowed: vec!["10.7.0.3/32".parse().unwrap()],
        policy: None,
    }
}

#[test]
fn peers_are_admitted_and_dismissed_from_another_thread() {
    let server = Server::start(Options::default());
    let (sender, admitted) = bounded(1);
    server.handle.admit(guest(), move |result| sender.send(result).unwrap());
    assert_eq!(admitted.recv_timeout(PATIENCE), Ok(Ok(())));
    assert!(matches!(server.command(), WorkerCommand::SetPrefixes(_)));
    assert_eq!(server.status().peers.len(), 2);

    let (guard, gone) = bounded::<()>(0);
    server.handle.dismiss(guest().public_key, Receipt::new(guard));
    assert!(matches!(server.command(), WorkerCommand::SetPrefixes(_)));
    let WorkerCommand::LetGo(receipt) = server.command() else { panic!("a receipt comes last") };
    assert!(gone.try_recv().is_err_and(|error| error.is_empty()), "this worker still has it");
    drop(receipt);
    assert!(gone.recv_timeout(PATIENCE).is_err_and(|error| error.is_disconnected()));
    assert_eq!(server.status().peers.len(), 1);
    assert!(matches!(server.ask(StatusRequest::Down), StatusAnswer::Ok));
    server.finish().unwrap();
}

#[test]
fn a_configured_peer_is_not_admitted() {
    let server = Server::start(Options::default());
    let (sender, admitted) = bounded(1);
    let peer = PeerSetup { public_key: *identity(2).public(), ..guest() };
    server.handle.admit(peer, move |result| sender.send(result).unwrap());
    assert_eq!(admitted.recv_timeout(PATIENCE), Ok(Err(AdmitError::KeyConfigured)));
    assert!(matches!(server.ask(StatusRequest::Down), StatusAnswer::Ok));
    server.finish().unwrap();
}

#[test]
fn nobody_waits_for_a_thread_that_has_ended() {
    let server = Server::start(Options::default());
    let handle = server.handle.clone();
    assert!(matches!(server.ask(StatusRequest::Down), StatusAnswer::Ok));
    server.finish().unwrap();
    let (guard, gone) = bounded::<()>(0);
    handle.dismiss(guest().public_key, Receipt::new(guard));
    assert!(gone.recv_timeout(PATIENCE).is_err_and(|error| error.is_disconnected()));
}
