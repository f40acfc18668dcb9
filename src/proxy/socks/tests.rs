//! Both ends of SOCKS against the texts: RFC 1928, RFC 1929, and the memo on SOCKS 4A.

use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::Index;

use super::address::AddressError;
use super::client::{Client, ClientError, ClientStep, Command};
use super::datagram::{self, DatagramError, SourceHeader};
use super::reply::Reply;
use super::server::Authentication::{self, Off, Optional, Required};
use super::server::{Event, Server, SocksError, Step};
use super::*;
use crate::limits::{DOMAIN_NAME_LEN_MAX, SOCKS_MESSAGE_LEN_MAX, SOCKS_USER_LEN_MAX};
use crate::proxy::target::{HostError, Target};

/// Where the tests' server is connected from.
const BOUND: &str = "198.51.100.1:4096";
/// RFC 1928 section 6: succeeded, from [`BOUND`].
const SUCCEEDED: &[u8] = b"\x05\0\0\x01\xc6\x33\x64\x01\x10\0";

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// All that came of a conversation with the server.
#[derive(Debug, Default, PartialEq, Eq)]
struct Talk {
    sent: Vec<u8>,
    events: Vec<String>,
    error: Option<SocksError>,
    /// What the server has not read.
    rest: Vec<u8>,
}

/// Gives the server `input` in pieces that end at `cuts`. It accepts the password "right", and does
/// whatever is asked.
fn talk(authentication: Authentication, input: &[u8], cuts: &[usize]) -> Talk {
    let mut server = Server::new(authentication);
    let mut talk = Talk::default();
    let mut begin = 0;
    for end in cuts.iter().copied().chain([input.len()]) {
        talk.rest.extend_from_slice(&input[begin..end]);
        begin = end;
        while talk.error.is_none() {
            let used = match server.advance(&talk.rest) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Answer { used, send }) => {
                    talk.sent.extend_from_slice(send);
                    used
                }
                Ok(Step::Event { used, event }) => {
                    talk.events.push(answer(&mut server, event, &mut talk.sent));
                    used
                }
                Err(error) => {
                    server.farewell(error, &mut talk.sent);
                    talk.error = Some(error);
                    0
                }
            };
            talk.rest.drain(..used);
        }
    }
    talk
}

/// Answers an event, and puts it into words.
fn answer(server: &mut Server, event: Event, out: &mut Vec<u8>) -> String {
    let words = match event {
        Event::Authenticate(Credentials { user, password }) => {
            out.extend_from_slice(server.verdict(password.expose() == "right"));
            return format!("user {user}, password {}", password.expose());
        }
        Event::Connect(target) => format!("connect {target}"),
        Event::Bind(target) => format!("bind {target}"),
        Event::Associate(from) => format!("associate {from}"),
    };
    server.accept(socket(BOUND), out);
    words
}

