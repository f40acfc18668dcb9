//! Round-trip times: the client sends datagrams at an interval, the server sends them back.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::Request;
use super::conduct::{self, Job, StreamContext};
use super::error::BenchError;
use super::protocol::{DatagramHeader, Direction, Protocol, TestSpec, payload};
use super::report::{BENCH_SCHEMA, StreamReport};
use super::statistics;
use super::stop::StopFlag;
use super::udp::{self, UdpEnd};
use crate::limits::{BENCH_ECHO_PAYLOAD_LEN, BENCH_ECHOES_MAX, BENCH_TICK};
use crate::sys::clock;
use crate::sys::udp::{RecvBatch, SendTarget};

/// How long a client waits for the last answers.
const STRAGGLERS_WITHIN: Duration = Duration::from_secs(1);
/// Echo requests may not follow each other faster than this.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A latency test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencySpec {
    /// Echo requests to send.
    pub count: u32,
    /// Time between two of them.
    pub interval: Duration,
    /// Payload bytes of each.
    pub length: u32,
}

impl Default for LatencySpec {
    fn default() -> Self {
        let interval = Duration::from_millis(20);
        Self { count: 100, interval, length: BENCH_ECHO_PAYLOAD_LEN }
    }
}

/// What a latency test found: what `corelane bench run --latency --json` prints. Times are in
/// milliseconds and absent if nothing came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// [`BENCH_SCHEMA`].
    pub schema: u32,
    /// Who answered.
    pub server: String,
    /// Payload bytes of a request.
    pub length: u32,
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub received: u64,
    /// Requests not answered, in percent of those sent.
    pub loss_percent: f64,
    /// The shortest round-trip time.
    pub min_ms: Option<f64>,
    /// The median round-trip time.
    pub median_ms: Option<f64>,
    /// The round-trip time that 99 of 100 requests do not exceed.
    pub p99_ms: Option<f64>,
    /// The longest round-trip time.
    pub max_ms: Option<f64>,
}

impl LatencyReport {
    /// Sums up the round-trip times of the requests that were answered.
    pub fn new(server: String, length: u32, sent: u64, round_trips_ms: &[f64]) -> Self {
        let received = round_trips_ms.len() as u64;
        let lost = sent.saturating_sub(received);
        Self {
            schema: BENCH_SCHEMA,
            server,
            length,
            sent,
            received,
            loss_percent: if sent == 0 { 0.0 } else { lost as f64 * 100.0 / sent as f64 },
            min_ms: statistics::percentile(round_trips_ms, 0.0),
            median_ms: statistics::median(round_trips_ms),
            p99_ms: statistics::percentile(round_trips_ms, 0.99),
            max_ms: statistics::percentile(round_trips_ms, 1.0),
        }
    }

    /// The report for people, two lines.
    pub fn render(&self) -> String {
        let (sent, received, loss) = (self.sent, self.received, self.loss_percent);
        let mut text = format!("{sent} sent, {received} answered, {loss:.2} % lost\n");
        let times = [self.min_ms, self.median_ms, self.p99_ms, self.max_ms];
        if let [Some(min), Some(median), Some(p99), Some(max)] = times {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "round trip: min {min:.3} ms, median {median:.3} ms, p99 {p99:.3} ms, \
                 max {max:.3} ms"
            );
        }
        text
    }
}

/// Measures the round-trip time to the bench server at `server`.
pub fn run_latency(
    server: SocketAddr,
    spec: &LatencySpec,
    stop: &StopFlag,
) -> Result<LatencyReport, BenchError> {
    if !(1..=BENCH_ECHOES_MAX).contains(&spec.count) || spec.interval < INTERVAL_MIN {
        let text = format!("send 1 to {BENCH_ECHOES_MAX} echo requests, 1 ms or more apart");
        return Err(BenchError::InvalidTest(text));
    }
    let test = TestSpec {
        protocol: Protocol::Echo,
        direction: Direction::Forward,
        length: spec.length,
        ..TestSpec::udp(spec.interval * spec.count + STRAGGLERS_WITHIN)
    };
    test.validate()?;
    let mut request = Request::open(server, &test, stop)?;
    let mut ends = request.open_udp_ends(stop)?;
    let (end, target) = ends.pop().ok_or(BenchError::TimedOut("opening the echo stream"))?;
    let mut round_trips_ms = Vec::with_capacity(spec.count as usize);
    let mut pinger = Pinger { end, target, spec: *spec, round_trips_ms: &mut round_trips_ms };
    let job: Job<'_> = Box::new(move |context| pinger.run(context));
    let outcome = conduct::conduct(&mut request.control, &test, vec![job], stop, &mut |_, _| {})?;
    let sent = outcome.own.total().datagrams;
    Ok(LatencyReport::new(server.to_string(), spec.length, sent, &round_trips_ms))
}

struct Pinger<'r> {
    end: UdpEnd,
    target: SendTarget,
    spec: LatencySpec,
    round_trips_ms: &'r mut Vec<f64>,
}

