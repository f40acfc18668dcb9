//! What is old enough to be forgotten is deleted, some rows at a time.

use crate::accounts::model::UnixMs;
use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::value::Row;
use crate::limits::{AUDIT_REFUSALS_KEPT, CLAIMS_KEPT_DAYS, PRUNE_ROWS};

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 3600 * 1000;

/// How long history is kept, in days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Lines of the audit log. Of logins that were refused, there is a greatest number as well:
    /// the newest [`AUDIT_REFUSALS_KEPT`].
    pub audit_days: u32,
    /// Sessions that have ended.
    pub sessions_days: u32,
    /// What users have moved on each day.
    pub usage_days: u32,
    /// What users of the proxy have moved on each day, by destination.
    pub destinations_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { audit_days: 400, sessions_days: 90, usage_days: 800, destinations_days: 30 }
    }
}

/// Deletes some of what is too old; whether there may be more.
pub(super) fn prune(
    connection: &mut Connection,
    keep: &Retention,
    now: UnixMs,
) -> Result<bool, StoreError> {
    let before = |days: u32| now.0.saturating_sub(i64::from(days).saturating_mul(DAY_MS));
    let first_day = before(keep.usage_days).div_euclid(DAY_MS);
    let first_destination_day = before(keep.destinations_days).div_euclid(DAY_MS);
    let refusals = oldest_refusal_kept(connection)?;
    let steps = [
        (
            "DELETE FROM audit WHERE id IN
                 (SELECT id FROM audit WHERE at < $1 ORDER BY at LIMIT $2)",
            before(keep.audit_days),
        ),
        (
            "DELETE FROM audit WHERE id IN
                 (SELECT id FROM audit WHERE action = 'login' AND outcome <> 'ok' AND at < $1
                  ORDER BY at LIMIT $2)",
            refusals,
        ),
        (
            "DELETE FROM sessions WHERE id IN
                 (SELECT id FROM sessions WHERE started < $1 AND ended < $1
                  ORDER BY started LIMIT $2)",
            before(keep.sessions_days),
        ),
        (
            "DELETE FROM usage WHERE (user_id, server, day) IN
                 (SELECT user_id, server, day FROM usage WHERE day < $1 ORDER BY day LIMIT $2)",
            first_day,
        ),
        (
            "DELETE FROM destinations WHERE (user_id, server, day, destination) IN
                 (SELECT user_id, server, day, destination FROM destinations WHERE day < $1
                  ORDER BY day LIMIT $2)",
            first_destination_day,
        ),
        (
            "DELETE FROM claims WHERE what IN
                 (SELECT what FROM claims WHERE at < $1 ORDER BY at LIMIT $2)",
            before(CLAIMS_KEPT_DAYS),
        ),
    ];
    let mut is_more = false;
    for (statement, bound) in steps {
        let deleted = connection.execute(statement, &[bound.into(), PRUNE_ROWS.into()])?;
        is_more |= i64::try_from(deleted).is_ok_and(|deleted| deleted >= PRUNE_ROWS);
    }
    Ok(is_more)
}

