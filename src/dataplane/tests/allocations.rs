//! A worker allocates nothing once its lanes have their keys and their replay windows, whatever it
//! meets.

use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr};

use super::{
    CLIENT, CLIENT_INDEX, SERVER, SERVER_INDEX, Side, frame, pair, tcp_super_packet, udp_packet,
};
use crate::dataplane::forwarder::{DatagramOutput, PacketOutput, SendOutcome};
use crate::dataplane::from_wire::Received;
use crate::dataplane::trains::TrainBuilder;
use crate::packet::{CoalesceOptions, checksum};
use crate::sys::allocations::allocations_in;
use crate::sys::udp::ReceivedMeta;
use crate::wire::Features;

/// Datagrams that lie one behind the other in memory that is there from the start.
struct Tape {
    bytes: Vec<u8>,
    messages: Vec<ReceivedMeta>,
    /// The socket takes nothing.
    blocked: bool,
}

impl Tape {
    fn new() -> Self {
        let (bytes, messages) = (Vec::with_capacity(1 << 20), Vec::with_capacity(1 << 12));
        Self { bytes, messages, blocked: false }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
    }
}

impl DatagramOutput for Tape {
    /// Each train becomes what `UDP_GRO` makes of it.
    fn send(&mut self, _listener: usize, trains: &mut TrainBuilder) -> SendOutcome {
        if self.blocked {
            return SendOutcome::default();
        }
        trains.hand_over();
        for train in trains.trains() {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(&trains.arena()[train.range.clone()]);
            self.messages.push(ReceivedMeta {
                range: start..self.bytes.len(),
                from: ([192, 0, 2, 2], 1000).into(),
                local: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
                stride: train.segment_len,
                ecn: train.tos & 3,
                truncated: false,
            });
        }
        trains.clear();
        SendOutcome::default()
    }
}

/// Counts what would be written to TUN, or refuses it.
#[derive(Default)]
struct Sink {
    writes: usize,
    refuse: Option<ErrorKind>,
    refuse_super_packets: bool,
}

impl PacketOutput for Sink {
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> std::io::Result<()> {
        if let Some(kind) = self.refuse {
            return Err(kind.into());
        }
        if self.refuse_super_packets && pieces.len() > 1 {
            return Err(ErrorKind::InvalidInput.into());
        }
        self.writes += 1;
        Ok(())
    }
}

/// Carries `frames` from one side to the other, whose device is `sink`; the allocations of each.
fn carry_to(frames: &[Vec<u8>], from: &mut Side, to: &mut Side, sink: &mut Sink) -> (u64, u64) {
    let mut frames = frames.to_vec();
    let (mut tape, mut unused) = (Tape::new(), Tape::new());
    let (mut sealing, mut opening) = (0, 0);
    for frame in &mut frames {
        tape.clear();
        sealing += allocations_in(|| {
            from.forwarder.encapsulate(frame, &mut tape, sink);
            from.forwarder.flush(&mut tape);
        });
        let Tape { bytes, messages, .. } = &mut tape;
        opening += allocations_in(|| {
            let received = Received { listener: 0, messages, arena: bytes, now: to.now };
            to.forwarder.decapsulate(received, &mut unused, sink);
        });
    }
    (sealing, opening)
}

/// The same, to a device that takes everything; and how often it was written to.
fn carry(frames: &[Vec<u8>], from: &mut Side, to: &mut Side) -> (u64, u64, usize) {
    let mut sink = Sink::default();
    let (sealing, opening) = carry_to(frames, from, to, &mut sink);
    (sealing, opening, sink.writes)
}

/// A client and a server whose lanes have carried more than 64 packets either way, which is what
/// makes keys and replay windows whole.
fn warm_pair() -> (Side, Side) {
    let (mut client, mut server) = pair();
    for _ in 0..2 {
        carry(&every_kind(CLIENT, SERVER), &mut client, &mut server);
        carry(&every_kind(SERVER, CLIENT), &mut server, &mut client);
    }
    (client, server)
}

