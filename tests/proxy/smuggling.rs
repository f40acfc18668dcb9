//! Requests that two recipients could understand differently, and requests in pieces.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use crate::forwarding::read_response;
use crate::harness::{Gateway, read_to_end};
use crate::oracle::Oracle;

/// What is odd about a POST: fields behind `Host`, and a body. ORIGIN is the origin's address.
const POSTS: &[(&str, &str, &str)] = &[
    (
        "a length and an encoding",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\nGET http://ORIGIN/evil HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "an encoding and a length",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "0\r\n\r\n",
    ),
    ("two lengths", "Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
    ("the same length twice", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
    ("a list of lengths", "Content-Length: 3, 3\r\n", "abc"),
    ("a signed length", "Content-Length: +3\r\n", "abc"),
    ("a negative length", "Content-Length: -1\r\n", ""),
    ("a hexadecimal length", "Content-Length: 0x3\r\n", "abc"),
    ("an empty length", "Content-Length: \r\n", ""),
    ("a length that overflows", "Content-Length: 18446744073709551619\r\n", "abc"),
    (
        "a chunk that overflows",
        "Transfer-Encoding: chunked\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    ),
    ("a chunk beyond its size", "Transfer-Encoding: chunked\r\n", "3\r\nabcd\r\n0\r\n\r\n"),
    ("a size with 0x", "Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n"),
    ("a size before a bare LF", "Transfer-Encoding: chunked\r\n", "3\nabc\r\n0\r\n\r\n"),
    ("an encoding in disguise", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
    ("two encodings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
    ("a blank before a colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    ("a bare LF in a head", "X: y\nContent-Length: 3\r\n", "abc"),
    ("a bare CR in a value", "X: y\rEvil: 1\r\n", ""),
    ("a NUL in a value", "X: y\0\r\n", ""),
    ("a folded line", "X: y\r\n Evil: 1\r\n", ""),
    ("a line without a colon", "nothing\r\n", ""),
    ("two hosts", "Host: b\r\n", ""),
];

/// Whole requests, and the statuses of the answers.
const WHOLE: &[(&str, &str, &str)] = &[
    ("a bare LF", "GET http://ORIGIN/ HTTP/1.1\nHost: a\n\n", "400"),
    ("a folded first field", "GET http://ORIGIN/ HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
    ("no host", "GET http://ORIGIN/ HTTP/1.1\r\n\r\n", "400"),
    ("a user", "GET http://a@ORIGIN/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("a blank", "GET http://ORIGIN/a b HTTP/1.1\r\nHost: a\r\n\r\n", "505"),
    ("a fragment", "GET http://ORIGIN/#a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("another scheme", "GET ftp://ORIGIN/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("another version", "GET http://ORIGIN/ HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
    (
        "an old one with chunks",
        "POST http://ORIGIN/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "400",
    ),
    (
        "a tunnel with a body",
        "CONNECT ORIGIN HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "400",
    ),
    (
        "one with chunks",
        "CONNECT ORIGIN HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "400",
    ),
    ("an odd wish", "GET http://ORIGIN/ HTTP/1.1\r\nHost: a\r\nExpect: gold\r\n\r\n", "417"),
];

fn hostile() -> Vec<(&'static str, String, &'static str)> {
    let head = "POST http://ORIGIN/ HTTP/1.1\r\nHost: a\r\n";
    let posts = POSTS.iter().map(|(what, fields, body)| {
        let bytes = format!("{head}{fields}\r\n{body}");
        (*what, bytes, "400")
    });
    let whole = WHOLE.iter().map(|(what, bytes, status)| (*what, (*bytes).to_owned(), *status));
    posts.chain(whole).collect()
}

/// Sends bytes and reads what comes until the end.
fn answer(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut client = gateway.connect();
    client.write_all(bytes).unwrap();
    String::from_utf8_lossy(&read_to_end(&mut client)).into_owned()
}

/// A good request reaches the oracle, and nothing else has.
fn assert_only_good_ones_arrive(gateway: &Gateway, oracle: &Oracle, good: usize, what: &str) {
    let mut client = gateway.connect();
    client.write_all(oracle.get("/good").as_bytes()).unwrap();
    assert_eq!(read_response(&mut client).1, b"GET /good|", "{what}");
    let requests = oracle.requests();
    assert!(requests.iter().all(|request| request.line() == "GET /good"), "{what}: {requests:?}");
    assert_eq!(requests.len(), good, "{what}");
    let stray = oracle.visits().into_iter().find(|visit| visit.requests.is_empty());
    assert!(stray.is_none(), "{what}: {stray:?}");
}

#[test]
fn what_is_ambiguous_is_refused_before_the_origin_sees_anything() {
    let gateway = Gateway::start(&[]);
    let oracle = Oracle::parrot();
    let address = oracle.address.to_string();
    let hostile = hostile();
    for (number, (what, bytes, status)) in hostile.iter().enumerate() {
        let bytes = bytes.replace("ORIGIN", &address);
        let answered = answer(&gateway, bytes.as_bytes());
        assert!(answered.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answered}");
        assert_eq!(answered.matches("\r\nConnection: close\r\n").count(), 1, "{what}: {answered}");
        assert_only_good_ones_arrive(&gateway, &oracle, number + 1, what);
    }
    let refused = gateway.status().refused["malformed"];
    assert_eq!(refused, hostile.len() as u64);
}

#[test]
fn heads_beyond_the_bounds_are_refused() {
    let gateway = Gateway::start(&[]);
    let oracle = Oracle::parrot();
    let long_line = oracle.get(&format!("/{}", "a".repeat(40_000)));
    let long_head = oracle.get("/").replace(
        "\r\n\r\n",
        &format!("\r\n{}\r\n", format!("X: {}\r\n", "y".repeat(1000)).repeat(40)),
    );
    let many = oracle.get("/").replace("\r\n\r\n", &format!("\r\n{}\r\n", "X: y\r\n".repeat(500)));
    for (number, (status, bytes)) in
        [("414", long_line), ("431", long_head), ("431", many)].iter().enumerate()
    {
        let answered = answer(&gateway, bytes.as_bytes());
        assert!(answered.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answered}");
        assert_only_good_ones_arrive(&gateway, &oracle, number + 1, status);
    }
}

#[test]
fn a_body_that_goes_wrong_later_ends_both_connections() {
    let gateway = Gateway::start(&[]);
    let oracle = Oracle::parrot();
    let mut client = gateway.connect();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        oracle.url("/")
    );
    client.write_all(head.as_bytes()).unwrap();
    crate::harness::await_that("the origin has the beginning", || {
        let visits = oracle.visits();
        let has_it = visits.first().is_some_and(|visit| visit.bytes.ends_with(b"abc\r\n"));
        has_it.then_some(()).ok_or_else(|| format!("{visits:?}"))
    });
    let rest = format!("0x0\r\n\r\n{}", oracle.get("/evil"));
    client.write_all(rest.as_bytes()).unwrap();
    let answered = String::from_utf8(read_to_end(&mut client)).unwrap();
    assert!(answered.starts_with("HTTP/1.1 400 "), "{answered}");
    assert_eq!(oracle.requests(), [], "what it has got is no request");
    // And the connection is not used for the next one.
    let mut client = gateway.connect();
    client.write_all(oracle.get("/good").as_bytes()).unwrap();
    assert_eq!(read_response(&mut client).1, b"GET /good|");
    assert_eq!(oracle.visits().len(), 2);
}

/// A small generator of the same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// A request with a body of one of the kinds, and what the oracle says to it.
fn request(oracle: &Oracle, numbers: &mut Numbers, number: usize) -> (Vec<u8>, String) {
    let len = numbers.below(400);
    // Bodies that look like requests: who loses count takes one for such.
    let body = oracle.get("/evil").repeat(8)[..len].to_owned();
    let url = oracle.url(&format!("/{number}"));
    match numbers.below(3) {
        0 => (oracle.get(&format!("/{number}")).into_bytes(), format!("GET /{number}|")),
        1 => {
            let head = format!("POST {url} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
            ((head + &body).into_bytes(), format!("POST /{number}|{body}"))
        }
        _ => {
            let mut bytes =
                format!("POST {url} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut rest = &body[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(1 + numbers.below(rest.len()));
                bytes += &format!("{:x};ext=\"{number}\"\r\n{chunk}\r\n", chunk.len());
                rest = after;
            }
            bytes += "0\r\n\r\n";
            (bytes.into_bytes(), format!("POST /{number}|{body}"))
        }
    }
}

#[test]
fn pipelined_requests_in_any_pieces_arrive_as_the_same_requests_in_order() {
    let gateway = Gateway::start(&[]);
    for seed in 0..24 {
        let oracles = [Oracle::parrot(), Oracle::parrot()];
        let mut numbers = Numbers(seed);
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        let mut by_origin = [0, 0];
        for number in 0..12 {
            let which = numbers.below(2);
            by_origin[which] += 1;
            let (request, answer) = request(&oracles[which], &mut numbers, number);
            bytes.extend_from_slice(&request);
            expected.push(answer);
        }
        let client = gateway.connect();
        client.set_nodelay(true).unwrap();
        let writing = std::thread::spawn({
            let mut client = client.try_clone().unwrap();
            move || send_in_pieces(&mut client, &bytes, &mut numbers, seed == 0)
        });
        let mut client = client;
        for answer in &expected {
            let (head, body) = read_response(&mut client);
            assert!(head.starts_with("HTTP/1.1 200"), "{seed}: {head}");
            assert_eq!(&String::from_utf8(body).unwrap(), answer, "{seed}");
        }
        writing.join().unwrap();
        assert_eq!(read_to_end(&mut client), b"", "{seed}: as many answers as requests");
        for (oracle, count) in oracles.iter().zip(by_origin) {
            assert_eq!(oracle.requests().len(), count, "{seed}");
            assert!(oracle.visits().len() <= 1, "{seed}: one connection to each");
        }
    }
}

fn send_in_pieces(client: &mut TcpStream, bytes: &[u8], numbers: &mut Numbers, whole: bool) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let len = if whole { rest.len() } else { (1 + numbers.below(300)).min(rest.len()) };
        let (piece, after) = rest.split_at(len);
        client.write_all(piece).unwrap();
        rest = after;
    }
    client.shutdown(Shutdown::Write).unwrap();
}
