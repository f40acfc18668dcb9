//! The two ends of a UDP stream: a sender in batches, a receiver that counts.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use super::conduct::{Job, StreamContext};
use super::error::{BenchError, is_transient};
use super::pacer::Pacer;
use super::protocol::{DATAGRAM_HEADER_LEN, DatagramHeader, TestSpec, payload};
use super::report::StreamReport;
use super::sequence::SequenceTracker;
use crate::limits::{
    BENCH_TICK, BENCH_UDP_DRAIN, GSO_SEGMENTS_MAX, RECEIVE_SLOT_LEN, RECEIVE_SLOTS, SEND_ARENA_LEN,
    SEND_MESSAGES_MAX, UDP_PAYLOAD_MAX,
};
use crate::sys::clock;
use crate::sys::udp::{
    RecvBatch, SendBatch, SendFault, SendFaultKind, SendTarget, UdpOptions, UdpSocket,
};

/// Trains of one send call: few, since each is up to 64 KiB.
const TRAINS_MAX: usize = 4;
/// The receive buffer asked for, so that a receiver that is off its CPU for a while loses nothing.
const RECEIVE_BUFFER_LEN: usize = 8 * 1024 * 1024;

/// One end of a UDP stream, before the far end is known.
pub(crate) struct UdpEnd {
    socket: UdpSocket,
    poll: mio::Poll,
    events: mio::Events,
    /// For datagrams that go out one at a time.
    single: SendBatch,
    /// The test's mark on every datagram.
    id: u64,
}

impl UdpEnd {
    /// Binds `address` at a port of the kernel's choice.
    pub(crate) fn bind(address: IpAddr, id: u64) -> Result<Self, BenchError> {
        let options = UdpOptions {
            receive_buffer: Some(RECEIVE_BUFFER_LEN),
            gro: true,
            ..UdpOptions::default()
        };
        let socket = UdpSocket::bind(SocketAddr::new(address, 0), &options).map_err(|error| {
            BenchError::Io { action: "opening a UDP stream", source: std::io::Error::other(error) }
        })?;
        let poll = mio::Poll::new().map_err(BenchError::io("making an event loop"))?;
        let both = mio::Interest::READABLE | mio::Interest::WRITABLE;
        poll.registry()
            .register(&mut mio::unix::SourceFd(&socket.as_raw_fd()), mio::Token(0), both)
            .map_err(BenchError::io("watching a UDP stream"))?;
        let (events, single) = (mio::Events::with_capacity(4), SendBatch::new(1));
        Ok(Self { socket, poll, events, single, id })
    }

    /// The port it is bound to.
    pub(crate) fn port(&self) -> u16 {
        self.socket.local_addr().port()
    }

    /// Sends one datagram that introduces this end to `target`. Losing it is no failure: it is
    /// sent again.
    pub(crate) fn send_hello(&mut self, target: &SendTarget) {
        let hello = DatagramHeader { id: self.id, sequence: DatagramHeader::HELLO, sent_ns: 0 };
        // What keeps it from being sent will be seen again by what follows it.
        let _ = self.send_one(target, &hello.emit());
    }

    /// Sends one datagram. One that finds the socket's buffer full is lost, like anything else on
    /// the way; an error is what no other datagram would survive either.
    pub(crate) fn send_one(
        &mut self,
        target: &SendTarget,
        datagram: &[u8],
    ) -> Result<(), BenchError> {
        let mut failure = None;
        if self.single.push(0..datagram.len(), target, None, 0).is_ok() {
            self.single.send(&self.socket, datagram, |fault| {
                failure = failure.take().or_else(|| fatal(&fault));
            });
        }
        self.single.clear();
        failure.map_or(Ok(()), Err)
    }

    /// Looks once for a datagram that introduces the far end, and returns how to answer it.
    pub(crate) fn heard_hello(&self, batch: &mut RecvBatch) -> Option<SendTarget> {
        let mut heard = None;
        // An error that an ICMP message left on the socket does not matter yet.
        batch.receive(&self.socket).ok()?;
        let (messages, arena) = batch.split();
        for message in messages {
            let header = arena.get(message.range.clone()).and_then(DatagramHeader::parse);
            if header.is_some_and(|header| header.id == self.id) {
                heard = Some(SendTarget { remote: message.from, local: message.local });
            }
        }
        heard
    }

