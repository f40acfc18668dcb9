//! What both roles share: who we are, randomness, and the queues of outputs.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::{CryptoRng, Rng};

use crate::dataplane::messages::{Endpoint, WorkerCommand};
use crate::handshake::{HandshakeError, LocalIdentity};
use crate::limits::padded_len;
use crate::session::lanes::LanePlan;
use crate::telemetry::counters::DropCounters;
use crate::telemetry::drops::DropReason;
use crate::wire::{Features, SessionIndex, WireError};

use super::{EngineEvent, Target};

/// The part of an engine that does not depend on its role.
pub(super) struct Core {
    pub(super) identity: Arc<LocalIdentity>,
    pub(super) workers: u8,
    pub(super) features: Features,
    /// The plaintext that every path should carry: the padded MTU of the TUN device.
    pub(super) plaintext_wanted: usize,
    /// What workers take every path to carry until they are told otherwise.
    pub(super) plaintext_of_workers: usize,
    /// All keys come from it.
    pub(super) rng: Box<dyn CryptoRng + Send>,
    pub(super) drops: Arc<DropCounters>,
    /// A clean stop has begun.
    pub(super) closing: bool,
    pub(super) transmits: VecDeque<(Endpoint, Vec<u8>)>,
    pub(super) commands: VecDeque<(Target, WorkerCommand)>,
    pub(super) events: VecDeque<EngineEvent>,
}

impl Core {
    pub(super) fn new(
        identity: Arc<LocalIdentity>,
        workers: u8,
        features: Features,
        tun_mtu: u16,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        let plaintext_wanted = padded_len(usize::from(tun_mtu));
        Self {
            identity,
            workers,
            features,
            plaintext_wanted,
            plaintext_of_workers: plaintext_wanted,
            rng,
            drops: Arc::default(),
            closing: false,
            transmits: VecDeque::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn command(&mut self, target: Target, command: WorkerCommand) {
        self.commands.push_back((target, command));
    }

    /// A command for the workers that take part in a session.
    pub(super) fn command_session(&mut self, plan: &LanePlan, command: WorkerCommand) {
        if plan.own_workers() == self.workers {
            self.command(Target::All, command);
            return;
        }
        for worker in plan.participants() {
            self.command(Target::Worker(worker), command.clone());
        }
    }

    pub(super) fn event(&mut self, event: EngineEvent) {
        self.events.push_back(event);
    }

    pub(super) fn transmit(&mut self, to: Endpoint, datagram: Vec<u8>) {
        self.transmits.push_back((to, datagram));
    }

    pub(super) fn count(&self, reason: DropReason) {
        self.drops.add(reason, 1);
    }

    pub(super) fn count_error(&self, error: &HandshakeError) {
        self.count(match error {
            HandshakeError::Datagram(WireError::Truncated { .. }) => DropReason::DatagramTruncated,
            HandshakeError::Datagram(WireError::TooLong { .. }) => DropReason::DatagramTooLong,
            HandshakeError::Datagram(_) => DropReason::DatagramUnknownType,
            HandshakeError::Overload => DropReason::HandshakeOverload,
            HandshakeError::MacInvalid => DropReason::HandshakeMacInvalid,
            HandshakeError::RateLimited => DropReason::HandshakeRateLimited,
            HandshakeError::Invalid(_) => DropReason::HandshakeInvalid,
            HandshakeError::Unexpected => DropReason::HandshakeUnexpected,
            HandshakeError::CookieInvalid => DropReason::CookieInvalid,
        });
    }

    /// A session index that `taken` does not know, uniform over all others.
    pub(super) fn unused_index(&mut self, taken: impl Fn(SessionIndex) -> bool) -> SessionIndex {
        loop {
            let index = SessionIndex(self.rng.random());
            if !taken(index) {
                return index;
            }
        }
    }
}
