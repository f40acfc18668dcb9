//! Moves a request to its origin, and the answer back.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::limits::{PROXY_HELPINGS_PER_TURN, PROXY_RELAY_TURN_LEN, PROXY_SPLICE_LEN_MIN};
use crate::policy::bucket::Bucket;
use crate::proxy::http::{Body, Fate, HttpError, Page, Status};
use crate::proxy::relay::{Buffers, Limit, Relay, give_up_room};
use crate::proxy::stream::{End, Moved};

use super::{Errand, Flow};

/// A request and its answer on their way.
#[derive(Debug)]
pub(in crate::proxy) struct Passing {
    pub(in crate::proxy) errand: Errand,
    pub(in crate::proxy) up: Flow,
    pub(in crate::proxy) down: Flow,
    /// Room for what the client says next.
    room: Vec<u8>,
    /// The origin takes no more of the request; it may have said something before.
    is_up_lost: bool,
    /// What limits the client's user. What was written is what is charged, heads included.
    up_limit: Limit,
    down_limit: Limit,
    /// When it goes on, if a limit has made the last turn end.
    resumes_at: Option<Instant>,
}

/// How a turn ended.
#[derive(Debug)]
pub(in crate::proxy) enum Pace {
    /// There is more to do at once; others come first.
    Again,
    /// Something has to happen first.
    Wait,
    /// It is over, and this becomes of the connections.
    Over(Fate),
}

/// Why an exchange cannot go on.
#[derive(Debug)]
pub(in crate::proxy) enum Mishap {
    /// The client is gone, or cannot be told anything.
    ClientGone,
    /// The client's request is malformed.
    Request(HttpError),
    /// The origin's response is malformed.
    Response(HttpError),
    /// The origin's connection has ended or broken before the end of the response.
    OriginGone(io::Error),
}

/// What an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Waits {
    /// The rest of the request.
    Request,
    /// The beginning of the answer.
    Answer,
    /// The rest of the answer, or somebody to take what there is.
    Rest,
}

impl Passing {
    /// One whose client has sent `input` behind the head of the request. `output` is room for what
    /// the client is told. What is not in use of either is given up: the origin may have yet to be
    /// reached, and may take its time for the answer.
    pub(in crate::proxy) fn new(
        mut errand: Errand,
        mut input: Vec<u8>,
        mut output: Vec<u8>,
    ) -> Self {
        let mut head = std::mem::take(&mut errand.head);
        give_up_room(&mut head);
        give_up_room(&mut output);
        let room = match input.is_empty() {
            true => {
                give_up_room(&mut input);
                std::mem::take(&mut input)
            }
            false => Vec::new(),
        };
        Self {
            errand,
            up: Flow::with_read(head, input),
            down: Flow::new(output),
            room,
            is_up_lost: false,
            up_limit: Limit::default(),
            down_limit: Limit::default(),
            resumes_at: None,
        }
    }

    /// What limits each direction from here on, if anything does.
    pub(in crate::proxy) fn set_limits(
        &mut self,
        up: Option<Arc<Bucket>>,
        down: Option<Arc<Bucket>>,
    ) {
        // What has been read is charged when it is written.
        self.up_limit.set(up, 0);
        self.down_limit.set(down, 0);
        self.resumes_at = None;
    }

