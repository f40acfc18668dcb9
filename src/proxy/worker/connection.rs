//! One client, from its first byte to its last.
//!
//! ```text
//! Announcing -> Asking -> Dialling -> Relaying
//!                 ^  \         \
//!                 |   \         `--> Forwarding, where the request is one of HTTP
//!                 |    \                |
//!                 `-----\---------------+
//!                        \              |
//!                         `-------------`--> Parting
//! ```
//!
//! A client of SOCKS may also go from Asking to Associating, which is for datagrams, or through
//! Binding, which waits for somebody, to Relaying.
//!
//! A client of HTTP asks again after an exchange. The connection to the origin stays with it
//! meanwhile, and goes to whoever needs it when the client wants something else or leaves.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use mio::event::Event;

use crate::limits::{PROXY_ATTEMPTS_MAX, PROXY_REQUEST_LEN_MAX};
use crate::proxy::access::Shown;
use crate::proxy::auth_endpoint::AnswerForm;
use crate::proxy::counters::Refusal;
use crate::proxy::crowd::Seat;
use crate::proxy::dial::names::Awaited;
use crate::proxy::dial::{Dial, Failure};
use crate::proxy::forward::{Origin, Passing};
use crate::proxy::front::Front;
use crate::proxy::records::{Ledger, Outcome};
use crate::proxy::relay::Relay;
use crate::proxy::settings::Rules;
use crate::proxy::stream::{End, Moved};
use crate::proxy::target::Target;
use crate::proxy::upstream::group::Lease;

use associating::Associating;
use binding::Binding;

use super::Context;
use super::slab::ConnectionId;
use admission::Visitor;
use certified::Voucher;
use forwarding::Purpose;
use joining::Via;
use securing::Securing;

mod admission;
mod announcing;
mod asking;
mod associating;
mod binding;
mod certified;
mod dialling;
mod forwarding;
mod joining;
mod noting;
mod parting;
mod relaying;
mod securing;
mod vouching;

/// A client's connection, and the one to the origin once there is one.
#[derive(Debug)]
pub(super) struct Connection {
    id: ConnectionId,
    client: End,
    /// Who that is: the far end of the connection, or whom its PROXY header names.
    from: SocketAddr,
    /// Those that were in force when it came.
    rules: Arc<Rules>,
    /// Whether others are in force by now.
    is_outdated: bool,
    /// When it has lasted for as long as it may.
    over_at: Option<Instant>,
    phase: Phase,
    /// The connection to the origin of its last request, and the number of that socket, while it
    /// asks.
    kept: Option<(Origin, usize)>,
    /// Who it is.
    visitor: Visitor,
    /// What it has shown in the handshake of TLS.
    voucher: Voucher,
    /// By which entrance it has come.
    entrance: usize,
    /// Held for as long as the client is there.
    seat: Seat,
    /// Notes what it wants and what comes of it.
    ledger: Ledger,
    /// Whether it waits for its turn.
    pub(super) queued: bool,
    /// The time of its timer that counts; timers of other times are void.
    pub(super) armed: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    Announcing(Announcing),
    Asking(Asking),
    Dialling(Box<Dialling>),
    /// A port waits for who is expected.
    Binding(Box<Binding>),
    Relaying(Box<Relaying>),
    Forwarding(Box<Forwarding>),
    /// Datagrams pass.
    Associating(Box<Associating>),
    Parting(Parting),
    /// In between, and in the end.
    Over,
}

/// Another proxy says for whom it has connected.
#[derive(Debug)]
struct Announcing {
    until: Instant,
}

/// The client says what it wants.
#[derive(Debug)]
struct Asking {
    front: Front,
    /// What it has said and nobody has dealt with.
    input: Vec<u8>,
    /// What it is to be told.
    output: Vec<u8>,
    until: Instant,
    /// Whether it has had an answer before.
    again: bool,
    /// What it has shown, while that is being decided.
    login_pending: Option<Shown>,
    /// How the answer is written where it is about somebody else.
    vouching: Option<AnswerForm>,
}

