//! Changes, as statements. `src/accounts/snapshot.rs` says the same for memory, and a test holds
//! the two to each other.
//!
//! A statement takes part of its values from the rows that they refer to, so that what belongs to
//! somebody who is gone finds no row and stores nothing.

use crate::accounts::change::{Batch, BatchSource, Change};
use crate::accounts::model::{
    AuditEntry, Certificate, Device, Group, Id, LeaseRecord, SessionEnd, SessionRecord, Token,
    UnixMs, UsageRecord, User,
};
use crate::accounts::store::connection::Connection;
use crate::accounts::store::destinations;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::schema::check_version;
use crate::accounts::store::value::{Row, Value};
use crate::limits::CHANGE_LOG_ROWS_MAX;

/// The channel on which a commit is made known to other servers.
pub(super) const CHANNEL: &str = "corelane_changes";

/// Stores batches in order, but for those that were stored before, in one transaction.
pub(super) fn commit(
    connection: &mut Connection,
    source: &BatchSource,
    batches: &[Batch],
) -> Result<(), StoreError> {
    connection.write(|connection| {
        check_version(connection)?;
        let stored = last_sequence(connection, source.spool)?;
        let news = batches.iter().filter(|batch| batch.sequence > stored).collect::<Vec<_>>();
        let Some(last) = news.last() else { return Ok(()) };
        for batch in &news {
            for change in &batch.changes {
                store(connection, change)?;
            }
        }
        set_last_sequence(connection, source, last.sequence)?;
        if connection.is_shared() {
            write_log(connection, source, &news)?;
        }
        Ok(())
    })
}

/// Takes note that a batch will not be stored, because it is refused.
pub(super) fn skip(
    connection: &mut Connection,
    source: &BatchSource,
    sequence: u64,
) -> Result<(), StoreError> {
    connection.write(|connection| {
        let stored = last_sequence(connection, source.spool)?;
        set_last_sequence(connection, source, sequence.max(stored))
    })
}

/// The sequence number of the newest batch from a spool that is stored; 0 if none is.
pub(super) fn last_sequence(connection: &mut Connection, spool: Id) -> Result<u64, StoreError> {
    let statement = "SELECT last_sequence FROM spools WHERE id = $1";
    let mut rows = connection.query(statement, &[spool.into()])?;
    Ok(rows.first_mut().map(Row::count).transpose()?.unwrap_or(0))
}

fn set_last_sequence(
    connection: &mut Connection,
    source: &BatchSource,
    sequence: u64,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO spools (id, server, last_sequence) VALUES ($1, $2, $3)
         ON CONFLICT (id) DO UPDATE
         SET server = excluded.server, last_sequence = excluded.last_sequence",
        &[source.spool.into(), (&source.server).into(), Value::count(sequence)],
    )?;
    Ok(())
}

/// Tells other servers.
fn write_log(
    connection: &mut Connection,
    source: &BatchSource,
    batches: &[&Batch],
) -> Result<(), StoreError> {
    let mut position = log_position(connection)?;
    for batch in batches {
        // Nobody keeps the audit log in memory.
        let is_of_use =
            |change: &&Change| !matches!(change, Change::Audit(_) | Change::AddDestinationUsage(_));
        let changes = batch.changes.iter().filter(is_of_use).collect::<Vec<_>>();
        if changes.is_empty() {
            continue;
        }
        position += 1;
        connection.execute(
            "INSERT INTO change_log (position, spool, sequence, changes) VALUES ($1, $2, $3, $4)",
            &[
                position.into(),
                source.spool.into(),
                Value::count(batch.sequence),
                Value::json(&changes)?,
            ],
        )?;
    }
    connection.execute(
        "DELETE FROM change_log WHERE position <= $1",
        &[(position - CHANGE_LOG_ROWS_MAX).into()],
    )?;
    connection.run(&format!("NOTIFY {CHANNEL}"))
}

/// Where the log of changes ends; 0 if nothing was ever written to it.
pub(super) fn log_position(connection: &mut Connection) -> Result<i64, StoreError> {
    let statement = "SELECT COALESCE(MAX(position), 0) FROM change_log";
    let mut rows = connection.query(statement, &[])?;
    Ok(rows.first_mut().map(Row::integer).transpose()?.unwrap_or(0))
}

