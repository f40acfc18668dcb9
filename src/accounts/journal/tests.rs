//! The journal on a real database, and what crashes do to it.

use rand::SeedableRng as _;
use rand_chacha::ChaCha12Rng;

use super::*;
use crate::accounts::model::{Group, UsageRecord};
use crate::policy::bounds::Bounds;

fn options(folder: &std::path::Path) -> JournalOptions {
    JournalOptions {
        database: DatabaseUrl::Sqlite(folder.join("accounts.db")),
        spool: folder.join("accounts.spool"),
        server: "here".parse().unwrap(),
        usage_since_day: 0,
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
