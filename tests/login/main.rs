//! The login port as strangers and attackers find it: raw TCP, and other people's TLS.

#![expect(clippy::unwrap_used, reason = "a test ends where its set-up fails")]

mod commands;
mod port;
mod traefik;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use corelane::limits::LOGIN_PENDING_PER_SOURCE_MAX;
use corelane::login::client::{Channel, Destination};
use corelane::login::server::Timeouts;
use corelane::login::tls::ClientTls;
use corelane::sys::clock;
use port::{Port, SOON, log_in_at};

/// Timeouts that a test can wait for.
fn short() -> Timeouts {
    let second = Duration::from_secs(1);
    Timeouts { handshake: second, login: second, idle: second }
}

/// Waits until the far end has closed the connection. Returns what came before.
fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    bytes
}

/// What a real client sends first.
fn client_hello(tls: &ClientTls) -> Vec<u8> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let to = Destination { name: "localhost", address, mark: None };
            assert!(Channel::connect(to, tls, SOON).is_err());
        });
        let mut stream = listener.accept().unwrap().0;
        let mut hello = vec![0; 4096];
        let len = stream.read(&mut hello).unwrap();
        hello.truncate(len);
        hello
    })
}

#[test]
fn closing_at_any_moment_harms_nobody() {
    let port = Port::open(Timeouts::default());
    let hello = client_hello(&port.tls);
    for len in [0, 1, 5, 6, hello.len() / 2, hello.len() - 1, hello.len()] {
        for reset in [false, true] {
            let mut stream = port.connect();
            stream.write_all(&hello[..len]).unwrap();
            if reset {
                // Closing with a linger time of zero resets the connection.
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(stream);
        }
    }
    port.log_in();
    assert_eq!(port.logins(), 1);
}

#[test]
fn half_open_connections_and_trickles_are_given_up_in_time() {
    let port = Port::open(short());
    let hello = client_hello(&port.tls);
    let began = clock::now();
    let silent = port.connect();
    let mut cut = port.connect();
    cut.write_all(&hello[..hello.len() - 1]).unwrap();
    let mut trickle = port.connect();
    let trickling = std::thread::spawn(move || {
        for byte in &hello {
            std::thread::sleep(Duration::from_millis(20));
            if trickle.write_all(&[*byte]).is_err() {
                break;
            }
        }
        clock::now() - began
    });
    for mut stream in [silent, cut] {
        read_to_end(&mut stream);
    }
    let both = clock::now() - began;
    assert!(both >= Duration::from_secs(1), "after {both:?}");
    let trickle = trickling.join().unwrap();
    assert!(trickle < SOON, "the trickle ended after {trickle:?}");
    port.log_in();
}

#[test]
fn a_recorded_login_is_worth_nothing_the_second_time() {
    let port = Port::open(Timeouts::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let middle = listener.local_addr().unwrap();
    let target = port.connect();
    let recording = std::thread::spawn(move || {
        let client = listener.accept().unwrap().0;
        let (mut from_server, mut to_client) =
            (target.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
        let (mut from_client, mut to_server) = (client, target);
        let mut recorded = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = from_client.read(&mut buffer) {
            recorded.extend_from_slice(&buffer[..len]);
            to_server.write_all(&buffer[..len]).unwrap();
        }
        recorded
    });
    log_in_at(middle, &port.tls);
    let recorded = recording.join().unwrap();
    assert_eq!(port.logins(), 1);

    let mut replay = port.connect();
    // The server may be through with it before everything is said.
    let _ = replay.write_all(&recorded);
    read_to_end(&mut replay);
    port.log_in();
    assert_eq!(port.logins(), 2, "the replay was no login");
}

#[test]
fn other_protocols_are_turned_away() {
    let port = Port::open(short());
    for words in
        [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"SSH-2.0-x\r\n", &[0; 64], &[0xff; 64]]
    {
        let mut stream = port.connect();
        stream.write_all(words).unwrap();
        let answer = read_to_end(&mut stream);
        // An alert record of TLS, or nothing.
        assert!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{answer:?}");
    }
    port.log_in();
}

/// What `openssl s_client` gets to see; it says `words` and closes.
fn openssl(port: &Port, arguments: &[&str]) -> String {
    let ca = port.directory.path().join("pki/ca.crt");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &port.address().to_string()]);
    command.args(["-servername", "localhost", "-verify_hostname", "localhost", "-CAfile"]);
    command.arg(ca).args(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("openssl: {error}: `apt-get install openssl`"));
    // Long enough for a greeting to come, if one comes; then the end of the input ends it.
    std::thread::sleep(Duration::from_millis(500));
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_stranger_with_openssl_sees_the_certificate_and_learns_no_more_unless_he_knows_the_protocol() {
    let port = Port::open(Timeouts::default());
    let curious = openssl(&port, &["-quiet", "-no_ign_eof"]);
    assert!(!curious.contains("VPN-HELLO"), "{curious}");

    let knowing = openssl(&port, &["-alpn", "corelane/1"]);
    assert!(knowing.contains("OK VPN-HELLO"), "{knowing}");
    assert!(knowing.contains("TLSv1.3"), "{knowing}");
    assert!(knowing.contains("Verify return code: 0 (ok)"), "{knowing}");

    let other = openssl(&port, &["-alpn", "h2"]);
    assert!(other.contains("no application protocol"), "{other}");
    let old = openssl(&port, &["-tls1_2"]);
    assert!(old.contains("protocol version"), "{old}");
}

#[test]
fn one_source_pushes_out_itself_only() {
    let port = Port::open(Timeouts::default());
    let neighbour = port.connect();
    let mine = (0..2 * LOGIN_PENDING_PER_SOURCE_MAX)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            socket.bind(&SocketAddr::from(([127, 2, 0, 1], 0)).into()).unwrap();
            socket.connect(&port.address().into()).unwrap();
            TcpStream::from(socket)
        })
        .collect::<Vec<_>>();
    let (first, rest) = mine.split_at(LOGIN_PENDING_PER_SOURCE_MAX);
    for stream in first {
        stream.set_read_timeout(Some(SOON)).unwrap();
        assert!(read_to_end(&mut &*stream).is_empty());
    }
    for mut stream in rest.iter().chain([&neighbour]) {
        stream.set_nonblocking(true).unwrap();
        let still_there = stream.read(&mut [0]).unwrap_err();
        assert_eq!(still_there.kind(), std::io::ErrorKind::WouldBlock);
    }
    port.log_in();
}
