//! Every size, timer and bound of the protocol and the program, in one place.
//!
//! Derived values are expressions of others, and each relation the code relies on is asserted at
//! compile time at the foot of its file. Units stand last in a name.

use std::time::Duration;

mod bench;
mod carrier;
mod gateway;
mod hashing;
mod http;
mod leases;
mod login;
mod proxy;
mod records;
mod store;

pub use bench::*;
pub use carrier::*;
pub use gateway::*;
pub use hashing::*;
pub use http::*;
pub use leases::*;
pub use login::*;
pub use proxy::*;
pub use records::*;
pub use store::*;

// ---- Message layout (docs/protocol.md, "Messages") ----

/// Bytes of a data message in front of the ciphertext: type, lane, zero, receiver index, counter.
pub const DATA_HEADER_LEN: usize = 16;
/// Bytes of an AES-256-GCM tag.
pub const TAG_LEN: usize = 16;
/// What a data message adds to its padded plaintext.
pub const DATA_OVERHEAD_LEN: usize = DATA_HEADER_LEN + TAG_LEN;
/// Plaintexts are zero-padded to a multiple of this (one AES block).
pub const PADDING_LEN: usize = 16;
/// Bytes of an X25519 public key, private key or shared secret, and of a pre-shared key.
pub const KEY_LEN: usize = 32;
/// Bytes of `mac1` and of `mac2`.
pub const MAC_LEN: usize = 16;
/// Bytes of the nonce of a cookie reply. It is a key-derivation salt, so random values never repeat
/// a (key, nonce) pair of the AEAD however many replies a flood provokes.
pub const COOKIE_NONCE_LEN: usize = 32;
/// Bytes of the cookie itself, as carried inside a cookie reply.
pub const COOKIE_LEN: usize = 16;
/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
pub const KEM_PUBLIC_KEY_LEN: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203, table 3).
pub const KEM_CIPHERTEXT_LEN: usize = 1088;
/// Bytes of a TAI64N timestamp.
pub const TIMESTAMP_LEN: usize = 12;

// ---- Lanes and workers ----

/// The most workers on one side. A lane number fits a byte and stays below this.
pub const WORKERS_MAX: usize = 128;

/// The addresses a server may listen on. An address is named by one byte.
pub const LISTENERS_MAX: usize = 256;

// ---- Session life (docs/protocol.md, "Timers") ----

