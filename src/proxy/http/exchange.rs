//! One forwarded request and its response.
//!
//! The machine holds no bytes. Its owner has two buffers, one filled by the client and one by the
//! origin, and this order of calls:
//!
//! 1. [`Exchange::begin`] with the head of a request writes the head that the origin gets. The
//!    owner removes the head from the client's buffer.
//! 2. [`Exchange::from_client`] and [`Exchange::from_origin`], whenever there are bytes, say which
//!    of them to forward and which to drop; the owner removes both kinds from its buffer, and never
//!    more. What `from_origin` has written goes to the client first.
//! 3. [`Exchange::fate`] says when it is over and what becomes of both connections. What is left in
//!    the client's buffer then is its next request, or, after a switch, the start of the tunnel.
//!
//! After an error everything ends: an error page to the client if [`Exchange::is_answered`] is
//! false, and both connections closed.

use std::net::IpAddr;

use crate::limits::HTTP_INTERIM_RESPONSES_MAX;

use super::body::{Body, Run};
use super::error::HttpError;
use super::fields::Slots;
use super::framing::{Framing, Version};
use super::method::Method;
use super::page::Status;
use super::request::{Absolute, RequestHead};
use super::response::ResponseHead;
use super::rewrite::{self, ClientConnection, Disclosure, Onward, Recipient, Route};
use super::scan::HeadScanner;

/// How a request is forwarded.
#[derive(Debug, Clone, Copy)]
pub struct Passage<'a> {
    /// To whom.
    pub route: Route<'a>,
    /// What is told of the proxy and the client.
    pub disclosure: &'a Disclosure,
    /// The client's address.
    pub client: IpAddr,
    /// Whether the connection to the origin has carried an exchange before: it may have been closed
    /// at the other end meanwhile.
    pub is_reused: bool,
}

/// Why a request is not forwarded but answered by the proxy itself, which closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotForwarded {
    /// It is malformed.
    #[error(transparent)]
    Malformed(#[from] HttpError),
    /// It expects something else than 100-continue (RFC 9110 section 10.1.1).
    #[error("the request expects something else than 100-continue")]
    Expectation,
    /// `Max-Forwards: 0` makes the proxy the recipient of an OPTIONS (RFC 9110 section 7.6.2).
    #[error("Max-Forwards ends the request here")]
    LastStopOfOptions,
    /// The same of a TRACE, which a proxy does not answer: it would tell what others have added.
    #[error("Max-Forwards ends the request here, and TRACE is not answered here")]
    LastStopOfTrace,
}

impl NotForwarded {
    /// What the client is told.
    pub fn status(self) -> Status {
        match self {
            Self::Malformed(error) => error.request_status(),
            Self::Expectation => Status::ExpectationFailed,
            Self::LastStopOfOptions => Status::NoContent,
            Self::LastStopOfTrace => Status::MethodNotAllowed,
        }
    }
}

/// What becomes of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Running,
    /// From here on bytes are relayed both ways as they are.
    Switched,
    /// The response has passed.
    Finished {
        /// Whether the client may ask again on its connection. If not, it is closed, but only after
        /// what the client still sends has been read for a while: or the response is lost.
        client_kept: bool,
        /// Whether the origin's connection may carry another exchange. Only if nothing is left in
        /// the buffer that it fills.
        origin_kept: bool,
    },
}

/// A forwarded request and its response.
#[derive(Debug)]
pub struct Exchange {
    version: Version,
    to_head: bool,
    is_idempotent: bool,
    is_reused: bool,
    keeps_client: bool,
    asks_for_websocket: bool,
    disclosure: Disclosure,
    request: Body,
    /// Whether any of the request's body has been forwarded.
    request_begun: bool,
    scanner: HeadScanner,
    /// Whether the origin has sent anything.
    response_begun: bool,
    /// The status of the final response.
    status: Option<u16>,
    interim_count: u8,
    response: Response,
}

