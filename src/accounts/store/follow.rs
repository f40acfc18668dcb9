//! The log of changes, as other servers with the same PostgreSQL database read it.

use std::time::Duration;

use crate::accounts::change::Change;
use crate::accounts::model::Id;
use crate::accounts::snapshot::Snapshot;
use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::url::DatabaseUrl;
use crate::accounts::store::write::CHANNEL;
use crate::accounts::store::{connect, read};
use crate::limits::{FOLLOW_ENTRIES_PER_READ, FOLLOW_LOOK_EVERY, FOLLOW_STOP_LOOK_EVERY};

/// A connection that hears of commits.
pub(in crate::accounts) struct Follower {
    connection: Connection,
}

/// A batch that some server has stored.
pub(in crate::accounts) struct LogEntry {
    /// Its place in the log; they are counted without holes.
    pub(in crate::accounts) position: i64,
    /// Where it came from.
    pub(in crate::accounts) spool: Id,
    /// Its number there.
    pub(in crate::accounts) sequence: u64,
    /// Its changes, without lines of the audit log.
    pub(in crate::accounts) changes: Vec<Change>,
}

impl Follower {
    /// Connects and begins to listen.
    pub(in crate::accounts) fn connect(place: &DatabaseUrl) -> Result<Self, StoreError> {
        let mut connection = connect(place)?;
        connection.run(&format!("LISTEN {CHANNEL}"))?;
        Ok(Self { connection })
    }

    /// The next entries; `None` if there is no going on from `position`: it was left out of the log
    /// already, or the database was put back to an earlier state.
    pub(in crate::accounts) fn entries_after(
        &mut self,
        position: i64,
    ) -> Result<Option<Vec<LogEntry>>, StoreError> {
        let rows = self.connection.query(
            "SELECT position, spool, sequence, changes FROM change_log
             WHERE position >= $1 ORDER BY position LIMIT $2",
            &[position.into(), FOLLOW_ENTRIES_PER_READ.into()],
        )?;
        let mut entries = Vec::with_capacity(rows.len());
        for mut row in rows {
            let (position, spool, sequence) = (row.integer()?, row.id()?, row.count()?);
            // What another version of this program has written may be unreadable.
            let Ok(changes) = row.json() else { return Ok(None) };
            entries.push(LogEntry { position, spool, sequence, changes });
        }
        match entries.first() {
            Some(first) if first.position == position => {
                entries.remove(0);
            }
            Some(first) if first.position == position + 1 => {}
            None if position == 0 => {}
            _ => return Ok(None),
        }
        Ok(Some(entries))
    }

    /// Everything, anew.
    pub(in crate::accounts) fn load(
        &mut self,
        usage_since_day: i32,
    ) -> Result<Snapshot, StoreError> {
        read::load(&mut self.connection, usage_since_day)
    }

    /// Waits until somebody has said that there is news, or nobody has for a while; `true` if
    /// `is_stopping` says so meanwhile.
    pub(in crate::accounts) fn await_news(&mut self, is_stopping: impl Fn() -> bool) -> bool {
        let Connection::Postgres(postgres) = &mut self.connection else { return true };
        let mut waited = Duration::ZERO;
        while waited < FOLLOW_LOOK_EVERY {
            if is_stopping() {
                return true;
            }
            if postgres.await_notification(FOLLOW_STOP_LOOK_EVERY) {
                return false;
            }
            waited += FOLLOW_STOP_LOOK_EVERY;
        }
        false
    }
}