/// A session older than this is replaced by its initiator, unless the initiator's configuration
/// says sooner.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The least age a client may be configured to replace a session at.
pub const REKEY_AFTER_MIN: Duration = Duration::from_secs(5);
/// The most that a session is replaced early by, drawn at random per session: clients that
/// connected together, as after a server's restart, soon rekey apart.
pub const REKEY_JITTER_MAX: Duration = Duration::from_secs(5);
/// A session is replaced early by less than its configured age divided by this.
pub const REKEY_JITTER_DIVISOR: u32 = 4;
/// A session older than this neither sends nor receives.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// Packets under one lane key after which the initiator replaces the session. AES-GCM keeps its
/// margin up to 2^28 full-sized packets under one key (RFC 9001 appendix B.1).
pub const REKEY_AFTER_PACKETS: u64 = (1 << 28) - (1 << 24);
/// No packet is sealed or opened under a lane key once its counter has reached this.
pub const REJECT_AFTER_PACKETS: u64 = 1 << 28;
/// Failed openings under one lane key after which the session is given up: far under the 2^52
/// forgeries that RFC 9001 section 6.6 allows, and still never reached by noise.
pub const FORGERIES_MAX: u64 = 1 << 36;
/// The first wait for a handshake response.
pub const HANDSHAKE_RETRY_FIRST: Duration = Duration::from_millis(250);
/// Waits of that length, after which each is twice the one before, up to [`HANDSHAKE_RETRY_MAX`]: a
/// server that is flooded hears a client at its second try or third.
pub const HANDSHAKE_RETRIES_EVEN: u32 = 4;
/// The longest wait between two handshake initiations.
pub const HANDSHAKE_RETRY_MAX: Duration = Duration::from_secs(5);
/// Initiations sent before the waits between them may grow to [`RECONNECT_PAUSE_MAX`].
pub const HANDSHAKE_TRIES_BEFORE_PAUSE: u32 = 12;
/// Initiations of a handshake in progress whose late answers a client knows for what they are.
pub const HANDSHAKE_REQUESTS_KEPT: usize = 8;
/// The longest pause between attempts once a server has not answered for a while.
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(15);
/// A client whose server said goodbye connects again after a random part of this.
pub const RECONNECT_AFTER_CLOSE_MAX: Duration = Duration::from_secs(2);
/// With nothing heard for this long after something was sent, a path is probed.
pub const DEAD_PEER_PROBE_AFTER: Duration = Duration::from_millis(1500);
/// Probes left unanswered before the peer counts as gone and a new handshake begins.
pub const DEAD_PEER_PROBES_MAX: u32 = 3;
/// The wait between two probes of a silent peer.
pub const DEAD_PEER_PROBE_EVERY: Duration = Duration::from_millis(500);
/// How long a client waits for each of its paths to be confirmed before it falls back to one.
pub const PATH_CONFIRM_WITHIN: Duration = Duration::from_secs(3);
/// How often an unconfirmed path is probed again in that time.
pub const PATH_CONFIRM_RETRY: Duration = Duration::from_millis(200);
/// How long a client that fell back to one path keeps to it before it asks for all again: the
/// others may have been out for a moment only. Doubled each time that it fails.
pub const PATHS_RETRY_FIRST: Duration = Duration::from_secs(30);
/// The longest such wait.
pub const PATHS_RETRY_MAX: Duration = Duration::from_secs(600);
/// Probes of one path whose answers are still awaited; the oldest is forgotten first.
pub const PROBES_OUTSTANDING_MAX: usize = 32;
/// How often the round-trip time of a live path is measured.
pub const RTT_PROBE_EVERY: Duration = Duration::from_secs(10);
/// How often the control thread looks at the activity counters of every session.
pub const ACTIVITY_SCAN_EVERY: Duration = Duration::from_millis(250);
/// A cookie secret is replaced at this age; a cookie is good for as long.
pub const COOKIE_SECRET_LIFE: Duration = Duration::from_secs(120);
/// How long after a peer was first heard on a new session it may still be heard probing the one
/// before. Later than that it is another machine with the same key, which must not take the answers
/// for a sign that it still has a session.
pub const SESSION_HANDOVER: Duration = Duration::from_secs(2);
/// The most session indices a peer holds at once: previous, current, next.
pub const SESSIONS_PER_PEER_MAX: usize = 3;

// ---- Replay window (RFC 6479) ----

/// Counters behind the highest one seen that are still accepted, plus one 64-bit word of slack.
pub const REPLAY_WINDOW_PACKETS: u64 = 8192;
/// Counters behind the highest one seen that are still accepted.
pub const REPLAY_WINDOW_USABLE: u64 = REPLAY_WINDOW_PACKETS - 64;

// ---- Handshake admission (docs/protocol.md, "Cookies and admission") ----
// A source is an IPv4 address or an IPv6 /64, a network an IPv4 /24 or an IPv6 /48.

