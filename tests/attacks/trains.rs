//! Trains of datagrams (UDP_SEGMENT) of any stride: the receiver gets them as one (UDP_GRO), and
//! has to take them apart where the kernel says that they were joined.

use corelane::lab::LabOptions;
use corelane::limits::{DATA_OVERHEAD_LEN, UDP_PAYLOAD_MAX};
use corelane::telemetry::drops::DropReason::{
    DatagramTooLong, DatagramTruncated, DatagramUnknownType, SessionUnknown,
};
use corelane::wire::{DataHeader, SessionIndex};

use crate::harness::Options;
use crate::insider::send_train;
use crate::stage::{Side, Stage};

/// A train of `len` bytes of data messages of a session that nobody has, each of `stride` bytes.
fn strangers(stride: usize, len: usize) -> Vec<u8> {
    let mut train = vec![0xa5; len];
    for datagram in train.chunks_mut(stride) {
        if let Some(header) = datagram.first_chunk_mut() {
            let receiver = SessionIndex(0xdead_beef);
            DataHeader { lane: 0, receiver, counter: 0 }.emit(header);
        } else {
            datagram[0] = 4;
        }
    }
    train
}

#[test]
fn a_train_of_any_stride_is_taken_apart() {
    // Links so large that no stride is cut short on the way: the longest datagram there is fits.
    let links = LabOptions { link_mtu: 65_535, ..LabOptions::default() };
    let stage = Stage::with(Options { links, ..Options::default() });
    let host = &stage.attacker.host;
    for (stride, len) in [
        (DATA_OVERHEAD_LEN, 60 * DATA_OVERHEAD_LEN),
        (DATA_OVERHEAD_LEN, 60 * DATA_OVERHEAD_LEN - 1),
        (33, 33 * 60),
        (1400, 46 * 1400),
        (1400, 45 * 1400 + DATA_OVERHEAD_LEN - 1),
        (32_000, 64_000),
        (32_700, UDP_PAYLOAD_MAX),
        (40_000, UDP_PAYLOAD_MAX),
        (65_000, UDP_PAYLOAD_MAX),
    ] {
        let before = stage.drops(Side::Server);
        send_train(host, &strangers(stride, len), stride);
        let last_is_short = len % stride != 0 && len % stride < DATA_OVERHEAD_LEN;
        let short = u64::from(last_is_short);
        let whole = len.div_ceil(stride) as u64 - short;
        eprintln!("{whole} of {stride} bytes and {short} shorter");
        stage.assert_added(
            Side::Server,
            &before,
            &[(SessionUnknown, whole), (DatagramTruncated, short)],
        );
    }
    // The first datagram of a train decides which thread gets all of it.
    let before = stage.drops(Side::Server);
    let mut mixed = strangers(1400, 4200);
    mixed[1400] = 1;
    mixed[2800] = 0;
    send_train(host, &mixed, 1400);
    stage.assert_added(Side::Server, &before, &[(SessionUnknown, 1), (DatagramUnknownType, 2)]);
    let before = stage.drops(Side::Server);
    let initiations = [1, 1, 0, 0].repeat(60 * 350);
    send_train(host, &initiations[..45 * 1400], 1400);
    stage.assert_added(Side::Server, &before, &[(DatagramTooLong, 45)]);
    stage.assert_unharmed();
}
