//! The journal on a real database, and what crashes do to it.

mod servers;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rand::SeedableRng as _;
use rand_chacha::ChaCha12Rng;

use super::*;
use crate::accounts::model::{AuditEntry, Group, UnixMs, UsageRecord, User};
use crate::accounts::store::AuditQuery;
use crate::limits::{OWED_BATCHES_MAX, SPOOL_LEN_MAX};
use crate::policy::bounds::Bounds;
use crate::sys::clock;

/// As long as the database can be told to keep what is of any time.
const FOREVER: Retention = Retention {
    audit_days: 36_525,
    sessions_days: 36_525,
    usage_days: 36_525,
    destinations_days: 36_525,
};

fn options(folder: &Path) -> JournalOptions {
    JournalOptions {
        database: DatabaseUrl::Sqlite(folder.join("accounts.db")),
        spool: folder.join("accounts.spool"),
        server: "here".parse().unwrap(),
        usage_since_day: 0,
        retention: FOREVER,
    }
}

fn open(options: &JournalOptions) -> OpenJournal {
    Journal::open(options.clone(), &mut ChaCha12Rng::seed_from_u64(7)).unwrap()
}

fn start(options: &JournalOptions) -> (Snapshot, Journal) {
    let mut opened = open(options);
    let snapshot = std::mem::take(&mut opened.snapshot);
    (snapshot, opened.start(|_| panic!("nobody else is there")).unwrap())
}

fn group(name: &str) -> Change {
    let acl = Vec::new();
    Change::PutGroup(Group { name: name.parse().unwrap(), bounds: Bounds::default(), acl })
}

fn usage(bytes: u64) -> Change {
    Change::AddUsage(UsageRecord {
        user: Id(1),
        server: "here".parse().unwrap(),
        day: 20_000,
        received_bytes: bytes,
        sent_bytes: 0,
    })
}

fn used(snapshot: &Snapshot) -> u64 {
    snapshot.usage.values().map(|usage| usage.received_bytes).sum()
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn what_was_appended_is_there_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (snapshot, journal) = start(&options);
    assert_eq!(snapshot, Snapshot::default());
    journal.append(vec![group("staff"), usage(5)]).unwrap();
    journal.commit_and_wait(vec![usage(7)], SOON).unwrap();
    assert!(matches!(
        Journal::open(options.clone(), &mut ChaCha12Rng::seed_from_u64(7)),
        Err(JournalError::Spool(SpoolError::InUse(_)))
    ));
    drop(journal);
    let snapshot = start(&options).0;
    assert_eq!(used(&snapshot), 12);
    assert!(snapshot.groups.contains_key(&"staff".parse().unwrap()));
}

/// Waits for a condition.
fn until(what: &str, probe: impl FnMut() -> bool) {
    let mut probe = probe;
    crate::lab::wait_until(SOON, what, || probe().then_some(())).unwrap();
}

mod spool_file {
    //! The spool by itself.

    use std::fs;

    use super::super::spool::{HEADER_LEN, Record, Spool, parse};
    use crate::accounts::model::Id;

    fn record(sequence: u64, content: &[u8]) -> Record {
        Record { sequence, content: content.into() }
    }

    fn records() -> Vec<Record> {
        vec![record(3, b"[]"), record(4, b"[1]"), record(9, &[b'x'; 300])]
    }

    /// The bytes of a spool with [`records`].
    fn bytes(folder: &std::path::Path) -> Vec<u8> {
        let path = folder.join("spool");
        let (mut spool, found) = Spool::open(&path, Id(5)).unwrap();
        assert_eq!(found, []);
        records().iter().for_each(|record| spool.append(record).unwrap());
        assert_eq!(spool.len(), fs::metadata(&path).unwrap().len());
        fs::read(path).unwrap()
    }