/// The origin is being reached.
#[derive(Debug)]
struct Dialling {
    front: Front,
    purpose: Purpose,
    /// What the client has said behind its request.
    pipelined: Vec<u8>,
    output: Vec<u8>,
    dial: Dial,
    /// What is asked for, until it is known which way that goes.
    undecided: Option<Target>,
    /// The upstream proxies through which it is reached, if it is.
    via: Option<Via>,
    /// The handshake with the origin, once that is connected, where there has to be one.
    securing: Option<Securing>,
    /// By the number of their sockets, less one.
    attempts: [Option<End>; PROXY_ATTEMPTS_MAX],
    /// The name that is being looked up.
    awaited: Option<Awaited>,
    /// The address that is tried once more when there are descriptors again.
    again: Option<SocketAddr>,
    /// Whether others have made room for that before.
    has_pleaded: bool,
    /// When to look whether another attempt is due.
    next: Option<Instant>,
    until: Instant,
}

/// Bytes pass.
#[derive(Debug)]
struct Relaying {
    origin: End,
    /// The number of the origin's socket.
    socket: usize,
    relay: Relay,
    until: Instant,
    /// What the rules of the user are asked about instead of the origin's socket, where that leads
    /// to an upstream proxy.
    judged: Option<SocketAddr>,
    /// Its place at the upstream proxy that it goes through.
    _lease: Option<Lease>,
}

/// A request and its answer pass.
#[derive(Debug)]
struct Forwarding {
    passing: Box<Passing>,
    origin: Origin,
    /// The number of the origin's socket.
    socket: usize,
    until: Instant,
}

/// The client is told why it has to go. What it still says is read and forgotten, since closing a
/// socket with unread bytes would take the last words away from it.
#[derive(Debug)]
struct Parting {
    output: Vec<u8>,
    shut: bool,
    until: Instant,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more to do at once; others come first.
    Again,
    /// Something has to happen first.
    Wait,
    /// The connection is to be forgotten.
    Over,
}

/// How a step of a phase ended.
enum Step {
    /// Another phase has begun.
    Next,
    /// The turn is over.
    Turn(Turn),
}

impl Connection {
    /// A client that has just come.
    pub(super) fn new(
        id: ConnectionId,
        (client, from): (End, SocketAddr),
        (entrance, rules): (usize, Arc<Rules>),
        (seat, ledger): (Seat, Ledger),
        now: Instant,
    ) -> Self {
        let until = now + rules.request_within;
        let over_at = rules.lasts_max.map(|lasts| now + lasts);
        let phase = match rules.expects_header_from(from.ip()) {
            true => Phase::Announcing(Announcing { until }),
            false => Phase::asking(until),
        };
        Self {
            id,
            client,
            from,
            rules,
            is_outdated: false,
            over_at,
            phase,
            kept: None,
            visitor: Visitor::default(),
            voucher: Voucher::default(),
            entrance,
            seat,
            ledger,
            queued: false,
            armed: None,
        }
    }

    /// The kernel tells of one of its sockets.
    pub(super) fn notice(&mut self, socket: usize, event: &Event) {
        let Some(origin) = socket.checked_sub(1) else { return self.client.notice(event) };
        match &mut self.phase {
            Phase::Dialling(dialling) => {
                if dialling.via.as_mut().is_some_and(|via| via.notice(socket, event)) {
                    return;
                }
                if dialling.securing.as_mut().is_some_and(|it| it.notice(socket, event)) {
                    return;
                }
                if let Some(Some(attempt)) = dialling.attempts.get_mut(origin) {
                    attempt.notice(event);
                }
            }
            Phase::Relaying(relaying) if relaying.socket == socket => {
                relaying.origin.notice(event);
            }
            Phase::Forwarding(forwarding) if forwarding.socket == socket => {
                forwarding.origin.end.notice(event);
            }
            Phase::Asking(_) => {
                if let Some((kept, of_kept)) = &mut self.kept
                    && *of_kept == socket
                {
                    kept.end.notice(event);
                }
            }
            Phase::Binding(binding) => binding.notice(event),
            Phase::Associating(associating) => associating.notice(socket, event),
            // An attempt that has lost.
            _ => {}
        }
    }