/// The conversation, after a check that it is the same in whatever pieces it comes.
fn talk_in_any_pieces(authentication: Authentication, input: &[u8]) -> Talk {
    let whole = talk(authentication, input, &[]);
    for cut in 0..=input.len() {
        assert_eq!(talk(authentication, input, &[cut]), whole, "cut at {cut}");
    }
    let bytewise: Vec<_> = (0..input.len()).collect();
    assert_eq!(talk(authentication, input, &bytewise), whole, "byte by byte");
    assert!(input.ends_with(&whole.rest));
    whole
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

const GREETING: &[u8] = b"\x05\x01\0";
const PASSWORD_GREETING: &[u8] = b"\x05\x01\x02";
const PASSWORD: &[u8] = b"\x01\x02me\x05right";
const CONNECT_NAME: &[u8] = b"\x05\x01\0\x03\x0bexample.com\0\x50";

#[test]
fn greetings_are_answered_by_section_3() {
    let all: Vec<u8> = (0..255).collect();
    let table: [(Authentication, &[u8], &[u8]); 10] = [
        (Off, b"\x05\x01\0", b"\x05\0"),
        (Off, b"\x05\x02\0\x02", b"\x05\0"),
        (Off, b"\x05\x01\x02", b"\x05\xff"),
        (Optional, b"\x05\x02\0\x02", b"\x05\x02"),
        (Optional, b"\x05\x01\0", b"\x05\0"),
        (Required, b"\x05\x03\0\x01\x02", b"\x05\x02"),
        (Required, b"\x05\x02\0\x01", b"\x05\xff"),
        (Required, b"\x05\0", b"\x05\xff"),
        (Off, b"\x05\0", b"\x05\xff"),
        (Off, b"\x05\x01\xff", b"\x05\xff"),
    ];
    for (authentication, greeting, sent) in table {
        let talk = talk_in_any_pieces(authentication, greeting);
        assert_eq!(talk.sent, sent, "{authentication:?} {greeting:?}");
        let refused = (sent == b"\x05\xff").then_some(SocksError::Method);
        assert_eq!(talk.error, refused);
    }
    // NMETHODS 255.
    let greeting = join(&[b"\x05\xff", &all]);
    assert_eq!(talk_in_any_pieces(Required, &greeting).sent, b"\x05\x02");
    assert_eq!(talk_in_any_pieces(Off, &greeting).sent, b"\x05\0");
}

#[test]
fn what_is_no_socks_hears_nothing() {
    for first in [0, 1, 3, 6, b'G', 255] {
        let talk = talk_in_any_pieces(Off, &[first, 1, 0]);
        assert_eq!((talk.error, talk.sent.as_slice()), (Some(SocksError::Version(first)), &[][..]));
    }
    let talk = talk_in_any_pieces(Off, b"\x05\x01\0\x04\x01\0\x01");
    assert_eq!((talk.error, talk.sent.as_slice()), (Some(SocksError::Version(4)), &b"\x05\0"[..]));
}

#[test]
fn passwords_are_read_by_rfc_1929_section_2() {
    let long = [b'x'; 255];
    let texts: [&[u8]; 3] = [b"", b"me", &long];
    for user in texts {
        for password in [b"", &b"right"[..], &long] {
            let len = |text: &[u8]| u8::try_from(text.len()).unwrap();
            let fields =
                join(&[&[1, len(user)], user, &[len(password)], password, CONNECT_NAME, b"data"]);
            let talk = talk_in_any_pieces(Required, &join(&[PASSWORD_GREETING, &fields]));
            let words = [user, b", password ", password].map(|text| str::from_utf8(text).unwrap());
            assert_eq!(talk.events[0], format!("user {}", words.concat()));
            if password == b"right" {
                assert_eq!(talk.sent, join(&[b"\x05\x02\x01\0", SUCCEEDED]));
                assert_eq!(talk.events[1], "connect example.com:80");
                assert_eq!(talk.rest, b"data");
            } else {
                // Nothing is done for who is not known, whatever was sent behind the password.
                assert_eq!(talk.sent, b"\x05\x02\x01\x01");
                assert_eq!(talk.events.len(), 1);
            }
        }
    }
}

#[test]
fn a_bad_password_message_is_refused() {
    let table: [(&[u8], SocksError); 4] = [
        (b"\0\x01u\x01p", SocksError::PasswordVersion(0)),
        (b"\x05\x01u\x01p", SocksError::PasswordVersion(5)),
        (b"\x01\x01\xff\x01p", SocksError::NotText),
        (b"\x01\x01u\x01\xff", SocksError::NotText),
    ];
    for (message, error) in table {
        let talk = talk_in_any_pieces(Required, &join(&[PASSWORD_GREETING, message]));
        assert_eq!((talk.error, talk.sent.as_slice()), (Some(error), &b"\x05\x02\x01\x01"[..]));
    }
}

#[test]
fn requests_are_read_by_section_4() {
    let long = "a".repeat(255);
    let long_request = join(&[b"\x05\x01\0\x03\xff", long.as_bytes(), b"\0\x50"]);
    let long_words = format!("connect {long}:80");
    let table: [(&[u8], &str); 12] = [
        (CONNECT_NAME, "connect example.com:80"),
        (b"\x05\x01\0\x03\x0cexample.com.\xff\xff", "connect example.com.:65535"),
        (b"\x05\x01\0\x03\x0eXN--BCHER-KVA.\0\x50", "connect xn--bcher-kva.:80"),
        (b"\x05\x01\0\x03\x09127.0.0.1\0\x50", "connect 127.0.0.1:80"),
        (b"\x05\x01\0\x03\x03::1\0\x50", "connect [::1]:80"),
        (b"\x05\x01\0\x01\xc0\0\x02\x01\x01\xbb", "connect 192.0.2.1:443"),
        (
            b"\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50",
            "connect [2001:db8::1]:80",
        ),
        (b"\x05\x01\0\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01\0\x50", "connect 127.0.0.1:80"),
        (b"\x05\x02\0\x01\xc0\0\x02\x01\0\0", "bind 192.0.2.1:0"),
        (b"\x05\x02\0\x03\x0bexample.com\0\x15", "bind example.com:21"),
        (b"\x05\x03\0\x01\0\0\0\0\0\0", "associate 0.0.0.0:0"),
        (b"\x05\x03\0\x03\x070.0.0.0\0\x07", "associate 0.0.0.0:7"),
    ];
    for (request, words) in table.into_iter().chain([(&long_request[..], &long_words[..])]) {
        let talk = talk_in_any_pieces(Off, &join(&[GREETING, request, b"\x05\x01\0 payload"]));
        assert_eq!(talk.events, [words]);
        assert_eq!(talk.sent, join(&[b"\x05\0", SUCCEEDED]));
        assert_eq!(talk.rest, b"\x05\x01\0 payload", "{words}: pipelined, and untouched");
    }
}

#[test]
fn bad_requests_have_the_codes_of_section_6() {
    let host = |error| SocksError::Address(AddressError::Host(error));
    let kind = |kind| SocksError::Address(AddressError::Type(kind));
    let table: [(&[u8], SocksError, u8); 16] = [
        (b"\x05\0\0\x01\0\0\0\0\0\0", SocksError::Command(0), 7),
        (b"\x05\x04\0\x01\0\0\0\0\0\0", SocksError::Command(4), 7),
        (b"\x05\xff\0\x01\0\0\0\0\0\0", SocksError::Command(255), 7),
        (b"\x05\x01\x01\x01\xc0\0\x02\x01\0\x50", SocksError::Reserved(1), 1),
        (b"\x05\x01\0\0\xc0\0\x02\x01\0\x50", kind(0), 8),
        (b"\x05\x01\0\x02\xc0\0\x02\x01\0\x50", kind(2), 8),
        (b"\x05\x01\0\x05\xc0\0\x02\x01\0\x50", kind(5), 8),
        (b"\x05\x01\0\xff", kind(255), 8),
        (b"\x05\x01\0\x03\0\0\x50", host(HostError::Empty), 4),
        (b"\x05\x01\0\x03\x03a\0b\0\x50", host(HostError::Byte(0)), 4),
        (b"\x05\x01\0\x03\x03a b\0\x50", host(HostError::Byte(b' ')), 4),
        (b"\x05\x01\0\x03\x04a..b\0\x50", host(HostError::EmptyLabel), 4),
        (b"\x05\x01\0\x03\x06b\xc3\xbccher\0\x50", host(HostError::Byte(0xc3)), 4),
        (b"\x05\x01\0\x03\x05127.1\0\x50", host(HostError::OddAddress), 4),
        (b"\x05\x01\0\x01\xc0\0\x02\x01\0\0", SocksError::PortZero, 1),
        (b"\x05\x01\0\x03\x01a\0\0", SocksError::PortZero, 1),
    ];
    for (request, error, code) in table {
        let talk = talk_in_any_pieces(Off, &join(&[GREETING, request]));
        assert_eq!((talk.error, &talk.events), (Some(error), &Vec::new()), "{request:?}");
        assert_eq!(talk.sent, [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0], "{request:?}");
    }
}

#[test]
fn a_name_to_send_from_is_an_address_that_is_not_known() {
    for name in [&b"\x010"[..], b"\x01a", b"\x00", b"\x03a\0b"] {
        let bytes = [GREETING, b"\x05\x03\0\x03", name, b"\x12\x34"].concat();
        assert_eq!(talk_in_any_pieces(Off, &bytes).events, ["associate 0.0.0.0:4660"], "{name:?}");
    }
}

#[test]
fn refusals_are_worded_by_version() {
    for code in 1..=8 {
        let reply = Reply::of(code).unwrap();
        let (mut five, mut four) = (Vec::new(), Vec::new());
        let mut server = Server::new(Off);
        server.refuse(reply, &mut five);
        assert_eq!(five, [5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        let mut server = Server::new(Off);
        server.advance(b"\x04\x01\0\x50\xc0\0\x02\x01\0").unwrap();
        server.refuse(reply, &mut four);
        assert_eq!(four, [0, 91, 0, 0, 0, 0, 0, 0]);
        assert!(matches!(server.advance(b"more"), Ok(Step::NeedMore)), "it is over");
    }
    let mut six = Vec::new();
    Server::new(Off).accept(socket("[2001:db8::1]:80"), &mut six);
    assert_eq!(six, b"\x05\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50");
}

#[test]
fn socks_4_and_4a() {
    let user = [b'u'; SOCKS_USER_LEN_MAX];
    let name = [b'n'; DOMAIN_NAME_LEN_MAX];
    let longest = join(&[b"\x04\x01\0\x50\0\0\0\x01", &user, b"\0", &name, b"\0"]);
    assert_eq!(longest.len(), SOCKS_MESSAGE_LEN_MAX);
    let longest_words = format!("connect {}:80", "n".repeat(DOMAIN_NAME_LEN_MAX));
    let table: [(&[u8], &str); 6] = [
        (b"\x04\x01\0\x50\xc0\0\x02\x01\0", "connect 192.0.2.1:80"),
        (b"\x04\x01\0\x50\xc0\0\x02\x01me\0", "connect 192.0.2.1:80"),
        (b"\x04\x01\0\x50\0\0\0\x01me\0example.com\0", "connect example.com:80"),
        (b"\x04\x01\0\x50\0\0\0\xff\0::1\0", "connect [::1]:80"),
        (b"\x04\x01\0\x50\0\0\0\0\0", "connect 0.0.0.0:80"),
        (&longest, &longest_words),
    ];
    for authentication in [Off, Optional] {
        for (request, words) in table {
            let talk = talk_in_any_pieces(authentication, &join(&[request, b"data"]));
            assert_eq!(talk.events, [words]);
            assert_eq!(talk.sent, b"\0\x5a\x10\0\xc6\x33\x64\x01", "{words}");
            assert_eq!(talk.rest, b"data");
        }
    }
}

#[test]
fn bad_requests_of_socks_4_are_rejected() {
    let host = |error| SocksError::Address(AddressError::Host(error));
    let user = join(&[b"\x04\x01\0\x50\xc0\0\x02\x01", &[b'u'; SOCKS_USER_LEN_MAX + 1]]);
    let name = join(&[b"\x04\x01\0\x50\0\0\0\x01\0", &[b'n'; DOMAIN_NAME_LEN_MAX + 1]]);
    let too_long = HostError::TooLong(DOMAIN_NAME_LEN_MAX + 1);
    let table: [(Authentication, &[u8], SocksError); 8] = [
        (Required, b"\x04\x01\0\x50\xc0\0\x02\x01\0", SocksError::NoPassword),
        (Off, b"\x04\x02\0\x50\xc0\0\x02\x01\0", SocksError::Command(2)),
        (Off, b"\x04\0\0\x50\xc0\0\x02\x01\0", SocksError::Command(0)),
        (Off, b"\x04\x01\0\0\xc0\0\x02\x01\0", SocksError::PortZero),
        (Off, b"\x04\x01\0\x50\0\0\0\x01\0\0", host(HostError::Empty)),
        (Off, b"\x04\x01\0\x50\0\0\0\x01\0a b\0", host(HostError::Byte(b' '))),
        (Off, &user, SocksError::UserTooLong),
        (Off, &name, host(too_long)),
    ];
    for (authentication, request, error) in table {
        let talk = talk_in_any_pieces(authentication, request);
        assert_eq!((talk.error, talk.events.len()), (Some(error), 0), "{request:?}");
        assert_eq!(talk.sent, [0, 91, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn datagrams_are_read_by_section_7() {
    let address = |error| DatagramError::Address(error);
    let host = |error| address(AddressError::Host(error));
    let taken: [(&[u8], &str, &[u8]); 4] = [
        (b"\0\0\0\x01\xc0\0\x02\x01\0\x35hello", "192.0.2.1:53", b"hello"),
        (b"\0\0\0\x01\xc0\0\x02\x01\0\x35", "192.0.2.1:53", b""),
        (b"\0\0\0\x03\x01a\0\x35\0\0\0\x01", "a:53", b"\0\0\0\x01"),
        (b"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x35x", "[2001:db8::1]:53", b"x"),
    ];
    for (bytes, to, payload) in taken {
        assert_eq!(datagram::parse(bytes), Ok((target(to), payload)));
        let mut header = Vec::new();
        datagram::write(&target(to), &mut header);
        assert_eq!(join(&[&header, payload]), bytes);
        for len in 0..header.len() {
            assert_eq!(datagram::parse(&bytes[..len]), Err(DatagramError::Short), "{len}");
        }
    }
    let refused: [(&[u8], DatagramError); 8] = [
        (b"\0\x01\0\x01\xc0\0\x02\x01\0\x35", DatagramError::Reserved),
        (b"\x01\0\0\x01\xc0\0\x02\x01\0\x35", DatagramError::Reserved),
        (b"\0\0\x01\x01\xc0\0\x02\x01\0\x35", DatagramError::Fragment(1)),
        (b"\0\0\x80\x01\xc0\0\x02\x01\0\x35", DatagramError::Fragment(128)),
        (b"\0\0\0\x02\xc0\0\x02\x01\0\x35", address(AddressError::Type(2))),
        (b"\0\0\0\x03\0\0\x35", host(HostError::Empty)),
        (b"\0\0\0\x03\x02a\0\0\x35", host(HostError::Byte(0))),
        (b"\0\0\0\x01\xc0\0\x02\x01\0\0", DatagramError::PortZero),
    ];
    for (bytes, error) in refused {
        assert_eq!(datagram::parse(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn a_source_header_reads_as_its_source() {
    for source in ["192.0.2.1:53", "[2001:db8::1]:65535"] {
        let bytes = join(&[&SourceHeader::of(socket(source)), b"payload"]);
        assert_eq!(datagram::parse(&bytes), Ok((target(source), &b"payload"[..])));
    }
    let mapped = SourceHeader::of(socket("[::ffff:192.0.2.1]:53"));
    assert_eq!(mapped, SourceHeader::of(socket("192.0.2.1:53")));
}

#[test]
fn a_password_is_not_printed() {
    let credentials = Credentials { user: "me".into(), password: Secret::new("right".into()) };
    let event = Event::Authenticate(credentials.clone());
    let client = Client::new(Command::Connect, target("a:1"), Some(credentials)).unwrap();
    for printed in [format!("{event:?}"), format!("{client:?}")] {
        assert!(printed.contains("me") && !printed.contains("right"), "{printed}");
    }
}

/// Lets a client and the server talk, with at most `piece` bytes at once from the server; returns
/// what the server sees, and what the client says at the end.
fn both(
    mut client: Client,
    authentication: Authentication,
    is_eager: bool,
    piece: usize,
) -> (Talk, Result<Vec<String>, ClientError>) {
    let mut server = Server::new(authentication);
    let mut seen = Talk { rest: client.open(is_eager).to_vec(), ..Talk::default() };
    let (mut on_the_way, mut at_hand, mut done) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let moved = match server.advance(&seen.rest) {
            Ok(Step::NeedMore) => 0,
            Ok(Step::Answer { used, send }) => {
                on_the_way.extend_from_slice(send);
                used
            }
            Ok(Step::Event { used, event }) => {
                seen.events.push(answer(&mut server, event, &mut on_the_way));
                used
            }
            Err(error) if seen.error.is_none() => {
                server.farewell(error, &mut on_the_way);
                seen.error = Some(error);
                0
            }
            Err(_) => 0,
        };
        seen.rest.drain(..moved);
        at_hand.extend(on_the_way.drain(..piece.min(on_the_way.len())));
        let used = match client.advance(&at_hand) {
            Ok(ClientStep::NeedMore) if moved == 0 && on_the_way.is_empty() => break,
            Ok(ClientStep::NeedMore) => 0,
            Ok(ClientStep::Send { used, send }) => {
                seen.rest.extend_from_slice(&send);
                used
            }
            Ok(ClientStep::Done { used, bound }) => {
                done.push(bound.to_string());
                used
            }
            Err(error) => return (seen, Err(error)),
        };
        at_hand.drain(..used);
    }
    (seen, Ok(done))
}

fn credentials(password: &str) -> Option<Credentials> {
    Some(Credentials { user: "me".into(), password: Secret::new(password.into()) })
}

#[test]
fn the_client_gets_by_whatever_the_server_wants() {
    let table = [
        // Credentials, eager, the server's wish; the outcome.
        (None, false, Off, Ok(())),
        (None, true, Off, Ok(())),
        (None, true, Optional, Ok(())),
        (None, false, Required, Err(ClientError::MethodRefused)),
        (credentials("right"), false, Off, Ok(())),
        (credentials("right"), false, Optional, Ok(())),
        (credentials("right"), false, Required, Ok(())),
        (credentials("right"), true, Required, Ok(())),
        (credentials("right"), true, Off, Err(ClientError::MethodRefused)),
        (credentials("wrong"), false, Required, Err(ClientError::PasswordRefused)),
        (credentials("wrong"), true, Required, Err(ClientError::PasswordRefused)),
    ];
    for (number, (credentials, is_eager, wish, outcome)) in table.into_iter().enumerate() {
        for piece in [1, 2, 3, 1000] {
            let to = target("example.com:443");
            let client = Client::new(Command::Connect, to, credentials.clone()).unwrap();
            let (seen, heard) = both(client, wish, is_eager, piece);
            assert_eq!(heard, outcome.map(|()| vec![BOUND.to_owned()]), "row {number}");
            let connected = seen.events.last().is_some_and(|e| e == "connect example.com:443");
            assert_eq!(connected, outcome.is_ok(), "row {number}: {seen:?}");
        }
    }
}

#[test]
fn the_longest_credentials_pass_and_longer_ones_do_not() {
    let with = |user: usize, password: usize| {
        let password = Secret::new("p".repeat(password));
        let credentials = Credentials { user: "u".repeat(user), password };
        Client::new(Command::Connect, target("a:1"), Some(credentials))
    };
    for (user, password) in [(0, 0), (255, 255)] {
        let (seen, _) = both(with(user, password).unwrap(), Required, true, 1);
        let words = format!("user {}, password {}", "u".repeat(user), "p".repeat(password));
        assert_eq!(seen.events, [words]);
    }
    assert_eq!(with(256, 0).err(), Some(ClientError::TooLong("user")));
    assert_eq!(with(0, 256).err(), Some(ClientError::TooLong("password")));
}

#[test]
fn a_client_that_has_sent_its_password_takes_no_other_method() {
    let mut client = Client::new(Command::Connect, target("a:1"), credentials("right")).unwrap();
    client.open(true);
    assert_eq!(client.advance(b"\x05\0"), Err(ClientError::MethodNotOffered(0)));
}

/// What a client of `command` that offers nothing makes of a proxy's answers, byte by byte.
fn client_hears(command: Command, answers: &[u8]) -> Result<(Vec<String>, usize), ClientError> {
    let mut client = Client::new(command, target("a:1"), None).unwrap();
    client.open(false);
    let (mut done, mut at) = (Vec::new(), 0);
    for end in 0..=answers.len() {
        match client.advance(&answers[at..end])? {
            ClientStep::NeedMore => {}
            ClientStep::Send { used, .. } => at += used,
            ClientStep::Done { used, bound } => {
                at += used;
                done.push(bound.to_string());
            }
        }
    }
    Ok((done, answers.len() - at))
}

#[test]
fn a_proxys_answers_are_read_by_section_6() {
    let done = |answers: &[&str], rest: usize| {
        Ok((answers.iter().map(|answer| String::from(*answer)).collect(), rest))
    };
    let connect = |answers: &[u8]| client_hears(Command::Connect, answers);
    let two = join(&[b"\x05\0", SUCCEEDED, SUCCEEDED]);
    assert_eq!(connect(&two), done(&[BOUND], SUCCEEDED.len()), "the second is the far end's");
    assert_eq!(client_hears(Command::Bind, &two), done(&[BOUND, BOUND], 0));
    assert_eq!(client_hears(Command::Associate, &two[..12]), done(&[BOUND], 0));
    assert_eq!(connect(b"\x05\0\x05\0\x07\x03\x01a\0\x01"), done(&["a:1"], 0), "RSV is ignored");
    let bad: [(&[u8], ClientError, Reply); 9] = [
        (b"\x04", ClientError::Version(4), Reply::GeneralFailure),
        (b"HTTP", ClientError::Version(b'H'), Reply::GeneralFailure),
        (b"\x05\xff", ClientError::MethodRefused, Reply::GeneralFailure),
        (b"\x05\x02", ClientError::MethodNotOffered(2), Reply::GeneralFailure),
        (b"\x05\x01", ClientError::MethodNotOffered(1), Reply::GeneralFailure),
        (b"\x05\0\x04", ClientError::Version(4), Reply::GeneralFailure),
        (b"\x05\0\x05\x05", ClientError::Refused(5), Reply::ConnectionRefused),
        (b"\x05\0\x05\x09", ClientError::Refused(9), Reply::GeneralFailure),
        (b"\x05\0\x05\0\0\x09", ClientError::Address(AddressError::Type(9)), Reply::GeneralFailure),
    ];
    for (answers, error, reply) in bad {
        assert_eq!(connect(answers), Err(error), "{answers:?}");
        assert_eq!(error.reply(), reply);
    }
}

fn any_authentication() -> impl Strategy<Value = Authentication> {
    prop_oneof![Just(Off), Just(Optional), Just(Required)]
}

/// Messages that begin as they should, so that a test gets beyond the first byte.
fn any_input() -> impl Strategy<Value = Vec<u8>> {
    let starts = prop_oneof![
        Just(Vec::new()),
        Just(GREETING.to_vec()),
        Just(join(&[GREETING, b"\x05\x01\0"])),
        Just(join(&[PASSWORD_GREETING, b"\x01"])),
        Just(join(&[PASSWORD_GREETING, PASSWORD, CONNECT_NAME])),
        Just(b"\x04\x01\0\x50\0\0\0\x01".to_vec()),
    ];
    (starts, proptest::collection::vec(any::<u8>(), 0..600)).prop_map(|(mut start, rest)| {
        start.extend(rest);
        start
    })
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        authentication in any_authentication(),
        input in any_input(),
        cuts in proptest::collection::vec(any::<Index>(), 0..8),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = talk(authentication, &input, &[]);
        prop_assert!(input.ends_with(&whole.rest));
        prop_assert_eq!(talk(authentication, &input, &cuts), whole);
    }

    #[test]
    fn nobody_waits_for_more_than_the_longest_message(
        authentication in any_authentication(),
        input in any_input(),
    ) {
        let talk = talk(authentication, &input, &[]);
        let is_asked = talk.events.iter().any(|event| !event.starts_with("user"));
        let is_refused = talk.sent.ends_with(b"\x01\x01") || talk.error.is_some();
        prop_assert!(is_asked || is_refused || talk.rest.len() < SOCKS_MESSAGE_LEN_MAX);
    }

    #[test]
    fn a_request_that_is_written_reads_the_same(
        host in prop_oneof!["[a-z0-9-]{1,40}(\\.[a-z]{2,9}){0,3}\\.?", "[0-9]{1,3}(\\.0){3}"],
        port in 1..=u16::MAX,
        user in "[a-zà-ž ]{0,100}",
        password in "\\PC{0,60}",
        is_eager in any::<bool>(),
        piece in 1..20_usize,
    ) {
        prop_assume!(format!("{host}:{port}").parse::<Target>().is_ok());
        let to = target(&format!("{host}:{port}"));
        let password = Secret::new(password);
        let login = format!("user {user}, password {}", password.expose());
        let credentials = Some(Credentials { user, password });
        let client = Client::new(Command::Connect, to.clone(), credentials).unwrap();
        let (seen, _) = both(client, Required, is_eager, piece);
        prop_assert_eq!(&seen.events[0], &login);
        let mut header = Vec::new();
        datagram::write(&to, &mut header);
        prop_assert_eq!(datagram::parse(&header), Ok((to, &[][..])));
    }

    #[test]
    fn datagrams_that_are_read_are_written_the_same(bytes in any::<Vec<u8>>(), kind in 1..5_u8) {
        let bytes = [&[0, 0, 0, kind], &bytes[..]].concat();
        if let Ok((to, payload)) = datagram::parse(&bytes) {
            let mut again = Vec::new();
            datagram::write(&to, &mut again);
            again.extend_from_slice(payload);
            prop_assert_eq!(datagram::parse(&again), Ok((to, payload)));
        }
    }
}
