//! Two forwarders joined back to back, without a device or a socket.

mod ages;
mod allocations;
mod drops;
mod nonces;
mod oversized;
mod policies;
mod room;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::dataplane::forwarder::SendOutcome;
use crate::dataplane::messages::{Endpoint, SessionInstall, WorkerCommand, WorkerEvent};
use crate::dataplane::testing::MemoryWorker as Side;
use crate::limits::{
    DATA_HEADER_LEN, LANE_EVENTS_BURST, LANE_EVENTS_PPS, REJECT_AFTER, REKEY_AFTER_PACKETS,
    TUN_MTU_DEFAULT, VIRTIO_HEADER_LEN,
};
use crate::packet::CoalesceOptions;
use crate::routing::{PeerId, PrefixTable};
use crate::session::keys::LaneSecret;
use crate::session::lanes::{LanePlan, Role};
use crate::sys::clock;
use crate::sys::udp::ReceivedMeta;
use crate::telemetry::counters::SessionUsage;
use crate::telemetry::drops::DropReason;
use crate::wire::{Features, PathMessage, SessionIndex};

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
pub(super) const PEER: PeerId = PeerId(7);
pub(super) const CLIENT_INDEX: SessionIndex = SessionIndex(0xc11e_0001);
const SERVER_INDEX: SessionIndex = SessionIndex(0x5e4f_0001);

impl Side {
    /// A worker whose paths carry what fits an ordinary link.
    fn of(worker: usize) -> Self {
        Self::new(worker, usize::from(TUN_MTU_DEFAULT))
    }

    fn own(&mut self, prefix: &str) {
        let table = PrefixTable::from_entries([(prefix.parse().unwrap(), PEER)]);
        self.command(WorkerCommand::SetPrefixes(Arc::new(table)));
    }

    /// Hands datagrams from `port` to the forwarder, as one message each, and returns the frames
    /// it writes.
    fn decapsulate(&mut self, datagrams: &[Vec<u8>], port: u16, ecn: u8) -> Vec<Vec<u8>> {
        let mut arena = Vec::new();
        let mut messages = Vec::new();
        for datagram in datagrams {
            let start = arena.len();
            arena.extend_from_slice(datagram);
            messages.push(ReceivedMeta {
                range: start..arena.len(),
                from: ([192, 0, 2, 2], port).into(),
                local: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
                stride: datagram.len().max(1),
                ecn,
                truncated: false,
            });
        }
        self.decapsulate_messages(&messages, &mut arena)
    }

    /// Path messages in datagrams of their own.
    fn probes(&mut self, count: usize) -> Vec<Vec<u8>> {
        for token in 0..count as u64 {
            let message = PathMessage::Probe { path: 0, token };
            let session = CLIENT_INDEX;
            self.command(WorkerCommand::SendPathMessage { session, message, plaintext_len: 0 });
        }
        self.forwarder.flush(&mut self.wire);
        std::mem::take(&mut self.wire.datagrams)
    }

    #[track_caller]
    fn assert_only_drop(&self, reason: DropReason, packets: u64) {
        assert_eq!(self.dropped(reason), packets, "{}", reason.name());
        assert_eq!(self.dropped_in_all(), packets, "nothing else may be counted");
    }
}

pub(super) fn install(role: Role, server_workers: u8, client_workers: u8) -> SessionInstall {
    let [up, down] = [[1; 32], [2; 32]].map(|bytes| Arc::new(LaneSecret::new(bytes)));
    let plan = LanePlan::new(role, server_workers, client_workers, 0).unwrap();
    let usage = Arc::new(SessionUsage::new(usize::from(plan.own_workers())));
    let server = Endpoint { remote: ([192, 0, 2, 1], 4500).into(), local: None, listener: 0 };
    let (local, remote, send_secret, receive_secret, endpoint) = match role {
        Role::Client => (CLIENT_INDEX, SERVER_INDEX, up, down, Some(server)),
        Role::Server => (SERVER_INDEX, CLIENT_INDEX, down, up, None),
    };
    SessionInstall {
        peer: PEER,
        local,
        remote,
        plan,
        send_secret,
        receive_secret,
        expires: clock::now() + REJECT_AFTER,
        features: Features::CHECKSUM_OFFLOAD,
        endpoint,
        usage,
        policy: None,
    }
}

