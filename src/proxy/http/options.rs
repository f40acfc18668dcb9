//! The client side of `OPTIONS *`: whether another proxy is there and knows who asks (RFC 9110
//! section 9.3.7).

use std::io::Write;
use std::time::Duration;

use crate::limits::HTTP_INTERIM_RESPONSES_MAX;

use super::super::target::Target;
use super::credentials::ProxyAuthorization;
use super::error::HttpError;
use super::fields::{Fields, Slots};
use super::framing::Framing;
use super::response::ResponseHead;
use super::scan::HeadScanner;
use super::upstream::{ConnectError, end_head};

/// Appends the question to `server`.
pub fn write_options(
    server: &Target,
    authorization: Option<&ProxyAuthorization>,
    out: &mut Vec<u8>,
) {
    let written = write!(out, "OPTIONS * HTTP/1.1\r\nHost: {server}\r\n");
    written.unwrap_or_default();
    end_head(authorization, out);
}

/// That a proxy is there, knows who asks, and keeps the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// How many bytes the answer has.
    pub used: usize,
    /// For how long the client may be silent, as far as the proxy says.
    pub keep_alive: Option<Duration>,
}

/// Reads the answer.
#[derive(Debug, Default)]
pub struct OptionsReply {
    scanner: HeadScanner,
    interim_count: u8,
    /// Bytes of interim responses, which precede what the scanner looks at.
    passed: usize,
    /// What the head has said, once it is there.
    found: Option<Presence>,
}

impl OptionsReply {
    /// Reads a buffer that begins as it did in earlier calls and may have grown, until the answer
    /// is whole. The error is one of a proxy that does not let the client in, or does not keep the
    /// connection for it.
    pub fn read(&mut self, buffer: &[u8]) -> Result<Option<Presence>, ConnectError> {
        while self.found.is_none() {
            let rest = buffer.get(self.passed..).unwrap_or_default();
            let Some(range) = self.scanner.scan(rest)? else { return Ok(None) };
            if range.start > 0 {
                return Err(HttpError::EmptyLines.into());
            }
            let end = self.passed + range.end;
            let mut slots = Slots::new();
            let head = ResponseHead::parse(rest.get(range).unwrap_or_default(), &mut slots)?;
            match head.status {
                101 => return Err(HttpError::Switched.into()),
                100..200 if self.interim_count < HTTP_INTERIM_RESPONSES_MAX => {
                    self.interim_count += 1;
                    self.passed = end;
                }
                100..200 => return Err(HttpError::TooManyInterim.into()),
                200..300 if head.keeps_connection() => {
                    let used = match head.framing(false) {
                        Framing::None => Some(end),
                        Framing::Length(len) => {
                            usize::try_from(len).ok().and_then(|len| end.checked_add(len))
                        }
                        Framing::Chunked | Framing::UntilClose => None,
                    };
                    let used = used.ok_or(ConnectError::NotKept)?;
                    self.found = Some(Presence { used, keep_alive: keep_alive(head.fields) });
                }
                200..300 => return Err(ConnectError::NotKept),
                407 => return Err(ConnectError::Credentials),
                status @ (401 | 403 | 451) => return Err(ConnectError::Denied(status)),
                status => return Err(ConnectError::Refused(status)),
            }
        }
        Ok(self.found.filter(|found| buffer.len() >= found.used))
    }
}

/// What `Keep-Alive: timeout=SECONDS` says.
fn keep_alive(fields: Fields<'_, '_>) -> Option<Duration> {
    let timeout = |member: &[u8]| -> Option<u64> {
        let seconds = str::from_utf8(member.trim_ascii()).ok()?.strip_prefix("timeout=")?;
        seconds.parse().ok()
    };
    fields.list("keep-alive").find_map(timeout).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of an answer that is given byte by byte.
    fn outcome(answer: &str) -> Result<Option<Presence>, ConnectError> {
        let mut reply = OptionsReply::default();
        for len in 1..answer.len() {
            match reply.read(&answer.as_bytes()[..len])? {
                None => {}
                found => return Ok(found),
            }
        }
        reply.read(answer.as_bytes())
    }

    #[test]
    fn a_proxy_that_is_there_says_for_how_long() {
        let mut out = Vec::new();
        let authorization = ProxyAuthorization::bearer("abc").unwrap();
        write_options(&"gateway.example:8443".parse().unwrap(), Some(&authorization), &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "OPTIONS * HTTP/1.1\r\nHost: gateway.example:8443\r\n\
             Proxy-Authorization: Bearer abc\r\n\r\n"
        );
        for (answer, keep_alive) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
            ("HTTP/1.1 204 No Content\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=7\r\nContent-Length: 2\r\n\r\nab", Some(7)),
            (
                "HTTP/1.1 200 OK\r\nKeep-Alive: max=5, timeout=7\r\nContent-Length: 0\r\n\r\n",
                Some(7),
            ),
            ("HTTP/1.1 103 Wait\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=x\r\nContent-Length: 0\r\n\r\n", None),
        ] {
            let keep_alive = keep_alive.map(Duration::from_secs);
            let expected = Presence { used: answer.len(), keep_alive };
            assert_eq!(outcome(answer), Ok(Some(expected)), "{answer}");
            assert_eq!(outcome(&answer[..answer.len() - 1]), Ok(None), "{answer}");
        }
        let mut out = Vec::new();
        crate::proxy::http::Page::write_options(Some(Duration::from_secs(60)), &mut out);
        let own = String::from_utf8(out).unwrap();
        assert_eq!(outcome(&own).unwrap().unwrap().keep_alive, Some(Duration::from_secs(60)));
    }

    #[test]
    fn one_that_does_not_let_in_or_does_not_keep_is_found_out() {
        for (answer, expected) in [
            ("407 Who?\r\nContent-Length: 0\r\n", ConnectError::Credentials),
            ("403 No\r\nContent-Length: 0\r\n", ConnectError::Denied(403)),
            ("404 What?\r\nContent-Length: 0\r\n", ConnectError::Refused(404)),
            ("200 OK\r\nConnection: close\r\nContent-Length: 0\r\n", ConnectError::NotKept),
            ("200 OK\r\n", ConnectError::NotKept),
            ("200 OK\r\nTransfer-Encoding: chunked\r\n", ConnectError::NotKept),
        ] {
            assert_eq!(outcome(&format!("HTTP/1.1 {answer}\r\n")), Err(expected), "{answer}");
        }
        let doubtful = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert!(matches!(outcome(doubtful), Err(ConnectError::Malformed(_))));
        assert!(matches!(outcome("SSH-2.0\r\n\r\n"), Err(ConnectError::Malformed(_))));
    }
}
