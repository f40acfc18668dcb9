//! Bulk, which goes through pipes where there are any.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};

use rand::{RngCore, SeedableRng, rngs::StdRng};

use crate::forwarding::{read_head, read_response};
use crate::harness::{Gateway, leave_descriptors, origin, read_exactly};

const LEN: usize = 24 << 20;

fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Sends `bytes`, ends, and hands out what the other side has sent until its end.
fn exchange(mut stream: TcpStream, bytes: Vec<u8>) -> JoinHandle<Vec<u8>> {
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    thread::spawn(move || {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        sender.join().unwrap();
        got
    })
}

/// Two relays at the same time, each with bulk both ways; every byte has to arrive.
fn exchange_through(gateway: &Gateway, relays: u64) {
    let (listener, address): (_, SocketAddr) = origin();
    let ends: Vec<_> = (0..relays)
        .map(|number| {
            let client = gateway.reach(address);
            let (served, _) = listener.accept().unwrap();
            let (up, down) = (2 * number, 2 * number + 1);
            (exchange(client, noise(up)), exchange(served, noise(down)), up, down)
        })
        .collect();
    for (client, served, up, down) in ends {
        assert!(served.join().unwrap() == noise(up), "up, relay {up}");
        assert!(client.join().unwrap() == noise(down), "down, relay {up}");
    }
    gateway.await_status("every byte is counted", |status| {
        let all = relays * LEN as u64;
        (status.connections, status.up_bytes, status.down_bytes) == (0, all, all)
    });
}

/// How many ends of pipes the gateway has open.
fn pipe_ends(gateway: &Gateway) -> usize {
    let entries = fs::read_dir(format!("/proc/{}/fd", gateway.child.id())).unwrap();
    let links = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}

#[test]
fn bulk_both_ways_at_once_arrives_byte_for_byte_through_pipes() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let before = pipe_ends(&gateway);
    exchange_through(&gateway, 3);
    let pipes = pipe_ends(&gateway) - before;
    assert!((2..=2 * 6).contains(&pipes), "{pipes}: one for each direction at most");
}

#[test]
fn where_there_is_no_descriptor_for_a_pipe_buffers_do() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let before = pipe_ends(&gateway);
    // One for each end of the relay, and one: too few for a pipe.
    leave_descriptors(&gateway, 3);
    exchange_through(&gateway, 1);
    assert_eq!(pipe_ends(&gateway), before);
}

#[test]
fn bodies_pass_through_pipes_and_what_stands_behind_them_does_not() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let before = pipe_ends(&gateway);
    let (listener, address) = origin();
    let (up, down) = (noise(1), noise(2));
    let sent = up.clone();
    let head = |method, fields: &str| {
        format!("{method} http://{address}/ HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n")
    };
    let mut client = gateway.connect();
    let mut writer = client.try_clone().unwrap();
    // One with a length, one in chunks, one without a body, right behind each other.
    let said = [
        head("POST", &format!("Content-Length: {LEN}\r\n")).into_bytes(),
        sent.clone(),
        head("POST", "Transfer-Encoding: chunked\r\n").into_bytes(),
        in_chunks(&sent),
        head("GET", "").into_bytes(),
    ]
    .concat();
    let speaker = thread::spawn(move || writer.write_all(&said).unwrap());
    let answers = [
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").as_bytes(), &down].concat(),
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &in_chunks(&down)[..]].concat(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
    ];
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let [long, chunked, short] = answers;
        assert!(read_head(&mut stream).starts_with("POST / "));
        assert!(read_exactly(&mut stream, LEN) == up);
        stream.write_all(&long).unwrap();
        assert!(read_head(&mut stream).starts_with("POST / "));
        assert!(read_exactly(&mut stream, in_chunks(&up).len()) == in_chunks(&up));
        stream.write_all(&chunked).unwrap();
        assert!(read_head(&mut stream).starts_with("GET / "));
        stream.write_all(&short).unwrap();
    });
    assert!(read_response(&mut client).1 == down);
    read_head(&mut client);
    assert!(read_exactly(&mut client, in_chunks(&down).len()) == in_chunks(&down));
    assert_eq!(read_response(&mut client).1, b"ok");
    speaker.join().unwrap();
    served.join().unwrap();
    assert!(pipe_ends(&gateway) > before, "through pipes");
}

/// `bytes` as a chunked body, in chunks of many sizes.
fn in_chunks(bytes: &[u8]) -> Vec<u8> {
    let (mut chunks, mut rest) = (Vec::new(), bytes);
    for number in 0.. {
        let len = rest.len().min([1 << 20, 70_000, 9, 16_384, 300_001][number % 5]);
        let (chunk, after) = rest.split_at(len);
        chunks.extend_from_slice(format!("{len:x}\r\n").as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
        if len == 0 {
            break;
        }
        rest = after;
    }
    chunks
}
