//! Databases for tests, of either kind.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::accounts::store::DatabaseUrl;
use crate::lab::Postgres;

/// An empty database on a PostgreSQL server that all tests of a process share.
pub(crate) fn postgres_database() -> DatabaseUrl {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    static MADE: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(|| Postgres::start().unwrap());
    let name = format!("test_{}", MADE.fetch_add(1, Ordering::Relaxed));
    server.database(&name).unwrap().parse().unwrap()
}

/// Runs a test on an empty SQLite file, and on an empty PostgreSQL database.
pub(crate) fn on_both(test: impl Fn(&DatabaseUrl)) {
    let folder = tempfile::tempdir().unwrap();
    test(&DatabaseUrl::Sqlite(folder.path().join("accounts.db")));
    test(&postgres_database());
}
