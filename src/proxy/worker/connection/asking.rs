//! Hears what a client wants.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroize as _;

use crate::accounts::service::PassProof;
use crate::limits::{PROXY_ATTEMPTS_MAX, PROXY_ROOM_KEPT_MAX};
use crate::proxy::counters::Refusal;
use crate::proxy::dial::names::Reply;
use crate::proxy::dial::own::OwnPrefixes;
use crate::proxy::dial::{Answer, Asker, Dial, Failure, Guard};
use crate::proxy::front::{Front, Heard, Wish};
use crate::proxy::http::Page;
use crate::proxy::relay::give_up_room;
use crate::proxy::settings::Rules;
use crate::proxy::stream::Moved;
use crate::proxy::target::{DomainName, Host, Target};
use crate::proxy::upstream::{Question, Way};
use crate::sys::names::LookupError;

use super::super::{Context, Order};
use super::forwarding::Purpose;
use super::joining::Via;
use super::{Asking, Connection, Dialling, Phase, Step, Turn, is_too_long, write_out};

impl Asking {
    /// What comes may be long in coming: room is kept for no more than the usual words.
    pub(super) fn give_up_room(&mut self) {
        give_up_room(&mut self.input);
        give_up_room(&mut self.output);
    }

    /// The client has had an answer, and may ask again.
    pub(super) fn await_next(&mut self, now: Instant, rules: &Rules) {
        let within = if self.input.is_empty() { rules.keep_alive } else { rules.request_within };
        self.again = true;
        self.until = now + within;
    }

    /// Takes in what the client has said; nothing of it stays elsewhere if it `is_secret`. What
    /// begins with it has time `until` then.
    fn take_in(&mut self, read: &mut [u8], is_secret: bool, until: Instant) {
        if self.again && self.input.is_empty() {
            self.until = until;
        }
        self.input.extend_from_slice(read);
        if is_secret {
            read.zeroize();
        }
    }

    /// Forgets what has been dealt with.
    fn forget(&mut self, used: usize, is_secret: bool) {
        let used = used.min(self.input.len());
        let left = self.input.len() - used;
        self.input.rotate_left(used);
        if is_secret && let Some(read) = self.input.get_mut(left..) {
            read.zeroize();
        }
        self.input.truncate(left);
    }
}

impl Connection {
    /// Goes on listening to what the client wants.
    pub(super) fn ask(&mut self, cx: &mut Context) -> Step {
        self.kept.take_if(|(origin, _)| !origin.end.is_quiet());
        let Phase::Asking(asking) = &mut self.phase else { return Step::Next };
        if asking.login_pending.is_some() {
            let is_gone = self.client.is_hung_up();
            return Step::Turn(if is_gone { Turn::Over } else { Turn::Wait });
        }
        if asking.output.len() > PROXY_ROOM_KEPT_MAX {
            return self.make_room();
        }
        let is_secret = self.rules.has_secrets();
        loop {
            if self.begin_by_certificate(cx) {
                return Step::Next;
            }
            // What is to be said waits until nothing more can be heard: a client that has said
            // everything at once is answered at once.
            if self.has_spoken() {
                match self.hear(cx) {
                    Heard::Whole => continue,
                    Heard::Part => {}
                    Heard::Wish(wish) => return self.grant(wish, cx),
                    Heard::Refused(refusal) => {
                        self.refuse(refusal, cx);
                        self.begin_parting(cx);
                        return Step::Next;
                    }
                }
            }
            let Phase::Asking(asking) = &mut self.phase else { return Step::Next };
            match write_out(&mut self.client, &mut asking.output) {
                Ok(true) => {}
                Ok(false) => return Step::Turn(Turn::Wait),
                Err(_) => return Step::Turn(Turn::Over),
            }
            if is_too_long(&asking.input) {
                self.refuse(Refusal::Malformed, cx);
                return Step::Turn(Turn::Over);
            }
            let mut buffer = cx.buffers.lend();
            let read = self.client.read(&mut buffer);
            if let Ok(Moved::Bytes(len)) = read {
                let until = cx.now + self.rules.request_within;
                asking.take_in(buffer.get_mut(..len).unwrap_or_default(), is_secret, until);
            }
            cx.buffers.take_back(buffer);
            match read {
                Ok(Moved::Bytes(_)) => {}
                Ok(Moved::Blocked) if self.client.is_readable() => {}
                Ok(Moved::Blocked) => return Step::Turn(Turn::Wait),
                // It has gone before it has asked.
                Ok(Moved::End) => return Step::Turn(Turn::Over),
                Err(error) => {
                    self.refuse_unsecured(&error, cx);
                    return Step::Turn(Turn::Over);
                }
            }
        }
    }

