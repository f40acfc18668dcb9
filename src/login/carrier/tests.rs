//! Carriers on loopback: real TLS, real sockets, both relays, and far ends that misbehave.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::frame::{Frame, next_frame};
use super::*;
use crate::accounts::model::Id;
use crate::lab::wait_until;
use crate::limits::{CARRIER_QUEUE_LEN_MAX, CARRIER_UNSENT_MAX, CARRIERS_PER_LOGIN_MAX};
use crate::sys::clock;
use crate::telemetry::counters::DropCounters;
use crate::telemetry::drops::DropReason;

/// How long something that happens at once may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server's identity, made for a test.
struct Identity {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    /// A connection whose handshake is complete: the client's end and the server's.
    fn connection(&self) -> ((TcpStream, ClientConnection), (TcpStream, ServerConnection)) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&self.server)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while server.is_handshaking() || server.wants_write() {
                    server.complete_io(&mut far).unwrap();
                }
            });
            while client.is_handshaking() || client.wants_write() {
                client.complete_io(&mut near).unwrap();
            }
        });
        ((near, client), (far, server))
    }

    /// A connection, the server's end of it ready to become a carrier.
    fn carrier(&self) -> (RawClient, CarrierStream) {
        let ((near, client), (far, server)) = self.connection();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        near.set_write_timeout(Some(PATIENCE)).unwrap();
        let raw = RawClient(rustls::StreamOwned::new(client, near));
        (raw, carrier_stream(far, rustls::Connection::Server(server)))
    }
}

fn carrier_stream(stream: TcpStream, tls: rustls::Connection) -> CarrierStream {
    stream.set_nonblocking(true).unwrap();
    let stream = mio::net::TcpStream::from_std(stream);
    CarrierStream { stream, tls }
}

/// A client that writes what a test likes.
struct RawClient(rustls::StreamOwned<ClientConnection, TcpStream>);

impl RawClient {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.0.flush().unwrap();
    }

    fn write_frame(&mut self, channel: u8, body: &[u8]) {
        let len = body.len() as u16;
        let header = Frame::new(channel, len, len).unwrap().emit();
        self.write(&[&header, body].concat());
    }

    /// Reads one frame; its channel and bytes.
    fn read_frame(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 6];
        self.0.read_exact(&mut header).unwrap();
        let frame = Frame::parse(header).unwrap();
        let mut body = vec![0; frame.body_len()];
        self.0.read_exact(&mut body).unwrap();
        (frame.channel(), body)
    }

    /// Waits until the far side has closed the connection.
    fn await_close(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.0.read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    // The last is an alert of TLS.
                    let closed = [
                        ErrorKind::UnexpectedEof,
                        ErrorKind::ConnectionReset,
                        ErrorKind::InvalidData,
                    ];
                    assert!(closed.contains(&error.kind()), "{error}");
                    return;
                }
            }
        }
    }
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut bytes).unwrap();
    bytes.truncate(len);
    (bytes, from)
}

/// A server's UDP port and its relay.
struct Server {
    port: UdpSocket,
    relay: CarrierRelay,
    drops: Arc<DropCounters>,
}

impl Server {
    fn start() -> Self {
        let port = udp();
        let drops = Arc::new(DropCounters::default());
        let relay = CarrierRelay::start(port.local_addr().unwrap(), Arc::clone(&drops)).unwrap();
        Self { port, relay, drops }
    }

    fn adopt(&self, carrier: CarrierStream, login: i64) {
        self.relay.handle().adopt(carrier, Id(login)).unwrap();
    }
}

/// Something recognisable.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251 + seed * 31) as u8).collect()
}

#[test]
fn datagrams_cross_both_relays_byte_for_byte_on_the_channel_they_came_on() {
    let identity = Identity::new();
    let server = Server::start();
    let ((near, client), (far, accepted)) = identity.connection();
    server.adopt(carrier_stream(far, rustls::Connection::Server(accepted)), 1);
    let own: Vec<UdpSocket> = (0..3).map(|_| udp()).collect();
    let ports = own.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
    let tls = rustls::Connection::Client(client);
    let (on_end, drops) = (Box::new(|_| ()), Arc::default());
    let carrier = CarrierClient::start(carrier_stream(near, tls), ports, drops, on_end).unwrap();

    let mut sources = Vec::new();
    for (number, socket) in own.iter().enumerate() {
        for len in [1, 2, 1440, 1452, 9000, 65_507] {
            let sent = pattern(len, number + len);
            socket.send_to(&sent, carrier.address()).unwrap();
            let (arrived, from) = receive(&server.port);
            assert!(arrived == sent, "{len} bytes of channel {number}");
            // The answer finds the socket that asked.
            server.port.send_to(&sent[..len.min(500)], from).unwrap();
            let (answer, from_relay) = receive(socket);
            assert!(answer == sent[..len.min(500)] && from_relay == carrier.address());
            sources.push(from);
        }
    }
    sources.dedup();
    assert_eq!(sources.len(), 3, "each path keeps a port of its own: {sources:?}");
    let ips: Vec<_> = sources.iter().map(SocketAddr::ip).collect();
    assert!(ips.iter().all(|ip| *ip == ips[0] && *ip != Ipv4Addr::LOCALHOST), "{ips:?}");
}

