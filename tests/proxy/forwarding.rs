//! Requests of HTTP that are forwarded, over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::harness::{Gateway, await_that, origin, read_exactly, read_to_end, serve};
use crate::oracle::{Oracle, ok};

/// Reads a response with a Content-Length: its head and its body.
pub(crate) fn read_response(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let head = read_head(stream);
    let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let body = read_exactly(stream, len.map_or(0, |len| len.parse().unwrap()));
    (head, body)
}

/// Reads up to the end of a head.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            panic!("it ended: {:?}", String::from_utf8_lossy(&head));
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn requests_to_several_origins_follow_each_other_on_one_connection() {
    let gateway = Gateway::start(&[]);
    let (first, second) = (Oracle::parrot(), Oracle::parrot());
    let mut client = gateway.connect();
    for round in 0..5 {
        for oracle in [&first, &second] {
            client.write_all(oracle.get(&format!("/{round}")).as_bytes()).unwrap();
            let (head, body) = read_response(&mut client);
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert_eq!(text(&body), format!("GET /{round}|"));
        }
    }
    for oracle in [&first, &second] {
        let visits = oracle.visits();
        assert_eq!(visits.len(), 1, "the connection to the origin is used again");
        assert_eq!(visits[0].requests.len(), 5);
        let expected = format!("GET /0 HTTP/1.1\r\nHost: {}\r\n\r\n", oracle.address);
        assert_eq!(visits[0].requests[0].head, expected, "byte for byte");
    }
    let status = gateway.status();
    assert_eq!((status.accepted, status.reached), (1, 2), "{status:?}");
    assert_eq!((status.requests, status.reused), (10, 8), "{status:?}");
}

#[test]
fn a_connection_to_an_origin_serves_one_client_after_another() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n[workers]\ncount = 1\n",
    );
    let oracle = Oracle::parrot();
    for round in 0..10 {
        let mut client = gateway.connect();
        client.write_all(oracle.get("/").as_bytes()).unwrap();
        read_response(&mut client);
        drop(client);
        gateway.await_status("it has left", |status| status.connections == 0);
        assert_eq!(oracle.visits().len(), 1, "round {round}");
    }
    // One that is authenticated as a connection is nobody else's.
    for _ in 0..3 {
        let mut client = gateway.connect();
        for _ in 0..2 {
            let request = oracle.get("/");
            let request = request.replace("\r\n\r\n", "\r\nAuthorization: NTLM TlRM\r\n\r\n");
            client.write_all(request.as_bytes()).unwrap();
            read_response(&mut client);
        }
        drop(client);
        gateway.await_status("it has left", |status| status.connections == 0);
    }
    let requests: Vec<_> = oracle.visits().iter().map(|visit| visit.requests.len()).collect();
    assert_eq!(requests, [12, 2, 2], "the first one finds the connection that was kept");
}

#[test]
fn what_is_kept_is_bounded_in_number_and_time() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\nkept_max = 3\n\
         kept_per_origin_max = 2\nkept_s = 1\n[workers]\ncount = 1\n",
    );
    let (ended, ends) = std::sync::mpsc::channel();
    let address = serve(move |mut stream| {
        while read_request(&mut stream) {
            stream.write_all(&ok(b"")).unwrap();
        }
        ended.send(()).unwrap();
    });
    let request = format!("GET http://{address}/ HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut clients: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.write_all(request.as_bytes()).unwrap();
        read_response(client);
    }
    drop(clients);
    for _ in 0..3 {
        ends.recv_timeout(crate::harness::LONG).expect("more than two are not kept");
    }
    let reached = gateway.status().reached;
    assert_eq!(reached, 5);
    for _ in 0..2 {
        ends.recv_timeout(crate::harness::LONG).expect("and those for a second");
    }
    let mut client = gateway.connect();
    client.write_all(request.as_bytes()).unwrap();
    read_response(&mut client);
    assert_eq!(gateway.status().reached, 6);
}

