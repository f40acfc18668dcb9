//! Traffic generator (`corelane bench`).

use std::time::Duration;

use super::TUN_MTU_DEFAULT;

/// The port `corelane bench serve` listens on.
pub const BENCH_PORT: u16 = 5202;
/// Streams of one test.
pub const BENCH_STREAMS_MAX: u16 = 128;
/// The longest test.
pub const BENCH_DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// Tests a server runs at a time; one more is refused with a reason.
pub const BENCH_TESTS_MAX: usize = 8;
/// Connections a server holds that have not said what they are for.
pub const BENCH_GREETINGS_MAX: usize = 256;
/// Bytes of one line on a control connection. A report of every stream fits.
pub const BENCH_LINE_LEN_MAX: usize = 64 * 1024;
/// Bytes of the first line of a connection.
pub const BENCH_GREETING_LEN_MAX: usize = 1024;
/// How long connecting, greeting and matching the streams of a test may each take.
pub const BENCH_SETUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after its planned end a test may go on before it is given up.
pub const BENCH_END_GRACE: Duration = Duration::from_secs(10);
/// How long the far end of a running test may say nothing: it speaks every [`BENCH_INTERVAL`].
pub const BENCH_SILENCE_MAX: Duration = Duration::from_secs(20);
/// How often a test's threads look whether they are to stop.
pub const BENCH_TICK: Duration = Duration::from_millis(100);
/// How often a test reports what it has moved.
pub const BENCH_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of one write to a TCP stream unless the user says otherwise.
pub const BENCH_TCP_CHUNK_LEN: u32 = 128 * 1024;
/// The largest write to a TCP stream a user may ask for.
pub const BENCH_TCP_CHUNK_LEN_MAX: u32 = 1024 * 1024;
/// Payload bytes of a test datagram unless the user says otherwise: fits the tunnel's default MTU.
pub const BENCH_UDP_PAYLOAD_LEN: u32 = 1300;
/// Payload bytes of an echo request unless the user says otherwise.
pub const BENCH_ECHO_PAYLOAD_LEN: u32 = 64;
/// How long a UDP receiver waits in silence for stragglers once the sender has finished.
pub const BENCH_UDP_DRAIN: Duration = Duration::from_millis(300);
/// Sequence numbers behind the highest one within which a duplicate is told from a late datagram.
pub const BENCH_SEQUENCE_WINDOW: u64 = 1 << 16;
/// Echo requests of one latency test.
pub const BENCH_ECHOES_MAX: u32 = 1_000_000;

const _: () = {
    assert!(BENCH_SILENCE_MAX.as_secs() >= 10 * BENCH_INTERVAL.as_secs());
    assert!(BENCH_SEQUENCE_WINDOW.is_power_of_two() && BENCH_SEQUENCE_WINDOW >= 64);
    assert!(BENCH_STREAMS_MAX as usize * 400 < BENCH_LINE_LEN_MAX, "a report fits one line");
    assert!(BENCH_UDP_PAYLOAD_LEN as usize + 48 <= TUN_MTU_DEFAULT as usize);
};