/// A client and a server worker with a session; the client's first keepalive has arrived.
fn pair() -> (Side, Side) {
    let (mut client, mut server) = (Side::of(0), Side::of(0));
    client.own("10.8.0.0/24");
    server.own("10.8.0.2/32");
    server.command(WorkerCommand::InstallSession(Box::new(install(Role::Server, 1, 1))));
    client.command(WorkerCommand::InstallSession(Box::new(install(Role::Client, 1, 1))));
    client.command(WorkerCommand::SendKeepalive { session: CLIENT_INDEX });
    client.forwarder.flush(&mut client.wire);
    let first = std::mem::take(&mut client.wire.datagrams);
    assert!(server.decapsulate(&first, 1000, 0).is_empty());
    (client, server)
}

/// An IPv4 UDP packet with `payload` bytes, its IP checksum right, its UDP checksum absent.
fn udp_packet(source: Ipv4Addr, destination: Ipv4Addr, payload: usize) -> Vec<u8> {
    let total = 28 + payload;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend([0x30, 0x39, 0x14, 0x51, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|byte| byte as u8));
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    packet[24..26].copy_from_slice(&(8 + payload as u16).to_be_bytes());
    let sum: u32 = packet[..20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// A frame as TUN hands it over: an all-zero virtio header and the packet.
fn frame(packet: &[u8]) -> Vec<u8> {
    [&[0; VIRTIO_HEADER_LEN], packet].concat()
}

fn ping(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    frame(&udp_packet(from, to, 100))
}

#[test]
fn a_packet_crosses_unchanged_in_both_directions() {
    let (mut client, mut server) = pair();
    for payload in [0, 1, 15, 16, 17, 1000, 1380] {
        let there = frame(&udp_packet(CLIENT, SERVER, payload));
        let sealed = client.encapsulate(there.clone());
        assert_eq!(sealed[0].len() % 16, 0, "padded to whole blocks");
        assert_eq!(server.decapsulate(&sealed, 1000, 0), [there]);
        let back = frame(&udp_packet(SERVER, CLIENT, payload));
        let sealed = server.encapsulate(back.clone());
        assert_eq!(client.decapsulate(&sealed, 4500, 0), [back]);
    }
    assert_eq!(client.dropped_in_all() + server.dropped_in_all(), 0);
}

#[test]
fn usage_counts_inner_bytes_of_both_directions() {
    let (mut client, mut server) = pair();
    let sealed = client.encapsulate(ping(CLIENT, SERVER));
    server.decapsulate(&sealed, 1000, 0);
    let usage =
        |side: &mut Side, index| side.forwarder.tables.session(index).unwrap().usage.totals();
    let (sent, received) = (usage(&mut client, CLIENT_INDEX), usage(&mut server, SERVER_INDEX));
    assert_eq!((sent.sent_packets, sent.sent_bytes), (2, 128));
    assert_eq!((received.received_packets, received.received_bytes), (2, 128));
}

#[test]
fn a_session_whose_installation_is_still_queued_is_found() {
    let (mut client, mut server) = (Side::of(0), Side::of(0));
    client.own("10.8.0.0/24");
    server.own("10.8.0.2/32");
    client.command(WorkerCommand::InstallSession(Box::new(install(Role::Client, 1, 1))));
    let sealed = client.encapsulate(ping(CLIENT, SERVER));
    let queued = WorkerCommand::InstallSession(Box::new(install(Role::Server, 1, 1)));
    server.commands.send(queued).unwrap();
    assert_eq!(server.decapsulate(&sealed, 1000, 0).len(), 1);
    server.assert_only_drop(DropReason::SessionUnknown, 0);
}

#[test]
fn a_later_worker_may_have_the_only_path() {
    let ([mut first, mut second], mut server) = ([Side::of(0), Side::of(1)], Side::of(0));
    server.own("10.8.0.2/32");
    server.command(WorkerCommand::InstallSession(Box::new(install(Role::Server, 1, 1))));
    for client in [&mut first, &mut second] {
        client.own("10.8.0.0/24");
        let mut install = install(Role::Client, 1, 1);
        install.plan = install.plan.beginning_at(1);
        install.usage = Arc::new(SessionUsage::new(2));
        client.command(WorkerCommand::InstallSession(Box::new(install)));
    }
    let sealed = second.encapsulate(ping(CLIENT, SERVER));
    assert_eq!(server.decapsulate(&sealed, 1001, 0), [ping(CLIENT, SERVER)]);
    let sealed = server.encapsulate(ping(SERVER, CLIENT));
    assert_eq!(second.decapsulate(&sealed, 4500, 0), [ping(SERVER, CLIENT)]);
    assert!(first.encapsulate(ping(CLIENT, SERVER)).is_empty());
    first.assert_only_drop(DropReason::NoSession, 1);
}

#[test]
fn installing_a_session_twice_never_restarts_its_counters() {
    let (mut client, mut server) = pair();
    client.command(WorkerCommand::InstallSession(Box::new(install(Role::Client, 1, 1))));
    let sealed = client.encapsulate(ping(CLIENT, SERVER));
    assert_eq!(server.decapsulate(&sealed, 1000, 0).len(), 1);
    server.assert_only_drop(DropReason::Replayed, 0);
}

#[test]
fn only_an_authenticated_packet_moves_the_address() {
    let (mut client, mut server) = pair();
    server.events.try_iter().for_each(drop);
    let mut forged = client.encapsulate(ping(CLIENT, SERVER));
    forged[0][20] ^= 1;
    server.decapsulate(&forged, 6666, 0);
    assert!(server.events.is_empty());

    let moved = client.encapsulate(ping(CLIENT, SERVER));
    server.decapsulate(&moved, 2000, 0);
    let event = server.events.try_recv().unwrap();
    assert!(matches!(event, WorkerEvent::PathSeen { path: 0, endpoint, .. }
        if endpoint.remote.port() == 2000));
}

#[test]
fn an_own_address_that_is_gone_is_forgotten_until_packets_arrive_at_another() {
    let (mut client, mut server) = pair();
    let source =
        |side: &mut Side| side.forwarder.tables.session(SERVER_INDEX).unwrap().send_endpoint;
    let local = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(source(&mut server).unwrap().local, Some(local));
    let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
    for (gone, left) in [(other, Some(local)), (local, None)] {
        server.wire.outcome.source_gone = Some((SERVER_INDEX, gone));
        server.encapsulate(ping(SERVER, CLIENT));
        assert_eq!(source(&mut server).unwrap().local, left);
    }
    server.wire.outcome = SendOutcome::default();
    let sealed = client.encapsulate(ping(CLIENT, SERVER));
    let mut arena = sealed[0].clone();
    let message = ReceivedMeta {
        range: 0..arena.len(),
        from: ([192, 0, 2, 2], 1000).into(),
        local: Some(other),
        stride: arena.len(),
        ecn: 0,
        truncated: false,
    };
    server.decapsulate_messages(&[message], &mut arena);
    assert_eq!(source(&mut server).unwrap().local, Some(other));
}

#[test]
fn a_straggler_does_not_move_the_address_back() {
    let (mut client, mut server) = pair();
    let straggler = client.encapsulate(ping(CLIENT, SERVER));
    let moved = client.encapsulate(ping(CLIENT, SERVER));
    assert_eq!(server.decapsulate(&moved, 2000, 0).len(), 1);
    server.events.try_iter().for_each(drop);
    assert_eq!(server.decapsulate(&straggler, 1000, 0).len(), 1, "it is delivered all the same");
    assert!(server.events.is_empty());
    let session = server.forwarder.tables.session(SERVER_INDEX).unwrap();
    assert_eq!(session.send_endpoint.unwrap().remote.port(), 2000);
}

#[test]
fn a_path_message_reaches_the_control_thread_with_its_length() {
    let (mut client, mut server) = pair();
    server.events.try_iter().for_each(drop);
    let message = PathMessage::Probe { path: 0, token: 99 };
    let session = CLIENT_INDEX;
    client.command(WorkerCommand::SendPathMessage { session, message, plaintext_len: 1200 });
    client.forwarder.flush(&mut client.wire);
    let sealed = std::mem::take(&mut client.wire.datagrams);
    assert!(server.decapsulate(&sealed, 1000, 0).is_empty());
    let event = server.events.try_recv().unwrap();
    assert!(matches!(event, WorkerEvent::PathMessage { message: got, plaintext_len: 1200, .. }
        if got == message));
}

#[test]
fn an_inquiry_moves_nothing_and_is_answered_to_where_it_came_from() {
    let (mut client, mut server) = pair();
    server.events.try_iter().for_each(drop);
    let elsewhere = Endpoint { remote: ([192, 0, 2, 9], 7).into(), local: None, listener: 0 };
    let message = PathMessage::Inquiry { path: 0, token: 99 };
    let (session, endpoint) = (CLIENT_INDEX, elsewhere);
    client.command(WorkerCommand::SendPathMessageTo { session, message, endpoint });
    client.forwarder.flush(&mut client.wire);
    assert_eq!(client.wire.routes.pop().unwrap().1, elsewhere);
    let sealed = std::mem::take(&mut client.wire.datagrams);
    assert!(server.decapsulate(&sealed, 2000, 0).is_empty());
    let events: Vec<_> = server.events.try_iter().collect();
    let [WorkerEvent::PathMessage { message: got, endpoint: from, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((*got, from.remote.port()), (message, 2000));
    let known = server.forwarder.tables.session(SERVER_INDEX).unwrap();
    assert_eq!(known.send_endpoint.unwrap().remote.port(), 1000);
    // What comes behind it in the same message does move the address.
    client.command(WorkerCommand::SendPathMessageTo { session, message, endpoint });
    client.command(WorkerCommand::SendKeepalive { session });
    client.forwarder.flush(&mut client.wire);
    let sealed = std::mem::take(&mut client.wire.datagrams);
    server.decapsulate(&sealed, 3000, 0);
    let known = server.forwarder.tables.session(SERVER_INDEX).unwrap();
    assert_eq!(known.send_endpoint.unwrap().remote.port(), 3000);
}

#[test]
fn a_lane_that_floods_the_control_thread_is_held_back_and_no_other() {
    let (mut clients, mut server) = ([Side::of(0), Side::of(1)], Side::of(0));
    server.command(WorkerCommand::InstallSession(Box::new(install(Role::Server, 1, 2))));
    for client in &mut clients {
        client.command(WorkerCommand::InstallSession(Box::new(install(Role::Client, 1, 2))));
    }
    let burst = LANE_EVENTS_BURST as usize;
    let mut events = |sealed: &[Vec<u8>], port, waited: Duration| {
        server.now += waited;
        server.decapsulate(sealed, port, 0);
        server.events.try_iter().count()
    };
    let [flooder, other] = &mut clients;
    assert_eq!(events(&flooder.probes(1000), 1000, Duration::ZERO), burst);
    assert_eq!(events(&other.probes(3), 1001, Duration::ZERO), 4, "with its address");
    let one_second = Duration::from_secs(1);
    assert_eq!(events(&flooder.probes(1000), 1000, one_second), LANE_EVENTS_PPS as usize);

    // Neither does it help to come from elsewhere each time; the last address is learned later.
    let hops: Vec<_> = (0..500).map(|_| flooder.probes(1)).collect();
    let heard = (2000..).zip(&hops).map(|(port, sealed)| events(sealed, port, Duration::ZERO));
    assert_eq!(heard.sum::<usize>(), 0);
    assert_eq!(events(&flooder.probes(1), 3000, one_second), 2);
}

#[test]
fn a_refused_super_packet_goes_out_as_single_packets() {
    let (mut client, mut server) = pair();
    server.tun.refuse_super_packets = true;
    let sealed = client.encapsulate(tcp_super_packet(5000));
    assert!(sealed.len() > 1);
    assert_eq!(server.decapsulate(&sealed, 1000, 0).len(), sealed.len());
    assert_eq!(server.counters.tun_fallbacks.get(), 1);
    let sealed = client.encapsulate(tcp_super_packet(5000));
    server.decapsulate(&sealed, 1000, 0);
    assert_eq!(server.counters.tun_fallbacks.get(), 1, "it is not tried again");
    let options = server.forwarder.coalescer.options();
    assert_eq!(options, CoalesceOptions { tcp: false, ..CoalesceOptions::ALL });
}

/// An IPv4 TCP super-packet with `payload` bytes, cut at 1000, checksum left to hardware.
fn tcp_super_packet(payload: usize) -> Vec<u8> {
    let mut packet = udp_packet(CLIENT, SERVER, payload + 12);
    packet[9] = 6;
    packet[10..12].fill(0);
    packet[20..40].copy_from_slice(&[
        0x30, 0x39, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0,
    ]);
    let sum: u32 = packet[..20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut header = vec![1, 1];
    for field in [40u16, 1000, 20, 16] {
        header.extend(field.to_ne_bytes());
    }
    [header, packet].concat()
}

#[test]
fn a_super_packet_crosses_as_one() {
    let (mut client, mut server) = pair();
    let whole = tcp_super_packet(40_000);
    let sealed = client.encapsulate(whole.clone());
    assert_eq!(sealed.len(), 40);
    let frames = server.decapsulate(&sealed, 1000, 0);
    assert_eq!(frames.len(), 1);
    let without_checksum = |frame: &[u8]| {
        let mut packet = frame[VIRTIO_HEADER_LEN..].to_vec();
        packet[36..38].fill(0);
        packet
    };
    assert_eq!(without_checksum(&frames[0]), without_checksum(&whole));
}

#[test]
fn a_key_that_is_nearly_used_up_is_reported_once() {
    let (mut client, _) = pair();
    client.events.try_iter().for_each(drop);
    let session = client.forwarder.tables.session(CLIENT_INDEX).unwrap();
    session.spend_key(0, REKEY_AFTER_PACKETS);
    for _ in 0..3 {
        assert_eq!(client.encapsulate(ping(CLIENT, SERVER)).len(), 1);
    }
    let reports = client.events.try_iter();
    assert_eq!(
        reports.filter(|event| matches!(event, WorkerEvent::KeyNearlyUsed { .. })).count(),
        1
    );
}

#[test]
fn congestion_outside_is_carried_inside() {
    let (mut client, mut server) = pair();
    let mut packet = udp_packet(CLIENT, SERVER, 100);
    packet[1] = 0b10;
    // The IP checksum falls by what the TOS byte grew.
    let checksum = u16::from_be_bytes([packet[10], packet[11]]) - 2;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let sealed = client.encapsulate(frame(&packet));
    assert_eq!(client.wire.ecn, [0, 0b10], "the outer header bears the inner mark");
    let delivered = server.decapsulate(&sealed, 1000, 0b11);
    assert_eq!(delivered[0][VIRTIO_HEADER_LEN + 1], 0b11);
    assert_eq!(server.dropped_in_all(), 0);
}

impl Side {
    /// A datagram that carries `plaintext` as it is.
    fn seal_raw(&mut self, plaintext: &[u8]) -> Vec<Vec<u8>> {
        let mut slot = vec![0; DATA_HEADER_LEN + plaintext.len() + crate::limits::TAG_LEN];
        slot[DATA_HEADER_LEN..DATA_HEADER_LEN + plaintext.len()].copy_from_slice(plaintext);
        let session = self.forwarder.tables.session(CLIENT_INDEX).unwrap();
        session.send_lane(0).seal(&mut slot).unwrap();
        vec![slot]
    }
}
