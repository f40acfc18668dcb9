//! One session in memory, with a client that says what no client of ours would.

use std::io::{Cursor, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::limits::{
    CLIENT_MESSAGE_LEN_MAX, LOGIN_CLOSE_WITHIN, LOGIN_DECIDED_WITHIN, LOGIN_PINGS_BEFORE_MAX,
    LOGIN_WRITE_WITHIN, SERVER_MESSAGE_LEN_MAX,
};
use crate::login::codec;
use crate::login::frame::{FrameKind, FrameReader, frame};
use crate::login::message::{ClientMessage, RefusalCode, Secret, ServerMessage};
use crate::login::server::LoginId;
use crate::login::server::session::{Event, Phase, Session, Timeouts};
use crate::login::testing::{Site, denied, request, terms};
use crate::login::tls::{ClientTls, ServerTls, Service};
use crate::sys::clock;

const ID: LoginId = LoginId(1);

/// A session and its client, and virtual time.
struct Pair {
    now: Instant,
    session: Session,
    client: ClientConnection,
    frames: FrameReader,
    heard: Vec<ServerMessage>,
}

/// Bytes of a TLS record that say nothing: its version (RFC 8446 section 5.1).
const RECORD_VERSION: std::ops::Range<usize> = 1..3;

/// Certificates, read once for many pairs.
struct Kit {
    server: ServerTls,
    client: ClientTls,
}

impl Kit {
    fn new() -> Self {
        let site = Site::new();
        let server = ServerTls::load(&site.pki.tls_files(), Service::Login).unwrap();
        Self { server, client: site.client() }
    }

    /// A pair before its first byte.
    fn strangers(&self) -> Pair {
        let now = clock::now();
        let config = Arc::clone(&self.server.config);
        let session = Session::new(now, config, Timeouts::default()).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::clone(&self.client.config), name).unwrap();
        let frames = FrameReader::new(SERVER_MESSAGE_LEN_MAX);
        Pair { now, session, client, frames, heard: Vec::new() }
    }

    /// A pair that has got as far as the greeting.
    fn greeted(&self) -> Pair {
        let mut pair = self.strangers();
        while pair.session.phase() == Phase::Handshake {
            pair.carry_there();
            pair.carry_back();
        }
        assert_eq!(pair.session.phase(), Phase::Login);
        pair
    }

    /// A pair with a lease.
    fn logged_in(&self) -> Pair {
        let mut pair = self.greeted();
        let Some(Event::Login(login)) = pair.say(&login()) else { panic!() };
        pair.session.decide(pair.now, login.id, Ok(terms()));
        pair.carry_back();
        assert!(matches!(pair.heard[..], [ServerMessage::Lease(_)]));
        pair.heard.clear();
        pair
    }
}

impl Pair {
    /// Moves what the client has to say. Returns what the session wants.
    fn carry_there(&mut self) -> Option<Event> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        self.carry_bytes(&bytes)
    }

    fn carry_bytes(&mut self, bytes: &[u8]) -> Option<Event> {
        let mut bytes = Cursor::new(bytes);
        while (bytes.position() as usize) < bytes.get_ref().len() && self.session.wants_read() {
            self.session.read_tls(self.now, &mut bytes).unwrap();
            if let Some(event) = self.session.advance(self.now, || ID) {
                return Some(event);
            }
        }
        None
    }

    /// Moves what the session has to say.
    fn carry_back(&mut self) {
        let mut bytes = Vec::new();
        self.session.write_tls(self.now, &mut bytes).unwrap();
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            if self.client.process_new_packets().is_err() {
                return;
            }
        }
        let mut plain = Vec::new();
        let _ = self.client.reader().read_to_end(&mut plain);
        let mut plain = &plain[..];
        while let Some(frame) = self.frames.read(&mut plain).unwrap() {
            if frame.kind == FrameKind::Message {
                self.heard.push(codec::decode(&frame.body).unwrap());
            }
        }
    }

    fn say(&mut self, message: &ClientMessage) -> Option<Event> {
        let frame = codec::encode(message, CLIENT_MESSAGE_LEN_MAX).unwrap();
        self.say_bytes(&frame)
    }

    fn say_bytes(&mut self, bytes: &[u8]) -> Option<Event> {
        self.client.writer().write_all(bytes).unwrap();
        self.carry_there()
    }

    /// Lets the session's time come. Returns whether it goes on.
    fn wait(&mut self) -> bool {
        self.now = self.session.deadline();
        self.session.handle_timeout(self.now)
    }

    fn is_refused_as(&mut self, expected: RefusalCode) -> bool {
        self.carry_back();
        let is_it = |heard: &ServerMessage| match heard {
            ServerMessage::Refused { code, .. } => *code == expected,
            _ => false,
        };
        self.session.is_over() && self.heard.last().is_some_and(is_it)
    }
}

