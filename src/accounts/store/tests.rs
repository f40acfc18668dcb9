//! The store, on both databases.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::testing::{on_both, postgres_database};
use super::*;
use crate::accounts::change::{Change, Rehash};
use crate::accounts::model::*;
use crate::accounts::names::Name;
use crate::handshake::keys::PublicKey;
use crate::policy::bounds::Bounds;
use crate::sys::clock;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn source() -> BatchSource {
    BatchSource { spool: Id(77), server: name("here") }
}

fn user(id: i64, text: &str) -> User {
    User {
        password: Some("$argon2id$v=19$x".to_owned()),
        bounds: Bounds { up_bps: Some(1), ..Bounds::default() },
        acl: vec!["allow 10.0.0.0/8 443/tcp".parse().unwrap()],
        reserved_ipv6: Some("fd00::7".parse().unwrap()),
        ..User::new(Id(id), name(text), UnixMs(1))
    }
}

fn device(id: i64, user: i64) -> Device {
    Device {
        id: Id(id),
        user: Id(user),
        name: name("laptop"),
        public_key: PublicKey([id as u8; 32]),
        created: UnixMs(2),
        last_login: UnixMs(3),
    }
}

fn lease(device: i64, server: &str) -> LeaseRecord {
    LeaseRecord {
        device: Id(device),
        server: name(server),
        ipv4: Some(std::net::Ipv4Addr::from_bits(0x0a00_0000 + device as u32)),
        ipv6: None,
        granted: UnixMs(4),
        expires: UnixMs(5),
    }
}

fn session(id: i64, started: i64) -> SessionRecord {
    SessionRecord {
        id: Id(id),
        user: Id(1),
        device: Id(1),
        server: name("here"),
        from: "[2001:db8::1]:1234".parse().unwrap(),
        started: UnixMs(started),
        ended: None,
        received_bytes: 0,
        sent_bytes: 0,
    }
}

fn usage(user: i64, day: i32, received_bytes: u64) -> UsageRecord {
    UsageRecord { user: Id(user), server: name("here"), day, received_bytes, sent_bytes: 1 }
}

fn audit(id: i64, at: i64, subject: &str) -> AuditEntry {
    AuditEntry {
        id: Id(id),
        at: UnixMs(at),
        server: name("here"),
        actor: "admin (uid 0)".to_owned(),
        action: "user_added".to_owned(),
        subject: subject.to_owned(),
        from: Some("192.0.2.1".parse().unwrap()),
        outcome: "ok".to_owned(),
        detail: String::new(),
    }
}

fn batch(sequence: u64, changes: Vec<Change>) -> Batch {
    Batch { sequence, changes }
}

/// What is loaded, but for where the log and the spools stand.
fn load(store: &mut Store) -> Snapshot {
    Snapshot { position: 0, sequences: Default::default(), ..store.load(0).unwrap() }
}

/// Any change, of few users, devices and so on, so that they meet.
fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => change_of_users(),
        8 => change_of_devices(),
        6 => change_of_credentials(),
        7 => change_of_sessions(),
    ]
}

