//! Heads of responses.

use super::*;

fn with_response<T>(
    bytes: &[u8],
    check: impl FnOnce(Result<ResponseHead<'_, '_>, HttpError>) -> T,
) -> T {
    let mut slots = Slots::new();
    let head = scan(bytes).unwrap().unwrap_or_else(|| panic!("{}", bytes.escape_ascii()));
    check(ResponseHead::parse(&bytes[head], &mut slots))
}

#[test]
fn the_end_of_a_response_is_told_in_one_way_or_it_is_refused() {
    use Framing::{Chunked, Length, None, UntilClose};
    // RFC 9112 sections 6.1 to 6.3; RFC 9110 sections 8.6, 9.3.2, 15.2, 15.3.5, 15.4.5.
    let table: &[(&str, bool, Result<Framing, HttpError>)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5", false, Ok(Length(5))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5", true, Ok(None)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", false, Ok(Chunked)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", true, Ok(None)),
        ("HTTP/1.1 200 OK\r\nA: b", false, Ok(UntilClose)),
        ("HTTP/1.0 200 OK\r\nA: b", false, Ok(UntilClose)),
        ("HTTP/1.1 200", false, Ok(UntilClose)),
        ("HTTP/1.1 200 ", false, Ok(UntilClose)),
        ("HTTP/1.1 204 No Content\r\nA: b", false, Ok(None)),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5", false, Ok(None)),
        ("HTTP/1.1 100 Continue\r\nA: b", false, Ok(None)),
        ("HTTP/1.1 205 Reset\r\nContent-Length: 0", false, Ok(Length(0))),
        ("HTTP/1.1 299 Odd\r\nContent-Length: 1", false, Ok(Length(1))),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
            false,
            Err(HttpError::ContentLength),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5,5", true, Err(HttpError::ContentLength)),
        ("HTTP/1.1 204 OK\r\nContent-Length: x", false, Err(HttpError::ContentLength)),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
            false,
            Err(HttpError::LengthAndEncoding),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
            false,
            Err(HttpError::TransferEncoding),
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity", false, Err(HttpError::TransferEncoding)),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
            false,
            Err(HttpError::TransferEncodingVersion),
        ),
        ("HTTP/1.1 200 OK\r\nA : b", false, Err(HttpError::Field)),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c", false, Err(HttpError::Field)),
        ("HTTP/1.1 200 OK\r\nA: b\0", false, Err(HttpError::Field)),
        ("HTTP/1.1 099 OK", false, Err(HttpError::StartLine)),
        ("HTTP/1.1 600 OK", false, Err(HttpError::StartLine)),
        ("HTTP/1.1 20 OK", false, Err(HttpError::StartLine)),
        ("HTTP/1.1 2000 OK", false, Err(HttpError::StartLine)),
        ("HTTP/1.1  200 OK", false, Err(HttpError::StartLine)),
        ("HTTP/2 200 OK", false, Err(HttpError::Version)),
        ("ICY 200 OK", false, Err(HttpError::Version)),
        ("220 mail.example ESMTP", false, Err(HttpError::Version)),
    ];
    for (text, to_head, expected) in table {
        let bytes = format!("{text}\r\n\r\n").into_bytes();
        let found = with_response(&bytes, |head| head.map(|head| head.framing(*to_head)));
        assert_eq!(found, *expected, "{} {to_head}", text.escape_debug());
    }
}

#[test]
fn what_an_origin_wants_of_its_connection() {
    let table = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0", true),
        ("HTTP/1.1 200 OK\r\nConnection: close", false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", false),
        // RFC 9110 section 8.6: who names a length here may send a body as well.
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0", true),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5", false),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked", false),
    ];
    for (text, expected) in table {
        let bytes = format!("{text}\r\n\r\n").into_bytes();
        let kept = with_response(&bytes, |head| head.unwrap().keeps_connection());
        assert_eq!(kept, expected, "{text}");
    }
}
