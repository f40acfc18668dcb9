//! Limits of the carrier, and of finding out whether UDP gets through (docs/protocol.md,
//! "Carrier").

use std::time::Duration;

use super::{
    ACTIVITY_SCAN_EVERY, DEAD_PEER_PROBE_AFTER, LANE_EVENTS_PPS, REJECT_AFTER, WORKERS_MAX,
};

/// Bytes of a frame's header.
pub const CARRIER_HEADER_LEN: usize = 6;
/// Channels of a carrier: one for each path of a client, and one for its control thread.
pub const CARRIER_CHANNELS_MAX: usize = WORKERS_MAX + 1;
/// Datagrams of one frame: as many as the kernel aggregates (`UDP_GRO_CNT_MAX`).
pub const CARRIER_FRAME_DATAGRAMS_MAX: usize = 64;
/// Bytes of frames that are written to a TLS connection at once: several of its largest records.
pub const CARRIER_CHUNK_LEN: usize = 64 * 1024;
/// Frames that came within this time wait, and are given up, together.
pub const CARRIER_CHUNK_SPAN: Duration = Duration::from_millis(2);
/// The longest that a datagram waits for a carrier's TLS connection.
pub const CARRIER_WAIT_MAX: Duration = Duration::from_millis(100);
/// Bytes that wait for one TLS connection.
pub const CARRIER_QUEUE_LEN_MAX: usize = 1024 * 1024;
/// Bytes that wait for all TLS connections of a server together; each has an equal share, but
/// [`CARRIER_QUEUE_LEN_MIN`] at least.
pub const CARRIER_QUEUES_LEN_MAX: usize = 64 * 1024 * 1024;
/// The least such share: a frame of any size finds room in it.
pub const CARRIER_QUEUE_LEN_MIN: usize = 72 * 1024;
/// Bytes that are read from a TLS connection before others have their turn.
pub const CARRIER_READ_LEN: usize = 128 * 1024;
/// Bytes that the kernel keeps of a carrier's stream beyond what it has sent
/// (`TCP_NOTSENT_LOWAT`).
pub const CARRIER_UNSENT_MAX: u32 = 128 * 1024;
/// How long the far side may leave what was sent to it unacknowledged (`TCP_USER_TIMEOUT`).
pub const CARRIER_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// After so much silence the kernel asks whether the far side is there, and then as often.
pub const CARRIER_KEEPALIVE: Duration = Duration::from_secs(15);
/// Receive buffer of a carrier's sockets on loopback, in bytes as asked for.
pub const CARRIER_SOCKET_BUFFER_LEN: usize = 2 * 1024 * 1024;
/// Carriers of a server. Each has an address of its own in 127.0.0.0/8, in a /24 of its own.
pub const CARRIERS_MAX: usize = 4096;
/// Carriers of one login: one may be on its way out while the next has come.
pub const CARRIERS_PER_LOGIN_MAX: usize = 2;
/// Sockets on loopback that all carriers of a server have together.
pub const CARRIER_SOCKETS_MAX: usize = 16_384;
/// A server closes a carrier on which nothing has come for this long: longer than the longest pause
/// of a client that has a session, which renews it.
pub const CARRIER_IDLE_MAX: Duration = Duration::from_secs(300);
/// How long connecting for a carrier, and the server's answer, may each take.
pub const CARRIER_CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long a carrier stays open once UDP is in use again, for what is on its way.
pub const CARRIER_GRACE: Duration = Duration::from_secs(2);
/// How long after a carrier could not be opened that is always to be used it is tried again.
/// Doubled while that fails.
pub const CARRIER_RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest such wait.
pub const CARRIER_RETRY_MAX: Duration = Duration::from_secs(15);
/// News that wait for the thread that opens a client's carriers.
pub const CARRIER_WORDS_MAX: usize = 64;
/// Orders that wait for a server's carrier thread.
pub const CARRIER_ORDERS_MAX: usize = 1024;

// ---- Whether UDP gets through (a client that may use a carrier) ----

/// With traffic unanswered, or over all at once, for this long and a round trip, the server is
/// asked for a sign of life.
pub const UDP_QUIET_MAX: Duration = Duration::from_millis(300);
/// How often, or every half round trip if that is longer.
pub const UDP_ASK_EVERY: Duration = Duration::from_millis(150);
/// Questions without an answer after which UDP is silent.
pub const UDP_ASKS_MAX: u32 = 3;
/// How often the counters are looked at meanwhile.
pub const UDP_WATCH_EVERY: Duration = Duration::from_millis(100);
/// A handshake that goes unanswered for this long shows the same.
pub const UDP_CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long after it was told that UDP is silent it is told again.
pub const UDP_SILENT_AGAIN: Duration = Duration::from_secs(5);
/// How long after a carrier was taken UDP is tried for the first time. Doubled while that fails.
pub const UDP_TRIAL_FIRST: Duration = Duration::from_secs(1);
/// The longest pause between two trials.
pub const UDP_TRIAL_MAX: Duration = Duration::from_secs(10);
/// The pause between trials that succeed, or two round trips if that is longer.
pub const UDP_TRIAL_EVERY: Duration = Duration::from_millis(500);
/// How long trials must have succeeded before a carrier is given up for UDP.
pub const UDP_HOLD_FIRST: Duration = Duration::from_secs(3);
/// The longest such time: it is doubled each time that UDP falls silent soon.
pub const UDP_HOLD_MAX: Duration = Duration::from_secs(96);
/// How soon that is.
pub const UDP_RELAPSE_WITHIN: Duration = Duration::from_secs(120);