/// Reads a request without a body. Returns whether there was one.
fn read_request(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return false;
        }
        head.push(byte[0]);
    }
    true
}

#[test]
fn a_kept_connection_that_the_origin_has_closed_is_not_noticed_by_the_client() {
    let gateway = Gateway::start(&[]);
    // Each connection serves one request well, and no more, without saying so before.
    let close_late = serve(|mut stream| {
        read_request(&mut stream);
        stream.write_all(&ok(b"one")).unwrap();
        // It gets the next request, and is gone: the one moment that no check finds.
        read_request(&mut stream);
    });
    let mut client = gateway.connect();
    for round in 0..5 {
        let request = format!("GET http://{close_late}/ HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let (head, body) = read_response(&mut client);
        assert_eq!(text(&body), "one", "round {round}: {head}");
    }
    // What must not be done twice is not: the client is told.
    let request =
        format!("POST http://{close_late}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let answer = text(&read_to_end(&mut client));
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[test]
fn a_large_body_passes_each_way_as_it_is() {
    let gateway = Gateway::start(&[]);
    let oracle = Oracle::start(|request| ok(&request.body));
    let body: Vec<u8> =
        (0..9_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut client = gateway.connect();
    for is_chunked in [false, true, false] {
        let mut writer = client.try_clone().unwrap();
        let (url, body_sent) = (oracle.url("/"), body.clone());
        let writing = thread::spawn(move || {
            let framing = match is_chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {}", body_sent.len()),
            };
            let head = format!("POST {url} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
            writer.write_all(head.as_bytes()).unwrap();
            if !is_chunked {
                return writer.write_all(&body_sent).unwrap();
            }
            for chunk in body_sent.chunks(70_001) {
                writer.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).unwrap();
                writer.write_all(chunk).unwrap();
                writer.write_all(b"\r\n").unwrap();
            }
            writer.write_all(b"0\r\n\r\n").unwrap();
        });
        let (head, got) = read_response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(got == body);
        writing.join().unwrap();
    }
    assert_eq!(oracle.visits().len(), 1);
}

#[test]
fn websocket_is_a_tunnel_once_both_ends_agree() {
    let gateway = Gateway::start(&[]);
    let (listener, address) = origin();
    let mut client = gateway.connect();
    let request = format!(
        "GET http://{address}/chat HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly"
    );
    client.write_all(request.as_bytes()).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    let head = read_head(&mut served);
    assert!(head.contains("Upgrade: websocket\r\n"), "{head}");
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\n\r\nhello";
    served.write_all(answer.as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101"));
    assert_eq!(read_exactly(&mut client, 5), b"hello");
    assert_eq!(read_exactly(&mut served, 5), b"early");
    client.write_all(b"GET / HTTP/9 is nothing to anybody").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut served), b"GET / HTTP/9 is nothing to anybody");
    served.write_all(b"bye").unwrap();
    drop(served);
    assert_eq!(read_to_end(&mut client), b"bye");
}

#[test]
fn an_early_answer_passes_though_the_request_goes_on() {
    let gateway = Gateway::start(&[]);
    let address = serve(|mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\n\r\nno!").unwrap();
    });
    let mut client = gateway.connect();
    let head =
        format!("POST http://{address}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    let mut writer = client.try_clone().unwrap();
    // It goes on until it is told in earnest.
    let writing = thread::spawn(move || while writer.write_all(&[7; 10_000]).is_ok() {});
    let (head, body) = read_response(&mut client);
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    assert!(head.contains("Connection: close\r\n"), "{head}");
    assert_eq!(text(&body), "no!");
    drop(client);
    gateway.await_status("it is over", |status| status.connections == 0);
    writing.join().unwrap();
}

#[test]
fn interim_answers_and_heads_alone_and_bodies_without_length_pass() {
    let gateway = Gateway::start(&[]);
    let oracle = Oracle::start(|request| match request.line() {
        "GET /hints" => {
            [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", &ok(b"hinted")[..]].concat()
        }
        "HEAD /" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec(),
        "GET /chunks" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                           3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
            .to_vec(),
        _ => b"".to_vec(),
    });
    let mut client = gateway.connect();
    let get = |path: &str, method: &str| oracle.get(path).replace("GET ", method);
    client.write_all(get("/hints", "GET ").as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 103"));
    assert_eq!(read_response(&mut client).1, b"hinted");
    client.write_all(get("/", "HEAD ").as_bytes()).unwrap();
    assert!(read_head(&mut client).contains("Content-Length: 1000\r\n"));
    client.write_all(get("/chunks", "GET ").as_bytes()).unwrap();
    assert!(read_head(&mut client).contains("Transfer-Encoding: chunked\r\n"));
    let expected = b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";
    assert_eq!(text(&read_exactly(&mut client, expected.len())), text(expected));
    assert_eq!(oracle.visits().len(), 1);
    // A body that ends with the connection.
    let until_close = serve(|mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        stream.write_all(&[b'x'; 200_000]).unwrap();
    });
    client
        .write_all(format!("GET http://{until_close}/ HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
        .unwrap();
    let answer = read_to_end(&mut client);
    assert!(answer.ends_with(&[b'x'; 200_000]) && answer.len() < 200_200);
    gateway.await_status("nothing broke", |status| status.broken == 0 && status.connections == 0);
}

#[test]
fn each_failure_of_an_origin_has_its_page() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\nresponse_within_s = 1\n\
         idle_max_s = 2\n",
    );
    let stalls = serve(|mut stream| drop(read_to_end(&mut stream)));
    let closes = serve(|mut stream| {
        read_request(&mut stream);
    });
    let babbles = serve(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(b"220 mail.example ESMTP\r\n\r\n"));
    });
    let smuggles = serve(|mut stream| {
        read_request(&mut stream);
        let both =
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        drop(stream.write_all(both));
    });
    let shut = origin().1;
    for (address, status) in [
        (stalls.to_string(), "504"),
        (closes.to_string(), "502"),
        (babbles.to_string(), "502"),
        (smuggles.to_string(), "502"),
        (shut.to_string(), "502"),
        ("10.0.0.1".to_owned(), "403"),
        ("no-such-host.invalid".to_owned(), "50"),
    ] {
        for method in ["GET", "HEAD"] {
            let mut client = gateway.connect();
            let request = format!("{method} http://{address}/ HTTP/1.1\r\nHost: a\r\n\r\n");
            client.write_all(request.as_bytes()).unwrap();
            let answer = text(&read_to_end(&mut client));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{address}: {answer}");
            let has_body = !answer.ends_with("\r\n\r\n");
            assert_eq!(has_body, method == "GET", "{address}: {answer}");
        }
    }
    // One that breaks off in the middle is not taken for the whole.
    let halves = serve(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"));
    });
    let mut client = gateway.connect();
    let request = format!("GET http://{halves}/ HTTP/1.1\r\nHost: a\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect_err("it is reset");
    gateway.await_status("all are gone", |status| status.connections == 0);
}

#[test]
fn slow_clients_have_their_time_and_no_more() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\nrequest_within_s = 1\n\
         keep_alive_s = 2\nidle_max_s = 2\n",
    );
    let large = vec![1; 30_000_000];
    let oracle = Oracle::start(move |request| match request.line() {
        "GET /large" => ok(&large),
        _ => ok(b"small"),
    });
    // Half a head, half a body, half of the next head, nothing more, and one that does not read.
    let mut head = gateway.connect();
    head.write_all(&oracle.get("/").as_bytes()[..20]).unwrap();
    let mut body = gateway.connect();
    let post =
        format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", oracle.url("/"));
    body.write_all(post.as_bytes()).unwrap();
    let mut next = gateway.connect();
    next.write_all(oracle.get("/").as_bytes()).unwrap();
    assert_eq!(read_response(&mut next).1, b"small");
    next.write_all(&oracle.get("/").as_bytes()[..20]).unwrap();
    let mut silent = gateway.connect();
    silent.write_all(oracle.get("/").as_bytes()).unwrap();
    assert_eq!(read_response(&mut silent).1, b"small");
    let mut deaf = gateway.connect();
    deaf.write_all(oracle.get("/large").as_bytes()).unwrap();
    for stream in [&mut head, &mut body, &mut next] {
        let answer = text(&read_to_end(stream));
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert_eq!(text(&read_to_end(&mut silent)), "", "it is between two requests");
    gateway.await_status("all are gone", |status| status.connections == 0);
    let status = gateway.status();
    assert_eq!((status.refused["too_slow"], status.timed_out), (3, 1), "{status:?}");
    deaf.read_to_end(&mut Vec::new()).expect_err("it is reset");
}