fn change_of_users() -> impl Strategy<Value = Change> {
    let id = 1..4_i64;
    let group = || select(vec!["staff", "guests"]);
    let a_user = (id.clone(), select(vec!["ann", "bob"]), any::<bool>(), 0..3_i64, group());
    let a_user = a_user.prop_map(|(id, text, disabled, step, group)| User {
        disabled,
        totp_last_step: step,
        password: (step > 0).then(|| format!("hash{step}")),
        totp_secret: disabled.then(|| vec![1, 2, 3]),
        groups: [name(group)].into(),
        recovery_codes: (1..=id as u8).map(|code| [code; 32]).collect(),
        ..user(id, text)
    });
    let a_group = (group(), any::<u32>()).prop_map(|(text, most)| Group {
        name: name(text),
        bounds: Bounds { sessions_max: Some(most), ..Bounds::default() },
        acl: Vec::new(),
    });
    prop_oneof![
        3 => a_user.clone().prop_map(Change::AddUser),
        2 => a_user.prop_map(Change::PutUser),
        1 => id.clone().prop_map(|id| Change::DeleteUser(Id(id))),
        1 => (id.clone(), 0..5_i64).prop_map(|(user, step)| Change::TotpUsed {
            user: Id(user),
            step,
        }),
        1 => (id.clone(), 1..4_u8).prop_map(|(user, code)| Change::RecoveryCodeUsed {
            user: Id(user),
            hash: [code; 32],
        }),
        1 => (id.clone(), 0..3_u8, 0..3_u8).prop_map(|(user, was, is)| {
            let hashes = Rehash { was: format!("hash{was}"), is: format!("hash{is}") };
            Change::PasswordRehashed { user: Id(user), hashes }
        }),
        3 => a_group.prop_map(Change::PutGroup),
        1 => group().prop_map(|text| Change::DeleteGroup(name(text))),
    ]
}

fn change_of_devices() -> impl Strategy<Value = Change> {
    let id = 1..4_i64;
    prop_oneof![
        3 => (id.clone(), id.clone(), 1..5_u8).prop_map(|(id, user, key)| {
            Change::PutDevice(Device { public_key: PublicKey([key; 32]), ..device(id, user) })
        }),
        1 => (id.clone(), 0..9_i64).prop_map(|(device, at)| Change::DeviceSeen {
            device: Id(device),
            at: UnixMs(at),
        }),
        1 => id.clone().prop_map(|id| Change::DeleteDevice(Id(id))),
        2 => (id.clone(), select(vec!["here", "there"]))
            .prop_map(|(device, server)| Change::PutLease(lease(device, server))),
        1 => id.clone().prop_map(|device| Change::DeleteLease {
            device: Id(device),
            server: name("here"),
        }),
    ]
}

fn change_of_credentials() -> impl Strategy<Value = Change> {
    let id = 1..4_i64;
    let token =
        (id.clone(), id.clone(), prop::option::of(id.clone())).prop_map(|(id, user, device)| {
            Token {
                id: Id(id),
                user: Id(user),
                hash: [id as u8; 32],
                label: "it's; -- \"\\ %".to_owned(),
                scope: if device.is_some() { TokenScope::Device } else { TokenScope::Invite },
                device: device.map(Id),
                created: UnixMs(1),
                expires: Some(UnixMs(9)),
                last_used: None,
            }
        });
    let certificate =
        (select(vec!["0a", "0b"]), prop::option::of(1..5_i64)).prop_map(|(serial, revoked)| {
            Certificate {
                serial: serial.to_owned(),
                user: name("ann"),
                fingerprint: [9; 32],
                created: UnixMs(1),
                expires: UnixMs(9),
                revoked: revoked.map(UnixMs),
            }
        });
    prop_oneof![
        3 => token.prop_map(Change::PutToken),
        1 => (id.clone(), 0..9_i64).prop_map(|(token, at)| Change::TokenUsed {
            token: Id(token),
            at: UnixMs(at),
        }),
        1 => id.clone().prop_map(|id| Change::DeleteToken(Id(id))),
        1 => certificate.prop_map(Change::PutCertificate),
    ]
}

fn change_of_sessions() -> impl Strategy<Value = Change> {
    let id = 1..4_i64;
    prop_oneof![
        2 => id.clone().prop_map(|id| Change::StartSession(session(id, 1))),
        2 => (id.clone(), 0..99_u64).prop_map(|(session, bytes)| Change::SessionTraffic {
            session: Id(session),
            received_bytes: bytes,
            sent_bytes: 100 - bytes,
        }),
        2 => (id.clone(), 0..99_u64)
            .prop_map(|(user, bytes)| Change::AddUsage(usage(user, user as i32, bytes))),
        1 => id.prop_map(|session| Change::EndSession {
            session: Id(session),
            at: UnixMs(8),
            end: SessionEnd::Kicked,
        }),
    ]
}

