//! Learns who a client is, and sees to it that it does no more than it may.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::accounts::model::{Id, SessionEnd};
use crate::accounts::names::Name;
use crate::accounts::service::{PassProof, refusal_of};
use crate::packet::Upper;
use crate::proxy::access::{MemberSeat, Outcome, Permit, TooMany};
use crate::proxy::counters::Refusal;
use crate::proxy::dial::Failure;
use crate::proxy::relay::Relay;
use crate::proxy::settings::Auth;
use crate::proxy::stream::End;

use super::super::{Context, Order};
use super::{Connection, Phase};

/// Who a client is, if that is known.
#[derive(Debug, Default)]
pub(super) struct Visitor {
    permit: Option<Arc<Permit>>,
    /// Its place among the connections of its user.
    seat: Option<MemberSeat>,
}

impl Visitor {
    /// Whether it has said who it is.
    pub(super) fn is_known(&self) -> bool {
        self.permit.is_some()
    }

    /// Whether it may be connected to that address over TCP.
    pub(super) fn may_reach(&self, address: SocketAddr) -> bool {
        self.permit.as_ref().is_none_or(|permit| permit.may_reach(address, Upper::Tcp))
    }

    /// Who it is.
    pub(super) fn user(&self) -> Option<&Name> {
        self.permit.as_ref().map(|permit| &permit.member().name)
    }

    /// Whether it may go on being connected to that origin, which is `judged` if its socket leads
    /// to an upstream proxy.
    pub(super) fn may_keep(&self, origin: &End, judged: Option<SocketAddr>) -> bool {
        let Some(permit) = &self.permit else { return true };
        let address = judged.map_or_else(|| origin.stream.tcp().peer_addr(), Ok);
        address.is_ok_and(|address| permit.may_reach(address, Upper::Tcp))
    }

    /// Has a relay keep to what limits the user.
    pub(super) fn limit(&self, relay: &mut Relay) {
        if let Some(permit) = &self.permit {
            let policy = permit.policy();
            relay.set_limits(policy.up.clone(), policy.down.clone());
        }
    }

    /// Counts what it has moved.
    pub(super) fn count(&self, up: u64, down: u64) {
        if let Some(permit) = &self.permit {
            permit.member().count(up, down);
        }
    }
}

impl Connection {
    /// The client shows who it is.
    pub(super) fn begin_login(&mut self, proof: PassProof, cx: &mut Context) {
        let from = self.from.ip();
        let Phase::Asking(asking) = &mut self.phase else { return };
        asking.login_pending = true;
        let (id, handle) = (self.id, cx.handle.clone());
        let answer = move |outcome| handle.give(Order::Known(id, outcome));
        let known = match &cx.access {
            Some(access) => access.ask(cx.now, from, proof, answer).map(Ok),
            // Without accounts nobody is anybody.
            None => Some(Err(refusal_of(SessionEnd::Revoked))),
        };
        if let Some(outcome) = known {
            self.settle_login(outcome, cx);
        }
    }

    /// It was decided who the client is.
    pub(in super::super) fn settle_login(&mut self, outcome: Outcome, cx: &mut Context) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        if !std::mem::take(&mut asking.login_pending) {
            return;
        }
        let is_good = |permit: &Arc<Permit>| !permit.has_ended();
        let revoked = || refusal_of(SessionEnd::Revoked);
        match outcome.and_then(|permit| Some(permit).filter(is_good).ok_or_else(revoked)) {
            Ok(permit) => {
                asking.front.admit(&mut asking.output);
                self.visitor.permit = Some(permit);
            }
            Err(refusal) => {
                cx.counters.refuse(Refusal::LoginRefused);
                asking.front.turn_down(&refusal, &mut asking.output);
                self.begin_parting(cx);
            }
        }
    }

    /// Lets the client have what it wants, if it may have another connection.
    pub(super) fn ensure_welcome(&mut self, cx: &Context) -> Result<(), Failure> {
        let Some(permit) = &self.visitor.permit else {
            return match self.rules.auth {
                Auth::Off => Ok(()),
                Auth::Required => Err(Failure::Ruled),
            };
        };
        if self.visitor.seat.is_none() {
            let (most, per_second) =
                (self.rules.connections_per_user_max, self.rules.connections_per_user_per_s);
            let seat = permit.member().enter(cx.now, most, per_second);
            self.visitor.seat = Some(seat.map_err(|too_many| match too_many {
                TooMany::AtOnce => Failure::UserFull,
                TooMany::TooFast => Failure::UserTooFast,
            })?);
        }
        Ok(())
    }

    /// Whether it rests on that pass.
    pub(in super::super) fn rests_on(&self, pass: Id) -> bool {
        self.visitor.permit.as_ref().is_some_and(|permit| permit.id() == pass)
    }

    /// The pass is no longer good, or other terms hold: what the client may not have any more ends.
    pub(in super::super) fn review(&mut self, cx: &mut Context) {
        let has_ended = self.visitor.permit.as_ref().is_some_and(|permit| permit.has_ended());
        match &mut self.phase {
            Phase::Relaying(relaying)
                if self.visitor.may_keep(&relaying.origin, relaying.judged) =>
            {
                self.visitor.limit(&mut relaying.relay);
            }
            Phase::Relaying(_) => {
                cx.counters.revoked.add(1);
                self.reset();
            }
            Phase::Asking(_) | Phase::Dialling(_) if has_ended => {
                self.turn_away(Refusal::LoginRefused, cx);
            }
            // An address is judged when it is dialled, and when it is reached; for those who say
            // who they are no requests are forwarded.
            _ => {}
        }
    }
}
