//! What the fuzz targets call, and `tests/corpora.rs` with every file of their corpora.

use std::collections::BTreeSet;

use crate::limits::{DATA_HEADER_LEN, DATA_OVERHEAD_LEN, REPLAY_WINDOW_USABLE};
use crate::wire::{DataHeader, SessionIndex};

use super::keys::LaneSecret;
use super::lane::{ReceiveLane, SendLane};
use super::replay::ReplayWindow;

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

/// Feeds a replay window the counters that `data` spells, three bytes each: a step from the highest
/// counter so far, and by how many bits it is scaled. A model that forgets nothing must agree.
pub fn replay_window(data: &[u8]) {
    let (mut window, mut seen, mut highest) = (ReplayWindow::new(), BTreeSet::new(), 0_u64);
    let (steps, _) = data.as_chunks::<3>();
    for [low, high, scale] in steps {
        let step = i64::from(i16::from_le_bytes([*low, *high])) << (scale % 48);
        let counter = highest.saturating_add_signed(step);
        let is_near = counter.saturating_add(REPLAY_WINDOW_USABLE) >= highest;
        let is_fresh = is_near && seen.insert(counter);
        assert_eq!(window.check(counter), is_fresh, "{counter} behind {highest}");
        if is_fresh {
            window.commit(counter);
            assert!(!window.check(counter), "{counter} is taken a second time");
            highest = highest.max(counter);
        }
        assert_eq!(window.highest(), highest);
    }
}