    /// Waits until the socket may have become readable or writable, for `timeout` at most. Only
    /// changes are reported: receive or send until it blocks before waiting.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<(), BenchError> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if !is_transient(&error) => {
                Err(BenchError::io("waiting on a UDP stream")(error))
            }
            _ => Ok(()),
        }
    }

    /// Receives what waits; false when nothing did.
    pub(crate) fn receive(&self, batch: &mut RecvBatch) -> Result<bool, BenchError> {
        match batch.receive(&self.socket) {
            Ok(messages) => Ok(messages > 0),
            Err(error) if is_transient(&error) => Ok(false),
            Err(source) => Err(BenchError::Io { action: "receiving on a UDP stream", source }),
        }
    }

    /// The test's mark on every datagram.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

/// A receive batch for a whole stream.
pub(crate) fn receive_batch() -> RecvBatch {
    RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN)
}

/// Makes the job that sends to `target`, or receives.
pub(crate) fn job(end: UdpEnd, target: SendTarget, spec: &TestSpec, sends: bool) -> Job<'static> {
    if sends {
        let sender = Sender::new(end, target, spec);
        Box::new(move |context| sender.run(context))
    } else {
        Box::new(move |context| receive(end, context))
    }
}

struct Sender {
    end: UdpEnd,
    target: SendTarget,
    rate_bps: Option<u64>,
    payload_len: usize,
    /// Datagrams of one message: more than one make a train.
    per_message: usize,
    /// Datagrams of one send call.
    per_batch: usize,
    arena: Vec<u8>,
    batch: SendBatch,
}

impl Sender {
    fn new(end: UdpEnd, target: SendTarget, spec: &TestSpec) -> Self {
        let payload_len = (spec.length as usize).clamp(DATAGRAM_HEADER_LEN, UDP_PAYLOAD_MAX);
        let (per_message, messages) = if spec.gso {
            (train_datagrams(payload_len, spec.gso_segments), TRAINS_MAX)
        } else {
            (1, (SEND_ARENA_LEN / payload_len).clamp(1, SEND_MESSAGES_MAX))
        };
        let per_batch = per_message * messages;
        Self {
            end,
            target,
            rate_bps: spec.stream_rate_bps(),
            payload_len,
            per_message,
            per_batch,
            arena: payload(payload_len).repeat(per_batch),
            batch: SendBatch::new(messages),
        }
    }

    fn run(mut self, context: &StreamContext<'_>) -> Result<StreamReport, BenchError> {
        let mut pacer = self.rate_bps.map(|rate| Pacer::new(rate, context.start));
        let burst = pacer
            .as_ref()
            .map_or(self.per_batch, |pacer| pacer.burst(self.payload_len, self.per_batch));
        let (mut sequence, mut sent) = (0_u64, 0_u64);
        let stopped = loop {
            let now = clock::now();
            if now >= context.end || context.aborted(now) {
                break now;
            }
            if let Some(pacer) = &mut pacer {
                let wait = pacer.due_in(now);
                if !wait.is_zero() {
                    thread::sleep(wait.min(BENCH_TICK));
                    continue;
                }
                pacer.sent(burst * self.payload_len);
            }
            self.fill(burst, sequence, now.duration_since(context.start));
            sequence += burst as u64;
            sent += self.flush(context)?;
        };
        Ok(StreamReport {
            bytes: sent * self.payload_len as u64,
            seconds: stopped.duration_since(context.start).as_secs_f64(),
            datagrams: sent,
            ..StreamReport::default()
        })
    }

    /// Stamps `burst` datagrams, numbered from `first`, and queues them.
    fn fill(&mut self, burst: usize, first: u64, since_start: Duration) {
        let sent_ns = u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX);
        let id = self.end.id;
        for (number, datagram) in
            (first..).zip(self.arena.chunks_exact_mut(self.payload_len).take(burst))
        {
            let header = DatagramHeader { id, sequence: number, sent_ns }.emit();
            if let Some(front) = datagram.get_mut(..DATAGRAM_HEADER_LEN) {
                front.copy_from_slice(&header);
            }
        }
        let segment_size = u16::try_from(self.payload_len).ok();
        let end = burst * self.payload_len;
        for start in (0..end).step_by(self.per_message * self.payload_len) {
            let range = start..end.min(start + self.per_message * self.payload_len);
            // The batch was made for as many messages as fit the arena, and is empty.
            let _ = self.batch.push(range, &self.target, segment_size, 0);
        }
    }

    /// Sends what is queued, waiting for room in the socket's buffer; returns the number of
    /// datagrams that went out.
    fn flush(&mut self, context: &StreamContext<'_>) -> Result<u64, BenchError> {
        let mut sent = 0;
        loop {
            let mut failure = None;
            let report = self.batch.send(&self.end.socket, &self.arena, |fault| {
                failure = failure.take().or_else(|| fatal(&fault));
            });
            if let Some(failure) = failure {
                self.batch.clear();
                return Err(failure);
            }
            sent += report.datagrams as u64;
            context.count(report.bytes, report.datagrams);
            if !report.blocked {
                return Ok(sent);
            }
            self.end.wait(BENCH_TICK)?;
            let now: Instant = clock::now();
            if now >= context.end || context.aborted(now) {
                self.batch.clear();
                return Ok(sent);
            }
        }
    }
}

