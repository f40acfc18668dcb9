//! Every reason for which a worker drops a packet is provoked here, one entry each: a reason of the
//! data plane without one fails `every_reason_of_the_data_plane_is_provoked`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::policies::{OTHER_CLIENT, pair_under};
use super::{
    CLIENT, CLIENT_INDEX, SERVER, SERVER_INDEX, Side, frame, install, pair, ping, udp_packet,
};
use crate::dataplane::messages::WorkerCommand;
use crate::limits::{HELD_BLOCKS, LANE_EVENTS_BURST, REJECT_AFTER_PACKETS, VIRTIO_HEADER_LEN};
use crate::policy::bounds::Bounds;
use crate::session::lanes::Role;
use crate::sys::udp::ReceivedMeta;
use crate::telemetry::drops::DropReason;

/// Reasons that belong to the control thread, whose own tests provoke them.
const CONTROL_REASONS: [DropReason; 10] = [
    DropReason::ControlQueueFull,
    DropReason::HandshakeOverload,
    DropReason::HandshakeMacInvalid,
    DropReason::HandshakeCookieRequired,
    DropReason::HandshakeRateLimited,
    DropReason::HandshakeInvalid,
    DropReason::HandshakePeerUnknown,
    DropReason::HandshakeReplayed,
    DropReason::HandshakeUnexpected,
    DropReason::CookieInvalid,
];

/// Reasons that belong to a carrier's relay, whose own tests provoke them.
const CARRIER_REASONS: [DropReason; 4] = [
    DropReason::CarrierQueueFull,
    DropReason::CarrierTooLate,
    DropReason::CarrierStranger,
    DropReason::CarrierSendFailed,
];

#[test]
fn every_reason_of_the_data_plane_is_provoked() {
    let provoked = PROVOCATIONS.iter().map(|(reason, _)| reason.name());
    let elsewhere = CONTROL_REASONS.iter().chain(&CARRIER_REASONS).map(|reason| reason.name());
    let covered: BTreeSet<_> = provoked.chain(elsewhere).collect();
    let all: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(covered, all);
    for (reason, provoke) in PROVOCATIONS {
        let (side, packets) = provoke();
        side.assert_only_drop(*reason, packets);
    }
}

/// Each makes one worker drop packets for one reason and says how many.
type Provocation = fn() -> (Side, u64);