/// Initiations per second that are read, first come, first served: of those that claim to prove
/// their address, and as many of those that do not. Each costs a few microseconds.
pub const HANDSHAKES_READ_PPS: u32 = 4096;
/// The burst that is read on top.
pub const HANDSHAKES_READ_BURST: u32 = 1024;
/// Initiations per second that are read beyond that, in the same way, because their sender has
/// asked before.
pub const HANDSHAKES_READ_AGAIN_PPS: u32 = 16_384;
/// The burst of these.
pub const HANDSHAKES_READ_AGAIN_BURST: u32 = 1024;
/// Senders that are remembered to have asked. Of 100,000 new ones a second, a sixth has taken the
/// places of others before those have asked again.
pub const HANDSHAKE_SENDERS_SEEN: usize = 1 << 17;
/// Handshake initiations a source may have answered per second.
pub const HANDSHAKES_PER_SOURCE_PPS: u32 = 20;
/// The burst a source may send on top.
pub const HANDSHAKES_PER_SOURCE_BURST: u32 = 5;
/// Initiations per second that all sources together may have answered without proving their
/// address. Each costs public-key work of the order of 100 microseconds, so forged addresses get at
/// a few hundredths of the control thread, however many they are.
pub const HANDSHAKES_UNPROVED_PPS: u32 = 256;
/// The burst they may send on top.
pub const HANDSHAKES_UNPROVED_BURST: u32 = 256;
/// Handshake initiations per second that the proved sources of one network may have answered.
pub const HANDSHAKES_PER_NETWORK_PPS: u32 = 256;
/// The burst they may send on top.
pub const HANDSHAKES_PER_NETWORK_BURST: u32 = 128;
/// Buckets that an admission table holds at once. Those of sources and networks that are not in it
/// are full.
pub const HANDSHAKE_SOURCES_MAX: usize = 4096;

// ---- Packets and batches ----

/// The largest IP packet, and so the largest TUN super-packet.
pub const PACKET_LEN_MAX: usize = 65535;
/// Bytes of a virtio-net header as TUN uses it.
pub const VIRTIO_HEADER_LEN: usize = 10;
/// The largest UDP payload over IPv4.
pub const UDP_PAYLOAD_MAX: usize = 65507;
/// The most datagrams in one `UDP_SEGMENT` send. The kernel's bound is 64 before 6.9 (128 since),
/// and the oldest kernels compare the length in a way that makes 64 fail.
pub const GSO_SEGMENTS_MAX: usize = 63;
/// How long trains of datagrams leave singly on a socket after the kernel has refused one, before
/// they are tried again.
pub const GSO_RETRY_AFTER: Duration = Duration::from_secs(10);
/// Bytes of one receive slot: a whole GRO aggregate fits.
pub const RECEIVE_SLOT_LEN: usize = 65536;
/// Slots of one `recvmmsg` call.
pub const RECEIVE_SLOTS: usize = 8;
/// Messages (each possibly a GSO train) of one `sendmmsg` call.
pub const SEND_MESSAGES_MAX: usize = 64;
/// Trains (neighbours of equal size for one destination) that a send batch has room for.
pub const SEND_TRAINS_MAX: usize = 128;
/// Trains in a send batch at which it leaves before more is read from TUN.
pub const SEND_TRAINS_DUE: usize = 32;
/// Datagrams in a send batch at which it leaves before more is read from TUN.
pub const SEND_DATAGRAMS_DUE: usize = 256;
/// Bytes in a send batch at which it leaves before more is read from TUN: about one super-packet,
/// so that it leaves while it is still in the cache.
pub const SEND_DUE_LEN: usize = 48 * 1024;
/// Bytes of the send arena: behind a batch that is not due yet there is room for a super-packet,
/// which grows by its repeated headers, of segments with [`SEGMENT_PAYLOAD_SMALL`] bytes or more.
pub const SEND_ARENA_LEN: usize = 256 * 1024;
/// Bytes of payload of the shortest segments that a super-packet is expected to stand for. Where
/// they are shorter still, a full socket may cost the rest of it.
pub const SEGMENT_PAYLOAD_SMALL: usize = 96;
/// Packets a worker reads from TUN before it looks at its sockets and commands again.
pub const TUN_READS_PER_TURN: usize = 128;
/// Packets of one super-packet written to TUN. Linux before 6.9 refuses UDP super-packets of more,
/// and 6.6 to 6.8 drop longer TCP ones made of small segments.
pub const RUN_PACKETS_MAX: usize = 64;
/// ICMP "too big" answers that a worker gives per second (RFC 1812 section 4.3.2.8, RFC 4443
/// section 2.4 (f)): as many as Linux gives of all its ICMP (`icmp_msgs_per_sec`).
pub const TOO_BIG_ANSWERS_PPS: u32 = 1000;
/// The burst it may give on top (`icmp_msgs_burst`).
pub const TOO_BIG_ANSWERS_BURST: u32 = 50;
/// Events that one lane may cause for the control thread per second: path messages that arrive on
/// it, and moves of its address. All that a peer has a reason to send is far below.
pub const LANE_EVENTS_PPS: u32 = 32;
/// The burst it may cause on top: the search for the largest MTU, at its fastest, both ways.
pub const LANE_EVENTS_BURST: u32 = 64;
/// Events a worker may have waiting for the control thread.
pub const WORKER_EVENTS_MAX: usize = 4096;

