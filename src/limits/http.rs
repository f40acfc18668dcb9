//! Limits of HTTP messages that pass the proxy.

/// Bytes of a request line or a status line, its CR LF among them. RFC 9112 section 3 asks for at
/// least 8000.
pub const HTTP_START_LINE_LEN_MAX: usize = 16 << 10;
/// Bytes of a head: the start line, all fields, and the empty line. A connection's buffer must hold
/// one whole.
pub const HTTP_HEAD_LEN_MAX: usize = 32 << 10;
/// Field lines of a head.
pub const HTTP_FIELDS_MAX: usize = 128;
/// What a Content-Length or the size of a chunk may be at most. Far from where sums overflow, here
/// or, as a signed number, at the far end.
pub const HTTP_LENGTH_MAX: u64 = 1 << 56;
/// Digits of the size of a chunk, zeros in front among them.
pub const HTTP_CHUNK_DIGITS_MAX: u8 = 16;
/// Bytes of the extensions of one chunk, which are not forwarded.
pub const HTTP_CHUNK_EXTENSION_LEN_MAX: usize = 256;
/// Bytes of all trailer fields of a message.
pub const HTTP_TRAILERS_LEN_MAX: usize = 8 << 10;
/// Bytes of the name of a trailer field, its colon among them. The buffer from which a body is read
/// must hold one whole.
pub const HTTP_TRAILER_NAME_LEN_MAX: usize = 128;
/// Interim responses (1xx) in front of a final one.
pub const HTTP_INTERIM_RESPONSES_MAX: u8 = 16;
/// Options that `Connection` names, besides the usual ones.
pub const HTTP_CONNECTION_OPTIONS_MAX: usize = 32;
/// Bytes of what a client says of itself for authentication, still encoded.
pub const HTTP_CREDENTIALS_LEN_MAX: usize = 8 << 10;

const _: () = {
    assert!(HTTP_START_LINE_LEN_MAX >= 8000 && HTTP_START_LINE_LEN_MAX < HTTP_HEAD_LEN_MAX);
    assert!(HTTP_LENGTH_MAX <= u64::MAX / 16, "one more digit does not overflow");
    assert!(HTTP_TRAILER_NAME_LEN_MAX < HTTP_TRAILERS_LEN_MAX);
    assert!(HTTP_TRAILER_NAME_LEN_MAX <= HTTP_HEAD_LEN_MAX);
    assert!(HTTP_CREDENTIALS_LEN_MAX < HTTP_HEAD_LEN_MAX);
};
