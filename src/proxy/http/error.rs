//! What can be wrong with a message.

use crate::limits::{
    HTTP_CHUNK_EXTENSION_LEN_MAX, HTTP_FIELDS_MAX, HTTP_HEAD_LEN_MAX, HTTP_INTERIM_RESPONSES_MAX,
    HTTP_LENGTH_MAX, HTTP_START_LINE_LEN_MAX, HTTP_TRAILERS_LEN_MAX,
};

use super::page::Status;

/// Why a message is refused. Nothing of it is forwarded any more, and the connection that it came
/// on is closed: nobody knows where on it the next message begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// LF without CR in front of it (RFC 9112 section 2.2).
    #[error("a line ends in a bare LF")]
    BareLf,
    /// More empty lines in front of a request than the one that old clients send.
    #[error("more than one empty line in front of the message")]
    EmptyLines,
    /// The start line is too long.
    #[error("the first line has more than {HTTP_START_LINE_LEN_MAX} bytes")]
    StartLineTooLong,
    /// The head is too long.
    #[error("the head has more than {HTTP_HEAD_LEN_MAX} bytes")]
    HeadTooLong,
    /// The head has too many fields.
    #[error("the head has more than {HTTP_FIELDS_MAX} fields")]
    TooManyFields,
    /// The start line is none of HTTP/1.
    #[error("the first line is not one of HTTP/1")]
    StartLine,
    /// Another version of HTTP.
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// A field line with a blank in front of its colon, a folded value, a name that is no token, a
    /// control byte (RFC 9112 section 5).
    #[error("a header line is malformed")]
    Field,
    /// The request-target is of no form that its method has (RFC 9112 section 3.2).
    #[error(
        "the request target is malformed; a proxy takes http://HOST/PATH, or CONNECT HOST:PORT"
    )]
    Target,
    /// Neither `http` nor `https`.
    #[error("the scheme of the request target is neither http nor https")]
    Scheme,
    /// No Host, more than one, or no valid one (RFC 9112 section 3.2).
    #[error("the Host header is missing, repeated or malformed")]
    Host,
    /// A Content-Length that is no number, is too large, or stands there twice.
    #[error("the Content-Length is repeated or no number from 0 to {HTTP_LENGTH_MAX}")]
    ContentLength,
    /// A Transfer-Encoding that is not exactly `chunked`.
    #[error("the Transfer-Encoding is something else than chunked")]
    TransferEncoding,
    /// A Transfer-Encoding in a message of HTTP/1.0 (RFC 9112 section 6.1).
    #[error("a message of HTTP/1.0 has a Transfer-Encoding")]
    TransferEncodingVersion,
    /// Both, so that recipients may disagree about the end of the message (RFC 9112 section 6.3).
    #[error("the message has both a Content-Length and a Transfer-Encoding")]
    LengthAndEncoding,
    /// A CONNECT or TRACE with a body.
    #[error("a request of this method has no body")]
    BodyForbidden,
    /// The size of a chunk is no hexadecimal number, or too large.
    #[error("the size of a chunk is no hexadecimal number up to {HTTP_LENGTH_MAX:#x}")]
    ChunkSize,
    /// The extensions of a chunk are malformed or too long.
    #[error(
        "the extensions of a chunk are malformed or exceed {HTTP_CHUNK_EXTENSION_LEN_MAX} bytes"
    )]
    ChunkExtension,
    /// A chunk does not end in CR LF where its size says that it ends.
    #[error("a chunk is not as long as its size says")]
    ChunkEnd,
    /// A malformed trailer field.
    #[error("a trailer line is malformed")]
    Trailer,
    /// The trailers are too long.
    #[error("the trailers have more than {HTTP_TRAILERS_LEN_MAX} bytes")]
    TrailersTooLong,
    /// The connection ended within a message.
    #[error("the connection ended before the message did")]
    Truncated,
    /// A 101 that nobody asked for, or that switches to another protocol.
    #[error("the server switched to a protocol that was not asked for")]
    Switched,
    /// Interim responses without end.
    #[error("more than {HTTP_INTERIM_RESPONSES_MAX} interim responses")]
    TooManyInterim,
    /// A 407 from where no proxy is: a browser would send it what is meant for this proxy.
    #[error("the server asks for the credentials of a proxy")]
    AsksAsProxy,
}

impl HttpError {
    /// What a client is told whose request this is wrong with.
    pub fn request_status(self) -> Status {
        match self {
            Self::StartLineTooLong => Status::UriTooLong,
            Self::HeadTooLong | Self::TooManyFields => Status::HeadTooLarge,
            Self::Version => Status::VersionNotSupported,
            _ => Status::BadRequest,
        }
    }

    /// What a client is told if this is wrong with the response of an origin or an upstream proxy.
    pub fn response_status(self) -> Status {
        Status::BadGateway
    }
}
