//! What can be seen from outside.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use corelane::lab::LINK;
use corelane::packet::{Parsed, Transport};
use corelane::sys::capture::Captured;

use crate::harness::{Options, PORT, SERVER_V4, TUN, Tunnel, capture};
use crate::tools::ping;

#[test]
fn only_sealed_messages_cross_the_link() {
    let tunnel = Tunnel::start(Options::default());
    let marker = [0xa7; 16];
    let mut wire = capture(tunnel.lab.server(), LINK);
    ping(tunnel.lab.client(), SERVER_V4, "-i 0 -c 20 -s 256 -p a7");
    let mut seen = 0;
    while let Some(packet) = wire.receive().unwrap() {
        let bytes = packet.packet;
        assert!(
            !bytes.windows(marker.len()).any(|window| window == marker),
            "a payload is visible"
        );
        // IPv4 without options, UDP, to or from the server's port.
        if bytes[0] == 0x45 && bytes[9] == 17 {
            let ports =
                [&bytes[20..22], &bytes[22..24]].map(|it| u16::from_be_bytes([it[0], it[1]]));
            assert!(ports.contains(&PORT), "{ports:?}");
            // Echoes that a busy machine has kept waiting may leave as one train.
            let payload = &bytes[28..];
            for datagram in payload.chunks(packet.segment_len.unwrap_or(payload.len())) {
                assert!((1..=4).contains(&datagram[0]), "message type {}", datagram[0]);
                seen += 1;
            }
        }
    }
    assert!(seen >= 40, "{seen} datagrams");
}

/// What iperf3 fills its messages with when told to repeat itself, twice.
const PATTERN: &[u8] = b"01234567890123456789";

fn shows_pattern(packet: &[u8]) -> bool {
    packet.windows(PATTERN.len()).any(|window| window == PATTERN)
}

/// Counts the datagrams of the tunnel by message type; nothing else may be on the link.
#[track_caller]
fn count_types(captured: &Captured<'_>, types: &mut BTreeMap<u8, u64>) {
    // ARP is no IP.
    let Ok(parsed) = Parsed::parse(captured.packet) else { return };
    if parsed.protocol == 58 {
        return;
    }
    assert_eq!(parsed.transport, Some(Transport::Udp), "{parsed:?}");
    let payload = &captured.packet[parsed.payload_offset..parsed.total_len];
    for datagram in payload.chunks(captured.segment_len.unwrap_or(payload.len())) {
        *types.entry(datagram[0]).or_default() += 1;
    }
}

#[test]
fn a_stream_that_is_rekeyed_shows_message_types_and_nothing_of_itself() {
    let client_flags = vec!["--set".to_owned(), "client.rekey_after_s=5".to_owned()];
    let tunnel = Tunnel::start(Options { workers: (2, 2), client_flags, ..Options::default() });
    let mut wire = capture(tunnel.lab.server(), LINK);
    let mut inside = capture(tunnel.lab.client(), TUN);
    // Slow enough to be looked at byte by byte.
    let mut traffic = tunnel.start_iperf(SERVER_V4, "-t 6 -b 10M --repeating-payload");
    let mut types = BTreeMap::new();
    let mut shown_inside = false;
    while traffic.is_running() {
        while let Some(captured) = wire.receive().unwrap() {
            assert!(!shows_pattern(captured.packet), "a payload is visible");
            count_types(&captured, &mut types);
        }
        while let Some(captured) = inside.receive().unwrap() {
            shown_inside = shown_inside || shows_pattern(captured.packet);
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(traffic.finish().received_bytes() > 4 << 20);
    assert!(shown_inside, "there is nothing that could be seen");
    assert_eq!((wire.missed().unwrap(), inside.missed().unwrap()), (0, 0));
    assert!(tunnel.client_session().rekeys >= 1);
    assert!(types.keys().all(|it| (1..=4).contains(it)), "{types:?}");
    assert!(types.get(&1) >= Some(&1) && types.get(&2) >= Some(&1), "{types:?}");
    assert!(types.get(&4) > Some(&1000), "{types:?}");
    assert_eq!(tunnel.drops(), [BTreeMap::new(), BTreeMap::new()]);
}
