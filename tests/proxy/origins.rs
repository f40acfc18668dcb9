//! Requests for `https://` URLs: the gateway speaks TLS to origins, or else not at all.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use corelane::login::pki::{Certificate, Purpose, Validity};
use corelane::proxy::origins::Origins;
use corelane::sys::clock;
use rand::RngCore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};

use crate::forwarding::{read_head, read_response};
use crate::harness::{Gateway, await_that, connect, read_exactly, read_to_end, serve};
use crate::house::House;
use crate::oracle::{Oracle, Request, ok};
use crate::secured::Site;

/// Configuration of a gateway that believes the authorities in a file.
fn config(ca: &Path, more: &str) -> String {
    format!(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n\
         origin_ca_file = {ca:?}\ndial_within_s = 10\n{more}\n[workers]\ncount = 1\n"
    )
}

fn gateway(site: &Site) -> Gateway {
    Gateway::start_with_file(&config(&site.pki.certificate(), ""))
}

fn issue(site: &Site, names: &[&str], validity: Validity) -> Certificate {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    site.pki.issue(&Purpose::Server(names), validity, &mut rand::rng()).unwrap()
}

fn a_month() -> Validity {
    Validity::days(clock::unix_time(), 30)
}

fn tls_of(
    chain: &[u8],
    key: &[u8],
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let chain = CertificateDer::pem_slice_iter(chain).map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(versions).unwrap().with_no_client_auth();
    let mut config =
        builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn tls(certificate: &Certificate) -> ServerConfig {
    tls_of(certificate.pem.as_bytes(), certificate.key_pem.as_bytes(), &[&TLS13, &TLS12])
}

fn parrot(request: &Request) -> Vec<u8> {
    ok(&[request.line().as_bytes(), b"|", &request.body[..]].concat())
}

/// An origin with a certificate for 127.0.0.1 and localhost.
fn origin(site: &Site) -> Oracle {
    let certificate = issue(site, &["127.0.0.1", "localhost"], a_month());
    Oracle::secured(tls(&certificate), parrot)
}

fn get(host: &str, address: SocketAddr, path: &str) -> String {
    let port = address.port();
    format!("GET https://{host}:{port}{path} HTTP/1.1\r\nHost: whoever\r\n\r\n")
}

/// Asks on a connection of its own; returns the head of the answer and its body.
fn ask(gateway: &Gateway, host: &str, address: SocketAddr) -> (String, String) {
    let mut stream = gateway.connect();
    stream.write_all(get(host, address, "/").as_bytes()).unwrap();
    let (head, body) = read_response(&mut stream);
    (head, String::from_utf8(body).unwrap())
}

/// That the origin can be reached, whatever it shows: by a tunnel.
fn assert_reachable(gateway: &Gateway, address: SocketAddr) {
    let mut stream = gateway.connect();
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "), "{address} by a tunnel");
}

#[test]
fn a_request_goes_to_an_origin_that_shows_who_it_is_and_the_connection_is_kept() {
    let site = Site::new();
    let gateway = gateway(&site);
    let oracle = origin(&site);
    let mut client = gateway.connect();
    for round in 0..5 {
        client
            .write_all(get("127.0.0.1", oracle.address, &format!("/{round}")).as_bytes())
            .unwrap();
        let (head, body) = read_response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(String::from_utf8(body).unwrap(), format!("GET /{round}|"));
    }
    let visits = oracle.visits();
    assert_eq!((visits.len(), visits[0].requests.len()), (1, 5), "one handshake");
    let expected = format!("GET /0 HTTP/1.1\r\nHost: {}\r\n\r\n", oracle.address);
    assert_eq!(visits[0].requests[0].head, expected, "byte for byte");
    let status = gateway.status();
    assert_eq!((status.reached, status.requests, status.reused), (1, 5, 4), "{status:?}");
    // Then it is anybody's who asks for the same.
    drop(client);
    gateway.await_status("it has left", |status| status.connections == 0);
    ask(&gateway, "127.0.0.1", oracle.address);
    assert_eq!(gateway.status().reused, 5);
    // By another name it is another origin, which has to show that it is that.
    ask(&gateway, "localhost", oracle.address);
    let status = gateway.status();
    assert_eq!((status.reached, status.reused), (2, 5), "{status:?}");
    // And it is not for requests that go there without TLS.
    let mut client = gateway.connect();
    client.write_all(oracle.get("/").as_bytes()).unwrap();
    drop(read_to_end(&mut client));
    assert_eq!(gateway.status().reached, 3);
    assert_eq!(oracle.requests().len(), 7);
}

#[test]
fn nothing_is_said_to_an_origin_that_does_not_show_who_it_is() {
    let (site, other) = (Site::new(), Site::new());
    let gateway = gateway(&site);
    let now = clock::unix_time();
    let day = Duration::from_secs(86_400);
    let (here, past, future) = (
        Validity { now: now - 10 * day, lasts: 20 * day },
        Validity { now: now - 10 * day, lasts: 5 * day },
        Validity { now: now + 5 * day, lasts: 10 * day },
    );
    let names = &["127.0.0.1", "localhost"];
    let (ca, ca_key) = (other.pki.certificate(), other.pki.key());
    let (ca, ca_key) = (std::fs::read(ca).unwrap(), std::fs::read(ca_key).unwrap());
    let user = Purpose::User("ada".parse().unwrap());
    let user = site.pki.issue(&user, a_month(), &mut rand::rng()).unwrap();
    for (what, tls, text) in [
        ("good", tls(&issue(&site, names, here)), ""),
        ("another name", tls(&issue(&site, &["elsewhere.example"], here)), "for another name"),
        ("another address", tls(&issue(&site, &["127.0.0.2"], here)), "for another name"),
        ("expired", tls(&issue(&site, names, past)), "has expired"),
        ("early", tls(&issue(&site, names, future)), "not valid yet"),
        ("another authority", tls(&issue(&other, names, here)), "no authority that this proxy"),
        ("its own authority", tls_of(&ca, &ca_key, &[&TLS13, &TLS12]), "not one for servers"),
        ("a user", tls(&user), "certificate is "),
    ] {
        let oracle = Oracle::secured(tls, parrot);
        for host in names {
            let (head, body) = ask(&gateway, host, oracle.address);
            let expected = if text.is_empty() { "HTTP/1.1 200 " } else { "HTTP/1.1 502 " };
            assert!(head.starts_with(expected) && body.contains(text), "{what}: {head}{body}");
        }
        assert_reachable(&gateway, oracle.address);
        await_that("three visits", || match oracle.visits().len() {
            3 => Ok(()),
            other => Err(format!("{what}: {other}")),
        });
        let said: usize = oracle.visits().iter().map(|visit| visit.bytes.len()).sum();
        assert_eq!(said > 0, text.is_empty(), "{what}: {said} bytes");
    }
    assert_eq!(gateway.status().failed["tls"], 14);
}

#[test]
fn a_certificate_is_for_the_host_that_was_asked_for() {
    let site = Site::new();
    let gateway = gateway(&site);
    for (name, other) in [("localhost", "127.0.0.1"), ("127.0.0.1", "localhost")] {
        let oracle = Oracle::secured(tls(&issue(&site, &[name], a_month())), parrot);
        assert!(ask(&gateway, name, oracle.address).0.starts_with("HTTP/1.1 200 "), "{name}");
        let (head, body) = ask(&gateway, other, oracle.address);
        assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("another name"), "{body}");
        assert_eq!(oracle.requests().len(), 1);
    }
}