/// A small packet, a TCP super-packet, a packet that may be fragmented and must be, one that may
/// not and is answered with word back, and one that has no route.
fn every_kind(from: Ipv4Addr, to: Ipv4Addr) -> [Vec<u8>; 5] {
    let mut fragmentable = udp_packet(from, to, 1400);
    fragmentable[6] = 0;
    let mut whole = tcp_super_packet(60_000);
    let packet = &mut whole[10..];
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    [
        frame(&udp_packet(from, to, 64)),
        whole,
        frame(&fragmentable),
        frame(&udp_packet(from, to, 1400)),
        frame(&udp_packet(from, Ipv4Addr::new(10, 9, 9, 9), 64)),
    ]
}

/// Datagrams of 300 bytes as one super-packet.
fn udp_super_packet(segments: usize) -> Vec<u8> {
    let packet = {
        let mut packet = udp_packet(CLIENT, SERVER, 300 * segments);
        let upper_len = packet.len() - 20;
        let sum = checksum::pseudo_header(CLIENT.into(), SERVER.into(), 17, upper_len);
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    let mut header = vec![1, 5];
    for field in [28_u16, 300, 20, 6] {
        header.extend(field.to_ne_bytes());
    }
    [header, packet].concat()
}

#[test]
fn the_packet_path_allocates_nothing_in_either_direction() {
    let (mut client, mut server) = warm_pair();
    let writes = 1 + 1 + 2 + 1;
    let what = "a packet, a super-packet, two fragments, a word back";
    for _ in 0..3 {
        let there = carry(&every_kind(CLIENT, SERVER), &mut client, &mut server);
        assert_eq!(there, (0, 0, writes), "{what}");
        let back = carry(&every_kind(SERVER, CLIENT), &mut server, &mut client);
        assert_eq!(back, (0, 0, writes), "{what}");
    }
    let udp = [udp_super_packet(60), udp_super_packet(1)];
    assert_eq!(carry(&udp, &mut client, &mut server), (0, 0, 2));
}

#[test]
fn a_lane_allocates_at_its_first_packet_and_at_its_64th_and_never_again() {
    let (mut client, mut server) = pair();
    let small = [frame(&udp_packet(CLIENT, SERVER, 64))];
    let allocated = |packet, side: &mut Side, other: &mut Side| {
        let (sealing, opening, _) = carry(&small, side, other);
        assert_eq!(sealing, 0, "packet {packet}");
        opening
    };
    // The keepalive of the pair was the first packet, numbered 0, and made the keys.
    let at: Vec<_> =
        (1..1000).filter(|packet| allocated(*packet, &mut client, &mut server) > 0).collect();
    assert_eq!(at, [64]);
}

#[test]
fn doing_without_offloads_allocates_nothing() {
    let frames = [udp_super_packet(60), tcp_super_packet(60_000)];
    // A device that takes single packets alone.
    let (mut client, mut server) = warm_pair();
    server.forwarder.coalescer.set_options(CoalesceOptions::NONE);
    assert_eq!(carry(&frames, &mut client, &mut server), (0, 0, 120));

    // A peer that wants whole checksums.
    let (mut client, mut server) = warm_pair();
    client.forwarder.tables.session(CLIENT_INDEX).unwrap().features = Features::empty();
    assert_eq!(carry(&frames, &mut client, &mut server), (0, 0, 120));

    // A device that refuses a super-packet of either kind, for the first time and after.
    let (mut client, mut server) = warm_pair();
    for _ in 0..2 {
        let mut sink = Sink { refuse_super_packets: true, ..Sink::default() };
        assert_eq!(carry_to(&frames, &mut client, &mut server, &mut sink), (0, 0));
        assert_eq!(sink.writes, 120);
    }
    assert_eq!(server.counters.tun_fallbacks.get(), 2);
}

#[test]
fn dropping_what_comes_from_the_device_allocates_nothing() {
    let (mut client, _) = warm_pair();
    let (mut tape, mut sink) = (Tape::new(), Sink::default());
    let before = client.dropped_in_all();
    let mut malformed = [vec![], frame(&[]), frame(&[0x15; 40]), frame(&[0x45; 12])];
    let count = malformed.len() as u64;
    for frame in &mut malformed {
        let forwarder = &mut client.forwarder;
        assert_eq!(allocations_in(|| forwarder.encapsulate(frame, &mut tape, &mut sink)), 0);
    }
    assert_eq!(client.dropped_in_all() - before, count);

    // A socket that takes nothing, until the batch is full and beyond.
    tape.blocked = true;
    let before = client.dropped_in_all();
    let packet = frame(&udp_packet(CLIENT, SERVER, 1300));
    for _ in 0..1000 {
        let (mut packet, forwarder) = (packet.clone(), &mut client.forwarder);
        let allocated = allocations_in(|| {
            forwarder.encapsulate(&mut packet, &mut tape, &mut sink);
            forwarder.flush(&mut tape);
        });
        assert_eq!(allocated, 0);
    }
    assert!(client.dropped_in_all() > before);
}

/// Changes a datagram, or what is known about it, so that it is dropped.
type Spoiler = fn(&mut ReceivedMeta, &mut [u8]);

#[test]
fn dropping_what_comes_from_the_wire_allocates_nothing() {
    let (mut client, mut server) = warm_pair();
    let spoilers: [(&str, Spoiler); 8] = [
        ("truncated", |message, _| message.truncated = true),
        ("too short", |message, _| message.range.end = message.range.start + 20),
        ("of an unknown type", |_, datagram| datagram[0] = 9),
        ("of another lane", |_, datagram| datagram[1] = 1),
        ("of no session", |_, datagram| datagram[4] ^= 1),
        ("old", |_, datagram| datagram[8..16].fill(0)),
        ("spent", |_, datagram| datagram[8..16].fill(0xff)),
        ("forged", |_, datagram| datagram[40] ^= 1),
    ];
    for (what, spoil) in spoilers {
        let (allocated, dropped) = deliver_one(&mut client, &mut server, CLIENT, None, spoil);
        assert_eq!((allocated, dropped), (0, 1), "{what}");
    }
    let stranger = Ipv4Addr::new(10, 8, 0, 3);
    let untouched = |_: &mut ReceivedMeta, _: &mut [u8]| {};
    let from_stranger = deliver_one(&mut client, &mut server, stranger, None, untouched);
    assert_eq!(from_stranger, (0, 1), "of a foreign source");
    for refusal in [ErrorKind::WouldBlock, ErrorKind::Other] {
        let refused = deliver_one(&mut client, &mut server, CLIENT, Some(refusal), untouched);
        assert_eq!(refused, (0, 1), "refused by the device: {refusal}");
    }
    let moved = |message: &mut ReceivedMeta, _: &mut [u8]| message.from.set_port(2000);
    let roamed = deliver_one(&mut client, &mut server, CLIENT, None, moved);
    assert_eq!(roamed, (0, 0), "from another address, which is told to the control thread");
    let session = server.forwarder.tables.session(SERVER_INDEX).unwrap();
    assert_eq!(session.send_endpoint.unwrap().remote.port(), 2000);
}

/// Delivers one packet from `source` that `spoil` has been at, to a device that may refuse it: how
/// often the server allocates, and how many packets it drops.
fn deliver_one(
    client: &mut Side,
    server: &mut Side,
    source: Ipv4Addr,
    refuse: Option<ErrorKind>,
    spoil: impl Fn(&mut ReceivedMeta, &mut [u8]),
) -> (u64, u64) {
    let (mut tape, mut unused) = (Tape::new(), Tape::new());
    let mut sink = Sink { refuse, ..Sink::default() };
    let mut packet = frame(&udp_packet(source, SERVER, 100));
    client.forwarder.encapsulate(&mut packet, &mut tape, &mut sink);
    client.forwarder.flush(&mut tape);
    let Tape { bytes, messages, .. } = &mut tape;
    spoil(&mut messages[0], bytes);
    let before = server.dropped_in_all();
    let allocated = allocations_in(|| {
        let received = Received { listener: 0, messages, arena: bytes, now: server.now };
        server.forwarder.decapsulate(received, &mut unused, &mut sink);
    });
    (allocated, server.dropped_in_all() - before)
}
