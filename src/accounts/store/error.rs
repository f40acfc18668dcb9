//! How storing can fail, by whose fault it is.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What went wrong with the database.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be reached, does not answer in time, or has no room left. What was asked for may
    /// be tried again; a batch whose commit was under way may have been stored.
    #[error("the database is away: {cause}")]
    Away {
        /// The database's words, or the system's, and what mends it.
        cause: String,
    },
    /// It refuses what was to be stored, and always will: another user has the name, say.
    #[error("the database refuses that: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// Its schema is of a later version than this program.
    #[error(
        "the database has schema version {found}, but this program knows none after {known}; run a \
         version of corelane that is at least as new as the one that used it last, or restore a \
         backup from before that"
    )]
    Newer {
        /// The schema's version.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// There is something else in the place.
    #[error("{what}; name another place for the database")]
    NotOurs {
        /// What is there.
        what: String,
    },
    /// Its content makes no sense.
    #[error(
        "the database is damaged: {what}; move it away and put a backup in its place (one is made \
         by `corelane db backup FILE`)"
    )]
    Damaged {
        /// Where.
        what: String,
    },
    /// A backup cannot be written.
    #[error("{path}: {error}; name a file that does not exist, in a folder that does")]
    Backup {
        /// To where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}
