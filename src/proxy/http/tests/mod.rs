//! Tests of HTTP, by what they are about. Tables cite the section that each row follows.

mod answers;
mod bodies;
mod forwarding;
mod oracle;
mod requests;
mod responses;

use super::*;

/// What a buffer holds: a head and the offset behind it.
fn scan(bytes: &[u8]) -> Result<Option<std::ops::Range<usize>>, HttpError> {
    HeadScanner::default().scan(bytes)
}

/// Runs `check` with the head of a request that is there as a whole.
fn with_request<T>(
    bytes: &[u8],
    check: impl FnOnce(Result<RequestHead<'_, '_>, HttpError>) -> T,
) -> T {
    let mut slots = Slots::new();
    match scan(bytes) {
        Ok(Some(head)) => check(RequestHead::parse(&bytes[head], &mut slots)),
        Ok(None) => panic!("no end of the head in {}", bytes.escape_ascii()),
        Err(error) => check(Err(error)),
    }
}

/// A request of HTTP/1.1 with these lines behind its Host.
fn get_with(lines: &str) -> Vec<u8> {
    format!("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n").into_bytes()
}
