//! From the TUN device to the wire: look up, split, seal, pack.

use std::io::IoSlice;

use crate::dataplane::forwarder::{DatagramOutput, Forwarder, PacketOutput};
use crate::dataplane::messages::WorkerEvent;
use crate::dataplane::tables::Session;
use crate::dataplane::trains::TrainBuilder;
use crate::limits::{
    DATA_HEADER_LEN, DATA_OVERHEAD_LEN, REKEY_AFTER_PACKETS, VIRTIO_HEADER_LEN, padded_len,
};
use crate::packet::{Parsed, Split, VirtioHeader, fragment, icmp, mss};
use crate::telemetry::drops::DropReason;
use crate::wire::{Features, PATH_MESSAGE_LEN, PathMessage, SessionIndex};

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
    outbound: &'a mut [TrainBuilder],
    datagrams: &'a mut D,
}

impl<D: DatagramOutput> Sealer<'_, D> {
    /// Seals one datagram whose plaintext, `padded` bytes long, is written by `write` in its first
    /// `len` bytes. The rest of it is zeroed here.
    #[inline]
    fn seal(
        &mut self,
        len: usize,
        padded: usize,
        ecn: u8,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), NotSealed> {
        let endpoint = self.session.send_endpoint.ok_or(NotSealed::NoPath)?;
        let datagram_len = padded + DATA_OVERHEAD_LEN;
        let listener = usize::from(endpoint.listener);
        let trains = self.outbound.get_mut(listener).ok_or(NotSealed::NoPath)?;
        if !trains.has_room(datagram_len) {
            self.datagrams.send(listener, trains);
        }
        let slot = trains.slot(datagram_len).ok_or(NotSealed::NoRoom)?;
        let plaintext = &mut slot[DATA_HEADER_LEN..DATA_HEADER_LEN + padded];
        plaintext[len..].fill(0);
        write(plaintext);
        let lane = self.session.send_lane(self.worker);
        lane.seal(slot).map_err(|_| NotSealed::Exhausted)?;
        trains.commit(datagram_len, self.session.local, &endpoint, ecn);
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
        mss::clamp_mss(packet, &parsed, plaintext_max);
        let Ok(mut split) = Split::with_parsed(&header, packet, parsed, partial_checksums) else {
            return self.drop_packets(DropReason::PacketMalformed, 1);
        };
        if split.largest_segment_len() > plaintext_max {
            return self.send_too_big(index, &split, plaintext_max, datagrams, packets);
        }
        if self.tracked != Some(index) {
            self.tracked = Some(index);
            self.run_tracker.reset();
        }
        split.set_continues_run(self.run_tracker.continues(&split));
        self.seal_split(index, &split, datagrams);
    }

    /// Seals every segment of a packet for a session.
    fn seal_split(
        &mut self,
        index: SessionIndex,
        split: &Split<'_>,
        datagrams: &mut impl DatagramOutput,
    ) {
        let ecn = split.parsed().ecn;
        self.seal_each(index, split.segments(), ecn, datagrams, |segment| {
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
        ecn: u8,
        datagrams: &mut impl DatagramOutput,
        packet: impl Fn(usize) -> (usize, W),
    ) {
        let worker = self.worker;
        let Some(session) = self.tables.session(index) else { return };
        let plaintext_max = session.plaintext_max;
        let mut sealer = Sealer { worker, session, outbound: &mut self.outbound, datagrams };
        let (mut sealed, mut bytes) = (0, 0);
        let mut failure = None;
        while sealed < count && failure.is_none() {
            let (len, write) = packet(sealed);
            let padded = padded_len(len).min(plaintext_max).max(len);
            match sealer.seal(len, padded, ecn, write) {
                Ok(()) => (sealed, bytes) = (sealed + 1, bytes + len),
                Err(not_sealed) => failure = Some(not_sealed),
            }
        }
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
    }

    /// Answers for a packet that does not fit its path: fragments go through where the packet
    /// allows them, otherwise its sender is told the size that fits.
    fn send_too_big(
        &mut self,
        index: SessionIndex,
        split: &Split<'_>,
        plaintext_max: usize,
        datagrams: &mut impl DatagramOutput,
        packets: &mut impl PacketOutput,
    ) {
        if fragment::may_fragment(split) {
            return self.send_fragments(index, split, plaintext_max, datagrams);
        }
        self.drop_packets(DropReason::PacketTooBig, split.segments());
        let mut reply = [0; VIRTIO_HEADER_LEN + icmp::TOO_BIG_LEN_MAX];
        let answer = icmp::too_big(split.packet(), plaintext_max, None, &mut reply[VIRTIO_HEADER_LEN..]);
        if let Some(len) = answer
            && packets.write(&[IoSlice::new(&reply[..VIRTIO_HEADER_LEN + len])]).is_ok()
        {
            self.counters.too_big_sent.add(1);
        }
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
        self.send_control(index, PATH_MESSAGE_LEN, padded, datagrams, |plaintext| {
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
        self.send_control(index, 0, 0, datagrams, |_| {});
    }

    fn send_control(
        &mut self,
        index: SessionIndex,
        len: usize,
        padded: usize,
        datagrams: &mut impl DatagramOutput,
        write: impl FnOnce(&mut [u8]),
    ) {
        let worker = self.worker;
        let Some(session) = self.tables.session(index) else { return };
        let mut sealer = Sealer { worker, session, outbound: &mut self.outbound, datagrams };
        match sealer.seal(len, padded, 0, write) {
            Ok(()) => session.usage.lane(worker).sent.packets.add(1),
            Err(not_sealed) => self.drop_packets(not_sealed.reason(), 1),
        }
    }
}
