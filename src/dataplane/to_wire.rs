//! From the TUN device to the wire: look up, split, seal, pack.

use std::io::IoSlice;

use crate::dataplane::forwarder::{DatagramOutput, Forwarder, PacketOutput, SendOutcome};
use crate::dataplane::messages::{Endpoint, WorkerEvent};
use crate::dataplane::policing::{Passage, frame_len, take_turn};
use crate::dataplane::tables::Session;
use crate::dataplane::trains::TrainBuilder;
use crate::dataplane::waiting::{Waiter, Way};
use crate::limits::{
    DATA_HEADER_LEN, DATA_OVERHEAD_LEN, REKEY_AFTER_PACKETS, TOO_BIG_ANSWERS_BURST,
    TOO_BIG_ANSWERS_PPS, VIRTIO_HEADER_LEN, padded_len,
};
use crate::packet::fragment::Fragments;
use crate::packet::{Parsed, Split, VirtioHeader, icmp, mss};
use crate::policy::Direction;
use crate::rate::Rate;
use crate::telemetry::drops::DropReason;
use crate::wire::{FLAGS, Features, PATH_MESSAGE_LEN, PathMessage, SessionIndex};

/// How often a worker says that a packet is too big: each packet that is could cause one.
const TOO_BIG_ANSWERS: Rate = Rate::new(TOO_BIG_ANSWERS_PPS, TOO_BIG_ANSWERS_BURST);

/// Why a datagram did not get into the batch.
enum NotSealed {
    /// The socket is full, and so is the batch.
    NoRoom,
    /// No address is known for the path.
    NoPath,
    /// The lane's key is used up.
    Exhausted,
}

impl NotSealed {
    const fn reason(&self) -> DropReason {
        match self {
            Self::NoRoom => DropReason::SendFailed,
            Self::NoPath => DropReason::NoPath,
            Self::Exhausted => DropReason::KeyExhausted,
        }
    }
}

/// Seals datagrams of one session into the batches.
struct Sealer<'a, D> {
    worker: usize,
    session: &'a mut Session,
    /// Where its datagrams go.
    endpoint: Option<Endpoint>,
    outbound: &'a mut [TrainBuilder],
    datagrams: &'a mut D,
    /// What sends brought to light that had to make room.
    outcome: SendOutcome,
}

impl<D: DatagramOutput> Sealer<'_, D> {
    /// Seals one datagram whose plaintext, `padded` bytes long, is written by `write` in its first
    /// `len` bytes. The rest of it is zeroed here.
    #[inline]
    fn seal(
        &mut self,
        len: usize,
        padded: usize,
        tos: u8,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), NotSealed> {
        let endpoint = self.endpoint.ok_or(NotSealed::NoPath)?;
        let datagram_len = padded + DATA_OVERHEAD_LEN;
        let listener = usize::from(endpoint.listener);
        let trains = self.outbound.get_mut(listener).ok_or(NotSealed::NoPath)?;
        if !trains.has_room(datagram_len) {
            self.outcome.join(self.datagrams.send(listener, trains));
        }
        let slot = trains.slot(datagram_len).ok_or(NotSealed::NoRoom)?;
        let plaintext = &mut slot[DATA_HEADER_LEN..DATA_HEADER_LEN + padded];
        plaintext[len..].fill(0);
        write(plaintext);
        let lane = self.session.send_lane(self.worker);
        lane.seal(slot).map_err(|_| NotSealed::Exhausted)?;
        trains.commit(datagram_len, self.session.local, &endpoint, tos);
        Ok(())
    }
}

impl Forwarder {
    /// Takes one frame as TUN delivers it, a virtio header and a packet or super-packet, and adds
    /// its sealed datagrams to the batch.
    pub(super) fn encapsulate(
        &mut self,
        frame: &mut [u8],
        datagrams: &mut impl DatagramOutput,
        packets: &mut impl PacketOutput,
    ) {
        self.encapsulate_frame(frame, false, datagrams, packets);
    }

