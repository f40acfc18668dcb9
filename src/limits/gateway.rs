//! The workers of the proxy gateway, and how they reach origins.

use std::time::Duration;

/// Bytes that a relay reads at a time. A connection holds such a buffer for each direction in which
/// the reader is slower than the writer, and none otherwise.
pub const PROXY_BUFFER_LEN: usize = 64 * 1024;
/// Bytes of the longest record of TLS: the header, and 2^14 bytes with what encryption adds
/// (RFC 8446 section 5.2).
pub const TLS_RECORD_LEN_MAX: usize = 5 + (1 << 14) + 256;
/// How often it is looked whether certificates or revocation lists have changed.
pub const PROXY_CERTIFICATES_EVERY: Duration = Duration::from_millis(250);
/// Handshakes of TLS that a worker goes on with in one turn, of about a millisecond of work each:
/// those who come at once must not hold up who is there.
pub const PROXY_HANDSHAKES_PER_TURN: usize = 4;
/// Buffers that a worker keeps for reuse.
pub const PROXY_BUFFERS_KEPT: usize = 64;
/// Bytes that a pipe has room for through which a relay splices. The kernel lets a user without
/// privileges have 64 MiB of pipes (`/proc/sys/fs/pipe-user-pages-soft`).
pub const PROXY_PIPE_LEN: usize = 256 * 1024;
/// Bytes that have to come at a time through a pipe, or else the relay goes back to buffers.
pub const PROXY_SPLICE_LEN_MIN: usize = 16 * 1024;
/// Pipes of a worker: relays beyond them use buffers.
pub const PROXY_PIPES_MAX: usize = 64;
/// How many relays use buffers after the kernel would not give a pipe, before it is asked again.
pub const PROXY_PIPE_RETRY_AFTER: u32 = 1024;
/// Bytes that a relay moves in one direction before other connections have their turn.
pub const PROXY_RELAY_TURN_LEN: usize = 4 * PROXY_BUFFER_LEN;
/// Reads of a connection, each way, before other connections have their turn: little may go on of
/// what is read, since framing is dropped, records of TLS may be short, and a limit lets little in.
pub const PROXY_HELPINGS_PER_TURN: usize = 8;
/// Bytes of what a client says before it has asked for something: the head of an HTTP request is
/// the longest.
pub const PROXY_REQUEST_LEN_MAX: usize = 64 * 1024;
/// How long a client may take to ask for something, unless configured otherwise.
pub const PROXY_REQUEST_WITHIN: Duration = Duration::from_secs(15);
/// What each byte of a request's body adds to the time for the next ones: less than 250 bytes each
/// second, and the body is too slow. The slowest networks for phones have ten times that.
pub const PROXY_BODY_BYTE_LASTS: Duration = Duration::from_millis(4);
/// How long reaching the origin may take, names included, unless configured otherwise.
pub const PROXY_DIAL_WITHIN: Duration = Duration::from_secs(20);
/// How long an origin may take to begin an answer of HTTP, unless configured otherwise.
pub const PROXY_RESPONSE_WITHIN: Duration = Duration::from_secs(300);
/// How long a client of HTTP may say nothing between two requests, unless configured otherwise.
pub const PROXY_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Connections to origins of HTTP that a worker keeps while nobody uses them, unless configured
/// otherwise.
pub const PROXY_KEPT_MAX: usize = 256;
/// Of those, the ones to one origin, unless configured otherwise.
pub const PROXY_KEPT_PER_ORIGIN_MAX: usize = 16;
/// The most that may be configured of the former.
pub const PROXY_KEPT_BOUND: u64 = 65_536;
/// How long one is kept, unless configured otherwise. Most servers close such a connection after a
/// minute or more; one that is closed just when it is used costs a failed request.
pub const PROXY_KEPT_LASTS: Duration = Duration::from_secs(30);
/// How often it is looked which of them have been kept for too long.
pub const PROXY_KEPT_SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a body that are copied behind a head, so that both go in one call.
pub const PROXY_BODY_WITH_HEAD_MAX: usize = 16 * 1024;
/// Bytes of room that a client keeps between two requests.
pub const PROXY_ROOM_KEPT_MAX: usize = 4096;
/// How long a relay may move nothing, unless configured otherwise.
pub const PROXY_IDLE_MAX: Duration = Duration::from_secs(600);
/// How long a client may take to read why it was refused. RFC 1928 section 6 wants the connection
/// closed 10 s after a failure.
pub const PROXY_PARTING_WITHIN: Duration = Duration::from_secs(3);
/// Datagrams that an association takes in from either side before others have their turn.
pub const PROXY_DATAGRAMS_PER_TURN: usize = 16;
/// Bytes of datagrams that the kernel keeps for each of the two sockets of an association.
pub const PROXY_DATAGRAM_BUFFER_LEN: usize = 256 * 1024;
/// Datagrams of an association that wait for names to be looked up.
pub const PROXY_DATAGRAMS_WAITING_MAX: usize = 16;
/// Bytes of those.
pub const PROXY_DATAGRAMS_WAITING_LEN_MAX: usize = 64 * 1024;
/// Bytes of the headers of IPv4 and UDP, which a user's rate pays for with each datagram: one
/// without payload costs networks and hosts no less than that (RFC 791 section 3.1, RFC 768).
pub const PROXY_DATAGRAM_HEADERS_LEN_V4: usize = 20 + 8;
/// The same of IPv6 and UDP (RFC 8200 section 3).
pub const PROXY_DATAGRAM_HEADERS_LEN_V6: usize = 40 + 8;
/// Ports of the configured range that are tried for an association.
pub const PROXY_DATAGRAM_PORT_TRIES: u32 = 256;
/// How long a port that a client had opened (BIND) waits for who is expected, unless configured
/// otherwise.
pub const PROXY_BIND_WITHIN: Duration = Duration::from_secs(60);
/// How long relays may go on when the gateway stops, unless configured otherwise.
pub const PROXY_DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// Connections of clients at the same time, unless configured otherwise.
pub const PROXY_CONNECTIONS_MAX: usize = 65_536;
/// Of those, the ones of one source (an IPv4 address, or a /64), unless configured otherwise.
pub const PROXY_CONNECTIONS_PER_SOURCE_MAX: usize = 4096;
/// Connections of a worker that have not asked for anything yet; where most places of an entrance
/// are taken, a worker's part of half of those is its bound as well. The oldest makes room for a
/// new one.
pub const PROXY_ASKING_MAX: usize = 8192;
/// Of those, the ones of a worker that make room at a time where connections or descriptors are
/// used up: half of them at most.
pub const PROXY_ROOM_MADE_MAX: usize = 64;
/// The most seconds that a time of the gateway may be configured to: thirty days.
pub const PROXY_SECONDS_MAX: u64 = 30 * 24 * 3600;
/// The most connections that may be configured.
pub const PROXY_CONNECTIONS_BOUND: u64 = 1 << 24;
/// Connections that a worker accepts at each address before those that exist have their turn.
pub const PROXY_ACCEPTS_PER_TURN: usize = 64;
/// Connections that the kernel keeps for a worker until it accepts them.
pub const PROXY_BACKLOG: i32 = 4096;
/// How long after the kernel could not hand over a connection it is asked again, and after how long
/// one is looked at again that waits for other workers to make room.
pub const PROXY_ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How exact the timers of a worker are.
pub const PROXY_TICK: Duration = Duration::from_millis(16);
/// How many ticks ahead they are sorted; what lies beyond is sorted again later.
pub const PROXY_TICKS: usize = 2048;

