//! What is good once is good once at all servers together: a code or an invite is claimed in the
//! database that servers share before a login by it goes on.
//!
//! The database is asked by a thread of its own. A login waits [`CLAIM_WITHIN`] for the answer at
//! most; when there was none, the next ones do not even ask for [`CLAIM_AGAIN_AFTER`].

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::accounts::model::Id;
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::desk::DeskJob;
use crate::accounts::store::{Claimed, DatabaseUrl, OneTime, Store, StoreError};
use crate::limits::{CLAIM_AGAIN_AFTER, CLAIM_WITHIN, CLAIMS_QUEUED_MAX};

/// What is known of a login's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It was not asked for yet, or need not be.
    NotAsked,
    /// The database has answered.
    Answered(Claimed),
    /// The database is away, or slower than a login waits.
    Away,
}

/// A question to the database.
struct Question {
    number: u64,
    what: OneTime,
    until: Instant,
}

/// Logins that wait for the database: `W` is what is gone on with.
pub(super) struct Claims<W> {
    questions: Sender<Question>,
    waiting: BTreeMap<u64, (Instant, W)>,
    next_number: u64,
    /// The database has not answered; until then it is not asked.
    away_until: Option<Instant>,
}

impl<W> Claims<W> {
    /// Starts the thread that asks `database` for the server with that spool. Its answers arrive
    /// at the desk.
    ///
    /// # Errors
    /// The kernel grants no thread.
    pub(super) fn start(
        database: DatabaseUrl,
        spool: Id,
        desk: Sender<DeskJob>,
    ) -> io::Result<Self> {
        let (claims, questions) = Self::new();
        let run = move || {
            let mut store = None;
            answer(&questions, &desk, |what| {
                let store = match &mut store {
                    Some(store) => store,
                    None => store.insert(Store::open(&database)?),
                };
                store.claim(what, spool, Moment::now().unix)
            });
        };
        // Nobody waits for its end: it may be in the middle of a long silence.
        thread::Builder::new().name("accounts-claim".to_owned()).spawn(run)?;
        Ok(claims)
    }

    fn new() -> (Self, Receiver<Question>) {
        let (questions, asked) = bounded(CLAIMS_QUEUED_MAX);
        let claims = Self { questions, waiting: BTreeMap::new(), next_number: 0, away_until: None };
        (claims, asked)
    }

    /// Asks for `what`. Gives back who would wait if the database is not there to be asked.
    pub(super) fn ask(&mut self, what: OneTime, waiting: W, now: Instant) -> Result<(), W> {
        if self.away_until.is_some_and(|until| now < until) {
            return Err(waiting);
        }
        let (number, until) = (self.next_number, now + CLAIM_WITHIN);
        if self.questions.try_send(Question { number, what, until }).is_err() {
            return Err(waiting);
        }
        self.next_number += 1;
        self.waiting.insert(number, (until, waiting));
        Ok(())
    }

    /// The database has answered question `number`, or could not be asked. Who waits for that, if
    /// anybody still does.
    pub(super) fn answered(&mut self, number: u64, claim: Claim, now: Instant) -> Option<W> {
        self.away_until = (claim == Claim::Away).then(|| now + CLAIM_AGAIN_AFTER);
        self.waiting.remove(&number).map(|(_, waiting)| waiting)
    }

    /// Those who have waited for long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<W> {
        let due = self.waiting.iter().filter(|(_, (until, _))| *until <= now);
        let due: Vec<u64> = due.map(|(number, _)| *number).collect();
        let due = due.iter().filter_map(|number| self.waiting.remove(number));
        let due: Vec<W> = due.map(|(_, waiting)| waiting).collect();
        if !due.is_empty() {
            self.away_until = Some(now + CLAIM_AGAIN_AFTER);
        }
        due
    }

    /// When to call [`Self::overdue`] next.
    pub(super) fn due(&self) -> Option<Instant> {
        // They wait equally long, so the first to come is the first to go.
        self.waiting.values().next().map(|(until, _)| *until)
    }
}