    /// Has the client take its answers before it gets another: they are not heaped up.
    fn make_room(&mut self) -> Step {
        let Phase::Asking(asking) = &mut self.phase else { return Step::Next };
        match write_out(&mut self.client, &mut asking.output) {
            Ok(true) => Step::Next,
            Ok(false) => Step::Turn(Turn::Wait),
            Err(_) => Step::Turn(Turn::Over),
        }
    }

    /// Begins with what the client wants. Whoever asks one question after the other lets others
    /// have their turn in between.
    fn grant(&mut self, wish: Wish, cx: &mut Context) -> Step {
        let is_question = matches!(wish, Wish::Vouch(_) | Wish::Report { .. });
        self.begin(wish, cx);
        if is_question { Step::Turn(Turn::Again) } else { Step::Next }
    }

    /// Whether there is something that the client has said.
    pub(super) fn has_spoken(&self) -> bool {
        matches!(&self.phase, Phase::Asking(asking) if !asking.input.is_empty())
    }

    /// Hears a piece of what the client has said.
    fn hear(&mut self, cx: &Context) -> Heard {
        let Phase::Asking(asking) = &mut self.phase else { return Heard::Part };
        let from = self.from.ip();
        let is_known_by = |it: &PassProof| self.visitor.is_known_by(&cx.access, from, it);
        let is_known_by = self.voucher.with(is_known_by);
        let (input, output) = (&asking.input, &mut asking.output);
        let (used, heard) = asking.front.advance(input, from, &self.rules, &is_known_by, output);
        asking.forget(used, self.rules.has_secrets());
        heard
    }

    /// The client wants something.
    fn begin(&mut self, wish: Wish, cx: &mut Context) {
        let wish = match wish {
            Wish::Login(proof) => return self.begin_login(proof, cx),
            Wish::Vouch(inquiry) => return self.begin_vouching(inquiry, cx),
            Wish::Report { keeps } => return self.report(keeps, cx),
            wish => wish,
        };
        self.note_wish(&wish, cx);
        if let Err(failure) = self.ensure_welcome(true, cx) {
            return self.fail(failure, cx);
        }
        match wish {
            // Decided above.
            Wish::Login(_) | Wish::Vouch(_) | Wish::Report { .. } => {}
            Wish::Associate(_) if !self.rules.serves_datagrams => self.fail(Failure::Blocked, cx),
            Wish::Connect(target) => {
                self.give_up_kept(cx);
                self.begin_dialling(&target, Purpose::Relay, cx);
            }
            Wish::Forward(errand) => self.begin_forwarding(errand, cx),
            Wish::Bind(target) => self.begin_binding(target, cx),
            Wish::Associate(announced) => self.begin_associating(announced, cx),
        }
    }

    /// Tells the client that this server is there, and knows who asks. It has its place among the
    /// connections of its user from then on.
    fn report(&mut self, keeps: bool, cx: &mut Context) {
        if let Err(failure) = self.ensure_welcome(false, cx) {
            self.note_wish(&Wish::Report { keeps }, cx);
            return self.fail(failure, cx);
        }
        let keeps = keeps && !self.is_last(cx);
        let Phase::Asking(asking) = &mut self.phase else { return };
        Page::write_options(keeps.then_some(self.rules.keep_alive), &mut asking.output);
        match keeps {
            true => asking.await_next(cx.now, &self.rules),
            false => self.begin_parting(cx),
        }
    }

    /// Begins to reach an origin. What the client says of itself counts for a relay alone.
    pub(super) fn begin_dialling(&mut self, target: &Target, purpose: Purpose, cx: &mut Context) {
        let way = self.decide(target, None);
        let own = cx.own.current();
        let begun = match way {
            Some(Way::Block) => Err(Failure::Blocked),
            _ => Dial::begin(target, &self.rules.guard, &own),
        };
        let dial = match begun {
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
            Phase::Asking(mut asking) => {
                asking.give_up_room();
                (asking.front, asking.input, asking.output)
            }
            _ => (Front::Silent, Vec::new(), Vec::new()),
        };
        self.phase = Phase::Dialling(Box::new(Dialling {
            front,
            purpose,
            pipelined,
            output,
            dial,
            undecided: way.is_none().then(|| target.clone()),
            via: None,
            securing: None,
            attempts: [const { None }; PROXY_ATTEMPTS_MAX],
            awaited: None,
            again: None,
            has_pleaded: false,
            next: None,
            until: cx.now + self.rules.dial_within,
        }));
        if let Some(Way::Upstream(number)) = way {
            self.begin_joining(number, target.clone(), None, cx);
        } else if needs_addresses && let Host::Name(name) = &target.host {
            self.look_up(name, self.asker(), cx);
        }
    }

