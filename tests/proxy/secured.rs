//! TLS to the proxy: its certificates, its ends, and those who do not get on with it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use corelane::login::pki::{Certificate, PkiDirectory, Purpose, Validity};
use corelane::login::tls::{Pin, TlsFiles};
use corelane::proxy::settings::EntranceTls;
use corelane::sys::clock;
use corelane::sys::process::{cpu_time, resident_bytes};
use rand::RngCore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::clients::curl;
use crate::harness::{Gateway, LONG, await_that, connect, echo, greeting_and_request, http, serve};
use crate::records::{await_lines, told};

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// An authority with a certificate for 127.0.0.1 and localhost.
pub(crate) struct Site {
    directory: TempDir,
    pub(crate) pki: PkiDirectory,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki");
        let (now, mut rng) = (clock::unix_time(), rand::rng());
        let pki = PkiDirectory::create(&path, "Test CA", now, &mut rng).unwrap();
        let site = Self { directory, pki };
        site.renew();
        site
    }

    /// Issues the certificate of the server, again.
    fn renew(&self) {
        let addresses = ["localhost".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let validity = Validity::days(clock::unix_time(), 30);
        self.pki.issue_server(&addresses, validity, &mut rand::rng()).unwrap();
    }

    /// The configuration of a gateway with TLS, with more keys.
    pub(crate) fn config(&self, more: &str) -> String {
        let (certificate, key) = (self.pki.server_certificate(), self.pki.server_key());
        format!(
            "[[proxy]]\nlisten = [\"tls://127.0.0.1:0\"]\nallow = [\"loopback\"]\n\
             certificate_file = {certificate:?}\nkey_file = {key:?}\n{more}\n"
        )
    }

    pub(crate) fn gateway(&self, more: &str) -> Gateway {
        Gateway::start_with_file(&self.config(more))
    }

    /// The file with the certificate of the authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.pki.certificate()
    }

    /// An entrance that shows the certificate of the server.
    pub(crate) fn entrance_tls(&self) -> EntranceTls {
        let (certificate, key) = (self.pki.server_certificate(), self.pki.server_key());
        let files = TlsFiles { certificate, key, client_ca: None, client_crl: None };
        EntranceTls { files, demands_certificate: false }
    }

    /// The pin of the authority.
    pub(crate) fn pin(&self) -> String {
        Pin::of_file(&self.authority()).unwrap().to_string()
    }

    /// The keys that demand a certificate of this authority.
    pub(crate) fn mutual(&self) -> String {
        let (ca, crl) = (self.pki.certificate(), self.pki.revocation_list());
        format!("client_ca_file = {ca:?}\nclient_crl_file = {crl:?}\n")
    }

    pub(crate) fn user(&self, name: &str) -> Certificate {
        let validity = Validity::days(clock::unix_time(), 30);
        let purpose = Purpose::User(name.parse().unwrap());
        self.pki.issue(&purpose, validity, &mut rand::rng()).unwrap()
    }

    fn user_until_yesterday(&self, name: &str) -> Certificate {
        let validity = Validity::days(clock::unix_time() - Duration::from_secs(48 * 3600), 1);
        let purpose = Purpose::User(name.parse().unwrap());
        self.pki.issue(&purpose, validity, &mut rand::rng()).unwrap()
    }

    /// Files with a certificate and its key, as curl takes them.
    pub(crate) fn files(&self, certificate: &Certificate) -> [PathBuf; 2] {
        let paths = ["pem", "key"]
            .map(|kind| self.directory.path().join(format!("{}.{kind}", certificate.serial)));
        std::fs::write(&paths[0], &certificate.pem).unwrap();
        std::fs::write(&paths[1], certificate.key_pem.as_bytes()).unwrap();
        paths
    }

    /// A connection to the gateway inside TLS.
    pub(crate) fn connect(&self, address: SocketAddr) -> Tls {
        self.over(connect(address), None)
    }

    /// TLS over a connection; the handshake is made by the first use.
    pub(crate) fn over(&self, stream: TcpStream, user: Option<&Certificate>) -> Tls {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.pki.certificate()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match user {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let chain = CertificateDer::pem_slice_iter(certificate.pem.as_bytes());
                let chain = chain.map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }
}

/// Goes through the gateway to an origin, by SOCKS5.
pub(crate) fn reach(tls: &mut Tls, origin: SocketAddr) -> std::io::Result<()> {
    tls.write_all(&greeting_and_request(origin))?;
    let mut reply = [0; 12];
    tls.read_exact(&mut reply)?;
    assert_eq!(reply[..4], [5, 0, 5, 0], "{reply:?}");
    Ok(())
}

