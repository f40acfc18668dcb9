//! The database of accounts, and the spool in front of it.

use std::time::Duration;

/// How long connecting to PostgreSQL may take.
pub const STORE_CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long PostgreSQL may take to answer a statement before the connection is given up.
pub const STORE_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long another program may keep what is to be written locked.
pub const STORE_LOCK_WITHIN: Duration = Duration::from_secs(2);
/// How long a login waits to hear whether its code or invite was used at another server.
pub const CLAIM_WITHIN: Duration = Duration::from_secs(2);
/// How long the database is not asked that after it has not answered.
pub const CLAIM_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Logins that wait to hear it at once; the next one is treated as if the database were away.
pub const CLAIMS_QUEUED_MAX: usize = 256;
/// Days that it is remembered at which server a code or an invite was used: far longer than servers
/// may fail to hear of each other.
pub const CLAIMS_KEPT_DAYS: u32 = 30;
/// Refused logins in the audit log of the database, whatever their age: a day of guessing at full
/// speed.
pub const AUDIT_REFUSALS_KEPT: i64 = 1_000_000;
/// How often it is looked what is too old to be kept.
pub const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// The pause between two deletions while there is more to delete.
pub const PRUNE_PAUSE: Duration = Duration::from_millis(200);
/// Rows of a table that are deleted at once.
pub const PRUNE_ROWS: i64 = 1000;
/// The fewest days for which usage is kept: quotas are of a month.
pub const USAGE_KEPT_DAYS_MIN: u32 = 32;
/// The most days that a configuration may name: a century.
pub const KEPT_DAYS_MAX: u32 = 36_525;
/// Statements that SQLite keeps prepared: more than there are.
pub const STORE_STATEMENTS_KEPT: usize = 64;
/// The largest SQLite file of which every page is looked at when it is opened, in bytes.
pub const SQLITE_CHECK_LEN_MAX: u64 = 64 * 1024 * 1024;
/// Entries of the log of changes that servers with one database follow. One that has fallen behind
/// by more reads everything anew.
pub const CHANGE_LOG_ROWS_MAX: i64 = 10_000;
/// Rows that are copied at once for a backup of PostgreSQL.
pub const BACKUP_ROWS_PER_READ: usize = 1000;
/// Bytes of the spool, on disk and in memory, that changes wait in while the database is away.
pub const SPOOL_LEN_MAX: u64 = 32 * 1024 * 1024;
/// Bytes that the spool grows by at least before it is looked at again what can be merged in it.
pub const SPOOL_MERGE_AFTER: u64 = SPOOL_LEN_MAX / 8;
/// Bytes of one record of the spool: the changes of one batch.
pub const SPOOL_RECORD_LEN_MAX: usize = 1024 * 1024;
/// Records of merged changes are filled up to this.
pub const SPOOL_MERGED_LEN: usize = 256 * 1024;
/// Changes of usage in one batch.
pub const USAGE_PER_BATCH: usize = 1000;
/// Bytes of the file that keeps what the database refuses.
pub const REFUSED_LEN_MAX: u64 = 1024 * 1024;
/// Users, servers and days whose usage is kept in memory when the spool takes no more.
pub const USAGE_HELD_MAX: usize = 100_000;
/// Revocations that are kept in memory when the spool takes no more: what an administrator can say
/// in an hour. One more is refused.
pub const OWED_BATCHES_MAX: usize = 1000;
/// How often it is tried to write them.
pub const OWED_RETRY_EVERY: Duration = Duration::from_secs(1);
/// Batches that are stored in one transaction.
pub const BATCHES_PER_COMMIT: usize = 256;
/// Bytes of batches in one transaction, beyond the first.
pub const COMMIT_LEN_MAX: usize = 1024 * 1024;
/// The first wait before a database that was away is tried again; each is twice the one before.
pub const STORE_RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest such wait.
pub const STORE_RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the end of the journal waits for what is under way.
pub const JOURNAL_STOP_WITHIN: Duration = Duration::from_secs(2);
/// How often the log of changes is looked at when no other server has said that there is news.
pub const FOLLOW_LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a thread that waits for such news looks whether it is to stop.
pub const FOLLOW_STOP_LOOK_EVERY: Duration = Duration::from_millis(250);
/// Entries of the log of changes that are read at once.
pub const FOLLOW_ENTRIES_PER_READ: i64 = 500;
/// Batches of one's own that are remembered until they have come by in the log of changes.
pub const OWN_BATCHES_MAX: usize = 10_000;

const _: () = {
    assert!(SPOOL_RECORD_LEN_MAX as u64 * 8 <= SPOOL_LEN_MAX, "one batch does not fill the spool");
    assert!(SPOOL_MERGED_LEN <= SPOOL_RECORD_LEN_MAX);
    assert!(USAGE_PER_BATCH * 256 <= SPOOL_RECORD_LEN_MAX, "so much usage fits a batch");
    assert!(STORE_CONNECT_WITHIN.as_secs() < STORE_ANSWER_WITHIN.as_secs());
};
