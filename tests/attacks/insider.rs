//! A peer with a key of its own that the server trusts, and no manners: it seals whatever it
//! likes, with the program's own handshake and session code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use corelane::handshake::keys::{PresharedKey, PrivateKey, PublicKey};
use corelane::handshake::{
    Established, InitiatorParams, LocalIdentity, PendingInitiation, Timestamp,
};
use corelane::lab::{Host, wait_until};
use corelane::limits::{DATA_HEADER_LEN, DATA_OVERHEAD_LEN, UDP_PAYLOAD_MAX, padded_len};
use corelane::session::lane::{ReceiveLane, SendLane};
use corelane::sys::clock;
use corelane::sys::udp::{SendBatch, SendTarget, UdpOptions};
use corelane::wire::{DataHeader, Features, SessionIndex};

use crate::attacker::ATTACKER;
use crate::harness::{PATIENCE, Peer, SERVER_V4};
use crate::packets::{ICMP, echo_request, ipv4};
use crate::stage::SERVER;

pub(crate) const INSIDER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 66);
pub(crate) const INSIDER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x66);
/// How long one echo is awaited before the next is sent.
const ECHO: Duration = Duration::from_millis(200);

/// Its key, and what the server is told of it.
pub(crate) fn credentials() -> (PrivateKey, Peer) {
    let key = PrivateKey::generate(&mut rand::rng());
    let allowed_ips = vec![format!("{INSIDER_V4}/32"), format!("{INSIDER_V6}/128")];
    (key.clone(), Peer { key: key.public(), allowed_ips })
}

/// An initiation of the owner of `key`, as it would be at the time `at` by its clock.
pub(crate) fn initiation(
    key: &PrivateKey,
    server: &PublicKey,
    at: Duration,
) -> (PendingInitiation, Vec<u8>) {
    let identity = LocalIdentity::new(key.clone());
    let params = InitiatorParams { workers: 1, features: Features::all() };
    let index = SessionIndex(rand::random());
    let timestamp = Timestamp::from_unix(at);
    let rng = &mut rand::rng();
    PendingInitiation::start(&identity, server, params, index, timestamp, None, rng).unwrap()
}

/// Asks the server for a session from a socket of `host`; `None` if it does not answer.
pub(crate) fn ask_for_session(
    socket: &UdpSocket,
    key: &PrivateKey,
    server: &PublicKey,
    at: Duration,
) -> Option<Established> {
    let (mut pending, datagram) = initiation(key, server, at);
    socket.send_to(&datagram, SERVER).unwrap();
    let mut response = vec![0; UDP_PAYLOAD_MAX];
    let len = socket.recv(&mut response).ok()?;
    Some(pending.consume_response(&response[..len], &PresharedKey::default()).unwrap())
}

pub(crate) struct Insider {
    pub(crate) socket: UdpSocket,
    send: SendLane,
    /// The lane of the server's first worker, the only one that it has in these tests.
    receive: ReceiveLane,
    /// What the server calls the session.
    pub(crate) remote: SessionIndex,
    echoes: u16,
}

impl Insider {
    /// A session from `host` with a server of one worker, confirmed.
    pub(crate) fn connect(host: &Host, key: &PrivateKey, server: &PublicKey) -> Self {
        let socket = host.run(|| UdpSocket::bind((ATTACKER, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let session = ask_for_session(&socket, key, server, clock::unix_time()).unwrap();
        assert_eq!(session.plan.server_workers(), 1);
        socket.set_read_timeout(Some(ECHO)).unwrap();
        let lane = session.plan.base();
        assert!(session.send_secret.claim(lane));
        let mut insider = Self {
            socket,
            send: SendLane::new(&session.send_secret, lane, session.remote),
            receive: ReceiveLane::new(&session.receive_secret, 0),
            remote: session.remote,
            echoes: 0,
        };
        insider.assert_served();
        insider
    }

    /// A data message with this plaintext, padded to whole blocks.
    pub(crate) fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        self.seal_padded(plaintext, padded_len(plaintext.len()))
    }

    /// The same, padded to `padded_len` bytes of plaintext.
    pub(crate) fn seal_padded(&mut self, plaintext: &[u8], padded_len: usize) -> Vec<u8> {
        let mut datagram = vec![0; padded_len + DATA_OVERHEAD_LEN];
        datagram[DATA_HEADER_LEN..][..plaintext.len()].copy_from_slice(plaintext);
        self.send.seal(&mut datagram).unwrap();
        datagram
    }

    pub(crate) fn send(&mut self, plaintext: &[u8]) {
        let datagram = self.seal(plaintext);
        self.socket.send_to(&datagram, SERVER).unwrap();
    }

    /// Sends these plaintexts, padded to one length, as one train, so that they arrive together.
    pub(crate) fn send_train(&mut self, host: &Host, plaintexts: &[Vec<u8>]) {
        let longest = plaintexts.iter().map(Vec::len).max().unwrap();
        let train = plaintexts.iter();
        let train: Vec<u8> =
            train.flat_map(|it| self.seal_padded(it, padded_len(longest))).collect();
        let segment = padded_len(longest) + DATA_OVERHEAD_LEN;
        send_train(host, &train, segment);
    }

    /// Sends an echo request through the tunnel until one is answered.
    #[track_caller]
    pub(crate) fn assert_served(&mut self) {
        wait_until(PATIENCE, "an answer to the insider", || self.echo().then_some(())).unwrap();
    }

    /// One echo through the tunnel, and whether its answer came.
    fn echo(&mut self) -> bool {
        self.echoes += 1;
        let sequence = self.echoes;
        let request = ipv4(INSIDER_V4, SERVER_V4, ICMP, &echo_request(7, sequence));
        self.send(&request);
        let mut datagram = vec![0; UDP_PAYLOAD_MAX];
        // Answers to what was sent before may come first; they are few.
        while let Ok(len) = self.socket.recv(&mut datagram) {
            let Ok(header) = DataHeader::parse(&datagram[..len]) else { continue };
            let Ok(opened) = self.receive.open(&header, &mut datagram[..len]) else { continue };
            let packet = &datagram[DATA_HEADER_LEN..][..opened.plaintext_len];
            let is_answer = packet.len() >= 28 && packet[9] == ICMP && packet[20] == 0;
            if is_answer && packet[26..28] == sequence.to_be_bytes() {
                return true;
            }
        }
        false
    }
}

/// Sends a train of datagrams of `segment` bytes to the server from a socket of `host`.
pub(crate) fn send_train(host: &Host, train: &[u8], segment: usize) {
    let any = SocketAddr::from((ATTACKER, 0));
    let socket = host.run(|| corelane::sys::udp::UdpSocket::bind(any, &UdpOptions::default()));
    let socket = socket.unwrap().unwrap();
    let target = SendTarget { remote: SERVER.into(), local: None };
    let mut batch = SendBatch::new(1);
    let segment = u16::try_from(segment).unwrap();
    batch.push(0..train.len(), &target, Some(segment), 0).unwrap();
    let report = batch.send(&socket, train, |fault| panic!("{fault:?}"));
    assert_eq!(report.bytes, train.len(), "{report:?}");
    assert_eq!(report.train_fallbacks, 0);
}

/// An inner address and a port.
pub(crate) fn at(address: impl Into<IpAddr>, port: u16) -> (IpAddr, u16) {
    (address.into(), port)
}