/// Addresses of one name that are tried.
pub const PROXY_ADDRESSES_MAX: usize = 16;
/// Attempts to reach one origin at the same time.
pub const PROXY_ATTEMPTS_MAX: usize = 6;
/// After how long the next address is tried beside those before ("Connection Attempt Delay",
/// RFC 8305 section 8).
pub const PROXY_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Threads that look names up. One asker has half of them at most.
pub const PROXY_LOOKUP_THREADS: usize = 32;
/// Bytes of the stack of such a thread: the C library's resolver keeps its buffers there.
pub const PROXY_LOOKUP_STACK_LEN: usize = 256 * 1024;
/// Names that wait for one of those threads.
pub const PROXY_LOOKUPS_WAITING_MAX: usize = 16_384;
/// Of those, the ones of one user, or of one source where nobody says who he is.
pub const PROXY_NAMES_WAITING_PER_ASKER_MAX: usize = 256;
/// Connections that wait for the same name.
pub const PROXY_LOOKUP_WAITERS_MAX: usize = 4096;
/// Names whose addresses are remembered.
pub const PROXY_NAMES_MAX: usize = 16_384;
/// Addresses of one name that are kept: whoever has a domain may give it thousands.
pub const PROXY_NAME_ADDRESSES_MAX: usize = 64;
/// How long the addresses of a name are remembered. The system's resolver does not say how long
/// they hold, and has a cache of its own where that matters.
pub const PROXY_NAME_LASTS: Duration = Duration::from_secs(30);
/// How long it is remembered that there is no such name.
pub const PROXY_NO_NAME_LASTS: Duration = Duration::from_secs(5);
/// How long it is remembered that nobody could tell.
pub const PROXY_NAME_TROUBLE_LASTS: Duration = Duration::from_secs(1);
/// How often the host's own addresses are listed.
pub const PROXY_OWN_ADDRESSES_EVERY: Duration = Duration::from_secs(5);

