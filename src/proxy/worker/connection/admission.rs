//! Learns who a client is, and sees to it that it does no more than it may.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::accounts::model::{Id, SessionEnd};
use crate::accounts::names::Name;
use crate::accounts::refusal::{self as accounts, RefusalCode};
use crate::accounts::service::{PassProof, PassTerms, refusal_of};
use crate::limits::{
    BUSY_RETRY_AFTER, PROXY_DATAGRAM_HEADERS_LEN_V4, PROXY_DATAGRAM_HEADERS_LEN_V6,
};
use crate::packet::Upper;
use crate::proxy::access::{Access, Member, MemberSeat, Outcome, Permit, Shown, TooMany};
use crate::proxy::counters::Refusal;
use crate::proxy::detect::Protocol;
use crate::proxy::dial::{Asker, Failure};
use crate::proxy::forward::{Origin, Passing};
use crate::proxy::front::{Front, status_of, status_of_refusal};
use crate::proxy::http::{HeadScanner, Status};
use crate::proxy::records::Outcome as Ending;
use crate::proxy::relay::{Relay, admits};
use crate::proxy::settings::Auth;
use crate::proxy::stream::End;

use super::super::{Context, Order};
use super::forwarding::Purpose;
use super::{Connection, Phase};

/// Who a client is, if that is known.
#[derive(Debug, Default)]
pub(super) struct Visitor {
    permit: Option<Arc<Permit>>,
    /// What it has shown for that.
    shown: Option<Shown>,
    /// Its place among the connections of its user.
    seat: Option<MemberSeat>,
    /// What held for it when its ways were last decided.
    terms: Option<Arc<PassTerms>>,
}

impl Visitor {
    /// Whether it has said who it is.
    pub(super) fn is_known(&self) -> bool {
        self.permit.is_some()
    }

    /// Whether it is known by the very thing that it shows from there.
    pub(super) fn is_known_by(
        &self,
        access: &Option<Access>,
        from: IpAddr,
        proof: &PassProof,
    ) -> bool {
        let is_good = self.permit.as_ref().is_some_and(|permit| !permit.has_ended());
        let shown = || access.as_ref().map(|access| access.seal(from, proof));
        is_good && self.shown.is_some() && self.shown == shown()
    }

    /// It is whom the permit is for. Its place among the connections of a user stays where it is
    /// the same user.
    fn become_known(&mut self, permit: Arc<Permit>, shown: Shown) {
        let is_same = |before: &Arc<Permit>| before.member().user == permit.member().user;
        if !self.permit.as_ref().is_some_and(is_same) {
            self.seat = None;
        }
        self.terms = Some(permit.terms());
        (self.permit, self.shown) = (Some(permit), Some(shown));
    }

    /// Whether its groups are others than when this was last asked, or it became known.
    fn has_changed_groups(&mut self) -> bool {
        let now = self.terms();
        let before = std::mem::replace(&mut self.terms, now.clone());
        before.zip(now).is_some_and(|(before, now)| before.groups != now.groups)
    }

    /// Whether it may be connected to that address over TCP.
    pub(super) fn may_reach(&self, address: SocketAddr) -> bool {
        self.permit.as_ref().is_none_or(|permit| permit.may_reach(address, Upper::Tcp))
    }

