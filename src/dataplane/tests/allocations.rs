//! A worker allocates nothing once a session has carried its first packets.

use std::net::{IpAddr, Ipv4Addr};

use super::{CLIENT, SERVER, Side, frame, pair, tcp_super_packet, udp_packet};
use crate::dataplane::forwarder::{DatagramOutput, PacketOutput, SendOutcome};
use crate::dataplane::from_wire::Received;
use crate::dataplane::trains::TrainBuilder;
use crate::sys::allocations::allocations_in;
use crate::sys::udp::ReceivedMeta;

/// Datagrams that lie one behind the other in memory that is there from the start.
struct Tape {
    bytes: Vec<u8>,
    messages: Vec<ReceivedMeta>,
}

impl Tape {
    fn new() -> Self {
        Self { bytes: Vec::with_capacity(1 << 20), messages: Vec::with_capacity(1 << 12) }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
    }
}

impl DatagramOutput for Tape {
    /// Each train becomes what `UDP_GRO` makes of it.
    fn send(&mut self, _listener: usize, trains: &mut TrainBuilder) -> SendOutcome {
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

/// Counts what would be written to TUN.
#[derive(Default)]
struct Sink {
    writes: usize,
}

impl PacketOutput for Sink {
    fn write(&mut self, _pieces: &[std::io::IoSlice<'_>]) -> std::io::Result<()> {
        self.writes += 1;
        Ok(())
    }
}

/// Carries `frames` from one side to the other, and counts the allocations of each.
fn carry(frames: &[Vec<u8>], from: &mut Side, to: &mut Side) -> (u64, u64, usize) {
    let mut frames = frames.to_vec();
    let (mut tape, mut unused, mut sink) = (Tape::new(), Tape::new(), Sink::default());
    let (mut sealing, mut opening) = (0, 0);
    for frame in &mut frames {
        tape.clear();
        sealing += allocations_in(|| {
            from.forwarder.encapsulate(frame, &mut tape, &mut sink);
            from.forwarder.flush(&mut tape);
        });
        let Tape { bytes, messages } = &mut tape;
        opening += allocations_in(|| {
            let received = Received { listener: 0, messages, arena: bytes, now: to.now };
            to.forwarder.decapsulate(received, &mut unused, &mut sink);
        });
    }
    (sealing, opening, sink.writes)
}

#[test]
fn the_packet_path_allocates_nothing() {
    let (mut client, mut server) = pair();
    let fragmentable = {
        let mut packet = udp_packet(CLIENT, SERVER, 1400);
        packet[6] = 0;
        packet
    };
    let frames = [
        frame(&udp_packet(CLIENT, SERVER, 64)),
        tcp_super_packet(60_000),
        frame(&fragmentable),
        frame(&udp_packet(CLIENT, SERVER, 1400)),
        frame(&udp_packet(CLIENT, Ipv4Addr::new(10, 9, 9, 9), 64)),
    ];
    // The first packets derive the lane keys.
    carry(&frames, &mut client, &mut server);
    let (sealing, opening, writes) = carry(&frames, &mut client, &mut server);
    assert_eq!((sealing, opening), (0, 0));
    assert_eq!(writes, 1 + 1 + 2 + 1, "a packet, a super-packet, two fragments, a word back");
    let back = [frame(&udp_packet(SERVER, CLIENT, 64))];
    carry(&back, &mut server, &mut client);
    assert_eq!(carry(&back, &mut server, &mut client), (0, 0, 1));
}
