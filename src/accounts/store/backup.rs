//! A copy of the whole database in one SQLite file, made while it is in use.
//!
//! The copy of a PostgreSQL database is the same kind of file, so that it can be looked at, and
//! used in its place, without a server.

use std::fs;
use std::io;
use std::path::Path;

use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::schema::{TABLES, migrate};
use crate::accounts::store::sqlite::Sqlite;
use crate::accounts::store::value::{Row, Value};
use crate::limits::BACKUP_ROWS_PER_READ;

/// Copies everything to a new file. It appears under its name when it is whole.
pub(super) fn backup(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::Backup { path: path.to_owned(), error };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".partial");
    let beside = Path::new(&beside);
    if fs::symlink_metadata(path).is_ok() {
        return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let copied = write_copy(connection, beside).and_then(|()| {
        fs::File::open(beside).and_then(|file| file.sync_all()).map_err(failed)?;
        // Unlike renaming, this never replaces a file that has come there meanwhile.
        fs::hard_link(beside, path).map_err(failed)
    });
    let _ = fs::remove_file(beside);
    copied
}

fn write_copy(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let mut copy = Connection::Sqlite(Sqlite::open(path)?);
    if let Connection::Sqlite(sqlite) = connection {
        drop(copy);
        return sqlite.copy_to(path);
    }
    migrate(&mut copy)?;
    connection.read(|connection| {
        copy.write(|copy| {
            TABLES
                .iter()
                .try_for_each(|(table, columns)| copy_table(connection, copy, table, columns))
        })
    })?;
    copy.run("PRAGMA journal_mode = DELETE")
}

/// Copies a table through a cursor, so that memory for some rows is enough.
fn copy_table(
    from: &mut Connection,
    to: &mut Connection,
    table: &str,
    columns: &[&str],
) -> Result<(), StoreError> {
    let names = columns.join(", ");
    let places = (1..=columns.len()).map(|number| format!("${number}")).collect::<Vec<_>>();
    let insert = format!("INSERT INTO {table} ({names}) VALUES ({})", places.join(", "));
    let fetch = format!("FETCH {BACKUP_ROWS_PER_READ} FROM copy_{table}");
    from.run(&format!("DECLARE copy_{table} CURSOR FOR SELECT {names} FROM {table}"))?;
    loop {
        let rows = from.query(&fetch, &[])?;
        if rows.is_empty() {
            return from.run(&format!("CLOSE copy_{table}"));
        }
        for values in rows.into_iter().map(Row::into_values) {
            to.execute(&insert, &values as &[Value])?;
        }
    }
}
