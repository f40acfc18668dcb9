//! What the two ends of a test say to each other, and what a test is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::{RngCore, TryRngCore};
use serde::{Deserialize, Serialize};

use super::error::BenchError;
use super::report::{Interval, SideReport};
use crate::limits::{
    BENCH_DURATION_MAX, BENCH_STREAMS_MAX, BENCH_TCP_CHUNK_LEN, BENCH_TCP_CHUNK_LEN_MAX,
    BENCH_UDP_PAYLOAD_LEN, UDP_PAYLOAD_MAX,
};

/// The version of the control messages; both ends must have the same.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Bytes at the front of every test datagram: token 8, sequence number 8, send time 8.
pub(crate) const DATAGRAM_HEADER_LEN: usize = 24;

/// What carries the data of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP connections.
    Tcp,
    /// Datagrams that are counted, not repeated.
    Udp,
    /// Datagrams that the server sends back.
    Echo,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The client sends.
    Forward,
    /// The server sends.
    Reverse,
}

/// A test, as the client describes it to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestSpec {
    /// What carries the data.
    pub protocol: Protocol,
    /// Who sends.
    pub direction: Direction,
    /// Parallel streams.
    pub streams: u16,
    /// How long the sender sends, in milliseconds.
    pub duration_ms: u64,
    /// Bytes of one write (TCP) or of one datagram's payload.
    pub length: u32,
    /// Bits of payload per second over all streams; as fast as possible if absent.
    pub rate_bps: Option<u64>,
    /// Send datagrams in trains that the kernel cuts (`UDP_SEGMENT`).
    pub gso: bool,
    /// Datagrams of one train; as many as fit into one call if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gso_segments: Option<u16>,
}

impl TestSpec {
    /// One TCP stream from client to server, as fast as possible.
    pub fn tcp(duration: Duration) -> Self {
        Self {
            protocol: Protocol::Tcp,
            direction: Direction::Forward,
            streams: 1,
            duration_ms: millis(duration),
            length: BENCH_TCP_CHUNK_LEN,
            rate_bps: None,
            gso: false,
            gso_segments: None,
        }
    }

    /// One UDP stream from client to server, as fast as possible.
    pub fn udp(duration: Duration) -> Self {
        Self { protocol: Protocol::Udp, length: BENCH_UDP_PAYLOAD_LEN, ..Self::tcp(duration) }
    }

    /// How long the sender sends.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(self.duration_ms)
    }

    /// The share of the rate that one stream gets.
    pub(crate) fn stream_rate_bps(&self) -> Option<u64> {
        self.rate_bps.map(|rate| (rate / u64::from(self.streams.max(1))).max(1))
    }

    /// Whether the test can be run; the error says which bound it breaks.
    pub fn validate(&self) -> Result<(), BenchError> {
        let invalid = |text: String| Err(BenchError::InvalidTest(text));
        if !(1..=BENCH_STREAMS_MAX).contains(&self.streams) {
            return invalid(format!("the number of streams must be 1 to {BENCH_STREAMS_MAX}"));
        }
        if self.duration_ms == 0 || self.duration() > BENCH_DURATION_MAX {
            let max = BENCH_DURATION_MAX.as_secs();
            return invalid(format!("the duration must be above 0 and at most {max} s"));
        }
        let (min, max) = match self.protocol {
            Protocol::Tcp => (1, BENCH_TCP_CHUNK_LEN_MAX),
            Protocol::Udp | Protocol::Echo => (DATAGRAM_HEADER_LEN as u32, UDP_PAYLOAD_MAX as u32),
        };
        if !(min..=max).contains(&self.length) {
            return invalid(format!("the length must be {min} to {max} bytes"));
        }
        if self.protocol == Protocol::Echo
            && (self.streams, self.direction) != (1, Direction::Forward)
        {
            return invalid("an echo test has one stream, which the client sends".to_owned());
        }
        if self.gso_segments == Some(0) {
            return invalid("a train has at least one datagram".to_owned());
        }
        if self.rate_bps == Some(0) {
            return invalid("the rate must be above 0".to_owned());
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The random name of a running test: who knows it may add streams to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Token(u128);

impl Token {
    /// A token nobody can guess.
    pub(crate) fn random() -> Result<Self, BenchError> {
        let mut bytes = [0; 16];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|error| BenchError::Io {
            action: "reading random bytes",
            source: std::io::Error::other(error),
        })?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }

    /// The part of it that every datagram carries.
    pub(crate) fn datagram_id(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let wrong = || "a token is 32 hexadecimal digits".to_owned();
        u128::from_str_radix(text, 16).ok().filter(|_| hex).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The first line of a connection: what it is for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "greeting")]
pub(crate) enum Greeting {
    /// A client asks for a test.
    Control {
        /// [`PROTOCOL_VERSION`] of the client.
        version: u32,
        /// The test.
        test: TestSpec,
    },
    /// A TCP stream of a test that is being set up.
    Data {
        /// The test.
        token: Token,
        /// Which of its streams.
        stream: u16,
    },
}

/// The server's answer to [`Greeting::Control`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub(crate) enum Answer {
    /// Open the streams.
    Ready {
        /// Names the test.
        token: Token,
        /// Where each UDP stream is expected; empty for TCP.
        udp_ports: Vec<u16>,
    },
    /// The test will not be run.
    Refused {
        /// Why, for the user.
        reason: String,
    },
}

