//! Requests and responses as they are forwarded.

use std::net::IpAddr;

use proptest::prelude::*;

use crate::limits::{HTTP_CONNECTION_OPTIONS_MAX, HTTP_INTERIM_RESPONSES_MAX};

use super::*;

const CLIENT: &str = "192.0.2.7";

fn passage<'a>(disclosure: &'a Disclosure, client: &str) -> Passage<'a> {
    let client: IpAddr = client.parse().unwrap();
    Passage { route: Route::Direct, disclosure, client, is_reused: false }
}

fn begin(head: &[u8], passage: Passage<'_>) -> Result<(Exchange, String), NotForwarded> {
    with_request(head, |head| {
        let head = head.unwrap();
        let RequestTarget::Absolute(to) = &head.target else { panic!("not absolute") };
        let mut out = Vec::new();
        let exchange = Exchange::begin(&head, to, passage, &mut out)?;
        Ok((exchange, String::from_utf8(out).unwrap()))
    })
}

/// The head that an origin gets.
fn sent(head: &str, disclosure: &Disclosure) -> String {
    begin(head.as_bytes(), passage(disclosure, CLIENT)).unwrap().1
}

fn started(head: &str) -> Exchange {
    begin(head.as_bytes(), passage(&Disclosure::default(), CLIENT)).unwrap().0
}

/// What a client gets of what an origin sends, and how many of the bytes were left.
fn answer(exchange: &mut Exchange, mut input: &[u8]) -> Result<(String, usize), HttpError> {
    let mut got = Vec::new();
    while exchange.fate() == Fate::Running {
        let run = exchange.from_origin(input, &mut got)?;
        if run.used() == 0 {
            break;
        }
        got.extend_from_slice(&input[..run.forward]);
        input = &input[run.used()..];
    }
    Ok((String::from_utf8(got).unwrap(), input.len()))
}

const PLAIN: &str = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
const OLD: &str = "GET http://a.example/ HTTP/1.0\r\n\r\n";

fn finished(client_kept: bool, origin_kept: bool) -> Fate {
    Fate::Finished { client_kept, origin_kept }
}

#[test]
fn the_origin_is_asked_by_path_and_with_the_host_of_the_target() {
    // RFC 9112 sections 3.2.1, 3.2.2 and 3.2.4.
    let table = [
        ("GET http://a.example/b?c", "GET /b?c", "a.example"),
        ("GET http://a.example", "GET /", "a.example"),
        ("GET http://A.example:80?q", "GET /?q", "a.example"),
        ("GET http://a.example:8080/", "GET /", "a.example:8080"),
        ("GET https://a.example:443/", "GET /", "a.example"),
        ("GET https://a.example:80/", "GET /", "a.example:80"),
        ("GET http://[2001:DB8::1]/", "GET /", "[2001:db8::1]"),
        ("GET http://[2001:db8::1]:81/", "GET /", "[2001:db8::1]:81"),
        ("OPTIONS http://a.example", "OPTIONS *", "a.example"),
        ("OPTIONS http://a.example/", "OPTIONS /", "a.example"),
        ("OPTIONS http://a.example?q", "OPTIONS /?q", "a.example"),
    ];
    for (line, expected, host) in table {
        let head = format!("{line} HTTP/1.1\r\nHost: other.example\r\nA: b\r\n\r\n");
        let expected = format!("{expected} HTTP/1.1\r\nHost: {host}\r\nA: b\r\n\r\n");
        assert_eq!(sent(&head, &Disclosure::default()), expected, "{line}");
    }
}

#[test]
fn another_proxy_is_asked_by_the_whole_target() {
    let authorization = ProxyAuthorization::basic("a", "b").unwrap();
    let disclosure = Disclosure::default();
    for (line, expected) in [
        ("GET http://a.example:81/b", "GET http://a.example:81/b"),
        ("GET http://a.example", "GET http://a.example/"),
        ("OPTIONS http://a.example", "OPTIONS http://a.example"),
    ] {
        let head = format!("{line} HTTP/1.0\r\nProxy-Authorization: Basic x\r\n\r\n");
        let route = Route::Proxy(Some(&authorization));
        let passage = Passage { route, ..passage(&disclosure, CLIENT) };
        let (_, found) = begin(head.as_bytes(), passage).unwrap();
        assert!(found.starts_with(&format!("{expected} HTTP/1.1\r\n")), "{found}");
        assert!(found.contains("\r\nProxy-Authorization: Basic YTpi\r\n"), "{found}");
        assert_eq!(found.matches("Proxy-Authorization").count(), 1, "{found}");
    }
}