/// Answers questions until nobody can ask any more. One that nobody waits for is not put: what it
/// would claim may be wanted elsewhere.
fn answer(
    questions: &Receiver<Question>,
    desk: &Sender<DeskJob>,
    mut claim: impl FnMut(&OneTime) -> Result<Claimed, StoreError>,
) {
    for Question { number, what, until } in questions {
        if Moment::now().instant >= until {
            continue;
        }
        let claim = match claim(&what) {
            Ok(claimed) => Claim::Answered(claimed),
            Err(error) => {
                log::warn!("whether a code or an invite was used elsewhere is not known: {error}");
                Claim::Away
            }
        };
        if desk.send(DeskJob::Claimed(number, claim)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;
    use crossbeam_channel::unbounded;

    const WHAT: OneTime = OneTime::Invite(Id(1));
    const OURS: Claim = Claim::Answered(Claimed::Ours);

    #[test]
    fn who_asks_hears_the_answer_once() {
        let ((mut claims, questions), now) = (Claims::new(), clock::now());
        claims.ask(WHAT, "one", now).unwrap();
        claims.ask(WHAT, "two", now).unwrap();
        let (desk, jobs) = unbounded();
        drop(std::mem::replace(&mut claims.questions, Claims::<&str>::new().0.questions));
        answer(&questions, &desk, |what| {
            assert_eq!(*what, WHAT);
            Ok(Claimed::Ours)
        });
        let heard: Vec<_> = jobs.try_iter().collect();
        let who = heard.iter().map(|job| match job {
            DeskJob::Claimed(number, OURS) => claims.answered(*number, OURS, now),
            _ => panic!("another job"),
        });
        assert_eq!(who.collect::<Vec<_>>(), [Some("one"), Some("two")]);
        assert_eq!(claims.answered(0, OURS, now), None);
        assert_eq!(claims.due(), None);
    }

    #[test]
    fn nobody_waits_for_longer_than_said_and_then_it_is_not_asked_for_a_while() {
        let ((mut claims, _questions), now) = (Claims::new(), clock::now());
        claims.ask(WHAT, "first", now).unwrap();
        let later = now + CLAIM_WITHIN / 2;
        claims.ask(WHAT, "second", later).unwrap();
        assert_eq!(claims.due(), Some(now + CLAIM_WITHIN));
        assert!(claims.overdue(later).is_empty());
        let over = now + CLAIM_WITHIN;
        assert_eq!(claims.overdue(over), ["first"]);
        assert_eq!(claims.ask(WHAT, "third", over), Err("third"), "at once");
        assert_eq!(claims.answered(0, OURS, over), None, "too late");
        claims.ask(WHAT, "fourth", over).unwrap();
        assert_eq!(claims.answered(2, Claim::Away, over), Some("fourth"));
        let soon = over + CLAIM_AGAIN_AFTER / 2;
        assert_eq!(claims.ask(WHAT, "fifth", soon), Err("fifth"));
        claims.ask(WHAT, "sixth", over + CLAIM_AGAIN_AFTER).unwrap();
    }

    #[test]
    fn a_database_that_hangs_is_asked_so_many_questions_at_most_and_no_stale_one() {
        let ((mut claims, questions), now) = (Claims::new(), clock::now());
        for number in 0..CLAIMS_QUEUED_MAX {
            claims.ask(WHAT, number, now).unwrap();
        }
        assert_eq!(claims.ask(WHAT, usize::MAX, now), Err(usize::MAX));
        drop(claims);
        let (mut stale, asked) = Claims::new();
        stale.ask(WHAT, (), now.checked_sub(CLAIM_WITHIN).unwrap()).unwrap();
        drop((stale, questions));
        let (desk, jobs) = unbounded();
        answer(&asked, &desk, |_| panic!("nobody waits for it"));
        assert_eq!(jobs.len(), 0);
    }
}
