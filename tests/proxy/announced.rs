//! Connections that begin with a PROXY header.

use std::io::{Read, Write};
use std::net::SocketAddr;

use corelane::proxy::header::{Ends, Version, write};

use crate::harness::{Gateway, await_that, connect, echo, greeting_and_request};
use crate::secured::{Site, reach};

fn header(version: Version, source: &str) -> Vec<u8> {
    let ends = source
        .parse()
        .ok()
        .map(|source| Ends { source, destination: "192.0.2.80:8443".parse().unwrap() });
    let mut bytes = Vec::new();
    write(version, ends, &mut bytes);
    bytes
}

/// What a client hears who says `first`, then what SOCKS5 has for an origin.
fn answer(gateway: &Gateway, first: &[u8], origin: SocketAddr) -> Vec<u8> {
    let mut stream = connect(gateway.address);
    drop(stream.write_all(&[first, &greeting_and_request(origin)].concat()));
    let mut answer = [0; 12];
    match stream.read_exact(&mut answer) {
        Ok(()) => answer[..4].to_vec(),
        Err(_) => Vec::new(),
    }
}

fn config(more: &str) -> String {
    format!("[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n{more}\n")
}

#[test]
fn a_header_is_demanded_of_those_who_are_to_send_one_and_of_nobody_else() {
    let (origin, served) = (echo(), [5, 0, 5, 0]);
    let gateway = Gateway::start_with_file(&config("proxy_protocol_from = [\"127.0.0.0/8\"]"));
    for version in [Version::V1, Version::V2] {
        for source in ["198.51.100.7:4000", "[2001:db8::7]:4000", "its own"] {
            let header = header(version, source);
            assert_eq!(answer(&gateway, &header, origin), served, "{version:?} {source}");
        }
    }
    let reached = gateway.status().reached;
    assert!(answer(&gateway, b"", origin).is_empty(), "without a header");
    gateway.await_status("it was refused", |status| status.refused["malformed"] == 1);
    let cut = &header(Version::V2, "198.51.100.7:4000")[..20];
    let mut stream = connect(gateway.address);
    stream.write_all(cut).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop(stream.read_to_end(&mut Vec::new()));
    gateway.await_status("half of one is none", |status| status.refused["malformed"] == 2);
    assert_eq!(gateway.status().reached, reached);

    // From elsewhere a header is nothing that anybody speaks.
    let elsewhere = Gateway::start_with_file(&config("proxy_protocol_from = [\"192.0.2.0/24\"]"));
    assert_eq!(answer(&elsewhere, b"", origin), served);
    for version in [Version::V1, Version::V2] {
        let header = header(version, "198.51.100.7:4000");
        assert_ne!(answer(&elsewhere, &header, origin), served, "{version:?}");
    }
    assert_eq!(elsewhere.status().reached, 1);
}

#[test]
fn a_header_may_come_in_pieces_and_the_source_that_it_names_is_what_counts() {
    let more = "proxy_protocol_from = [\"127.0.0.1/32\"]\nconnections_per_source_max = 1";
    let gateway = Gateway::start_with_file(&config(more));
    let origin = echo();
    let mut held = Vec::new();
    for source in ["198.51.100.7:4000", "198.51.100.8:4000"] {
        let mut stream = connect(gateway.address);
        for byte in header(Version::V1, source) {
            stream.write_all(&[byte]).unwrap();
        }
        stream.write_all(&greeting_and_request(origin)).unwrap();
        let mut reply = [0; 12];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], [5, 0, 5, 0]);
        held.push(stream);
    }
    let again = header(Version::V2, "198.51.100.7:9999");
    assert!(answer(&gateway, &again, origin).is_empty(), "a second one of the same source");
    gateway.await_status("it was too many", |status| status.refused["source_full"] == 1);
    drop(held);
    await_that("room again", || match answer(&gateway, &again, origin).is_empty() {
        true => Err(format!("{:?}", gateway.status())),
        false => Ok(()),
    });
}

#[test]
fn the_header_precedes_tls() {
    let site = Site::new();
    let gateway = Gateway::start_with_file(&site.config("proxy_protocol_from = [\"127.0.0.0/8\"]"));
    let origin = echo();
    let mut stream = connect(gateway.address);
    stream.write_all(&header(Version::V2, "198.51.100.7:4000")).unwrap();
    let mut tls = site.over(stream, None);
    reach(&mut tls, origin).unwrap();
    tls.write_all(b"hello").unwrap();
    let mut echoed = [0; 5];
    tls.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello");
    assert!(reach(&mut site.connect(gateway.address), origin).is_err(), "without a header");
}