    /// Goes on for as long as nothing has to happen first, within bounds.
    pub(super) fn turn(&mut self, cx: &mut Context) -> Turn {
        loop {
            let step = match &self.phase {
                Phase::Announcing(_) => self.announce(cx),
                Phase::Asking(_) => self.ask(cx),
                Phase::Dialling(_) => self.dial(cx),
                Phase::Binding(_) => self.bind(cx),
                Phase::Relaying(_) => self.relay(cx),
                Phase::Forwarding(_) => self.forward(cx),
                Phase::Associating(_) => self.associate(cx),
                Phase::Parting(_) => self.part(),
                Phase::Over => Step::Turn(Turn::Over),
            };
            if let Step::Turn(turn) = step {
                // Secrets do not move while the client is in the midst of telling them.
                if let Phase::Asking(asking) = &mut self.phase
                    && asking.input.is_empty()
                {
                    asking.give_up_room();
                }
                return turn;
            }
        }
    }

    /// By which entrance it has come.
    pub(super) fn entrance(&self) -> usize {
        self.entrance
    }

    /// Whether it has not asked for anything yet.
    pub(super) fn is_asking(&self) -> bool {
        match self.phase {
            Phase::Announcing(_) => true,
            Phase::Asking(Asking { again, .. }) => !again,
            _ => false,
        }
    }

    /// Other rules go for clients that come from here on. What is under way goes on, and then the
    /// client has to come again; it has to at once if nothing is.
    pub(super) fn outlive_rules(&mut self) {
        self.is_outdated = true;
        if let Phase::Asking(Asking { again: true, input, login_pending: None, .. }) = &self.phase
            && input.is_empty()
        {
            self.phase = Phase::Over;
        }
    }

    /// Whether what is under way is the last that it does for the client.
    fn is_last(&self, cx: &Context) -> bool {
        cx.is_stopping || self.is_outdated
    }