fn login() -> ClientMessage {
    ClientMessage::Login(Box::new(request("correct")))
}

/// Every message of a client, and whether it is said before the login or after.
fn messages() -> Vec<(ClientMessage, bool)> {
    vec![
        (login(), false),
        (ClientMessage::Ping { nonce: 77 }, false),
        (ClientMessage::Carrier { ticket: Secret::new("ticket".to_owned()) }, false),
        (ClientMessage::Ping { nonce: 77 }, true),
        (ClientMessage::Renew {}, true),
        (ClientMessage::Logout {}, true),
    ]
}

#[test]
fn every_message_is_understood_in_its_place_and_refused_in_any_other() {
    let kit = Kit::new();
    for (message, after_login) in messages() {
        let pair = |logged_in| if logged_in { kit.logged_in() } else { kit.greeted() };
        assert!(pair(after_login).say(&message).is_some(), "{message:?}");
        if !matches!(message, ClientMessage::Ping { .. }) {
            let mut other = pair(!after_login);
            assert!(other.say(&message).is_none(), "{message:?}");
            assert!(other.is_refused_as(RefusalCode::Malformed), "{message:?}");
        }
    }
}

/// Whatever becomes of a message with one byte changed: it is another message, or it is refused, or
/// the session waits for the rest of it until time is up.
#[test]
fn a_message_with_any_byte_flipped_is_another_one_or_refused() {
    let kit = Kit::new();
    for (message, after_login) in messages() {
        let whole = codec::encode(&message, CLIENT_MESSAGE_LEN_MAX).unwrap();
        for position in 0..whole.len() {
            for mask in [0x01, 0x80] {
                let mut bytes = whole.to_vec();
                bytes[position] ^= mask;
                let mut pair = if after_login { kit.logged_in() } else { kit.greeted() };
                let event = pair.say_bytes(&bytes);
                if event.is_some() {
                    continue;
                }
                if pair.session.phase() != Phase::Closing {
                    let expected = if after_login { Phase::LoggedIn(ID) } else { Phase::Login };
                    assert_eq!(pair.session.phase(), expected);
                    assert!((1..4).contains(&position), "it waits for {position} of {message:?}");
                    assert!(pair.wait(), "it says goodbye");
                    pair.carry_back();
                    assert!(pair.session.is_over());
                } else {
                    let is_schema = pair.is_refused_as(RefusalCode::Incompatible);
                    assert!(is_schema || pair.is_refused_as(RefusalCode::Malformed));
                }
            }
        }
    }
}

#[test]
fn a_message_cut_anywhere_is_nothing() {
    let kit = Kit::new();
    for (message, after_login) in messages() {
        let whole = codec::encode(&message, CLIENT_MESSAGE_LEN_MAX).unwrap();
        for len in 0..whole.len() {
            let mut pair = if after_login { kit.logged_in() } else { kit.greeted() };
            assert!(pair.say_bytes(&whole[..len]).is_none());
            assert!(pair.session.wants_read(), "it waits for the rest");
            // And then the client leaves.
            pair.session.read_tls(pair.now, &mut &[][..]).unwrap();
            assert!(pair.session.advance(pair.now, || ID).is_none());
            assert!(pair.session.is_over() && pair.session.has_left());
        }
    }
}

#[test]
fn a_byte_flipped_under_way_ends_the_connection_without_an_event() {
    let kit = Kit::new();
    let frame = codec::encode(&login(), CLIENT_MESSAGE_LEN_MAX).unwrap();
    let sealed_len = |pair: &mut Pair| {
        pair.client.writer().write_all(&frame).unwrap();
        let mut sealed = Vec::new();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut sealed).unwrap();
        }
        sealed
    };
    let len = sealed_len(&mut kit.greeted()).len();
    for position in 0..len {
        let mut pair = kit.greeted();
        let mut sealed = sealed_len(&mut pair);
        sealed[position] ^= 0x01;
        let event = pair.carry_bytes(&sealed);
        if position < RECORD_VERSION.end {
            // Neither does the type of a record that is encrypted; what is inside is as it was.
            continue;
        }
        assert!(event.is_none(), "byte {position}");
        if pair.session.phase() != Phase::Closing {
            assert!((3..5).contains(&position), "it waits for a longer record");
            assert!(pair.wait());
        }
        pair.carry_back();
        assert!(pair.session.is_over());
    }
}

