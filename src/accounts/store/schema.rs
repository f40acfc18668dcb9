//! The tables, and how a database of an earlier version gets them.

use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::value::{Row, Value};

/// Each brings the schema one version further. One that was released is never changed: another
/// follows it.
const MIGRATIONS: &[&str] = &[include_str!("migrations/1.sql")];

/// The version of the schema that this program knows.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The tables that a backup has, in an order in which each comes after those that it refers to, and
/// their columns. Not among them is what only says how other servers learn of changes.
pub(super) const TABLES: &[(&str, &[&str])] = &[
    (
        "users",
        &[
            "id",
            "name",
            "disabled",
            "created",
            "password",
            "totp_secret",
            "totp_last_step",
            "bounds",
            "acl",
            "reserved_ipv4",
            "reserved_ipv6",
        ],
    ),
    ("recovery_codes", &["user_id", "hash"]),
    ("groups", &["name", "bounds", "acl"]),
    ("members", &["group_name", "user_id"]),
    ("devices", &["id", "user_id", "name", "public_key", "created", "last_login"]),
    (
        "tokens",
        &[
            "id",
            "user_id",
            "hash",
            "label",
            "scope",
            "device_id",
            "created",
            "expires",
            "last_used",
        ],
    ),
    ("certificates", &["serial", "user_name", "fingerprint", "created", "expires", "revoked"]),
    ("leases", &["device_id", "server", "ipv4", "ipv6", "granted", "expires"]),
    (
        "sessions",
        &[
            "id",
            "user_id",
            "device_id",
            "server",
            "source",
            "started",
            "ended",
            "end_reason",
            "received_bytes",
            "sent_bytes",
        ],
    ),
    ("usage", &["user_id", "server", "day", "received_bytes", "sent_bytes"]),
    ("audit", &["id", "at", "server", "actor", "action", "subject", "source", "outcome", "detail"]),
    ("spools", &["id", "server", "last_sequence"]),
];

/// Brings the schema up to date.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    migrate_by(connection, MIGRATIONS)
}

fn migrate_by(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let known = migrations.len() as i64;
    enter_schema(connection)?;
    // Most often there is nothing to do, and a look does not wait for others.
    if connection.read(version)? == Some(known) {
        return Ok(());
    }
    connection.write(|connection| {
        let found = version(connection)?.unwrap_or(0);
        if found > known {
            return Err(StoreError::Newer { found, known });
        }
        for migration in migrations.iter().skip(usize::try_from(found).unwrap_or(0)) {
            // The two databases have one type by different names.
            let statements = match connection {
                Connection::Sqlite(_) => migration.replace("BYTEA", "BLOB"),
                Connection::Postgres(_) => (*migration).to_owned(),
            };
            connection.run(&statements)?;
        }
        connection.execute("UPDATE schema_version SET version = $1", &[Value::Integer(known)])?;
        Ok(())
    })
}

/// Finds out whether another program has brought the schema further meanwhile.
pub(super) fn check_version(connection: &mut Connection) -> Result<(), StoreError> {
    match version(connection)?.unwrap_or(0) {
        SCHEMA_VERSION => Ok(()),
        found if found > SCHEMA_VERSION => Err(StoreError::Newer { found, known: SCHEMA_VERSION }),
        // The file, or the schema, was taken away and something else put there.
        _ => Err(StoreError::Away { cause: "its tables are gone".to_owned() }),
    }
}

/// In PostgreSQL everything is in a schema of its own, whatever else is in the database.
fn enter_schema(connection: &mut Connection) -> Result<(), StoreError> {
    if !connection.is_shared() {
        return Ok(());
    }
    let there = "SELECT nspname::TEXT FROM pg_namespace WHERE nspname = 'corelane'";
    if connection.query(there, &[])?.is_empty() {
        let made = connection.write(|connection| connection.run("CREATE SCHEMA corelane"));
        // Another server may have been first.
        if made.is_err() && connection.query(there, &[])?.is_empty() {
            return made;
        }
    }
    connection.run("SET search_path = corelane")
}

/// The version of the schema that is there, `None` for an empty database.
fn version(connection: &mut Connection) -> Result<Option<i64>, StoreError> {
    let tables = match connection {
        Connection::Sqlite(_) => "SELECT name FROM sqlite_schema WHERE type = 'table'",
        Connection::Postgres(_) => {
            "SELECT tablename::TEXT FROM pg_tables WHERE schemaname = 'corelane'"
        }
    };
    let rows = connection.query(tables, &[])?.into_iter();
    let tables = rows.map(|mut row| row.text()).collect::<Result<Vec<_>, _>>()?;
    if tables.is_empty() {
        return Ok(None);
    }
    if !tables.iter().any(|table| table == "schema_version") {
        let what = format!("the database has tables of another program, such as `{}`", tables[0]);
        return Err(StoreError::NotOurs { what });
    }
    let mut rows = connection.query("SELECT version FROM schema_version", &[])?;
    rows.first_mut().map(Row::integer).transpose()
}