/// Memory and database must agree after any changes whatever.
fn agrees(place: impl Fn() -> DatabaseUrl, cases: u32) {
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let batches = prop::collection::vec(prop::collection::vec(change(), 1..6), 1..25);
    let agreed = runner.run(&batches, |batches| {
        let mut store = Store::open(&place()).unwrap();
        let mut memory = Snapshot::default();
        let mut ended = BTreeSet::new();
        for (sequence, mut changes) in (1..).zip(batches) {
            // Identities are random, so no session begins with that of one that has ended.
            changes.retain(|change| match change {
                Change::StartSession(session) => !ended.contains(&session.id),
                Change::EndSession { session, .. } => {
                    ended.insert(*session);
                    true
                }
                _ => true,
            });
            match store.commit(&source(), &[batch(sequence, changes.clone())]) {
                Ok(()) => changes.iter().for_each(|change| memory.apply(change)),
                Err(StoreError::Refused { .. }) => {
                    let adds =
                        |change: &Change| matches!(change, Change::AddUser(_) | Change::PutUser(_));
                    prop_assert!(changes.iter().any(adds), "{:?}", changes);
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
            prop_assert_eq!(load(&mut store), memory.clone());
        }
        Ok(())
    });
    agreed.unwrap();
}

#[test]
fn memory_and_sqlite_agree() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    let place = || {
        number.set(number.get() + 1);
        DatabaseUrl::Sqlite(folder.path().join(format!("{}.db", number.get())))
    };
    agrees(place, 40);
}

#[test]
fn memory_and_postgresql_agree() {
    agrees(postgres_database, 8);
}

#[test]
fn a_batch_is_stored_once_however_often_it_is_sent() {
    on_both(|place| {
        let mut store = Store::open(place).unwrap();
        let add = |sequence, bytes| batch(sequence, vec![Change::AddUsage(usage(1, 1, bytes))]);
        let total = |store: &mut Store| load(store).usage.values().next().unwrap().received_bytes;
        store.commit(&source(), &[add(1, 1), add(2, 10)]).unwrap();
        store.commit(&source(), &[add(1, 1), add(2, 10)]).unwrap();
        assert_eq!(total(&mut store), 11);
        store.commit(&source(), &[add(2, 10), add(3, 100)]).unwrap();
        assert_eq!(total(&mut store), 111);
        let other = BatchSource { spool: Id(78), ..source() };
        store.commit(&other, &[add(1, 1000)]).unwrap();
        assert_eq!(total(&mut store), 1111, "each spool counts by itself");
        assert_eq!(store.last_sequence(Id(77)).unwrap(), 3);
        store.skip(&source(), 4).unwrap();
        store.commit(&source(), &[add(4, 5000)]).unwrap();
        assert_eq!(total(&mut store), 1111, "what is skipped is not stored");
    });
}

#[test]
fn what_is_refused_leaves_nothing_of_its_batch() {
    on_both(|place| {
        let mut store = Store::open(place).unwrap();
        let first = batch(1, vec![Change::AddUser(user(1, "ann"))]);
        store.commit(&source(), &[first]).unwrap();
        let second = vec![
            Change::Audit(audit(1, 1, "ann")),
            Change::AddUser(user(2, "ann")),
            Change::AddUsage(usage(2, 1, 1)),
        ];
        let refused = store.commit(&source(), &[batch(2, second)]);
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        let loaded = store.load(0).unwrap();
        assert_eq!((loaded.users.len(), loaded.usage.len()), (1, 0));
        assert_eq!(store.last_sequence(Id(77)).unwrap(), 1);
        let all = AuditQuery { about: None, since: UnixMs(0), until: UnixMs(99), limit: 9 };
        assert_eq!(store.audit(&all).unwrap(), []);
    });
}

#[test]
fn texts_come_back_whatever_is_in_them() {
    let texts = [
        "'; DROP TABLE users; --",
        "\" OR 1=1",
        "$1 ?1 :name @x \\x00 \\' %s %",
        "line\nfeed\ttab\r",
        "élodie 李 \u{1f600} \u{202e}",
        &"n".repeat(255),
        &"x".repeat(70_000),
        "",
    ];
    on_both(|place| {
        let mut store = Store::open(place).unwrap();
        let entries = (1..).zip(texts).map(|(id, text)| AuditEntry {
            detail: text.to_owned(),
            outcome: text.to_owned(),
            ..audit(id, id, text)
        });
        let entries = entries.collect::<Vec<_>>();
        let changes = entries.iter().cloned().map(Change::Audit).collect();
        store.commit(&source(), &[batch(1, changes)]).unwrap();
        for (entry, text) in entries.iter().zip(texts) {
            let query = AuditQuery {
                about: Some(text.to_owned()),
                since: UnixMs(0),
                until: UnixMs(99),
                limit: 9,
            };
            assert_eq!(store.audit(&query).unwrap(), std::slice::from_ref(entry), "{text:.40}");
        }
        let nul = batch(2, vec![Change::Audit(audit(99, 99, "a\0b"))]);
        store.commit(&source(), &[nul]).unwrap();
        let query = AuditQuery { about: None, since: UnixMs(99), until: UnixMs(100), limit: 9 };
        assert_eq!(store.audit(&query).unwrap()[0].subject, "a\u{fffd}b");
    });
}

#[test]
fn counts_beyond_the_columns_end_there() {
    on_both(|place| {
        let mut store = Store::open(place).unwrap();
        store
            .commit(&source(), &[batch(1, vec![Change::AddUsage(usage(1, 1, u64::MAX))])])
            .unwrap();
        assert_eq!(load(&mut store).usage.values().next().unwrap().received_bytes, i64::MAX as u64);
        // More would not fit the column: it stays, and nothing is lost for others.
        store.commit(&source(), &[batch(2, vec![Change::AddUsage(usage(1, 1, 7))])]).unwrap();
        assert_eq!(load(&mut store).usage.values().next().unwrap().received_bytes, i64::MAX as u64);
    });
}

#[test]
fn history_is_found_by_what_people_ask() {
    on_both(|place| {
        let mut store = Store::open(place).unwrap();
        let mut changes =
            (1..=5).map(|id| Change::StartSession(session(id, 10 * id))).collect::<Vec<_>>();
        let end = SessionEnd::LoggedOut;
        changes.extend((1..=3).map(|id| Change::EndSession {
            session: Id(id),
            at: UnixMs(10 * id + 5),
            end,
        }));
        changes.extend((1..=3).flat_map(|user| {
            (100..103).map(move |day| Change::AddUsage(usage(user, day, 10 * user as u64)))
        }));
        changes.extend(
            (1..=9).map(|id| Change::Audit(audit(id, id, if id % 2 == 0 { "ann" } else { "bob" }))),
        );
        store.commit(&source(), &[batch(1, changes)]).unwrap();

        let query = SessionQuery {
            user: None,
            server: None,
            lasting_only: false,
            since: UnixMs(0),
            limit: 4,
        };
        let ids = |store: &mut Store, query: &SessionQuery| {
            let found = store.sessions(query).unwrap();
            found.iter().map(|session| session.id.0).collect::<Vec<_>>()
        };
        assert_eq!(ids(&mut store, &query), [5, 4, 3, 2]);
        assert_eq!(store.sessions(&query).unwrap()[2].ended, Some((UnixMs(35), end)));
        assert_eq!(ids(&mut store, &SessionQuery { lasting_only: true, ..query.clone() }), [5, 4]);
        assert_eq!(
            ids(&mut store, &SessionQuery { since: UnixMs(30), ..query.clone() }),
            [5, 4, 3]
        );
        assert_eq!(ids(&mut store, &SessionQuery { user: Some(Id(2)), ..query.clone() }), [0; 0]);
        let there = SessionQuery { server: Some(name("there")), ..query };
        assert_eq!(ids(&mut store, &there), [0; 0]);

        let query = UsageQuery { user: None, since_day: 101, by: UsageBy::User, limit: 2 };
        let totals = store.usage(&query).unwrap();
        let received = totals.iter().map(|total| (total.user, total.received_bytes));
        assert_eq!(received.collect::<Vec<_>>(), [(Some(Id(3)), 60), (Some(Id(2)), 40)]);
        let query = UsageQuery { user: Some(Id(1)), since_day: 0, by: UsageBy::Day, limit: 9 };
        let totals = store.usage(&query).unwrap();
        let received =
            totals.iter().map(|total| (total.day, total.received_bytes, total.sent_bytes));
        assert_eq!(
            received.collect::<Vec<_>>(),
            [(Some(102), 10, 1), (Some(101), 10, 1), (Some(100), 10, 1)]
        );

        let query = AuditQuery {
            about: Some("ann".to_owned()),
            since: UnixMs(3),
            until: UnixMs(8),
            limit: 9,
        };
        let found = store.audit(&query).unwrap();
        assert_eq!(found.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [6, 4]);
    });
}

#[test]
fn a_backup_has_everything_and_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    on_both(|place| {
        number.set(number.get() + 1);
        let path = folder.path().join(format!("backup-{}.db", number.get()));
        let mut store = Store::open(place).unwrap();
        let mut ann = user(1, "ann");
        ann.groups = [name("staff")].into();
        ann.recovery_codes = vec![[1; 32], [2; 32]];
        let group = Group { name: name("staff"), bounds: Bounds::default(), acl: Vec::new() };
        let changes = vec![
            Change::PutGroup(group),
            Change::AddUser(ann),
            Change::PutDevice(device(1, 1)),
            Change::PutLease(lease(1, "here")),
            Change::StartSession(session(1, 1)),
            Change::AddUsage(usage(1, 1, 5)),
        ];
        store.commit(&source(), &[batch(1, changes)]).unwrap();
        let many = (1..=2500).map(|id| Change::Audit(audit(id, id, "ann"))).collect();
        store.commit(&source(), &[batch(2, many)]).unwrap();
        store.backup(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(store.backup(&path), Err(StoreError::Backup { .. })), "it is there");

        let mut copy = Store::open(&DatabaseUrl::Sqlite(path)).unwrap();
        assert_eq!(load(&mut copy), load(&mut store));
        assert_eq!(copy.last_sequence(Id(77)).unwrap(), 2);
        let all = AuditQuery { about: None, since: UnixMs(0), until: UnixMs(9999), limit: 9999 };
        assert_eq!(copy.audit(&all).unwrap(), store.audit(&all).unwrap());
    });
    let left = fs::read_dir(folder.path()).unwrap().count();
    let logs = 2 * 2; // `-wal` and `-shm` of two copies that were opened, or none.
    assert!(left == 2 || left <= 2 + logs, "{left}");
}

