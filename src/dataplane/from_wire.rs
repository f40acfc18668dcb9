//! From the wire to the TUN device: look up, open, check, coalesce.

use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::time::Instant;

use crate::dataplane::forwarder::{DatagramOutput, Forwarder, PacketOutput};
use crate::dataplane::messages::{Endpoint, WorkerEvent};
use crate::dataplane::policing::{Passage, frame_len, take_turn};
use crate::dataplane::tables::Tables;
use crate::dataplane::waiting::{Released, Waiter, WaitingRoom, Way};
use crate::limits::{DATA_HEADER_LEN, REKEY_AFTER_PACKETS, RUN_PACKETS_MAX, VIRTIO_HEADER_LEN};
use crate::packet::{CoalesceOptions, Coalescer, FinishedRun, Parsed, Split, Transport, ecn, mss};
use crate::policy::Direction;
use crate::session::lane::OpenError;
use crate::sys::udp::ReceivedMeta;
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::drops::DropReason;
use crate::wire::{DataHeader, FLAGS, Inner, PathMessage, SessionIndex, WireError, classify};

/// Datagrams received in one system call.
pub(super) struct Received<'a> {
    /// Which listener they came in on.
    pub(super) listener: u8,
    /// One entry per message, each a datagram or an aggregate of several.
    pub(super) messages: &'a [ReceivedMeta],
    /// Where they lie.
    pub(super) arena: &'a mut [u8],
    /// When; it may be as old as the worker's last wake-up.
    pub(super) now: Instant,
}

/// An authenticated plaintext and what is known about it.
struct Plaintext {
    session: SessionIndex,
    lane: u8,
    /// Where it lies in the arena, padding included.
    range: Range<usize>,
    /// ECN bits of the outer header.
    outer_ecn: u8,
    /// A packet sent later on the lane has arrived before it.
    reordered: bool,
}

impl Forwarder {
    /// Opens every datagram and writes what it carried to TUN, runs of packets as one.
    pub(super) fn decapsulate(
        &mut self,
        received: Received<'_>,
        datagrams: &mut impl DatagramOutput,
        packets: &mut impl PacketOutput,
    ) {
        let Received { listener, messages, arena, now } = received;
        for message in messages {
            let endpoint = Endpoint { remote: message.from, local: message.local, listener };
            // The lane whose source has been looked at: one message has one source.
            let mut noted = None;
            for range in message.datagrams() {
                let opened = self.open(arena, range, message, datagrams);
                match opened {
                    Ok(plaintext) => {
                        let lane = (plaintext.session, plaintext.lane);
                        // A straggler, perhaps held back by somebody, tells where the far end was.
                        if !plaintext.reordered
                            && noted != Some(lane)
                            && !PathMessage::is_beside_the_way(&arena[plaintext.range.clone()])
                        {
                            noted = Some(lane);
                            self.note_source(lane.0, lane.1, endpoint, now);
                        }
                        let delivered = self.deliver(arena, plaintext, endpoint, now, packets);
                        if let Err(reason) = delivered {
                            self.drop_packets(reason, 1);
                        }
                    }
                    Err(reason) => self.drop_packets(reason, 1),
                }
            }
        }
        self.flush_run(arena, packets);
    }

    /// Delivers the run that the coalescer has put together so far.
    fn flush_run(&mut self, arena: &mut [u8], packets: &mut impl PacketOutput) {
        let (coalescer, mut delivery) = self.delivery(packets);
        coalescer.flush(arena, |arena, run| delivery.deliver(arena, run));
        if let Some(transport) = delivery.refused {
            self.give_up_super_packets(transport);
        }
    }