#[test]
fn a_handshake_with_any_byte_flipped_or_cut_gets_nobody_in() {
    let kit = Kit::new();
    let mut hello = Vec::new();
    kit.strangers().client.write_tls(&mut hello).unwrap();
    for position in (0..hello.len()).filter(|position| !RECORD_VERSION.contains(position)) {
        let mut pair = kit.strangers();
        let mut bytes = Vec::new();
        pair.client.write_tls(&mut bytes).unwrap();
        bytes[position] ^= 0x01;
        assert!(pair.carry_bytes(&bytes).is_none());
        pair.carry_back();
        pair.carry_there();
        assert!(matches!(pair.session.phase(), Phase::Handshake | Phase::Closing), "{position}");

        let mut cut = kit.strangers();
        assert!(cut.carry_bytes(&bytes[..position]).is_none());
        cut.session.read_tls(cut.now, &mut &[][..]).unwrap();
        assert!(cut.session.is_over(), "it was left after {position} bytes");
    }
}

#[test]
fn oversize_deep_and_doubled_messages_are_refused() {
    let kit = Kit::new();
    let deep = format!(r#"{{"type":"ping","nonce":{}1{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let doubled = br#"{"type":"ping","nonce":1,"nonce":2}"#;
    let doubled_type = br#"{"type":"renew","type":"ping","nonce":1}"#;
    for body in
        [deep.as_bytes(), doubled, doubled_type, b"", b"null", b"[]", &[0xff; 64], b"\"\\ud800\""]
    {
        let mut pair = kit.greeted();
        assert!(pair.say_bytes(&frame(FrameKind::Message, body)).is_none());
        assert!(pair.is_refused_as(RefusalCode::Malformed), "{body:?}");
    }
    let mut pair = kit.greeted();
    assert!(pair.say_bytes(&[2, 0, 0x10, 1]).is_none(), "one byte more than is taken");
    assert!(pair.is_refused_as(RefusalCode::Malformed));
    let mut pair = kit.greeted();
    assert!(pair.say_bytes(&frame(FrameKind::Greeting, b"OK VPN-HELLO")).is_none());
    assert!(pair.is_refused_as(RefusalCode::Malformed));
}

#[test]
fn keys_that_are_no_keys_and_other_schemas_are_refused() {
    let kit = Kit::new();
    for key in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "no key at all"] {
        let mut bad = request("correct");
        bad.device_key = key.to_owned();
        let mut pair = kit.greeted();
        assert!(pair.say(&ClientMessage::Login(Box::new(bad))).is_none(), "{key}");
        assert!(pair.is_refused_as(RefusalCode::Malformed), "{key}");
    }
    let mut other = request("correct");
    other.schema += 1;
    let mut pair = kit.greeted();
    assert!(pair.say(&ClientMessage::Login(Box::new(other))).is_none());
    assert!(pair.is_refused_as(RefusalCode::Incompatible));
}

#[test]
fn a_login_that_is_said_twice_counts_once() {
    let kit = Kit::new();
    let mut pair = kit.greeted();
    let twice = [codec::encode(&login(), 4096).unwrap(), codec::encode(&login(), 4096).unwrap()];
    assert!(matches!(pair.say_bytes(&[&twice[0][..], &twice[1]].concat()), Some(Event::Login(_))));
    assert!(pair.session.advance(pair.now, || ID).is_none(), "nothing is read meanwhile");
    assert!(!pair.session.wants_read());
    pair.session.decide(pair.now, ID, Ok(terms()));
    pair.carry_back();
    assert!(pair.session.advance(pair.now, || ID).is_none());
    assert!(pair.is_refused_as(RefusalCode::Malformed));
    assert_eq!(pair.session.login(), Some(ID), "whoever drops the session is told of the login");
}

#[test]
fn whoever_is_silent_is_given_up_in_each_phase() {
    let kit = Kit::new();
    let timeouts = Timeouts::default();
    let mut silent = kit.strangers();
    assert_eq!(silent.session.deadline(), silent.now + timeouts.handshake);
    silent.now += Duration::from_secs(1);
    assert!(silent.session.handle_timeout(silent.now), "not yet");
    assert!(!silent.wait());

    let mut greeted = kit.greeted();
    assert_eq!(greeted.session.deadline(), greeted.now + timeouts.login);
    assert!(greeted.wait());
    greeted.carry_back();
    assert!(greeted.session.is_over());
    assert_eq!(greeted.session.deadline(), greeted.now + LOGIN_CLOSE_WITHIN);
    assert!(!greeted.wait(), "who does not close is not waited for");

    let mut idle = kit.logged_in();
    assert_eq!(idle.session.deadline(), idle.now + timeouts.idle);
    idle.now += timeouts.idle / 2;
    assert!(idle.say(&ClientMessage::Ping { nonce: 1 }).is_some());
    assert_eq!(idle.session.deadline(), idle.now + timeouts.idle, "a ping keeps it");
    assert!(idle.wait());
    assert!(idle.session.phase() == Phase::Closing && idle.session.login() == Some(ID));
}

