//! `OPTIONS *`: whether the gateway is there, and knows who asks; and what comes behind it on the
//! same connection.

use std::io::Write;
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Gateway, assert_ended, await_that, connect, echo, read_exactly, read_to_end};
use crate::house::House;

/// The head of an answer.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(read_exactly(stream, 1));
    }
    String::from_utf8(head).unwrap()
}

fn ask(stream: &mut TcpStream, fields: &str) -> String {
    let request = format!("OPTIONS * HTTP/1.1\r\nHost: gateway\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    head(stream)
}

/// What ada shows with a password.
fn shown(password: &str) -> String {
    format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(format!("ada:{password}")))
}

/// Goes through the connection to an origin that echoes.
fn pass_through(mut stream: TcpStream, fields: &str) {
    let origin = echo();
    let request = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200 "));
    stream.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut stream, 5), b"hello");
}

#[test]
fn the_server_answers_for_itself_and_the_connection_goes_on() {
    let gateway = Gateway::start(&[]);
    let mut stream = gateway.connect();
    for _ in 0..3 {
        let answer = ask(&mut stream, "");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nContent-Length: 0\r\n"), "{answer}");
        assert!(answer.contains("\r\nKeep-Alive: timeout=60\r\n"), "{answer}");
    }
    // Two at once, and what comes behind them.
    let two = "OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n".repeat(2);
    stream.write_all(two.as_bytes()).unwrap();
    assert_eq!(head(&mut stream), head(&mut stream));
    pass_through(stream, "");
    let mut last = gateway.connect();
    let answer = ask(&mut last, "Connection: close\r\n");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    assert_eq!(read_to_end(&mut last), b"");
    let mut with_body = gateway.connect();
    let answer = ask(&mut with_body, "Content-Length: 5\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("close"), "{answer}");
    with_body.write_all(b"hello").unwrap();
    assert_eq!(read_to_end(&mut with_body), b"", "a body is no request");
}

#[test]
fn a_silent_client_is_waited_for_as_long_as_it_was_told() {
    let file = "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nkeep_alive_s = 1\n";
    let gateway = Gateway::start_with_file(file);
    let mut stream = gateway.connect();
    assert!(ask(&mut stream, "").contains("timeout=1\r\n"));
    assert_eq!(read_to_end(&mut stream), b"");
    assert_eq!(gateway.status().refused["too_slow"], 0, "it has been served");
}

#[test]
fn who_has_said_who_it_is_is_known_on_its_connection_until_that_is_void() {
    let house = House::new(|_| {});
    let (good, bad) = (shown("right horse"), shown("wrong"));
    for fields in ["", bad.as_str()] {
        let mut stream = connect(house.address);
        let answer = ask(&mut stream, fields);
        assert!(answer.starts_with("HTTP/1.1 407 "), "{answer}");
    }
    let mut streams = [connect(house.address), connect(house.address)];
    for stream in &mut streams {
        for _ in 0..2 {
            assert!(ask(stream, &good).starts_with("HTTP/1.1 200 "));
        }
    }
    let [first, mut second] = streams;
    pass_through(first, &good);
    house.run(r#"{"operation":"user_disable","name":"ada"}"#);
    // It waits for nothing any more, and is told nothing.
    assert_ended(&mut second);
    assert!(ask(&mut connect(house.address), &good).starts_with("HTTP/1.1 407 "));
    await_that("the end of all connections", || match house.gateway.status().connections {
        0 => Ok(()),
        some => Err(some.to_string()),
    });
}

#[test]
fn whoever_asks_has_a_connection_as_any_other() {
    let house = House::new(|rules| rules.connections_per_user_max = 2);
    let good = shown("right horse");
    let mut streams: Vec<_> = (0..40).map(|_| connect(house.address)).collect();
    let answers: Vec<_> = streams.iter_mut().map(|stream| ask(stream, &good)).collect();
    let (first, rest) = answers.split_at(2);
    assert!(first.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")), "{first:?}");
    assert!(rest.iter().all(|answer| answer.starts_with("HTTP/1.1 429 ")), "{rest:?}");
    for stream in &mut streams[..2] {
        assert!(ask(stream, &good).starts_with("HTTP/1.1 200 "), "it has its place");
    }
    assert_eq!(house.gateway.status().failed["user_full"], 38);
    streams.truncate(1);
    await_that("a free place", || match house.gateway.status().connections {
        1 => Ok(()),
        some => Err(some.to_string()),
    });
    assert!(ask(&mut connect(house.address), &good).starts_with("HTTP/1.1 200 "));
}

#[test]
fn connections_on_which_is_only_asked_are_not_opened_faster_than_others() {
    let house = House::new(|rules| rules.connections_per_user_per_s = Some(1));
    let good = shown("right horse");
    let is_let_in = || ask(&mut connect(house.address), &good).starts_with("HTTP/1.1 200 ");
    // Ten at once, and one more with each second that this takes.
    let count = (0..200).filter(|_| is_let_in()).count();
    assert!((10..150).contains(&count), "{count}");
    assert_eq!(house.gateway.status().failed["user_too_fast"], 200 - count as u64);
}

#[test]
fn what_waits_to_be_used_makes_way_for_what_is_used() {
    let house = House::new(|rules| rules.connections_per_user_max = 2);
    let (good, origin) = (shown("right horse"), echo());
    let mut waiting = [connect(house.address), connect(house.address)];
    for stream in &mut waiting {
        assert!(ask(stream, &good).starts_with("HTTP/1.1 200 "));
    }
    let [mut first, mut second] = waiting;
    let mut live = house.reach(origin);
    assert_ended(&mut first);
    assert!(ask(&mut second, &good).starts_with("HTTP/1.1 200 "), "one is enough");
    assert!(ask(&mut connect(house.address), &good).starts_with("HTTP/1.1 429 "));
    // Once it is used it makes way for nobody.
    let request = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n{good}\r\n");
    second.write_all(request.as_bytes()).unwrap();
    assert!(head(&mut second).starts_with("HTTP/1.1 200 "));
    let (_, reply) = house.ask(1, origin);
    assert_eq!(reply, 2);
    for stream in [&mut live, &mut second] {
        stream.write_all(b"x").unwrap();
        assert_eq!(read_exactly(stream, 1), b"x");
    }
    let status = house.gateway.status();
    assert_eq!((status.refused["made_room"], status.failed["user_full"]), (1, 2), "{status:?}");
}
