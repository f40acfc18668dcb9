//! A client in memory, with a server that says what no server of ours would.

use std::io::Write as _;
use std::sync::Arc;

use rustls::ServerConnection;
use rustls::pki_types::ServerName;

use crate::limits::SERVER_MESSAGE_LEN_MAX;
use crate::login::codec;
use crate::login::frame::{FrameKind, frame};
use crate::login::message::{RefusalCode, ServerMessage};
use crate::login::testing::{Site, terms};
use crate::login::tls::{ClientTls, ServerTls, Service};

use super::ChannelError;
use super::dialogue::Dialogue;

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

    /// A client whose handshake is done, and what it hears when the server says `bytes` and goes.
    fn hear(&self, bytes: &[u8]) -> Heard {
        let mut server = ServerConnection::new(Arc::clone(&self.server.config)).unwrap();
        server.set_buffer_limit(None);
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = Dialogue::new(Arc::clone(&self.client.config), name).unwrap();
        while server.is_handshaking() {
            let mut there = Vec::new();
            client.write_tls(&mut there).unwrap();
            server.read_tls(&mut &there[..]).unwrap();
            server.process_new_packets().unwrap();
            deliver(&mut server, &mut client);
        }
        server.writer().write_all(bytes).unwrap();
        deliver(&mut server, &mut client);
        let mut heard = Heard { messages: Vec::new(), error: None };
        loop {
            let was_greeted = client.is_greeted();
            match client.hear() {
                Ok(Some(message)) => heard.messages.push(message),
                Ok(None) if client.is_greeted() != was_greeted => {}
                Ok(None) => return heard,
                Err(error) => {
                    heard.error = Some(error);
                    return heard;
                }
            }
        }
    }
}

struct Heard {
    messages: Vec<ServerMessage>,
    error: Option<ChannelError>,
}

fn deliver(server: &mut ServerConnection, client: &mut Dialogue) {
    let mut back = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut back).unwrap();
    }
    let mut back = &back[..];
    while !back.is_empty() {
        client.read_tls(&mut back).unwrap();
    }
}

fn greeting() -> Vec<u8> {
    frame(FrameKind::Greeting, b"OK VPN-HELLO 0.1.0").to_vec()
}

fn messages() -> [ServerMessage; 5] {
    let message = "because".to_owned();
    let code = RefusalCode::Busy;
    [
        ServerMessage::Lease(Box::new(terms())),
        ServerMessage::Refused { code, message: message.clone(), retry_after_s: Some(3) },
        ServerMessage::Pong { nonce: 7, load_permille: 250 },
        ServerMessage::CarrierReady {},
        ServerMessage::Ended { code, message },
    ]
}

#[test]
fn every_message_is_heard() {
    let kit = Kit::new();
    let mut stream = greeting();
    for message in messages() {
        stream.extend_from_slice(&codec::encode(&message, SERVER_MESSAGE_LEN_MAX).unwrap());
    }
    let heard = kit.hear(&stream);
    assert_eq!(heard.messages.len(), messages().len());
    assert!(heard.error.is_none());
}

/// Whatever becomes of a message with one byte changed or with its end missing: another message, or
/// none, or an error that says so.
#[test]
fn a_message_with_any_byte_flipped_or_its_end_missing_is_borne() {
    let kit = Kit::new();
    for message in messages() {
        let whole = codec::encode(&message, SERVER_MESSAGE_LEN_MAX).unwrap();
        for position in 0..whole.len() {
            let mut flipped = [greeting(), whole.to_vec()].concat();
            flipped[greeting().len() + position] ^= 0x01;
            let heard = kit.hear(&flipped);
            let is_told = matches!(heard.error, None | Some(ChannelError::Nonsense(_)));
            assert!(is_told && heard.messages.len() <= 1, "{:?}", heard.error);

            let cut = kit.hear(&flipped[..greeting().len() + position]);
            assert!(cut.messages.is_empty());
        }
    }
}

#[test]
fn who_greets_otherwise_is_not_believed() {
    let kit = Kit::new();
    let pong = codec::encode(&ServerMessage::CarrierReady {}, SERVER_MESSAGE_LEN_MAX).unwrap();
    for bytes in [&frame(FrameKind::Greeting, b"OK")[..], &pong, b"HTTP/1.1 200 OK\r\n\r\n"] {
        let heard = kit.hear(bytes);
        assert!(heard.messages.is_empty());
        assert!(matches!(heard.error, Some(ChannelError::Nonsense(_))), "{:?}", heard.error);
    }
    let twice = [greeting(), greeting()].concat();
    assert!(matches!(kit.hear(&twice).error, Some(ChannelError::Nonsense(_))));
    let too_long = [greeting(), vec![2, 0xff, 0xff, 0xff]].concat();
    assert!(matches!(kit.hear(&too_long).error, Some(ChannelError::Nonsense(_))));
}