/// Sent by the server once every stream has been matched.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "signal")]
pub(crate) enum Signal {
    /// Go.
    Start,
    /// A stream was missing, or something else went wrong.
    Failed {
        /// Why, for the user.
        reason: String,
    },
}

/// What either end sends while a test runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "progress")]
pub(crate) enum Progress {
    /// What this end moved in the last interval.
    Interval(Interval),
    /// This end has finished.
    Finished(SideReport),
    /// This end has given up.
    Failed {
        /// Why, for the user.
        reason: String,
    },
}

/// The front of a test datagram, big endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatagramHeader {
    /// [`Token::datagram_id`] of the test.
    pub(crate) id: u64,
    /// Sequence number within the stream from 0, or [`DatagramHeader::HELLO`].
    pub(crate) sequence: u64,
    /// Nanoseconds on the sender's clock since the test began.
    pub(crate) sent_ns: u64,
}

impl DatagramHeader {
    /// The sequence number of a datagram that only introduces its sender.
    pub(crate) const HELLO: u64 = u64::MAX;

    /// Reads the header of a datagram; `None` if it is too short to have one.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        let (id, rest) = datagram.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (sent_ns, _) = rest.split_first_chunk()?;
        Some(Self {
            id: u64::from_be_bytes(*id),
            sequence: u64::from_be_bytes(*sequence),
            sent_ns: u64::from_be_bytes(*sent_ns),
        })
    }

    /// The header as bytes.
    pub(crate) fn emit(self) -> [u8; DATAGRAM_HEADER_LEN] {
        let mut bytes = [0; DATAGRAM_HEADER_LEN];
        bytes[..8].copy_from_slice(&self.id.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes
    }
}

/// `len` bytes that do not compress and repeat nothing, the same on every run.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    use rand::SeedableRng;
    let mut bytes = vec![0; len];
    rand::rngs::SmallRng::seed_from_u64(0x636f_7265_6c61_6e65).fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{DatagramHeader, Greeting, TestSpec, Token};

    #[test]
    fn bounds_of_a_test() {
        let good = TestSpec::tcp(Duration::from_secs(1));
        assert!(good.validate().is_ok());
        let udp = TestSpec::udp(Duration::from_secs(1));
        assert!(udp.validate().is_ok());
        for bad in [
            TestSpec { streams: 0, ..good.clone() },
            TestSpec { streams: 129, ..good.clone() },
            TestSpec { duration_ms: 0, ..good.clone() },
            TestSpec { duration_ms: u64::MAX, ..good.clone() },
            TestSpec { length: 0, ..good.clone() },
            TestSpec { length: u32::MAX, ..good.clone() },
            TestSpec { rate_bps: Some(0), ..good },
            TestSpec { length: 23, ..udp.clone() },
            TestSpec { length: 65_508, ..udp },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_rate_is_shared_by_the_streams_and_never_zero() {
        let spec = TestSpec { rate_bps: Some(3), streams: 4, ..TestSpec::udp(Duration::ZERO) };
        assert_eq!(spec.stream_rate_bps(), Some(1));
    }

    #[test]
    fn tokens_are_exactly_32_hexadecimal_digits() {
        let token = Token::random().unwrap();
        assert_eq!(token.to_string().parse::<Token>(), Ok(token));
        for wrong in ["", "0", "+1234567890123456789012345678901", &"g".repeat(32)] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn datagram_headers_survive_the_wire(id: u64, sequence: u64, sent_ns: u64, tail: Vec<u8>) {
            let header = DatagramHeader { id, sequence, sent_ns };
            let mut datagram = header.emit().to_vec();
            prop_assert_eq!(DatagramHeader::parse(&datagram[..23]), None);
            datagram.extend(tail);
            prop_assert_eq!(DatagramHeader::parse(&datagram), Some(header));
        }

        #[test]
        fn no_greeting_panics(text in ".{0,200}") {
            let _ = serde_json::from_str::<Greeting>(&text);
        }
    }
}