#[test]
fn tls_1_2_is_enough_for_an_origin_and_no_tls_is_not() {
    let site = Site::new();
    let gateway = gateway(&site);
    let certificate = issue(&site, &["127.0.0.1"], a_month());
    let (pem, key) = (certificate.pem.as_bytes(), certificate.key_pem.as_bytes());
    let old = Oracle::secured(tls_of(pem, key, &[&TLS12]), parrot);
    assert!(ask(&gateway, "127.0.0.1", old.address).0.starts_with("HTTP/1.1 200 "));
    let mut only_h2 = tls_of(pem, key, &[&TLS13]);
    only_h2.alpn_protocols = vec![b"h2".to_vec()];
    let only_h2 = Oracle::secured(only_h2, parrot);
    let plain = serve(|mut stream| {
        drop(stream.read(&mut [0; 4096]));
        drop(stream.write_all(b"HTTP/1.1 400 What?\r\nContent-Length: 0\r\n\r\n"));
    });
    let closing = serve(|mut stream| drop(stream.read(&mut [0; 4096])));
    let rude = serve(|mut stream| drop(stream.write_all(b"220 mail.example ESMTP\r\n")));
    for (address, text) in [
        (only_h2.address, "no TLS 1.3 and no TLS 1.2"),
        (closing, "in the middle of the TLS handshake"),
        (rude, "does not speak TLS"),
        (plain, "does not speak TLS"),
    ] {
        let (head, body) = ask(&gateway, "127.0.0.1", address);
        assert!(head.starts_with("HTTP/1.1 502 ") && body.contains(text), "{head}{body}");
        assert_reachable(&gateway, address);
    }
}