    /// When it goes on, if it is a limit that makes it wait.
    pub(in crate::proxy) fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at
    }

    /// Moves what can be moved, within bounds: of bytes that go on, and of reads, since a message
    /// may be made of little else than what does not. Returns how it goes on.
    ///
    /// # Errors
    /// It does not.
    pub(in crate::proxy) fn turn(
        &mut self,
        now: Instant,
        client: &mut End,
        origin: &mut End,
        buffers: &mut Buffers,
    ) -> Result<Pace, Mishap> {
        let before = self.moved();
        self.resumes_at = None;
        for _ in 0..PROXY_HELPINGS_PER_TURN {
            let helping = self.moved();
            let more = self.pump_up(now, client, origin, buffers)?;
            let more = self.pump_down(now, client, origin, buffers)? || more;
            if !self.down.is_pending() {
                match self.errand.exchange.fate() {
                    Fate::Running => {}
                    Fate::Finished { client_kept, origin_kept } => {
                        // What the origin has not got, or has said without being asked, would come
                        // between the next request and its answer.
                        let is_clean = !self.is_up_lost
                            && !self.up.is_pending()
                            && self.down.unread().is_empty();
                        let origin_kept = origin_kept && is_clean;
                        return Ok(Pace::Over(Fate::Finished { client_kept, origin_kept }));
                    }
                    Fate::Switched => return Ok(Pace::Over(Fate::Switched)),
                }
            }
            if !more && self.moved() == helping {
                return Ok(Pace::Wait);
            }
            if self.moved() - before > PROXY_RELAY_TURN_LEN as u64 {
                break;
            }
        }
        Ok(Pace::Again)
    }

    /// Bytes that have gone, in both directions.
    pub(in crate::proxy) fn moved(&self) -> u64 {
        self.up.bytes() + self.down.bytes()
    }

    /// Moves a helping of the request: what one read brings. Returns whether there may be more.
    fn pump_up(
        &mut self,
        now: Instant,
        client: &mut End,
        origin: &mut End,
        buffers: &mut Buffers,
    ) -> Result<bool, Mishap> {
        let exchange = &mut self.errand.exchange;
        if self.is_up_lost || (exchange.is_sent() && !self.up.is_pending()) {
            return Ok(false);
        }
        let Some(room) = self.up_limit.room(now) else {
            self.resumes_at = earliest(self.resumes_at, &self.up_limit);
            return Ok(false);
        };
        let mut has_read = false;
        while !exchange.is_sent() {
            match exchange.from_client(self.up.unread()) {
                // What precedes it goes on first, so that it does not matter how the bytes come.
                Err(_) if self.up.is_clearing() => break,
                Err(error) => return Err(Mishap::Request(error)),
                Ok(run) if run.used() > 0 => {
                    self.up.clear(run);
                    continue;
                }
                Ok(_) => {}
            }
            // With a piece of its own to be written, the head does not wait for more.
            if has_read || self.up.is_pending() {
                break;
            }
            // A body that might turn out to be the beginning of a tunnel stays here.
            let splices = !exchange.may_switch() && self.up.may_splice(client, origin);
            let body = splices.then(|| exchange.request_body());
            match take_in(&mut self.up, body, client, room, buffers) {
                Ok(Moved::Bytes(_)) => has_read = true,
                Ok(Moved::Blocked) => break,
                Ok(Moved::End) | Err(_) => return Err(Mishap::ClientGone),
            }
        }
        let before = self.up.bytes();
        let written = self.up.write(origin, buffers);
        charge(&mut self.up_limit, now, self.up.bytes() - before);
        match written {
            // Whether it is gone altogether is found out by reading.
            Err(_) => self.is_up_lost = true,
            Ok(()) if self.up.is_pending() => return Ok(origin.is_writable()),
            Ok(()) if exchange.may_retry() => {}
            Ok(()) => self.up.drop_own(),
        }
        Ok(has_read || (!exchange.is_sent() && client.is_readable()))
    }

    /// Moves a helping of the answer: what one read brings. Returns whether there may be more.
    fn pump_down(
        &mut self,
        now: Instant,
        client: &mut End,
        origin: &mut End,
        buffers: &mut Buffers,
    ) -> Result<bool, Mishap> {
        let exchange = &mut self.errand.exchange;
        let is_awaiting = self.down.unread().is_empty() && !origin.is_readable();
        if !self.down.is_pending() && (is_awaiting || exchange.fate() != Fate::Running) {
            return Ok(false);
        }
        let Some(room) = self.down_limit.room(now) else {
            self.resumes_at = earliest(self.resumes_at, &self.down_limit);
            return Ok(false);
        };
        let mut has_read = false;
        while exchange.fate() == Fate::Running {
            let (unread, own) = self.down.unread_and_own();
            if !unread.is_empty() {
                match exchange.from_origin(unread, own) {
                    Err(_) if self.down.is_clearing() => break,
                    Err(error) => return Err(Mishap::Response(error)),
                    Ok(run) if run.used() > 0 => {
                        self.down.clear(run);
                        continue;
                    }
                    Ok(_) => {}
                }
            }
            if has_read || self.down.is_pending() {
                break;
            }
            let splices = self.down.may_splice(origin, client);
            let body = if splices { exchange.response_body() } else { None };
            match take_in(&mut self.down, body, origin, room, buffers) {
                Ok(Moved::Bytes(_)) => has_read = true,
                Ok(Moved::Blocked) => break,
                Ok(Moved::End) => {
                    let gone = |error| Mishap::OriginGone(io::Error::other(error));
                    exchange.origin_ended().map_err(gone)?;
                }
                Err(error) => return Err(Mishap::OriginGone(error)),
            }
        }
        let before = self.down.bytes();
        let written = self.down.write(client, buffers);
        charge(&mut self.down_limit, now, self.down.bytes() - before);
        written.map_err(|_| Mishap::ClientGone)?;
        if self.down.is_pending() {
            return Ok(client.is_writable());
        }
        self.down.forget_own();
        Ok(has_read || (exchange.fate() == Fate::Running && origin.is_readable()))
    }

    /// What it waits for.
    pub(in crate::proxy) fn waits(&self) -> Waits {
        let exchange = &self.errand.exchange;
        match exchange.is_answered() || self.up.is_pending() || self.down.is_pending() {
            true => Waits::Rest,
            false if exchange.is_sent() || self.is_up_lost => Waits::Answer,
            false => Waits::Request,
        }
    }

    /// Whether the client can be told what has gone wrong.
    pub(in crate::proxy) fn is_open_to_a_page(&self) -> bool {
        !self.errand.exchange.is_answered()
    }

    /// Begins again, with a new connection to the origin.
    pub(in crate::proxy) fn begin_again(&mut self) {
        self.up.rewind();
        self.errand.exchange.set_reused(false);
        self.is_up_lost = false;
    }

    /// What the client is to be told in the end: what it has not got yet, and a page.
    pub(in crate::proxy) fn page(&self, status: Status, text: &str) -> Vec<u8> {
        let mut output = self.down.pending().collect::<Vec<_>>().concat();
        let to_head = self.errand.to_head;
        Page { to_head, ..Page::closing(status, text) }.write(&mut output);
        output
    }

    /// The exchange is over: returns what the client has said behind its request, and room for what
    /// it is told next.
    pub(in crate::proxy) fn end(self, buffers: &mut Buffers) -> (Vec<u8>, Vec<u8>) {
        let mut input = self.room;
        self.up.end(&mut input, buffers);
        let output = self.down.end(&mut Vec::new(), buffers);
        (input, output)
    }

    /// Both ends have agreed to speak something else: bytes pass from here on.
    pub(in crate::proxy) fn switch(self, buffers: &mut Buffers) -> Relay {
        let mut pipelined = self.up.pending().collect::<Vec<_>>().concat();
        let mut answer = self.down.pending().collect::<Vec<_>>().concat();
        self.up.end(&mut pipelined, buffers);
        self.down.end(&mut answer, buffers);
        Relay::of_words(&pipelined, &answer, buffers)
    }
}