#[test]
fn a_stranger_on_loopback_cannot_use_a_carrier() {
    let identity = Identity::new();
    let server = Server::start();
    let (mut raw, carrier) = identity.carrier();
    server.adopt(carrier, 1);
    raw.write_frame(0, b"hello");
    let (_, path) = receive(&server.port);
    let stranger = udp();
    stranger.send_to(b"forged", path).unwrap();
    server.port.send_to(b"true", path).unwrap();
    assert_eq!(raw.read_frame(), (0, b"true".to_vec()));
    assert_eq!(server.drops.get(DropReason::CarrierStranger), 1);
}

#[test]
fn a_frame_may_be_cut_anywhere() {
    let identity = Identity::new();
    let server = Server::start();
    let ((near, client), (mut far, mut accepted)) = identity.connection();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut raw = RawClient(rustls::StreamOwned::new(client, near));
    let frame = [&Frame::new(2, 20, 50).unwrap().emit()[..], &pattern(50, 1)].concat();
    // The first one begins to arrive before the connection is handed over.
    raw.write(&frame[..13]);
    accepted.read_tls(&mut far).unwrap();
    accepted.process_new_packets().unwrap();
    server.adopt(carrier_stream(far, rustls::Connection::Server(accepted)), 1);
    raw.write(&frame[13..]);
    let expect_it = || {
        let lens: Vec<usize> = (0..3).map(|_| receive(&server.port).0.len()).collect();
        assert_eq!(lens, [20, 20, 10]);
    };
    expect_it();
    for cut in 0..=frame.len() {
        raw.write(&frame[..cut]);
        raw.write(&frame[cut..]);
        expect_it();
    }
    for byte in &frame {
        raw.write(&[*byte]);
    }
    expect_it();
}

#[test]
fn whoever_sends_no_frames_is_closed_and_nobody_else() {
    let identity = Identity::new();
    let server = Server::start();
    let (mut honest, carrier) = identity.carrier();
    server.adopt(carrier, 1);
    let hostile: &[[u8; 6]] = &[
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 9, 0, 0],
        [0, 0, 0, 9, 0, 8],
        [0, 0, 0, 1, 0xff, 0xff],
        [129, 0, 0, 1, 0, 1],
        [255, 255, 255, 255, 255, 255],
        [0, 7, 0, 1, 0, 1],
    ];
    for (number, header) in hostile.iter().enumerate() {
        let (mut raw, carrier) = identity.carrier();
        server.adopt(carrier, 2 + number as i64);
        raw.write_frame(0, b"at first");
        assert_eq!(receive(&server.port).0, b"at first");
        raw.write(header);
        raw.await_close();
    }
    honest.write_frame(1, b"still here");
    assert_eq!(receive(&server.port).0, b"still here");
}

#[test]
fn a_datagram_that_no_socket_takes_is_counted_and_nothing_else_lost() {
    let identity = Identity::new();
    let server = Server::start();
    let (mut raw, carrier) = identity.carrier();
    server.adopt(carrier, 1);
    raw.write_frame(0, &vec![1; 0xffff]);
    raw.write_frame(0, b"next");
    assert_eq!(receive(&server.port).0, b"next");
    // What was sent is counted after it has arrived.
    let is_counted = || (server.drops.get(DropReason::CarrierSendFailed) == 1).then_some(());
    wait_until(Duration::from_secs(10), "the drop to be counted", is_counted).unwrap();
}

#[test]
fn what_is_no_tls_ends_the_carrier() {
    let identity = Identity::new();
    let server = Server::start();
    let (mut raw, carrier) = identity.carrier();
    server.adopt(carrier, 1);
    raw.0.sock.write_all(&[0x17, 3, 3, 0, 32]).unwrap();
    raw.0.sock.write_all(&[0; 32]).unwrap();
    raw.await_close();
}