/// Where a process may use fewer CPUs, workers are not pinned unless configured: others that want
/// a worker's CPU would have nowhere else to go.
pub const PIN_CPUS_MIN: usize = 4;

// ---- Looking for work before sleeping (`tuning.spin_us`) ----

/// How long a worker without work looks for more before it sleeps, unless configured otherwise: the
/// answer of a far end on the same network comes within it.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(20);
/// The longest that may be configured.
pub const SPIN_MAX: Duration = Duration::from_millis(10);
/// Spins in a row that find nothing after which most sleeps begin without one.
pub const SPIN_MISSES_MAX: u32 = 8;
/// Sleeps without a spin, once spinning has not been worth while.
pub const SPIN_PAUSE_SLEEPS: u32 = 32;
/// A spinning worker that offers its CPU to others and gets it back later than this is in their
/// way: longer than a small packet's errand takes, shorter than the scheduler's time slice.
pub const SPIN_TURN_AWAY_MAX: Duration = Duration::from_micros(100);

// ---- MTU ----

/// The default MTU inside the tunnel: a whole number of AES blocks that fits an outer IPv6 packet
/// on a 1500-byte link (1500 - 40 - 8 - 32 = 1420, rounded down to 16).
pub const TUN_MTU_DEFAULT: u16 = 1408;
/// The smallest MTU an interface that carries IPv6 may have (RFC 8200 section 5).
pub const TUN_MTU_MIN: u16 = 1280;
/// The largest MTU inside the tunnel whose datagram still fits one UDP payload.
pub const TUN_MTU_MAX: u16 = 65408;
/// The plaintext every path is assumed to carry before it has been measured.
pub const PATH_PLAINTEXT_BASE: usize = 1152;

/// How long the answer to a path MTU probe is awaited.
pub const PATH_MTU_PROBE_WAIT: Duration = Duration::from_millis(500);
/// Unanswered probes of one size that refute it (`MAX_PROBES`, RFC 8899 section 5.1.2).
pub const PATH_MTU_PROBES_MAX: u32 = 3;
/// How often the size in use is confirmed while a path carries traffic (`CONFIRMATION_TIMER`,
/// RFC 8899 section 5.1.1).
pub const PATH_MTU_CONFIRM_EVERY: Duration = RTT_PROBE_EVERY;
/// How long after a size was refuted the wanted one is tried again: probes that were lost beside a
/// load look as if they had been too large. Doubled each time that it fails.
pub const PATH_MTU_RAISE_FIRST: Duration = Duration::from_secs(20);
/// The longest such wait (`PMTU_RAISE_TIMER`, RFC 8899 section 5.1.1).
pub const PATH_MTU_RAISE_MAX: Duration = Duration::from_secs(600);

// ---- Limits of a user's rate ----

/// How much of a rate that was not used may be used later.
pub const LIMIT_CREDIT: Duration = Duration::from_millis(5);
/// How long a packet may wait for its turn under a limit. TCP's CUBIC fills a link whose queue is
/// three sevenths of the round trip, so this is enough for 100 ms.
pub const LIMIT_QUEUE: Duration = Duration::from_millis(50);
/// Bytes that may wait even if a slow rate takes longer for them: a dozen packets.
pub const LIMIT_QUEUE_LEN_MIN: usize = 18_000;
/// The longest that they may take.
pub const LIMIT_QUEUE_MAX: Duration = Duration::from_secs(1);
/// Bytes of one block of the memory in which a worker holds what waits.
pub const HELD_BLOCK_LEN: usize = 2048;
/// Blocks that a worker has for that: what 1 Gbit/s lets wait, and some. They become resident as
/// they are used.
pub const HELD_BLOCKS: usize = 4096;