#[test]
fn what_was_meant_for_the_proxy_stays_here() {
    // RFC 9110 section 7.6.1.
    let fields = "Proxy-Authorization: Basic YTpi\r\nProxy-Connection: keep-alive\r\n\
         Keep-Alive: timeout=5\r\nTE: trailers\r\nTrailer: A\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAA\r\nConnection: X-Gone, upgrade, http2-settings\r\n\
         Connection: close , x-gone-too\r\nX-Gone: 1\r\nx-gone-too: 2\r\nX-Stays: 3\r\n";
    let head = String::from_utf8(get_with(fields)).unwrap();
    let expected = "GET / HTTP/1.1\r\nHost: a.example\r\nX-Stays: 3\r\n\r\n";
    assert_eq!(sent(&head, &Disclosure::default()), expected);
}

#[test]
fn connection_cannot_take_away_what_frames_a_message() {
    let fields = "Connection: content-length, host, transfer-encoding\r\nContent-Length: 5\r\n";
    let head = String::from_utf8(get_with(fields)).unwrap();
    let expected = "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(sent(&head, &Disclosure::default()), expected);

    let names = (0..=HTTP_CONNECTION_OPTIONS_MAX).map(|n| format!("x{n}")).collect::<Vec<_>>();
    let head = |count: usize| get_with(&format!("Connection: {}\r\n", names[..count].join(",")));
    let disclosure = Disclosure::default();
    let begun = |count| begin(&head(count), passage(&disclosure, CLIENT)).map(|_| ());
    assert_eq!(begun(HTTP_CONNECTION_OPTIONS_MAX), Ok(()));
    let error = NotForwarded::Malformed(HttpError::Field);
    assert_eq!(begun(HTTP_CONNECTION_OPTIONS_MAX + 1), Err(error));
}

#[test]
fn proxy_and_client_are_named_as_configured() {
    let fields = "Via: 1.0 old\r\nX-Forwarded-For: 198.51.100.1\r\nForwarded: for=_x\r\n\
         X-Forwarded-For: 198.51.100.2\r\n";
    let head = get_with(fields);
    let via = Some("corelane".into());
    let table = [
        (
            Disclosure::default(),
            "::1",
            "Via: 1.0 old\r\nX-Forwarded-For: 198.51.100.1\r\nForwarded: for=_x\r\n\
             X-Forwarded-For: 198.51.100.2\r\n",
        ),
        (
            Disclosure { via: via.clone(), forwarded: Mark::Append, x_forwarded_for: Mark::Append },
            "::ffff:192.0.2.7",
            "Via: 1.0 old, 1.1 corelane\r\nForwarded: for=_x, for=192.0.2.7;proto=http\r\n\
             X-Forwarded-For: 198.51.100.1, 198.51.100.2, 192.0.2.7\r\n",
        ),
        (
            Disclosure { via, forwarded: Mark::Replace, x_forwarded_for: Mark::Replace },
            "2001:db8::7",
            "Via: 1.0 old, 1.1 corelane\r\nForwarded: for=\"[2001:db8::7]\";proto=http\r\n\
             X-Forwarded-For: 2001:db8::7\r\n",
        ),
    ];
    for (disclosure, client, expected) in table {
        let (_, found) = begin(&head, passage(&disclosure, client)).unwrap();
        let expected = format!("GET / HTTP/1.1\r\nHost: a.example\r\n{expected}\r\n");
        assert_eq!(found, expected);
    }
}

#[test]
fn forwards_are_counted_where_they_count() {
    // RFC 9110 section 7.6.2.
    let begun = |method: &str, value: &str| {
        let head = format!("{method} http://a.example/ HTTP/1.0\r\nMax-Forwards: {value}\r\n\r\n");
        begin(head.as_bytes(), passage(&Disclosure::default(), CLIENT)).map(|(_, found)| {
            found.lines().find(|line| line.starts_with("Max")).unwrap().to_owned()
        })
    };
    let left = |text: &str| Ok(String::from(text));
    assert_eq!(begun("OPTIONS", "5"), left("Max-Forwards: 4"));
    assert_eq!(begun("TRACE", "1"), left("Max-Forwards: 0"));
    assert_eq!(begun("GET", "0"), left("Max-Forwards: 0"));
    assert_eq!(begun("OPTIONS", "0").unwrap_err().status(), Status::NoContent);
    assert_eq!(begun("TRACE", "0").unwrap_err().status(), Status::MethodNotAllowed);
    assert_eq!(begun("TRACE", "-1").unwrap_err().status(), Status::BadRequest);
}

#[test]
fn a_response_passes_and_both_connections_are_kept() {
    let mut exchange = started(PLAIN);
    let response = b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nKeep-Alive: 5\r\nX-Gone: 1\r\n\
        Connection: keep-alive, X-Gone\r\nProxy-Authenticate: Basic\r\nSet-Cookie: a\r\n\
        Set-Cookie: b\r\n\r\nhelloHTTP";
    let expected = "HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\
        \r\nhello";
    assert_eq!(answer(&mut exchange, response), Ok((String::from(expected), 4)));
    assert_eq!(exchange.fate(), finished(true, true));
}

