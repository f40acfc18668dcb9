//! The database: users, devices, leases, history, in SQLite or PostgreSQL with one schema.
//!
//! Nobody who moves packets waits for it: the [journal](crate::accounts::journal) stands between.
//! Whoever logs in waits a bounded time, and only to learn whether a code or an invite was used at
//! another server. What is asked of it for people (`corelane stats`) waits for a bounded time.

mod backup;
mod claim;
mod connection;
mod destinations;
mod error;
mod follow;
mod postgres;
mod prune;
mod queries;
mod read;
mod schema;
mod sqlite;
mod url;
mod value;
mod write;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::accounts::change::{Batch, BatchSource};
use crate::accounts::model::{AuditEntry, Id, SessionRecord, UnixMs};
use crate::accounts::snapshot::Snapshot;
use crate::accounts::store::connection::Connection;

pub use crate::accounts::store::claim::{Claimed, OneTime};
pub use crate::accounts::store::destinations::{DestinationQuery, DestinationTotal};
pub use crate::accounts::store::error::StoreError;
pub(in crate::accounts) use crate::accounts::store::follow::Follower;
pub use crate::accounts::store::prune::Retention;
pub use crate::accounts::store::queries::{
    AuditQuery, SessionQuery, UsageBy, UsageQuery, UsageTotal,
};
pub use crate::accounts::store::schema::SCHEMA_VERSION;
pub use crate::accounts::store::url::{BadDatabaseUrl, DatabaseUrl};

/// The database. Where a connection is lost, the next call makes a new one.
pub struct Store {
    place: DatabaseUrl,
    /// `None` after it was lost.
    connection: Option<Connection>,
}

impl Store {
    /// Opens the database, makes it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// It cannot be reached or written to, is of a later version, damaged, or another program's.
    pub fn open(place: &DatabaseUrl) -> Result<Self, StoreError> {
        let connection = Some(connect(place)?);
        Ok(Self { place: place.clone(), connection })
    }

    /// Where it is.
    pub fn place(&self) -> &DatabaseUrl {
        &self.place
    }

    /// Stores batches, in order, all of them or none. One that was stored before is left out, so
    /// what was interrupted may be done again.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if one of them can never be stored. After another error they may
    /// have been stored or not: try again.
    pub fn commit(&mut self, source: &BatchSource, batches: &[Batch]) -> Result<(), StoreError> {
        self.with(|connection| write::commit(connection, source, batches))
    }

    /// Takes note that a batch is not to be stored, since it is refused.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn skip(&mut self, source: &BatchSource, sequence: u64) -> Result<(), StoreError> {
        self.with(|connection| write::skip(connection, source, sequence))
    }

    /// The sequence number of the newest batch of a spool that is stored; 0 if none is.
    ///
    /// # Errors
    /// The database is away.
    pub fn last_sequence(&mut self, spool: Id) -> Result<u64, StoreError> {
        self.with(|connection| write::last_sequence(connection, spool))
    }

    /// Claims what is good once for the server with that spool: of all servers on this database
    /// one gets it. To ask again changes nothing.
    ///
    /// # Errors
    /// The database is away.
    pub fn claim(&mut self, what: &OneTime, spool: Id, now: UnixMs) -> Result<Claimed, StoreError> {
        self.with(|connection| claim::claim(connection, what, spool, now))
    }

    /// Deletes some of what is too old to be kept; whether there may be more.
    ///
    /// # Errors
    /// The database is away.
    pub fn prune(&mut self, keep: &Retention, now: UnixMs) -> Result<bool, StoreError> {
        self.with(|connection| prune::prune(connection, keep, now))
    }

    /// Everything but the audit log, sessions that have ended, and usage of days before
    /// `usage_since_day` (days since 1970).
    ///
    /// # Errors
    /// The database is away, or holds what makes no sense.
    pub fn load(&mut self, usage_since_day: i32) -> Result<Snapshot, StoreError> {
        self.with(|connection| read::load(connection, usage_since_day))
    }

    /// Sessions, the newest first.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn sessions(&mut self, query: &SessionQuery) -> Result<Vec<SessionRecord>, StoreError> {
        self.with(|connection| queries::sessions(connection, query))
    }

    /// Sums of usage.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn usage(&mut self, query: &UsageQuery) -> Result<Vec<UsageTotal>, StoreError> {
        self.with(|connection| queries::usage(connection, query))
    }

    /// Sums of usage by destination.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn destinations(
        &mut self,
        query: &DestinationQuery,
    ) -> Result<Vec<DestinationTotal>, StoreError> {
        self.with(|connection| destinations::totals(connection, query))
    }

    /// Lines of the audit log, the newest first.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn audit(&mut self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        self.with(|connection| queries::audit(connection, query))
    }

    /// Copies everything that is stored into a new SQLite file, while others go on reading and
    /// writing. What is still in a spool is not in it: flush the journal first.
    ///
    /// # Errors
    /// The file exists or cannot be written, or the database is away.
    pub fn backup(&mut self, path: &Path) -> Result<(), StoreError> {
        self.with(|connection| backup::backup(connection, path))
    }

    fn with<T>(
        &mut self,
        body: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.place)?,
        };
        let done = body(&mut connection);
        if !matches!(done, Err(StoreError::Away { .. })) {
            self.connection = Some(connection);
        }
        done
    }
}

fn connect(place: &DatabaseUrl) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(place)?;
    schema::migrate(&mut connection)?;
    Ok(connection)
}
