//! Tells other proxies whether their clients are who they say they are.

use crate::accounts::model::SessionEnd;
use crate::accounts::service::refusal_of;
use crate::proxy::access::Outcome;
use crate::proxy::auth_endpoint::{AnswerForm, Inquiry};
use crate::proxy::counters::Refusal;
use crate::proxy::front::Front;
use crate::proxy::http::HeadScanner;

use super::super::{Context, Order};
use super::{Connection, Phase};

impl Connection {
    /// The client, which is a proxy, asks about a client of its own. The answer says nothing of
    /// whoever is asked about next.
    pub(super) fn begin_vouching(&mut self, inquiry: Inquiry, cx: &mut Context) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        let Inquiry { client, proof, form } = inquiry;
        let (client, proof) = match (client, proof) {
            (Ok(client), Ok(proof)) => (client, proof),
            (Err(why), _) => {
                cx.counters.refuse(Refusal::Malformed);
                form.reject(why, &mut asking.output);
                return self.conclude_inquiry(form, cx);
            }
            (Ok(_), Err(why)) => {
                cx.counters.refuse(Refusal::NoLogin);
                form.demand(&why, &mut asking.output);
                return self.conclude_inquiry(form, cx);
            }
        };
        let (id, handle) = (self.id, cx.handle.clone());
        let answer = move |outcome| handle.give(Order::Known(id, outcome));
        let Some(access) = &cx.access else {
            return self.vouch(form, Err(refusal_of(SessionEnd::Revoked)), cx);
        };
        asking.login_pending = Some(access.seal(client, &proof));
        asking.vouching = Some(form);
        if let Some(permit) = access.ask(cx.now, client, proof, answer) {
            self.settle_login(Ok(permit), cx);
        }
    }

    /// It was decided who it is that was asked about.
    pub(super) fn vouch(&mut self, form: AnswerForm, outcome: Outcome, cx: &mut Context) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        match outcome {
            Ok(permit) => {
                cx.counters.vouched.add(1);
                form.vouch(&permit.member().name, &mut asking.output);
            }
            Err(refusal) => {
                cx.counters.refuse(Refusal::by_accounts(refusal.code));
                form.turn_down(&refusal, &mut asking.output);
            }
        }
        self.conclude_inquiry(form, cx);
    }

    /// An inquiry has been answered.
    fn conclude_inquiry(&mut self, form: AnswerForm, cx: &Context) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        asking.front = Front::Http(HeadScanner::default());
        asking.await_next(cx.now, &self.rules);
        if form.closes() || self.is_last(cx) {
            self.begin_parting(cx);
        }
    }
}
