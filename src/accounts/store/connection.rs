//! One connection to either database. Every statement is one text that both understand.

use crate::accounts::store::error::StoreError;
use crate::accounts::store::postgres::Postgres;
use crate::accounts::store::sqlite::Sqlite;
use crate::accounts::store::url::DatabaseUrl;
use crate::accounts::store::value::{Row, Value};

/// An open connection.
pub(super) enum Connection {
    /// To a file.
    Sqlite(Sqlite),
    /// To a PostgreSQL server.
    Postgres(Box<Postgres>),
}

impl Connection {
    /// Connects, without a look at what is there.
    pub(super) fn open(place: &DatabaseUrl) -> Result<Self, StoreError> {
        Ok(match place {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(Sqlite::open(path)?),
            DatabaseUrl::Postgres(config) => Self::Postgres(Box::new(Postgres::connect(config)?)),
        })
    }

    /// Whether several servers may use the database at once.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Runs a statement; the number of rows that it has changed.
    pub(super) fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.execute(statement, values),
            Self::Postgres(postgres) => postgres.execute(statement, values),
        }
    }

    /// The rows that a statement yields.
    pub(super) fn query(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.query(statement, values),
            Self::Postgres(postgres) => postgres.query(statement, values),
        }
    }

    /// Runs one or more statements that have no values.
    pub(super) fn run(&mut self, statements: &str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.run(statements),
            Self::Postgres(postgres) => postgres.run(statements),
        }
    }

    /// Does `body` as a whole or not at all, with nobody else writing meanwhile.
    pub(super) fn write<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let begin = match self {
            Self::Sqlite(_) => "BEGIN IMMEDIATE",
            // Commits of all servers stand in one line, so that the log of changes has no holes
            // and tells them in the order in which they have come about.
            Self::Postgres(_) => "BEGIN; SELECT pg_advisory_xact_lock(7305810275)",
        };
        self.transaction(begin, body)
    }

    /// Does `body` on one state of the database, whatever others write meanwhile.
    pub(super) fn read<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let begin = match self {
            Self::Sqlite(_) => "BEGIN",
            Self::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        };
        self.transaction(begin, body)
    }

    fn transaction<T>(
        &mut self,
        begin: &str,
        body: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let done = self.run(begin).and_then(|()| body(self)).and_then(|value| {
            self.run("COMMIT")?;
            Ok(value)
        });
        if done.is_err() {
            // If even that fails the connection is closed, which has the same effect.
            let _ = self.run("ROLLBACK");
        }
        done
    }
}
