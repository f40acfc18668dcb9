//! What can be seen from outside.

use crate::harness::{Options, PORT, SERVER_V4, Tunnel, capture};
use crate::tools::ping;

#[test]
fn only_sealed_messages_cross_the_link() {
    let tunnel = Tunnel::start(Options::default());
    let marker = [0xa7; 16];
    let mut wire = capture(tunnel.lab.server(), corelane::lab::LINK);
    ping(tunnel.lab.client(), SERVER_V4, "-f -c 20 -s 256 -p a7");
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
            assert!((1..=4).contains(&bytes[28]), "message type {}", bytes[28]);
            seen += 1;
        }
    }
    assert!(seen >= 40, "{seen} datagrams");
}