    #[test]
    fn a_spool_that_is_cut_anywhere_keeps_every_whole_record_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = bytes(folder.path());
        let path = folder.path().join("cut");
        let mut counts = std::collections::BTreeSet::new();
        for len in 0..=bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let (mut spool, found) = Spool::open(&path, Id(6)).unwrap();
            assert_eq!(found, records()[..found.len()], "cut to {len}");
            let ends = |count: usize| {
                let records = records();
                HEADER_LEN as u64 + records[..count].iter().map(Record::len).sum::<u64>()
            };
            assert!(found.is_empty() || ends(found.len()) <= len as u64);
            assert!(found.len() == 3 || ends(found.len() + 1) > len as u64, "cut to {len}");
            counts.insert(found.len());
            // What is appended after that is found, too.
            let next = record(10, b"[2]");
            spool.append(&next).unwrap();
            drop(spool);
            let (_, again) = Spool::open(&path, Id(7)).unwrap();
            assert_eq!(again[..found.len()], found);
            assert_eq!(again[found.len()..], [next]);
        }
        assert_eq!(counts.len(), 4);
    }

    #[test]
    fn a_flipped_bit_is_seen_and_what_was_lost_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = bytes(folder.path());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let found = parse(&damaged).map_or(0, |content| content.records.len());
            assert!(found < 3, "byte {at}");
        }
        let path = folder.path().join("damaged");
        let mut damaged = bytes.clone();
        damaged[HEADER_LEN + 21] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(Spool::open(&path, Id(6)).unwrap().1, []);
        let aside = fs::read(folder.path().join("damaged.damaged.1")).unwrap();
        assert_eq!(aside, damaged[HEADER_LEN..]);
        fs::write(&path, b"something else altogether").unwrap();
        assert_eq!(Spool::open(&path, Id(6)).unwrap().0.id(), Id(6));
        let aside = fs::read(folder.path().join("damaged.damaged.2")).unwrap();
        assert_eq!(aside, b"something else altogether");
    }

    #[test]
    fn records_of_another_spool_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = bytes(folder.path());
        let path = folder.path().join("other");
        drop(Spool::open(&path, Id(6)).unwrap());
        let mut other = fs::read(&path).unwrap();
        other.extend(&bytes[HEADER_LEN..]);
        assert_eq!(parse(&other).unwrap().records, []);
    }
}

/// Another program that keeps the database locked until it is dropped.
fn lock(options: &JournalOptions) -> rusqlite::Connection {
    let DatabaseUrl::Sqlite(path) = &options.database else { panic!("a file") };
    let other = rusqlite::Connection::open(path).unwrap();
    other.busy_timeout(SOON).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

#[test]
fn while_the_database_is_away_nobody_waits_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (_, journal) = start(&options);
    let other = lock(&options);
    let begun = clock::now();
    for _ in 0..100 {
        journal.append(vec![usage(1)]).unwrap();
    }
    assert!(clock::now() - begun < Duration::from_secs(1));
    let waited = journal.commit_and_wait(vec![group("late")], Duration::from_millis(20));
    assert!(matches!(waited, Err(CommitError::NotYet(_))), "{waited:?}");
    until("the journal to say so", || journal.status().away.is_some());
    assert!(journal.status().pending_batches > 100);
    drop(other);
    assert!(journal.flush(SOON));
    assert_eq!(journal.status(), JournalStatus::default());
    drop(journal);
    let snapshot = start(&options).0;
    assert_eq!(used(&snapshot), 100);
    assert!(snapshot.groups.contains_key(&"late".parse().unwrap()));
}

#[test]
fn what_is_left_at_a_stop_is_stored_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (_, journal) = start(&options);
    let other = lock(&options);
    journal.append(vec![usage(3)]).unwrap();
    let begun = clock::now();
    drop(journal);
    assert!(clock::now() - begun < 3 * JOURNAL_STOP_WITHIN);
    drop(other);
    // The writer that was left behind may still be about it: neither twice nor not at all.
    until("the spool to be free", || {
        Journal::open(options.clone(), &mut ChaCha12Rng::seed_from_u64(7)).is_ok()
    });
    assert_eq!(used(&start(&options).0), 3);
}

