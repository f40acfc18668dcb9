//! Forwards a request of HTTP.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::proxy::counters::Refusal;
use crate::proxy::dial::Failure;
use crate::proxy::forward::{Errand, Mishap, Origin, Pace, Passing, Waits};
use crate::proxy::front::{Front, status_of};
use crate::proxy::http::{Fate, HeadScanner, Status};
use crate::proxy::records::Outcome;
use crate::proxy::settings::Rules;
use crate::proxy::stream::End;
use crate::proxy::target::Target;
use crate::proxy::upstream::Way;
use crate::proxy::upstream::group::Lease;

use super::super::Context;
use super::{Asking, Connection, Forwarding, Parting, Phase, Relaying, Step, Turn};
use crate::limits::{PROXY_BODY_BYTE_LASTS, PROXY_PARTING_WITHIN};

/// The number of the socket of an origin that was kept.
const KEPT_SOCKET: usize = 1;

impl Connection {
    /// The client wants a request to be forwarded.
    pub(super) fn begin_forwarding(&mut self, errand: Errand, cx: &mut Context) {
        let Phase::Asking(asking) = std::mem::replace(&mut self.phase, Phase::Over) else { return };
        cx.counters.requests.add(1);
        let key = (errand.scheme, errand.to.clone());
        let passing = Passing::new(errand, asking.input, asking.output);
        let visitor = &self.visitor;
        let own = self.kept.take_if(|(it, _)| it.key == key && visitor.may_use(it));
        if let Some((mut origin, socket)) = own
            && origin.end.is_quiet()
        {
            return self.reuse(passing, origin, socket, cx);
        }
        self.give_up_kept(cx);
        let token = self.id.token(KEPT_SOCKET);
        let kept = match self.is_shared(&key.1) {
            true => {
                let may_use = |origin: &Origin| self.visitor.may_use(origin);
                cx.pool.take(&key, &self.rules, may_use, &cx.registry, token)
            }
            false => None,
        };
        match kept {
            Some(origin) => self.reuse(passing, origin, KEPT_SOCKET, cx),
            None => self.begin_dialling(&key.1, Purpose::Forward(Box::new(passing)), cx),
        }
    }

    /// Whether a connection to `target` may come from other clients, and go to them: not if it
    /// depends on rules, which may be others for them, how it is reached.
    fn is_shared(&self, target: &Target) -> bool {
        self.decide(target, None) == Some(Way::Direct) && self.rules.routes.is_same_for_all(target)
    }

    fn reuse(&mut self, mut passing: Passing, origin: Origin, socket: usize, cx: &mut Context) {
        cx.counters.reused.add(1);
        self.note_reuse(&origin);
        passing.errand.exchange.set_reused(true);
        self.pass(Box::new(passing), origin, socket, cx);
    }

    /// The origin has been reached for a request.
    pub(super) fn pass_over(
        &mut self,
        passing: Box<Passing>,
        (end, socket): (End, usize),
        judged: Option<SocketAddr>,
        lease: Option<Lease>,
        cx: &mut Context,
    ) {
        let key = (passing.errand.scheme, passing.errand.to.clone());
        let is_bound = !self.is_shared(&key.1);
        let address = judged.or_else(|| end.stream.tcp().peer_addr().ok());
        self.pass(passing, Origin { end, key, is_bound, address, lease }, socket, cx);
    }

    fn pass(
        &mut self,
        mut passing: Box<Passing>,
        mut origin: Origin,
        socket: usize,
        cx: &mut Context,
    ) {
        // Other limits may have come while the origin was being reached.
        self.visitor.limit_exchange(&mut passing);
        origin.is_bound |= passing.errand.binds_origin;
        let until = cx.now + patience(passing.waits(), &self.rules);
        self.phase = Phase::Forwarding(Box::new(Forwarding { passing, origin, socket, until }));
    }

    /// The origin of a request cannot be reached.
    pub(super) fn fail_request(&mut self, passing: &Passing, failure: Failure, cx: &Context) {
        cx.counters.fail(failure);
        self.ledger.note(Outcome::Failed(failure));
        self.ledger.tell(Some(status_of(failure).code()));
        let output = passing.page(status_of(failure), &failure.to_string());
        self.part_with(output, cx);
    }

