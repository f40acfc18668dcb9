//! Hears what a client wants.

use zeroize::Zeroize as _;

use crate::limits::PROXY_ATTEMPTS_MAX;
use crate::proxy::counters::Refusal;
use crate::proxy::dial::{Answer, Dial, Failure};
use crate::proxy::front::{Front, Heard, Wish};
use crate::proxy::settings::Auth;
use crate::proxy::stream::Moved;
use crate::proxy::target::{Host, Target};

use super::super::{Context, Order};
use super::forwarding::Purpose;
use super::{Connection, Dialling, Phase, Step, Turn, is_too_long, write_out};

impl Connection {
    /// Goes on listening to what the client wants.
    pub(super) fn ask(&mut self, cx: &mut Context) -> Step {
        if let Some((origin, _)) = &mut self.kept
            && !origin.end.is_quiet()
        {
            self.kept = None;
        }
        let Phase::Asking(asking) = &mut self.phase else { return Step::Next };
        if asking.login_pending {
            let is_gone = self.client.is_hung_up();
            return Step::Turn(if is_gone { Turn::Over } else { Turn::Wait });
        }
        let (is_known, is_secret) = (self.visitor.is_known(), self.rules.auth == Auth::Required);
        loop {
            // What is to be said waits until nothing more can be heard: a client that has said
            // everything at once is answered at once.
            if !asking.input.is_empty() {
                let (from, input, output) = (self.from.ip(), &asking.input, &mut asking.output);
                let (used, heard) =
                    asking.front.advance(input, from, &self.rules, is_known, output);
                if is_secret && let Some(read) = asking.input.get_mut(..used) {
                    read.zeroize();
                }
                asking.input.drain(..used);
                match heard {
                    Heard::Whole => continue,
                    Heard::Part => {}
                    Heard::Wish(wish) => {
                        self.begin(wish, cx);
                        return Step::Next;
                    }
                    Heard::Refused(refusal) => {
                        cx.counters.refuse(refusal);
                        self.begin_parting(cx);
                        return Step::Next;
                    }
                }
            }
            match write_out(&mut self.client, &mut asking.output) {
                Ok(true) => {}
                Ok(false) => return Step::Turn(Turn::Wait),
                Err(_) => return Step::Turn(Turn::Over),
            }
            if is_too_long(&asking.input) {
                cx.counters.refuse(Refusal::Malformed);
                return Step::Turn(Turn::Over);
            }
            let mut buffer = cx.buffers.lend();
            let read = self.client.read(&mut buffer);
            if let Ok(Moved::Bytes(len)) = read {
                if asking.again && asking.input.is_empty() {
                    asking.until = cx.now + self.rules.request_within;
                }
                let read = buffer.get_mut(..len).unwrap_or_default();
                asking.input.extend_from_slice(read);
                if is_secret {
                    read.zeroize();
                }
            }
            cx.buffers.take_back(buffer);
            match read {
                Ok(Moved::Bytes(_)) => {}
                Ok(Moved::Blocked) if self.client.is_readable() => {}
                Ok(Moved::Blocked) => return Step::Turn(Turn::Wait),
                // It has gone before it has asked.
                Ok(Moved::End) | Err(_) => return Step::Turn(Turn::Over),
            }
        }
    }

    /// The client wants something.
    fn begin(&mut self, wish: Wish, cx: &mut Context) {
        if let Wish::Login(proof) = wish {
            return self.begin_login(proof, cx);
        }
        if let Err(failure) = self.ensure_welcome(cx) {
            return self.fail(failure, cx);
        }
        match wish {
            // Decided above.
            Wish::Login(_) => {}
            // The rules of users do not reach these.
            Wish::Bind(_) | Wish::Associate(_) if self.rules.auth == Auth::Required => {
                self.fail(Failure::Ruled, cx);
            }
            Wish::Connect(target) => {
                self.give_up_kept(cx);
                self.begin_dialling(&target, Purpose::Relay, cx);
            }
            Wish::Forward(errand) => self.begin_forwarding(errand, cx),
            Wish::Bind(target) => self.begin_binding(target, cx),
            Wish::Associate(announced) => self.begin_associating(announced, cx),
        }
    }

    /// Begins to reach an origin. What the client says of itself counts for a relay alone.
    pub(super) fn begin_dialling(&mut self, target: &Target, purpose: Purpose, cx: &mut Context) {
        let dial = match Dial::begin(target, &self.rules.guard, &cx.own.current()) {
            Ok(dial) => dial,
            Err(failure) => {
                return match purpose {
                    Purpose::Relay => self.fail(failure, cx),
                    Purpose::Forward(passing) => self.fail_request(&passing, failure, cx),
                };
            }
        };
        let needs_addresses = dial.needs_addresses();
        let (front, pipelined, output) = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Asking(asking) => (asking.front, asking.input, asking.output),
            _ => (Front::Silent, Vec::new(), Vec::new()),
        };
        self.phase = Phase::Dialling(Box::new(Dialling {
            front,
            purpose,
            pipelined,
            output,
            dial,
            attempts: [const { None }; PROXY_ATTEMPTS_MAX],
            next: None,
            until: cx.now + self.rules.dial_within,
        }));
        if needs_addresses && let Host::Name(name) = &target.host {
            let (id, handle) = (self.id, cx.handle.clone());
            let answer = cx.names.ask(cx.now, name, move |answer| {
                handle.give(Order::Resolved(id, answer));
            });
            if let Some(answer) = answer {
                self.resolve(&answer, cx);
            }
        }
    }

    /// The name that the client has asked for was looked up.
    pub(in super::super) fn resolve(&mut self, answer: &Answer, cx: &mut Context) {
        if let Phase::Binding(_) = &self.phase {
            return self.open_port(answer, cx);
        }
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let resolved = dialling.dial.resolve(answer, &self.rules.guard, &cx.own.current());
        if let Err(failure) = resolved {
            self.fail(failure, cx);
        }
    }
}
