//! How the end of a message is told (RFC 9112 section 6), strictly: where two recipients could
//! disagree, the message is refused.

use crate::limits::HTTP_LENGTH_MAX;

use super::error::HttpError;
use super::fields::Fields;
use super::method::Method;

/// The versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Where the body of a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk and the trailers.
    Chunked,
    /// With the connection; responses only.
    UntilClose,
}

impl Framing {
    /// That of a request (RFC 9112 section 6.3).
    pub(super) fn of_request(
        method: Method<'_>,
        version: Version,
        fields: Fields<'_, '_>,
    ) -> Result<Self, HttpError> {
        let framing = Self::declared(version, fields)?;
        // RFC 9110 sections 9.3.6 and 9.3.8.
        let has_no_body = matches!(method, Method::Connect | Method::Trace);
        match framing {
            Some(_) if has_no_body => Err(HttpError::BodyForbidden),
            Some(framing) => Ok(framing),
            None => Ok(Self::None),
        }
    }

    /// What the fields say; `None` if they say nothing.
    pub(super) fn declared(
        version: Version,
        fields: Fields<'_, '_>,
    ) -> Result<Option<Self>, HttpError> {
        let length = fields.one("content-length").map_err(|_| HttpError::ContentLength)?;
        let encoding = fields.one("transfer-encoding").map_err(|_| HttpError::TransferEncoding)?;
        match (length, encoding) {
            (Some(_), Some(_)) => Err(HttpError::LengthAndEncoding),
            (None, Some(_)) if version == Version::Http10 => {
                Err(HttpError::TransferEncodingVersion)
            }
            // "All transfer-coding names are case-insensitive" (RFC 9112 section 7).
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Some(Self::Chunked))
            }
            (None, Some(_)) => Err(HttpError::TransferEncoding),
            (Some(length), None) => content_length(length).map(|len| Some(Self::Length(len))),
            (None, None) => Ok(None),
        }
    }
}

/// Reads `1*DIGIT` (RFC 9110 section 8.6). No list, though one of equal members would be allowed.
fn content_length(value: &[u8]) -> Result<u64, HttpError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(value).ok().filter(|_| digits);
    let length = text.and_then(|text| text.parse().ok());
    length.filter(|length| *length <= HTTP_LENGTH_MAX).ok_or(HttpError::ContentLength)
}
