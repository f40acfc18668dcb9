//! What the fuzz targets call, and `tests/corpora.rs` with every file of their corpora.

use crate::limits::{DATA_HEADER_LEN, DATA_OVERHEAD_LEN};
use crate::wire::{DataHeader, SessionIndex};

use super::keys::LaneSecret;
use super::lane::{ReceiveLane, SendLane};

/// Opens `data` as a datagram from outside, then seals and opens it as a plaintext.
pub fn data_message(data: &[u8]) {
    let secret = LaneSecret::new([0; 32]);
    let mut datagram = data.to_vec();
    if let Ok(header) = DataHeader::parse(&datagram) {
        let mut lane = ReceiveLane::new(&secret, header.lane);
        let opened = lane.open(&header, &mut datagram);
        assert!(opened.is_err() || lane.highest() == header.counter);
    }

    let mut slot = vec![0; DATA_OVERHEAD_LEN + data.len()];
    slot[DATA_HEADER_LEN..][..data.len()].copy_from_slice(data);
    let sealed = SendLane::new(&secret, 0, SessionIndex(0)).seal(&mut slot);
    assert_eq!(sealed, Ok(()));
    let mut lane = ReceiveLane::new(&secret, 0);
    let opened = DataHeader::parse(&slot).map(|header| lane.open(&header, &mut slot));
    assert!(matches!(opened, Ok(Ok(opened)) if opened.plaintext_len == data.len()));
    assert_eq!(slot[DATA_HEADER_LEN..][..data.len()], *data);
}
