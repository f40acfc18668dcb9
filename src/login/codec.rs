//! Messages as frames, and back.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::limits::MESSAGE_DEPTH_MAX;

use super::frame::{FrameKind, frame};

/// Why the body of a frame is no message. It repeats nothing of the body, in which there may be a
/// password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Objects and lists stand in each other too often.
    #[error("a message nests deeper than {MESSAGE_DEPTH_MAX} levels")]
    TooDeep,
    /// It is not JSON.
    #[error("a message is not JSON (column {column})")]
    NotJson {
        /// Where that shows, in bytes from 1.
        column: usize,
    },
    /// It is JSON, but not what may be said here: a type or a key is unknown, missing or doubled,
    /// or a value is of the wrong kind.
    #[error("a message has a type, a key or a value that is not known here (column {column})")]
    Unknown {
        /// Where that shows, in bytes from 1.
        column: usize,
    },
    /// It cannot be sent: it is longer than a frame may be.
    #[error("a message of {0} bytes is longer than the far end takes")]
    TooLong(usize),
}

/// Reads the body of a frame as a message.
///
/// # Errors
/// It is none.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    if depth(body) > MESSAGE_DEPTH_MAX {
        return Err(MessageError::TooDeep);
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => MessageError::Unknown { column: error.column() },
        _ => MessageError::NotJson { column: error.column() },
    })
}

/// A message as a whole frame.
///
/// # Errors
/// Its body is longer than `len_max`.
pub(super) fn encode(
    message: &impl Serialize,
    len_max: usize,
) -> Result<Zeroizing<Vec<u8>>, MessageError> {
    // A vector that grows leaves copies behind; the secrets of a message are short and fit this.
    let mut body = Zeroizing::new(Vec::with_capacity(len_max.min(4096)));
    serde_json::to_writer(&mut *body, message)
        .map_err(|error| MessageError::Unknown { column: error.column() })?;
    if body.len() > len_max {
        return Err(MessageError::TooLong(body.len()));
    }
    Ok(frame(FrameKind::Message, &body))
}

/// How deep objects and lists stand in each other, as brackets outside of strings tell. It is asked
/// before anything is parsed, since a parser calls itself for each level and keeps what it has not
/// yet found a type for.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::login::message::{ClientMessage, ServerMessage};

    fn refusal(json: &str) -> MessageError {
        decode::<ClientMessage>(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        for (json, expected) in [
            ("", 0),
            ("1", 0),
            ("{}", 1),
            ("[][]", 1),
            ("[{}]", 2),
            (r#"{"a":[1,{"b":2}]}"#, 3),
            (r#"{"[[[":"]]{{"}"#, 1),
            (r#"{"a":"\"[[["}"#, 1),
            (r#"["\\",[]]"#, 2),
            ("]]]][", 1),
        ] {
            assert_eq!(depth(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let deep = format!(r#"{{"type":"ping","nonce":{}{}}}"#, "[".repeat(4), "]".repeat(4));
        assert_eq!(refusal(&deep), MessageError::TooDeep);
        assert!(matches!(refusal(""), MessageError::NotJson { .. }));
        assert!(matches!(refusal("{\"type\":\"ping\""), MessageError::NotJson { .. }));
        assert!(matches!(refusal("{}"), MessageError::Unknown { .. }));
        assert!(matches!(refusal(r#"{"type":"ping","nonce":-1}"#), MessageError::Unknown { .. }));
        assert!(decode::<ClientMessage>(b"{\"type\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_refusal_repeats_nothing_of_the_message() {
        let json = r#"{"type":"login","schema":"hunter2"}"#;
        let error = refusal(json);
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn a_message_too_long_for_the_far_end_is_not_sent() {
        let message = ServerMessage::Refused {
            code: crate::login::message::RefusalCode::Busy,
            message: "m".repeat(100),
            retry_after_s: None,
        };
        assert!(matches!(encode(&message, 100), Err(MessageError::TooLong(141..))));
        assert!(encode(&message, 200).is_ok());
    }
}
