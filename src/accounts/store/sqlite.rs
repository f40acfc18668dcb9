//! SQLite: one file, and beside it a write-ahead log while it is in use.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::backup::Backup;
use rusqlite::types::ValueRef;
use rusqlite::{Error, ErrorCode, OpenFlags, params_from_iter};

use crate::accounts::store::error::StoreError;
use crate::accounts::store::value::{Row, Value};
use crate::limits::{SQLITE_CHECK_LEN_MAX, STORE_LOCK_WITHIN, STORE_STATEMENTS_KEPT};

/// An open file.
pub(super) struct Sqlite {
    connection: rusqlite::Connection,
    path: PathBuf,
}

impl Sqlite {
    /// Opens the file, or makes it, for its owner alone.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite gives its other files the mode of this one.
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = made.map_err(|error| Self::unusable(path, &error))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            log::warn!("{} was open to others; now it is its owner's alone", path.display());
            fs::set_permissions(path, Permissions::from_mode(0o600))
                .map_err(|error| Self::unusable(path, &error))?;
        }
        drop(file);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_with_flags(path, flags);
        let connection = connection.map_err(|error| of_sqlite(&error, path))?;
        let mut sqlite = Self { connection, path: path.to_owned() };
        sqlite.prepare()?;
        if metadata.len() <= SQLITE_CHECK_LEN_MAX {
            sqlite.check()?;
        }
        Ok(sqlite)
    }

    fn unusable(path: &Path, error: &io::Error) -> StoreError {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "; make its folder first",
            io::ErrorKind::PermissionDenied => "; it must be writable for the user that runs this",
            _ => "",
        };
        StoreError::Away { cause: format!("{}: {error}{advice}", path.display()) }
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        self.connection.set_prepared_statement_cache_capacity(STORE_STATEMENTS_KEPT);
        self.connection
            .busy_timeout(STORE_LOCK_WITHIN)
            .map_err(|error| of_sqlite(&error, &self.path))?;
        // What was committed is forgotten elsewhere at once, so it must be on the disk: `FULL`.
        self.run(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 16777216; PRAGMA trusted_schema = OFF",
        )
    }

    /// Looks at every page. A larger file is found to be damaged where it is read.
    fn check(&mut self) -> Result<(), StoreError> {
        let mut rows = self.query("PRAGMA quick_check(1)", &[])?;
        let answer = rows.first_mut().map(Row::text).transpose()?.unwrap_or_default();
        if answer == "ok" {
            Ok(())
        } else {
            Err(StoreError::Damaged { what: format!("{}: {answer}", self.path.display()) })
        }
    }

    pub(super) fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, StoreError> {
        let done = self
            .connection
            .prepare_cached(statement)
            .and_then(|mut prepared| prepared.execute(params_from_iter(values)));
        done.map(|rows| rows as u64).map_err(|error| of_sqlite(&error, &self.path))
    }

    pub(super) fn query(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>, StoreError> {
        let found = self.connection.prepare_cached(statement).and_then(|mut prepared| {
            let columns = prepared.column_count();
            let rows = prepared.query_map(params_from_iter(values), |row| {
                let values = (0..columns).map(|column| Ok(value(row.get_ref(column)?)));
                Ok(Row::new(values.collect::<rusqlite::Result<_>>()?))
            })?;
            rows.collect()
        });
        found.map_err(|error| of_sqlite(&error, &self.path))
    }

    pub(super) fn run(&mut self, statements: &str) -> Result<(), StoreError> {
        self.connection.execute_batch(statements).map_err(|error| of_sqlite(&error, &self.path))
    }

    /// Copies the whole into another file, which must be new, while others go on writing.
    pub(super) fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let copied = rusqlite::Connection::open(path).and_then(|mut copy| {
            // All pages in one step: the copy is of one state, and needs no second beginning
            // however much is written meanwhile.
            Backup::new(&self.connection, &mut copy)?.step(-1)?;
            // The copy is one file, without a log beside it.
            copy.execute_batch("PRAGMA journal_mode = DELETE")
        });
        copied.map_err(|error| of_sqlite(&error, path))
    }
}

fn value(column: ValueRef<'_>) -> Value {
    match column {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        // The schema has no such column; what is there is refused when it is read as another.
        ValueRef::Real(value) => Value::Text(value.to_string()),
        ValueRef::Text(value) => Value::Text(String::from_utf8_lossy(value).into_owned()),
        ValueRef::Blob(value) => Value::Bytes(value.to_vec()),
    }
}

fn of_sqlite(error: &Error, path: &Path) -> StoreError {
    let place = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            StoreError::Refused { reason: error.to_string() }
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { what: format!("{place}: {error}") }
        }
        Some(ErrorCode::NotADatabase) => {
            StoreError::NotOurs { what: format!("{place} is no SQLite database") }
        }
        Some(ErrorCode::DiskFull) => {
            StoreError::Away { cause: format!("the disk that {place} is on is full; make room") }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Away {
            cause: format!("another program keeps {place} locked; let it finish, or end it"),
        },
        _ => StoreError::Away { cause: format!("{place}: {error}") },
    }
}