fn store(connection: &mut Connection, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::AddUser(user) => add_user(connection, user),
        Change::PutUser(user) => put_user(connection, user),
        Change::TotpUsed { user, step } => connection
            .execute(
                "UPDATE users SET totp_last_step = $1 WHERE id = $2 AND totp_last_step < $1",
                &[(*step).into(), (*user).into()],
            )
            .map(drop),
        Change::RecoveryCodeUsed { user, hash } => connection
            .execute(
                "DELETE FROM recovery_codes WHERE user_id = $1 AND hash = $2",
                &[(*user).into(), hash.as_slice().into()],
            )
            .map(drop),
        Change::PasswordRehashed { user, hashes } => connection
            .execute(
                "UPDATE users SET password = $1 WHERE id = $2 AND password = $3",
                &[hashes.is.as_str().into(), (*user).into(), hashes.was.as_str().into()],
            )
            .map(drop),
        Change::PutGroup(group) => put_group(connection, group),
        Change::PutDevice(device) => put_device(connection, device),
        Change::DeviceSeen { device, at } => connection
            .execute(
                "UPDATE devices SET last_login = $1 WHERE id = $2 AND last_login < $1",
                &[(*at).into(), (*device).into()],
            )
            .map(drop),
        Change::PutToken(token) => put_token(connection, token),
        Change::TokenUsed { token, at } => connection
            .execute(
                "UPDATE tokens SET last_used = $1
                 WHERE id = $2 AND (last_used IS NULL OR last_used < $1)",
                &[(*at).into(), (*token).into()],
            )
            .map(drop),
        Change::PutCertificate(certificate) => put_certificate(connection, certificate),
        Change::PutLease(lease) => put_lease(connection, lease),
        Change::StartSession(session) => start_session(connection, session),
        Change::SessionTraffic { session, received_bytes, sent_bytes } => {
            session_traffic(connection, *session, *received_bytes, *sent_bytes)
        }
        Change::EndSession { session, at, end } => end_session(connection, *session, *at, *end),
        Change::AddUsage(usage) => add_usage(connection, usage),
        Change::AddDestinationUsage(usage) => destinations::add(connection, usage),
        Change::Audit(entry) => add_audit(connection, entry),
        Change::DeleteUser(id) => delete(connection, "DELETE FROM users WHERE id = $1", *id),
        Change::DeleteDevice(id) => delete(connection, "DELETE FROM devices WHERE id = $1", *id),
        Change::DeleteToken(id) => delete(connection, "DELETE FROM tokens WHERE id = $1", *id),
        Change::DeleteGroup(name) => {
            connection.execute("DELETE FROM groups WHERE name = $1", &[name.into()]).map(drop)
        }
        Change::DeleteLease { device, server } => connection
            .execute(
                "DELETE FROM leases WHERE device_id = $1 AND server = $2",
                &[(*device).into(), server.into()],
            )
            .map(drop),
    }
}

fn delete(connection: &mut Connection, statement: &str, id: Id) -> Result<(), StoreError> {
    connection.execute(statement, &[id.into()]).map(drop)
}

fn address(address: Option<impl ToString>) -> Value {
    address.map_or(Value::Null, |address| Value::text(&address.to_string()))
}

fn add_user(connection: &mut Connection, user: &User) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO users (id, name, disabled, created, password, totp_secret, totp_last_step,
             bounds, acl, reserved_ipv4, reserved_ipv6)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        &[
            user.id.into(),
            (&user.name).into(),
            user.disabled.into(),
            user.created.into(),
            Value::optional(user.password.as_deref()),
            Value::optional(user.totp_secret.as_deref()),
            user.totp_last_step.into(),
            Value::json(&user.bounds)?,
            Value::json(&user.acl)?,
            address(user.reserved_ipv4),
            address(user.reserved_ipv6),
        ],
    )?;
    put_codes_and_groups(connection, user)
}

