//! Heads of requests.

use proptest::prelude::*;

use crate::limits::{HTTP_FIELDS_MAX, HTTP_HEAD_LEN_MAX, HTTP_LENGTH_MAX, HTTP_START_LINE_LEN_MAX};
use crate::proxy::target::{Host, Target};

use super::*;

fn error_of(bytes: &[u8]) -> Option<HttpError> {
    with_request(bytes, |head| head.err())
}

#[test]
fn each_form_of_target_is_read_and_no_other() {
    // RFC 9112 section 3.2; the sections of the rows are there, unless another is named.
    let table: &[(&str, Result<&str, HttpError>)] = &[
        // 3.2.1 origin-form.
        ("GET /", Ok("origin /")),
        ("GET /auth?x=1", Ok("origin /auth?x=1")),
        ("GET //a/b", Ok("origin //a/b")),
        // 3.2.2 absolute-form.
        ("GET http://a.example/b?c", Ok("http a.example:80 /b?c")),
        ("GET http://a.example", Ok("http a.example:80 ")),
        ("GET http://a.example?q", Ok("http a.example:80 ?q")),
        ("GET http://a.example:8080/", Ok("http a.example:8080 /")),
        ("GET http://a.example:/", Ok("http a.example:80 /")),
        ("GET https://a.example/", Ok("https a.example:443 /")),
        ("GET HTTP://A.Example/X", Ok("http a.example:80 /X")),
        ("GET http://[2001:db8::1]:81/", Ok("http [2001:db8::1]:81 /")),
        ("GET http://[::ffff:127.0.0.1]/", Ok("http 127.0.0.1:80 /")),
        ("GET ftp://a.example/", Err(HttpError::Scheme)),
        ("GET a.example/", Err(HttpError::Target)),
        ("GET http:a.example/", Err(HttpError::Target)),
        ("GET http:///x", Err(HttpError::Target)),
        ("GET http://:80/", Err(HttpError::Target)),
        ("GET http://a.example:0/", Err(HttpError::Target)),
        ("GET http://a.example:65536/", Err(HttpError::Target)),
        ("GET http://a.example:+80/", Err(HttpError::Target)),
        ("GET http://a.example:80:81/", Err(HttpError::Target)),
        ("GET http://[::1/", Err(HttpError::Target)),
        ("GET http://[::1]x/", Err(HttpError::Target)),
        ("GET http://[fe80::1%25eth0]/", Err(HttpError::Target)),
        ("GET http://127.1/", Err(HttpError::Target)),
        ("GET http://a%2eexample/", Err(HttpError::Target)),
        // RFC 9110 section 4.2.4: a user in front of the host.
        ("GET http://user@a.example/", Err(HttpError::Target)),
        ("GET http://good.example\\@bad.example/", Err(HttpError::Target)),
        // RFC 9110 section 7.1: no fragment.
        ("GET http://a.example/#x", Err(HttpError::Target)),
        // 3.2.3 authority-form.
        ("CONNECT a.example:443", Ok("authority a.example:443")),
        ("CONNECT [2001:db8::1]:443", Ok("authority [2001:db8::1]:443")),
        ("CONNECT 192.0.2.1:25", Ok("authority 192.0.2.1:25")),
        ("CONNECT a.example", Err(HttpError::Target)),
        ("CONNECT a.example:", Err(HttpError::Target)),
        ("CONNECT a.example:0", Err(HttpError::Target)),
        ("CONNECT a.example:443/", Err(HttpError::Target)),
        ("CONNECT http://a.example:443", Err(HttpError::Target)),
        ("CONNECT /", Err(HttpError::Target)),
        ("CONNECT *", Err(HttpError::Target)),
        ("CONNECT 2001:db8::1:443", Err(HttpError::Target)),
        ("CONNECT user@a.example:443", Err(HttpError::Target)),
        ("GET a.example:443", Err(HttpError::Target)),
        // 3.2.4 asterisk-form.
        ("OPTIONS *", Ok("asterisk")),
        ("GET *", Err(HttpError::Target)),
        ("OPTIONS *x", Err(HttpError::Target)),
    ];
    for (line, expected) in table {
        let bytes = format!("{line} HTTP/1.1\r\nHost: other.example\r\n\r\n").into_bytes();
        let found = with_request(&bytes, |head| {
            head.map(|head| match head.target {
                RequestTarget::Authority(target) => format!("authority {target}"),
                RequestTarget::Absolute(Absolute { scheme, target, path }) => {
                    format!("{} {target} {path}", scheme.as_str())
                }
                RequestTarget::Origin(path) => format!("origin {path}"),
                RequestTarget::Asterisk => String::from("asterisk"),
            })
        });
        assert_eq!(found.as_deref(), expected.as_ref().map(|text| *text), "{line}");
    }
}

