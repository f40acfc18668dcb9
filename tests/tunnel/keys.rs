//! Keys that do not fit: every one refused where it is written down, or without an answer.

use std::fs;

use corelane::handshake::keys::PrivateKey;
use corelane::lab::{LINK, wait_until};

use crate::harness::{Options, PATIENCE, SERVER_V4, Tunnel, capture, nonzero_drops};
use crate::tools::echo;

/// The points of order 1, 2, 4 and 8 on the curve or its twist, without those that are written
/// beyond the prime: "May the Fourth Be With You" (Genkin, Valenta, Yarom; 2017), section 2.
const LOW_ORDER: [&str; 7] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
    "7f///////////////////////////////////////38=",
    "7v///////////////////////////////////////38=",
];

/// Asks the program itself about a configuration file; what it says, and whether it is content.
fn check(tunnel: &Tunnel, file: &std::path::Path) -> (String, bool) {
    let output = tunnel.server.ask_nobody(&["config", "check", file.to_str().unwrap()]);
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.success())
}

#[test]
fn public_keys_of_low_order_are_refused_with_the_reason() {
    let tunnel = Tunnel::prepare(Options::default());
    let sound = fs::read_to_string(tunnel.server.config_file()).unwrap();
    assert!(check(&tunnel, &tunnel.server.config_file()).1);
    for point in LOW_ORDER {
        let text = sound.replace(&tunnel.peers[0].key.to_string(), point);
        assert_ne!(text, sound);
        fs::write(tunnel.server.config_file(), text).unwrap();
        let (said, content) = check(&tunnel, &tunnel.server.config_file());
        assert!(!content && said.contains("order is low"), "{said}");
    }
    fs::write(tunnel.server.config_file(), sound).unwrap();
}

#[test]
fn neither_side_takes_its_own_key_for_the_far_sides() {
    let mut tunnel = Tunnel::prepare(Options::default());
    let client_key = tunnel.peers[0].key;
    let server_key = std::mem::replace(&mut tunnel.server_key, client_key);
    tunnel.peers[0].key = server_key;
    tunnel.write_server_config();
    tunnel.write_client_config();
    for daemon in [&mut tunnel.server, &mut tunnel.client] {
        daemon.start(tunnel.lab.server());
        assert_eq!(daemon.await_end().code(), Some(3));
        assert!(daemon.log().contains("is the public key of this side itself"), "{}", daemon.log());
    }
    for file in [tunnel.server.config_file(), tunnel.client.config_file()] {
        let (said, content) = check(&tunnel, &file);
        assert!(!content && said.contains("is the public key of this side itself"), "{said}");
    }

    // A server that runs goes on as it was.
    tunnel.peers[0].key = client_key;
    tunnel.server_key = server_key;
    tunnel.write_server_config();
    tunnel.write_client_config();
    tunnel.start_server();
    tunnel.start_client();
    tunnel.peers[0].key = server_key;
    tunnel.write_server_config();
    let reload = tunnel.server.ask(&["reload"]);
    assert!(!reload.status.success(), "{reload:?}");
    tunnel.peers[0].key = client_key;
    tunnel.await_echoes();
}

#[test]
fn an_unknown_key_gets_no_answer() {
    let mut tunnel = Tunnel::prepare(Options::default());
    tunnel.peers[0].key = PrivateKey::generate(&mut rand::rng()).public();
    tunnel.write_server_config();
    tunnel.start_server();
    let mut link = capture(tunnel.lab.server(), LINK);
    tunnel.client.start(tunnel.lab.client());
    let refused = || {
        let drops = nonzero_drops(&tunnel.server.status());
        drops.get("handshake_peer_unknown").copied().filter(|count| *count >= 2)
    };
    wait_until(PATIENCE, "two refusals", refused).unwrap();
    assert!(!echo(tunnel.lab.client(), SERVER_V4));
    let mut initiations = 0;
    while let Some(captured) = link.receive().unwrap() {
        if captured.packet[0] == 0x45 && captured.packet[9] == 17 {
            assert!(!captured.outgoing, "an answer of {} bytes", captured.packet.len());
            initiations += 1;
        }
    }
    assert!(initiations >= 2);
    tunnel.client.await_status(PATIENCE, "the client to try on", |it| it.state == "connecting");
}