    /// Whether it has nothing under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Announcing(_) | Phase::Asking(_))
    }

    /// When something is to be done even if nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Announcing(announcing) => Some(announcing.until),
            Phase::Asking(asking) => Some(asking.until),
            Phase::Dialling(dialling) => dialling.due(),
            Phase::Binding(binding) => Some(binding.until),
            Phase::Relaying(relaying) => {
                let resumes = relaying.relay.resumes_at();
                Some(resumes.map_or(relaying.until, |resumes| resumes.min(relaying.until)))
            }
            Phase::Forwarding(forwarding) => {
                let resumes = forwarding.passing.resumes_at();
                Some(resumes.map_or(forwarding.until, |resumes| resumes.min(forwarding.until)))
            }
            Phase::Associating(associating) => Some(associating.until),
            Phase::Parting(parting) => Some(parting.until),
            Phase::Over => None,
        };
        [phase, self.over_at].into_iter().flatten().min()
    }

    /// The time that [`Connection::due`] has given has come.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context) -> Turn {
        let now = cx.now;
        let is_over = self.over_at.is_some_and(|over| now >= over);
        match &mut self.phase {
            Phase::Announcing(announcing) if now >= announcing.until || is_over => {
                self.turn_away(Refusal::TooSlow, cx);
            }
            Phase::Asking(asking) if asking.login_pending.is_some() => self.give_up_login(cx),
            Phase::Asking(Asking { again: true, input, .. }) if input.is_empty() => {
                self.phase = Phase::Over;
            }
            Phase::Asking(asking) if now >= asking.until || is_over => {
                asking.front.give_up(&mut asking.output);
                self.refuse(Refusal::TooSlow, cx);
                self.begin_parting(cx);
            }
            Phase::Dialling(dialling) if dialling.is_server_late(now) && !is_over => {
                self.give_up_on_server(cx);
            }
            Phase::Dialling(dialling) if now >= dialling.until || is_over => {
                self.fail(Failure::TimedOut, cx);
            }
            Phase::Binding(binding) if now >= binding.until || is_over => {
                self.fail(Failure::TimedOut, cx);
            }
            Phase::Associating(associating) if now >= associating.until || is_over => {
                cx.counters.timed_out.add(1);
                self.ledger.note(Outcome::Idle);
                self.phase = Phase::Over;
            }
            Phase::Relaying(relaying) if now >= relaying.until || is_over => {
                cx.counters.timed_out.add(1);
                self.ledger.note(Outcome::Idle);
                self.reset();
            }
            Phase::Forwarding(forwarding) if now >= forwarding.until || is_over => {
                self.give_up_exchange(cx);
            }
            Phase::Parting(parting) if now >= parting.until => self.phase = Phase::Over,
            _ => {}
        }
        self.turn(cx)
    }

    /// The client has to go without a word: it makes room, or the gateway stops.
    pub(super) fn turn_away(&mut self, refusal: Refusal, cx: &mut Context) {
        self.refuse(refusal, cx);
        self.phase = Phase::Over;
    }

    /// The gateway does not wait for its end.
    pub(super) fn cut(&mut self) {
        self.ledger.note(Outcome::Stopped);
        self.reset();
    }

    /// Both ends are to know that this is not how it should have ended.
    pub(super) fn reset(&mut self) {
        let origin = match &self.phase {
            Phase::Relaying(relaying) => Some(&relaying.origin),
            Phase::Forwarding(forwarding) => Some(&forwarding.origin.end),
            _ => None,
        };
        if let Some(origin) = origin {
            origin.stream.reset_on_close();
            self.client.stream.reset_on_close();
        }
        self.phase = Phase::Over;
    }

    /// The buffers go back; the rest goes with the connection.
    pub(super) fn release(mut self, cx: &mut Context) {
        self.give_up_kept(cx);
        self.close_record(cx);
        match self.phase {
            Phase::Relaying(relaying) => relaying.relay.release(&mut cx.buffers),
            Phase::Forwarding(forwarding) => drop(forwarding.passing.end(&mut cx.buffers)),
            _ => {}
        }
    }

    /// What is left to say is said, and then the connection is closed.
    fn begin_parting(&mut self, cx: &Context) {
        let output = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Asking(asking) => asking.output,
            Phase::Dialling(dialling) => dialling.output,
            Phase::Binding(binding) => binding.output,
            _ => return,
        };
        self.note_words(&output);
        if !output.is_empty() {
            self.part_with(output, cx);
        }
    }

    /// The origin cannot be reached: the client is told why.
    fn fail(&mut self, failure: Failure, cx: &mut Context) {
        // Who asks next finds room.
        cx.needs_descriptor |= failure == Failure::Exhausted;
        if let Phase::Dialling(dialling) = &mut self.phase
            && let Purpose::Forward(passing) = std::mem::take(&mut dialling.purpose)
        {
            return self.fail_request(&passing, failure, cx);
        }
        cx.counters.fail(failure);
        self.ledger.note(Outcome::Failed(failure));
        match &mut self.phase {
            Phase::Asking(asking) => asking.front.refuse(failure, &mut asking.output),
            Phase::Dialling(dialling) => dialling.front.refuse(failure, &mut dialling.output),
            Phase::Binding(binding) => binding.front.refuse(failure, &mut binding.output),
            _ => {}
        }
        self.begin_parting(cx);
    }
}

impl Phase {
    fn asking(until: Instant) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self::Asking(Asking {
            front: Front::Silent,
            input,
            output,
            until,
            again: false,
            login_pending: None,
            vouching: None,
        })
    }
}

/// Writes what there is. Returns whether all of it has gone.
pub(super) fn write_out(client: &mut End, output: &mut Vec<u8>) -> std::io::Result<bool> {
    while !output.is_empty() {
        match client.write(output)? {
            Moved::Bytes(written) => drop(output.drain(..written)),
            Moved::Blocked | Moved::End => return Ok(false),
        }
    }
    Ok(true)
}

/// The address from which an origin is connected, as far as the kernel tells.
fn bound(origin: &End) -> SocketAddr {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    origin.stream.tcp().local_addr().unwrap_or(nowhere)
}

/// Whether a client has said more than any request has.
fn is_too_long(input: &[u8]) -> bool {
    input.len() >= PROXY_REQUEST_LEN_MAX
}
