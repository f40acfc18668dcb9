//! What a test found: the machine-readable report and its rendering for people.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::protocol::{Direction, Protocol, TestSpec};
use super::units;

/// The schema number of every report of this room. Keys are added, never renamed or removed,
/// within one number.
pub const BENCH_SCHEMA: u32 = 1;

/// What one end moved in one interval of a test, over all its streams.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Seconds from the start of the test to the start of the interval.
    pub start_s: f64,
    /// Seconds from the start of the test to the end of the interval.
    pub end_s: f64,
    /// Payload bytes.
    pub bytes: u64,
    /// Datagrams; 0 for TCP.
    pub datagrams: u64,
}

impl Interval {
    /// Payload bits per second.
    pub fn bits_per_second(&self) -> f64 {
        rate(self.bytes as f64 * 8.0, self.end_s - self.start_s)
    }
}

/// What one end of one stream did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Payload bytes.
    pub bytes: u64,
    /// Seconds from the start of the test to the stream's end.
    pub seconds: f64,
    /// Datagrams sent, or received and counted once; 0 for TCP.
    pub datagrams: u64,
    /// Datagrams that arrived behind a later one (receiver).
    pub reordered: u64,
    /// Datagrams that arrived again (receiver).
    pub duplicates: u64,
}

/// What one end of a test did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SideReport {
    /// One entry per stream, in their order.
    pub(crate) streams: Vec<StreamReport>,
}

impl SideReport {
    /// The streams added up; the time is that of the longest.
    pub(crate) fn total(&self) -> StreamReport {
        self.streams.iter().fold(StreamReport::default(), |sum, stream| StreamReport {
            bytes: sum.bytes.saturating_add(stream.bytes),
            seconds: sum.seconds.max(stream.seconds),
            datagrams: sum.datagrams.saturating_add(stream.datagrams),
            reordered: sum.reordered.saturating_add(stream.reordered),
            duplicates: sum.duplicates.saturating_add(stream.duplicates),
        })
    }
}

/// The figures of one end, added up, with the rates that follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndSummary {
    /// Payload bytes.
    pub bytes: u64,
    /// Seconds.
    pub seconds: f64,
    /// Payload bits per second.
    pub bits_per_second: f64,
    /// Datagrams; 0 for TCP.
    pub datagrams: u64,
    /// Datagrams per second; 0 for TCP.
    pub packets_per_second: f64,
}

impl EndSummary {
    fn of(total: &StreamReport) -> Self {
        Self {
            bytes: total.bytes,
            seconds: total.seconds,
            bits_per_second: rate(total.bytes as f64 * 8.0, total.seconds),
            datagrams: total.datagrams,
            packets_per_second: rate(total.datagrams as f64, total.seconds),
        }
    }
}

/// The fate of the datagrams of a UDP test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatagramSummary {
    /// Sent and never received.
    pub lost: u64,
    /// The same in percent of those sent.
    pub loss_percent: f64,
    /// Received behind a later one.
    pub reordered: u64,
    /// Received again.
    pub duplicates: u64,
}

/// The result of a test: what `corelane bench run --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestReport {
    /// [`BENCH_SCHEMA`].
    pub schema: u32,
    /// The bench server.
    pub server: String,
    /// The test that was run.
    pub test: TestSpec,
    /// What the sending end did.
    pub sender: EndSummary,
    /// What arrived: the figures that count.
    pub receiver: EndSummary,
    /// Loss and order, for UDP.
    pub datagrams: Option<DatagramSummary>,
    /// What the receiver saw, interval by interval.
    pub intervals: Vec<Interval>,
    /// What the receiver saw, stream by stream.
    pub streams: Vec<StreamReport>,
}

impl TestReport {
    /// Puts the reports of both ends together.
    pub(crate) fn new(
        server: String,
        test: TestSpec,
        sender: &SideReport,
        receiver: SideReport,
        intervals: Vec<Interval>,
    ) -> Self {
        let (sent, received) = (sender.total(), receiver.total());
        let datagrams = (test.protocol == Protocol::Udp).then(|| {
            let lost = sent.datagrams.saturating_sub(received.datagrams);
            DatagramSummary {
                lost,
                loss_percent: rate(lost as f64 * 100.0, sent.datagrams as f64),
                reordered: received.reordered,
                duplicates: received.duplicates,
            }
        });
        Self {
            schema: BENCH_SCHEMA,
            server,
            test,
            sender: EndSummary::of(&sent),
            receiver: EndSummary::of(&received),
            datagrams,
            intervals,
            streams: receiver.streams,
        }
    }