    /// The same for a frame that a limit was charged for when it came, and that has waited since.
    pub(super) fn encapsulate_charged(
        &mut self,
        frame: &mut [u8],
        datagrams: &mut impl DatagramOutput,
        packets: &mut impl PacketOutput,
    ) {
        self.encapsulate_frame(frame, true, datagrams, packets);
    }

    #[inline]
    fn encapsulate_frame(
        &mut self,
        frame: &mut [u8],
        is_charged: bool,
        datagrams: &mut impl DatagramOutput,
        packets: &mut impl PacketOutput,
    ) {
        let Some((header, packet)) = frame.split_first_chunk_mut::<VIRTIO_HEADER_LEN>() else {
            return self.drop_packets(DropReason::PacketMalformed, 1);
        };
        let header = VirtioHeader::parse(header);
        let Ok(parsed) = Parsed::parse(packet) else {
            return self.drop_packets(DropReason::PacketMalformed, 1);
        };
        let Some(peer) = self.tables.owner(parsed.destination) else {
            return self.drop_packets(DropReason::NoRoute, 1);
        };
        let Some(session) = self.tables.sending_session(peer) else {
            let known = self.tables.has_session(peer);
            let reason = if known { DropReason::NoPath } else { DropReason::NoSession };
            return self.drop_packets(reason, 1);
        };
        let (index, plaintext_max) = (session.local, session.plaintext_max);
        let partial_checksums = session.features.contains(Features::CHECKSUM_OFFLOAD);
        let is_looped = session.has_sent(&parsed, packet);
        let has_policy = session.policy.is_some();
        let copy_dscp = self.copy_dscp;
        mss::clamp(packet, &parsed, plaintext_max, header.needs_checksum());
        let Ok(mut split) = Split::with_parsed(&header, packet, parsed, partial_checksums) else {
            return self.drop_packets(DropReason::PacketMalformed, 1);
        };
        if is_looped {
            return self.drop_packets(DropReason::RoutingLoop, split.segments());
        }
        if has_policy && let Err(reason) = self.judge_split(index, &split) {
            return self.drop_packets(reason, split.segments());
        }
        let tos = if copy_dscp { parsed.traffic_class } else { parsed.ecn };
        let is_oversized = split.largest_segment_len() > plaintext_max;
        if is_oversized && parsed.dont_fragment {
            let reason = self.answer_too_big(&split, plaintext_max, packets);
            return self.drop_packets(reason, split.segments());
        }
        if has_policy && !is_charged && !self.takes_turn(index, &header, &split) {
            return;
        }
        if is_oversized {
            return self.send_fragmented(index, &header, &split, tos, datagrams);
        }
        if self.tracked != Some(index) {
            self.tracked = Some(index);
            self.run_tracker.reset();
        }
        split.set_continues_run(self.run_tracker.continues(&split));
        self.seal_split(index, &split, tos, datagrams);
    }

    /// Whether the policy of a session's peer lets a packet pass to it.
    fn judge_split(&mut self, index: SessionIndex, split: &Split<'_>) -> Result<(), DropReason> {
        self.tables.judge(index, Direction::ToPeer, split.packet(), split.parsed())
    }

    /// Whether a packet may go on now. If not, it waits for its turn, or it is dropped.
    fn takes_turn(
        &mut self,
        index: SessionIndex,
        header: &VirtioHeader,
        split: &Split<'_>,
    ) -> bool {
        let Some(session) = self.tables.session(index) else { return false };
        let Some(bucket) = session.policy.as_ref().and_then(|it| it.down.as_ref()) else {
            return true;
        };
        let packets = split.segments();
        let waiter = Waiter { way: Way::ToWire, peer: session.peer, bucket, packets };
        let mut header_bytes = [0; VIRTIO_HEADER_LEN];
        header.emit(&mut header_bytes);
        let pieces = [&header_bytes[..], split.packet()];
        let len = frame_len(split.packet().len());
        let bytes = split.segments_len();
        match take_turn(&mut self.waiting, self.now, &waiter, bytes, len, pieces.into_iter()) {
            Passage::Now => true,
            Passage::Later => false,
            Passage::Never(reason) => {
                self.drop_packets(reason, packets);
                false
            }
        }
    }