fn put_user(connection: &mut Connection, user: &User) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE users SET name = $1, disabled = $2, password = $3, totp_secret = $4,
             totp_last_step = CASE WHEN totp_last_step < $5 THEN $5 ELSE totp_last_step END,
             bounds = $6, acl = $7, reserved_ipv4 = $8, reserved_ipv6 = $9
         WHERE id = $10",
        &[
            (&user.name).into(),
            user.disabled.into(),
            Value::optional(user.password.as_deref()),
            Value::optional(user.totp_secret.as_deref()),
            user.totp_last_step.into(),
            Value::json(&user.bounds)?,
            Value::json(&user.acl)?,
            address(user.reserved_ipv4),
            address(user.reserved_ipv6),
            user.id.into(),
        ],
    )?;
    delete(connection, "DELETE FROM recovery_codes WHERE user_id = $1", user.id)?;
    delete(connection, "DELETE FROM members WHERE user_id = $1", user.id)?;
    put_codes_and_groups(connection, user)
}

fn put_codes_and_groups(connection: &mut Connection, user: &User) -> Result<(), StoreError> {
    for code in &user.recovery_codes {
        connection.execute(
            "INSERT INTO recovery_codes (user_id, hash) SELECT id, $1 FROM users WHERE id = $2
             ON CONFLICT DO NOTHING",
            &[code.as_slice().into(), user.id.into()],
        )?;
    }
    for group in &user.groups {
        connection.execute(
            "INSERT INTO members (group_name, user_id)
             SELECT groups.name, users.id FROM groups, users
             WHERE groups.name = $1 AND users.id = $2",
            &[group.into(), user.id.into()],
        )?;
    }
    Ok(())
}

fn put_group(connection: &mut Connection, group: &Group) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO groups (name, bounds, acl) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET bounds = excluded.bounds, acl = excluded.acl",
        &[(&group.name).into(), Value::json(&group.bounds)?, Value::json(&group.acl)?],
    )?;
    Ok(())
}

fn put_device(connection: &mut Connection, device: &Device) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO devices (id, user_id, name, public_key, created, last_login)
         SELECT $1, users.id, $2, $3, $4, $5 FROM users
         WHERE users.id = $6
           AND NOT EXISTS (SELECT 1 FROM devices WHERE public_key = $3 AND id <> $1)
         ON CONFLICT (id) DO UPDATE
         SET user_id = excluded.user_id, name = excluded.name, public_key = excluded.public_key,
             created = excluded.created, last_login = excluded.last_login",
        &[
            device.id.into(),
            (&device.name).into(),
            device.public_key.0.as_slice().into(),
            device.created.into(),
            device.last_login.into(),
            device.user.into(),
        ],
    )?;
    Ok(())
}

fn put_token(connection: &mut Connection, token: &Token) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO tokens
             (id, user_id, hash, label, scope, device_id, created, expires, last_used)
         SELECT $1, users.id, $2, $3, $4, $5, $6, $7, $8 FROM users
         WHERE users.id = $9
           AND (CAST($5 AS BIGINT) IS NULL OR EXISTS (SELECT 1 FROM devices WHERE id = $5))
         ON CONFLICT (id) DO UPDATE
         SET user_id = excluded.user_id, hash = excluded.hash, label = excluded.label,
             scope = excluded.scope, device_id = excluded.device_id, created = excluded.created,
             expires = excluded.expires, last_used = excluded.last_used",
        &[
            token.id.into(),
            token.hash.as_slice().into(),
            token.label.as_str().into(),
            word(&token.scope)?,
            Value::optional(token.device),
            token.created.into(),
            Value::optional(token.expires),
            Value::optional(token.last_used),
            token.user.into(),
        ],
    )?;
    Ok(())
}

/// A choice, by the word that serde has for it.
fn word(choice: &impl serde::Serialize) -> Result<Value, StoreError> {
    match Value::json(choice)? {
        Value::Text(text) => Ok(Value::text(text.trim_matches('"'))),
        other => Ok(other),
    }
}