#[test]
fn a_body_that_trickles_is_given_up_and_one_that_is_slow_is_not() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\nrequest_within_s = 1\n",
    );
    let oracle = Oracle::parrot();
    let post = |pieces: usize, piece: usize| {
        let mut client = gateway.connect();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            oracle.url("/"),
            pieces * piece
        );
        client.write_all(head.as_bytes()).unwrap();
        let mut reader = client.try_clone().unwrap();
        let answer = thread::spawn(move || read_head(&mut reader));
        for _ in 0..pieces {
            // After a refusal nobody takes it.
            if client.write_all(&vec![b'x'; piece]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        answer.join().unwrap()
    };
    let slow = post(30, 100);
    assert!(slow.starts_with("HTTP/1.1 200 "), "{slow}");
    let trickle = post(30, 1);
    assert!(trickle.starts_with("HTTP/1.1 408 "), "{trickle}");
}

#[test]
fn clients_are_told_of_as_configured() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n\
         via = \"gate.example\"\nforwarded = \"append\"\nx_forwarded_for = \"replace\"\n",
    );
    let oracle = Oracle::parrot();
    let mut client = gateway.connect();
    let request = oracle.get("/").replace(
        "\r\n\r\n",
        "\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\nProxy-Connection: close\r\n\
         Proxy-Authorization: Basic c2VjcmV0OnNlY3JldA==\r\n\r\n",
    );
    client.write_all(request.as_bytes()).unwrap();
    let (head, _) = read_response(&mut client);
    assert!(head.contains("Via: 1.1 gate.example\r\n"), "{head}");
    let request = &oracle.requests()[0];
    let field = |name| request.field(name);
    assert_eq!(field("via"), Some("1.1 gate.example"));
    assert_eq!(field("forwarded"), Some("for=192.0.2.1, for=127.0.0.1;proto=http"));
    assert_eq!(field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!((field("proxy-authorization"), field("proxy-connection")), (None, None));
}

#[test]
fn stopping_waits_for_answers_and_not_for_clients_between_two_requests() {
    let mut gateway = Gateway::start(&[]);
    let (listener, address) = origin();
    let oracle = Oracle::parrot();
    let mut between = gateway.connect();
    between.write_all(oracle.get("/").as_bytes()).unwrap();
    read_response(&mut between);
    let mut waiting = gateway.connect();
    let request = format!("GET http://{address}/ HTTP/1.1\r\nHost: a\r\n\r\n");
    waiting.write_all(request.as_bytes()).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    read_head(&mut served);
    gateway.terminate();
    assert_eq!(read_to_end(&mut between), b"");
    served.write_all(&ok(b"at last")).unwrap();
    assert!(read_to_end(&mut waiting).ends_with(b"at last"));
    drop(waiting);
    assert!(gateway.await_end().success());
    await_that("the origin's connection is closed", || {
        served.read(&mut [0]).map(drop).map_err(|error| error.to_string())
    });
}
