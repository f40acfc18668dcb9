//! What the fuzz targets call, and `tests/corpora.rs` with every file of their corpora.

use crate::limits::{DATA_HEADER_LEN, DATA_OVERHEAD_LEN, MAC_LEN};

use super::{
    CookieReply, DataHeader, Initiation, InitiationPayload, MessageType, PATH_MESSAGE_LEN,
    PathMessage, Response, ResponsePayload, WireError,
};

/// Parses `data` as every kind of message; what parses must emit the same bytes again.
pub fn message(data: &[u8]) {
    let kind = MessageType::of(data);
    if let Ok(header) = DataHeader::parse(data) {
        let mut emitted = [0; DATA_OVERHEAD_LEN];
        if let Some(out) = emitted.first_chunk_mut() {
            header.emit(out);
        }
        assert_eq!(kind, Some(MessageType::Data));
        assert_eq!(emitted[..DATA_HEADER_LEN], data[..DATA_HEADER_LEN]);
    }
    if let Ok(initiation) = Initiation::parse(data) {
        let emitted = Initiation::emit(initiation.sender, initiation.noise);
        assert_eq!(kind, Some(MessageType::Initiation));
        assert_eq!(emitted, initiation.covered_by_mac1());
        assert_eq!(initiation.covered_by_mac2().len() + MAC_LEN, data.len());
    }
    if let Ok(response) = Response::parse(data) {
        let Response { sender, receiver, kem_ciphertext, noise, .. } = response;
        assert_eq!(kind, Some(MessageType::Response));
        let emitted = Response::emit(sender, receiver, kem_ciphertext, noise);
        assert_eq!(emitted, response.covered_by_mac1());
    }
    if let Ok(reply) = CookieReply::parse(data) {
        assert_eq!(kind, Some(MessageType::CookieReply));
        assert_eq!(reply.emit(), data);
    }
    let _: Result<InitiationPayload<'_>, WireError> = InitiationPayload::parse(data);
    let _: Result<ResponsePayload, WireError> = ResponsePayload::parse(data);
}

/// Parses `data` as a plaintext with a path message; what parses must emit the same bytes again.
pub fn path_message(data: &[u8]) {
    if let Ok(message) = PathMessage::parse(data) {
        let mut emitted = [0; PATH_MESSAGE_LEN];
        message.emit(&mut emitted);
        assert_eq!(emitted, data[..PATH_MESSAGE_LEN]);
    }
}