const PROVOCATIONS: &[(DropReason, Provocation)] = &[
    (DropReason::DatagramTruncated, || {
        let (_, mut server) = pair();
        server.decapsulate(&[vec![], vec![4], vec![4; 31]], 1000, 0);
        (server, 3)
    }),
    (DropReason::DatagramTooLong, || {
        let (mut client, mut server) = pair();
        let mut arena = client.encapsulate(ping(CLIENT, SERVER)).remove(0);
        let message = ReceivedMeta {
            range: 0..arena.len(),
            from: ([192, 0, 2, 2], 1000).into(),
            local: None,
            stride: arena.len(),
            ecn: 0,
            truncated: true,
        };
        server.decapsulate_messages(&[message], &mut arena);
        (server, 1)
    }),
    (DropReason::DatagramUnknownType, || {
        let (mut client, mut server) = pair();
        let mut reserved = client.encapsulate(ping(CLIENT, SERVER)).remove(0);
        reserved[2] = 1;
        server.decapsulate(&[vec![9; 64], vec![1; 64], reserved], 1000, 0);
        (server, 3)
    }),
    (DropReason::SessionUnknown, || {
        let (mut client, mut server) = pair();
        server.command(WorkerCommand::RemoveSession { session: SERVER_INDEX });
        let sealed = client.encapsulate(ping(CLIENT, SERVER));
        server.decapsulate(&sealed, 1000, 0);
        (server, 1)
    }),
    (DropReason::LaneWrong, || {
        let (mut client, mut server) = pair();
        let mut sealed = client.encapsulate(ping(CLIENT, SERVER));
        sealed[0][1] = 1;
        server.decapsulate(&sealed, 1000, 0);
        (server, 1)
    }),
    (DropReason::KeyExhausted, || {
        let (mut client, _) = pair();
        let session = client.forwarder.tables.session(CLIENT_INDEX).unwrap();
        session.spend_key(0, REJECT_AFTER_PACKETS);
        assert!(client.encapsulate(ping(CLIENT, SERVER)).is_empty());
        (client, 1)
    }),
    (DropReason::Replayed, || {
        let (mut client, mut server) = pair();
        let sealed = client.encapsulate(ping(CLIENT, SERVER));
        assert_eq!(server.decapsulate(&sealed, 1000, 0).len(), 1);
        assert!(server.decapsulate(&sealed, 1000, 0).is_empty());
        (server, 1)
    }),
    (DropReason::AclDenied, || {
        let (mut client, mut server) = pair_under(&["allow any tcp"], Bounds::default());
        let sealed = client.encapsulate(ping(CLIENT, SERVER));
        assert!(server.decapsulate(&sealed, 1000, 0).is_empty());
        assert!(server.encapsulate(ping(SERVER, CLIENT)).is_empty());
        (server, 2)
    }),
    (DropReason::PeerIsolated, || {
        let (mut client, mut server) = pair_under(&[], Bounds::default());
        let sealed = client.encapsulate(ping(CLIENT, OTHER_CLIENT));
        assert!(server.decapsulate(&sealed, 1000, 0).is_empty());
        assert!(server.encapsulate(ping(OTHER_CLIENT, CLIENT)).is_empty());
        (server, 2)
    }),
    (DropReason::RateExceeded, || {
        let bounds = Bounds { up_bps: Some(1), down_bps: Some(1), ..Bounds::default() };
        let (mut client, mut server) = pair_under(&[], bounds);
        for passes in [1, 0] {
            let sealed = client.encapsulate(ping(CLIENT, SERVER));
            assert_eq!(server.decapsulate(&sealed, 1000, 0).len(), passes);
            assert_eq!(server.encapsulate(ping(SERVER, CLIENT)).len(), passes);
        }
        (server, 2)
    }),
    (DropReason::WaitingRoomFull, || {
        let bounds = Bounds { down_bps: Some(1_000_000_000), ..Bounds::default() };
        let (_, mut server) = pair_under(&[], bounds);
        let packets = 100 + HELD_BLOCKS as u64;
        for _ in 0..packets {
            server.encapsulate(frame(&udp_packet(SERVER, CLIENT, 1300)));
        }
        let dropped = server.dropped(DropReason::WaitingRoomFull);
        assert!(dropped > packets / 3, "half of the memory is for others, not {dropped}");
        (server, dropped)
    }),
    (DropReason::AuthenticationFailed, || {
        let (mut client, mut server) = pair();
        let mut sealed = client.encapsulate(ping(CLIENT, SERVER));
        let last = sealed[0].len() - 1;
        sealed[0][last] ^= 0x80;
        server.decapsulate(&sealed, 1000, 0);
        (server, 1)
    }),
    (DropReason::InnerMalformed, || {
        let (mut client, mut server) = pair();
        // A path message of a kind that does not exist, sealed by the peer itself.
        let sealed = client.seal_raw(&[0x0f; 16]);
        server.decapsulate(&sealed, 1000, 0);
        let sealed = client.seal_raw(&[0x45; 16]);
        server.decapsulate(&sealed, 1000, 0);
        (server, 2)
    }),
    (DropReason::InnerSourceNotAllowed, || {
        let (mut client, mut server) = pair();
        let sealed = client.encapsulate(ping(Ipv4Addr::new(10, 8, 0, 3), SERVER));
        server.decapsulate(&sealed, 1000, 0);
        (server, 1)
    }),
    (DropReason::PathMessageExcess, || {
        let (mut client, mut server) = pair();
        // Learning the address was the first event.
        let excess = 10;
        let sealed = client.probes(LANE_EVENTS_BURST as usize - 1 + excess);
        server.decapsulate(&sealed, 1000, 0);
        (server, excess as u64)
    }),
    (DropReason::EcnIllegal, || {
        let (mut client, mut server) = pair();
        let sealed = client.encapsulate(ping(CLIENT, SERVER));
        server.decapsulate(&sealed, 1000, 0b11);
        (server, 1)
    }),
    (DropReason::TunWriteFailed, || {
        let (mut client, mut server) = pair();
        server.tun.refuse = Some(ErrorKind::Other);
        let sealed = client.encapsulate(ping(CLIENT, SERVER));
        server.decapsulate(&sealed, 1000, 0);
        (server, 1)
    }),
    (DropReason::TunQueueFull, || {
        let (mut client, mut server) = pair();
        server.tun.refuse = Some(ErrorKind::WouldBlock);
        let sealed = client.encapsulate(ping(CLIENT, SERVER));
        server.decapsulate(&sealed, 1000, 0);
        (server, 1)
    }),
    (DropReason::PacketMalformed, || {
        let (mut client, _) = pair();
        for malformed in [vec![], vec![0; 9], frame(&[]), frame(&[0x15; 40]), frame(&[0x45; 12])] {
            client.encapsulate(malformed);
        }
        (client, 5)
    }),
    (DropReason::NoRoute, || {
        let (mut client, _) = pair();
        client.encapsulate(ping(CLIENT, Ipv4Addr::new(10, 9, 0, 1)));
        (client, 1)
    }),
    (DropReason::NoSession, || {
        let mut client = Side::of(0);
        client.own("10.8.0.0/24");
        client.encapsulate(ping(CLIENT, SERVER));
        (client, 1)
    }),
    (DropReason::NoPath, || {
        let mut server = Side::of(0);
        server.own("10.8.0.2/32");
        server.command(WorkerCommand::InstallSession(Box::new(install(Role::Server, 1, 1))));
        server.encapsulate(ping(SERVER, CLIENT));
        (server, 1)
    }),
    (DropReason::RoutingLoop, || {
        let (mut client, _) = pair();
        let endpoint = Ipv4Addr::new(192, 0, 2, 1);
        let sealed = client.encapsulate(ping(CLIENT, SERVER)).remove(0);
        client.own("192.0.2.0/24");
        let mut looped = udp_packet(CLIENT, endpoint, sealed.len());
        // Somebody else's datagrams to the same place, and to another, pass.
        assert_eq!(client.encapsulate(frame(&looped)).len(), 1);
        looped[28..].copy_from_slice(&sealed);
        assert!(client.encapsulate(frame(&looped)).is_empty());
        let mut elsewhere = udp_packet(CLIENT, Ipv4Addr::new(192, 0, 2, 9), sealed.len());
        elsewhere[28..].copy_from_slice(&sealed);
        assert_eq!(client.encapsulate(frame(&elsewhere)).len(), 1);
        (client, 1)
    }),
    (DropReason::PacketTooBig, || {
        let (mut client, _) = pair();
        let (session, path) = (CLIENT_INDEX, 0);
        client.command(WorkerCommand::SetPathPlaintextMax { session, path, plaintext_max: 1280 });
        assert!(client.encapsulate(frame(&udp_packet(CLIENT, SERVER, 1300))).is_empty());
        let answer = &client.tun.frames[0][VIRTIO_HEADER_LEN..];
        assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 4), "ICMP fragmentation needed");
        assert_eq!(client.counters.too_big_sent.get(), 1);
        (client, 1)
    }),
    (DropReason::PacketTooBigUnanswered, || {
        let (mut client, _) = pair();
        let (session, path) = (CLIENT_INDEX, 0);
        client.command(WorkerCommand::SetPathPlaintextMax { session, path, plaintext_max: 1280 });
        client.forwarder.too_big_full_at = client.now + Duration::from_secs(1);
        assert!(client.encapsulate(frame(&udp_packet(CLIENT, SERVER, 1300))).is_empty());
        assert!(client.tun.frames.is_empty() && client.counters.too_big_sent.get() == 0);
        (client, 1)
    }),
    (DropReason::SendFailed, || {
        let (mut client, _) = pair();
        client.wire.blocked = true;
        let mut taken = 0;
        while client.dropped_in_all() == 0 {
            client.encapsulate(ping(CLIENT, SERVER));
            taken += 1;
            assert!(taken < 10_000, "a full socket must bound the batch");
        }
        (client, 1)
    }),
];
