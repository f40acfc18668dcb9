//! Notes what the client wants and what comes of it, for those who are to know.

use crate::accounts::names::Name;
use crate::proxy::counters::Refusal;
use crate::proxy::forward::Origin;
use crate::proxy::front::{Front, Wish};
use crate::proxy::http::Status;
use crate::proxy::records::{Means, Outcome, Record, Via};
use crate::proxy::stream::{End, Stream};
use crate::proxy::upstream::Way;

use super::super::Context;
use super::{Asking, Connection, Phase};

impl Connection {
    /// The client wants something.
    pub(super) fn note_wish(&mut self, wish: &Wish, cx: &Context) {
        let Phase::Asking(asking) = &self.phase else { return };
        let means = means_of(&asking.front);
        self.ledger.open(|| {
            let record = |means| Record::new(cx.now, self.from, means);
            match wish {
                Wish::Connect(target) => record(means).for_target(target),
                Wish::Bind(target) => record(Means::Bind).for_target(target),
                Wish::Forward(errand) => {
                    let record = record(Means::Http).for_target(&errand.to);
                    record.for_request(errand.scheme, &errand.head)
                }
                Wish::Associate(_) => record(Means::Udp),
                Wish::Report { .. } => record(Means::Http),
                Wish::Login(_) | Wish::Vouch(_) => record(means),
            }
        });
    }

    /// The client is sent away, perhaps before it has said what it wants: that is counted and
    /// noted. One that has said nothing when the gateway stops had no wish.
    pub(super) fn refuse(&mut self, refusal: Refusal, cx: &Context) {
        self.refuse_user(None, refusal, cx);
    }

    /// The same of somebody who has shown who it is, as far as that is known.
    pub(super) fn refuse_user(&mut self, user: Option<&Name>, refusal: Refusal, cx: &Context) {
        cx.counters.refuse(refusal);
        if !self.ledger.is_open() && refusal != Refusal::Stopping {
            let means = match &self.phase {
                Phase::Asking(Asking { front: Front::Http(_), .. }) => Means::Http,
                Phase::Asking(asking) => means_of(&asking.front),
                _ => Means::Unknown,
            };
            self.ledger.open(|| Record::new(cx.now, self.from, means).of(user));
        }
        self.ledger.note(Outcome::Refused(refusal));
    }

    /// These are the last words to the client. The status that it is told is among them, where it
    /// speaks HTTP.
    pub(super) fn note_words(&mut self, output: &[u8]) {
        let digits = output.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        self.ledger.tell(digits.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok()));
    }

    /// A connection that was there before is used for a request.
    pub(super) fn note_reuse(&mut self, origin: &Origin) {
        if !self.ledger.is_open() {
            return;
        }
        let group = match self.decide(&origin.key.1, None) {
            Some(Way::Upstream(number)) => self.rules.upstreams.get(number),
            _ => None,
        };
        let via = match group {
            Some(group) => Via::Upstream(group.settings.name.clone()),
            None => way_to(&origin.end),
        };
        self.ledger.reach(|| via);
    }

    /// The wish is over.
    pub(super) fn close_record(&mut self, cx: &Context) {
        match &self.phase {
            Phase::Forwarding(forwarding) => {
                self.ledger.tell(forwarding.passing.errand.exchange.status());
                self.ledger.note(Outcome::ClientGone);
            }
            // It ends when the client wants.
            Phase::Associating(_) => self.ledger.note(Outcome::Ok),
            _ => {}
        }
        let is_tls = matches!(self.client.stream, Stream::Tls(_));
        let who = (self.visitor.member(), is_tls);
        self.ledger.close(cx.now, who, cx.log.as_ref(), &cx.counters);
    }
}

/// By what a client comes to what it wants, if it wants to be connected.
fn means_of(front: &Front) -> Means {
    match front {
        Front::Silent => Means::Unknown,
        Front::Socks(server) if server.is_version_4() => Means::Socks4,
        Front::Socks(_) => Means::Socks5,
        Front::Http(_) => Means::Connect,
    }
}

/// The status that a client is told when it is connected, if it speaks HTTP.
pub(super) fn status_of_tunnel(front: &Front) -> Option<u16> {
    matches!(front, Front::Http(_)).then(|| Status::Established.code())
}

/// To the address at the other end.
pub(super) fn way_to(origin: &End) -> Via {
    origin.stream.tcp().peer_addr().map_or(Via::Nowhere, Via::Address)
}
