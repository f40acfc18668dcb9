//! The client side of CONNECT: a tunnel through another proxy (RFC 9110 section 9.3.6).

use std::io::Write;

use crate::limits::HTTP_INTERIM_RESPONSES_MAX;

use super::super::target::Target;
use super::credentials::ProxyAuthorization;
use super::error::HttpError;
use super::fields::Slots;
use super::response::ResponseHead;
use super::scan::HeadScanner;

/// Appends the request for a tunnel to `target`.
pub fn write_connect(
    target: &Target,
    authorization: Option<&ProxyAuthorization>,
    out: &mut Vec<u8>,
) {
    let written = write!(out, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    written.unwrap_or_default();
    end_head(authorization, out);
}

/// Appends the end of a request's head: who asks.
pub(super) fn end_head(authorization: Option<&ProxyAuthorization>, out: &mut Vec<u8>) {
    if let Some(authorization) = authorization {
        out.extend_from_slice(b"Proxy-Authorization: ");
        out.extend_from_slice(authorization.expose());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Why an upstream proxy has not made a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Its credentials are missing or wrong.
    #[error("the upstream proxy demands credentials, or others than it has got (407)")]
    Credentials,
    /// A rule of its own denies the target.
    #[error("the upstream proxy denies the target ({0})")]
    Denied(u16),
    /// It cannot reach the target.
    #[error("the upstream proxy does not reach the target ({0})")]
    Unreachable(u16),
    /// It answers something else.
    #[error("the upstream proxy refuses the tunnel ({0})")]
    Refused(u16),
    /// It answers, and does not keep the connection for what comes next.
    #[error("the upstream proxy does not keep the connection after it has answered")]
    NotKept,
    /// What it answers is not HTTP.
    #[error("the upstream proxy answers no proper HTTP: {0}")]
    Malformed(#[from] HttpError),
}

/// Reads what an upstream proxy answers to CONNECT.
#[derive(Debug, Default)]
pub struct ConnectReply {
    scanner: HeadScanner,
    interim_count: u8,
    /// Bytes of interim responses, which precede what the scanner looks at.
    passed: usize,
}

impl ConnectReply {
    /// Reads a buffer that begins as it did in earlier calls and may have grown. Returns how
    /// many of its bytes are the answer, once the tunnel stands: what follows has come through the
    /// tunnel, whatever the fields of the answer say.
    pub fn read(&mut self, buffer: &[u8]) -> Result<Option<usize>, ConnectError> {
        loop {
            let rest = buffer.get(self.passed..).unwrap_or_default();
            let Some(range) = self.scanner.scan(rest)? else { return Ok(None) };
            if range.start > 0 {
                return Err(HttpError::EmptyLines.into());
            }
            let end = self.passed + range.end;
            let mut slots = Slots::new();
            let bytes = rest.get(range).unwrap_or_default();
            let head = ResponseHead::parse_any_length(bytes, &mut slots)?;
            match head.status {
                101 => return Err(HttpError::Switched.into()),
                100..200 if self.interim_count < HTTP_INTERIM_RESPONSES_MAX => {
                    self.interim_count += 1;
                    self.passed = end;
                }
                100..200 => return Err(HttpError::TooManyInterim.into()),
                200..300 => return Ok(Some(end)),
                407 => return Err(ConnectError::Credentials),
                status @ (401 | 403 | 451) => return Err(ConnectError::Denied(status)),
                status @ (502 | 504) => return Err(ConnectError::Unreachable(status)),
                status => return Err(ConnectError::Refused(status)),
            }
        }
    }
}
