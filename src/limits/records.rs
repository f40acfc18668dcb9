//! The access log of the proxy gateway, and usage by destination.

use std::time::Duration;

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
/// How often it is told that lines cannot be written.
pub const PROXY_LOG_COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How long the end of the log may take when the gateway stops.
pub const PROXY_LOG_END_WITHIN: Duration = Duration::from_secs(5);

const _: () = {
    assert!(PROXY_LOG_LOOK_EVERY.as_millis() < 1000, "lines are there within a second");
    // What waits is about this much in the worst case, with names of hosts and users.
    assert!(PROXY_RECORDS_WAITING_MAX * (PROXY_RECORD_PATH_LEN_MAX + 1024) <= 64 << 20);
};