#[test]
fn there_is_one_valid_host() {
    // RFC 9112 section 3.2; what it says is ignored with absolute-form (3.2.2).
    let table: &[(&str, &str, Option<HttpError>)] = &[
        ("HTTP/1.1", "Host: a.example", None),
        ("HTTP/1.1", "HOST: a.example:80", None),
        ("HTTP/1.1", "Host: other.example:81", None),
        ("HTTP/1.1", "Host:", None),
        ("HTTP/1.1", "X: y", Some(HttpError::Host)),
        ("HTTP/1.0", "X: y", None),
        ("HTTP/1.1", "Host: a.example\r\nHost: a.example", Some(HttpError::Host)),
        ("HTTP/1.0", "Host: a.example\r\nhost: b.example", Some(HttpError::Host)),
        ("HTTP/1.1", "Host: a.example, b.example", Some(HttpError::Host)),
        ("HTTP/1.1", "Host: a.example/x", Some(HttpError::Host)),
        ("HTTP/1.1", "Host: user@a.example", Some(HttpError::Host)),
        ("HTTP/1.1", "Host: a example", Some(HttpError::Host)),
        ("HTTP/1.1", "Host: a.example:x", Some(HttpError::Host)),
    ];
    for (version, lines, expected) in table {
        let bytes = format!("GET http://a.example/ {version}\r\n{lines}\r\n\r\n").into_bytes();
        assert_eq!(error_of(&bytes), *expected, "{version} {lines}");
    }
}

#[test]
fn a_line_that_others_may_understand_differently_is_refused() {
    let line = |line: &[u8]| {
        let mut bytes = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n".to_vec();
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    };
    // RFC 9112 sections 2.2 (line ends), 5.1 (blank in front of the colon), 5.2 (folding); RFC 9110
    // sections 5.1 (names are tokens) and 5.5 (control characters).
    let table: &[(&[u8], Option<HttpError>)] = &[
        (b"A: b", None),
        (b"A:b", None),
        (b"A:\tb c\t ", None),
        (b"A: \xc3\xa9\x80\xff", None),
        (b"A:", None),
        (b"!#$%&'*+-.^_`|~09aZ: b", None),
        (b"A: b\nC: d", Some(HttpError::BareLf)),
        (b"A: b\n\r\n", Some(HttpError::BareLf)),
        (b"A: b\rC: d", Some(HttpError::Field)),
        (b"A: b\r\r", Some(HttpError::Field)),
        (b"A : b", Some(HttpError::Field)),
        (b"A\t: b", Some(HttpError::Field)),
        (b" A: b", Some(HttpError::Field)),
        (b"A: b\r\n c", Some(HttpError::Field)),
        (b"A: b\r\n\tc", Some(HttpError::Field)),
        (b"A: b\0c", Some(HttpError::Field)),
        (b"A: b\x0bc", Some(HttpError::Field)),
        (b"A: b\x7fc", Some(HttpError::Field)),
        (b"A\0: b", Some(HttpError::Field)),
        (b"A(: b", Some(HttpError::Field)),
        (b"\xc3\xa9: b", Some(HttpError::Field)),
        (b": b", Some(HttpError::Field)),
        (b"A", Some(HttpError::Field)),
    ];
    for (text, expected) in table {
        assert_eq!(error_of(&line(text)), *expected, "{}", text.escape_ascii());
    }
}

#[test]
fn the_first_line_is_exactly_as_it_should_be() {
    // RFC 9112 section 3.
    let table: &[(&str, Option<HttpError>)] = &[
        ("GET http://a.example/ HTTP/1.1", None),
        ("get http://a.example/ HTTP/1.1", None),
        ("PROPFIND http://a.example/ HTTP/1.1", None),
        ("\r\nGET http://a.example/ HTTP/1.1", None),
        ("\r\n\r\nGET http://a.example/ HTTP/1.1", Some(HttpError::EmptyLines)),
        (" GET http://a.example/ HTTP/1.1", Some(HttpError::StartLine)),
        ("GET  http://a.example/ HTTP/1.1", Some(HttpError::StartLine)),
        ("GET http://a.example/  HTTP/1.1", Some(HttpError::Version)),
        ("GET\thttp://a.example/ HTTP/1.1", Some(HttpError::StartLine)),
        ("GET http://a.example/ HTTP/1.1 ", Some(HttpError::StartLine)),
        ("GET http://a.example/", Some(HttpError::StartLine)),
        ("GET http://a.example/ HTTP/2.0", Some(HttpError::Version)),
        ("GET http://a.example/ HTTP/1.2", Some(HttpError::Version)),
        ("GET http://a.example/ http/1.1", Some(HttpError::Version)),
        ("GET http://a.example/ HTTP/0.9", Some(HttpError::Version)),
        ("G(T http://a.example/ HTTP/1.1", Some(HttpError::StartLine)),
        ("GET http://a.example/\u{e9} HTTP/1.1", Some(HttpError::Target)),
        ("GET http://a.example/\0 HTTP/1.1", Some(HttpError::StartLine)),
        ("PRI * HTTP/2.0", Some(HttpError::Version)),
    ];
    for (line, expected) in table {
        let bytes = format!("{line}\r\nHost: a.example\r\n\r\n").into_bytes();
        assert_eq!(error_of(&bytes), *expected, "{}", line.escape_debug());
    }
}

