//! What users of the proxy have moved, by the host that they asked for.

use crate::accounts::model::{DESTINATION_OTHER, DestinationRecord, Id};
use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::read::each;
use crate::accounts::store::value::{Row, Value};
use crate::limits::DESTINATIONS_PER_USER_MAX;

/// Which usage by destination.
#[derive(Clone, Debug)]
pub struct DestinationQuery {
    /// Only this user's.
    pub user: Option<Id>,
    /// From this day on, in days since 1970.
    pub since_day: i32,
    /// The most to return.
    pub limit: u32,
}

/// A sum of usage of one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationTotal {
    /// The host, or what stands for several.
    pub destination: String,
    /// Connections and requests.
    pub connections: u64,
    /// Bytes from users.
    pub received_bytes: u64,
    /// Bytes to users.
    pub sent_bytes: u64,
}

/// Adds to what a user has moved. A user has so many destinations of its own on a day; what is
/// moved to others adds up under one name.
pub(super) fn add(
    connection: &mut Connection,
    usage: &DestinationRecord,
) -> Result<(), StoreError> {
    let has_room = has_room(connection, usage)?;
    let destination = if has_room { usage.destination.as_str() } else { DESTINATION_OTHER };
    // A sum that does not fit its column stays at the end of it.
    let [connections, received, sent] =
        ["connections", "received_bytes", "sent_bytes"].map(|column| {
            format!(
                "{column} = excluded.{column} +
                     CASE WHEN destinations.{column} > 9223372036854775807 - excluded.{column}
                     THEN 9223372036854775807 - excluded.{column}
                     ELSE destinations.{column} END"
            )
        });
    connection.execute(
        &format!(
            "INSERT INTO destinations
                 (user_id, server, day, destination, connections, received_bytes, sent_bytes)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (user_id, server, day, destination) DO UPDATE
             SET {connections}, {received}, {sent}"
        ),
        &[
            usage.user.into(),
            (&usage.server).into(),
            i64::from(usage.day).into(),
            destination.into(),
            Value::count(usage.connections),
            Value::count(usage.received_bytes),
            Value::count(usage.sent_bytes),
        ],
    )?;
    Ok(())
}

/// Whether a destination is there, or may be another one of that user.
fn has_room(connection: &mut Connection, usage: &DestinationRecord) -> Result<bool, StoreError> {
    let mut rows = connection.query(
        "SELECT CASE WHEN
             EXISTS (SELECT 1 FROM destinations
                     WHERE user_id = $1 AND server = $2 AND day = $3 AND destination = $4)
             OR (SELECT COUNT(*) FROM destinations
                 WHERE user_id = $1 AND server = $2 AND day = $3) < CAST($5 AS BIGINT)
         THEN CAST(1 AS BIGINT) ELSE CAST(0 AS BIGINT) END",
        &[
            usage.user.into(),
            (&usage.server).into(),
            i64::from(usage.day).into(),
            usage.destination.as_str().into(),
            (DESTINATIONS_PER_USER_MAX as i64).into(),
        ],
    )?;
    Ok(rows.first_mut().map(Row::integer).transpose()? == Some(1))
}

/// Sums over days, servers, and users if none is named; those to which most was moved first.
pub(super) fn totals(
    connection: &mut Connection,
    query: &DestinationQuery,
) -> Result<Vec<DestinationTotal>, StoreError> {
    // PostgreSQL adds up to a type of its own.
    each(
        connection,
        "SELECT destination, CAST(SUM(connections) AS BIGINT),
             CAST(SUM(received_bytes) AS BIGINT), CAST(SUM(sent_bytes) AS BIGINT)
         FROM destinations WHERE day >= $1 AND (CAST($2 AS BIGINT) IS NULL OR user_id = $2)
         GROUP BY destination
         ORDER BY SUM(received_bytes) + SUM(sent_bytes) DESC, destination LIMIT $3",
        &[
            i64::from(query.since_day).into(),
            Value::optional(query.user),
            i64::from(query.limit).into(),
        ],
        |mut row| {
            Ok(DestinationTotal {
                destination: row.text()?,
                connections: row.count()?,
                received_bytes: row.count()?,
                sent_bytes: row.count()?,
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::change::{Batch, BatchSource, Change};
    use crate::accounts::store::Store;
    use crate::accounts::store::testing::on_both;

    fn record(user: i64, day: i32, destination: &str, bytes: u64) -> Change {
        Change::AddDestinationUsage(DestinationRecord {
            user: Id(user),
            server: "here".parse().unwrap(),
            day,
            destination: destination.to_owned(),
            connections: 1,
            received_bytes: bytes,
            sent_bytes: 2 * bytes,
        })
    }

    fn told(store: &mut Store, user: Option<i64>, since_day: i32) -> Vec<(String, u64, u64, u64)> {
        let query = DestinationQuery { user: user.map(Id), since_day, limit: 5000 };
        let totals = store.destinations(&query).unwrap().into_iter();
        totals
            .map(|it| (it.destination, it.connections, it.received_bytes, it.sent_bytes))
            .collect()
    }

    #[test]
    fn sums_are_told_by_user_and_time_and_names_without_end_have_a_bound() {
        on_both(|place| {
            let mut store = Store::open(place).unwrap();
            let source = BatchSource { server: "here".parse().unwrap(), spool: Id(9) };
            let commit = |store: &mut Store, sequence, changes| {
                store.commit(&source, &[Batch { sequence, changes }]).unwrap();
            };
            let changes = vec![
                record(1, 5, "a.example", 10),
                record(1, 6, "a.example", 1),
                record(2, 6, "a.example", 100),
                record(1, 6, "2001:db8::1", 7),
            ];
            commit(&mut store, 1, changes);
            let line = |host: &str, count, bytes| (host.to_owned(), count, bytes, 2 * bytes);
            let of_one = [line("a.example", 2, 11), line("2001:db8::1", 1, 7)];
            assert_eq!(told(&mut store, Some(1), 0), of_one);
            let latest = [line("2001:db8::1", 1, 7), line("a.example", 1, 1)];
            assert_eq!(told(&mut store, Some(1), 6), latest);
            assert_eq!(told(&mut store, None, 0)[0], line("a.example", 3, 111));

            let names = (0..DESTINATIONS_PER_USER_MAX + 5).map(|number| format!("{number}.test"));
            commit(&mut store, 2, names.map(|name| record(3, 6, &name, 1)).collect());
            // One that is there goes on by its own name.
            commit(&mut store, 3, vec![record(3, 6, "0.test", 1), record(3, 6, "new.test", 1)]);
            let lines = told(&mut store, Some(3), 0);
            assert_eq!(lines.len(), DESTINATIONS_PER_USER_MAX + 1);
            assert!(lines.contains(&line(DESTINATION_OTHER, 6, 6)), "{:?}", &lines[..3]);
            assert!(lines.contains(&line("0.test", 2, 2)));
            // Enormous figures stay at the end of their column.
            commit(&mut store, 4, vec![record(4, 6, "a", u64::MAX / 2), record(4, 6, "a", 9)]);
            assert_eq!(told(&mut store, Some(4), 0)[0].2, i64::MAX as u64);
        });
    }
}