/// How long it is remembered who showed what. What makes a decision void is heard of at once.
pub const PROXY_PERMIT_LASTS: Duration = Duration::from_secs(300);
/// Decisions that are remembered.
pub const PROXY_PERMITS_MAX: usize = 16_384;
/// What a relay of a user with a limit takes in at a time: this much of what the limit gives out.
/// Others of the user, in the tunnel as well, wait no longer for it.
pub const PROXY_LIMIT_STEP: Duration = Duration::from_millis(20);
/// The least that it takes in at a time.
pub const PROXY_LIMIT_STEP_LEN_MIN: usize = 1500;
/// How long it waits where the queue for the limit is full.
pub const PROXY_LIMIT_RETRY: Duration = Duration::from_millis(20);
/// The most connections in a second that the configuration may bound a user to.
pub const PROXY_RATE_BOUND: u64 = 1_000_000;

/// Upstream proxies of a group.
pub const PROXY_UPSTREAM_SERVERS_MAX: usize = 64;
/// Servers of a group that are asked for the same connection, one after the other.
pub const PROXY_UPSTREAM_TRIES_MAX: u32 = 3;
/// Failures in a row after which a server is left out for a while.
pub const PROXY_UPSTREAM_FAILURES_MAX: u32 = 3;
/// For how long it is left out first; each further failure doubles that.
pub const PROXY_UPSTREAM_OUT_FIRST: Duration = Duration::from_secs(5);
/// For how long it is left out at most.
pub const PROXY_UPSTREAM_OUT_MAX: Duration = Duration::from_secs(300);
/// Bytes of an upstream proxy's answer that has no end yet.
pub const PROXY_UPSTREAM_ANSWER_LEN_MAX: usize = 16 * 1024;
/// Bytes of the file with the credentials for an upstream proxy.
pub const PROXY_CREDENTIALS_LEN_MAX: usize = 1024;
/// How often it is looked whether servers are to be tried.
pub const PROXY_CHECK_LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long such a try may take.
pub const PROXY_CHECK_WITHIN: Duration = Duration::from_secs(5);
/// Servers that are tried at the same time.
pub const PROXY_CHECKS_AT_ONCE: usize = 16;
/// The most connections that a worker may be configured to have ready to one upstream proxy.
pub const PROXY_READY_BOUND: u64 = 64;
/// How long making one may take: TCP, TLS, and an answer.
pub const PROXY_READY_WITHIN: Duration = Duration::from_secs(10);
/// Of that, how long one address may take to be connected.
pub const PROXY_READY_ATTEMPT_WITHIN: Duration = Duration::from_secs(3);
/// How often those are given up that nobody has needed.
pub const PROXY_READY_LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long an upstream proxy bears a silence that does not say.
pub const PROXY_READY_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After how long it is asked again at the latest. NAT forgets silent connections sooner than most
/// servers do.
pub const PROXY_READY_RENEW_MAX: Duration = Duration::from_secs(30);
/// And no sooner than this, whatever it says of itself: asking is work at both ends.
pub const PROXY_READY_RENEW_MIN: Duration = Duration::from_secs(1);
/// How long what is sent over one may stay unacknowledged (`TCP_USER_TIMEOUT`). The path may have
/// gone without a word since it was made; whoever needs one is better served by a new one then.
pub const PROXY_READY_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);
/// The most connections that a worker of `corelane proxy-client` has ready.
pub const PROXY_CLIENT_READY: usize = 16;
/// How long its gateway may take to say, at the start, whether it lets the client in.
pub const PROXY_CLIENT_GREETED_WITHIN: Duration = Duration::from_secs(15);
/// How long reaching an origin by the gateway may take: somewhat more than there, so that what is
/// heard of is why the gateway does not reach it.
pub const PROXY_CLIENT_DIAL_WITHIN: Duration =
    PROXY_DIAL_WITHIN.saturating_add(Duration::from_secs(5));