#[test]
fn ten_thousand_users_are_there_in_two_seconds() {
    on_both(|place| {
        let mut store = Store::open(place).unwrap();
        let changes = (1..=10_000_i64).flat_map(|id| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&id.to_be_bytes());
            [
                Change::AddUser(user(id, &format!("user{id}"))),
                Change::PutDevice(Device { public_key: PublicKey(key), ..device(id, id) }),
                Change::PutLease(lease(id, "here")),
            ]
        });
        store.commit(&source(), &[batch(1, changes.collect())]).unwrap();
        drop(store);
        let begun = clock::now();
        let loaded = Store::open(place).unwrap().load(0).unwrap();
        let taken = clock::now() - begun;
        println!("{place}: {} ms", taken.as_millis());
        assert_eq!((loaded.users.len(), loaded.leases.len()), (10_000, 10_000));
        assert!(taken < Duration::from_secs(2), "{place}: {taken:?}");
    });
}

/// An SQLite file with some users.
fn filled(path: &Path) {
    let mut store = Store::open(&DatabaseUrl::Sqlite(path.to_owned())).unwrap();
    let users = (1..200).map(|id| Change::AddUser(user(id, &format!("user{id}"))));
    store.commit(&source(), &[batch(1, users.collect())]).unwrap();
}

