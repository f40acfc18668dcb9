use proptest::prelude::*;

use crate::limits::{
    DATA_HEADER_LEN, DATA_OVERHEAD_LEN, KEM_CIPHERTEXT_LEN, KEM_PUBLIC_KEY_LEN, MAC_LEN,
};

use super::*;

/// The figures that `docs/protocol.md` states.
#[test]
fn messages_have_the_documented_lengths() {
    assert_eq!(INITIATION_PAYLOAD_LEN, 1201);
    assert_eq!(INITIATION_NOISE_LEN, 1297);
    assert_eq!(INITIATION_LEN, 1337);
    assert_eq!(RESPONSE_PAYLOAD_LEN, 6);
    assert_eq!(RESPONSE_NOISE_LEN, 54);
    assert_eq!(RESPONSE_LEN, 1186);
    assert_eq!(COOKIE_REPLY_LEN, 72);
    assert_eq!(DATA_OVERHEAD_LEN, 32);
}

#[test]
fn the_first_byte_names_the_type() {
    for first in 0..=u8::MAX {
        let expected = match first {
            1 => Some(MessageType::Initiation),
            2 => Some(MessageType::Response),
            3 => Some(MessageType::CookieReply),
            4 => Some(MessageType::Data),
            _ => None,
        };
        assert_eq!(MessageType::of(&[first, 9, 9]), expected);
    }
    assert_eq!(MessageType::of(&[]), None);
}

/// An IP packet's first byte, with any flags, is an IP packet's; a path message's is neither.
#[test]
fn plaintexts_are_told_apart_whatever_their_flags() {
    for flags in [0, FLAG_PARTIAL_CHECKSUM, FLAG_CONTINUES_RUN, FLAGS] {
        for low in 0..16 {
            assert_eq!(classify(0x40 | low | flags), Inner::V4);
            assert_eq!(classify(0x60 | low | flags), Inner::V6);
        }
    }
    for first in (0..=u8::MAX).filter(|first| first & 0x40 == 0) {
        assert_eq!(classify(first), Inner::PathMessage);
    }
}

#[test]
fn a_data_header_lies_where_the_layout_says() {
    let header =
        DataHeader { lane: 0x7f, receiver: SessionIndex(0x0102_0304), counter: 0x0506_0708_090a };
    let mut datagram = [0xff; DATA_OVERHEAD_LEN];
    header.emit(datagram.first_chunk_mut().unwrap());
    let expected = [4, 0x7f, 0, 0, 1, 2, 3, 4, 0, 0, 5, 6, 7, 8, 9, 0x0a];
    assert_eq!(datagram[..DATA_HEADER_LEN], expected);
    assert_eq!(DataHeader::parse(&datagram), Ok(header));

    let short = &datagram[..DATA_OVERHEAD_LEN - 1];
    assert_eq!(DataHeader::parse(short), Err(WireError::Truncated { need: 32, have: 31 }));
    for (position, error) in [
        (0, WireError::UnknownType(5)),
        (2, WireError::ReservedNotZero),
        (3, WireError::ReservedNotZero),
    ] {
        let mut changed = datagram;
        changed[position] += if position == 0 { 1 } else { 0x80 };
        assert_eq!(DataHeader::parse(&changed), Err(error));
    }
}

#[test]
fn an_initiation_lies_where_the_layout_says() {
    let noise = std::array::from_fn(|i| i as u8);
    let mut datagram = Initiation::emit(SessionIndex(0xa0b0_c0d0), &noise);
    datagram.extend([0x11; MAC_LEN]);
    datagram.extend([0x22; MAC_LEN]);
    assert_eq!(datagram[..8], [1, 1, 0, 0, 0xa0, 0xb0, 0xc0, 0xd0]);

    let initiation = Initiation::parse(&datagram).unwrap();
    assert_eq!(initiation.sender, SessionIndex(0xa0b0_c0d0));
    assert_eq!((initiation.noise, initiation.mac1), (&noise, &[0x11; MAC_LEN]));
    assert_eq!(initiation.mac2, &[0x22; MAC_LEN]);
    assert_eq!(initiation.covered_by_mac1(), &datagram[..INITIATION_LEN - 32]);
    assert_eq!(initiation.covered_by_mac2(), &datagram[..INITIATION_LEN - 16]);

    let refused = |position: usize, value: u8| {
        let mut changed = datagram.clone();
        changed[position] = value;
        Initiation::parse(&changed).unwrap_err()
    };
    assert_eq!(refused(0, 2), WireError::UnknownType(2));
    assert_eq!(refused(1, 2), WireError::UnknownVersion(2));
    assert_eq!(refused(2, 1), WireError::ReservedNotZero);
    assert_eq!(refused(3, 1), WireError::ReservedNotZero);
}