#[test]
fn the_end_of_a_request_is_told_in_one_way_or_it_is_refused() {
    let huge = format!("Content-Length: {}", HTTP_LENGTH_MAX + 1);
    // RFC 9112 sections 6.1 to 6.3, RFC 9110 section 8.6.
    let table: &[(&str, Result<Framing, HttpError>)] = &[
        ("A: b", Ok(Framing::None)),
        ("Content-Length: 0", Ok(Framing::Length(0))),
        ("Content-Length: 5", Ok(Framing::Length(5))),
        ("content-length:\t05 ", Ok(Framing::Length(5))),
        ("Content-Length: 72057594037927936", Ok(Framing::Length(HTTP_LENGTH_MAX))),
        (&huge, Err(HttpError::ContentLength)),
        ("Content-Length: 18446744073709551616", Err(HttpError::ContentLength)),
        ("Content-Length: 18446744073709551621", Err(HttpError::ContentLength)),
        ("Content-Length: -1", Err(HttpError::ContentLength)),
        ("Content-Length: +5", Err(HttpError::ContentLength)),
        ("Content-Length: abc", Err(HttpError::ContentLength)),
        ("Content-Length: 1.5", Err(HttpError::ContentLength)),
        ("Content-Length: 0x5", Err(HttpError::ContentLength)),
        ("Content-Length: \"\"", Err(HttpError::ContentLength)),
        ("Content-Length:", Err(HttpError::ContentLength)),
        ("Content-Length:   ", Err(HttpError::ContentLength)),
        ("Content-Length: 123abc", Err(HttpError::ContentLength)),
        ("Content-Length: 1 2", Err(HttpError::ContentLength)),
        ("Content-Length: 5, 5", Err(HttpError::ContentLength)),
        ("Content-Length: 5\r\nContent-Length: 5", Err(HttpError::ContentLength)),
        ("Content-Length: 5\r\nContent-Length: 6", Err(HttpError::ContentLength)),
        ("Transfer-Encoding: chunked", Ok(Framing::Chunked)),
        ("Transfer-Encoding: Chunked", Ok(Framing::Chunked)),
        ("transfer-encoding:CHUNKED\t", Ok(Framing::Chunked)),
        ("Transfer-Encoding:", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: chunked,", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: ,chunked", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: chunked, chunked", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: chunked, gzip", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: gzip, chunked", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: gzip", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: identity", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: chunked;q=1", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: xchunked", Err(HttpError::TransferEncoding)),
        ("Transfer-Encoding: \u{b}chunked", Err(HttpError::Field)),
        ("Transfer-Encoding: \"chunked\"", Err(HttpError::TransferEncoding)),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Err(HttpError::TransferEncoding),
        ),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", Err(HttpError::TransferEncoding)),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Err(HttpError::LengthAndEncoding)),
        ("Transfer-Encoding: x\r\nContent-Length: 0", Err(HttpError::LengthAndEncoding)),
        ("Transfer-Encoding : chunked", Err(HttpError::Field)),
        ("Transfer_Encoding: chunked", Ok(Framing::None)),
    ];
    for (lines, expected) in table {
        let bytes = get_with(&format!("{lines}\r\n"));
        let found = with_request(&bytes, |head| head.map(|head| head.framing));
        assert_eq!(found, *expected, "{}", lines.escape_debug());
    }
}