#[test]
fn a_damaged_file_is_refused_wherever_the_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.db");
    filled(&whole);
    let bytes = fs::read(&whole).unwrap();
    let damaged = folder.path().join("damaged.db");
    let place = DatabaseUrl::Sqlite(damaged.clone());
    let mut refused = 0;
    for at in (0..bytes.len()).step_by(509) {
        let mut bytes = bytes.clone();
        let end = bytes.len().min(at + 64);
        bytes[at..end].fill(0xa5);
        fs::write(&damaged, &bytes).unwrap();
        // Damage may be in what is not in use; whatever it is, nothing may panic or hang.
        let loaded = Store::open(&place).and_then(|mut store| store.load(0));
        match loaded {
            Ok(_) => {}
            Err(StoreError::Damaged { .. } | StoreError::NotOurs { .. }) => refused += 1,
            Err(StoreError::Away { .. } | StoreError::Newer { .. }) => refused += 1,
            Err(error) => panic!("at {at}: {error}"),
        }
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(folder.path().join(format!("damaged.db{suffix}")));
        }
    }
    assert!(refused > 10, "{refused}");
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    let cut = Store::open(&place).map(drop).unwrap_err();
    assert!(matches!(cut, StoreError::Damaged { .. }), "{cut}");
    assert!(cut.to_string().contains("put a backup in its place"), "{cut}");
}

