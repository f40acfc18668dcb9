//! Very many sessions that end at once.

use std::time::Duration;

use crate::accounts::change::Change;
use crate::accounts::model::{Id, SessionEnd, SessionRecord};
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::state::Live;
use crate::accounts::service::testing::{Rig, by_password};
use crate::accounts::store::Store;

/// More than one batch may tell of, be it only that they have ended.
const CROWD: i64 = 20_000;
const SOON: Duration = Duration::from_secs(120);

/// One user's sessions, as the database knows them: their records, after one that was logged in.
fn crowd(rig: &Rig) -> (Id, Vec<SessionRecord>) {
    rig.add("alice");
    let logged_in = rig.login(by_password("alice", 1)).unwrap().session;
    let shared = rig.accounts.shared();
    let mut state = shared.state();
    let first = state.book.session(logged_in).unwrap().clone();
    let record = |number| SessionRecord { id: Id(i64::MAX - number), ..first.clone() };
    let records: Vec<SessionRecord> = (1..=CROWD).map(record).collect();
    for some in records.chunks(500) {
        let changes: Vec<Change> = some.iter().cloned().map(Change::StartSession).collect();
        changes.iter().for_each(|change| state.book.apply(change));
        shared.journal().append(changes).unwrap();
    }
    drop(state);
    assert!(shared.journal().flush(SOON));
    (logged_in, records)
}

/// How many sessions last, and the bytes that were received, as the database says.
fn stored(rig: &Rig) -> (usize, u64) {
    assert!(rig.accounts.shared().journal().flush(SOON));
    let mut store = Store::open(rig.accounts.shared().database()).unwrap();
    let known = store.load(0).unwrap();
    (known.sessions.len(), known.usage.values().map(|usage| usage.received_bytes).sum())
}

#[test]
fn the_database_hears_of_every_one_and_of_what_it_has_moved() {
    let rig = Rig::new();
    let (logged_in, records) = crowd(&rig);
    let shared = rig.accounts.shared();
    let mut state = shared.state();
    let live = state.live.get(&logged_in).unwrap().clone();
    for record in &records {
        let live = Live { received_bytes: 1, unwritten: (1, 0), ..live.clone() };
        state.live.insert(record.id, live);
    }
    drop(state);
    assert_eq!(stored(&rig), (CROWD as usize + 1, 0));
    shared.end_sessions(Moment::now(), |state| {
        state.live.keys().map(|session| (*session, SessionEnd::Expired)).collect()
    });
    assert_eq!(rig.accounts.session_count(), 0);
    assert_eq!(stored(&rig), (0, CROWD as u64));
}

#[test]
fn those_that_a_crash_has_left_over_have_ended_after_the_next_start() {
    let rig = Rig::new();
    crowd(&rig);
    // No session of the crowd is live here, so stopping ends none of them, as in a crash.
    assert_eq!(stored(&rig.reopened()), (0, 0));
}
