//! What is refused, with what words, beside proof that the like is reached where it is allowed.

use std::io::Write;
use std::net::TcpListener;

use crate::harness::{Gateway, LONG, echo, greeting_and_request, read_exactly, read_to_end};

/// What HTTP answers to a CONNECT.
fn connect_status(gateway: &Gateway, origin: &str) -> String {
    let mut stream = gateway.connect();
    let request = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let status = read_exactly(&mut stream, 12);
    String::from_utf8(status).unwrap()
}

#[test]
fn each_cause_has_its_reply() {
    let gateway = Gateway::start(&[]);
    let open = echo();
    // Nobody listens at a port that is bound and given back, for as long as nobody takes it.
    let shut = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (origin, reply, status) in [
        (open.to_string(), 0, "HTTP/1.1 200"),
        (format!("localhost:{}", open.port()), 0, "HTTP/1.1 200"),
        (shut.to_string(), 5, "HTTP/1.1 502"),
        (format!("no-such-host.invalid:{}", open.port()), 4, "HTTP/1.1 50"),
        ("10.0.0.1:80".to_owned(), 2, "HTTP/1.1 403"),
        ("169.254.169.254:80".to_owned(), 2, "HTTP/1.1 403"),
    ] {
        assert_eq!(gateway.reply_to(&origin), reply, "{origin}");
        let answered = connect_status(&gateway, &origin);
        assert!(answered.starts_with(status), "{origin}: {answered}");
    }
    let status = gateway.status();
    assert_eq!((status.failed["denied"], status.failed["refused"]), (4, 2), "{status:?}");
}

#[test]
fn what_an_outsider_could_not_reach_is_denied_unless_it_is_allowed() {
    let closed = Gateway::start_with_file("[[proxy]]\nlisten = [\"127.0.0.1:0\"]\n");
    let open = Gateway::start(&[]);
    let origin = echo();
    let own = closed.address.port();
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "::ffff:7f00:1", "127.8.8.8"] {
        for port in [origin.port(), own] {
            let denied = closed.reply_to(&format!("{host}:{port}"));
            assert_eq!(denied, 2, "{host}:{port}");
        }
        if host != "127.8.8.8" {
            let port = origin.port();
            let reached = open.reply_to(&format!("{host}:{port}"));
            assert_eq!(reached, 0, "{host}: where it is allowed");
        }
    }
    assert_eq!(closed.status().reached, 0);
}

#[test]
fn a_refusal_is_read_whole_however_much_the_client_has_sent() {
    let gateway = Gateway::start(&[]);
    let mut stream = gateway.connect();
    let mut request = greeting_and_request("10.0.0.1:80".parse().unwrap());
    request.extend_from_slice(&[7; 100_000]);
    stream.write_all(&request).unwrap();
    assert_eq!(read_to_end(&mut stream), [5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_is_no_request_is_refused_and_closed() {
    let gateway = Gateway::start(&[]);
    for (bytes, answer) in [
        (&b"\x05\x01\x02"[..], &b"\x05\xff"[..]),
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", b"\x05\x00\x05\x02"),
        (b"\x05\x01\x00\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00", b"\x05\x00\x05\x07"),
        (b"\x05\x01\x00\x05\x01\x00\x02\x00\x00", b"\x05\x00\x05\x08"),
        (b"\x04\x02\x00\x50\x01\x01\x01\x01\x00", b"\x00\x5b"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 404"),
        (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT a:1 HTTP/1.1\nHost: a\n\n", b"HTTP/1.1 400"),
        (b"\x16\x03\x01\x00\x05", b""),
        (b"\x00\x00\x00", b""),
    ] {
        let mut stream = gateway.connect();
        stream.write_all(bytes).unwrap();
        let answered = read_to_end(&mut stream);
        assert!(answered.starts_with(answer), "{bytes:?}: {answered:?}");
        assert!(!answer.is_empty() || answered.is_empty(), "{bytes:?}: {answered:?}");
    }
}

#[test]
fn requests_in_any_pieces_are_the_same_request() {
    let gateway = Gateway::start(&[]);
    let origin = echo();
    let socks5 = greeting_and_request(origin);
    let mut socks4 = vec![4, 1];
    socks4.extend_from_slice(&origin.port().to_be_bytes());
    socks4.extend_from_slice(&[127, 0, 0, 1, b'm', b'e', 0]);
    let http = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n").into_bytes();
    for (request, reply_len) in [(socks5, 12), (socks4, 8), (http, 39)] {
        let pipelined = [&request[..], b"hello"].concat();
        let whole = {
            let mut stream = gateway.connect();
            stream.write_all(&pipelined).unwrap();
            read_exactly(&mut stream, reply_len + 5)
        };
        assert!(whole.ends_with(b"hello"), "{whole:?}");
        for split in 1..pipelined.len() {
            let mut stream = gateway.connect();
            stream.set_nodelay(true).unwrap();
            let (first, second) = pipelined.split_at(split);
            stream.write_all(first).unwrap();
            // The pieces may still arrive together; most do not.
            std::thread::sleep(std::time::Duration::from_millis(1));
            stream.write_all(second).unwrap();
            let answered = read_exactly(&mut stream, reply_len + 5);
            assert!(answered.ends_with(b"hello"), "split at {split}: {answered:?}");
            // The address that the origin sees has another port each time.
            assert_eq!(answered[..2], whole[..2], "split at {split}");
        }
    }
}

#[test]
fn a_slow_client_has_its_time_and_no_more() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nrequest_within_s = 1\nidle_max_s = 1\n\
         allow = [\"loopback\"]\n",
    );
    // One says nothing, one a part, one a part of HTTP.
    let silent = gateway.connect();
    let mut started = gateway.connect();
    started.write_all(&[5]).unwrap();
    let mut http = gateway.connect();
    http.write_all(b"CONNECT a").unwrap();
    for mut stream in [silent, started] {
        assert_eq!(read_to_end(&mut stream), b"");
    }
    assert!(read_to_end(&mut http).starts_with(b"HTTP/1.1 408"));
    // One is connected, and then nothing moves.
    let mut idle = gateway.reach(echo());
    idle.write_all(b"x").unwrap();
    assert_eq!(read_exactly(&mut idle, 1), b"x");
    idle.set_read_timeout(Some(LONG)).unwrap();
    let mut buffer = [0];
    let ended = std::io::Read::read(&mut idle, &mut buffer);
    assert!(ended.is_err(), "it is reset, since it may not have been all: {ended:?}");
    gateway.await_status("all have timed out", |status| {
        status.refused["too_slow"] == 3 && status.timed_out == 1 && status.connections == 0
    });
}

#[test]
fn a_source_has_its_share() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nconnections_per_source_max = 3\n\
         allow = [\"loopback\"]\n",
    );
    let origin = echo();
    let mut held: Vec<_> = (0..3).map(|_| gateway.reach(origin)).collect();
    let mut more = gateway.connect();
    let mut buffer = [0];
    let ended = std::io::Read::read(&mut more, &mut buffer);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    held.pop();
    gateway.await_status("one has left", |status| status.connections == 2);
    drop(gateway.reach(origin));
    assert_eq!(gateway.status().refused["source_full"], 1);
}
