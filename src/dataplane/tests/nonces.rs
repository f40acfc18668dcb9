//! No command, in whatever order, makes a worker use a nonce twice.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::{CLIENT, CLIENT_INDEX, PEER, SERVER, SERVER_INDEX, Side, frame, install, udp_packet};
use crate::dataplane::messages::{Endpoint, SessionInstall, WorkerCommand};
use crate::limits::REJECT_AFTER;
use crate::routing::PrefixTable;
use crate::session::keys::LaneSecret;
use crate::session::lanes::Role;
use crate::wire::{DataHeader, PathMessage, SessionIndex};

/// What may happen to a worker.
#[derive(Clone, Copy, Debug)]
enum Step {
    Install(usize),
    Remove(usize),
    Move(usize),
    Keepalive(usize),
    Probe(usize),
    Packet,
    Prefixes,
    Attach(bool),
    /// A quarter of a session's life passes.
    Age,
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..3_usize;
    prop_oneof![
        3 => session.clone().prop_map(Step::Install),
        2 => session.clone().prop_map(Step::Remove),
        1 => session.clone().prop_map(Step::Move),
        2 => session.clone().prop_map(Step::Keepalive),
        1 => session.prop_map(Step::Probe),
        4 => Just(Step::Packet),
        1 => Just(Step::Prefixes),
        1 => any::<bool>().prop_map(Step::Attach),
        1 => Just(Step::Age),
    ]
}

/// Three sessions of one peer, each with secrets of its own.
fn sessions() -> [SessionInstall; 3] {
    [0_u32, 1, 2].map(|number| SessionInstall {
        local: SessionIndex(CLIENT_INDEX.0 + number),
        remote: SessionIndex(SERVER_INDEX.0 + number),
        send_secret: Arc::new(LaneSecret::new([number as u8; 32])),
        ..install(Role::Client, 1, 1)
    })
}

fn take(side: &mut Side, step: Step, sessions: &[SessionInstall; 3]) {
    let index = |session: usize| sessions[session].local;
    let endpoint = Endpoint { remote: ([192, 0, 2, 9], 9).into(), local: None, listener: 0 };
    side.command(match step {
        Step::Install(session) => {
            WorkerCommand::InstallSession(Box::new(sessions[session].clone()))
        }
        Step::Remove(session) => WorkerCommand::RemoveSession { session: index(session) },
        Step::Move(session) => {
            WorkerCommand::SetPathEndpoint { session: index(session), path: 0, endpoint }
        }
        Step::Keepalive(session) => WorkerCommand::SendKeepalive { session: index(session) },
        Step::Probe(session) => WorkerCommand::SendPathMessage {
            session: index(session),
            message: PathMessage::Probe { path: 0, token: 1 },
            plaintext_len: 0,
        },
        Step::Packet => {
            let mut packet = frame(&udp_packet(CLIENT, SERVER, 100));
            return side.forwarder.encapsulate(&mut packet, &mut side.wire, &mut side.tun);
        }
        Step::Prefixes => {
            let table = PrefixTable::from_entries([("10.8.0.0/24".parse().unwrap(), PEER)]);
            WorkerCommand::SetPrefixes(Arc::new(table))
        }
        Step::Attach(attached) => WorkerCommand::SetQueueAttached(attached),
        Step::Age => {
            side.now += REJECT_AFTER / 4;
            return side.forwarder.begin_turn(side.now);
        }
    });
}

proptest! {
    #[test]
    fn no_nonce_is_used_twice(steps in prop::collection::vec(step(), 1..60)) {
        let mut side = Side::of(0);
        side.own("10.8.0.0/24");
        let sessions = sessions();
        for step in steps {
            take(&mut side, step, &sessions);
        }
        side.forwarder.flush(&mut side.wire);
        let mut used = HashSet::new();
        for datagram in &side.wire.datagrams {
            let DataHeader { lane, receiver, counter } = DataHeader::parse(datagram).unwrap();
            prop_assert!(used.insert((receiver, lane, counter)), "{receiver:?} {lane} {counter}");
        }
    }
}