    /// The coalescer, and where its runs go.
    #[inline]
    fn delivery<'a, P>(&'a mut self, packets: &'a mut P) -> (&'a mut Coalescer, Delivery<'a, P>) {
        let Self { coalescer, counters, scratch, tables, waiting, worker, now, coalesced, .. } =
            self;
        let delivery = Delivery {
            packets,
            counters,
            scratch,
            tables,
            waiting,
            worker: *worker,
            now: *now,
            session: *coalesced,
            refused: None,
        };
        (coalescer, delivery)
    }

    /// Finds a datagram's lane and opens it in place.
    #[inline]
    fn open(
        &mut self,
        arena: &mut [u8],
        range: Range<usize>,
        message: &ReceivedMeta,
        datagrams: &mut impl DatagramOutput,
    ) -> Result<Plaintext, DropReason> {
        if message.truncated {
            return Err(DropReason::DatagramTooLong);
        }
        let start = range.start;
        let datagram = arena.get_mut(range).ok_or(DropReason::DatagramTruncated)?;
        let header = DataHeader::parse(datagram).map_err(wire_reason)?;
        if self.tables.session(header.receiver).is_none() {
            // Its installation may still be on the way: it was sent before the handshake response
            // that the far side has answered with this datagram.
            self.apply_commands(datagrams);
        }
        let worker = self.worker;
        let session = self.tables.session(header.receiver).ok_or(DropReason::SessionUnknown)?;
        let lane = session.receive_lane(worker, header.lane).ok_or(DropReason::LaneWrong)?;
        let opened = lane.open(&header, datagram).map_err(|error| match error {
            OpenError::Replayed => DropReason::Replayed,
            OpenError::KeyExhausted => DropReason::KeyExhausted,
            OpenError::Authentication => DropReason::AuthenticationFailed,
        })?;
        session.usage.lane(worker).received.packets.add(1);
        if opened.reordered {
            self.counters.reordered.add(1);
        }
        if header.counter >= REKEY_AFTER_PACKETS && !session.rekey_reported {
            let event = WorkerEvent::KeyNearlyUsed { worker, session: session.local };
            session.rekey_reported = self.events.send(event);
        }
        let start = start + DATA_HEADER_LEN;
        Ok(Plaintext {
            session: header.receiver,
            lane: header.lane,
            range: start..start + opened.plaintext_len,
            outer_ecn: message.ecn,
            reordered: opened.reordered,
        })
    }

    /// Learns where a lane's packets come from, now that one has authenticated.
    fn note_source(&mut self, index: SessionIndex, lane: u8, endpoint: Endpoint, now: Instant) {
        let worker = self.worker;
        let Some(session) = self.tables.session(index) else { return };
        if !session.note_source(worker, lane, endpoint, now) {
            return;
        }
        let peer = session.peer;
        let path = session.plan.path_of_received_lane(lane);
        let event = WorkerEvent::PathSeen { worker, session: index, path, endpoint };
        if !self.events.send(event) {
            // The control thread must learn of it: let the next packet be news again.
            session.forget_source(worker, lane);
        }
        self.tables.choose_sending(peer);
    }

    /// Hands an authenticated plaintext to where it belongs.
    #[inline]
    fn deliver(
        &mut self,
        arena: &mut [u8],
        plaintext: Plaintext,
        endpoint: Endpoint,
        now: Instant,
        packets: &mut impl PacketOutput,
    ) -> Result<(), DropReason> {
        let Plaintext { session: index, lane, range, outer_ecn, .. } = plaintext;
        let bytes = &mut arena[range.clone()];
        let Some(&first) = bytes.first() else { return Ok(()) };
        if classify(first) == Inner::PathMessage {
            return self.report_path_message(index, lane, bytes, endpoint, now);
        }
        let parsed = Parsed::parse_plaintext(bytes).map_err(|_| DropReason::InnerMalformed)?;
        let owner = self.tables.owner(parsed.source);
        let session = self.tables.session(index).ok_or(DropReason::SessionUnknown)?;
        if owner != Some(session.peer) {
            return Err(DropReason::InnerSourceNotAllowed);
        }
        let mark = ecn::decapsulate(parsed.ecn, outer_ecn).ok_or(DropReason::EcnIllegal)?;
        if mark != parsed.ecn {
            ecn::set(bytes, parsed.version, mark);
        }
        mss::clamp(bytes, &parsed, session.plaintext_max, parsed.has_partial_checksum());
        if session.policy.is_some() {
            self.tables.judge(index, Direction::FromPeer, bytes, &parsed)?;
        }
        if self.coalesced != Some(index) {
            self.flush_run(arena, packets);
            self.coalesced = Some(index);
        }
        let (coalescer, mut delivery) = self.delivery(packets);
        let pushed =
            coalescer.push(arena, range, &parsed, |arena, run| delivery.deliver(arena, run));
        if let Some(transport) = delivery.refused {
            self.give_up_super_packets(transport);
        }
        pushed.map_err(|_| DropReason::InnerMalformed)
    }

    /// Hands a path message to the control thread, which serves all peers: none may keep it busy.
    fn report_path_message(
        &mut self,
        index: SessionIndex,
        lane: u8,
        plaintext: &[u8],
        endpoint: Endpoint,
        now: Instant,
    ) -> Result<(), DropReason> {
        let message = PathMessage::parse(plaintext).map_err(|_| DropReason::InnerMalformed)?;
        let plaintext_len = plaintext.len();
        let worker = self.worker;
        let session = self.tables.session(index).ok_or(DropReason::SessionUnknown)?;
        if !session.takes_path_message(worker, lane, now) {
            return Err(DropReason::PathMessageExcess);
        }
        let session = index;
        // Lost if the control thread is behind: path messages are repeated by whoever needs them.
        self.events.send(WorkerEvent::PathMessage {
            worker,
            session,
            lane,
            endpoint,
            message,
            plaintext_len,
        });
        Ok(())
    }

    /// Stops building super-packets of a transport once the TUN device has refused one.
    #[cold]
    pub(super) fn give_up_super_packets(&mut self, transport: Transport) {
        let options = self.coalescer.options();
        self.coalescer.set_options(match transport {
            Transport::Tcp => CoalesceOptions { tcp: false, ..options },
            Transport::Udp => CoalesceOptions { udp: false, ..options },
        });
    }
}

/// Where the runs of one session go.
struct Delivery<'a, P> {
    packets: &'a mut P,
    counters: &'a WorkerCounters,
    scratch: &'a mut [u8],
    tables: &'a mut Tables,
    waiting: &'a mut Option<Box<WaitingRoom>>,
    worker: usize,
    now: Instant,
    session: Option<SessionIndex>,
    /// The transport of a super-packet that TUN has refused.
    refused: Option<Transport>,
}

