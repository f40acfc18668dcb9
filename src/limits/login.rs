//! Login (docs/protocol.md, "Control channel").

use std::time::Duration;

/// Bytes of the header of a frame: type 1, length 3.
pub const FRAME_HEADER_LEN: usize = 4;
/// Bytes of the longest message of a client.
pub const CLIENT_MESSAGE_LEN_MAX: usize = 4096;
/// Bytes of the longest message of a server: a lease with more than a thousand routes.
pub const SERVER_MESSAGE_LEN_MAX: usize = 64 * 1024;
/// How deep objects and lists may stand in each other in a message. Ours need two levels.
pub const MESSAGE_DEPTH_MAX: usize = 3;
/// How far the login thread stands back for those that move packets, as a nice value: beside a
/// thread that is always busy it has a tenth of their CPU, some fifty TLS handshakes a second.
pub const LOGIN_NICE: i32 = 10;
/// How long the TLS handshake of a client may take, unless configured otherwise.
pub const LOGIN_HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may then take to log in, unless configured otherwise: a person may have to
/// type a password and look for a code.
pub const LOGIN_WITHIN: Duration = Duration::from_secs(60);
/// How often a client that has nothing else to say asks whether the server is there.
pub const LOGIN_PING_EVERY: Duration = Duration::from_secs(15);
/// How long a client that has logged in may be silent, unless configured otherwise.
pub const LOGIN_IDLE_MAX: Duration = Duration::from_secs(60);
/// How long the far end may take to read what is sent to it.
pub const LOGIN_WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection that has no more to say may take to be closed.
pub const LOGIN_CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How long the accounts may take to decide about a login or a renewal.
pub const LOGIN_DECIDED_WITHIN: Duration = Duration::from_secs(20);
/// Pings of a client that has not logged in: it may want to know which of several servers is near.
pub const LOGIN_PINGS_BEFORE_MAX: u32 = 8;
/// Logins that may fail on one connection.
pub const LOGIN_TRIES_MAX: u32 = 5;
/// Connections of clients that have not logged in; the one that has been silent for the longest
/// time makes room for a new one.
pub const LOGIN_PENDING_MAX: usize = 16_384;
/// Of those, the ones of one source, likewise.
pub const LOGIN_PENDING_PER_SOURCE_MAX: usize = 64;
/// Connections of clients that have logged in.
pub const LOGIN_CONNECTIONS_MAX: usize = 65_536;
/// Connections accepted before those that exist have their turn.
pub const LOGIN_ACCEPTS_PER_TURN: usize = 64;
/// Connections not logged in that are served before those that are have their turn: a TLS handshake
/// costs some hundred microseconds.
pub const LOGIN_HANDSHAKES_PER_TURN: usize = 8;
/// Reads, writes and messages of one connection before others have their turn.
pub const LOGIN_STEPS_PER_TURN: usize = 8;
/// Connections that the kernel keeps for the login thread until it accepts them.
pub const LOGIN_BACKLOG: i32 = 4096;
/// How long after the kernel could not hand over a connection it is asked again.
pub const LOGIN_ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often it is looked whether certificate, key, or revocation list have changed.
pub const LOGIN_FILES_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of a file with certificates, revocations, or a key of the TLS kind.
pub const PEM_FILE_LEN_MAX: usize = 16 << 20;

const _: () = {
    assert!(SERVER_MESSAGE_LEN_MAX < 1 << 24, "the length of a frame is three bytes");
    assert!(CLIENT_MESSAGE_LEN_MAX <= SERVER_MESSAGE_LEN_MAX);
    assert!(LOGIN_PENDING_PER_SOURCE_MAX * 100 <= LOGIN_PENDING_MAX);
    assert!(LOGIN_IDLE_MAX.as_secs() > 2 * LOGIN_PING_EVERY.as_secs());
};