// ---- Accounts ----

/// Bytes of the name of a user, a group or a device.
pub const ACCOUNT_NAME_LEN_MAX: usize = 64;
/// Bytes of a password, and of any other proof that is looked at.
pub const PASSWORD_LEN_MAX: usize = 256;
/// Bytes of the shortest password that an administrator may set.
pub const PASSWORD_LEN_MIN: usize = 8;

/// Seconds of one step of the time-based one-time passwords (RFC 6238 section 5.2).
pub const TOTP_STEP_S: u64 = 30;
/// Steps before and after the present one whose codes are taken, too.
pub const TOTP_DRIFT_STEPS: u64 = 1;
/// Digits of a code.
pub const TOTP_DIGITS: u8 = 6;
/// Bytes of the secret that the codes are made from (RFC 4226 section 4 recommends 20).
pub const TOTP_SECRET_LEN: usize = 20;
/// Recovery codes that a user gets at a time.
pub const RECOVERY_CODES: usize = 10;

/// Failures that cost nothing but the failure: people mistype.
pub const FAILURES_FREE: u32 = 5;
/// How long the next try has to wait after one failure more; doubled with each further one.
pub const FAILURE_PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest that a try has to wait.
pub const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(300);
/// After how long one failure is forgotten.
pub const FAILURE_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Sources, users and devices, each, whose failures are remembered at least. When there are twice
/// as many, the ones that were longest without a failure are forgotten.
pub const FAILURES_REMEMBERED: usize = 1 << 15;

/// Devices that a user may have where nothing else is said.
pub const DEVICES_PER_USER_DEFAULT: u32 = 16;
/// Logins that wait to be looked at. One more is told that the server is busy.
pub const LOGINS_QUEUED_MAX: usize = 1024;
/// After how long a client that found the server busy should try again.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_secs(2);
/// How often it is looked which leases have run out.
pub const LEASES_LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often usage is handed to the journal: what a crash can lose of it.
pub const USAGE_WRITE_EVERY: Duration = Duration::from_secs(10);
/// How long after its end what a session has moved is still counted.
pub const ENDED_SESSION_KEPT: Duration = Duration::from_secs(30);
/// Changes about usage and ends of sessions that are handed over at a time.
pub const USAGE_CHANGES_PER_BATCH: usize = 512;
/// How long a lease lasts unless configured otherwise.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(3600);
/// How long an administrator waits for the database before being told that it will come later.
pub const OPERATION_STORED_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of what a token is for.
pub const TOKEN_LABEL_LEN_MAX: usize = 128;
/// Hexadecimal digits of a certificate's serial number (RFC 5280 section 4.1.2.2: 20 bytes).
pub const CERTIFICATE_SERIAL_LEN_MAX: usize = 40;
/// Bytes of one request on the accounts socket.
pub const ACCOUNTS_REQUEST_LEN_MAX: usize = 256 * 1024;
/// Clients of the accounts socket at a time.
pub const ACCOUNTS_CLIENTS_MAX: usize = 16;
/// How long a client of the accounts socket may take for its request, and for reading the answer.
pub const ACCOUNTS_CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the thread of the accounts socket looks whether it is to stop.
pub const ACCOUNTS_STOP_LOOK_EVERY: Duration = Duration::from_millis(200);
/// Characters of an invite after its first word.
pub const INVITE_LEN_MAX: usize = 8192;
/// Servers that an invite names.
pub const INVITE_SERVERS_MAX: usize = 16;
/// Bytes of a server's name or address and port: a host name (RFC 1035 section 2.3.4) and brackets.
pub const SERVER_LEN_MAX: usize = 253 + 8;
/// Bytes of a token.
pub const INVITE_TOKEN_LEN_MAX: usize = 256;
/// Lines of one answer about usage.
pub const STATS_LINES_MAX: u32 = 100_000;
/// How long it is waited for that a revocation closes every path, before it is said that it has
/// not.
pub const REVOCATION_WITHIN: Duration = Duration::from_secs(5);
/// Refused logins per second of which the audit log is told.
pub const AUDIT_REFUSALS_PPS: u32 = 10;
/// The burst on top.
pub const AUDIT_REFUSALS_BURST: u32 = 1000;