fn put_certificate(
    connection: &mut Connection,
    certificate: &Certificate,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO certificates (serial, user_name, fingerprint, created, expires, revoked)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (serial) DO UPDATE
         SET user_name = excluded.user_name, fingerprint = excluded.fingerprint,
             created = excluded.created, expires = excluded.expires,
             revoked = COALESCE(certificates.revoked, excluded.revoked)",
        &[
            certificate.serial.as_str().into(),
            (&certificate.user).into(),
            certificate.fingerprint.as_slice().into(),
            certificate.created.into(),
            certificate.expires.into(),
            Value::optional(certificate.revoked),
        ],
    )?;
    Ok(())
}

fn put_lease(connection: &mut Connection, lease: &LeaseRecord) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO leases (device_id, server, ipv4, ipv6, granted, expires)
         SELECT id, $1, $2, $3, $4, $5 FROM devices WHERE id = $6
         ON CONFLICT (device_id, server) DO UPDATE
         SET ipv4 = excluded.ipv4, ipv6 = excluded.ipv6, granted = excluded.granted,
             expires = excluded.expires",
        &[
            (&lease.server).into(),
            address(lease.ipv4),
            address(lease.ipv6),
            lease.granted.into(),
            lease.expires.into(),
            lease.device.into(),
        ],
    )?;
    Ok(())
}

fn start_session(connection: &mut Connection, session: &SessionRecord) -> Result<(), StoreError> {
    let (ended, reason) = match &session.ended {
        Some((at, end)) => ((*at).into(), word(end)?),
        None => (Value::Null, Value::Null),
    };
    connection.execute(
        "INSERT INTO sessions (id, user_id, device_id, server, source, started, ended, end_reason,
             received_bytes, sent_bytes)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT DO NOTHING",
        &[
            session.id.into(),
            session.user.into(),
            session.device.into(),
            (&session.server).into(),
            Value::text(&session.from.to_string()),
            session.started.into(),
            ended,
            reason,
            Value::count(session.received_bytes),
            Value::count(session.sent_bytes),
        ],
    )?;
    Ok(())
}

fn session_traffic(
    connection: &mut Connection,
    session: Id,
    received_bytes: u64,
    sent_bytes: u64,
) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE sessions
         SET received_bytes = CASE WHEN received_bytes < $1 THEN $1 ELSE received_bytes END,
             sent_bytes = CASE WHEN sent_bytes < $2 THEN $2 ELSE sent_bytes END
         WHERE id = $3",
        &[Value::count(received_bytes), Value::count(sent_bytes), session.into()],
    )?;
    Ok(())
}

fn end_session(
    connection: &mut Connection,
    session: Id,
    at: UnixMs,
    end: SessionEnd,
) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE sessions SET ended = $1, end_reason = $2 WHERE id = $3 AND ended IS NULL",
        &[at.into(), word(&end)?, session.into()],
    )?;
    Ok(())
}

fn add_usage(connection: &mut Connection, usage: &UsageRecord) -> Result<(), StoreError> {
    // A sum that does not fit its column stays at the end of it.
    connection.execute(
        "INSERT INTO usage (user_id, server, day, received_bytes, sent_bytes)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_id, server, day) DO UPDATE
         SET received_bytes = excluded.received_bytes +
                 CASE WHEN usage.received_bytes > 9223372036854775807 - excluded.received_bytes
                 THEN 9223372036854775807 - excluded.received_bytes
                 ELSE usage.received_bytes END,
             sent_bytes = excluded.sent_bytes +
                 CASE WHEN usage.sent_bytes > 9223372036854775807 - excluded.sent_bytes
                 THEN 9223372036854775807 - excluded.sent_bytes
                 ELSE usage.sent_bytes END",
        &[
            usage.user.into(),
            (&usage.server).into(),
            i64::from(usage.day).into(),
            Value::count(usage.received_bytes),
            Value::count(usage.sent_bytes),
        ],
    )?;
    Ok(())
}

fn add_audit(connection: &mut Connection, entry: &AuditEntry) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO audit (id, at, server, actor, action, subject, source, outcome, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &[
            entry.id.into(),
            entry.at.into(),
            (&entry.server).into(),
            entry.actor.as_str().into(),
            entry.action.as_str().into(),
            entry.subject.as_str().into(),
            address(entry.from),
            entry.outcome.as_str().into(),
            entry.detail.as_str().into(),
        ],
    )?;
    Ok(())
}