/// How far the response is.
#[derive(Debug)]
enum Response {
    Awaited,
    Body { body: Body, client_kept: bool, origin_kept: bool },
    Switched,
}

impl Exchange {
    /// Begins with the head of a request for `to`, and appends the head that goes out to `out`. The
    /// owner keeps that until the response begins, or [`Exchange::may_retry`] is of no use.
    pub fn begin(
        head: &RequestHead<'_, '_>,
        to: &Absolute<'_>,
        passage: Passage<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Self, NotForwarded> {
        let expects_other =
            head.fields.list("expect").any(|e| !e.eq_ignore_ascii_case(b"100-continue"));
        if expects_other && head.version == Version::Http11 {
            return Err(NotForwarded::Expectation);
        }
        let Passage { route, disclosure, client, is_reused } = passage;
        let max_forwards = forwards_left(head)?;
        let onward = Onward { to, route, disclosure, client, max_forwards };
        rewrite::request(head, &onward, out)?;
        Ok(Self {
            version: head.version,
            to_head: head.method == Method::Head,
            is_idempotent: head.method.is_idempotent(),
            is_reused,
            keeps_client: head.keeps_connection(),
            asks_for_websocket: head.asks_for_websocket(),
            disclosure: disclosure.clone(),
            request: Body::new(head.framing),
            request_begun: false,
            scanner: HeadScanner::default(),
            response_begun: false,
            status: None,
            interim_count: 0,
            response: Response::Awaited,
        })
    }

    /// Says what to do with the bytes that the client has sent behind the head. Those behind its
    /// body stay.
    pub fn from_client(&mut self, input: &[u8]) -> Result<Run, HttpError> {
        let run = self.request.advance(input)?;
        self.request_begun |= run.used() > 0;
        Ok(run)
    }

    /// Whether what the client has sent behind the head so far is well formed, looked at before any
    /// of it is forwarded. Changes nothing.
    ///
    /// # Errors
    /// It is not.
    pub fn check_ahead(&self, input: &[u8]) -> Result<(), HttpError> {
        let mut body = self.request;
        let mut rest = input;
        while !body.is_done() && !rest.is_empty() {
            let used = body.advance(rest)?.used();
            if used == 0 {
                break;
            }
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says whether the connection to the origin has carried an exchange before, once it is known
    /// which one it is.
    pub fn set_reused(&mut self, is_reused: bool) {
        self.is_reused = is_reused;
    }

    /// The rest of the request's body, some of which may pass without being looked at.
    pub fn request_body(&mut self) -> &mut Body {
        // Who asks for it may move bytes.
        self.request_begun |= !self.request.is_done();
        &mut self.request
    }

    /// Says what to do with the bytes that the origin has sent, and appends the head of a response
    /// to `out` as the client gets it.
    pub fn from_origin(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Run, HttpError> {
        match &mut self.response {
            Response::Awaited => {
                self.response_begun |= !input.is_empty();
                let Some(range) = self.scanner.scan(input)? else { return Ok(Run::default()) };
                if range.start > 0 {
                    return Err(HttpError::EmptyLines);
                }
                let mut slots = Slots::new();
                let bytes = input.get(range).unwrap_or_default();
                let head = ResponseHead::parse(bytes, &mut slots)?;
                self.respond(&head, out)?;
                Ok(Run { forward: 0, skip: bytes.len() })
            }
            Response::Body { body, .. } => body.advance(input),
            Response::Switched => Ok(Run { forward: input.len(), skip: 0 }),
        }
    }

    fn respond(&mut self, head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) -> Result<(), HttpError> {
        let to = |connection| Recipient {
            version: self.version,
            connection,
            disclosure: &self.disclosure,
        };
        if head.is_interim() {
            self.interim_count += 1;
            if self.interim_count > HTTP_INTERIM_RESPONSES_MAX {
                return Err(HttpError::TooManyInterim);
            }
            // "A server MUST NOT send a 1xx response to an HTTP/1.0 client" (RFC 9110 section
            // 15.2).
            if self.version == Version::Http11 {
                rewrite::response(head, &to(ClientConnection::Kept), out)?;
            }
            return Ok(());
        }
        self.status = Some(head.status);
        if head.status == 101 {
            if !self.asks_for_websocket || !head.fields.lists("upgrade", "websocket") {
                return Err(HttpError::Switched);
            }
            rewrite::response(head, &to(ClientConnection::Switched), out)?;
            self.response = Response::Switched;
            return Ok(());
        }
        if head.status == 407 {
            return Err(HttpError::AsksAsProxy);
        }
        let framing = head.framing(self.to_head);
        // If the origin answers early, the rest of the request may never come.
        let keepable = framing != Framing::UntilClose && self.request.is_done();
        let client_kept = self.keeps_client && keepable;
        let connection =
            if client_kept { ClientConnection::Kept } else { ClientConnection::Closed };
        rewrite::response(head, &to(connection), out)?;
        let body = match self.version {
            Version::Http10 => Body::without_chunks(framing),
            Version::Http11 => Body::new(framing),
        };
        let origin_kept = head.keeps_connection() && keepable;
        self.response = Response::Body { body, client_kept, origin_kept };
        Ok(())
    }

    /// The rest of the response's body, once its head has passed.
    pub fn response_body(&mut self) -> Option<&mut Body> {
        match &mut self.response {
            Response::Body { body, .. } => Some(body),
            Response::Awaited | Response::Switched => None,
        }
    }

    /// The origin sends no more: which is the end of some responses, and an error in others.
    pub fn origin_ended(&mut self) -> Result<(), HttpError> {
        match &mut self.response {
            Response::Awaited => Err(HttpError::Truncated),
            Response::Body { body, .. } => body.end(),
            Response::Switched => Ok(()),
        }
    }

    /// Whether the client has got the head of the final response, so that no error page may follow.
    pub fn is_answered(&self) -> bool {
        !matches!(self.response, Response::Awaited)
    }

    /// The status of the final response, once its head has come.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether it may become a tunnel.
    pub fn may_switch(&self) -> bool {
        self.asks_for_websocket
    }

    /// Whether the whole request has passed.
    pub fn is_sent(&self) -> bool {
        self.request.is_done()
    }

    /// Whether the request may be sent again on another connection after this one has failed: the
    /// origin may well have closed it before the request came, doing it twice would do no harm, and
    /// nothing of it is gone (RFC 9112 section 9.3.1, RFC 9110 section 9.2.2).
    pub fn may_retry(&self) -> bool {
        self.is_reused && self.is_idempotent && !self.request_begun && !self.response_begun
    }

    /// What becomes of the two connections.
    pub fn fate(&self) -> Fate {
        match &self.response {
            Response::Switched => Fate::Switched,
            Response::Body { body, client_kept, origin_kept } if body.is_done() => {
                Fate::Finished { client_kept: *client_kept, origin_kept: *origin_kept }
            }
            Response::Awaited | Response::Body { .. } => Fate::Running,
        }
    }
}

/// The `Max-Forwards` that goes out, where it counts: with OPTIONS and TRACE (RFC 9110 section
/// 7.6.2).
fn forwards_left(head: &RequestHead<'_, '_>) -> Result<Option<u64>, NotForwarded> {
    if !matches!(head.method, Method::Options | Method::Trace) {
        return Ok(None);
    }
    let Some(value) = head.fields.one("max-forwards")? else { return Ok(None) };
    let text = str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let forwards: u64 = text.and_then(|text| text.parse().ok()).ok_or(HttpError::Field)?;
    match forwards.checked_sub(1) {
        Some(left) => Ok(Some(left)),
        None if head.method == Method::Trace => Err(NotForwarded::LastStopOfTrace),
        None => Err(NotForwarded::LastStopOfOptions),
    }
}