#[test]
fn connections_are_kept_only_where_both_sides_know_the_end() {
    let close = String::from_utf8(get_with("Connection: close\r\n")).unwrap();
    let head = PLAIN.replace("GET", "HEAD");
    // Request, response, what becomes of the connections; RFC 9112 sections 6.3 and 9.3.
    let table = [
        (PLAIN, "200 OK\r\nContent-Length: 0", finished(true, true)),
        (PLAIN, "200 OK\r\nContent-Length: 0\r\nConnection: close", finished(true, false)),
        (&close, "200 OK\r\nContent-Length: 0", finished(false, true)),
        (OLD, "200 OK\r\nContent-Length: 0", finished(false, true)),
        (PLAIN, "204 No Content", finished(true, true)),
        (PLAIN, "204 No Content\r\nContent-Length: 9", finished(true, false)),
        (PLAIN, "304 Not Modified\r\nContent-Length: 9", finished(true, true)),
        (&head, "200 OK\r\nContent-Length: 9", finished(true, true)),
        (&head, "200 OK\r\nTransfer-Encoding: chunked", finished(true, true)),
        (&head, "200 OK", finished(true, true)),
        (PLAIN, "200 OK", Fate::Running),
    ];
    for (request, response, expected) in table {
        let mut exchange = started(request);
        let response = format!("HTTP/1.1 {response}\r\n\r\n");
        let (got, _) = answer(&mut exchange, response.as_bytes()).unwrap();
        assert_eq!(exchange.fate(), expected, "{request} {response}");
        let client_kept = expected == finished(true, true) || expected == finished(true, false);
        assert_eq!(!got.contains("\r\nConnection: close\r\n"), client_kept, "{got}");
    }
}

#[test]
fn a_response_without_a_length_ends_with_its_connection() {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let mut exchange = started(PLAIN);
        let response = format!("{version} 200 OK\r\n\r\nabc");
        let (got, _) = answer(&mut exchange, response.as_bytes()).unwrap();
        assert_eq!(got, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc");
        assert_eq!(exchange.origin_ended(), Ok(()));
        assert_eq!(exchange.fate(), finished(false, false));
    }
}

#[test]
fn a_response_that_is_cut_off_is_an_error() {
    let cut = ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"];
    for response in cut {
        let mut exchange = started(PLAIN);
        answer(&mut exchange, response.as_bytes()).unwrap();
        assert_eq!(exchange.origin_ended(), Err(HttpError::Truncated), "{response}");
        assert_eq!(exchange.is_answered(), response.contains("ab"), "{response}");
    }
}

#[test]
fn a_client_of_http_1_0_gets_neither_chunks_nor_interim_responses() {
    // RFC 9112 section 6.1, RFC 9110 section 15.2.
    let response =
        b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        2\r\nhi\r\n0\r\nA: b\r\n\r\n";
    let mut exchange = started(OLD);
    let expected = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi";
    assert_eq!(answer(&mut exchange, response), Ok((String::from(expected), 0)));
    assert_eq!(exchange.fate(), finished(false, true));
}

#[test]
fn interim_responses_pass_up_to_a_number() {
    let mut exchange = started(PLAIN);
    let response = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
    let expected = "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
    assert_eq!(answer(&mut exchange, response), Ok((String::from(expected), 0)));

    let interim = "HTTP/1.1 102 Wait\r\n\r\n";
    let count = usize::from(HTTP_INTERIM_RESPONSES_MAX);
    let mut exchange = started(PLAIN);
    assert!(answer(&mut exchange, interim.repeat(count).as_bytes()).is_ok());
    assert_eq!(answer(&mut exchange, interim.as_bytes()), Err(HttpError::TooManyInterim));
}

const UPLOAD: &str = "PUT http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\
    Expect: 100-Continue\r\n\r\n";

#[test]
fn a_client_that_waits_for_a_100_gets_it_from_the_origin() {
    // RFC 9110 section 10.1.1.
    let expected = "PUT / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-Continue\r\n\
        Content-Length: 5\r\n\r\n";
    assert_eq!(sent(UPLOAD, &Disclosure::default()), expected);
    let mut exchange = started(UPLOAD);
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(answer(&mut exchange, interim.as_bytes()), Ok((interim.to_owned(), 0)));
    assert_eq!(exchange.from_client(b"helloGET"), Ok(Run { forward: 5, skip: 0 }));
    assert!(exchange.is_sent());
    answer(&mut exchange, b"HTTP/1.1 204 No\r\n\r\n").unwrap();
    assert_eq!(exchange.fate(), finished(true, true));

    let old = UPLOAD.replace("HTTP/1.1", "HTTP/1.0");
    assert!(!sent(&old, &Disclosure::default()).contains("Expect"));
    let other = UPLOAD.replace("100-Continue", "tea");
    let refused = begin(other.as_bytes(), passage(&Disclosure::default(), CLIENT));
    assert_eq!(refused.unwrap_err().status(), Status::ExpectationFailed);
}