// ---- Control thread ----

/// Receive buffer of a server's sockets for what is not for workers, in bytes as asked for: some
/// 900 initiations, as many as a flood brings while the thread waits for its CPU.
pub const CONTROL_RECEIVE_BUFFER_LEN: usize = 1024 * 1024;
/// The same for initiations that claim to prove their address, most of which cost a whole
/// handshake: some 450, which are answered before their senders ask anew.
pub const CLAIMS_RECEIVE_BUFFER_LEN: usize = 512 * 1024;
/// Datagrams of one socket handled before signals, timers and worker events have their turn.
pub const CONTROL_DATAGRAMS_PER_TURN: usize = 64;
/// Datagrams in one turn after which those that follow are left to gather for [`CONTROL_REST`].
pub const CONTROL_CROWD: usize = 16;
/// How long the control thread rests then: it is woken a few thousand times a second at most, and
/// worker events and signals notice nothing of it.
pub const CONTROL_REST: Duration = Duration::from_micros(300);
/// Worker events handled before sockets, signals and timers have their turn.
pub const CONTROL_EVENTS_PER_TURN: usize = 256;
/// Orders of other threads carried out before sockets, signals and timers have their turn.
pub const CONTROL_ORDERS_PER_TURN: usize = 64;
/// How long after a change to the TUN device it is looked at, so that changes that belong together
/// are seen together.
pub const INTERFACE_SETTLE: Duration = Duration::from_millis(50);
/// How long the TUN device is left alone after it had to be mended; doubled each time that happens
/// again soon.
pub const INTERFACE_MEND_PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest it is left alone. A mending as long after that is the first of its kind.
pub const INTERFACE_MEND_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Messages about interfaces read before other sources have their turn.
pub const INTERFACE_NEWS_PER_TURN: usize = 64;
/// How long the kernel may take to put the addresses of the TUN device into operation.
pub const ADDRESSES_USABLE_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked whether it has.
pub const ADDRESSES_LOOK_EVERY: Duration = Duration::from_micros(200);
/// How long `nft` may take, which takes milliseconds; the control thread waits for it.
pub const FIREWALL_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked whether another program has ended.
pub const PROGRAM_LOOK_EVERY: Duration = Duration::from_millis(1);
/// Bytes of what another program writes that are read.
pub const PROGRAM_OUTPUT_MAX: u64 = 4 << 20;
/// How long after a look at what it has set up on the host a daemon looks again at the soonest,
/// however often another program changes it.
pub const HOST_LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How often at most it is told that another program changes what was set up on the host.
pub const HOST_WARNING_EVERY: Duration = Duration::from_secs(60);
/// Messages about the packet filter read before other sources have their turn.
pub const FIREWALL_NEWS_PER_TURN: usize = 256;
/// How long after news about routes, addresses and links the ways to servers are looked up, so
/// that changes that belong together are seen together.
pub const WAY_SETTLE: Duration = Duration::from_millis(100);
/// Messages about routes, addresses and links read before other sources have their turn.
pub const WAY_NEWS_PER_TURN: usize = 256;
/// How long a program may take that is told of name servers; it may have to restart others.
pub const DNS_PROGRAM_WITHIN: Duration = Duration::from_secs(10);
/// How long a caller waits to be told what came of a change of name servers: for a file to be
/// written, not for a program to end.
pub const NAME_SERVERS_PATIENCE: Duration = Duration::from_millis(50);
/// Name servers that a client is given at most.
pub const DNS_SERVERS_MAX: usize = 16;
/// Domains, of both kinds, that a client is given at most.
pub const DNS_DOMAINS_MAX: usize = 64;
/// Characters of a domain's name (RFC 1035 section 2.3.4).
pub const DNS_NAME_LEN_MAX: usize = 253;
/// Name servers that programs take from `resolv.conf` (`MAXNS` in resolv.h).
pub const RESOLV_CONF_SERVERS: usize = 3;
/// Bytes of the largest `resolv.conf` that is read.
pub const RESOLV_CONF_LEN_MAX: u64 = 256 << 10;
/// How long one name server outside of the tunnel is waited for, and how often all are asked.
pub const DNS_ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// How often every name server outside of the tunnel is asked before it is given up.
pub const DNS_ATTEMPTS: u32 = 2;
/// Bytes of the longest answer of a name server; they are asked for no more than 512.
pub const DNS_ANSWER_LEN_MAX: usize = 1500;
/// How long a clean stop waits for the workers to leave off.
pub const STOP_WITHIN: Duration = Duration::from_secs(2);
/// How long it then waits for the kernel to close their TUN queues and sockets.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(30);
/// How often one peer is warned about at most.
pub const PEER_WARNING_EVERY: Duration = Duration::from_secs(60);