#[test]
fn a_slow_reader_costs_a_bounded_queue_and_nobody_elses_time() {
    let identity = Identity::new();
    let server = Server::start();
    let (mut slow, carrier) = identity.carrier();
    server.adopt(carrier, 1);
    let (mut other, carrier) = identity.carrier();
    server.adopt(carrier, 2);
    slow.write_frame(0, b"slow");
    let (_, slow_path) = receive(&server.port);
    other.write_frame(0, b"other");
    let (_, other_path) = receive(&server.port);

    // Far more than all buffers on the way hold, in bursts that the receiving socket holds.
    let datagram = pattern(8000, 3);
    let lost = || {
        server.drops.get(DropReason::CarrierQueueFull)
            + server.drops.get(DropReason::CarrierTooLate)
    };
    let begun = clock::now();
    let mut sent = 0;
    while lost() < 1000 {
        assert!(clock::now() < begun + PATIENCE, "nothing is dropped");
        for _ in 0..50 {
            server.port.send_to(&datagram, slow_path).unwrap();
            sent += 1;
        }
        // The other one is served all the while.
        server.port.send_to(b"prompt", other_path).unwrap();
        assert_eq!(other.read_frame(), (0, b"prompt".to_vec()));
    }
    // What the slow one finds when it reads at last is what was bounded.
    server.port.send_to(b"the end", slow_path).unwrap();
    let mut arrived = 0;
    slow.0.sock.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut stream = Vec::new();
    let mut bytes = vec![0; 65_536];
    while let Ok(len @ 1..) = slow.0.read(&mut bytes) {
        stream.extend_from_slice(&bytes[..len]);
    }
    let mut at = 0;
    while let Some((frame, body)) = next_frame(&stream, &mut at).unwrap() {
        let whole = stream[body.clone()].chunks(frame.stride()).all(|it| it == datagram);
        assert!(whole || &stream[body] == b"the end");
        arrived += frame.datagrams();
    }
    assert!(arrived < sent, "{arrived} of {sent}");
    // Ours, and the kernel's at both ends.
    let bound = CARRIER_QUEUE_LEN_MAX + CARRIER_UNSENT_MAX as usize + 16 * 1024 * 1024;
    assert!(stream.len() < bound, "{} bytes", stream.len());
}

#[test]
fn a_login_that_ends_takes_its_carriers_along_at_once_and_no_others() {
    let identity = Identity::new();
    let server = Server::start();
    let mut raws: Vec<RawClient> = [1, 1, 2]
        .map(|login| {
            let (raw, carrier) = identity.carrier();
            server.adopt(carrier, login);
            raw
        })
        .into();
    let (guard, closed) = crossbeam_channel::bounded::<()>(1);
    server.relay.handle().close(Id(1), guard);
    let outcome = closed.recv_timeout(PATIENCE);
    assert_eq!(outcome, Err(crossbeam_channel::RecvTimeoutError::Disconnected));
    raws[0].await_close();
    raws[1].await_close();
    raws[2].write_frame(0, b"mine goes on");
    assert_eq!(receive(&server.port).0, b"mine goes on");
}

#[test]
fn a_login_has_so_many_carriers_and_the_oldest_goes_first() {
    let identity = Identity::new();
    let server = Server::start();
    let mut raws = Vec::new();
    for _ in 0..=CARRIERS_PER_LOGIN_MAX {
        let (raw, carrier) = identity.carrier();
        server.adopt(carrier, 1);
        raws.push(raw);
    }
    raws.remove(0).await_close();
    for raw in &mut raws {
        raw.write_frame(0, b"stays");
        assert_eq!(receive(&server.port).0, b"stays");
    }
}

#[test]
fn carriers_have_addresses_that_admission_tells_apart() {
    let identity = Identity::new();
    let server = Server::start();
    let mut networks = std::collections::BTreeSet::new();
    let mut raws = Vec::new();
    for login in 0..5 {
        let (mut raw, carrier) = identity.carrier();
        server.adopt(carrier, login);
        raw.write_frame(0, b"hello");
        let SocketAddr::V4(from) = receive(&server.port).1 else { panic!("IPv4 was asked for") };
        let [first, second, third, _] = from.ip().octets();
        assert_eq!(first, 127);
        networks.insert((second, third));
        raws.push(raw);
    }
    assert_eq!(networks.len(), 5, "{networks:?}");
    assert!(!networks.contains(&(0, 0)), "127.0.0.1 belongs to everybody");
}

#[test]
fn a_client_is_told_when_its_carrier_ends_and_how() {
    let identity = Identity::new();
    let start = || {
        let ((near, client), far) = identity.connection();
        let (ended, end) = crossbeam_channel::bounded(1);
        let on_end: OnEnd = Box::new(move |end: CarrierEnd| ended.send(end).unwrap());
        let stream = carrier_stream(near, rustls::Connection::Client(client));
        let carrier = CarrierClient::start(stream, vec![1], Arc::default(), on_end).unwrap();
        (carrier, far, end)
    };
    let (carrier, _far, end) = start();
    drop(carrier);
    assert!(matches!(end.recv_timeout(PATIENCE), Ok(CarrierEnd::Dismissed)));
    let (_carrier, (mut far, mut server), end) = start();
    server.send_close_notify();
    server.write_tls(&mut far).unwrap();
    assert!(matches!(end.recv_timeout(PATIENCE), Ok(CarrierEnd::Closed)));
    let (_carrier, (far, _), end) = start();
    drop(far);
    assert!(matches!(end.recv_timeout(PATIENCE), Ok(CarrierEnd::Closed | CarrierEnd::Lost(_))));
    let (_carrier, (mut far, mut server), end) = start();
    server.writer().write_all(&[9; 6]).unwrap();
    server.write_tls(&mut far).unwrap();
    assert!(matches!(end.recv_timeout(PATIENCE), Ok(CarrierEnd::Malformed(_))));
}