#[test]
fn a_full_disk_is_told_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    let place = DatabaseUrl::Sqlite(folder.path().join("accounts.db"));
    let mut store = Store::open(&place).unwrap();
    // As many pages as there are: to SQLite that is a full disk.
    let Some(connection) = &mut store.connection else { panic!("it is open") };
    connection.query("PRAGMA max_page_count = 1", &[]).unwrap();
    let many = || (1..500).map(|id| Change::Audit(audit(id, id, "ann"))).collect::<Vec<_>>();
    let full = store.commit(&source(), &[batch(1, many())]).unwrap_err();
    assert!(full.to_string().contains("is full; make room"), "{full}");
    // The next connection is not bound by that.
    store.commit(&source(), &[batch(1, many())]).unwrap();
    let all = AuditQuery { about: None, since: UnixMs(0), until: UnixMs(9999), limit: 9999 };
    assert_eq!(store.audit(&all).unwrap().len(), 499);
}

#[test]
fn a_file_that_another_program_has_locked_is_waited_for_a_bounded_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.db");
    let mut store = Store::open(&DatabaseUrl::Sqlite(path.clone())).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = clock::now();
    let change = || batch(1, vec![Change::AddUsage(usage(1, 1, 1))]);
    let locked = store.commit(&source(), &[change()]).unwrap_err();
    assert!(locked.to_string().contains("another program keeps"), "{locked}");
    assert!(clock::now() - begun < 3 * crate::limits::STORE_LOCK_WITHIN);
    other.execute_batch("COMMIT").unwrap();
    store.commit(&source(), &[change()]).unwrap();
}

#[test]
fn the_file_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.db");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    filled(&path);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let store = Store::open(&DatabaseUrl::Sqlite(path.clone())).unwrap();
    for suffix in ["-wal", "-shm"] {
        let beside = folder.path().join(format!("accounts.db{suffix}"));
        assert_eq!(mode(&beside), 0o600);
    }
    drop(store);
    let nowhere = folder.path().join("no/such/folder/accounts.db");
    let error = Store::open(&DatabaseUrl::Sqlite(nowhere)).map(drop).unwrap_err();
    assert!(error.to_string().contains("make its folder first"), "{error}");
}