    /// Who it is, with all of its other connections.
    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        self.permit.as_ref().map(|permit| permit.member())
    }

    /// Whether it may exchange datagrams with that address.
    pub(super) fn may_send_to(&self, address: SocketAddr) -> bool {
        self.permit.as_ref().is_none_or(|permit| permit.may_reach(address, Upper::Udp))
    }

    /// Whether its limits leave room for a datagram from it to `to` with so many bytes of payload,
    /// which is charged with its headers.
    pub(super) fn has_room_up(&self, now: Instant, to: IpAddr, len: usize) -> bool {
        let policy = self.permit.as_ref().map(|permit| permit.policy());
        let bucket = policy.as_ref().and_then(|policy| policy.up.as_deref());
        admits(bucket, now, headers_len(to) + len)
    }

    /// The same of one to it that comes from `from`.
    pub(super) fn has_room_down(&self, now: Instant, from: IpAddr, len: usize) -> bool {
        let policy = self.permit.as_ref().map(|permit| permit.policy());
        let bucket = policy.as_ref().and_then(|policy| policy.down.as_deref());
        admits(bucket, now, headers_len(from) + len)
    }

    /// Who it is.
    pub(super) fn user(&self) -> Option<&Name> {
        self.permit.as_ref().map(|permit| &permit.member().name)
    }

    /// At whose expense names are looked up for it, if it comes from there.
    pub(super) fn asker(&self, from: IpAddr) -> Asker {
        self.member().map_or_else(|| Asker::Source(from.into()), |member| Asker::User(member.user))
    }

    /// What holds for the user beside the rules on addresses.
    pub(super) fn terms(&self) -> Option<Arc<PassTerms>> {
        self.permit.as_ref().map(|permit| permit.terms())
    }

    /// Whether it may go on being connected to that origin, which is `judged` if its socket leads
    /// to an upstream proxy.
    pub(super) fn may_keep(&self, origin: &End, judged: Option<SocketAddr>) -> bool {
        let Some(permit) = &self.permit else { return true };
        let address = judged.map_or_else(|| origin.stream.tcp().peer_addr(), Ok);
        address.is_ok_and(|address| permit.may_reach(address, Upper::Tcp))
    }

    /// Whether a request of it may go by that connection to an origin.
    pub(super) fn may_use(&self, origin: &Origin) -> bool {
        let may_reach = |permit: &Arc<Permit>| {
            origin.address.is_some_and(|address| permit.may_reach(address, Upper::Tcp))
        };
        self.permit.as_ref().is_none_or(may_reach)
    }

    /// Has an exchange keep to what limits the user.
    pub(super) fn limit_exchange(&self, passing: &mut Passing) {
        if let Some(permit) = &self.permit {
            let policy = permit.policy();
            passing.set_limits(policy.up.clone(), policy.down.clone());
        }
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
        let proof = self.voucher.and(proof);
        let (id, handle) = (self.id, cx.handle.clone());
        let answer = move |outcome| handle.give(Order::Known(id, outcome));
        let Some(access) = &cx.access else {
            // Without accounts nobody is anybody.
            return self.refuse_login(&refusal_of(SessionEnd::Revoked), cx);
        };
        asking.login_pending = Some(access.seal(from, &proof));
        if let Some(permit) = access.ask(cx.now, from, proof, answer) {
            self.settle_login(Ok(permit), cx);
        }
    }

    /// It was decided who the client is.
    pub(in super::super) fn settle_login(&mut self, outcome: Outcome, cx: &mut Context) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        let Some(shown) = asking.login_pending.take() else { return };
        let was_by_certificate = self.voucher.settle();
        let outcome = outcome.and_then(|permit| match permit.end() {
            Some(end) => Err(refusal_of(end).of(permit.member().name.clone())),
            None => Ok(permit),
        });
        if let Some(form) = asking.vouching.take() {
            return self.vouch(form, outcome, cx);
        }
        match outcome {
            Ok(permit) => {
                asking.front.admit(&mut asking.output);
                // What was done for one is not used for another unasked.
                self.give_up_kept(cx);
                self.visitor.become_known(permit, shown);
            }
            // It may show more, which does not help against a quota.
            Err(refusal) if was_by_certificate && refusal.code != RefusalCode::QuotaExceeded => {}
            Err(refusal) => self.refuse_login(&refusal, cx),
        }
    }

    /// The accounts have not decided in time who the client is, or whom it asks about.
    pub(super) fn give_up_login(&mut self, cx: &mut Context) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        asking.login_pending = None;
        let message = "the accounts have not decided in time";
        let busy = accounts::Refusal::for_now(RefusalCode::Busy, message, BUSY_RETRY_AFTER);
        match asking.vouching.take() {
            Some(form) => {
                self.vouch(form, Err(busy), cx);
                // An answer that comes late is not to be taken for that to the next inquiry.
                if let Phase::Asking(_) = self.phase {
                    self.begin_parting(cx);
                }
            }
            None => self.refuse_login(&busy, cx),
        }
    }

    fn refuse_login(&mut self, refusal: &accounts::Refusal, cx: &Context) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        // A certificate counts before anything that is said inside of TLS is heard.
        if let (Front::Silent, Some(first)) = (&asking.front, asking.input.first())
            && Protocol::of(*first).filter(|it| self.rules.has(*it)) == Some(Protocol::Http)
        {
            asking.front = Front::Http(HeadScanner::default());
        }
        asking.front.turn_down(refusal, &mut asking.output);
        let reason = Refusal::by_accounts(refusal.code);
        self.refuse_user(refusal.user.as_ref(), reason, cx);
        self.begin_parting(cx);
    }

    /// Lets the client have what it wants, if it may have another connection. Where that is not
    /// needed yet, its connection waits to be used, and gives its place to another one of its user
    /// that `is_needed`.
    pub(super) fn ensure_welcome(&mut self, is_needed: bool, cx: &Context) -> Result<(), Failure> {
        let Some(permit) = &self.visitor.permit else {
            return match self.rules.auth {
                Auth::Off => Ok(()),
                Auth::Required => Err(Failure::Ruled),
            };
        };
        let keeps_place = |seat: &mut MemberSeat| match is_needed {
            true => seat.stop_waiting(),
            false => seat.is_held(),
        };
        if self.visitor.seat.as_mut().is_some_and(keeps_place) {
            return Ok(());
        }
        let bounds = permit.terms().bounds;
        let most = bounds.connections_max.map_or(self.rules.connections_per_user_max, |most| {
            usize::try_from(most).unwrap_or(usize::MAX)
        });
        let per_second = bounds.connections_per_s.or(self.rules.connections_per_user_per_s);
        let seat = permit.member().enter(cx.now, is_needed, most, per_second);
        let mut seat = seat.map_err(|too_many| match too_many {
            TooMany::AtOnce => Failure::UserFull,
            TooMany::TooFast => Failure::UserTooFast,
        })?;
        if !is_needed {
            let (id, handle) = (self.id, cx.handle.clone());
            seat.wait(move || handle.give(Order::MakeWay(id)));
        }
        self.visitor.seat = Some(seat);
        Ok(())
    }

    /// Another connection of its user may have its place: then it has to go, having waited for
    /// nothing.
    pub(in super::super) fn make_way(&mut self, cx: &Context) {
        let is_held = self.visitor.seat.as_ref().is_none_or(MemberSeat::is_held);
        if !is_held && let Phase::Asking(_) = self.phase {
            cx.counters.refuse(Refusal::MadeRoom);
            self.phase = Phase::Over;
        }
    }

    /// Whether it rests on that pass.
    pub(in super::super) fn rests_on(&self, pass: Id) -> bool {
        self.visitor.permit.as_ref().is_some_and(|permit| permit.id() == pass)
    }

    /// The pass is no longer good, or other terms hold: what the client may not have any more ends.
    pub(in super::super) fn review(&mut self, cx: &mut Context) {
        let end = self.visitor.permit.as_ref().and_then(|permit| permit.end());
        let has_ended = end.is_some();
        let refusal = Refusal::by_accounts(refusal_of(end.unwrap_or(SessionEnd::Revoked)).code);
        // What it has now it may have got by a rule for a group that it has left.
        let is_moved = self.rules.routes.asks_for_groups() && self.visitor.has_changed_groups();
        // Nobody can tell when the next request comes.
        if self.kept.as_ref().is_some_and(|(it, _)| is_moved || !self.visitor.may_use(it)) {
            self.give_up_kept(cx);
        }
        match &mut self.phase {
            Phase::Relaying(relaying)
                if !is_moved && self.visitor.may_keep(&relaying.origin, relaying.judged) =>
            {
                self.visitor.limit(&mut relaying.relay);
            }
            Phase::Relaying(_) => {
                cx.counters.revoked.add(1);
                self.ledger.note(Ending::Revoked);
                self.reset();
            }
            Phase::Forwarding(forwarding)
                if !is_moved && self.visitor.may_use(&forwarding.origin) =>
            {
                self.visitor.limit_exchange(&mut forwarding.passing);
            }
            Phase::Forwarding(_) => {
                cx.counters.revoked.add(1);
                self.ledger.note(Ending::Revoked);
                let (status, text) = why_ended(end);
                self.end_with_page(status, &text, cx);
            }
            Phase::Dialling(_) if is_moved && !has_ended => self.fail(Failure::Ruled, cx),
            Phase::Dialling(dialling) if has_ended => match &dialling.purpose {
                Purpose::Relay => self.turn_away(refusal, cx),
                Purpose::Forward(passing) => {
                    cx.counters.refuse(refusal);
                    let (status, text) = why_ended(end);
                    let output = passing.page(status, &text);
                    self.ledger.note(Ending::Refused(refusal));
                    self.ledger.tell(Some(status.code()));
                    self.part_with(output, cx);
                }
            },
            // What is being decided now decides about the next request.
            Phase::Asking(asking) if has_ended && asking.login_pending.is_none() => {
                let user = self.visitor.user().cloned();
                self.refuse_user(user.as_ref(), refusal, cx);
                self.phase = Phase::Over;
            }
            Phase::Binding(_) if has_ended || is_moved => {
                cx.counters.revoked.add(1);
                self.ledger.note(Ending::Revoked);
                self.fail(Failure::Ruled, cx);
            }
            Phase::Associating(_) if has_ended || is_moved => {
                cx.counters.revoked.add(1);
                self.ledger.note(Ending::Revoked);
                self.phase = Phase::Over;
            }
            // An address is judged when it is dialled, and when it is reached or comes to a port,
            // and that of a datagram whenever one passes.
            _ => {}
        }
    }
}

/// Bytes that a datagram from or to a host has beside its payload.
fn headers_len(host: IpAddr) -> usize {
    match host.to_canonical() {
        IpAddr::V4(_) => PROXY_DATAGRAM_HEADERS_LEN_V4,
        IpAddr::V6(_) => PROXY_DATAGRAM_HEADERS_LEN_V6,
    }
}

/// What a client hears whose request may not go on.
fn why_ended(end: Option<SessionEnd>) -> (Status, String) {
    match end.map(refusal_of) {
        Some(refusal) => {
            let otherwise = Status::ProxyAuthenticationRequired;
            (status_of_refusal(refusal.code, otherwise), refusal.message)
        }
        None => (status_of(Failure::Ruled), Failure::Ruled.to_string()),
    }
}
