//! The tables, and how a database of an earlier version gets them.

use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::value::{Row, Value};

/// Each brings the schema one version further. One that was released is never changed: another
/// follows it.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
];

/// The version of the schema that this program knows.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The tables that a backup has, in an order in which each comes after those that it refers to, and
/// their columns. Not among them is what only says how other servers learn of changes, and
/// what they have claimed.
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
    (
        "destinations",
        &["user_id", "server", "day", "destination", "connections", "received_bytes", "sent_bytes"],
    ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::store::testing::on_both;
    use crate::accounts::store::{DatabaseUrl, Store};

    /// The tables that are there, and their columns.
    fn tables(connection: &mut Connection) -> Vec<(String, Vec<String>)> {
        let statement = match connection {
            Connection::Sqlite(_) => {
                "SELECT tables.name, columns.name
                 FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
                 WHERE tables.type = 'table' ORDER BY tables.name, columns.cid"
            }
            Connection::Postgres(_) => {
                "SELECT table_name::TEXT, column_name::TEXT FROM information_schema.columns
                 WHERE table_schema = 'corelane'
                 ORDER BY table_name COLLATE \"C\", ordinal_position"
            }
        };
        let mut tables: Vec<(String, Vec<String>)> = Vec::new();
        for mut row in connection.query(statement, &[]).unwrap() {
            let (table, column) = (row.text().unwrap(), row.text().unwrap());
            match tables.last_mut() {
                Some((last, columns)) if *last == table => columns.push(column),
                _ => tables.push((table, vec![column])),
            }
        }
        tables
    }

    #[test]
    fn a_backup_leaves_no_table_and_no_column_out() {
        on_both(|place| {
            let mut connection = Connection::open(place).unwrap();
            migrate(&mut connection).unwrap();
            let mut found = tables(&mut connection);
            let between_servers = ["schema_version", "change_log", "claims"];
            found.retain(|(table, _)| !between_servers.contains(&table.as_str()));
            let columns = |columns: &[&str]| columns.iter().map(ToString::to_string).collect();
            let mut known = TABLES
                .iter()
                .map(|(table, names)| ((*table).to_owned(), columns(names)))
                .collect::<Vec<(_, Vec<_>)>>();
            known.sort();
            assert_eq!(found, known);
        });
    }

    #[test]
    fn versions_follow_each_other_and_none_is_skipped() {
        let first = "CREATE TABLE schema_version (version BIGINT NOT NULL);
            INSERT INTO schema_version (version) VALUES (0); CREATE TABLE a (x BYTEA)";
        let second = "ALTER TABLE a ADD COLUMN y BIGINT NOT NULL DEFAULT 7";
        let broken = "CREATE TABLE b (z BIGINT); CREATE TABLE b (z BIGINT)";
        on_both(|place| {
            let mut connection = Connection::open(place).unwrap();
            migrate_by(&mut connection, &[first]).unwrap();
            connection.execute("INSERT INTO a (x) VALUES ($1)", &[Value::Bytes(vec![0])]).unwrap();
            assert!(migrate_by(&mut connection, &[first, second, broken]).is_err());
            assert_eq!(version(&mut connection).unwrap(), Some(1), "all of it or nothing");
            migrate_by(&mut connection, &[first, second]).unwrap();
            migrate_by(&mut connection, &[first, second]).unwrap();
            let mut rows = connection.query("SELECT y FROM a", &[]).unwrap();
            assert_eq!(rows[0].integer().unwrap(), 7);
            let newer = migrate_by(&mut connection, &[first]);
            assert!(matches!(newer, Err(StoreError::Newer { found: 2, known: 1 })), "{newer:?}");
        });
    }

    #[test]
    fn a_later_schema_is_refused_also_when_it_comes_while_in_use() {
        on_both(|place| {
            let mut store = Store::open(place).unwrap();
            let mut other = Connection::open(place).unwrap();
            enter_schema(&mut other).unwrap();
            let later = Value::Integer(SCHEMA_VERSION + 1);
            other.execute("UPDATE schema_version SET version = $1", &[later]).unwrap();
            drop(other);
            let changed =
                crate::accounts::change::Change::DeleteUser(crate::accounts::model::Id(1));
            let source = crate::accounts::change::BatchSource {
                spool: crate::accounts::model::Id(1),
                server: "here".parse().unwrap(),
            };
            let batch = crate::accounts::change::Batch { sequence: 1, changes: vec![changed] };
            let committed = store.commit(&source, &[batch]);
            assert!(matches!(committed, Err(StoreError::Newer { .. })), "{committed:?}");
            let error = Store::open(place).map(drop).unwrap_err().to_string();
            assert!(error.contains("run a version of corelane"), "{error}");
        });
    }

    #[test]
    fn servers_that_start_together_make_the_schema_once() {
        let place = crate::accounts::store::testing::postgres_database();
        std::thread::scope(|scope| {
            let open = || Store::open(&place).map(drop).map_err(|error| error.to_string());
            let opened = (0..8).map(|_| scope.spawn(open)).collect::<Vec<_>>();
            for thread in opened {
                assert_eq!(thread.join().unwrap(), Ok(()));
            }
        });
    }

    #[test]
    fn what_belongs_to_another_program_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
        drop(other);
        let refused = Store::open(&DatabaseUrl::Sqlite(path)).map(drop);
        assert!(matches!(refused, Err(StoreError::NotOurs { .. })), "{refused:?}");
        let path = folder.path().join("letter.txt");
        std::fs::write(&path, "Dear reader, ".repeat(1000)).unwrap();
        let refused = Store::open(&DatabaseUrl::Sqlite(path.clone())).map(drop);
        assert!(matches!(refused, Err(StoreError::NotOurs { .. })), "{refused:?}");
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("Dear reader, "));
    }
}