#[test]
fn a_trickle_of_bytes_gains_no_time() {
    let kit = Kit::new();
    let mut pair = kit.logged_in();
    let deadline = pair.session.deadline();
    let whole = codec::encode(&ClientMessage::Ping { nonce: 1 }, 4096).unwrap();
    for byte in &whole[..whole.len() - 1] {
        pair.now += Duration::from_millis(10);
        assert!(pair.say_bytes(&[*byte]).is_none());
        assert_eq!(pair.session.deadline(), deadline);
    }
}

#[test]
fn a_desk_that_does_not_answer_is_not_waited_for() {
    let kit = Kit::new();
    let mut pair = kit.greeted();
    assert!(pair.say(&login()).is_some());
    assert_eq!(pair.session.deadline(), pair.now + LOGIN_DECIDED_WITHIN);
    assert!(pair.wait());
    assert!(pair.is_refused_as(RefusalCode::Busy));
    pair.session.decide(pair.now, ID, Ok(terms()));
    assert_eq!(pair.session.login(), None, "too late");

    let mut pair = kit.logged_in();
    assert!(pair.say(&ClientMessage::Renew {}).is_some());
    assert!(pair.wait());
    pair.carry_back();
    assert!(matches!(pair.heard[..], [ServerMessage::Refused { code: RefusalCode::Busy, .. }]));
    assert_eq!(pair.session.phase(), Phase::LoggedIn(ID), "the lease goes on");
}

#[test]
fn a_refused_renewal_leaves_the_lease_as_it_is() {
    let mut pair = Kit::new().logged_in();
    assert!(pair.say(&ClientMessage::Renew {}).is_some());
    pair.session.decide(pair.now, ID, Err(denied()));
    pair.carry_back();
    assert!(matches!(pair.heard[..], [ServerMessage::Refused { .. }]));
    assert_eq!(pair.session.phase(), Phase::LoggedIn(ID));
}

#[test]
fn who_does_not_read_is_not_written_to_for_ever() {
    let mut pair = Kit::new().logged_in();
    let Some(Event::Ping(nonce)) = pair.say(&ClientMessage::Ping { nonce: 1 }) else { panic!() };
    pair.session.pong(pair.now, nonce, 0);
    assert!(!pair.session.wants_read(), "no further question before the answer is sent");
    let full = pair.session.write_tls(pair.now, &mut Full).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(pair.session.deadline(), pair.now + LOGIN_WRITE_WITHIN);
    assert!(!pair.wait());
}

/// A socket that takes nothing.
struct Full;

impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn strangers_may_ask_for_the_load_a_few_times() {
    let mut pair = Kit::new().greeted();
    for nonce in 0..u64::from(LOGIN_PINGS_BEFORE_MAX) {
        assert!(matches!(pair.say(&ClientMessage::Ping { nonce }), Some(Event::Ping(_))));
        pair.session.pong(pair.now, nonce, 5);
        pair.carry_back();
    }
    assert!(pair.say(&ClientMessage::Ping { nonce: 99 }).is_none());
    assert!(pair.is_refused_as(RefusalCode::Malformed));
}

#[test]
fn a_session_weighs_at_most_sixteen_kibibytes_in_any_state_a_stranger_can_bring_it_to() {
    use crate::sys::allocations::bytes_kept_by;
    const SESSIONS: usize = 200;
    /// What the tables of the login thread have for it is on top.
    const BYTES_MAX: usize = 14 * 1024;
    let kit = Kit::new();
    let mut hello = Vec::new();
    kit.strangers().client.write_tls(&mut hello).unwrap();
    let half_a_message = [2, 0, 0x10, 0, b'{'];
    type Make<'a> = dyn Fn() -> Session + 'a;
    let states: [(&str, &Make<'_>); 4] = [
        ("silent", &|| kit.strangers().session),
        ("half a ClientHello", &|| {
            let mut pair = kit.strangers();
            pair.carry_bytes(&hello[..hello.len() - 1]);
            pair.session
        }),
        ("silent after TLS", &|| kit.greeted().session),
        ("half a message", &|| {
            let mut pair = kit.greeted();
            pair.say_bytes(&half_a_message);
            pair.session
        }),
    ];
    for (state, make) in states {
        let mut sessions = Vec::new();
        let bytes = bytes_kept_by(|| sessions.extend((0..SESSIONS).map(|_| Box::new(make()))));
        let each = usize::try_from(bytes).unwrap() / SESSIONS;
        println!("{state}: {each} bytes");
        assert!(each < BYTES_MAX, "{state}: {each} bytes");
    }
}
