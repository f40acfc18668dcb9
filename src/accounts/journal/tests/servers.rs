//! Two servers on one PostgreSQL, which is stopped, halted and emptied under them.

use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::accounts::store::testing::postgres_database;
use crate::lab::Postgres;

/// A server, and what it hears of others.
fn server(folder: &Path, name: &str, database: &DatabaseUrl) -> (Journal, Receiver<News>) {
    let options = JournalOptions {
        database: database.clone(),
        spool: folder.join(format!("{name}.spool")),
        server: name.parse().unwrap(),
        usage_since_day: 0,
        retention: FOREVER,
    };
    let mut rng = ChaCha12Rng::from_os_rng();
    let (news, heard) = channel();
    let opened = Journal::open(options, &mut rng).unwrap();
    let journal = opened.start(move |foreign| drop(news.send(foreign.settle()))).unwrap();
    (journal, heard)
}

#[test]
fn what_one_server_changes_the_other_hears_soon_and_itself_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database();
    let (here, heard_here) = server(folder.path(), "here", &database);
    let (there, heard_there) = server(folder.path(), "there", &database);
    // Both listen once each has heard something.
    here.commit_and_wait(vec![group("first")], SOON).unwrap();
    assert_eq!(heard_there.recv_timeout(SOON).unwrap(), News::Changes(vec![group("first")]));
    there.commit_and_wait(vec![group("second")], SOON).unwrap();
    assert_eq!(heard_here.recv_timeout(SOON).unwrap(), News::Changes(vec![group("second")]));
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let begun = clock::now();
        here.append(vec![group("again")]).unwrap();
        assert_eq!(heard_there.recv_timeout(SOON).unwrap(), News::Changes(vec![group("again")]));
        slowest = slowest.max(clock::now() - begun);
    }
    println!("slowest: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(heard_here.try_recv().is_err(), "nobody hears itself");
}

#[test]
fn a_server_that_is_stopped_or_halted_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::start().unwrap();
    let database = postgres.database("accounts").unwrap().parse().unwrap();
    let (here, _heard_here) = server(folder.path(), "here", &database);
    let (there, heard_there) = server(folder.path(), "there", &database);
    here.commit_and_wait(vec![usage(1)], SOON).unwrap();
    assert_eq!(heard_there.recv_timeout(SOON).unwrap(), News::Changes(vec![usage(1)]));

    for crash in [false, true] {
        if crash {
            postgres.crash().unwrap();
        } else {
            postgres.stop().unwrap();
        }
        let begun = clock::now();
        for _ in 0..50 {
            here.append(vec![usage(10)]).unwrap();
        }
        assert!(clock::now() - begun < Duration::from_secs(1), "nobody waits");
        until("the journal to say so", || here.status().away.is_some());
        postgres.run().unwrap();
        assert!(here.flush(SOON));
        assert_eq!(here.status().away, None);
        let mut heard = 0;
        while heard < 50 {
            match heard_there.recv_timeout(SOON).unwrap() {
                News::Changes(changes) => heard += changes.len(),
                News::Reloaded(_) => panic!("nothing was missed"),
            }
        }
        assert_eq!(heard, 50);
    }
    // Halted, it takes connections and says nothing.
    postgres.pause().unwrap();
    let waited = here.commit_and_wait(vec![usage(100)], Duration::from_millis(200));
    assert!(matches!(waited, Err(CommitError::NotYet(_))), "{waited:?}");
    let begun = clock::now();
    assert!(Store::open(&database).is_err());
    assert!(clock::now() - begun < Duration::from_secs(8), "a bounded time");
    postgres.resume().unwrap();
    assert!(here.flush(SOON));
    drop((here, there));
    let snapshot = Store::open(&database).unwrap().load(0).unwrap();
    assert_eq!(used(&snapshot), 1 + 2 * 50 * 10 + 100);
}

#[test]
fn who_has_missed_too_much_reads_everything_anew() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.database("accounts").unwrap().parse().unwrap();
    let (here, _heard_here) = server(folder.path(), "here", &database);
    let (there, heard_there) = server(folder.path(), "there", &database);
    here.commit_and_wait(vec![group("first")], SOON).unwrap();
    heard_there.recv_timeout(SOON).unwrap();
    // As if that had been long ago: the log goes on far behind what was heard.
    let statement = "UPDATE corelane.change_log SET position = position + 1000";
    postgres.query("accounts", statement).unwrap();
    there.append(vec![group("own")]).unwrap();
    here.commit_and_wait(vec![group("second")], SOON).unwrap();
    let News::Reloaded(snapshot) = heard_there.recv_timeout(SOON).unwrap() else {
        panic!("that cannot be told by changes");
    };
    for name in ["first", "own"] {
        assert!(snapshot.groups.contains_key(&name.parse().unwrap()), "{name}");
    }
}
