use proptest::prelude::*;

use super::*;
use crate::limits::REPLAY_WINDOW_USABLE;

const SECRET: [u8; 32] = [7; 32];
const REMOTE: SessionIndex = SessionIndex(0x1234_5678);

fn lane_ends(lane: u8) -> (SendLane, ReceiveLane) {
    let secret = LaneSecret::new(SECRET);
    (SendLane::new(&secret, lane, REMOTE), ReceiveLane::new(&secret, lane))
}

fn seal(lane: &mut SendLane, plaintext: &[u8]) -> Vec<u8> {
    let mut slot = vec![0xaa; DATA_OVERHEAD_LEN + plaintext.len()];
    slot[DATA_HEADER_LEN..][..plaintext.len()].copy_from_slice(plaintext);
    lane.seal(&mut slot).unwrap();
    slot
}

fn open(lane: &mut ReceiveLane, datagram: &[u8]) -> Result<(Vec<u8>, bool), OpenError> {
    let mut datagram = datagram.to_vec();
    let header = DataHeader::parse(&datagram).unwrap();
    let opened = lane.open(&header, &mut datagram)?;
    let plaintext = datagram[DATA_HEADER_LEN..][..opened.plaintext_len].to_vec();
    Ok((plaintext, opened.reordered))
}

#[test]
fn packets_carry_lane_receiver_and_rising_counters() {
    let (mut sender, mut receiver) = lane_ends(9);
    for counter in 0..3 {
        let datagram = seal(&mut sender, b"a whole packet..");
        let header = DataHeader::parse(&datagram).unwrap();
        assert_eq!(header, DataHeader { lane: 9, receiver: REMOTE, counter });
        assert_eq!(open(&mut receiver, &datagram), Ok((b"a whole packet..".to_vec(), false)));
        assert_eq!(receiver.highest(), counter);
        assert_eq!(sender.counter(), counter + 1);
    }
    assert_eq!(sender.lane(), 9);
}

#[test]
fn an_empty_plaintext_is_a_packet_too() {
    let (mut sender, mut receiver) = lane_ends(0);
    let keepalive = seal(&mut sender, b"");
    assert_eq!(keepalive.len(), DATA_OVERHEAD_LEN);
    assert_eq!(open(&mut receiver, &keepalive), Ok((vec![], false)));
}

#[test]
fn a_packet_opens_once_and_late_ones_are_marked() {
    let (mut sender, mut receiver) = lane_ends(0);
    let packets: Vec<_> = (0..3).map(|_| seal(&mut sender, &[1; 16])).collect();
    assert_eq!(open(&mut receiver, &packets[2]), Ok((vec![1; 16], false)));
    assert_eq!(open(&mut receiver, &packets[0]), Ok((vec![1; 16], true)));
    for packet in [&packets[0], &packets[2]] {
        assert_eq!(open(&mut receiver, packet), Err(OpenError::Replayed));
    }
    assert_eq!(open(&mut receiver, &packets[1]), Ok((vec![1; 16], true)));
    assert_eq!(receiver.forgeries(), 0);
}

#[test]
fn a_packet_behind_the_window_is_refused() {
    let (mut sender, mut receiver) = lane_ends(0);
    let (oldest, next) = (seal(&mut sender, &[]), seal(&mut sender, &[]));
    let secret = LaneSecret::new(SECRET);
    let mut far_ahead = SendLane::at_counter(&secret, 0, REMOTE, REPLAY_WINDOW_USABLE + 1);
    assert!(open(&mut receiver, &seal(&mut far_ahead, &[])).is_ok());
    assert_eq!(open(&mut receiver, &oldest), Err(OpenError::Replayed));
    assert!(open(&mut receiver, &next).is_ok());
}

/// Every byte of counter, ciphertext and tag counts. Lane and receiver select the key, so they are
/// covered by which key fits.
#[test]
fn a_changed_packet_does_not_authenticate_and_does_not_move_the_window() {
    let (mut sender, mut receiver) = lane_ends(0);
    let datagram = seal(&mut sender, &[5; 32]);
    for position in 12..datagram.len() {
        let mut changed = datagram.clone();
        changed[position] ^= 1;
        assert_eq!(open(&mut receiver, &changed), Err(OpenError::Authentication));
    }
    assert_eq!(receiver.forgeries(), datagram.len() as u64 - 12);
    assert_eq!(receiver.highest(), 0);
    assert!(open(&mut receiver, &datagram).is_ok());
}

