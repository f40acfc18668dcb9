//! The access log of the proxy gateway, and usage by destination.

use std::time::Duration;

use super::store::{SPOOL_LEN_MAX, SPOOL_RECORD_LEN_MAX, USAGE_HELD_MAX, USAGE_PER_BATCH};

/// Records that wait to be written; what comes beyond them is dropped and counted.
pub const PROXY_RECORDS_WAITING_MAX: usize = 16_384;
/// Bytes of the method of a request of HTTP that are noted.
pub const PROXY_RECORD_METHOD_LEN_MAX: usize = 32;
/// Bytes of the path of a URL that are noted.
pub const PROXY_RECORD_PATH_LEN_MAX: usize = 1024;
/// How often it is looked whether records have come.
pub const PROXY_LOG_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes of lines that are written at a time.
pub const PROXY_LOG_BATCH_LEN: usize = 64 * 1024;
/// How often it is looked whether a file was moved away.
pub const PROXY_LOG_FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// Lines a second that a file has of strangers who came to nothing; the rest is lost and counted,
/// so that nobody fills the disk by knocking.
pub const PROXY_LOG_STRANGERS_PER_S: u32 = 100;
/// Those of them that it may have at once.
pub const PROXY_LOG_STRANGERS_BURST: u32 = 1000;
/// How often it is told that lines cannot be written.
pub const PROXY_LOG_COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How long the end of the log may take when the gateway stops.
pub const PROXY_LOG_END_WITHIN: Duration = Duration::from_secs(5);

/// Hosts for which what a user has moved on a day is told apart; the rest is counted as one.
pub const DESTINATIONS_PER_USER_MAX: usize = 1000;
/// Those of all users of a server together, so that the spool has room for them while the database
/// is away.
pub const DESTINATIONS_PER_DAY_MAX: usize = 32_768;
/// Bytes that one of them has in the spool, at most.
pub const DESTINATION_CHANGE_LEN_MAX: usize = 640;

const _: () = {
    assert!(USAGE_PER_BATCH * DESTINATION_CHANGE_LEN_MAX <= SPOOL_RECORD_LEN_MAX);
    assert!(
        (DESTINATIONS_PER_DAY_MAX * DESTINATION_CHANGE_LEN_MAX) as u64 <= SPOOL_LEN_MAX / 4 * 3
    );
    assert!(DESTINATIONS_PER_DAY_MAX < USAGE_HELD_MAX, "memory has room for other usage, too");
    assert!(PROXY_LOG_LOOK_EVERY.as_millis() < 1000, "lines are there within a second");
    // What waits is about this much in the worst case, with names of hosts and users.
    assert!(PROXY_RECORDS_WAITING_MAX * (PROXY_RECORD_PATH_LEN_MAX + 1024) <= 64 << 20);
};