    /// At whose expense names are looked up that the client asks for.
    pub(super) fn asker(&self) -> Asker {
        self.visitor.asker(self.from.ip())
    }

    /// Looks a name up, and goes on with [`Connection::resolve`].
    pub(super) fn look_up(&mut self, name: &DomainName, asker: Asker, cx: &mut Context) {
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let reply = cx.names.ask(cx.now, name, (asker, dialling.until), || {
            let (id, name, handle) = (self.id, name.clone(), cx.handle.clone());
            Box::new(move |answer| handle.give(Order::Resolved(id, name, answer)))
        });
        match reply {
            Reply::Known(answer) => self.resolve(&answer, cx),
            Reply::Later(awaited) => dialling.awaited = Some(awaited),
            Reply::Full => self.resolve(&Err(LookupError::Unavailable), cx),
        }
    }

    /// The target is reached through a group of upstream proxies.
    fn begin_joining(
        &mut self,
        number: usize,
        target: Target,
        addresses: Option<&[IpAddr]>,
        cx: &mut Context,
    ) {
        // The rules of users are about addresses: what is asked for is the one that was judged.
        let target = match (&target.host, addresses) {
            (Host::Name(name), None) if self.visitor.is_known() => {
                let Phase::Dialling(dialling) = &mut self.phase else { return };
                dialling.undecided = Some(target.clone());
                return self.look_up(name, self.asker(), cx);
            }
            (Host::Name(_), Some(addresses)) if self.visitor.is_known() => {
                let judge = |ip: &IpAddr| self.rules.guard.judge(*ip, &cx.own.current());
                if let Some(kind) = addresses.iter().find_map(|ip| judge(ip).err()) {
                    return self.fail(Failure::Denied(kind), cx);
                }
                let to = addresses.iter().map(|ip| SocketAddr::new(*ip, target.port));
                match to.clone().find(|address| self.visitor.may_reach(*address)) {
                    Some(address) => Target::from_address(address),
                    None => return self.fail(Failure::Ruled, cx),
                }
            }
            _ => target,
        };
        if target.address().is_some_and(|address| !self.visitor.may_reach(address)) {
            return self.fail(Failure::Ruled, cx);
        }
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let Some(group) = self.rules.upstreams.get(number) else {
            return self.fail(Failure::Upstream, cx);
        };
        let key = group.key(self.from.ip(), self.visitor.user());
        dialling.via = Some(Via::new(Arc::clone(group), target, key, dialling.until));
        self.try_next_server(Failure::Upstream, cx);
    }

    /// The way to `target`, whose name has `addresses` if it was looked up; `None` if it has to be.
    pub(super) fn decide(&self, target: &Target, addresses: Option<&[IpAddr]>) -> Option<Way> {
        let terms = self.visitor.terms();
        let groups = terms.as_deref().map_or(&[][..], |terms| &terms.groups);
        let question = Question { target, addresses, user: self.visitor.user(), groups };
        self.rules.routes.decide(&question)
    }

    /// A name was looked up. An answer that was on its way when its question was given up is not
    /// taken for that to the next one.
    pub(in super::super) fn hear_of(
        &mut self,
        name: &DomainName,
        answer: &Answer,
        cx: &mut Context,
    ) {
        let awaited = match &mut self.phase {
            Phase::Dialling(dialling) => &mut dialling.awaited,
            Phase::Binding(binding) => &mut binding.awaited,
            _ => return,
        };
        if awaited.take_if(|awaited| awaited.name() == name).is_some() {
            self.resolve(answer, cx);
        }
    }

    /// The name that the client has asked for was looked up.
    fn resolve(&mut self, answer: &Answer, cx: &mut Context) {
        if let Phase::Binding(_) = &self.phase {
            return self.open_port(answer, cx);
        }
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        if dialling.via.is_some() {
            // Its address was configured, so nobody has to be kept from it.
            let own = OwnPrefixes::default();
            if let Err(failure) = dialling.dial.resolve(answer, &Guard::anywhere(), &own) {
                self.lose_server(failure, cx);
            }
            return;
        }
        let undecided = dialling.undecided.take();
        if let (Some(target), Ok(addresses)) = (undecided, answer) {
            match self.decide(&target, Some(addresses)) {
                Some(Way::Block) => return self.fail(Failure::Blocked, cx),
                Some(Way::Upstream(number)) => {
                    return self.begin_joining(number, target, Some(addresses), cx);
                }
                Some(Way::Direct) | None => {}
            }
        }
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        let resolved = dialling.dial.resolve(answer, &self.rules.guard, &cx.own.current());
        if let Err(failure) = resolved {
            self.fail(failure, cx);
        }
    }
}
