//! One full login: TLS, the proof, the lease, and the handshake on UDP.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use corelane::handshake::keys::{PresharedKey, PrivateKey, PublicKey};
use corelane::handshake::{InitiatorParams, LocalIdentity, PendingInitiation, Timestamp};
use corelane::login::client::{Channel, Destination};
use corelane::login::message::{Credentials, LoginRequest, SCHEMA, Secret};
use corelane::login::tls::ClientTls;
use corelane::sys::clock;
use corelane::wire::{Features, MessageType, SessionIndex};

use super::Failure;
use super::crowd::{PASSWORD, Person};

/// How long each step may take: passwords wait for one another.
const WITHIN: Duration = Duration::from_secs(20);
/// How long an answer to an initiation may take before another is sent.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
const INITIATIONS_MAX: u32 = 10;
/// Datagrams of guests come from here on: each from an address of its own, as over the Internet.
pub(crate) const SOURCES: &str = "100.64.0.0/10";
const FIRST_SOURCE: u32 = u32::from_be_bytes([100, 64, 0, 1]);

/// What a guest shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Password,
    Token,
    /// None: it goes when TLS is set up.
    Handshake,
}

/// Logs a person in at `server`, over TCP and UDP, from the host of the calling thread, unless it
/// has no proof. The
/// connection lasts until it is dropped; the session is left to itself.
pub(crate) fn log_in(
    server: SocketAddr,
    tls: &ClientTls,
    number: usize,
    proof: Proof,
) -> Result<Channel, Failure> {
    let person = Person::new(number)?;
    let name = server.ip().to_string();
    let destination = Destination { name: &name, address: server, mark: None };
    let mut channel = Channel::connect(destination, tls, WITHIN)?;
    let credentials = match proof {
        Proof::Password => Credentials {
            user: Some(person.user.to_string()),
            password: Some(Secret::new(PASSWORD.to_owned())),
            ..Credentials::default()
        },
        Proof::Token => Credentials { token: Some(person.token), ..Credentials::default() },
        Proof::Handshake => return Ok(channel),
    };
    let request = LoginRequest {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        credentials,
        device_name: person.device,
        device_key: person.key.public().to_string(),
    };
    let granted = channel.login(&request, WITHIN)?;
    let server_key = granted.terms.server_key.parse()?;
    shake_hands(server, &server_key, person.key, number, &granted.psk)?;
    Ok(channel)
}

fn shake_hands(
    server: SocketAddr,
    server_key: &PublicKey,
    key: PrivateKey,
    number: usize,
    psk: &PresharedKey,
) -> Result<(), Failure> {
    let source = Ipv4Addr::from_bits(FIRST_SOURCE + u32::try_from(number)?);
    let socket = UdpSocket::bind((source, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    let identity = LocalIdentity::new(key);
    let params = InitiatorParams { workers: 1, features: Features::CHECKSUM_OFFLOAD };
    let mut rng = rand::rng();
    let mut cookie = None;
    for attempt in 0..INITIATIONS_MAX {
        let now = Timestamp::from_unix(clock::unix_time());
        let local = SessionIndex(attempt);
        let (mut pending, datagram) = PendingInitiation::start(
            &identity,
            server_key,
            params,
            local,
            now,
            cookie.as_ref(),
            &mut rng,
        )?;
        socket.send(&datagram)?;
        let mut answer = [0; 2048];
        let answer = match socket.recv(&mut answer) {
            Ok(len) => answer.get(..len).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        match MessageType::of(answer) {
            Some(MessageType::Response) => {
                pending.consume_response(answer, psk)?;
                return Ok(());
            }
            Some(MessageType::CookieReply) => cookie = Some(pending.consume_cookie_reply(answer)?),
            _ => return Err("an answer that is none".into()),
        }
    }
    Err(format!("user{number}: no answer to {INITIATIONS_MAX} initiations").into())
}