    /// Datagrams lost, in percent of those sent; 0 for TCP.
    pub fn loss_percent(&self) -> f64 {
        self.datagrams.map_or(0.0, |datagrams| datagrams.loss_percent)
    }

    /// The summary for people, several lines.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let direction = match self.test.direction {
            Direction::Forward => "client to server",
            Direction::Reverse => "server to client",
        };
        let protocol = if self.test.protocol == Protocol::Tcp { "TCP" } else { "UDP" };
        let streams = self.test.streams;
        let plural = if streams == 1 { "" } else { "s" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{protocol}, {streams} stream{plural}, {direction}");
        if streams > 1 {
            for (number, stream) in self.streams.iter().enumerate() {
                let _ = writeln!(text, "  stream {number:<5}{}", end_line(&EndSummary::of(stream)));
            }
        }
        let _ = writeln!(text, "  sent        {}", end_line(&self.sender));
        let _ = writeln!(text, "  received    {}", end_line(&self.receiver));
        if let Some(fate) = &self.datagrams {
            let _ = writeln!(
                text,
                "  lost {} of {} ({:.3} %), reordered {}, duplicates {}",
                fate.lost,
                self.sender.datagrams,
                fate.loss_percent,
                fate.reordered,
                fate.duplicates
            );
        }
        text
    }
}

fn end_line(end: &EndSummary) -> String {
    let mut line = format!(
        "{:>7.2} s {:>10} {:>14}",
        end.seconds,
        units::bytes(end.bytes),
        units::bits_per_second(end.bits_per_second)
    );
    if end.datagrams > 0 {
        let _ = write!(line, " {:>12}", units::packets_per_second(end.packets_per_second));
    }
    line
}

/// One line per interval, as it passes.
pub fn render_interval(interval: &Interval) -> String {
    let mut line = format!(
        "{:>7.2}-{:<7.2} s {:>10} {:>14}",
        interval.start_s,
        interval.end_s,
        units::bytes(interval.bytes),
        units::bits_per_second(interval.bits_per_second())
    );
    if interval.datagrams > 0 {
        let _ = write!(line, " {:>10} datagrams", interval.datagrams);
    }
    line
}

/// `amount / divisor`, and 0 where that has no meaning.
fn rate(amount: f64, divisor: f64) -> f64 {
    if divisor > 0.0 { amount / divisor } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SideReport, StreamReport, TestReport};
    use crate::bench::TestSpec;

    fn side(entries: &[(u64, u64)]) -> SideReport {
        let stream = |&(bytes, datagrams)| StreamReport {
            bytes,
            datagrams,
            seconds: 2.0,
            reordered: 1,
            duplicates: 2,
        };
        SideReport { streams: entries.iter().map(stream).collect() }
    }

    #[test]
    fn loss_is_what_was_sent_and_never_received() {
        let spec = TestSpec { streams: 2, ..TestSpec::udp(Duration::from_secs(2)) };
        let report = TestReport::new(
            "192.0.2.1:5202".to_owned(),
            spec,
            &side(&[(100_000, 100), (100_000, 100)]),
            side(&[(90_000, 90), (100_000, 100)]),
            Vec::new(),
        );
        let fate = report.datagrams.unwrap();
        assert_eq!((fate.lost, fate.reordered, fate.duplicates), (10, 2, 4));
        assert!((fate.loss_percent - 5.0).abs() < 1e-9);
        assert!((report.receiver.packets_per_second - 95.0).abs() < 1e-9);
        assert!((report.receiver.bits_per_second - 760_000.0).abs() < 1e-6);
        let text = report.render();
        assert!(text.contains("lost 10 of 200 (5.000 %)"), "{text}");
        assert!(text.contains("760 kbit/s"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["receiver"]["bytes"], 190_000);
        assert_eq!(serde_json::from_value::<TestReport>(json).unwrap(), report);
    }

    #[test]
    fn a_test_that_moved_nothing_has_rates_of_zero() {
        let report = TestReport::new(
            String::new(),
            TestSpec::udp(Duration::from_secs(1)),
            &SideReport::default(),
            SideReport::default(),
            Vec::new(),
        );
        assert_eq!(report.loss_percent(), 0.0);
        assert_eq!(report.receiver.bits_per_second, 0.0);
    }
}