/// When the oldest of the newest [`AUDIT_REFUSALS_KEPT`] refused logins was; the beginning of time
/// if there are no more.
fn oldest_refusal_kept(connection: &mut Connection) -> Result<i64, StoreError> {
    let mut rows = connection.query(
        "SELECT at FROM audit WHERE action = 'login' AND outcome <> 'ok'
         ORDER BY at DESC LIMIT 1 OFFSET $1",
        &[(AUDIT_REFUSALS_KEPT - 1).into()],
    )?;
    Ok(rows.first_mut().map(Row::integer).transpose()?.unwrap_or(i64::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::change::{Batch, BatchSource, Change};
    use crate::accounts::model::{
        AuditEntry, DestinationRecord, Id, SessionEnd, SessionRecord, UsageRecord,
    };
    use crate::accounts::store::testing::on_both;
    use crate::accounts::store::{AuditQuery, OneTime, Store};

    fn audit(id: i64, day: i64) -> Change {
        Change::Audit(AuditEntry {
            id: Id(id),
            at: UnixMs(day * DAY_MS),
            server: "here".parse().unwrap(),
            actor: "alice".to_owned(),
            action: "login".to_owned(),
            subject: "alice".to_owned(),
            from: None,
            outcome: "ok".to_owned(),
            detail: String::new(),
        })
    }

    fn session(id: i64, began: i64, ended: Option<i64>) -> Change {
        Change::StartSession(SessionRecord {
            id: Id(id),
            user: Id(1),
            device: Id(2),
            server: "here".parse().unwrap(),
            from: "192.0.2.1:1".parse().unwrap(),
            started: UnixMs(began * DAY_MS),
            ended: ended.map(|day| (UnixMs(day * DAY_MS), SessionEnd::LoggedOut)),
            received_bytes: 0,
            sent_bytes: 0,
        })
    }

    fn count(store: &mut Store, table: &str) -> i64 {
        let connection = store.connection.as_mut().unwrap();
        let mut rows = connection.query(&format!("SELECT COUNT(*) FROM {table}"), &[]).unwrap();
        rows[0].integer().unwrap()
    }

    #[test]
    fn what_is_too_old_goes_some_rows_at_a_time_and_the_rest_stays() {
        const NOW: i64 = 1000;
        let keep = Retention { destinations_days: 31, ..Retention::default() };
        on_both(|place| {
            let mut store = Store::open(place).unwrap();
            let usage = |day: i32| {
                let server = "here".parse().unwrap();
                let user = Id(1);
                Change::AddUsage(UsageRecord {
                    user,
                    server,
                    day,
                    received_bytes: 1,
                    sent_bytes: 1,
                })
            };
            let old = PRUNE_ROWS + 1;
            let mut changes: Vec<_> = (1..=old).map(|id| audit(id, NOW - 401)).collect();
            changes.extend([audit(old + 1, NOW - 400), audit(old + 2, NOW)]);
            changes.extend([
                session(1, NOW - 95, Some(NOW - 91)),
                session(2, NOW - 95, Some(NOW - 89)),
                session(3, NOW - 95, None),
                session(4, NOW - 1, Some(NOW)),
            ]);
            changes.extend([usage(199), usage(200), usage(1000)]);
            changes.extend([968, 969, 1000].map(|day| {
                Change::AddDestinationUsage(DestinationRecord {
                    user: Id(1),
                    server: "here".parse().unwrap(),
                    day,
                    destination: "a.example".to_owned(),
                    connections: 1,
                    received_bytes: 1,
                    sent_bytes: 1,
                })
            }));
            let source = BatchSource { spool: Id(7), server: "here".parse().unwrap() };
            store.commit(&source, &[Batch { sequence: 1, changes }]).unwrap();
            let now = UnixMs(NOW * DAY_MS);
            assert!(store.prune(&keep, now).unwrap(), "one row is left for the next time");
            assert_eq!(count(&mut store, "audit"), 3);
            assert!(!store.prune(&keep, now).unwrap());
            assert_eq!(count(&mut store, "audit"), 2);
            assert_eq!(count(&mut store, "sessions"), 3);
            assert_eq!(count(&mut store, "usage"), 2);
            assert_eq!(count(&mut store, "destinations"), 2);
            assert!(!store.prune(&keep, now).unwrap());
            let all = AuditQuery { about: None, since: UnixMs(0), until: now, limit: 9 };
            assert_eq!(store.audit(&all).unwrap().len(), 1, "until is not included");
        });
    }

    #[test]
    fn a_claim_outlives_whatever_it_was_for() {
        on_both(|place| {
            let mut store = Store::open(place).unwrap();
            let user = crate::accounts::model::User::new(Id(1), "a".parse().unwrap(), UnixMs(0));
            let source = BatchSource { spool: Id(7), server: "here".parse().unwrap() };
            let changes = vec![Change::AddUser(user)];
            store.commit(&source, &[Batch { sequence: 1, changes }]).unwrap();
            let day = |day: u32| UnixMs(i64::from(day) * DAY_MS);
            store.claim(&OneTime::Totp { user: Id(1), step: 1 }, Id(7), day(0)).unwrap();
            store.prune(&Retention::default(), day(CLAIMS_KEPT_DAYS)).unwrap();
            assert_eq!(count(&mut store, "claims"), 1);
            store.prune(&Retention::default(), day(CLAIMS_KEPT_DAYS + 1)).unwrap();
            assert_eq!(count(&mut store, "claims"), 0);
        });
    }
}