#[test]
fn a_response_lies_where_the_layout_says() {
    let noise = [0x33; RESPONSE_NOISE_LEN];
    let kem = [0x44; KEM_CIPHERTEXT_LEN];
    let mut datagram = Response::emit(SessionIndex(1), SessionIndex(2), &kem, &noise);
    datagram.extend([0x11; MAC_LEN]);
    datagram.extend([0; MAC_LEN]);
    assert_eq!(datagram[..12], [2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);

    let response = Response::parse(&datagram).unwrap();
    assert_eq!((response.sender, response.receiver), (SessionIndex(1), SessionIndex(2)));
    assert_eq!((response.kem_ciphertext, response.noise), (&kem, &noise));
    assert_eq!(response.covered_by_mac1(), &datagram[..RESPONSE_LEN - 32]);
    for reserved in 1..4 {
        let mut changed = datagram.clone();
        changed[reserved] = 1;
        assert_eq!(Response::parse(&changed).unwrap_err(), WireError::ReservedNotZero);
    }
}

/// A parser of a whole message, reduced to whether it takes the bytes.
type Parser = fn(&[u8]) -> Result<(), WireError>;

#[test]
fn messages_of_fixed_length_take_no_other_length() {
    let parsers: [(usize, u8, Parser); 3] = [
        (INITIATION_LEN, 1, |bytes| Initiation::parse(bytes).map(drop)),
        (RESPONSE_LEN, 2, |bytes| Response::parse(bytes).map(drop)),
        (COOKIE_REPLY_LEN, 3, |bytes| CookieReply::parse(bytes).map(drop)),
    ];
    for (len, kind, parse) in parsers {
        let mut datagram = vec![0; len + 1];
        datagram[0] = kind;
        datagram[1] = u8::from(kind == 1);
        assert_eq!(parse(&datagram[..len]), Ok(()));
        assert_eq!(parse(&datagram), Err(WireError::TooLong { need: len, have: len + 1 }));
        for have in 0..len {
            let expected = Err(WireError::Truncated { need: len, have });
            assert_eq!(parse(&datagram[..have]), expected);
        }
    }
}

#[test]
fn path_messages_lie_where_the_layout_says() {
    let token = 0x0102_0304_0506_0708;
    let table = [
        (PathMessage::Probe { path: 3, token }, [1, 3, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (
            PathMessage::ProbeAck { path: 3, token, plaintext_len: 1408 },
            [2, 3, 5, 0x80, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        (PathMessage::Close { reason: 9 }, [3, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (
            PathMessage::Inquiry { path: 3, token: 0x0102_0304_0506_0708 },
            [4, 3, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        (
            PathMessage::InquiryAnswer { path: 3, token: 0x0102_0304_0506_0708 },
            [5, 3, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
    ];
    for (message, bytes) in table {
        let mut emitted = [0xff; PATH_MESSAGE_LEN];
        message.emit(&mut emitted);
        assert_eq!(emitted, bytes);
        assert_eq!(classify(emitted[0]), Inner::PathMessage);
        let mut padded = emitted.to_vec();
        padded.resize(1408, 0);
        assert_eq!(PathMessage::parse(&padded), Ok(message));
        let beside = [PathMessage::is_beside_the_way(&padded), matches!(bytes[0], 4 | 5)];
        assert_eq!(beside[0], beside[1]);
    }
}

/// (first 16 bytes, error)
#[test]
fn malformed_path_messages_are_refused() {
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = [0; PATH_MESSAGE_LEN];
        for (position, value) in changes {
            bytes[*position] = *value;
        }
        PathMessage::parse(&bytes)
    };
    /*  1 */
    assert_eq!(with(&[]), Err(WireError::UnknownType(0)));
    /*  2 */
    assert_eq!(with(&[(0, 6)]), Err(WireError::UnknownType(6)));
    /*  3 */
    assert_eq!(with(&[(0, 0x81)]), Err(WireError::UnknownType(0x81)));
    /*  4 */
    assert_eq!(with(&[(0, 1), (3, 1)]), Err(WireError::ReservedNotZero));
    /*  5 */
    assert_eq!(with(&[(0, 1), (4, 1)]), Err(WireError::ReservedNotZero));
    /*  6 */
    assert_eq!(with(&[(0, 2), (7, 1)]), Err(WireError::ReservedNotZero));
    /*  7 */
    assert_eq!(with(&[(0, 3), (3, 1)]), Err(WireError::ReservedNotZero));
    /*  8 */
    assert_eq!(with(&[(0, 3), (15, 1)]), Err(WireError::ReservedNotZero));
    assert_eq!(with(&[(0, 4), (2, 1)]), Err(WireError::ReservedNotZero));
    assert_eq!(with(&[(0, 5), (3, 1)]), Err(WireError::ReservedNotZero));
    let short = PathMessage::parse(&[1; 15]);
    /*  9 */
    assert_eq!(short, Err(WireError::Truncated { need: 16, have: 15 }));
}

#[test]
fn features_survive_the_wire_and_unknown_ones_are_dropped() {
    let known = Features::CHECKSUM_OFFLOAD;
    assert_eq!(Features::from_bits_truncate(u32::MAX), Features::all());
    assert_eq!(Features::from_bits_truncate(known.bits()), known);
    assert_eq!(known.names(), ["checksum_offload"]);
    assert!(Features::empty().names().is_empty());
    assert!(known.contains(Features::empty()) && !Features::empty().contains(known));
    assert_eq!(Features::empty().union(known).intersection(known), known);
    assert_eq!(Features::all().names().len() as u32, Features::all().bits().count_ones());
}

proptest! {
    #[test]
    fn no_parser_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        let _ = MessageType::of(&bytes);
        let _ = DataHeader::parse(&bytes);
        let _ = Initiation::parse(&bytes);
        let _ = Response::parse(&bytes);
        let _ = CookieReply::parse(&bytes);
        let _ = InitiationPayload::parse(&bytes);
        let _ = ResponsePayload::parse(&bytes);
        let _ = PathMessage::parse(&bytes);
    }

    #[test]
    fn data_headers_survive(lane: u8, receiver: u32, counter: u64) {
        let header = DataHeader { lane, receiver: SessionIndex(receiver), counter };
        let mut datagram = [0; DATA_OVERHEAD_LEN];
        header.emit(datagram.first_chunk_mut().unwrap());
        prop_assert_eq!(DataHeader::parse(&datagram), Ok(header));
    }

    #[test]
    fn what_parses_as_a_path_message_emits_the_same_bytes(bytes: [u8; 16], kind in 0u8..5) {
        let bytes = [&[kind], &bytes[1..]].concat();
        if let Ok(message) = PathMessage::parse(&bytes) {
            let mut emitted = [0; PATH_MESSAGE_LEN];
            message.emit(&mut emitted);
            prop_assert_eq!(emitted.as_slice(), bytes);
        }
    }

    #[test]
    fn payloads_survive(timestamp: [u8; 12], workers: u8, base: u8, bits: u32, fill: u8) {
        let features = Features::from_bits_truncate(bits);
        let kem_public_key = &[fill; KEM_PUBLIC_KEY_LEN];
        let first =
            InitiationPayload { timestamp: &timestamp, workers, features, kem_public_key };
        let emitted = first.emit();
        prop_assert_eq!(InitiationPayload::parse(&emitted), Ok(first));
        let second = ResponsePayload { workers, base, features };
        prop_assert_eq!(ResponsePayload::parse(&second.emit()), Ok(second));
    }
}
