//! Heads of requests.

use super::super::target::{Host, Target};
use super::error::HttpError;
use super::fields::{Fields, Slots};
use super::framing::{Framing, Version};
use super::method::Method;

/// The head of a request, of which nothing is ambiguous.
#[derive(Debug, Clone)]
pub struct RequestHead<'h, 'b> {
    /// The method.
    pub method: Method<'b>,
    /// What is asked for.
    pub target: RequestTarget<'b>,
    /// The version of HTTP that the client speaks.
    pub version: Version,
    /// All fields.
    pub fields: Fields<'h, 'b>,
    /// Where the body ends.
    pub framing: Framing,
}

/// The forms of a request target (RFC 9112 section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTarget<'b> {
    /// `HOST:PORT` of CONNECT: be connected to it.
    Authority(Target),
    /// `http://HOST/PATH`: forward the request.
    Absolute(Absolute<'b>),
    /// `/PATH?QUERY`: meant for this very server.
    Origin(&'b str),
    /// `*` of OPTIONS: this server as a whole.
    Asterisk,
}

/// What an absolute-form asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absolute<'b> {
    /// How the origin is spoken to.
    pub scheme: Scheme,
    /// The origin.
    pub target: Target,
    /// Path and query as they came, from `/` or `?`; empty if there is neither.
    pub path: &'b str,
}

/// The schemes that are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP over TCP.
    Http,
    /// HTTP over TLS, which this proxy speaks to the origin.
    Https,
}

impl Scheme {
    /// The port that is meant where none is named.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// The scheme as it stands in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl<'h, 'b> RequestHead<'h, 'b> {
    /// Reads a head, which ends with its empty line: the bytes that a
    /// [`HeadScanner`](super::HeadScanner) has found.
    pub fn parse(head: &'b [u8], slots: &'h mut Slots<'b>) -> Result<Self, HttpError> {
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(head, &mut slots.0);
        if parsed.map_err(why)? != httparse::Status::Complete(head.len()) {
            return Err(HttpError::Field);
        }
        let (Some(method), Some(path), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(HttpError::StartLine);
        };
        let method = Method::of(method);
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        let fields = Fields(request.headers);
        check_host(version, fields)?;
        let target = RequestTarget::parse(method, path)?;
        let framing = Framing::of_request(method, version, fields)?;
        Ok(Self { method, target, version, fields, framing })
    }

    /// Whether the client wants to use the connection again, and may (RFC 9112 section 9.3): one of
    /// HTTP/1.0 may not, since a proxy in front of this one may have passed on what it asks for.
    pub fn keeps_connection(&self) -> bool {
        self.version == Version::Http11 && !self.fields.lists("connection", "close")
    }

    /// Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.version == Version::Http11
            && !matches!(self.framing, Framing::None | Framing::Length(0))
            && self.fields.list("expect").any(|e| e.eq_ignore_ascii_case(b"100-continue"))
    }

    /// Whether the connection may become one of WebSocket (RFC 6455 section 4.1). Other upgrades
    /// are not passed on: nobody needs to grant one (RFC 9110 section 7.8), and HTTP/2 in it would
    /// carry requests past the rules.
    pub fn asks_for_websocket(&self) -> bool {
        self.version == Version::Http11
            && self.method == Method::Get
            && self.framing == Framing::None
            && self.fields.lists("connection", "upgrade")
            && self.fields.lists("upgrade", "websocket")
    }
}

/// Why `httparse` refuses.
pub(super) fn why(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::TooManyFields,
        httparse::Error::Version => HttpError::Version,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HttpError::Field,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
            HttpError::StartLine
        }
    }
}

/// A request of HTTP/1.1 has exactly one Host, and a valid one (RFC 9112 section 3.2). What it says
/// is ignored: "When a proxy receives a request with an absolute-form of request-target, the proxy
/// MUST ignore the received Host header field (if any) and instead replace it" (section 3.2.2).
fn check_host(version: Version, fields: Fields<'_, '_>) -> Result<(), HttpError> {
    match fields.one("host").map_err(|_| HttpError::Host)? {
        None if version == Version::Http11 => Err(HttpError::Host),
        // A client may send an empty one where the target has no authority.
        None | Some(b"") => Ok(()),
        Some(value) => split_authority(value).map(|_| ()).map_err(|_| HttpError::Host),
    }
}

/// Host and port, if one is named, of `HOST[:[PORT]]` (RFC 3986 section 3.2). A user in front of it
/// is refused (RFC 9110 section 4.2.4).
fn split_authority(authority: &[u8]) -> Result<(Host, Option<u16>), HttpError> {
    let name_len = match authority.strip_prefix(b"[") {
        Some(rest) => rest.iter().position(|&byte| byte == b']').ok_or(HttpError::Target)? + 2,
        None => authority.iter().position(|&byte| byte == b':').unwrap_or(authority.len()),
    };
    let (name, port) = authority.split_at_checked(name_len).ok_or(HttpError::Target)?;
    let host = Host::parse(name).map_err(|_| HttpError::Target)?;
    let port = match port {
        b"" | b":" => None,
        [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
            let port = str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
            Some(port.filter(|port| *port > 0).ok_or(HttpError::Target)?)
        }
        _ => return Err(HttpError::Target),
    };
    Ok((host, port))
}

impl<'b> RequestTarget<'b> {
    fn parse(method: Method<'_>, text: &'b str) -> Result<Self, HttpError> {
        // No fragment is sent (RFC 9110 section 7.1), and a URI is ASCII (RFC 3986 section 2).
        if text.bytes().any(|byte| byte == b'#' || !byte.is_ascii_graphic()) {
            return Err(HttpError::Target);
        }
        if method == Method::Connect {
            let (host, port) = split_authority(text.as_bytes())?;
            let port = port.ok_or(HttpError::Target)?;
            return Ok(Self::Authority(Target { host, port }));
        }
        match text.as_bytes() {
            [b'/', ..] => Ok(Self::Origin(text)),
            b"*" if method == Method::Options => Ok(Self::Asterisk),
            _ => Absolute::parse(text).map(Self::Absolute),
        }
    }
}

impl<'b> Absolute<'b> {
    fn parse(text: &'b str) -> Result<Self, HttpError> {
        let (scheme, rest) = text.split_once("://").ok_or(HttpError::Target)?;
        let scheme = [Scheme::Http, Scheme::Https]
            .into_iter()
            .find(|known| scheme.eq_ignore_ascii_case(known.as_str()))
            .ok_or(HttpError::Scheme)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or(HttpError::Target)?;
        let (host, port) = split_authority(authority.as_bytes())?;
        let port = port.unwrap_or_else(|| scheme.default_port());
        Ok(Self { scheme, target: Target { host, port }, path })
    }
}
