//! Bodies as they pass.

use proptest::prelude::*;

use crate::limits::{
    HTTP_CHUNK_EXTENSION_LEN_MAX, HTTP_TRAILER_NAME_LEN_MAX, HTTP_TRAILERS_LEN_MAX,
};

use super::*;

/// How a body passed: the bytes that were forwarded, how many were left, and whether it ended.
type Passed = (Vec<u8>, usize, Result<bool, HttpError>);

/// Feeds bytes in pieces that end at `ends`, as the owner of a buffer does.
fn pass(mut body: Body, bytes: &[u8], ends: &[usize]) -> Passed {
    let mut forwarded = Vec::new();
    let mut from = 0;
    for &end in ends.iter().chain([&bytes.len()]) {
        loop {
            let run = match body.advance(&bytes[from..end.max(from)]) {
                Ok(run) => run,
                Err(error) => return (forwarded, bytes.len() - from, Err(error)),
            };
            forwarded.extend_from_slice(&bytes[from..][..run.forward]);
            from += run.used();
            if run.used() == 0 {
                break;
            }
        }
    }
    (forwarded, bytes.len() - from, Ok(body.is_done()))
}

fn chunked(bytes: &[u8]) -> Passed {
    pass(Body::new(Framing::Chunked), bytes, &[])
}

#[test]
fn a_length_is_counted_and_the_next_message_left() {
    let body = |framing| pass(Body::new(framing), b"helloGET", &[]);
    assert_eq!(body(Framing::None), (vec![], 8, Ok(true)));
    assert_eq!(body(Framing::Length(0)), (vec![], 8, Ok(true)));
    assert_eq!(body(Framing::Length(5)), (b"hello".to_vec(), 3, Ok(true)));
    assert_eq!(body(Framing::Length(9)), (b"helloGET".to_vec(), 0, Ok(false)));
    assert_eq!(body(Framing::UntilClose), (b"helloGET".to_vec(), 0, Ok(false)));
}

#[test]
fn chunks_are_followed_to_their_end() {
    // RFC 9112 section 7.1. What is forwarded, and how many bytes are left.
    let table: &[(&str, &str, usize)] = &[
        ("0\r\n\r\n", "0\r\n\r\n", 0),
        ("5\r\nhello\r\n0\r\n\r\nGET", "5\r\nhello\r\n0\r\n\r\n", 3),
        ("A\r\n0123456789\r\n000\r\n\r\n", "A\r\n0123456789\r\n000\r\n\r\n", 0),
        ("2\r\n\r\n\r\n0\r\n\r\n", "2\r\n\r\n\r\n0\r\n\r\n", 0),
        // 7.1.1: extensions are ignored, and so are blanks in front of them.
        ("2;a\r\nhi\r\n0;b=\"c;d\"\r\n\r\n", "2\r\nhi\r\n0\r\n\r\n", 0),
        ("2 \t;a = b\r\nhi\r\n0\r\n\r\n", "2\r\nhi\r\n0\r\n\r\n", 0),
        // 7.1.2 and RFC 9110 section 6.5.1: trailers, but not those that act on the message.
        ("0\r\nX-Sum: 1\r\n\r\nGET", "0\r\nX-Sum: 1\r\n\r\n", 3),
        ("0\r\nA: b\r\nContent-Length: 5\r\nC:d\r\n\r\n", "0\r\nA: b\r\nC:d\r\n\r\n", 0),
        ("0\r\nTransfer-Encoding: chunked\r\nHOST: x\r\n\r\n", "0\r\n\r\n", 0),
        ("0\r\nConnection: close\r\nSet-Cookie: a\r\nTE: b\r\n\r\n", "0\r\n\r\n", 0),
        ("0\r\nProxy-Authorization: a\r\nX-Forwarded-Host: b\r\n\r\n", "0\r\n\r\n", 0),
        ("0\r\nIf-Match: a\r\nAuthorization: b\r\nVia: c\r\n\r\n", "0\r\n\r\n", 0),
    ];
    for (text, forwarded, left) in table {
        let expected = (forwarded.as_bytes().to_vec(), *left, Ok(true));
        assert_eq!(chunked(text.as_bytes()), expected, "{}", text.escape_debug());
    }
}