#[test]
fn who_waits_hears_why_it_is_refused_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (_, journal) = start(&options);
    let user = |id| Change::AddUser(User::new(Id(id), "ann".parse().unwrap(), UnixMs(0)));
    journal.commit_and_wait(vec![user(1)], SOON).unwrap();
    let refused = journal.commit_and_wait(vec![usage(100), user(2)], SOON);
    assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
    // Nobody waits for this one, so it is kept for people to look at; its neighbours are stored.
    let other = lock(&options);
    journal.append(vec![usage(1)]).unwrap();
    journal.append(vec![usage(200), user(3)]).unwrap();
    journal.append(vec![usage(2)]).unwrap();
    drop(other);
    assert!(journal.flush(SOON));
    assert_eq!(journal.status().refused_batches, 2);
    let kept = fs::read_to_string(folder.path().join("accounts.spool.refused")).unwrap();
    assert_eq!((kept.lines().count(), kept.contains("\"ann\"")), (1, true), "{kept}");
    drop(journal);
    let snapshot = start(&options).0;
    assert_eq!((used(&snapshot), snapshot.users.len()), (3, 1));
}

#[test]
fn a_full_spool_merges_then_refuses_and_keeps_usage() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (_, journal) = start(&options);
    let other = lock(&options);
    let mut total = 0;
    // Far more than fits, if it were not merged.
    for round in 0..60 {
        let changes = (0..9000).map(|user| {
            Change::AddUsage(UsageRecord {
                user: Id(user),
                server: "here".parse().unwrap(),
                day: round % 3,
                received_bytes: 1,
                sent_bytes: 0,
            })
        });
        journal.append(changes.collect()).unwrap();
        total += 9000;
    }
    assert!(fs::metadata(&options.spool).unwrap().len() <= SPOOL_LEN_MAX);
    assert_eq!(journal.status().rejected_batches, 0, "all of it was merged");
    // What cannot be merged fills it up.
    let big = |number: u32| {
        Change::Audit(AuditEntry {
            id: Id(number.into()),
            at: UnixMs(1),
            server: "here".parse().unwrap(),
            actor: String::new(),
            action: String::new(),
            subject: String::new(),
            from: None,
            outcome: String::new(),
            detail: "x".repeat(500_000),
        })
    };
    let mut kept = 0;
    let refused = loop {
        match journal.append(vec![big(kept + 1)]) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 100);
    };
    assert!(matches!(refused, AppendError::Full), "{refused}");
    assert!(journal.status().is_full);
    for _ in 0..50 {
        let batch = (0..50).map(|_| usage(1)).collect();
        journal.append(batch).unwrap();
        total += 50;
    }
    let huge = vec![big(0), big(0), big(0)];
    assert!(matches!(journal.append(huge), Err(AppendError::TooLong(_))));
    drop(other);
    assert!(journal.flush(3 * SOON));
    drop(journal);
    assert_eq!(used(&start(&options).0), total);
    let mut store = Store::open(&options.database).unwrap();
    let all = AuditQuery { about: None, since: UnixMs(0), until: UnixMs(9), limit: 999 };
    assert_eq!(store.audit(&all).unwrap().len() as u32, kept);
}

#[test]
fn usage_in_memory_goes_to_the_spool_when_the_journal_stops() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (_, journal) = start(&options);
    // Nothing of a batch that is too long is kept but its usage, in memory.
    let mut too_long = vec![group("staff"); SPOOL_RECORD_LEN_MAX / 32];
    too_long.push(usage(5));
    assert!(matches!(journal.append(too_long), Err(AppendError::TooLong(_))));
    assert_eq!(journal.status().held_usage, 1);
    drop(journal);
    assert_eq!(used(&start(&options).0), 5);
}

#[test]
fn a_revocation_needs_no_room_and_nothing_overtakes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(&folder.path().join("spool"), Id(1)).unwrap();
    let mut state = State::new(spool, Vec::new(), 0);
    while state.append(vec![group("staff"); SPOOL_RECORD_LEN_MAX / 128]).is_ok() {}
    while state.append_or_owe(vec![Change::DeleteUser(Id(7))]).unwrap() {}
    let rejected = state.status().rejected_batches;
    assert!(matches!(state.append(vec![group("s")]), Err(AppendError::Full)));
    assert_eq!(state.status().rejected_batches, rejected + 1);
    let owed = |state: &State| state.status().owed_batches;
    assert_eq!((owed(&state), state.is_drained()), (1, false));
    for _ in 1..OWED_BATCHES_MAX {
        assert!(!state.append_or_owe(vec![Change::DeleteToken(Id(7))]).unwrap());
    }
    assert!(state.append_or_owe(vec![Change::DeleteToken(Id(7))]).is_err(), "it is bounded");
    // There is room again: what was owed comes first, and in its order.
    assert!(state.status().is_full);
    state.stored(state.status().pending_batches);
    assert!(!state.status().is_full, "nothing needs to come that makes it known");
    state.append(vec![group("last")]).unwrap();
    let written: Vec<_> = state.next(OWED_BATCHES_MAX + 1);
    let content = |at: usize| String::from_utf8_lossy(&written[at].content).into_owned();
    assert_eq!(owed(&state), 0);
    assert!(content(0).contains("delete_user"), "{}", content(0));
    assert!(content(1).contains("delete_token"), "{}", content(1));
}