#[test]
fn some_requests_have_no_body() {
    // RFC 9110 sections 9.3.6 and 9.3.8; RFC 9112 section 6.1 for HTTP/1.0.
    let table = [
        ("CONNECT a.example:443 HTTP/1.1", "Content-Length: 5", HttpError::BodyForbidden),
        ("CONNECT a.example:443 HTTP/1.1", "Content-Length: 0", HttpError::BodyForbidden),
        ("CONNECT a.example:443 HTTP/1.1", "Transfer-Encoding: chunked", HttpError::BodyForbidden),
        ("TRACE http://a.example/ HTTP/1.1", "Content-Length: 5", HttpError::BodyForbidden),
        (
            "POST http://a.example/ HTTP/1.0",
            "Transfer-Encoding: chunked",
            HttpError::TransferEncodingVersion,
        ),
    ];
    for (line, field, expected) in table {
        let bytes = format!("{line}\r\nHost: a.example\r\n{field}\r\n\r\n").into_bytes();
        assert_eq!(error_of(&bytes), Some(expected), "{line} {field}");
    }
}

#[test]
fn sizes_and_counts_are_bounded() {
    let line = |len: usize| {
        let path = "x".repeat(len - "GET http://a.example/ HTTP/1.1\r\n".len());
        format!("GET http://a.example/{path} HTTP/1.1\r\nHost: a.example\r\n\r\n").into_bytes()
    };
    assert_eq!(error_of(&line(HTTP_START_LINE_LEN_MAX)), None);
    let error = error_of(&line(HTTP_START_LINE_LEN_MAX + 1)).unwrap();
    assert_eq!(error.request_status().code(), 414);

    let head = |len: usize| {
        let rest = len - get_with("A: \r\n").len();
        get_with(&format!("A: {}\r\n", "x".repeat(rest)))
    };
    assert_eq!(error_of(&head(HTTP_HEAD_LEN_MAX)), None);
    let error = error_of(&head(HTTP_HEAD_LEN_MAX + 1)).unwrap();
    assert_eq!(error.request_status().code(), 431);

    let fields = |count: usize| get_with(&"A: b\r\n".repeat(count - 1));
    assert_eq!(error_of(&fields(HTTP_FIELDS_MAX)), None);
    let error = error_of(&fields(HTTP_FIELDS_MAX + 1)).unwrap();
    assert_eq!(error, HttpError::TooManyFields);
    assert_eq!(error.request_status().code(), 431);

    // Without an end in sight, they are refused as soon as they are too long.
    assert_eq!(scan(&vec![b'x'; HTTP_START_LINE_LEN_MAX]), Ok(None));
    assert_eq!(scan(&vec![b'x'; HTTP_START_LINE_LEN_MAX + 1]), Err(HttpError::StartLineTooLong));
    let endless = [b"GET / HTTP/1.1\r\n".as_slice(), &vec![b'x'; HTTP_HEAD_LEN_MAX]].concat();
    assert_eq!(scan(&endless), Err(HttpError::HeadTooLong));
}

#[test]
fn what_a_client_wants_of_its_connection() {
    // RFC 9112 section 9.3.
    let table = [
        ("HTTP/1.1", "A: b", true),
        ("HTTP/1.1", "Connection: keep-alive", true),
        ("HTTP/1.1", "Connection: Close", false),
        ("HTTP/1.1", "Connection: x,close", false),
        ("HTTP/1.1", "Connection: x\r\nConnection: close", false),
        ("HTTP/1.1", "Connection: closed", true),
        ("HTTP/1.0", "A: b", false),
        ("HTTP/1.0", "Connection: keep-alive", false),
    ];
    for (version, lines, expected) in table {
        let bytes = format!("GET / {version}\r\nHost: a.example\r\n{lines}\r\n\r\n").into_bytes();
        let kept = with_request(&bytes, |head| head.unwrap().keeps_connection());
        assert_eq!(kept, expected, "{version} {lines}");
    }
}

#[test]
fn a_target_is_the_one_that_socks_would_have() {
    with_request(b"CONNECT EXAMPLE.com.:443 HTTP/1.0\r\n\r\n", |head| {
        let RequestTarget::Authority(target) = head.unwrap().target else { panic!("CONNECT") };
        let host = Host::parse(b"example.com.").unwrap();
        assert_eq!(target, Target { host, port: 443 });
    });
}

proptest! {
    #[test]
    fn a_head_is_found_the_same_however_it_arrives(
        lines in proptest::collection::vec("[a:\r\n]{0,6}(\r\n)?", 0..8),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = lines.concat().into_bytes();
        let whole = scan(&bytes);
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut scanner = HeadScanner::default();
        let pieces = ends.iter().map(|end| scanner.scan(&bytes[..*end]));
        let found = pieces.into_iter().find(|found| *found != Ok(None)).unwrap_or(Ok(None));
        prop_assert_eq!(found, whole);
    }
}