#[test]
fn an_early_response_is_the_last_on_both_connections() {
    let mut exchange = started(UPLOAD);
    assert_eq!(exchange.from_client(b"he"), Ok(Run { forward: 2, skip: 0 }));
    let (got, _) = answer(&mut exchange, b"HTTP/1.1 413 Big\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(got, "HTTP/1.1 413 Big\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(exchange.fate(), finished(false, false));
}

const SOCKET: &str = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\
    Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n";

#[test]
fn a_connection_becomes_one_of_websocket_if_both_ends_say_so() {
    let expected = "GET / HTTP/1.1\r\nHost: a.example\r\nSec-WebSocket-Key: k\r\n\
        Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(sent(SOCKET, &Disclosure::default()), expected);
    let switch = "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: a\r\n\r\nframe";
    let mut exchange = started(SOCKET);
    // What the client sends meanwhile is neither a body nor forwarded before the switch.
    assert_eq!(exchange.from_client(b"frame"), Ok(Run::default()));
    let (got, left) = answer(&mut exchange, switch.as_bytes()).unwrap();
    let expected = "HTTP/1.1 101 Go\r\nSec-WebSocket-Accept: a\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\n\r\n";
    assert_eq!((&*got, left), (expected, 5));
    assert_eq!(exchange.fate(), Fate::Switched);

    let mut exchange = started(SOCKET);
    answer(&mut exchange, b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(exchange.fate(), finished(true, true));

    assert_eq!(answer(&mut started(PLAIN), switch.as_bytes()), Err(HttpError::Switched));
    let other = switch.replace("websocket", "h2c");
    assert_eq!(answer(&mut started(SOCKET), other.as_bytes()), Err(HttpError::Switched));
}

#[test]
fn other_upgrades_are_not_passed_on() {
    for (from, to) in [
        ("Upgrade: WebSocket", "Upgrade: h2c"),
        ("keep-alive, Upgrade", "keep-alive"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("GET", "POST"),
        ("Sec-WebSocket-Key: k", "Content-Length: 5"),
    ] {
        let found = sent(&SOCKET.replace(from, to), &Disclosure::default());
        assert!(!found.contains("Upgrade"), "{found}");
    }
}

#[test]
fn an_origin_does_not_ask_for_the_credentials_of_the_proxy() {
    let asks = b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=x\r\n\r\n";
    assert_eq!(answer(&mut started(PLAIN), asks), Err(HttpError::AsksAsProxy));
}

#[test]
fn a_request_is_sent_again_only_where_nobody_notices() {
    let may_retry = |request: &str, is_reused: bool, body: &[u8], response: &[u8]| {
        let disclosure = Disclosure::default();
        let passage = Passage { is_reused, ..passage(&disclosure, CLIENT) };
        let (mut exchange, _) = begin(request.as_bytes(), passage).unwrap();
        exchange.from_client(body).unwrap();
        answer(&mut exchange, response).unwrap();
        exchange.may_retry()
    };
    let post = UPLOAD.replace("PUT", "POST");
    // RFC 9110 section 9.2.2, RFC 9112 section 9.3.1.
    assert!(may_retry(PLAIN, true, b"", b""));
    assert!(may_retry(UPLOAD, true, b"", b""));
    assert!(may_retry(PLAIN, true, b"GET next", b""));
    assert!(!may_retry(PLAIN, false, b"", b""));
    assert!(!may_retry(&post, true, b"", b""));
    assert!(!may_retry(UPLOAD, true, b"h", b""));
    assert!(!may_retry(PLAIN, true, b"", b"H"));
}

proptest! {
    #[test]
    fn a_response_passes_the_same_however_it_arrives(
        is_old in any::<bool>(),
        index in 0..6usize,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let texts: [&[u8]; 6] = [
            b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc",
            b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nabc\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 304 Same\r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ];
        let bytes = texts[index];
        let request = if is_old { OLD } else { PLAIN };
        let mut whole = started(request);
        let expected = answer(&mut whole, bytes);
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut parts = started(request);
        let (mut got, mut from) = (String::new(), 0);
        let mut error = None;
        for end in ends {
            match answer(&mut parts, &bytes[from..end.max(from)]) {
                Ok((more, left)) => {
                    got.push_str(&more);
                    from = end.max(from) - left;
                }
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        let found = error.map_or(Ok((got, bytes.len() - from)), Err);
        prop_assert_eq!(found, expected);
        prop_assert_eq!(parts.fate(), whole.fate());
    }
}