#[test]
fn a_handshake_that_does_not_end_is_given_up_in_time_or_with_the_client() {
    let site = Site::new();
    let ca = site.pki.certificate();
    let config = config(&ca, "").replace("dial_within_s = 10", "dial_within_s = 1");
    let gateway = Gateway::start_with_file(&config);
    let silent = serve(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let (head, _) = ask(&gateway, "127.0.0.1", silent);
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    gateway.await_status("nobody is left", |status| status.connections == 0);
    let slow = Gateway::start_with_file(&self::config(&ca, ""));
    let (came, comes) = std::sync::mpsc::channel();
    let silent = serve(move |mut stream| {
        drop(stream.read(&mut [0; 1]));
        came.send(()).unwrap();
        drop(std::io::copy(&mut stream, &mut std::io::sink()));
        came.send(()).unwrap();
    });
    let mut client = slow.connect();
    client.write_all(get("127.0.0.1", silent, "/").as_bytes()).unwrap();
    comes.recv_timeout(crate::harness::LONG).unwrap();
    // One that only ends what it says may well wait for an answer.
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    comes.recv_timeout(Duration::from_secs(5)).expect("the origin is left with the client");
    slow.await_status("nobody is left", |status| status.connections == 0);
    let oracle = origin(&site);
    assert!(ask(&gateway, "127.0.0.1", oracle.address).0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn bodies_pass_whole_in_both_directions_and_a_cut_is_no_end() {
    let site = Site::new();
    let gateway = gateway(&site);
    let oracle = origin(&site);
    let mut body = vec![0; (4 << 20) + 321];
    rand::rng().fill_bytes(&mut body);
    let mut client = gateway.connect();
    let mut writer = client.try_clone().unwrap();
    let port = oracle.address.port();
    let head = format!(
        "POST https://localhost:{port}/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), &body[..]].concat();
    let sender = std::thread::spawn(move || writer.write_all(&request).unwrap());
    let (_, answer) = read_response(&mut client);
    sender.join().unwrap();
    assert!(answer.ends_with(&body), "{} bytes", answer.len());
    assert_eq!(oracle.requests()[0].body, body);

    // What ends with the connection ends in an orderly way, or it was cut.
    let tls = Arc::new(tls(&issue(&site, &["localhost"], a_month())));
    for is_orderly in [true, false] {
        let tls = Arc::clone(&tls);
        let address = serve(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            drop(stream.read(&mut [0; 4096]));
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nsome words").unwrap();
            if is_orderly {
                stream.conn.send_close_notify();
            }
            stream.flush().unwrap();
        });
        let mut client = gateway.connect();
        client.write_all(get("localhost", address, "/").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let ended = client.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(ended.is_ok(), is_orderly, "{ended:?} {answer}");
        assert!(!is_orderly || answer.ends_with("some words"), "{answer}");
    }
}

#[test]
fn websocket_inside_tls_becomes_a_relay() {
    let site = Site::new();
    let gateway = gateway(&site);
    let tls = Arc::new(tls(&issue(&site, &["localhost"], a_month())));
    let address = serve(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..len]).unwrap();
        }
        stream.conn.send_close_notify();
        drop(stream.flush());
    });
    let mut client = gateway.connect();
    let port = address.port();
    let request = format!(
        "GET https://localhost:{port}/chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    );
    client.write_all(request.as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
    for round in 0..3 {
        let words = format!("words {round}");
        client.write_all(words.as_bytes()).unwrap();
        assert_eq!(read_exactly(&mut client, words.len()), words.as_bytes());
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_to_end(&mut client).is_empty(), "an orderly end");
}

#[test]
fn an_origin_that_wants_a_certificate_gets_none_and_says_so() {
    let site = Site::new();
    let gateway = gateway(&site);
    let certificate = issue(&site, &["127.0.0.1"], a_month());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.pki.certificate()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build();
    let chain = CertificateDer::pem_slice_iter(certificate.pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&TLS12]).unwrap();
    let builder = builder.with_client_cert_verifier(verifier.unwrap());
    let tls = builder.with_single_cert(chain.map(Result::unwrap).collect(), key).unwrap();
    let oracle = Oracle::secured(tls, parrot);
    let (head, body) = ask(&gateway, "127.0.0.1", oracle.address);
    assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("want a certificate"), "{body}");
    let open = origin(&site);
    assert!(ask(&gateway, "127.0.0.1", open.address).0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_rules_of_users_hold_inside_tls() {
    let site = Site::new();
    let trusted = Origins::new(Some(site.pki.certificate()));
    trusted.load().unwrap();
    let house = House::new(|rules| rules.origins = Arc::new(trusted));
    house.add("bea", "left horse");
    let oracle = origin(&site);
    let deny = format!(r#"["deny any {}/tcp","allow any"]"#, oracle.address.port());
    house.set_of("bea", "{}", &deny);
    let (ada, bea) = ("Basic YWRhOnJpZ2h0IGhvcnNl", "Basic YmVhOmxlZnQgaG9yc2U=");
    let ask = |credentials: &str| {
        let mut client = connect(house.address);
        let shown = format!("\r\nProxy-Authorization: {credentials}\r\n\r\n");
        let request = get("localhost", oracle.address, "/").replace("\r\n\r\n", &shown);
        client.write_all(request.as_bytes()).unwrap();
        read_response(&mut client).0[9..12].to_owned()
    };
    assert_eq!(
        (ask(ada).as_str(), ask(bea).as_str(), ask("Basic eA==").as_str()),
        ("200", "403", "407")
    );
    house.set_of("bea", "{}", r#"["allow any"]"#);
    assert_eq!(ask(bea), "200");
    let told = oracle.requests().iter().any(|it| it.head.to_lowercase().contains("proxy-"));
    assert!(!told, "what is meant for the proxy stays there");
}

#[test]
fn the_way_may_lead_through_upstream_proxies() {
    let site = Site::new();
    let ca = site.pki.certificate();
    let end = Gateway::start(&[]);
    let oracle = origin(&site);
    for scheme in ["socks5", "http"] {
        let more = format!(
            "[[proxy.upstream]]\nname = \"far\"\nservers = [\"{scheme}://{}\"]\n\
             [[proxy.rule]]\nto = \"far\"\n",
            end.address
        );
        let near = Gateway::start_with_file(&config(&ca, &more));
        let (head, body) = ask(&near, "localhost", oracle.address);
        assert!(head.starts_with("HTTP/1.1 200 "), "{scheme}: {head}{body}");
        let elsewhere = Oracle::secured(tls(&issue(&site, &["a.example"], a_month())), parrot);
        let (head, body) = ask(&near, "localhost", elsewhere.address);
        assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("another name"), "{body}");
        assert!(elsewhere.requests().is_empty());
        assert_eq!(near.status().upstreams[0].failed, 0, "{scheme}: it has done what it was asked");
    }
    assert_eq!((oracle.visits().len(), end.status().reached), (2, 4));
}

#[test]
fn inside_the_tls_of_an_upstream_proxy_no_tls_is_spoken() {
    let site = Site::new();
    let ca = site.pki.certificate();
    let end = Gateway::start_with_file(&site.config(""));
    let more = format!(
        "[[proxy.upstream]]\nname = \"far\"\nservers = [\"https://localhost:{}\"]\n\
         ca_file = {ca:?}\n[[proxy.rule]]\nto = \"far\"\n",
        end.address.port()
    );
    let near = Gateway::start_with_file(&config(&ca, &more));
    let oracle = origin(&site);
    let (head, body) = ask(&near, "localhost", oracle.address);
    assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("TLS inside of TLS"), "{body}");
    assert_reachable(&near, oracle.address);
    assert!(oracle.requests().is_empty());
}

#[test]
fn the_authorities_are_those_of_the_system_or_of_the_file_and_are_read_again() {
    let (site, other) = (Site::new(), Site::new());
    let oracle = origin(&site);
    let is_served = |gateway: &Gateway| {
        let (head, body) = ask(gateway, "127.0.0.1", oracle.address);
        (head.starts_with("HTTP/1.1 200 "), body)
    };
    let plain = "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n";
    let system = Gateway::start_with_roots(&site.pki.certificate(), plain);
    assert!(is_served(&system).0, "an authority of the system");
    let system = Gateway::start_with_roots(&other.pki.certificate(), plain);
    assert!(is_served(&system).1.contains("no authority that this proxy trusts"));
    // A file stands in the place of the system's.
    let with_file = config(&other.pki.certificate(), "");
    let gateway = Gateway::start_with_roots(&site.pki.certificate(), &with_file);
    assert!(!is_served(&gateway).0);
    gateway.write_config(&config(&site.pki.certificate(), ""));
    gateway.reload();
    await_that("the file that was read again", || match is_served(&gateway) {
        (true, _) => Ok(()),
        (false, body) => Err(body),
    });
    gateway.write_config(&with_file);
    gateway.reload();
    // What was kept is not used under other authorities.
    await_that("the other file", || match is_served(&gateway) {
        (true, body) => Err(body),
        (false, _) => Ok(()),
    });
    // A system without any serves everything else.
    let empty = tempfile::NamedTempFile::new().unwrap();
    let without = Gateway::start_with_roots(empty.path(), plain);
    assert!(is_served(&without).1.contains("trusts no certificate authority"));
    let page = Oracle::parrot();
    let mut client: TcpStream = without.connect();
    client.write_all(page.get("/").as_bytes()).unwrap();
    assert!(read_response(&mut client).0.starts_with("HTTP/1.1 200 "));
    assert_reachable(&without, oracle.address);
}
