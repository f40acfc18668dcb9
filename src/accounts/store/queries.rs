//! What people ask of history: sessions, usage, the audit log.

use crate::accounts::model::{AuditEntry, Id, SessionRecord, UnixMs};
use crate::accounts::names::Name;
use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::read::{audit_entry, each, session};
use crate::accounts::store::value::{Row, Value};

/// Which sessions, the newest first.
#[derive(Clone, Debug)]
pub struct SessionQuery {
    /// Only this user's.
    pub user: Option<Id>,
    /// Only at this server.
    pub server: Option<Name>,
    /// Only those that last.
    pub lasting_only: bool,
    /// Only those that had not ended before.
    pub since: UnixMs,
    /// The most to return.
    pub limit: u32,
}

/// Which usage.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// Only this user's.
    pub user: Option<Id>,
    /// From this day on, in days since 1970.
    pub since_day: i32,
    /// What to add up.
    pub by: UsageBy,
    /// The most to return.
    pub limit: u32,
}

/// What usage is added up over; the rest is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageBy {
    /// One figure for each user, those who moved most first.
    User,
    /// One for each day, the newest first.
    Day,
}

/// A sum of usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageTotal {
    /// Whose, if told apart by user.
    pub user: Option<Id>,
    /// Of which day (days since 1970), if told apart by day.
    pub day: Option<i32>,
    /// Bytes of inner packets from devices.
    pub received_bytes: u64,
    /// Bytes of inner packets to them.
    pub sent_bytes: u64,
}

/// Which lines of the audit log, the newest first.
#[derive(Clone, Debug)]
pub struct AuditQuery {
    /// Only what this one did or what happened to it: an actor or a subject, as it is written.
    pub about: Option<String>,
    /// From this moment on.
    pub since: UnixMs,
    /// Before this moment.
    pub until: UnixMs,
    /// The most to return.
    pub limit: u32,
}

pub(super) fn sessions(
    connection: &mut Connection,
    query: &SessionQuery,
) -> Result<Vec<SessionRecord>, StoreError> {
    each(
        connection,
        "SELECT id, user_id, device_id, server, source, started, ended, end_reason,
             received_bytes, sent_bytes
         FROM sessions
         WHERE (CAST($1 AS BIGINT) IS NULL OR user_id = $1)
           AND (CAST($2 AS TEXT) IS NULL OR server = $2)
           AND (ended IS NULL OR (CAST($3 AS BIGINT) = 0 AND ended >= $4))
         ORDER BY started DESC, id LIMIT $5",
        &[
            Value::optional(query.user),
            Value::optional(query.server.as_ref()),
            i64::from(query.lasting_only).into(),
            query.since.into(),
            i64::from(query.limit).into(),
        ],
        session,
    )
}

pub(super) fn usage(
    connection: &mut Connection,
    query: &UsageQuery,
) -> Result<Vec<UsageTotal>, StoreError> {
    // PostgreSQL adds up to a type of its own.
    let statement = match query.by {
        UsageBy::User => {
            "SELECT user_id, CAST(SUM(received_bytes) AS BIGINT), CAST(SUM(sent_bytes) AS BIGINT)
             FROM usage WHERE day >= $1 AND (CAST($2 AS BIGINT) IS NULL OR user_id = $2)
             GROUP BY user_id ORDER BY SUM(received_bytes) + SUM(sent_bytes) DESC, user_id LIMIT $3"
        }
        UsageBy::Day => {
            "SELECT day, CAST(SUM(received_bytes) AS BIGINT), CAST(SUM(sent_bytes) AS BIGINT)
             FROM usage WHERE day >= $1 AND (CAST($2 AS BIGINT) IS NULL OR user_id = $2)
             GROUP BY day ORDER BY day DESC LIMIT $3"
        }
    };
    let total = |mut row: Row| {
        let (user, day) = match query.by {
            UsageBy::User => (Some(row.id()?), None),
            UsageBy::Day => (None, Some(row.day()?)),
        };
        Ok(UsageTotal { user, day, received_bytes: row.count()?, sent_bytes: row.count()? })
    };
    let values = [
        i64::from(query.since_day).into(),
        Value::optional(query.user),
        i64::from(query.limit).into(),
    ];
    each(connection, statement, &values, total)
}

pub(super) fn audit(
    connection: &mut Connection,
    query: &AuditQuery,
) -> Result<Vec<AuditEntry>, StoreError> {
    each(
        connection,
        "SELECT id, at, server, actor, action, subject, source, outcome, detail FROM audit
         WHERE at >= $1 AND at < $2
           AND (CAST($3 AS TEXT) IS NULL OR actor = $3 OR subject = $3)
         ORDER BY at DESC, id LIMIT $4",
        &[
            query.since.into(),
            query.until.into(),
            Value::optional(query.about.as_deref()),
            i64::from(query.limit).into(),
        ],
        audit_entry,
    )
}
