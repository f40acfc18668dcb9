//! Connections that begin with a PROXY header.

use std::io::{Read, Write};
use std::net::SocketAddr;

use corelane::proxy::header::{Ends, Parsed, Version, parse, write};

use crate::harness::{
    Gateway, LONG, await_that, connect, echo, greeting_and_request, read_exactly, serve,
};
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

/// What an upstream proxy hears first.
fn first_words(version: &str, scheme: &str, client: &[u8]) -> Vec<u8> {
    let (sender, heard) = std::sync::mpsc::channel();
    let upstream = serve(move |mut stream| {
        let mut words = Vec::new();
        // A greeting of SOCKS5, or a request.
        while !words.ends_with(&[5, 1, 0]) && !words.ends_with(b"\r\n\r\n") {
            words.push(read_exactly(&mut stream, 1)[0]);
            // The header of version 2 begins so.
            if words == b"\r\n\r\n" {
                words.extend(read_exactly(&mut stream, 12));
            }
        }
        sender.send(words).unwrap();
    });
    let more = format!(
        "proxy_protocol_from = [\"127.0.0.0/8\"]\n[[proxy.upstream]]\nname = \"far\"\n\
         servers = [\"{scheme}://{upstream}\"]\n{version}\n[[proxy.rule]]\nto = \"far\"\n"
    );
    let near = Gateway::start_with_file(&config(&more));
    let mut stream = connect(near.address);
    let request = greeting_and_request("127.0.0.1:9".parse().unwrap());
    stream.write_all(&[client, &request].concat()).unwrap();
    let words = heard.recv_timeout(LONG).unwrap();
    // Where there is a header, the address that the client has reached is in it.
    let reached = match near.address {
        SocketAddr::V4(reached) => reached.port(),
        SocketAddr::V6(_) => 0,
    };
    let text = String::from_utf8_lossy(&words).replace(&reached.to_string(), "PORT");
    if version.contains("v1") { text.into_bytes() } else { words }
}

#[test]
fn upstream_proxies_are_told_who_the_client_is() {
    let client = header(Version::V2, "198.51.100.7:4000");
    let line = b"PROXY TCP4 198.51.100.7 127.0.0.1 4000 PORT\r\n";
    let words = first_words("proxy_header = \"v1\"", "socks5", &client);
    assert_eq!(words, [&line[..], &[5, 1, 0]].concat(), "{}", String::from_utf8_lossy(&words));
    let words = first_words("proxy_header = \"v1\"", "http", &client);
    assert!(words.starts_with(&[&line[..], b"CONNECT 127.0.0.1:9 HTTP/1.1\r\n"].concat()));
    let words = first_words("proxy_header = \"v2\"", "socks5", &client);
    let Ok(Parsed::Whole { used, ends: Some(ends) }) = parse(&words) else { panic!("{words:?}") };
    assert_eq!(ends.source, "198.51.100.7:4000".parse().unwrap());
    assert_eq!(words[used..], [5, 1, 0]);
    assert_eq!(first_words("", "socks5", &client), [5, 1, 0], "unless they are not");
}

#[test]
fn a_second_gateway_knows_the_clients_of_the_first() {
    let origin = echo();
    let end = "proxy_protocol_from = [\"127.0.0.0/8\"]\nconnections_per_source_max = 2\n";
    let end = Gateway::start_with_file(&config(end));
    let near = |header: &str| {
        Gateway::start_with_file(&config(&format!(
            "proxy_protocol_from = [\"127.0.0.0/8\"]\n[[proxy.upstream]]\nname = \"far\"\n\
             servers = [\"socks5://{}\"]\n{header}\ncheck_every_s = 1\ncheck = \"{origin}\"\n\
             [[proxy.rule]]\nto = \"far\"\n",
            end.address
        )))
    };
    let told = near("proxy_header = \"v2\"");
    let mut held = Vec::new();
    for (source, is_served) in [
        ("192.0.2.1:1", true),
        ("192.0.2.1:2", true),
        ("192.0.2.1:3", false),
        ("192.0.2.2:1", true),
    ] {
        let mut stream = connect(told.address);
        let request = greeting_and_request(origin);
        stream.write_all(&[&header(Version::V1, source)[..], &request].concat()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[3] == 0, is_served, "{source}: {answer:?}");
        held.push(stream);
    }
    told.await_status("its checks succeed", |it| it.upstreams[0].failed_in_a_row == 0);
    // Without the header nobody is served there.
    let silent = near("");
    let client = header(Version::V1, "192.0.2.9:1");
    assert_ne!(answer(&silent, &client, origin).get(3), Some(&0));
    silent.await_status("its checks fail", |it| it.upstreams[0].failed_in_a_row > 0);
}