    /// Goes on forwarding a request.
    pub(super) fn forward(&mut self, cx: &mut Context) -> Step {
        let Phase::Forwarding(forwarding) = &mut self.phase else { return Step::Next };
        if self.client.is_hung_up() {
            return Step::Turn(Turn::Over);
        }
        let Forwarding { passing, origin, until, .. } = &mut **forwarding;
        let (up, down, waited) = (passing.up.bytes(), passing.down.bytes(), passing.waits());
        let pace = passing.turn(cx.now, &mut self.client, &mut origin.end, &mut cx.buffers);
        let (up, down) = (passing.up.bytes() - up, passing.down.bytes() - down);
        let is_held = passing.resumes_at().is_some();
        if up + down > 0 || passing.waits() != waited || is_held {
            let latest = cx.now + patience(passing.waits(), &self.rules);
            let is_same_body = (waited, passing.waits()) == (Waits::Request, Waits::Request);
            *until = match is_same_body && !is_held {
                true => later_for(up, *until, latest),
                // Time that a limit of the user takes is nobody's delay.
                false => latest,
            };
            cx.counters.up_bytes.add(up);
            cx.counters.down_bytes.add(down);
            self.visitor.count(up, down);
            self.ledger.count(up, down);
        }
        match pace {
            Ok(Pace::Wait) => Step::Turn(Turn::Wait),
            Ok(Pace::Again) => Step::Turn(Turn::Again),
            Ok(Pace::Over(fate)) => {
                self.conclude_exchange(fate, cx);
                Step::Next
            }
            Err(mishap) => {
                self.meet(mishap, cx);
                Step::Next
            }
        }
    }

    /// The exchange is over.
    fn conclude_exchange(&mut self, fate: Fate, cx: &mut Context) {
        let Phase::Forwarding(forwarding) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        let Forwarding { passing, origin, socket, .. } = *forwarding;
        self.ledger.tell(passing.errand.exchange.status());
        let (client_kept, origin_kept) = match fate {
            Fate::Finished { client_kept, origin_kept } => (client_kept, origin_kept),
            Fate::Switched | Fate::Running => {
                let mut relay = passing.switch(&mut cx.buffers);
                self.visitor.limit(&mut relay);
                let until = cx.now + self.rules.idle_max;
                let Origin { end: origin, address: judged, lease: _lease, .. } = origin;
                let relaying = Relaying { origin, socket, relay, until, judged, _lease };
                self.phase = Phase::Relaying(Box::new(relaying));
                return;
            }
        };
        self.close_record(cx);
        if origin_kept {
            self.kept = Some((origin, socket));
        }
        let (input, output) = passing.end(&mut cx.buffers);
        if !client_kept || self.is_last(cx) {
            self.part_with(Vec::new(), cx);
            return;
        }
        let within =
            if input.is_empty() { self.rules.keep_alive } else { self.rules.request_within };
        self.phase = Phase::Asking(Asking {
            login_pending: None,
            vouching: None,
            front: Front::Http(HeadScanner::default()),
            input,
            output,
            until: cx.now + within,
            again: true,
        });
    }

    /// The exchange cannot go on.
    fn meet(&mut self, mishap: Mishap, cx: &mut Context) {
        let Phase::Forwarding(forwarding) = &self.phase else { return };
        let passing = &forwarding.passing;
        match mishap {
            Mishap::ClientGone => {
                self.ledger.tell(passing.errand.exchange.status());
                self.ledger.note(Outcome::ClientGone);
                self.phase = Phase::Over;
            }
            Mishap::Request(error) => {
                cx.counters.refuse(Refusal::Malformed);
                self.ledger.note(Outcome::Refused(Refusal::Malformed));
                self.end_with_page(error.request_status(), &error.to_string(), cx);
            }
            Mishap::Response(error) => {
                cx.counters.broken.add(1);
                self.ledger.note(Outcome::Broken);
                let text = format!("the answer of the origin is malformed: {error}");
                self.end_with_page(error.response_status(), &text, cx);
            }
            Mishap::OriginGone(_) if passing.errand.exchange.may_retry() => self.retry(cx),
            Mishap::OriginGone(error) => {
                log::debug!("proxy: an origin is gone: {error}");
                cx.counters.broken.add(1);
                self.ledger.note(Outcome::Broken);
                let text = "the origin closed the connection before it answered; try again";
                self.end_with_page(Status::BadGateway, text, cx);
            }
        }
    }

