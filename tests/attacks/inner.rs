//! What a peer that was let in puts into its packets.
//!
//! Whatever it is, it is either dropped and counted, or handed to the kernel as the plain packet
//! that it is, which a router might as well have brought: never with a virtio header that says
//! what is not so, which the kernel would refuse (`tun_write_failed`) or, worse, believe.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corelane::handshake::keys::PrivateKey;
use corelane::lab::wait_until;
use corelane::limits::{
    DATA_OVERHEAD_LEN, LANE_EVENTS_BURST, PACKET_LEN_MAX, PADDING_LEN, UDP_PAYLOAD_MAX,
};
use corelane::sys::capture::Capture;
use corelane::telemetry::drops::DropReason::{
    self, AuthenticationFailed, EcnIllegal, InnerMalformed, InnerSourceNotAllowed,
    PathMessageExcess,
};
use corelane::wire::{FLAG_CONTINUES_RUN, FLAG_PARTIAL_CHECKSUM, PATH_MESSAGE_LEN, PathMessage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use socket2::SockRef;

use crate::attacker::ATTACKER;
use crate::harness::{CLIENT_V4, CLIENT_V6, PATIENCE, SERVER_V4, SERVER_V6, TUN, capture};
use crate::insider::{INSIDER_V4, INSIDER_V6, Insider, at, credentials};
use crate::packets::*;
use crate::stage::{Drops, SERVER, Side, Stage};

/// A stage with one more peer, who is connected.
fn build() -> (Stage, Insider) {
    let mut stage = Stage::prepare(Default::default());
    let (key, peer) = credentials();
    stage.tunnel.peers.push(peer);
    stage.tunnel.write_server_config();
    stage.start();
    let insider = connect(&stage, &key);
    (stage, insider)
}

fn connect(stage: &Stage, key: &PrivateKey) -> Insider {
    let insider = Insider::connect(&stage.attacker.host, key, &stage.tunnel.server_key);
    assert_eq!(insider.socket.local_addr().unwrap().ip(), IpAddr::from(ATTACKER));
    insider
}

/// What the server has handed to its kernel, and what not.
struct Tally {
    delivered: u64,
    drops: Drops,
}

impl Tally {
    fn of(stage: &Stage) -> Self {
        let status = stage.status(Side::Server);
        let drops = stage.drops(Side::Server);
        Self { delivered: status.workers[0].from_wire_packets, drops }
    }

    /// Waits until so many more were delivered, and exactly these dropped.
    #[track_caller]
    fn assert_added(&self, stage: &Stage, delivered: u64, dropped: &[(DropReason, u64)]) {
        stage.assert_added(Side::Server, &self.drops, dropped);
        let expected = self.delivered + delivered;
        let arrived = || (Self::of(stage).delivered == expected).then_some(());
        if wait_until(PATIENCE, "packets to be delivered", arrived).is_err() {
            let now = Self::of(stage).delivered;
            panic!("{} delivered instead of {delivered}", now - self.delivered);
        }
    }
}

/// Sends a table of plaintexts, each of which must be delivered (`None`) or dropped.
#[track_caller]
fn try_each(table: Vec<(&'static str, Vec<u8>, Option<DropReason>)>) {
    let (stage, mut insider) = build();
    for (what, plaintext, reason) in table {
        let before = Tally::of(&stage);
        insider.send(&plaintext);
        eprintln!("{what}, {} bytes: {reason:?}", plaintext.len());
        let dropped: Vec<_> = reason.map(|reason| (reason, 1)).into_iter().collect();
        before.assert_added(&stage, u64::from(reason.is_none()), &dropped);
    }
    insider.assert_served();
    let server = &stage.status(Side::Server).workers[0];
    assert_eq!(server.tun_fallbacks, 0);
    stage.assert_unharmed();
}

fn here() -> (IpAddr, u16) {
    at(INSIDER_V4, 4000)
}

fn there() -> (IpAddr, u16) {
    at(SERVER_V4, 4001)
}

/// A sound packet with some bytes changed.
fn changed(mut packet: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, value) in changes {
        packet[*at] = *value;
    }
    packet
}

fn v4_tcp() -> Vec<u8> {
    ipv4(INSIDER_V4, SERVER_V4, TCP, &tcp(here(), there(), 1, &[7; 64]))
}

fn v4_udp() -> Vec<u8> {
    ipv4(INSIDER_V4, SERVER_V4, UDP, &udp(here(), there(), &[7; 64]))
}

fn v6_with(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(INSIDER_V6, SERVER_V6, next_header, payload)
}

#[test]
fn headers_that_are_cut_or_lie_are_malformed() {
    const BAD: Option<DropReason> = Some(InnerMalformed);
    let v6 = || v6_with(UDP, &udp(at(INSIDER_V6, 1), at(SERVER_V6, 2), &[7; 24]));
    // The two flags aside, a first byte of 0x2_ or 0x0_ is no packet but a path message.
    let nibbles = [0x00, 0x20, 0x80, 0xa0, 0x30]
        .map(|first| ("a version that nobody has", changed(v4_udp(), &[(0, first | 5)]), BAD));
    let mut table = Vec::from(nibbles);
    for len in [1, 15, 19] {
        table.push(("IPv4 cut short", v4_udp()[..len].to_vec(), BAD));
    }
    for len in [1, 8, 39] {
        table.push(("IPv6 cut short", v6()[..len].to_vec(), BAD));
    }
    table.extend([
        ("longer than it is", changed(v4_udp(), &[(2, 0xff), (3, 0xff)]), BAD),
        ("longer by one block", changed(v4_udp(), &[(3, 97)]), BAD),
        ("shorter than its header", changed(v4_udp(), &[(2, 0), (3, 19)]), BAD),
        ("no length", changed(v4_udp(), &[(2, 0), (3, 0)]), BAD),
        ("a header of 16 bytes", changed(v4_udp(), &[(0, 0x44)]), BAD),
        ("a header of 0 bytes", changed(v4_udp(), &[(0, 0x40)]), BAD),
        ("a header beyond the packet", changed(v4_udp(), &[(0, 0x4f), (2, 0), (3, 59)]), BAD),
        ("IPv6, longer than it is", changed(v6(), &[(4, 0xff), (5, 0xff)]), BAD),
        ("IPv6, longer by one block", changed(v6(), &[(5, 57)]), BAD),
        ("IPv6, a jumbogram", changed(v6(), &[(4, 0), (5, 0), (6, 0)]), None),
        ("a packet and rubbish behind", [v4_udp(), vec![0xff; 64]].concat(), None),
        ("a packet of the largest size", largest(), None),
    ]);
    try_each(table);
}

/// The longest packet that a datagram takes along.
fn largest() -> Vec<u8> {
    let plaintext_len = (UDP_PAYLOAD_MAX - DATA_OVERHEAD_LEN) / PADDING_LEN * PADDING_LEN;
    let payload = vec![7; plaintext_len - 28];
    let packet = ipv4(INSIDER_V4, SERVER_V4, UDP, &udp(here(), there(), &payload));
    assert!(packet.len() <= PACKET_LEN_MAX);
    packet
}

/// What is sound as an IP packet passes as one, whatever stands above: the kernel judges that.
#[test]
fn damage_above_ip_is_left_to_the_kernel_without_a_word_about_it() {
    let options = |bytes: &[u8]| {
        let datagram = udp(here(), there(), &[7; 16]);
        ipv4_with_options(INSIDER_V4, SERVER_V4, UDP, bytes, &datagram)
    };
    let fragment = |field: u16, payload: &[u8]| {
        let mut packet = ipv4(INSIDER_V4, SERVER_V4, UDP, payload);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        correct_header(&mut packet);
        packet
    };
    // Destination options: next header, length in units of 8 beyond the first, one PadN option.
    let option = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let chain = [option(60).repeat(12), option(59).to_vec()].concat();
    let v6_fragment = |next: u8, field: u16| {
        let [high, low] = field.to_be_bytes();
        v6_with(44, &[&[next, 0, high, low, 0, 0, 0, 9][..], &[7; 24]].concat())
    };
    try_each(vec![
        ("an IPv4 header of 60 bytes", options(&[1; 40]), None),
        ("a route option that ends nowhere", options(&[131, 255, 4, 0]), None),
        ("an option without a length", options(&[1, 1, 1, 68]), None),
        ("an option of no length", options(&[68, 0, 0, 0]), None),
        ("a first fragment", fragment(0x2000, &udp(here(), there(), &[7; 64])), None),
        ("a later fragment", fragment(0x0001, &[7; 64]), None),
        ("a fragment beyond 64 KiB", fragment(0x1fff, &[7; 64]), None),
        ("a fragment in the middle of a header", fragment(0x2000, &[7; 4]), None),
        ("a fragment of nothing", fragment(0x2000, &[]), None),
        ("IPv6, a first fragment", v6_fragment(UDP, 1), None),
        ("IPv6, a later fragment", v6_fragment(UDP, 0x0101), None),
        ("IPv6, a fragment that is whole", v6_fragment(UDP, 0), None),
        ("IPv6, a fragment of a fragment", v6_fragment(44, 1), None),
        ("IPv6, many extension headers", v6_with(60, &chain), None),
        ("IPv6, an extension beyond the packet", v6_with(60, &[59, 255, 1, 4, 0, 0, 0, 0]), None),
        ("IPv6, a cut extension", v6_with(0, &[59]), None),
        ("IPv6, an extension that never ends", v6_with(43, &[43; 64]), None),
        ("IPv6, nothing behind the header", v6_with(UDP, &[]), None),
        ("TCP, a header of 0 bytes", changed(v4_tcp(), &[(32, 0)]), None),
        ("TCP, a header beyond the packet", changed(v4_tcp(), &[(32, 0xf0), (3, 60)]), None),
        ("TCP, cut short", ipv4(INSIDER_V4, SERVER_V4, TCP, &[7; 19]), None),
        ("UDP, cut short", ipv4(INSIDER_V4, SERVER_V4, UDP, &[7; 7]), None),
        ("UDP, longer than it is", changed(v4_udp(), &[(24, 0xff)]), None),
        ("UDP, a wrong checksum", changed(v4_udp(), &[(26, 0xff)]), None),
        ("a wrong header checksum", changed(v4_udp(), &[(10, 0xff)]), None),
        ("a protocol that nobody speaks", ipv4(INSIDER_V4, SERVER_V4, EXPERIMENT, &[7; 64]), None),
        ("to a loopback address", ipv4(INSIDER_V4, Ipv4Addr::LOCALHOST, UDP, &[7; 64]), None),
        ("to nobody", ipv4(INSIDER_V4, Ipv4Addr::UNSPECIFIED, UDP, &[7; 64]), None),
        ("to itself", ipv4(INSIDER_V4, INSIDER_V4, UDP, &[7; 64]), None),
    ]);
}

/// The flag says that the checksum field holds the sum of the pseudo-header. The kernel is told
/// where to complete it, so it must be a TCP or UDP packet that is whole.
#[test]
fn a_partial_checksum_must_be_possible() {
    const BAD: Option<DropReason> = Some(InnerMalformed);
    let partial = |packet: Vec<u8>| {
        let first = packet[0] | FLAG_PARTIAL_CHECKSUM;
        changed(packet, &[(0, first)])
    };
    let v6_udp = v6_with(UDP, &udp(at(INSIDER_V6, 1), at(SERVER_V6, 2), &[7; 24]));
    let behind_option = v6_with(60, &[&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &v6_udp[40..]].concat());
    let mut table = vec![
        ("UDP", partial(v4_udp()), None),
        ("TCP", partial(v4_tcp()), None),
        ("UDP over IPv6", partial(v6_udp), None),
        ("UDP behind an extension header", partial(behind_option), None),
        ("a first fragment", partial(changed(v4_udp(), &[(6, 0x20)])), BAD),
        ("a later fragment", partial(changed(v4_udp(), &[(7, 1)])), BAD),
        ("TCP, a header of 16 bytes", partial(changed(v4_tcp(), &[(32, 0x40)])), BAD),
        (
            "TCP, a header beyond the packet",
            partial(changed(v4_tcp(), &[(32, 0xf0), (3, 60)])),
            BAD,
        ),
        ("TCP, cut short", partial(ipv4(INSIDER_V4, SERVER_V4, TCP, &[7; 19])), BAD),
        ("UDP, cut short", partial(ipv4(INSIDER_V4, SERVER_V4, UDP, &[7; 7])), BAD),
        ("UDP, longer than it is", partial(changed(v4_udp(), &[(24, 0xff)])), BAD),
        ("UDP, shorter than it is", partial(changed(v4_udp(), &[(25, 9)])), BAD),
        ("UDP of no length", partial(changed(v4_udp(), &[(24, 0), (25, 0)])), BAD),
        ("IPv6 with nothing in it", partial(v6_with(UDP, &[])), BAD),
    ];
    for protocol in [0, ICMP, 2, 4, 33, 41, 47, 50, ICMPV6, 132, 136, EXPERIMENT, 255] {
        let packet = ipv4(INSIDER_V4, SERVER_V4, protocol, &[7; 64]);
        table.push(("a protocol without offload", partial(packet), BAD));
        if protocol != 0 {
            table.push(("the same over IPv6", partial(v6_with(protocol, &[7; 64])), BAD));
        }
    }
    try_each(table);
}

#[test]
fn a_source_that_is_not_the_peers_is_refused() {
    const FOREIGN: Option<DropReason> = Some(InnerSourceNotAllowed);
    let v4 = [
        CLIENT_V4,
        SERVER_V4,
        Ipv4Addr::new(10, 77, 0, 67),
        Ipv4Addr::new(192, 0, 2, 1),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(169, 254, 169, 254),
    ];
    let v6 = [
        CLIENT_V6,
        SERVER_V6,
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        INSIDER_V4.to_ipv6_mapped(),
        INSIDER_V4.to_ipv6_compatible(),
        "fe80::1".parse().unwrap(),
        "ff02::1".parse().unwrap(),
    ];
    let v4 = v4.map(|source| {
        let packet = ipv4(source, SERVER_V4, UDP, &udp((source.into(), 1), there(), &[7; 64]));
        ("a foreign source", packet, FOREIGN)
    });
    let v6 = v6.map(|source| {
        let datagram = udp((source.into(), 1), at(SERVER_V6, 2), &[7; 64]);
        ("a foreign source over IPv6", ipv6(source, SERVER_V6, UDP, &datagram), FOREIGN)
    });
    try_each(v4.into_iter().chain(v6).collect());
}

/// The packets that the server's TUN device has taken from the insider: lengths, and how long the
/// segments are of those that stand for several.
fn taken(tun: &mut Capture) -> Vec<(usize, Option<usize>)> {
    let mut taken = Vec::new();
    while let Some(captured) = tun.receive().unwrap() {
        let from_insider = captured.packet.get(12..16) == Some(&INSIDER_V4.octets());
        if !captured.outgoing && from_insider {
            taken.push((captured.packet.len(), captured.segment_len));
        }
    }
    taken
}

/// A segment of a run with both flags, whose checksum is only begun.
fn segment(port: u16, sequence: u32, len: usize, flags: u8) -> Vec<u8> {
    let segment = tcp(at(INSIDER_V4, port), there(), sequence, &vec![7; len]);
    whole(ipv4(INSIDER_V4, SERVER_V4, TCP, &segment), flags)
}

/// A packet that must not be fragmented, whose identification thus does not matter, with flags.
fn whole(packet: Vec<u8>, flags: u8) -> Vec<u8> {
    let mut packet = changed(packet, &[(6, 0x40)]);
    correct_header(&mut packet);
    changed(packet, &[(0, 0x45 | flags)])
}

#[test]
fn a_run_that_is_none_is_written_as_single_packets() {
    const PARTIAL: u8 = FLAG_PARTIAL_CHECKSUM;
    const BOTH: u8 = FLAG_PARTIAL_CHECKSUM | FLAG_CONTINUES_RUN;
    let (stage, mut insider) = build();
    let mut tun = capture(stage.tunnel.lab.server(), TUN);
    let datagram = |port: u16, flags: u8| {
        let packet =
            ipv4(INSIDER_V4, SERVER_V4, UDP, &udp(at(INSIDER_V4, port), there(), &[7; 100]));
        whole(packet, flags)
    };
    for (what, train) in [
        ("continues nothing", vec![segment(1, 1, 100, BOTH)]),
        ("continues nothing, checksum whole", vec![segment(1, 1, 100, FLAG_CONTINUES_RUN)]),
        ("another flow", vec![segment(1, 1, 100, PARTIAL), segment(2, 101, 100, BOTH)]),
        ("another protocol", vec![segment(1, 1, 100, PARTIAL), datagram(1, BOTH)]),
        ("a gap", vec![segment(1, 1, 100, PARTIAL), segment(1, 102, 100, BOTH)]),
        ("again", vec![segment(1, 1, 100, PARTIAL), segment(1, 1, 100, BOTH)]),
        ("backwards", vec![segment(1, 101, 100, PARTIAL), segment(1, 1, 100, BOTH)]),
        ("growing", vec![segment(1, 1, 100, PARTIAL), segment(1, 101, 101, BOTH)]),
        ("empty", vec![segment(1, 1, 100, PARTIAL), segment(1, 101, 0, BOTH)]),
        ("whole checksum", vec![segment(1, 1, 100, PARTIAL), segment(1, 101, 100, 0x10)]),
        ("behind a whole checksum", vec![segment(1, 1, 100, 0), segment(1, 101, 100, BOTH)]),
    ] {
        let before = Tally::of(&stage);
        insider.send_train(&stage.attacker.host, &train);
        before.assert_added(&stage, train.len() as u64, &[]);
        let taken = taken(&mut tun);
        eprintln!("{what}: {taken:?}");
        assert_eq!(taken.len(), train.len(), "{what}: {taken:?}");
        assert!(taken.iter().all(|(_, segment_len)| segment_len.is_none()), "{what}: {taken:?}");
    }
    // That this is how a run would show: one that is one.
    let before = Tally::of(&stage);
    let run: Vec<_> = (0..40)
        .map(|number| segment(1, 1 + 100 * number, 100, if number == 0 { PARTIAL } else { BOTH }))
        .collect();
    insider.send_train(&stage.attacker.host, &run);
    before.assert_added(&stage, 40, &[]);
    assert_eq!(taken(&mut tun), [(40 + 4000, Some(100))]);
    insider.assert_served();
    stage.assert_unharmed();
}

#[test]
fn path_messages_that_are_none_are_malformed() {
    const BAD: Option<DropReason> = Some(InnerMalformed);
    let message = |message: PathMessage| {
        let mut bytes = [0; PATH_MESSAGE_LEN];
        message.emit(&mut bytes);
        bytes.to_vec()
    };
    let probe = message(PathMessage::Probe { path: 0, token: 1 });
    let close = message(PathMessage::Close { reason: 0 });
    let mut table = vec![
        ("nothing in it", vec![0; 16], BAD),
        ("an unknown kind", changed(probe.clone(), &[(0, 6)]), BAD),
        ("an unknown kind", changed(probe.clone(), &[(0, 0x0f)]), BAD),
        ("a probe with a length", changed(probe.clone(), &[(3, 1)]), BAD),
        ("reserved bytes", changed(probe, &[(4, 1)]), BAD),
        ("a close with a length", changed(close.clone(), &[(2, 1)]), BAD),
        ("a close with a token", changed(close, &[(15, 1)]), BAD),
    ];
    for first in [0x02_u8, 0x0a, 0x22, 0x2f] {
        table.push(("rubbish", vec![first | 0x04; 40], BAD));
    }
    try_each(table);
}

/// Answers that nobody asked for, probes of paths that there are not, and more of them than the
/// control thread, which serves all peers, should have to look at.
#[test]
fn path_messages_in_excess_are_dropped_by_the_worker() {
    const COUNT: usize = 5000;
    let (stage, mut insider) = build();
    let before = Tally::of(&stage);
    let mut bytes = [0; PATH_MESSAGE_LEN];
    for number in 0..COUNT {
        let (path, token) = (number as u8, number as u64);
        let message = match number % 2 {
            0 => PathMessage::Probe { path, token },
            _ => PathMessage::ProbeAck { path, token, plaintext_len: u16::MAX },
        };
        message.emit(&mut bytes);
        insider.send(&bytes);
    }
    let excess = |stage: &Stage| {
        stage.drops(Side::Server).get(PathMessageExcess.name()).copied().unwrap_or_default()
    };
    let most = (COUNT - 2 * LANE_EVENTS_BURST as usize) as u64 * 3 / 4;
    let dropped = || (excess(&stage) > most).then_some(());
    wait_until(PATIENCE, "the excess to be dropped", dropped).unwrap();
    before.assert_added(&stage, 0, &[(PathMessageExcess, excess(&stage))]);
    insider.assert_served();
    stage.assert_unharmed();
}

/// What one peer has sealed does not open as another's, whichever session it names.
#[test]
fn a_peer_cannot_speak_for_another_by_naming_its_session() {
    const COUNT: u64 = 20;
    let (stage, mut insider) = build();
    let session = stage.index_of_session(Side::Server);
    assert_ne!(session, insider.remote);
    let before = Tally::of(&stage);
    let source = (CLIENT_V4.into(), 1);
    let forged = ipv4(CLIENT_V4, SERVER_V4, UDP, &udp(source, there(), &[7; 64]));
    for _ in 0..COUNT {
        let mut datagram = insider.seal(&forged);
        // Counters that nobody has used yet, or the window would be what refuses them.
        datagram[8..12].copy_from_slice(&[0, 0, 0, 0]);
        datagram[12] = 1;
        datagram[4..8].copy_from_slice(&session.0.to_be_bytes());
        stage.attacker.send(SERVER.into(), &datagram);
    }
    before.assert_added(&stage, 0, &[(AuthenticationFailed, COUNT)]);
    insider.assert_served();
    stage.assert_unharmed();
}

/// A congestion mark outside on a packet whose ends do not understand it (RFC 6040).
#[test]
fn a_congestion_mark_that_nobody_understands_costs_the_packet() {
    const CONGESTION: u32 = 3;
    let (stage, mut insider) = build();
    let before = Tally::of(&stage);
    SockRef::from(&insider.socket).set_tos_v4(CONGESTION).unwrap();
    insider.send(&v4_udp());
    before.assert_added(&stage, 0, &[(EcnIllegal, 1)]);
    SockRef::from(&insider.socket).set_tos_v4(0).unwrap();
    insider.assert_served();
    stage.assert_unharmed();
}

/// Sound packets with some bytes changed, and plain rubbish: every one is accounted for, and the
/// kernel never refuses one, as it does with a virtio header that points outside the packet.
#[test]
fn whatever_is_inside_the_kernel_takes_what_it_is_given() {
    const COUNT: u64 = 4000;
    let (stage, mut insider) = build();
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    let before = Tally::of(&stage);
    let v6 = v6_with(UDP, &udp(at(INSIDER_V6, 1), at(SERVER_V6, 2), &[7; 100]));
    let v6_tcp = v6_with(TCP, &tcp(at(INSIDER_V6, 1), at(SERVER_V6, 2), 1, &[7; 300]));
    let sound = [v4_udp(), v4_tcp(), v6, v6_tcp];
    for number in 0..COUNT {
        let mut plaintext = sound[rng.random_range(0..sound.len())].clone();
        plaintext[0] |= rng.random::<u8>() & (FLAG_PARTIAL_CHECKSUM | FLAG_CONTINUES_RUN);
        for _ in 0..rng.random_range(0..4) {
            // Never the source, without which nothing gets far.
            let at = [0, 1, 2, 3, 4, 5, 6, 7, 9, 20, 24, 25, 32, 33, 40, 44, 45, 52];
            let at = at[rng.random_range(0..at.len())];
            plaintext[at] = rng.random();
        }
        if rng.random_range(0..8) == 0 {
            plaintext.truncate(rng.random_range(1..=plaintext.len()));
        }
        insider.send(&plaintext);
        // The kernel's buffers are not what is tried here.
        if number % 200 == 199 {
            await_accounted(&stage, &before, number + 1);
        }
    }
    await_accounted(&stage, &before, COUNT);
    let counted: BTreeMap<_, _> = stage.drops(Side::Server);
    assert!(counted[InnerMalformed.name()] > 100, "{counted:#?}");
    let delivered = Tally::of(&stage).delivered - before.delivered;
    assert!(delivered > 1000, "{delivered} delivered");
    for refused in [DropReason::TunWriteFailed, DropReason::TunQueueFull] {
        assert!(!counted.contains_key(refused.name()), "{counted:#?}");
    }
    assert_eq!(stage.status(Side::Server).workers[0].tun_fallbacks, 0);
    insider.assert_served();
    stage.assert_unharmed();
}

/// Waits until each of `count` packets was delivered or dropped; path messages are neither.
#[track_caller]
fn await_accounted(stage: &Stage, before: &Tally, count: u64) {
    let accounted = || {
        let delivered = Tally::of(stage).delivered - before.delivered;
        (delivered + stage.added(Side::Server, &before.drops) >= count).then_some(())
    };
    wait_until(PATIENCE, "every packet to be accounted for", accounted).unwrap();
}