    /// Seals every segment of a packet for a session.
    fn seal_split(
        &mut self,
        index: SessionIndex,
        split: &Split<'_>,
        tos: u8,
        datagrams: &mut impl DatagramOutput,
    ) {
        self.seal_each(index, split.segments(), tos, datagrams, |segment| {
            (split.segment_len(segment), move |plaintext: &mut [u8]| {
                split.write_segment(segment, plaintext);
            })
        });
    }

    /// Seals `count` packets for a session, stopping at the first that cannot be; each is given by
    /// its length and by what writes it.
    fn seal_each<W: FnOnce(&mut [u8])>(
        &mut self,
        index: SessionIndex,
        count: usize,
        tos: u8,
        datagrams: &mut impl DatagramOutput,
        packet: impl Fn(usize) -> (usize, W),
    ) {
        let worker = self.worker;
        let Some(session) = self.tables.session(index) else { return };
        let plaintext_max = session.plaintext_max;
        let outbound = &mut self.outbound;
        let outcome = SendOutcome::default();
        let endpoint = session.send_endpoint;
        let mut sealer = Sealer { worker, session, endpoint, outbound, datagrams, outcome };
        let (mut sealed, mut bytes) = (0, 0);
        let mut failure = None;
        while sealed < count && failure.is_none() {
            let (len, write) = packet(sealed);
            let padded = padded_len(len).min(plaintext_max).max(len);
            match sealer.seal(len, padded, tos, write) {
                Ok(()) => (sealed, bytes) = (sealed + 1, bytes + len),
                Err(not_sealed) => failure = Some(not_sealed),
            }
        }
        let outcome = sealer.outcome;
        let sent = &session.usage.lane(worker).sent;
        for traffic in [sent, &self.counters.to_wire] {
            traffic.packets.add(sealed as u64);
            traffic.bytes.add(bytes as u64);
        }
        let nearly_used = session.send_lane(worker).counter() >= REKEY_AFTER_PACKETS;
        if nearly_used && !session.rekey_reported {
            let event = WorkerEvent::KeyNearlyUsed { worker, session: index };
            session.rekey_reported = self.events.send(event);
        }
        if let Some(failure) = failure {
            self.drop_packets(failure.reason(), count - sealed);
        }
        self.note_outcome(outcome);
    }

