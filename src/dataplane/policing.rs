//! What a peer may do is enforced here, in both directions: who may talk to whom, and how fast.
//!
//! Whether a conversation may pass is looked up once and remembered, since packets come in trains.
//! A limit is charged for a whole super-packet at a time, for the bytes of all packets that it
//! stands for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::dataplane::forwarder::{DatagramOutput, Forwarder, PacketOutput};
use crate::dataplane::from_wire::write_released;
use crate::dataplane::waiting::{Released, Waiter, WaitingRoom, Way};
use crate::limits::VIRTIO_HEADER_LEN;
use crate::packet::{Parsed, Transport};
use crate::policy::bucket::{Bucket, Charge};
use crate::policy::{Direction, PeerPolicy, Verdict};
use crate::routing::PeerId;
use crate::telemetry::drops::DropReason;

/// Conversations that are remembered to have passed.
const PASSED_LEN: usize = 64;

/// One direction of a conversation of a peer with a far end, as rules tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conversation {
    peer: PeerId,
    direction: Direction,
    transport: Transport,
    port: u16,
    address: IpAddr,
}

impl Conversation {
    /// What a packet belongs to, if rules look at nothing else about it.
    #[inline]
    fn of(peer: PeerId, direction: Direction, packet: &[u8], parsed: &Parsed) -> Option<Self> {
        let transport = parsed.transport.filter(|_| !parsed.has_options)?;
        let ports = packet.get(parsed.transport_offset..)?.first_chunk::<4>()?;
        let (address, port) = match direction {
            Direction::FromPeer => (parsed.destination, [ports[2], ports[3]]),
            Direction::ToPeer => (parsed.source, [ports[0], ports[1]]),
        };
        Some(Self { peer, direction, transport, port: u16::from_be_bytes(port), address })
    }

    /// Where it is remembered.
    #[inline]
    fn slot(&self) -> usize {
        let address = match self.address {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                (bits ^ bits >> 64) as u32 ^ (bits >> 32) as u32
            }
        };
        let mixed = address ^ u32::from(self.port) << 16 ^ self.peer.0.rotate_left(8);
        let spread = (mixed ^ self.direction as u32).wrapping_mul(0x9e37_79b9);
        spread as usize >> 16 & (PASSED_LEN - 1)
    }
}

/// The conversations that have passed of late.
pub(super) struct Passed([Option<Conversation>; PASSED_LEN]);

impl Default for Passed {
    fn default() -> Self {
        Self([None; PASSED_LEN])
    }
}

impl Passed {
    /// Whether a packet of `peer` may pass; rules are asked only if its conversation has not passed
    /// before.
    #[inline]
    pub(super) fn judge(
        &mut self,
        peer: PeerId,
        policy: &PeerPolicy,
        direction: Direction,
        packet: &[u8],
        parsed: &Parsed,
        owner: impl FnOnce(IpAddr) -> Option<PeerId>,
    ) -> Result<(), DropReason> {
        let conversation = Conversation::of(peer, direction, packet, parsed);
        // In bounds: a slot is a remainder.
        let slot = conversation.map(|it| &mut self.0[it.slot()]);
        if slot.as_ref().is_some_and(|slot| **slot == conversation) {
            return Ok(());
        }
        let is_other_peers = |address| owner(address).is_some_and(|owner| owner != peer);
        match policy.judge.judge(direction, packet, parsed, is_other_peers) {
            Verdict::Denied => Err(DropReason::AclDenied),
            Verdict::Isolated => Err(DropReason::PeerIsolated),
            Verdict::Pass => {
                if let Some(slot) = slot {
                    *slot = conversation;
                }
                Ok(())
            }
        }
    }

    /// Forgets all, because rules or owners of addresses have changed.
    pub(super) fn clear(&mut self) {
        self.0.fill(None);
    }
}

/// What becomes of a packet under a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// It goes on.
    Now,
    /// It waits, and comes back when it may go on.
    Later,
    /// It is dropped.
    Never(DropReason),
}

/// Charges `bucket` with `bytes` for a packet that is given in pieces, virtio header first, of
/// `len` bytes together; has it wait if it must.
pub(super) fn take_turn<'a>(
    room: &mut Option<Box<WaitingRoom>>,
    now: Instant,
    waiter: &Waiter<'_>,
    bytes: usize,
    len: usize,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Passage {
    let bucket: &Bucket = waiter.bucket;
    let room = room.as_deref_mut().filter(|room| room.has_room(bucket, len));
    match (bucket.charge(now, bytes, room.is_some()), room) {
        (Charge::Now, _) => Passage::Now,
        (Charge::At { time, congested }, Some(room)) => {
            room.hold(waiter, time, congested, pieces);
            Passage::Later
        }
        (Charge::Refused, Some(_)) => Passage::Never(DropReason::RateExceeded),
        (Charge::Refused | Charge::At { .. }, None) => Passage::Never(DropReason::WaitingRoomFull),
    }
}

impl Forwarder {
    /// Sets memory aside for packets that will have to wait under `policy`.
    pub(super) fn prepare_for(&mut self, policy: Option<&Arc<PeerPolicy>>) {
        if policy.is_some_and(|it| it.up.is_some() || it.down.is_some()) {
            self.waiting.get_or_insert_with(|| Box::new(WaitingRoom::new()));
        }
    }

    /// When a packet that waits may go on; those for the wire do not count while its socket is
    /// `blocked`.
    pub(super) fn next_release(&self, blocked: bool) -> Option<Instant> {
        let room = self.waiting.as_ref()?;
        let to_wire = room.next_release(Way::ToWire).filter(|_| !blocked);
        to_wire.into_iter().chain(room.next_release(Way::ToTun)).min()
    }

    /// Writes the packets to TUN whose time has come.
    pub(super) fn release_to_tun(&mut self, packets: &mut impl PacketOutput) {
        while let Some(released) = self.take_released(Way::ToTun) {
            if self.tables.has_session(released.peer) {
                let Self { counters, scratch, .. } = self;
                if let Some(transport) = write_released(packets, counters, scratch, &released) {
                    self.give_up_super_packets(transport);
                }
            } else {
                // Its peer has been let go of in the meantime.
                self.drop_packets(DropReason::SessionUnknown, released.packets);
            }
            self.take_back(released);
        }
    }

    /// Seals the packets whose time has come, until the batch is due. Returns whether there were
    /// any.
    pub(super) fn release_to_wire(
        &mut self,
        datagrams: &mut impl DatagramOutput,
        packets: &mut impl PacketOutput,
    ) -> bool {
        let mut any = false;
        while !self.is_due()
            && let Some(mut released) = self.take_released(Way::ToWire)
        {
            self.encapsulate_charged(released.frame_mut(), datagrams, packets);
            self.take_back(released);
            any = true;
        }
        any
    }

    fn take_released(&mut self, way: Way) -> Option<Released> {
        let now = self.now;
        self.waiting.as_mut()?.release(way, now)
    }

    fn take_back(&mut self, released: Released) {
        if let Some(room) = &mut self.waiting {
            room.take_back(released);
        }
    }
}

/// Bytes that a frame takes while it waits.
pub(super) const fn frame_len(packet_len: usize) -> usize {
    VIRTIO_HEADER_LEN + packet_len
}
