//! Rows, as what they stand for.

use std::collections::BTreeSet;

use crate::accounts::model::{
    AuditEntry, Certificate, Device, Group, LeaseRecord, SessionEnd, SessionRecord, Token,
    UsageRecord, User,
};
use crate::accounts::snapshot::Snapshot;
use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::value::{Row, Value};
use crate::accounts::store::write::log_position;
use crate::handshake::keys::PublicKey;

/// Everything that a server keeps in memory, all of one moment.
pub(super) fn load(
    connection: &mut Connection,
    usage_since_day: i32,
) -> Result<Snapshot, StoreError> {
    connection.read(|connection| {
        let mut snapshot = Snapshot { position: log_position(connection)?, ..Snapshot::default() };
        load_users(connection, &mut snapshot)?;
        load_devices(connection, &mut snapshot)?;
        load_credentials(connection, &mut snapshot)?;
        for session in each(connection, SESSIONS_THAT_LAST, &[], session)? {
            snapshot.sessions.insert(session.id, session);
        }
        for usage in each(connection, USAGE, &[i64::from(usage_since_day).into()], usage)? {
            snapshot.usage.insert((usage.user, usage.server.clone(), usage.day), usage);
        }
        for mut row in connection.query("SELECT id, last_sequence FROM spools", &[])? {
            snapshot.sequences.insert(row.id()?, row.count()?);
        }
        Ok(snapshot)
    })
}

const SESSIONS_THAT_LAST: &str = "SELECT id, user_id, device_id, server, source, started, ended,
    end_reason, received_bytes, sent_bytes FROM sessions WHERE ended IS NULL";

const USAGE: &str =
    "SELECT user_id, server, day, received_bytes, sent_bytes FROM usage WHERE day >= $1";

/// What each row of a query stands for.
pub(super) fn each<T>(
    connection: &mut Connection,
    statement: &str,
    values: &[Value],
    parse: impl FnMut(Row) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    connection.query(statement, values)?.into_iter().map(parse).collect()
}

fn load_users(connection: &mut Connection, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let groups = "SELECT name, bounds, acl FROM groups";
    for group in each(connection, groups, &[], group)? {
        snapshot.groups.insert(group.name.clone(), group);
    }
    let users = "SELECT id, name, disabled, created, password, totp_secret, totp_last_step, bounds,
        acl, reserved_ipv4, reserved_ipv6 FROM users";
    for user in each(connection, users, &[], user)? {
        snapshot.users.insert(user.id, user);
    }
    for mut row in connection.query("SELECT user_id, group_name FROM members", &[])? {
        if let Some(user) = snapshot.users.get_mut(&row.id()?) {
            user.groups.insert(row.parsed()?);
        }
    }
    let codes = "SELECT user_id, hash FROM recovery_codes ORDER BY user_id, hash";
    for mut row in connection.query(codes, &[])? {
        if let Some(user) = snapshot.users.get_mut(&row.id()?) {
            user.recovery_codes.push(row.digest()?);
        }
    }
    Ok(())
}

fn load_devices(connection: &mut Connection, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let devices = "SELECT id, user_id, name, public_key, created, last_login FROM devices";
    for device in each(connection, devices, &[], device)? {
        snapshot.devices.insert(device.id, device);
    }
    let leases = "SELECT device_id, server, ipv4, ipv6, granted, expires FROM leases";
    for lease in each(connection, leases, &[], lease)? {
        snapshot.leases.insert((lease.device, lease.server.clone()), lease);
    }
    Ok(())
}

fn load_credentials(
    connection: &mut Connection,
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let tokens = "SELECT id, user_id, hash, label, scope, device_id, created, expires, last_used
        FROM tokens";
    for token in each(connection, tokens, &[], token)? {
        snapshot.tokens.insert(token.id, token);
    }
    let certificates = "SELECT serial, user_name, fingerprint, created, expires, revoked
        FROM certificates";
    for certificate in each(connection, certificates, &[], certificate)? {
        snapshot.certificates.insert(certificate.serial.clone(), certificate);
    }
    Ok(())
}

fn user(mut row: Row) -> Result<User, StoreError> {
    Ok(User {
        id: row.id()?,
        name: row.parsed()?,
        disabled: row.flag()?,
        created: row.time()?,
        password: row.optional_text()?,
        totp_secret: row.optional_bytes()?,
        totp_last_step: row.integer()?,
        bounds: row.json()?,
        acl: row.json()?,
        reserved_ipv4: row.optional_parsed()?,
        reserved_ipv6: row.optional_parsed()?,
        groups: BTreeSet::new(),
        recovery_codes: Vec::new(),
    })
}

fn group(mut row: Row) -> Result<Group, StoreError> {
    Ok(Group { name: row.parsed()?, bounds: row.json()?, acl: row.json()? })
}

fn device(mut row: Row) -> Result<Device, StoreError> {
    Ok(Device {
        id: row.id()?,
        user: row.id()?,
        name: row.parsed()?,
        public_key: PublicKey(row.digest()?),
        created: row.time()?,
        last_login: row.time()?,
    })
}

fn token(mut row: Row) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.id()?,
        user: row.id()?,
        hash: row.digest()?,
        label: row.text()?,
        scope: row.word()?,
        device: row.optional_id()?,
        created: row.time()?,
        expires: row.optional_time()?,
        last_used: row.optional_time()?,
    })
}

fn certificate(mut row: Row) -> Result<Certificate, StoreError> {
    Ok(Certificate {
        serial: row.text()?,
        user: row.parsed()?,
        fingerprint: row.digest()?,
        created: row.time()?,
        expires: row.time()?,
        revoked: row.optional_time()?,
    })
}

fn lease(mut row: Row) -> Result<LeaseRecord, StoreError> {
    Ok(LeaseRecord {
        device: row.id()?,
        server: row.parsed()?,
        ipv4: row.optional_parsed()?,
        ipv6: row.optional_parsed()?,
        granted: row.time()?,
        expires: row.time()?,
    })
}

/// Columns: id, user, device, server, source, started, ended, reason, received, sent.
pub(super) fn session(mut row: Row) -> Result<SessionRecord, StoreError> {
    Ok(SessionRecord {
        id: row.id()?,
        user: row.id()?,
        device: row.id()?,
        server: row.parsed()?,
        from: row.parsed()?,
        started: row.time()?,
        ended: row.optional_time()?.zip(row.optional_word::<SessionEnd>()?),
        received_bytes: row.count()?,
        sent_bytes: row.count()?,
    })
}

/// Columns: user, server, day, received, sent.
pub(super) fn usage(mut row: Row) -> Result<UsageRecord, StoreError> {
    Ok(UsageRecord {
        user: row.id()?,
        server: row.parsed()?,
        day: row.day()?,
        received_bytes: row.count()?,
        sent_bytes: row.count()?,
    })
}

/// Columns: id, at, server, actor, action, subject, source, outcome, detail.
pub(super) fn audit_entry(mut row: Row) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        id: row.id()?,
        at: row.time()?,
        server: row.parsed()?,
        actor: row.text()?,
        action: row.text()?,
        subject: row.text()?,
        from: row.optional_parsed()?,
        outcome: row.text()?,
        detail: row.text()?,
    })
}