#[test]
fn chunks_that_others_may_understand_differently_are_refused() {
    let long = |text: &str, count: usize| text.replace('$', &"x".repeat(count));
    let extension = long("5;$\r\nhello\r\n0\r\n\r\n", HTTP_CHUNK_EXTENSION_LEN_MAX);
    let name = long("0\r\n$: b\r\n\r\n", HTTP_TRAILER_NAME_LEN_MAX);
    let trailers = long("0\r\nA: $\r\n\r\n", HTTP_TRAILERS_LEN_MAX);
    let table: &[(&str, HttpError)] = &[
        ("\r\n", HttpError::ChunkSize),
        ("x", HttpError::ChunkSize),
        (";a\r\n", HttpError::ChunkSize),
        (" 5\r\n", HttpError::ChunkSize),
        ("-5\r\n", HttpError::ChunkSize),
        ("+5\r\n", HttpError::ChunkSize),
        ("0x5\r\n", HttpError::ChunkSize),
        ("5g\r\n", HttpError::ChunkSize),
        ("5\nhello", HttpError::ChunkSize),
        ("5\rhello", HttpError::ChunkSize),
        ("5\0", HttpError::ChunkSize),
        ("7fffffffffffffff\r\n", HttpError::ChunkSize),
        ("ffffffffffffffff\r\n", HttpError::ChunkSize),
        ("10000000000000005\r\n", HttpError::ChunkSize),
        ("00000000000000005\r\n", HttpError::ChunkSize),
        ("5 \r\nhello", HttpError::ChunkExtension),
        ("5 5\r\n", HttpError::ChunkExtension),
        ("5;a\nhello", HttpError::ChunkExtension),
        ("5;a\0\r\n", HttpError::ChunkExtension),
        ("5;a\r5", HttpError::ChunkSize),
        (&extension, HttpError::ChunkExtension),
        ("5\r\nhelloX", HttpError::ChunkEnd),
        ("5\r\nhello\n", HttpError::ChunkEnd),
        ("5\r\nhello\r5", HttpError::ChunkEnd),
        ("5\r\nhello0\r\n", HttpError::ChunkEnd),
        ("0\r\n\n", HttpError::Trailer),
        ("0\r\n\rX", HttpError::Trailer),
        ("0\r\n A: b\r\n", HttpError::Trailer),
        ("0\r\nA : b\r\n", HttpError::Trailer),
        ("0\r\nA\r\n", HttpError::Trailer),
        ("0\r\n: b\r\n", HttpError::Trailer),
        ("0\r\nA: b\n", HttpError::Trailer),
        ("0\r\nA: b\rC", HttpError::Trailer),
        ("0\r\nA: b\0", HttpError::Trailer),
        ("0\r\nA: b\r\n c\r\n", HttpError::Trailer),
        ("0\r\nGET / HTTP/1.1\r\n", HttpError::Trailer),
        (&name, HttpError::Trailer),
        (&trailers, HttpError::TrailersTooLong),
    ];
    for (text, error) in table {
        assert_eq!(chunked(text.as_bytes()).2, Err(*error), "{}", text.escape_debug());
    }
}

#[test]
fn limits_of_chunks_are_where_they_should_be() {
    let long = |text: &str, count: usize| text.replace('$', &"x".repeat(count));
    let texts = [
        long("5;$\r\nhello\r\n0\r\n\r\n", HTTP_CHUNK_EXTENSION_LEN_MAX - 1 - 1),
        long("0\r\n$: b\r\n\r\n", HTTP_TRAILER_NAME_LEN_MAX - 1),
        long("0\r\nA: $\r\n\r\n", HTTP_TRAILERS_LEN_MAX - 3),
        String::from("0000000000000005\r\nhello\r\n0\r\n\r\n"),
    ];
    for text in texts {
        assert_eq!(chunked(text.as_bytes()).2, Ok(true), "{text}");
    }
    assert_eq!(chunked(b"100000000000000\r\n").2, Ok(false));
    assert_eq!(chunked(b"100000000000001\r\n").2, Err(HttpError::ChunkSize));
}

#[test]
fn a_recipient_that_knows_no_chunks_gets_their_data() {
    let text = b"5;a\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\nHTTP";
    let passed = pass(Body::without_chunks(Framing::Chunked), text, &[]);
    assert_eq!(passed, (b"hello!".to_vec(), 4, Ok(true)));
}

#[test]
fn the_end_of_a_connection_ends_some_messages_and_cuts_others() {
    let ended = |framing, text: &[u8]| {
        let mut body = Body::new(framing);
        body.advance(text).unwrap();
        body.end()
    };
    assert_eq!(ended(Framing::UntilClose, b"abc"), Ok(()));
    assert_eq!(ended(Framing::Length(3), b"abc"), Ok(()));
    assert_eq!(ended(Framing::Length(4), b"abc"), Err(HttpError::Truncated));
    assert_eq!(ended(Framing::Chunked, b"0\r\n"), Err(HttpError::Truncated));
    assert_eq!(ended(Framing::Chunked, b"0\r\n\r\n"), Ok(()));
}

#[test]
fn data_may_pass_by_another_way() {
    let mut body = Body::new(Framing::Chunked);
    assert_eq!(body.passable(), 0);
    assert_eq!(body.advance(b"10\r\n"), Ok(Run { forward: 4, skip: 0 }));
    assert_eq!(body.passable(), 16);
    body.pass(10);
    assert_eq!(body.passable(), 6);
    body.pass(6);
    assert_eq!(body.advance(b"\r\n0\r\n\r\n"), Ok(Run { forward: 7, skip: 0 }));
    assert!(body.is_done());

    let mut body = Body::new(Framing::Length(10));
    body.pass(4);
    assert_eq!(body.passable(), 6);
    body.pass(6);
    assert!(body.is_done());
}

proptest! {
    #[test]
    fn a_body_passes_the_same_however_it_arrives(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("5\r\nhello\r\n"), Just("0\r\n\r\n"), Just("0\r\n"), Just("3;ext\r\nabc\r\n"),
                Just("X: y\r\n"), Just("TE: z\r\n"), Just("\r\n"), Just("1 ;\r\na\r\n"),
                Just("f"), Just("\n"), Just("\0"),
            ],
            0..6,
        ),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        bare in any::<bool>(),
        framing in prop_oneof![
            4 => Just(Framing::Chunked), 1 => (0..40u64).prop_map(Framing::Length),
            1 => Just(Framing::UntilClose),
        ],
    ) {
        let bytes = pieces.concat().into_bytes();
        let body = if bare { Body::without_chunks(framing) } else { Body::new(framing) };
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        let whole = pass(body, &bytes, &[]);
        prop_assert_eq!(&pass(body, &bytes, &ends), &whole);
        let each: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(&pass(body, &bytes, &each), &whole);
    }
}