/// After how long one that nobody has needed makes way for a new one. What has changed at the
/// upstream proxy does so for those who come from then on.
pub const PROXY_READY_LASTS: Duration = Duration::from_secs(300);
/// How long nothing is tried after a failure; each further one doubles that.
pub const PROXY_READY_RETRY_FIRST: Duration = Duration::from_secs(1);
/// How long at most.
pub const PROXY_READY_RETRY_MAX: Duration = Duration::from_secs(60);
/// How long nothing is tried after a refusal, unless a client gets through meanwhile.
pub const PROXY_READY_REFUSED_FOR: Duration = Duration::from_secs(300);

const _: () = {
    assert!(PROXY_UPSTREAM_SERVERS_MAX <= u64::BITS as usize, "a bit for each that was tried");
    assert!(PROXY_CLIENT_READY as u64 <= PROXY_READY_BOUND);
    assert!(PROXY_READY_RENEW_MAX.as_secs() <= PROXY_KEEP_ALIVE.as_secs() / 2, "in good time");
    assert!(PROXY_UPSTREAM_ANSWER_LEN_MAX < PROXY_BUFFER_LEN / 2, "its rest goes to the relay");
    assert!(PROXY_CREDENTIALS_LEN_MAX > 255 + 1 + 255, "user and password (RFC 1929)");
    assert!(PROXY_REQUEST_LEN_MAX <= PROXY_BUFFER_LEN, "what is pipelined fits one buffer");
    assert!(PROXY_RELAY_TURN_LEN >= PROXY_BUFFER_LEN);
    let helpings_len = PROXY_HELPINGS_PER_TURN * PROXY_BUFFER_LEN;
    assert!(helpings_len >= PROXY_RELAY_TURN_LEN, "a turn of full buffers is ended by their bytes");
    assert!(helpings_len <= 2 * PROXY_RELAY_TURN_LEN, "nor is it long where they are dropped");
    assert!(PROXY_PIPE_LEN >= PROXY_BUFFER_LEN, "a pipe moves no less than a buffer at a time");
    assert!(PROXY_SPLICE_LEN_MIN <= PROXY_BUFFER_LEN, "what begins to splice goes on");
    assert!(PROXY_BUFFER_LEN >= 2 * TLS_RECORD_LEN_MAX, "a record, and a part of one before it");
    assert!(PROXY_PARTING_WITHIN.as_secs() < 10, "RFC 1928 section 6");
    assert!(PROXY_NAME_ADDRESSES_MAX >= PROXY_ADDRESSES_MAX);
    assert!(PROXY_NAMES_WAITING_PER_ASKER_MAX >= PROXY_DATAGRAMS_WAITING_MAX);
    assert!(PROXY_LOOKUPS_WAITING_MAX >= PROXY_LOOKUP_THREADS * PROXY_NAMES_WAITING_PER_ASKER_MAX);
    assert!(PROXY_ATTEMPT_DELAY.as_millis() >= 100, "RFC 8305 section 5");
    assert!(PROXY_ATTEMPT_DELAY.as_millis() <= 2000, "RFC 8305 section 5");
    assert!(PROXY_TICKS.is_multiple_of(64), "a word has 64 bits");
    assert!(PROXY_ATTEMPTS_MAX < 8, "a token has three bits for the socket of a connection");
};
