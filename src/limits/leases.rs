//! Leases, and clients that look after theirs.

use std::time::Duration;

use super::login::{LOGIN_PING_EVERY, SERVER_MESSAGE_LEN_MAX};

/// The shortest that a lease may be configured to last.
pub const LEASE_MIN: Duration = Duration::from_secs(10);
/// The longest.
pub const LEASE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Routes of one lease.
pub const LEASE_ROUTES_MAX: usize = 1024;
/// Endpoints of one lease.
pub const LEASE_ENDPOINTS_MAX: usize = 16;
/// Name servers of one lease.
pub const LEASE_NAME_SERVERS_MAX: usize = 16;
/// Search domains, and split domains, of one lease.
pub const LEASE_DOMAINS_MAX: usize = 32;

/// How long after its session was replaced a device may take to move in by the new one; if it does
/// not, it has logged in at another server.
pub const RETURN_WITHIN: Duration = Duration::from_secs(1);
/// How often the accounts are told what devices have moved.
pub const USAGE_TAKE_EVERY: Duration = Duration::from_secs(1);
/// Over what time a server measures how busy it is.
pub const LOAD_LOOK_EVERY: Duration = Duration::from_secs(2);

/// Bytes of a file with a password, a token or the address of a database.
pub const TOKEN_FILE_LEN_MAX: usize = 4096;
/// Addresses of one server that are tried.
pub const LOGIN_ADDRESSES_MAX: usize = 8;
/// How long connecting to a server, TLS included, may take.
pub const LOGIN_CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a server may take to answer: it may have many passwords to hash.
pub const LOGIN_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Logins that a client tries on one connection with what somebody types.
pub const TYPED_LOGINS_MAX: u32 = 4;
/// How long after the first server has answered a better one may do so.
pub const SERVER_CHOICE_GRACE: Duration = Duration::from_millis(100);
/// How long a server that is no backup may take to answer where a backup has answered.
pub const BACKUP_SERVERS_AFTER: Duration = Duration::from_millis(500);
/// How often a client with several servers asks whether the one that it uses is there.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);
/// The same for a client with one server whose host reaches nothing but through the tunnel: it
/// should notice before somebody does, and sleep in between.
pub const FULL_TUNNEL_HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// How long a server may take to answer that, before others are tried.
pub const HEARTBEAT_WITHIN: Duration = Duration::from_secs(1);
/// The longest pause before the first login that follows a lost connection.
pub const RELOGIN_PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest before any.
pub const RELOGIN_PAUSE_MAX: Duration = Duration::from_secs(15);
/// How often it is looked whether the program is to end while somebody is asked for something.
pub const ANSWER_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of what somebody answers.
pub const ANSWER_LEN_MAX: usize = 4096;
/// How long a client that stops waits for its lease to be given back.
pub const STEWARD_ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How long a client looks for a server at its start.
pub const FIRST_LOGIN_WITHIN: Duration = Duration::from_secs(30);

const _: () = {
    assert!(HEARTBEAT_EVERY.as_millis() < FULL_TUNNEL_HEARTBEAT_EVERY.as_millis());
    assert!(FULL_TUNNEL_HEARTBEAT_EVERY.as_secs() < LOGIN_PING_EVERY.as_secs());
    // A route in quotes with a comma has 46 bytes, a domain 256.
    assert!(
        46 * LEASE_ROUTES_MAX + 2 * 256 * LEASE_DOMAINS_MAX < SERVER_MESSAGE_LEN_MAX,
        "what a lease may have fits one message"
    );
    assert!(
        HEARTBEAT_EVERY.as_millis()
            + HEARTBEAT_WITHIN.as_millis()
            + RELOGIN_PAUSE_FIRST.as_millis()
            + BACKUP_SERVERS_AFTER.as_millis()
            < 2500,
        "a dead server is replaced within three seconds, login and handshake included"
    );
};
