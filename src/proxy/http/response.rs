//! Heads of responses from origins and upstream proxies.

use super::error::HttpError;
use super::fields::{Fields, Slots};
use super::framing::{Framing, Version};
use super::request::why;

/// The head of a response, of which nothing is ambiguous.
#[derive(Debug, Clone)]
pub struct ResponseHead<'h, 'b> {
    /// The version of HTTP that the origin speaks.
    pub version: Version,
    /// The status, from 100 to 599.
    pub status: u16,
    /// What stands behind the status; may be empty.
    pub reason: &'b str,
    /// All fields.
    pub fields: Fields<'h, 'b>,
    /// What the fields say about the length; what they mean depends on the request as well.
    pub(super) declared: Option<Framing>,
}

impl<'h, 'b> ResponseHead<'h, 'b> {
    /// Reads a head, which ends with its empty line: the bytes that a
    /// [`HeadScanner`](super::HeadScanner) has found.
    pub fn parse(head: &'b [u8], slots: &'h mut Slots<'b>) -> Result<Self, HttpError> {
        let mut head = Self::parse_any_length(head, slots)?;
        head.declared = Framing::declared(head.version, head.fields)?;
        Ok(head)
    }

    /// The same, but what the fields say about the length is not looked at: in a 2xx to CONNECT
    /// they mean nothing (RFC 9110 section 9.3.6).
    pub(super) fn parse_any_length(
        head: &'b [u8],
        slots: &'h mut Slots<'b>,
    ) -> Result<Self, HttpError> {
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed = config.parse_response_with_uninit_headers(&mut response, head, &mut slots.0);
        if parsed.map_err(why)? != httparse::Status::Complete(head.len()) {
            return Err(HttpError::Field);
        }
        let (Some(status @ 100..600), Some(version)) = (response.code, response.version) else {
            return Err(HttpError::StartLine);
        };
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        let fields = Fields(response.headers);
        let reason = response.reason.unwrap_or_default();
        Ok(Self { version, status, reason, fields, declared: None })
    }

    /// Where the body ends, if the request was one of HEAD or not (RFC 9112 section 6.3).
    pub fn framing(&self, to_head: bool) -> Framing {
        if to_head || matches!(self.status, 100..200 | 204 | 304) {
            return Framing::None;
        }
        self.declared.unwrap_or(Framing::UntilClose)
    }

    /// Whether another may follow in front of the final response (RFC 9110 section 15.2).
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Whether the origin keeps the connection (RFC 9112 section 9.3). Of HTTP/1.0 none does.
    pub fn keeps_connection(&self) -> bool {
        // A 204 has no length (RFC 9110 section 8.6): an origin that names one may send a body.
        let odd = self.status == 204 && !matches!(self.declared, None | Some(Framing::Length(0)));
        self.version == Version::Http11 && !odd && !self.fields.lists("connection", "close")
    }
}