fn end(tls: &mut Tls) {
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    tls.sock.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn curl_comes_by_https_and_believes_the_certificate_or_stays_away() {
    let site = Site::new();
    let gateway = site.gateway("");
    let url = format!("http://{}/", http("the page"));
    let proxy = format!("https://localhost:{}", gateway.address.port());
    let ca = site.pki.certificate();
    let flags = ["--proxy", &proxy, "--proxytunnel", &url];
    let trusting = [&flags[..], &["--proxy-cacert", ca.to_str().unwrap()]].concat();
    assert_eq!(curl(&trusting), (Some(0), "the page".to_owned()));
    // 60: the certificate is not believed.
    assert_eq!(curl(&flags).0, Some(60));
    // What is spoken without TLS is not understood there.
    let plain = gateway.address.to_string();
    assert_ne!(curl(&["--socks5", &plain, &url]).0, Some(0));
    assert_eq!(gateway.status().reached, 1);
}

#[test]
fn openssl_agrees_on_tls_1_3_and_on_http() {
    let site = Site::new();
    let gateway = site.gateway("");
    let ca = site.pki.certificate();
    let talk = |more: &[&str]| {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &gateway.address.to_string(), "-CAfile"])
            .arg(&ca)
            .args(["-verify_return_error", "-servername", "localhost"])
            .args(more)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let agreed = talk(&["-alpn", "h2,http/1.1"]);
    assert!(agreed.contains("TLSv1.3") && agreed.contains("ALPN protocol: http/1.1"), "{agreed}");
    let refused = talk(&["-alpn", "h2"]);
    assert!(refused.contains("no application protocol"), "{refused}");
    let old = talk(&["-tls1_2"]);
    assert!(old.contains("protocol version"), "{old}");
}