impl<P: PacketOutput> Delivery<'_, P> {
    /// Writes a run, or has it wait for its turn under its peer's limit.
    #[inline]
    fn deliver(&mut self, arena: &[u8], run: &FinishedRun<'_>) {
        // It may have been removed since its packets were opened.
        let Some(session) = self.session.and_then(|index| self.tables.session(index)) else {
            return self.counters.drops.add(DropReason::SessionUnknown, run.packets as u64);
        };
        let received = &session.usage.lane(self.worker).received;
        let bytes = run.packets_len();
        if let Some(bucket) = session.policy.as_ref().and_then(|policy| policy.up.as_ref()) {
            let waiter =
                Waiter { way: Way::ToTun, peer: session.peer, bucket, packets: run.packets };
            let pieces = std::iter::once(&run.head).chain(run.tails).map(|it| &arena[it.clone()]);
            let len = frame_len(run.bytes);
            match take_turn(self.waiting, self.now, &waiter, bytes, len, pieces) {
                Passage::Now => {}
                Passage::Later => return received.bytes.add(bytes as u64),
                Passage::Never(reason) => {
                    return self.counters.drops.add(reason, run.packets as u64);
                }
            }
        }
        received.bytes.add(bytes as u64);
        let refused = write_run(self.packets, self.counters, self.scratch, arena, run);
        self.refused = self.refused.or(refused);
    }
}

/// Writes a packet or super-packet that has waited for its turn; returns the transport of a
/// super-packet that TUN refuses, which is then written as single packets.
pub(super) fn write_released(
    packets: &mut impl PacketOutput,
    counters: &WorkerCounters,
    scratch: &mut [u8],
    released: &Released,
) -> Option<Transport> {
    let (header, packet) = released.parts()?;
    match packets.write(&[IoSlice::new(released.frame())]) {
        Ok(()) => count_written(counters, released.packets, packet.len()),
        Err(error) if error.kind() == ErrorKind::InvalidInput && released.packets > 1 => {
            counters.tun_fallbacks.add(1);
            let Ok(split) = Split::new(&header, packet, false) else {
                counters.drops.add(DropReason::TunWriteFailed, released.packets as u64);
                return None;
            };
            scratch[..VIRTIO_HEADER_LEN].fill(0);
            for segment in 0..split.segments() {
                let len = split.write_segment(segment, &mut scratch[VIRTIO_HEADER_LEN..]);
                scratch[VIRTIO_HEADER_LEN] &= !FLAGS;
                write_single(packets, counters, &scratch[..VIRTIO_HEADER_LEN + len]);
            }
            return split.parsed().transport;
        }
        Err(error) => counters.drops.add(write_reason(&error), released.packets as u64),
    }
    None
}

/// Writes a run, as single packets if TUN refuses the whole: then returns its transport.
fn write_run(
    packets: &mut impl PacketOutput,
    counters: &WorkerCounters,
    scratch: &mut [u8],
    arena: &[u8],
    run: &FinishedRun<'_>,
) -> Option<Transport> {
    let mut pieces = [IoSlice::new(&[]); RUN_PACKETS_MAX];
    let mut used = 0;
    let ranges = std::iter::once(&run.head).chain(run.tails);
    for (piece, range) in pieces.iter_mut().zip(ranges) {
        *piece = IoSlice::new(&arena[range.clone()]);
        used += 1;
    }
    match packets.write(&pieces[..used]) {
        Ok(()) => count_written(counters, run.packets, run.bytes),
        Err(error) if error.kind() == ErrorKind::InvalidInput && run.is_super() => {
            counters.tun_fallbacks.add(1);
            run.for_each_single(arena, scratch, |packet| write_single(packets, counters, packet));
            return run.transport();
        }
        Err(error) => counters.drops.add(write_reason(&error), run.packets as u64),
    }
    None
}

fn write_single(packets: &mut impl PacketOutput, counters: &WorkerCounters, packet: &[u8]) {
    match packets.write(&[IoSlice::new(packet)]) {
        Ok(()) => count_written(counters, 1, packet.len().saturating_sub(VIRTIO_HEADER_LEN)),
        Err(error) => counters.drops.add(write_reason(&error), 1),
    }
}

fn count_written(counters: &WorkerCounters, packets: usize, bytes: usize) {
    counters.from_wire.packets.add(packets as u64);
    counters.from_wire.bytes.add(bytes as u64);
}

fn write_reason(error: &io::Error) -> DropReason {
    match error.kind() {
        ErrorKind::WouldBlock => DropReason::TunQueueFull,
        _ => DropReason::TunWriteFailed,
    }
}

/// What is wrong with a datagram that is no data message.
fn wire_reason(error: WireError) -> DropReason {
    match error {
        WireError::Truncated { .. } => DropReason::DatagramTruncated,
        WireError::TooLong { .. } => DropReason::DatagramTooLong,
        _ => DropReason::DatagramUnknownType,
    }
}