    /// The origin had closed the connection, as it may at any time between two requests: the
    /// request goes to a new one.
    fn retry(&mut self, cx: &mut Context) {
        let Phase::Forwarding(forwarding) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        let Forwarding { mut passing, origin, .. } = *forwarding;
        passing.begin_again();
        let (_, target) = origin.key;
        self.begin_dialling(&target, Purpose::Forward(passing), cx);
    }

    /// Ends an exchange that has failed: with a page if the client can still be told, and otherwise
    /// such that it does not take what it has got for the whole.
    pub(super) fn end_with_page(&mut self, status: Status, text: &str, cx: &Context) {
        let Phase::Forwarding(forwarding) = &self.phase else { return };
        if forwarding.passing.is_open_to_a_page() {
            // An origin that has got a part of a request is not to take it for the whole.
            forwarding.origin.end.stream.reset_on_close();
            let output = forwarding.passing.page(status, text);
            self.ledger.tell(Some(status.code()));
            self.part_with(output, cx);
        } else {
            self.ledger.tell(forwarding.passing.errand.exchange.status());
            self.reset();
        }
    }

    /// The time for what the exchange waits for is over.
    pub(super) fn give_up_exchange(&mut self, cx: &mut Context) {
        let Phase::Forwarding(forwarding) = &self.phase else { return };
        match forwarding.passing.waits() {
            Waits::Request => {
                cx.counters.refuse(Refusal::TooSlow);
                self.ledger.note(Outcome::Refused(Refusal::TooSlow));
                let text = "the request has not come in time";
                self.end_with_page(Status::RequestTimeout, text, cx);
            }
            Waits::Answer => {
                cx.counters.fail(Failure::TimedOut);
                self.ledger.note(Outcome::Failed(Failure::TimedOut));
                let text = "the origin has not answered in time";
                self.end_with_page(Status::GatewayTimeout, text, cx);
            }
            Waits::Rest => {
                cx.counters.timed_out.add(1);
                self.ledger.note(Outcome::Idle);
                let text = "nothing has moved for too long";
                self.end_with_page(Status::GatewayTimeout, text, cx);
            }
        }
    }

    /// The connection to an origin that the client had for itself goes to whoever needs it.
    pub(super) fn give_up_kept(&mut self, cx: &mut Context) {
        if let Some((origin, _)) = self.kept.take() {
            cx.pool.put(origin, &self.rules, cx.now, &cx.registry);
        }
    }

    /// Says the last words, and reads what the client still says for a while.
    pub(super) fn part_with(&mut self, output: Vec<u8>, cx: &Context) {
        self.close_record(cx);
        let until = cx.now + PROXY_PARTING_WITHIN;
        self.phase = Phase::Parting(Parting { output, shut: false, until });
    }
}

/// What an origin is reached for.
#[derive(Debug, Default)]
pub(super) enum Purpose {
    /// A relay.
    #[default]
    Relay,
    /// A request.
    Forward(Box<Passing>),
}

/// Until when the rest of a body may come of which so many bytes have come before `until`: at a
/// rate, or a byte now and then would hold a connection for ever.
fn later_for(bytes: u64, until: Instant, latest: Instant) -> Instant {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    latest.min(until + PROXY_BODY_BYTE_LASTS.saturating_mul(bytes))
}

/// How long an exchange may wait.
fn patience(waits: Waits, rules: &Rules) -> Duration {
    match waits {
        Waits::Request => rules.request_within,
        Waits::Answer => rules.response_within,
        Waits::Rest => rules.idle_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    /// How long a body lasts of which `bytes` come every `pause`, of an hour at most.
    fn lasts(bytes: u64, pause: Duration) -> Option<Duration> {
        let (start, within) = (clock::now(), Duration::from_secs(15));
        let (mut now, mut until) = (start, start + within);
        while now - start < Duration::from_secs(3600) {
            if now + pause > until {
                return Some(until - start);
            }
            now += pause;
            until = later_for(bytes, until, now + within);
        }
        None
    }

    #[test]
    fn a_body_that_trickles_has_its_time_and_a_slow_one_has_all_it_needs() {
        let seconds = Duration::from_secs;
        assert!(lasts(1, seconds(14)).unwrap() < seconds(16));
        assert!(lasts(1, Duration::from_millis(10)).unwrap() < seconds(30));
        // Pauses are as long as before; it is the rate that counts.
        assert_eq!(lasts(250, seconds(1)), None);
        assert_eq!(lasts(3500, seconds(14)), None);
        assert!(lasts(u64::MAX, seconds(16)).is_some(), "nobody saves time up");
    }
}
