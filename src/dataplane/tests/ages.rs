//! A session is not used past its last age, whatever the control thread does meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{CLIENT, CLIENT_INDEX, SERVER, SERVER_INDEX, Side, install, ping};
use crate::dataplane::messages::{SessionInstall, WorkerCommand};
use crate::limits::SESSIONS_PER_PEER_MAX;
use crate::session::keys::LaneSecret;
use crate::session::lanes::Role;
use crate::telemetry::drops::DropReason;
use crate::wire::{PathMessage, SessionIndex};

const SECOND: Duration = Duration::from_secs(1);
const INSTANT: Duration = Duration::from_nanos(1);

/// A client and a server with a session that expires this long from the client's now.
fn pair_expiring(after: Duration) -> (Side, Side) {
    let (mut client, mut server) = (Side::of(0), Side::of(0));
    server.now = client.now;
    client.own("10.8.0.0/24");
    server.own("10.8.0.2/32");
    for (side, role) in [(&mut server, Role::Server), (&mut client, Role::Client)] {
        let install = SessionInstall { expires: side.now + after, ..install(role, 1, 1) };
        side.command(WorkerCommand::InstallSession(Box::new(install)));
    }
    let first = client.encapsulate(ping(CLIENT, SERVER));
    assert_eq!(server.decapsulate(&first, 1000, 0).len(), 1);
    (client, server)
}

/// What the worker makes of commands that have it send.
fn sent_by_command(side: &mut Side, session: SessionIndex) -> usize {
    let message = PathMessage::Probe { path: 0, token: 1 };
    side.command(WorkerCommand::SendPathMessage { session, message, plaintext_len: 0 });
    side.command(WorkerCommand::SendKeepalive { session });
    side.flush();
    std::mem::take(&mut side.wire.datagrams).len()
}

#[test]
fn a_session_seals_until_its_last_age_without_a_word_from_the_control_thread() {
    let (mut client, mut server) = pair_expiring(SECOND);
    for (side, session, packet) in [
        (&mut client, CLIENT_INDEX, ping(CLIENT, SERVER)),
        (&mut server, SERVER_INDEX, ping(SERVER, CLIENT)),
    ] {
        side.now += SECOND - INSTANT;
        assert_eq!(side.encapsulate(packet.clone()).len(), 1);
        assert_eq!(sent_by_command(side, session), 2);
        side.now += INSTANT;
        assert!(side.encapsulate(packet).is_empty());
        assert_eq!(sent_by_command(side, session), 0);
        side.assert_only_drop(DropReason::NoSession, 1);
        assert_eq!(side.sessions(), 0, "its keys are gone");
    }
}

#[test]
fn a_session_opens_until_its_last_age_without_a_word_from_the_control_thread() {
    let (mut client, mut server) = pair_expiring(SECOND);
    let mut sealed = || vec![client.encapsulate(ping(CLIENT, SERVER)).remove(0)];
    let (early, late) = (sealed(), sealed());
    server.now += SECOND - INSTANT;
    assert_eq!(server.decapsulate(&early, 1000, 0).len(), 1);
    server.now += INSTANT;
    assert!(server.decapsulate(&late, 1000, 0).is_empty());
    server.assert_only_drop(DropReason::SessionUnknown, 1);
}

/// The whole process may be stopped between two of its threads: what the one has asked for, the
/// other gets to do much later.
#[test]
fn a_session_that_is_too_old_when_it_arrives_is_not_installed() {
    let mut client = Side::of(0);
    client.own("10.8.0.0/24");
    let install = SessionInstall { expires: client.now + SECOND, ..install(Role::Client, 1, 1) };
    let message = PathMessage::Probe { path: 0, token: 1 };
    let (session, plaintext_len) = (install.local, 0);
    for command in [
        WorkerCommand::InstallSession(Box::new(install)),
        WorkerCommand::SendPathMessage { session, message, plaintext_len },
    ] {
        client.commands.send(command).unwrap();
    }
    client.now += SECOND;
    client.apply_commands();
    client.flush();
    assert!(client.wire.datagrams.is_empty() && client.sessions() == 0);
}

#[test]
fn sessions_of_a_peer_end_each_at_its_time() {
    let mut client = Side::of(0);
    client.own("10.8.0.0/24");
    let began = client.now;
    for number in 0..3 {
        client.command(WorkerCommand::InstallSession(Box::new(SessionInstall {
            local: SessionIndex(number),
            expires: began + SECOND * (1 + number),
            send_secret: Arc::new(LaneSecret::new([number as u8; 32])),
            ..install(Role::Client, 1, 1)
        })));
    }
    for (second, left) in [(0, 3), (1, 2), (2, 1), (3, 0)] {
        client.now = began + SECOND * second;
        let sealed = client.encapsulate(ping(CLIENT, SERVER));
        assert_eq!((sealed.len(), client.sessions()), (usize::from(left > 0), left));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Install { session: u32, life_s: u64 },
    Remove { session: u32 },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..SESSIONS_PER_PEER_MAX as u32;
    prop_oneof![
        (session.clone(), 0_u64..5).prop_map(|(session, life_s)| Step::Install { session, life_s }),
        session.prop_map(|session| Step::Remove { session }),
        (0_u64..2000).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    /// Whatever order sessions come, go and age in, those that are neither removed nor too old are
    /// there, and nothing is remembered of the others.
    #[test]
    fn a_worker_has_the_sessions_whose_time_is_not_over(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut side = Side::of(0);
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Install { session, life_s } => {
                    let expires = side.now + SECOND * life_s as u32;
                    model.entry(session).or_insert(expires);
                    let install = SessionInstall {
                        local: SessionIndex(session),
                        expires,
                        ..install(Role::Client, 1, 1)
                    };
                    side.command(WorkerCommand::InstallSession(Box::new(install)));
                }
                Step::Remove { session } => {
                    model.remove(&session);
                    let session = SessionIndex(session);
                    side.command(WorkerCommand::RemoveSession { session });
                }
                Step::Wait { ms } => {
                    side.now += Duration::from_millis(ms);
                    side.apply_commands();
                }
            }
            model.retain(|_, expires| side.now < *expires);
            let tables = &mut side.forwarder.tables;
            for session in 0..SESSIONS_PER_PEER_MAX as u32 {
                let is_there = tables.session(SessionIndex(session)).is_some();
                prop_assert_eq!(is_there, model.contains_key(&session));
            }
            prop_assert_eq!((tables.sessions(), tables.expiries()), (model.len(), model.len()));
        }
    }
}