#[test]
fn a_packet_opens_under_its_own_lane_and_secret_only() {
    let (mut sender, _) = lane_ends(3);
    let datagram = seal(&mut sender, &[5; 16]);
    let other_lane = ReceiveLane::new(&LaneSecret::new(SECRET), 4);
    let other_secret = ReceiveLane::new(&LaneSecret::new([8; 32]), 3);
    for mut receiver in [other_lane, other_secret] {
        assert_eq!(open(&mut receiver, &datagram), Err(OpenError::Authentication));
    }
}

#[test]
fn a_key_seals_up_to_its_limit_and_no_further() {
    let secret = LaneSecret::new(SECRET);
    let mut sender = SendLane::at_counter(&secret, 0, REMOTE, REJECT_AFTER_PACKETS - 1);
    let last = seal(&mut sender, &[]);
    let mut slot = [0; DATA_OVERHEAD_LEN];
    assert_eq!(sender.seal(&mut slot), Err(LaneError::KeyExhausted));
    assert_eq!(slot, [0; DATA_OVERHEAD_LEN], "nothing was written");
    assert_eq!(sender.counter(), REJECT_AFTER_PACKETS);

    let mut receiver = ReceiveLane::new(&secret, 0);
    assert!(open(&mut receiver, &last).is_ok());
    let mut beyond = last;
    beyond[8..16].copy_from_slice(&REJECT_AFTER_PACKETS.to_be_bytes());
    assert_eq!(open(&mut receiver, &beyond), Err(OpenError::KeyExhausted));
}

#[test]
fn a_key_that_met_too_many_forgeries_opens_nothing_more() {
    let (mut sender, mut receiver) = lane_ends(0);
    receiver.forgeries = FORGERIES_MAX - 1;
    let mut forged = seal(&mut sender, &[]);
    forged[20] ^= 1;
    assert_eq!(open(&mut receiver, &forged), Err(OpenError::Authentication));
    let genuine = seal(&mut sender, &[]);
    assert_eq!(open(&mut receiver, &genuine), Err(OpenError::KeyExhausted));
}

#[test]
fn a_slot_without_room_is_refused_and_costs_no_counter() {
    let (mut sender, _) = lane_ends(0);
    for len in 0..DATA_OVERHEAD_LEN {
        assert_eq!(sender.seal(&mut vec![0; len]), Err(LaneError::SlotLength(len)));
    }
    assert_eq!(sender.counter(), 0);
}

#[test]
fn a_datagram_shorter_than_its_header_said_is_refused() {
    let (_, mut receiver) = lane_ends(0);
    let header = DataHeader { lane: 0, receiver: REMOTE, counter: 0 };
    for len in 0..DATA_OVERHEAD_LEN {
        let opened = receiver.open(&header, &mut vec![0; len]);
        assert_eq!(opened, Err(OpenError::Authentication));
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens_the_same(
        plaintext in proptest::collection::vec(any::<u8>(), 0..2000),
        lane: u8,
    ) {
        let (mut sender, mut receiver) = lane_ends(lane);
        let datagram = seal(&mut sender, &plaintext);
        prop_assert_eq!(open(&mut receiver, &datagram), Ok((plaintext, false)));
    }

    #[test]
    fn noise_never_opens(noise in proptest::collection::vec(any::<u8>(), 28..300)) {
        let (_, mut receiver) = lane_ends(0);
        let mut datagram = [&[4, 0, 0, 0], noise.as_slice()].concat();
        let header = DataHeader::parse(&datagram).unwrap();
        prop_assert!(receiver.open(&header, &mut datagram).is_err());
    }
}

#[test]
fn a_nonce_is_four_zero_bytes_and_the_counter() {
    let bytes = |counter| *nonce(counter).as_ref();
    assert_eq!(bytes(0x0102_0304_0506_0708), [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes(u64::MAX), [0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(bytes(1), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}