#[test]
fn each_direction_inside_tls_ends_on_its_own_and_nothing_is_lost() {
    let site = Site::new();
    let gateway = site.gateway("");
    let mut tls = site.connect(gateway.address);
    reach(&mut tls, echo()).unwrap();
    let mut sent = vec![0; (16 << 20) + 12_345];
    rand::rng().fill_bytes(&mut sent);
    // The echo would block a client that writes all of it before it reads.
    let mut received = Vec::with_capacity(sent.len());
    tls.sock.set_nonblocking(true).unwrap();
    let (mut written, mut ended) = (0, false);
    let until = clock::now() + LONG;
    loop {
        assert!(clock::now() < until, "{written} written, {} received", received.len());
        let mut is_idle = true;
        if written < sent.len() {
            match tls.write(&sent[written..(written + 50_000).min(sent.len())]) {
                Ok(len) => (written, is_idle) = (written + len, len == 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        } else if !ended {
            tls.conn.send_close_notify();
            ended = true;
        }
        match tls.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => {}
        }
        let mut buffer = [0; 30_000];
        match tls.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => {
                received.extend_from_slice(&buffer[..len]);
                is_idle = false;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        if is_idle {
            std::thread::yield_now();
        }
    }
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    gateway.await_status("all is counted", |status| {
        status.up_bytes == sent.len() as u64 && status.down_bytes == sent.len() as u64
    });
    gateway.await_status("it was an orderly end", |status| {
        status.connections == 0 && status.broken == 0
    });
}

#[test]
fn a_connection_that_is_cut_is_not_an_end() {
    let site = Site::new();
    let gateway = site.gateway("");
    let (sender, ends) = std::sync::mpsc::channel();
    let origin = serve(move |mut stream| {
        let mut got = Vec::new();
        let end = stream.read_to_end(&mut got).map_err(|error| error.kind());
        drop(sender.send((got, end)));
    });
    for is_orderly in [true, false] {
        let mut tls = site.connect(gateway.address);
        reach(&mut tls, origin).unwrap();
        tls.write_all(b"some words").unwrap();
        gateway.await_status("they are there", |status| status.up_bytes % 10 == 0);
        match is_orderly {
            true => end(&mut tls),
            // The end of TCP, which anybody on the way can make up.
            false => tls.sock.shutdown(Shutdown::Write).unwrap(),
        }
        let (got, end) = ends.recv_timeout(LONG).unwrap();
        match is_orderly {
            true => assert_eq!((got.as_slice(), end), (&b"some words"[..], Ok(10))),
            false => assert_eq!(end, Err(ErrorKind::ConnectionReset)),
        }
    }
    gateway.await_status("one was cut", |status| status.broken == 1);
}

#[test]
fn a_new_certificate_is_shown_to_those_who_come_and_disturbs_nobody() {
    let site = Site::new();
    let gateway = site.gateway("");
    let shown = |tls: &Tls| tls.conn.peer_certificates().unwrap()[0].clone().into_owned();
    let origin = echo();
    let mut running = site.connect(gateway.address);
    reach(&mut running, origin).unwrap();
    let first = shown(&running);
    // What makes no sense is not taken over.
    let certificate = site.pki.server_certificate();
    let pem = std::fs::read(&certificate).unwrap();
    std::fs::write(&certificate, "no certificate").unwrap();
    gateway.await_log("what was read before stays in force");
    let mut meanwhile = site.connect(gateway.address);
    reach(&mut meanwhile, origin).unwrap();
    assert_eq!(shown(&meanwhile), first);
    std::fs::write(&certificate, pem).unwrap();
    site.renew();
    await_that("the new certificate", || {
        let mut tls = site.connect(gateway.address);
        reach(&mut tls, origin).map_err(|error| error.to_string())?;
        (shown(&tls) != first).then_some(()).ok_or_else(String::new)
    });
    running.write_all(b"still here").unwrap();
    let mut echoed = [0; 10];
    running.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"still here");
}

#[test]
fn only_certificates_of_the_client_authority_that_are_in_force_are_let_in() {
    let (site, other) = (Site::new(), Site::new());
    let gateway = site.gateway(&site.mutual());
    let url = format!("http://{}/", http("the page"));
    let proxy = format!("https://localhost:{}", gateway.address.port());
    let ca = site.pki.certificate();
    let go = |user: Option<[PathBuf; 2]>| {
        let mut arguments = vec!["--proxy", &proxy, "--proxytunnel", &url];
        arguments.extend(["--proxy-cacert", ca.to_str().unwrap()]);
        if let Some([pem, key]) = &user {
            arguments.extend(["--proxy-cert", pem.to_str().unwrap()]);
            arguments.extend(["--proxy-key", key.to_str().unwrap()]);
        }
        curl(&arguments)
    };
    let (alice, bob) = (site.user("alice"), site.user("bob"));
    let served = (Some(0), "the page".to_owned());
    assert_eq!(go(Some(site.files(&alice))), served);
    assert_eq!(go(Some(site.files(&bob))), served);
    assert_ne!(go(None).0, Some(0), "without a certificate");
    let stranger = other.user("alice");
    assert_ne!(go(Some(other.files(&stranger))).0, Some(0), "from another authority");
    site.pki.revoke(&bob.serial, clock::unix_time()).unwrap();
    await_that("the revocation", || match go(Some(site.files(&bob))).0 {
        Some(0) => Err("bob is still let in".to_owned()),
        _ => Ok(()),
    });
    assert_eq!(go(Some(site.files(&alice))), served, "she was not revoked");
}

#[test]
fn certificates_may_be_left_to_the_clients() {
    let site = Site::new();
    let more = format!("{}certificate_required = false\n", site.mutual());
    let gateway = site.gateway(&more);
    let origin = echo();
    reach(&mut site.connect(gateway.address), origin).unwrap();
    let alice = site.user("alice");
    reach(&mut site.over(connect(gateway.address), Some(&alice)), origin).unwrap();
    site.pki.revoke(&alice.serial, clock::unix_time()).unwrap();
    await_that("the revocation", || {
        match reach(&mut site.over(connect(gateway.address), Some(&alice)), origin) {
            Ok(()) => Err("she is still let in".to_owned()),
            Err(_) => Ok(()),
        }
    });
}

#[test]
fn who_does_not_finish_a_handshake_is_gone_in_time_and_costs_nothing() {
    let site = Site::new();
    let gateway = site.gateway("request_within_s = 2");
    // The first message of a handshake, whole and in part.
    let mut hello = Vec::new();
    site.over(connect(gateway.address), None).conn.write_tls(&mut hello).unwrap();
    for len in [hello.len(), hello.len() / 2, 1] {
        let mut stream = connect(gateway.address);
        stream.write_all(&hello[..len]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    }
    gateway.await_status("those who leave are gone", |status| status.connections == 0);
    let mut slow: Vec<TcpStream> = (0..20).map(|_| connect(gateway.address)).collect();
    for stream in &mut slow {
        stream.write_all(&hello[..hello.len() / 2]).unwrap();
    }
    gateway.await_status("the slow ones are there", |status| status.connections == 20);
    let spent = cpu_time(gateway.child.id()).unwrap();
    for stream in &mut slow {
        drop(stream.read_to_end(&mut Vec::new()));
    }
    let spent = cpu_time(gateway.child.id()).unwrap() - spent;
    assert!(spent < Duration::from_millis(300), "{spent:?} of two seconds");
    gateway.await_status("they are told of", |status| status.refused["too_slow"] == 20);
    // Whoever says something else than TLS is sent away at once.
    let mut stream = connect(gateway.address);
    stream.write_all(&[0x55; 100]).unwrap();
    drop(stream.read_to_end(&mut Vec::new()));
    reach(&mut site.connect(gateway.address), echo()).unwrap();
}

#[test]
fn who_fails_the_handshake_is_counted_and_told_of_and_who_leaves_is_not() {
    let (site, other) = (Site::new(), Site::new());
    let path = site.directory.path().join("access.log");
    let log = format!("access_log = {path:?}\naccess_log_format = \"json\"\n");
    let more = format!("{log}{}[log]\nlevel = \"corelane=debug\"\n", site.mutual());
    let gateway = site.gateway(&more);
    let mut hello = Vec::new();
    site.over(connect(gateway.address), None).conn.write_tls(&mut hello).unwrap();
    for len in [hello.len(), hello.len() / 2, 0] {
        let mut stream = connect(gateway.address);
        stream.write_all(&hello[..len]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    }
    gateway.await_status("those who leave are gone", |status| status.connections == 0);
    assert_eq!(gateway.status().refused["tls_failed"], 0, "they have not failed");

    let mut clients = Vec::new();
    let mut explained = |client: SocketAddr, why: &str| {
        let line = gateway.await_log(why);
        assert!(line.contains(&client.to_string()), "{client}: {line}");
        clients.push(client.to_string());
    };
    let (stranger, past) = (other.user("alice"), site.user_until_yesterday("bob"));
    for (authority, user, why) in [
        (&site, None, "peer sent no certificates"),
        (&site, Some(&stranger), "UnknownIssuer"),
        (&site, Some(&past), "certificate expired"),
        // It does not believe the gateway, and says so.
        (&other, None, "received fatal alert: UnknownCA"),
    ] {
        let mut tls = authority.over(connect(gateway.address), user);
        assert!(reach(&mut tls, echo()).is_err(), "{why}");
        explained(tls.sock.local_addr().unwrap(), why);
    }
    let mut plain = connect(gateway.address);
    plain.write_all(b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    drop(plain.read_to_end(&mut Vec::new()));
    explained(plain.local_addr().unwrap(), "received corrupt message");

    gateway.await_status("they are counted", |status| status.refused["tls_failed"] == 5);
    assert!(gateway.status_text().contains("5 tls_failed"), "{}", gateway.status_text());
    let lines = await_lines(&path, 5);
    for (line, client) in lines.iter().zip(clients) {
        assert_eq!(line["client"], client);
        let keys = ["user", "protocol", "tls", "status", "outcome"];
        assert_eq!(told(line, &keys), "null null true null tls_failed");
    }
    // Whoever is let in is none of them.
    let alice = site.user("alice");
    reach(&mut site.over(connect(gateway.address), Some(&alice)), echo()).unwrap();
    assert_eq!(gateway.status().refused["tls_failed"], 5);
}

#[test]
fn who_comes_by_tls_in_a_crowd_does_not_hold_up_who_is_there() {
    const CROWD: usize = 400;
    let site = Site::new();
    // On a busy machine the last of them wait for long.
    let gateway = site.gateway("request_within_s = 600\n[workers]\ncount = 1\n");
    let mut relay = site.connect(gateway.address);
    reach(&mut relay, echo()).unwrap();
    let mut hello = Vec::new();
    site.over(connect(gateway.address), None).conn.write_tls(&mut hello).unwrap();
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|_| connect(gateway.address)).collect();
    gateway.await_status("they have come", |status| status.connections > CROWD as u64);
    // All of it is there at once when the gateway goes on, the relay's words last.
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &gateway.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    signal("-STOP");
    for stream in &mut crowd {
        stream.write_all(&hello).unwrap();
    }
    relay.write_all(b"words").unwrap();
    let begun = clock::now();
    signal("-CONT");
    relay.read_exact(&mut [0; 5]).unwrap();
    let heard = clock::now() - begun;
    for stream in &mut crowd {
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    let all = clock::now() - begun;
    // It waits for a few of them, and for its turn on a busy machine; not for all.
    assert!(heard * 2 < all, "the relay has waited for {heard:?} of {all:?}");
}

#[test]
fn an_idle_tls_connection_costs_little() {
    let site = Site::new();
    let gateway = site.gateway("");
    let origin = echo();
    let reached = || {
        let mut tls = site.connect(gateway.address);
        reach(&mut tls, origin).unwrap();
        tls.write_all(&[1; 20_000]).unwrap();
        tls.read_exact(&mut [0; 20_000]).unwrap();
        tls
    };
    let mut held: Vec<Tls> = (0..64).map(|_| reached()).collect();
    let before = resident_bytes(gateway.child.id()).unwrap();
    held.extend((0..300).map(|_| reached()));
    let each = resident_bytes(gateway.child.id()).unwrap().saturating_sub(before) / 300;
    assert!(each <= 12 * 1024, "{each} bytes for an idle TLS connection");
}
