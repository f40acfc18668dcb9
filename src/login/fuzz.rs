//! What fuzz targets call, and `tests/corpora.rs` with every file of their corpora.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::{CLIENT_MESSAGE_LEN_MAX, SERVER_MESSAGE_LEN_MAX};

use super::codec;
use super::frame::{FrameKind, FrameReader};
use super::invite::Invite;
use super::message::{ClientMessage, ServerMessage};

/// Reads `data` as a stream of frames from either end, whole and byte by byte. What is a message is
/// one again when it is said.
pub fn control_frames(data: &[u8]) {
    either_end::<ClientMessage>(data, CLIENT_MESSAGE_LEN_MAX);
    either_end::<ServerMessage>(data, SERVER_MESSAGE_LEN_MAX);
}

fn either_end<M: Serialize + DeserializeOwned>(data: &[u8], len_max: usize) {
    let whole = bodies(data.chunks(data.len().max(1)), len_max);
    assert_eq!(whole, bodies(data.chunks(1), len_max));
    for body in whole {
        let Ok(message) = codec::decode::<M>(&body) else { continue };
        // Escapes may make it longer than it came.
        let Ok(frame) = codec::encode(&message, 6 * len_max) else { continue };
        let again = bodies(std::iter::once(&frame[..]), 6 * len_max);
        assert!(matches!(&again[..], [body] if codec::decode::<M>(body).is_ok()));
    }
}

/// The bodies of the messages in a stream that arrives in pieces, up to what is no frame.
fn bodies<'a>(pieces: impl Iterator<Item = &'a [u8]>, len_max: usize) -> Vec<Vec<u8>> {
    let mut reader = FrameReader::new(len_max);
    let mut bodies = Vec::new();
    for mut piece in pieces {
        loop {
            match reader.read(&mut piece) {
                Ok(Some(frame)) if frame.kind == FrameKind::Message => {
                    bodies.push(frame.body.to_vec());
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return bodies,
            }
        }
    }
    bodies
}

/// Reads `data` as an invite, as somebody types it. What is one is the same one when it is written
/// again.
pub fn invite(data: &[u8]) {
    let Ok(invite) = String::from_utf8_lossy(data).parse::<Invite>() else { return };
    let text = invite.to_text();
    let again = text.expose().parse::<Invite>();
    assert!(again.is_ok_and(|again| again.to_text().expose() == text.expose()));
}