/// Datagrams of one train: those wanted, as far as the kernel takes them in one call.
fn train_datagrams(payload_len: usize, wanted: Option<u16>) -> usize {
    let fitting = (UDP_PAYLOAD_MAX / payload_len).clamp(1, GSO_SEGMENTS_MAX);
    wanted.map_or(fitting, |wanted| usize::from(wanted).clamp(1, fitting))
}

/// What a fault means for a test that will send many more of the same.
fn fatal(fault: &SendFault) -> Option<BenchError> {
    match fault.kind {
        SendFaultKind::TrainRefused | SendFaultKind::SourceGone => None,
        SendFaultKind::TooBig { datagram_len } => {
            Some(BenchError::DatagramTooBig(u32::try_from(datagram_len).unwrap_or(u32::MAX)))
        }
        // A full device queue is loss like any other: the datagram was not sent.
        SendFaultKind::Refused if fault.errno == libc::ENOBUFS => None,
        SendFaultKind::Refused => Some(BenchError::Io {
            action: "sending on a UDP stream",
            source: std::io::Error::from_raw_os_error(fault.errno),
        }),
    }
}

/// Counts what arrives until the far end has finished and the line has gone quiet.
fn receive(mut end: UdpEnd, context: &StreamContext<'_>) -> Result<StreamReport, BenchError> {
    let mut batch = receive_batch();
    let mut tracker = SequenceTracker::new();
    let mut bytes = 0_u64;
    let mut last_arrival = context.start;
    let mut finished_at = None;
    loop {
        let now = clock::now();
        if context.aborted(now) {
            break;
        }
        if end.receive(&mut batch)? {
            let (bytes_now, datagrams_now) = count(&mut batch, end.id, &mut tracker);
            if datagrams_now > 0 {
                last_arrival = now;
            }
            bytes += bytes_now as u64;
            context.count(bytes_now, datagrams_now);
            continue;
        }
        if context.far_end_finished() {
            let quiet_since = last_arrival.max(*finished_at.get_or_insert(now));
            if now.duration_since(quiet_since) >= BENCH_UDP_DRAIN {
                break;
            }
        }
        end.wait(BENCH_TICK / 2)?;
    }
    // A stream that stalled before its end is not credited with a shorter test.
    let seconds = last_arrival.max(context.end).duration_since(context.start).as_secs_f64();
    Ok(StreamReport {
        bytes,
        seconds,
        datagrams: tracker.received(),
        reordered: tracker.reordered(),
        duplicates: tracker.duplicates(),
    })
}

/// Counts the datagrams of the test in `batch`: bytes and number of those seen first now.
fn count(batch: &mut RecvBatch, id: u64, tracker: &mut SequenceTracker) -> (usize, usize) {
    let (mut bytes, mut datagrams) = (0, 0);
    let (messages, arena) = batch.split();
    for message in messages {
        for range in message.datagrams() {
            let len = range.len();
            let Some(header) = arena.get(range).and_then(DatagramHeader::parse) else { continue };
            if header.id != id || header.sequence == DatagramHeader::HELLO {
                continue;
            }
            if tracker.observe(header.sequence) {
                bytes += len;
                datagrams += 1;
            }
        }
    }
    (bytes, datagrams)
}

#[cfg(test)]
mod tests {
    use super::train_datagrams;
    use crate::limits::{GSO_SEGMENTS_MAX, UDP_PAYLOAD_MAX};

    #[test]
    fn trains_are_as_long_as_wanted_and_possible() {
        for (payload_len, wanted, datagrams) in [
            (1300, None, 50),
            (1300, Some(40), 40),
            (1300, Some(60), 50),
            (1300, Some(1), 1),
            (64, None, GSO_SEGMENTS_MAX),
            (UDP_PAYLOAD_MAX, Some(40), 1),
        ] {
            assert_eq!(train_datagrams(payload_len, wanted), datagrams, "{payload_len} {wanted:?}");
        }
    }
}