impl Pinger<'_> {
    fn run(&mut self, context: &StreamContext<'_>) -> Result<StreamReport, BenchError> {
        let mut batch = RecvBatch::new(8, 2048.max(self.spec.length as usize));
        let mut datagram = payload(self.spec.length as usize);
        // When each was sent; none once it has been answered.
        let mut outstanding: Vec<Option<Instant>> = Vec::with_capacity(self.spec.count as usize);
        for number in 0..self.spec.count {
            let due = context.start + self.spec.interval * number;
            if !self.collect_until(due, context, &mut batch, &mut outstanding, false)? {
                break;
            }
            let header =
                DatagramHeader { id: self.end.id(), sequence: u64::from(number), sent_ns: 0 };
            let bytes = header.emit();
            if let Some(front) = datagram.get_mut(..bytes.len()) {
                front.copy_from_slice(&bytes);
            }
            outstanding.push(Some(clock::now()));
            self.end.send_one(&self.target, &datagram)?;
        }
        let last = clock::now() + STRAGGLERS_WITHIN;
        self.collect_until(last, context, &mut batch, &mut outstanding, true)?;
        let sent = outstanding.len() as u64;
        Ok(StreamReport {
            bytes: sent * u64::from(self.spec.length),
            seconds: clock::now().duration_since(context.start).as_secs_f64(),
            datagrams: sent,
            ..StreamReport::default()
        })
    }

    /// Takes answers until `until` or, if `until_answered`, until none is missing. False if the
    /// test was aborted.
    fn collect_until(
        &mut self,
        until: Instant,
        context: &StreamContext<'_>,
        batch: &mut RecvBatch,
        outstanding: &mut [Option<Instant>],
        until_answered: bool,
    ) -> Result<bool, BenchError> {
        loop {
            while self.end.receive(batch)? {
                self.take_answers(batch, clock::now(), outstanding);
            }
            let now = clock::now();
            if context.aborted(now) {
                return Ok(false);
            }
            let answered = until_answered && outstanding.iter().all(Option::is_none);
            if now >= until || answered {
                return Ok(true);
            }
            self.end.wait((until - now).min(BENCH_TICK))?;
        }
    }

    fn take_answers(
        &mut self,
        batch: &mut RecvBatch,
        now: Instant,
        outstanding: &mut [Option<Instant>],
    ) {
        let (messages, arena) = batch.split();
        for range in messages.iter().flat_map(|message| message.datagrams()) {
            let header = arena.get(range).and_then(DatagramHeader::parse);
            let Some(header) = header.filter(|header| header.id == self.end.id()) else { continue };
            let slot = usize::try_from(header.sequence).ok().and_then(|at| outstanding.get_mut(at));
            if let Some(sent) = slot.and_then(Option::take) {
                self.round_trips_ms.push(now.duration_since(sent).as_secs_f64() * 1000.0);
            }
        }
    }
}

/// The server's job: sends every datagram of the test back to `target`.
pub(crate) fn echo_job(mut end: UdpEnd, target: SendTarget) -> Job<'static> {
    Box::new(move |context| {
        let mut batch = udp::receive_batch();
        let mut report = StreamReport::default();
        while !context.far_end_finished() && !context.aborted(clock::now()) {
            if !end.receive(&mut batch)? {
                end.wait(BENCH_TICK)?;
                continue;
            }
            let (messages, arena) = batch.split();
            for range in messages.iter().flat_map(|message| message.datagrams()) {
                let Some(datagram) = arena.get(range) else { continue };
                let ours = DatagramHeader::parse(datagram).is_some_and(|header| {
                    header.id == end.id() && header.sequence != DatagramHeader::HELLO
                });
                // Only the far end of the test is answered, and with no more than it sent.
                if ours {
                    end.send_one(&target, datagram)?;
                    report.datagrams += 1;
                    report.bytes += datagram.len() as u64;
                    context.count(datagram.len(), 1);
                }
            }
        }
        report.seconds = clock::now().duration_since(context.start).as_secs_f64();
        Ok(report)
    })
}

#[cfg(test)]
mod tests {
    use super::LatencyReport;

    #[test]
    fn a_report_with_and_without_answers() {
        let times: Vec<f64> = (1..=98).map(f64::from).collect();
        let report = LatencyReport::new(String::new(), 64, 100, &times);
        assert!((report.loss_percent - 2.0).abs() < 1e-9);
        assert_eq!(report.median_ms, Some(49.5));
        assert_eq!((report.min_ms, report.p99_ms), (Some(1.0), Some(98.0)));
        assert!(report.render().contains("p99 98.000 ms"));

        let silence = LatencyReport::new(String::new(), 64, 5, &[]);
        assert_eq!((silence.loss_percent, silence.median_ms), (100.0, None));
        assert_eq!(silence.render(), "5 sent, 0 answered, 100.00 % lost\n");
    }
}