#[test]
fn usage_in_memory_goes_to_the_spool_when_there_is_room_while_the_journal_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(&folder.path().join("spool"), Id(1)).unwrap();
    let mut state = State::new(spool, Vec::new(), 0);
    let big = vec![group("staff"); SPOOL_RECORD_LEN_MAX / 128];
    while state.append(big.clone()).is_ok() {}
    // The spool may have room for a batch as small as this one.
    while state.status().held_usage == 0 {
        state.append(vec![usage(5)]).unwrap();
    }
    state.stop();
    assert_eq!(state.status().held_usage, 1, "there is no room yet");
    assert!(matches!(state.append(vec![group("staff")]), Err(AppendError::Stopped)));
    let pending = state.status().pending_batches;
    state.stored(pending);
    assert_eq!((state.status().held_usage, state.status().pending_batches), (0, 1));
}

/// Set for the process that is killed: the folder that it works in.
const VICTIM: &str = "CORELANE_TEST_JOURNAL_VICTIM";

/// Appends until it is killed, and tells of each batch that was kept. Not a test of itself: it is
/// the other half of the next one, in another process.
#[test]
fn victim() {
    let Some(folder) = std::env::var_os(VICTIM) else { return };
    let (_, journal) = start(&options(Path::new(&folder)));
    for number in 1_u64.. {
        let entry = Change::Audit(AuditEntry {
            id: Id(number as i64),
            at: UnixMs(number as i64),
            server: "here".parse().unwrap(),
            actor: String::new(),
            action: String::new(),
            subject: String::new(),
            from: None,
            outcome: String::new(),
            detail: String::new(),
        });
        journal.append(vec![entry, usage(1)]).unwrap();
        println!("kept {number}");
    }
}

#[test]
fn a_kill_at_any_moment_loses_nothing_and_doubles_nothing() {
    for round in 0..12_u64 {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "accounts::journal::tests::victim", "--nocapture"])
            .env(VICTIM, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |line: &str| line.strip_prefix("kept ")?.parse::<u64>().ok();
        let mut kept = 0;
        // Killed at another place each time, with the writer at whatever it is about.
        while kept < 20 + 37 * round {
            let line = lines.next().unwrap().unwrap();
            kept = number(&line).unwrap_or(kept);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let rest = lines.map_while(Result::ok);
        kept = rest.filter_map(|line| number(&line)).last().unwrap_or(kept);

        let options = options(folder.path());
        let found = used(&start(&options).0);
        let all =
            AuditQuery { about: None, since: UnixMs(0), until: UnixMs(i64::MAX), limit: u32::MAX };
        let mut store = Store::open(&options.database).unwrap();
        let mut entries =
            store.audit(&all).unwrap().iter().map(|entry| entry.id.0).collect::<Vec<_>>();
        entries.sort_unstable();
        // The one that was being kept when the kill came may be there.
        assert!(found == kept || found == kept + 1, "kept {kept}, found {found}");
        assert_eq!(entries, (1..=found as i64).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_too_old_is_deleted_when_nothing_is_to_be_stored() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let used_now =
        |options: &JournalOptions| used(&Store::open(&options.database).unwrap().load(0).unwrap());
    let (_, journal) = start(&options);
    let old = UsageRecord {
        user: Id(1),
        server: "here".parse().unwrap(),
        day: 1,
        received_bytes: 5,
        sent_bytes: 0,
    };
    journal.commit_and_wait(vec![Change::AddUsage(old)], SOON).unwrap();
    drop(journal);
    assert_eq!(used_now(&options), 5);
    let (_, journal) =
        start(&JournalOptions { retention: Retention::default(), ..options.clone() });
    until("the old usage to go", || used_now(&options) == 0);
    drop(journal);
}
