//! What fuzz targets call, and `tests/corpora.rs` with every file of their corpora.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    ConnectReply, Credentials, Disclosure, Exchange, Fate, HeadScanner, HttpError, Mark,
    NotForwarded, OptionsReply, Passage, RequestHead, RequestTarget, Route, Slots,
};

/// Reads `data` as a client's requests, and forwards those that are for an origin. The outcome is
/// the same however the bytes arrive, and what is sent to the origin is accepted as well.
pub fn requests(data: &[u8]) {
    let whole = forward(data, data.len().max(1));
    assert_eq!(whole, forward(data, 1));
    assert_eq!(whole, forward(data, 7));
}

/// Reads `data` as what an origin answers. Its first byte says what the request was.
pub fn responses(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let request: &[u8] = match kind % 4 {
        0 => b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        1 => b"HEAD http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        2 => b"GET http://a/ HTTP/1.0\r\n\r\n",
        _ => {
            b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\
              Upgrade: websocket\r\n\r\n"
        }
    };
    let whole = answer(request, data, data.len().max(1));
    assert_eq!(whole, answer(request, data, 1));
    assert_eq!(whole, answer(request, data, 7));
}

/// Reads `data` as what an upstream proxy answers to CONNECT, and to OPTIONS.
pub fn connect_reply(data: &[u8]) {
    let (mut tunnel, mut options) = (ConnectReply::default(), OptionsReply::default());
    let whole = ConnectReply::default().read(data);
    assert_eq!(first_found(data, |piece| tunnel.read(piece)), whole);
    let whole = OptionsReply::default().read(data);
    assert_eq!(first_found(data, |piece| options.read(piece)), whole);
}

/// What is found first in a buffer that grows byte by byte.
fn first_found<T: PartialEq, E: PartialEq>(
    data: &[u8],
    mut read: impl FnMut(&[u8]) -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let pieces = (0..=data.len()).map(|end| read(data.get(..end).unwrap_or_default()));
    pieces.into_iter().find(|found| *found != Ok(None)).unwrap_or(Ok(None))
}

/// What came of a stream of requests: what was sent to origins, how many requests have passed, how
/// many bytes were left, and why it ended.
type Forwarded = (Vec<u8>, usize, usize, Option<NotForwarded>);

/// Forwards requests from a buffer that grows by `step` bytes at a time.
fn forward(data: &[u8], step: usize) -> Forwarded {
    let mut client = Client::default();
    let mut from = 0;
    let ends = (0..data.len()).step_by(step).map(|at| (at + step).min(data.len()));
    for end in ends {
        loop {
            match client.take(data.get(from..end).unwrap_or_default()) {
                Ok(0) => break,
                Ok(used) => from += used,
                Err(error) => return (client.sent, client.count, data.len() - from, Some(error)),
            }
        }
    }
    (client.sent, client.count, data.len() - from, None)
}

/// A client's connection.
#[derive(Default)]
struct Client {
    scanner: HeadScanner,
    exchange: Option<Exchange>,
    /// What origins get.
    sent: Vec<u8>,
    count: usize,
}

impl Client {
    /// Goes on with what is at hand, and says how much of it has been used.
    fn take(&mut self, input: &[u8]) -> Result<usize, NotForwarded> {
        if let Some(exchange) = &mut self.exchange {
            let run = exchange.from_client(input)?;
            self.sent.extend_from_slice(input.get(..run.forward).unwrap_or_default());
            if exchange.is_sent() {
                self.exchange = None;
                self.count += 1;
            }
            return Ok(run.used());
        }
        let Some(range) = self.scanner.scan(input)? else { return Ok(0) };
        let end = range.end;
        let mut slots = Slots::new();
        let head = RequestHead::parse(input.get(range).unwrap_or_default(), &mut slots)?;
        // Every outcome is fine but a panic.
        let _ = Credentials::of_proxy_request(head.fields);
        let _ = Credentials::of_request(head.fields);
        if let RequestTarget::Absolute(to) = &head.target {
            let disclosure = Disclosure {
                via: Some("fuzz".into()),
                forwarded: Mark::Append,
                x_forwarded_for: Mark::Replace,
            };
            let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let disclosure = &disclosure;
            let passage = Passage { route: Route::Direct, disclosure, client, is_reused: false };
            let begins = self.sent.len();
            let exchange = Exchange::begin(&head, to, passage, &mut self.sent)?;
            accepts(self.sent.get(begins..).unwrap_or_default());
            self.exchange = (!exchange.is_sent()).then_some(exchange);
            self.count += usize::from(self.exchange.is_none());
        }
        Ok(end)
    }
}

/// What is written is read again as one head.
fn accepts(head: &[u8]) {
    let mut slots = Slots::new();
    assert_eq!(HeadScanner::default().scan(head), Ok(Some(0..head.len())));
    assert!(RequestHead::parse(head, &mut slots).is_ok(), "{}", head.escape_ascii());
}

/// What came of a response: what the client got, how many bytes were left, and how it ended.
type Answered = (Vec<u8>, usize, Result<Fate, HttpError>);

/// Passes a response to a request from a buffer that grows by `step` bytes at a time.
fn answer(request: &[u8], data: &[u8], step: usize) -> Option<Answered> {
    let mut slots = Slots::new();
    let head = RequestHead::parse(request, &mut slots).ok()?;
    let RequestTarget::Absolute(to) = &head.target else { return None };
    let disclosure = &Disclosure::default();
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let passage = Passage { route: Route::Direct, disclosure, client, is_reused: false };
    let mut exchange = Exchange::begin(&head, to, passage, &mut Vec::new()).ok()?;
    let mut got = Vec::new();
    let mut from = 0;
    for end in (0..data.len()).step_by(step).map(|at| (at + step).min(data.len())) {
        while exchange.fate() == Fate::Running {
            let input = data.get(from..end).unwrap_or_default();
            match exchange.from_origin(input, &mut got) {
                Ok(run) if run.used() == 0 => break,
                Ok(run) => {
                    got.extend_from_slice(input.get(..run.forward).unwrap_or_default());
                    from += run.used();
                }
                Err(error) => return Some((got, data.len() - from, Err(error))),
            }
        }
    }
    let left = data.len() - from;
    let fate = exchange.fate();
    let ended = exchange.origin_ended();
    Some((got, left, ended.map(|()| fate)))
}