// ---- Log lines that somebody on the network can cause ----

/// Lines of one kind about one peer that are written at once.
pub const LOG_LINES_PER_PEER_BURST: u32 = 10;
/// How often another one is written after that.
pub const LOG_LINES_PER_PEER_EVERY: Duration = Duration::from_secs(10);
/// Lines of one kind per second, whomever they are about.
pub const LOG_LINES_PPS: u32 = 100;
/// The burst on top: the peers of a busy server come back together after a restart.
pub const LOG_LINES_BURST: u32 = 1000;
/// How long after a line was left out it is told how many were.
pub const LOG_LEFT_OUT_AFTER: Duration = LOG_LINES_PER_PEER_EVERY;

// ---- Routing ----

/// Prefixes that all peers together may own.
pub const PREFIXES_MAX: usize = 1 << 20;

// ---- Status socket ----

/// Bytes of one request on the status socket.
pub const STATUS_REQUEST_LEN_MAX: usize = 4096;
/// Clients of the status socket at a time.
pub const STATUS_CLIENTS_MAX: usize = 32;
/// A client of the status socket that is silent for this long is dropped.
pub const STATUS_CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after the kernel could not hand over a client of the status socket, for want of file
/// descriptors say, it is asked again: what waits is not announced twice.
pub const STATUS_ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// The length of a plaintext once padded to a whole number of AES blocks.
#[inline]
pub const fn padded_len(plaintext_len: usize) -> usize {
    plaintext_len.next_multiple_of(PADDING_LEN)
}