#[cfg(test)]
impl Passing {
    /// The head of the request, which has not gone yet.
    pub(super) fn errand_head(&self) -> Vec<u8> {
        self.up.own().to_vec()
    }

    /// Bytes of memory that it holds.
    pub(super) fn held(&self) -> usize {
        self.up.held() + self.down.held() + self.room.capacity()
    }
}

/// Reads once, up to `room` bytes: what of `body` goes on whatever it is, through a pipe if that is
/// worth while and one is to be had.
fn take_in(
    flow: &mut Flow,
    body: Option<&mut Body>,
    writer: &mut End,
    room: usize,
    buffers: &mut Buffers,
) -> io::Result<Moved> {
    if let Some(body) = body {
        let passable = usize::try_from(body.passable()).unwrap_or(usize::MAX);
        if passable >= PROXY_SPLICE_LEN_MIN
            && let Some(moved) = flow.splice(writer, room.min(passable), buffers)?
        {
            if let Moved::Bytes(len) = moved {
                body.pass(len as u64);
            }
            return Ok(moved);
        }
    }
    flow.read(writer, room, buffers)
}

fn charge(limit: &mut Limit, now: Instant, written: u64) {
    if written > 0 {
        limit.charge(now, usize::try_from(written).unwrap_or(usize::MAX));
    }
}

fn earliest(resumes_at: Option<Instant>, limit: &Limit) -> Option<Instant> {
    [resumes_at, limit.resumes_at()].into_iter().flatten().min()
}