// ---- Whether UDP loses too much (a client that may use a carrier) ----

/// How often the far side is asked for an answer while there is traffic.
pub const LOSS_ASK_EVERY: Duration = Duration::from_millis(125);
/// For how long after something was carried.
pub const LOSS_LINGER: Duration = Duration::from_secs(2);
/// A question that was not answered after this and a round trip is lost.
pub const LOSS_ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// Of questions that are looked at later than this it is not known whether they were.
pub const LOSS_LOOK_LATE_MAX: Duration = Duration::from_secs(1);
/// The last questions by which loss is judged: those of five seconds.
pub const LOSS_WINDOW: usize = 40;
/// How long the fate of a question counts at most.
pub const LOSS_MEMORY: Duration = Duration::from_secs(30);
/// Percent of questions, or of their answers, that are lost on a way of which there is a better
/// one. TCP comes to a standstill long before; what overtakes a full queue loses less.
pub const LOSSY_PERCENT: u8 = 30;
/// How long after UDP was found to lose too much that is told again.
pub const LOSSY_AGAIN_FIRST: Duration = Duration::from_secs(30);
/// The longest such time: it is doubled each time that a carrier turns out to lose as much.
pub const LOSSY_AGAIN_MAX: Duration = Duration::from_secs(600);
/// How long trials must have succeeded before UDP is gone back to that has lost too much, at
/// first: as many of them that one in ten lost ones would show.
pub const UDP_HOLD_LOSSY: Duration = Duration::from_secs(12);

const _: () = {
    assert!(UDP_HOLD_FIRST.as_secs() < UDP_HOLD_LOSSY.as_secs());
    assert!(UDP_HOLD_LOSSY.as_secs() < UDP_HOLD_MAX.as_secs());
    assert!(
        UDP_HOLD_LOSSY.as_millis() >= 20 * UDP_TRIAL_EVERY.as_millis(),
        "loss of one in ten is noticed nine times in ten"
    );
    assert!(
        LOSS_ANSWER_WITHIN.as_millis() / LOSS_ASK_EVERY.as_millis() < LOSS_WINDOW as u128,
        "answers find their questions"
    );
    assert!(
        2 * LOSS_WINDOW as u128 * LOSS_ASK_EVERY.as_millis() < LOSS_MEMORY.as_millis(),
        "a window is full before its first question is forgotten"
    );
    assert!(
        LOSS_ASK_EVERY.as_millis() * LANE_EVENTS_PPS as u128 >= 4 * 1000,
        "what a lane may ask is left to others, too"
    );
    assert!(LOSSY_PERCENT <= 100 && LOSSY_AGAIN_FIRST.as_secs() <= LOSSY_AGAIN_MAX.as_secs());
    assert!(
        UDP_HOLD_LOSSY.as_secs() + LOSSY_AGAIN_FIRST.as_secs() < UDP_RELAPSE_WITHIN.as_secs(),
        "who comes and goes is trusted ever more slowly"
    );
};

const _: () = {
    assert!(
        ACTIVITY_SCAN_EVERY.as_millis()
            + UDP_QUIET_MAX.as_millis()
            + (UDP_ASKS_MAX as u128) * UDP_ASK_EVERY.as_millis()
            <= 1000,
        "a carrier takes over within two seconds, half of them for making it"
    );
    assert!(UDP_QUIET_MAX.as_millis() < DEAD_PEER_PROBE_AFTER.as_millis());
    assert!(CARRIER_CHANNELS_MAX <= 255, "a channel is named by one byte");
    assert!(CARRIERS_MAX < 1 << 16, "each has a /24 of 127.0.0.0/8");
    assert!(CARRIER_QUEUE_LEN_MIN > CARRIER_HEADER_LEN + 0xffff, "any frame fits");
    assert!(CARRIER_IDLE_MAX.as_secs() > REJECT_AFTER.as_secs());
    assert!(CARRIER_CHUNK_SPAN.as_millis() * 10 < CARRIER_WAIT_MAX.as_millis());
};