const _: () = {
    assert!(DATA_HEADER_LEN.is_multiple_of(PADDING_LEN), "slots keep ciphertext block-aligned");
    assert!(
        VIRTIO_HEADER_LEN <= DATA_HEADER_LEN,
        "a virtio header replaces the data header in place"
    );
    assert!(WORKERS_MAX <= 256, "a lane number is one byte");
    assert!(LISTENERS_MAX <= 256, "a listener's number is one byte");
    assert!(REKEY_AFTER_PACKETS < REJECT_AFTER_PACKETS);
    assert!(
        REJECT_AFTER_PACKETS - REKEY_AFTER_PACKETS >= 1 << 24,
        "a fast lane must outlast a rekey"
    );
    assert!(REKEY_AFTER.as_secs() + 2 * HANDSHAKE_RETRY_MAX.as_secs() < REJECT_AFTER.as_secs());
    assert!(REKEY_JITTER_MAX.as_secs() * REKEY_JITTER_DIVISOR as u64 <= REKEY_AFTER.as_secs());
    assert!(
        REKEY_AFTER_MIN.as_millis() - REKEY_AFTER_MIN.as_millis() / REKEY_JITTER_DIVISOR as u128
            > PATH_CONFIRM_WITHIN.as_millis(),
        "paths are confirmed before the next rekey"
    );
    assert!(
        10 * HANDSHAKES_PER_SOURCE_PPS <= HANDSHAKES_UNPROVED_PPS
            && 10 * HANDSHAKES_PER_SOURCE_BURST <= HANDSHAKES_UNPROVED_BURST,
        "one source does not use up what all share"
    );
    assert!(
        (HANDSHAKES_READ_PPS + HANDSHAKES_READ_AGAIN_PPS) / HANDSHAKES_PER_SOURCE_PPS
            + HANDSHAKES_READ_BURST
            + HANDSHAKES_READ_AGAIN_BURST
            < HANDSHAKE_SOURCES_MAX as u32,
        "more buckets become full in a table than initiations get at it"
    );
    assert!(HANDSHAKES_PER_NETWORK_PPS > HANDSHAKES_PER_SOURCE_PPS);
    assert!(10 * HANDSHAKES_PER_SOURCE_BURST <= HANDSHAKES_PER_NETWORK_BURST);
    assert!(HANDSHAKE_SENDERS_SEEN.is_power_of_two());
    assert!(FAILURE_PAUSE_FIRST.as_secs() < FAILURE_PAUSE_MAX.as_secs());
    assert!(
        FAILURE_PAUSE_MAX.as_secs() < FAILURE_FORGOTTEN_AFTER.as_secs(),
        "who waits as long as told has not gained a try by waiting"
    );
    assert!(PATH_CONFIRM_WITHIN.as_millis() > 2 * PATH_CONFIRM_RETRY.as_millis());
    assert!(PATH_PLAINTEXT_BASE.is_multiple_of(PADDING_LEN));
    assert!(PATH_PLAINTEXT_BASE + DATA_OVERHEAD_LEN + 48 <= TUN_MTU_MIN as usize);
    assert!(PATH_PLAINTEXT_BASE <= TUN_MTU_MIN as usize);
    assert!(REPLAY_WINDOW_PACKETS.is_power_of_two());
    assert!(RECEIVE_SLOT_LEN > UDP_PAYLOAD_MAX, "a shorter slot would truncate a GRO aggregate");
    // IP and TCP headers with all options.
    let headers_len = 60 + 60;
    let segments = PACKET_LEN_MAX / SEGMENT_PAYLOAD_SMALL;
    let split_len = PACKET_LEN_MAX + segments * (headers_len + PADDING_LEN + DATA_OVERHEAD_LEN);
    assert!(SEND_ARENA_LEN >= SEND_DUE_LEN + split_len, "a split super-packet fits");
    assert!(SEND_TRAINS_MAX - SEND_TRAINS_DUE > segments.div_ceil(GSO_SEGMENTS_MAX));
    assert!(
        SEND_TRAINS_MAX - SEND_TRAINS_DUE > PACKET_LEN_MAX / (PATH_PLAINTEXT_BASE - headers_len),
        "so do the fragments, a train of each segment, of one that does not fit its path"
    );
    assert!(padded_len(TUN_MTU_DEFAULT as usize) == TUN_MTU_DEFAULT as usize);
    assert!(padded_len(TUN_MTU_MAX as usize) + DATA_OVERHEAD_LEN <= UDP_PAYLOAD_MAX);
    assert!(TUN_MTU_DEFAULT as usize + DATA_OVERHEAD_LEN + 48 <= 1500, "fits outer IPv6");
    assert!(SPOOL_RECORD_LEN_MAX as u64 * 8 <= SPOOL_LEN_MAX, "one batch does not fill the spool");
    assert!(SPOOL_MERGED_LEN <= SPOOL_RECORD_LEN_MAX);
    assert!(USAGE_PER_BATCH * 256 <= SPOOL_RECORD_LEN_MAX, "so does usage, 256 bytes each");
    assert!(COOKIE_LEN == MAC_LEN, "a cookie is the key of mac2");
    assert!(LIMIT_CREDIT.as_millis() < LIMIT_QUEUE.as_millis());
    assert!(LIMIT_QUEUE.as_millis() < LIMIT_QUEUE_MAX.as_millis());
    assert!(HELD_BLOCKS * HELD_BLOCK_LEN > 16 * (VIRTIO_HEADER_LEN + PACKET_LEN_MAX));
};
