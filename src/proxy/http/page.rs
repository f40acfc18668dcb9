//! What the proxy itself answers: short, plain texts with the right headers.
//!
//! Nothing that came from outside is taken for markup: a page is plain text, no browser may guess
//! otherwise, and control characters are left out.

use std::io::Write;
use std::time::Duration;

/// The statuses of answers that are the proxy's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200 to CONNECT: from here on it is a tunnel.
    Established,
    /// 200.
    Ok,
    /// 204.
    NoContent,
    /// 400: the message is malformed or ambiguous.
    BadRequest,
    /// 401: the server itself demands to know who asks.
    Unauthorized,
    /// 403: a rule denies it.
    Forbidden,
    /// 404: the server itself has nothing there.
    NotFound,
    /// 405: this server does not do that.
    MethodNotAllowed,
    /// 407: the proxy demands to know who asks.
    ProxyAuthenticationRequired,
    /// 408: the client took too long.
    RequestTimeout,
    /// 414: the request line is too long.
    UriTooLong,
    /// 417: the client expects what nobody knows.
    ExpectationFailed,
    /// 429: a limit on how often or how much is reached.
    TooManyRequests,
    /// 431: the head is too large.
    HeadTooLarge,
    /// 501: nobody does that here.
    NotImplemented,
    /// 502: the origin cannot be reached, or its response is malformed.
    BadGateway,
    /// 503: the proxy is at a limit of its own.
    ServiceUnavailable,
    /// 504: the origin took too long.
    GatewayTimeout,
    /// 505: another version of HTTP.
    VersionNotSupported,
}

impl Status {
    /// The three digits.
    pub fn code(self) -> u16 {
        self.row().0
    }

    /// The usual phrase.
    pub fn reason(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> (u16, &'static str) {
        match self {
            Self::Established => (200, "Connection established"),
            Self::Ok => (200, "OK"),
            Self::NoContent => (204, "No Content"),
            Self::BadRequest => (400, "Bad Request"),
            Self::Unauthorized => (401, "Unauthorized"),
            Self::Forbidden => (403, "Forbidden"),
            Self::NotFound => (404, "Not Found"),
            Self::MethodNotAllowed => (405, "Method Not Allowed"),
            Self::ProxyAuthenticationRequired => (407, "Proxy Authentication Required"),
            Self::RequestTimeout => (408, "Request Timeout"),
            Self::UriTooLong => (414, "URI Too Long"),
            Self::ExpectationFailed => (417, "Expectation Failed"),
            Self::TooManyRequests => (429, "Too Many Requests"),
            Self::HeadTooLarge => (431, "Request Header Fields Too Large"),
            Self::NotImplemented => (501, "Not Implemented"),
            Self::BadGateway => (502, "Bad Gateway"),
            Self::ServiceUnavailable => (503, "Service Unavailable"),
            Self::GatewayTimeout => (504, "Gateway Timeout"),
            Self::VersionNotSupported => (505, "HTTP Version Not Supported"),
        }
    }
}

/// An answer of the proxy itself.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The status.
    pub status: Status,
    /// A sentence that says what happened and what mends it, for the person who reads it.
    pub text: &'a str,
    /// What a 401 or 407 protects, as browsers show it.
    pub realm: &'a str,
    /// When to try again, if that is known. In seconds.
    pub retry_after_s: Option<u64>,
    /// Whether the request was one of HEAD, so that the text is left out.
    pub to_head: bool,
    /// Whether the connection is closed afterwards.
    pub closes: bool,
}

impl<'a> Page<'a> {
    /// An answer after which the connection is closed.
    pub fn closing(status: Status, text: &'a str) -> Self {
        let realm = "proxy";
        Self { status, text, realm, retry_after_s: None, to_head: false, closes: true }
    }

    /// Appends the answer to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Status::Established = self.status else { return self.write_page(out) };
        // A 2xx to CONNECT has neither length nor body (RFC 9110 section 9.3.6).
        out.extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
    }

    /// Appends the answer to a question about the server as a whole: that it is there (`OPTIONS *`,
    /// RFC 9110 section 9.3.7). One after which the connection is kept says for how long a client
    /// may be silent, in the way that RFC 2068 section 19.7.1.1 has left behind.
    pub fn write_options(keep_alive: Option<Duration>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\n");
        let kept = match keep_alive {
            Some(time) => write!(out, "Keep-Alive: timeout={}\r\n", time.as_secs()),
            None => write!(out, "Connection: close\r\n"),
        };
        kept.unwrap_or_default();
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    }

    fn write_page(&self, out: &mut Vec<u8>) {
        let (code, reason) = self.status.row();
        let text: String = self.text.chars().filter(|c| !c.is_control()).collect();
        let body = format!("{code} {reason}\n{}{}", text, if text.is_empty() { "" } else { "\n" });
        let mut line = |text: std::fmt::Arguments<'_>| out.write_fmt(text).unwrap_or_default();
        line(format_args!("HTTP/1.1 {code} {reason}\r\n"));
        line(format_args!("Cache-Control: no-store\r\n"));
        let realm: String = self.realm.chars().filter(|&c| is_plain(c)).collect();
        match self.status {
            // A browser asks for a password if Basic is offered, and passes the other over.
            Status::ProxyAuthenticationRequired | Status::Unauthorized => {
                let is_proxy = self.status == Status::ProxyAuthenticationRequired;
                let name = if is_proxy { "Proxy-Authenticate" } else { "WWW-Authenticate" };
                line(format_args!("{name}: Basic realm=\"{realm}\", charset=\"UTF-8\"\r\n"));
                line(format_args!("{name}: Bearer realm=\"{realm}\"\r\n"));
            }
            // RFC 9110 section 15.5.6 asks for it; what the proxy itself answers is asked by these.
            Status::MethodNotAllowed => line(format_args!("Allow: GET, HEAD, OPTIONS\r\n")),
            _ => {}
        }
        if let Some(seconds) = self.retry_after_s {
            line(format_args!("Retry-After: {seconds}\r\n"));
        }
        if self.closes {
            line(format_args!("Connection: close\r\n"));
        }
        if self.status == Status::NoContent {
            return line(format_args!("\r\n"));
        }
        line(format_args!("Content-Type: text/plain; charset=utf-8\r\n"));
        line(format_args!("X-Content-Type-Options: nosniff\r\n"));
        line(format_args!("Content-Length: {}\r\n\r\n", body.len()));
        if !self.to_head {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

/// What may stand in a quoted string without being escaped (RFC 9110 section 5.6.4), of ASCII.
fn is_plain(c: char) -> bool {
    (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\\')
}