    /// Sends a packet that does not fit its path in fragments, as its sender allows.
    #[cold]
    fn send_fragmented(
        &mut self,
        index: SessionIndex,
        header: &VirtioHeader,
        split: &Split<'_>,
        tos: u8,
        datagrams: &mut impl DatagramOutput,
    ) {
        let Some(session) = self.tables.session(index) else { return };
        let plaintext_max = session.plaintext_max;
        // Fragments cannot carry a checksum that is only begun.
        let Ok(split) = Split::with_parsed(header, split.packet(), *split.parsed(), false) else {
            return self.drop_packets(DropReason::PacketMalformed, split.segments());
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        for segment in 0..split.segments() {
            let len = split.write_segment(segment, &mut scratch);
            let packet = &mut scratch[..len];
            packet[0] &= !FLAGS;
            if len <= plaintext_max {
                self.seal_whole(index, packet, tos, datagrams);
                continue;
            }
            let parsed = Parsed::parse(packet);
            let fragments = parsed.ok().and_then(|it| Fragments::new(packet, &it, plaintext_max));
            match fragments {
                Some(fragments) => self.seal_fragments(index, &fragments, tos, datagrams),
                None => self.drop_packets(DropReason::PacketTooBig, 1),
            }
        }
        self.scratch = scratch;
    }

    fn seal_whole(
        &mut self,
        index: SessionIndex,
        packet: &[u8],
        tos: u8,
        datagrams: &mut impl DatagramOutput,
    ) {
        self.seal_each(index, 1, tos, datagrams, |_| {
            (packet.len(), |plaintext: &mut [u8]| {
                plaintext[..packet.len()].copy_from_slice(packet);
            })
        });
    }

    fn seal_fragments(
        &mut self,
        index: SessionIndex,
        fragments: &Fragments<'_>,
        tos: u8,
        datagrams: &mut impl DatagramOutput,
    ) {
        self.seal_each(index, fragments.count(), tos, datagrams, |fragment| {
            (fragments.fragment_len(fragment), move |plaintext: &mut [u8]| {
                fragments.write(fragment, plaintext);
            })
        });
    }

    /// Tells the sender of a packet through TUN that packets of at most `mtu` bytes fit, unless
    /// that has been told too often of late. Returns what the packet is dropped for.
    #[cold]
    fn answer_too_big(
        &mut self,
        split: &Split<'_>,
        mtu: usize,
        packets: &mut impl PacketOutput,
    ) -> DropReason {
        let mut reply = [0; VIRTIO_HEADER_LEN + icmp::TOO_BIG_LEN_MAX];
        let room = &mut reply[VIRTIO_HEADER_LEN..];
        let answer = icmp::too_big(split.packet(), split.parsed(), mtu, None, room);
        // Nobody is to be answered.
        let Some(len) = answer else { return DropReason::PacketTooBig };
        let Some(full_at) = TOO_BIG_ANSWERS.take(self.now, self.too_big_full_at) else {
            return DropReason::PacketTooBigUnanswered;
        };
        self.too_big_full_at = full_at;
        if packets.write(&[IoSlice::new(&reply[..VIRTIO_HEADER_LEN + len])]).is_ok() {
            self.counters.too_big_sent.add(1);
        }
        DropReason::PacketTooBig
    }

    /// Sends a path message on this worker's lane, padded to `plaintext_len` bytes of plaintext.
    pub(super) fn send_path_message(
        &mut self,
        index: SessionIndex,
        message: &PathMessage,
        plaintext_len: usize,
        datagrams: &mut impl DatagramOutput,
    ) {
        let padded = plaintext_len.max(PATH_MESSAGE_LEN);
        self.send_control(index, None, PATH_MESSAGE_LEN, padded, datagrams, |plaintext| {
            if let Some(out) = plaintext.first_chunk_mut() {
                message.emit(out);
            }
        });
    }

    /// Sends a path message on this worker's lane to `endpoint`, wherever the path leads.
    pub(super) fn send_path_message_to(
        &mut self,
        index: SessionIndex,
        message: &PathMessage,
        endpoint: Endpoint,
        datagrams: &mut impl DatagramOutput,
    ) {
        let len = PATH_MESSAGE_LEN;
        self.send_control(index, Some(endpoint), len, len, datagrams, |plaintext| {
            if let Some(out) = plaintext.first_chunk_mut() {
                message.emit(out);
            }
        });
    }

    /// Sends an empty packet on this worker's lane.
    pub(super) fn send_keepalive(
        &mut self,
        index: SessionIndex,
        datagrams: &mut impl DatagramOutput,
    ) {
        self.send_control(index, None, 0, 0, datagrams, |_| {});
    }

    fn send_control(
        &mut self,
        index: SessionIndex,
        endpoint: Option<Endpoint>,
        len: usize,
        padded: usize,
        datagrams: &mut impl DatagramOutput,
        write: impl FnOnce(&mut [u8]),
    ) {
        let worker = self.worker;
        let Some(session) = self.tables.session(index) else { return };
        let outbound = &mut self.outbound;
        let outcome = SendOutcome::default();
        let endpoint = endpoint.or(session.send_endpoint);
        let mut sealer = Sealer { worker, session, endpoint, outbound, datagrams, outcome };
        let sealed = sealer.seal(len, padded, 0, write);
        let outcome = sealer.outcome;
        match sealed {
            Ok(()) => session.usage.lane(worker).sent.packets.add(1),
            // An answer on a path that has not been heard of yet: whoever waits for it asks again.
            Err(NotSealed::NoPath) => {}
            Err(not_sealed) => self.drop_packets(not_sealed.reason(), 1),
        }
        self.note_outcome(outcome);
    }
}
