//! Which names were looked up, and who waits for those that are being looked up: tables without a
//! thread or a clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::{
    PROXY_LOOKUP_WAITERS_MAX, PROXY_NAME_LASTS, PROXY_NAME_TROUBLE_LASTS, PROXY_NAMES_MAX,
    PROXY_NO_NAME_LASTS,
};
use crate::proxy::target::DomainName;
use crate::sys::names::LookupError;

use super::turns::{Asker, Turns};

/// What is known of a name.
pub type Answer = Result<Arc<[IpAddr]>, LookupError>;

/// How long an answer is remembered.
fn lasts(answer: &Answer) -> Duration {
    match answer {
        Ok(_) => PROXY_NAME_LASTS,
        Err(LookupError::NotFound) => PROXY_NO_NAME_LASTS,
        Err(LookupError::Unavailable) => PROXY_NAME_TROUBLE_LASTS,
        // It is no answer.
        Err(LookupError::Exhausted) => Duration::ZERO,
    }
}

/// The tables; by `W` somebody who waits is told.
#[derive(Debug)]
pub(super) struct Cache<W> {
    known: HashMap<DomainName, (Instant, Answer)>,
    /// The known ones in the order in which they were learned, with the time they hold until.
    order: VecDeque<(Instant, DomainName)>,
    pending: HashMap<DomainName, Pending<W>>,
    /// Which of those comes next.
    turns: Turns,
    /// The number of the next one who waits.
    next_number: u64,
}

/// A name that somebody wants to know.
#[derive(Debug)]
struct Pending<W> {
    /// Who waits, by number.
    waiters: BTreeMap<u64, Waiter<W>>,
    /// Whether it is being looked up. If not, it waits for each of those who ask.
    is_under_way: bool,
}

#[derive(Debug)]
struct Waiter<W> {
    asker: Asker,
    until: Instant,
    tell: W,
}

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The answer is known.
    Known(Answer),
    /// The answer comes to who waits under that number.
    Waits(u64),
    /// Too many are waiting.
    Full,
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<W> {
    /// To look a name up, at the expense of an asker.
    LookUp(Asker, DomainName),
    /// To tell those that nothing comes of it: they have waited for as long as they would.
    GiveUp(Vec<W>),
}

impl<W> Default for Cache<W> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            order: VecDeque::new(),
            pending: HashMap::new(),
            turns: Turns::default(),
            next_number: 0,
        }
    }
}

impl<W> Cache<W> {
    /// What is known of a name.
    pub(super) fn known(&self, now: Instant, name: &DomainName) -> Option<Answer> {
        let (until, answer) = self.known.get(name)?;
        (now < *until).then(|| answer.clone())
    }

    /// Asks for a name, on behalf of somebody who waits until some time. How to tell it is only
    /// made where it has to wait.
    ///
    /// A name is looked up once for all who ask, and takes a place of each of them: where it took
    /// one of the first alone, whoever asks later would wait for all that the first waits for.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        name: &DomainName,
        (asker, until): (Asker, Instant),
        tell: impl FnOnce() -> W,
    ) -> Asked {
        if let Some(answer) = self.known(now, name) {
            return Asked::Known(answer);
        }
        let pending = self.pending.get(name);
        let takes_place =
            !pending.is_some_and(|it| it.is_under_way) && !self.turns.has(asker, name);
        let is_crowded = pending.is_some_and(|it| it.waiters.len() >= PROXY_LOOKUP_WAITERS_MAX);
        if is_crowded || takes_place && !self.turns.has_room(asker) {
            return Asked::Full;
        }
        let new = || Pending { waiters: BTreeMap::new(), is_under_way: false };
        let pending = self.pending.entry(name.clone()).or_insert_with(new);
        let number = self.next_number;
        self.next_number += 1;
        pending.waiters.insert(number, Waiter { asker, until, tell: tell() });
        if takes_place {
            self.turns.push(asker, name.clone());
        }
        Asked::Waits(number)
    }

    /// One who waits for a name does so no longer, if it still does. Nobody looks a name up for
    /// which nobody waits.
    pub(super) fn withdraw(&mut self, name: &DomainName, number: u64) -> Option<W> {
        let pending = self.pending.get_mut(name)?;
        let Waiter { asker, tell, .. } = pending.waiters.remove(&number)?;
        if !pending.is_under_way {
            if !pending.waiters.values().any(|waiter| waiter.asker == asker) {
                self.turns.remove(asker, name);
            }
            if pending.waiters.is_empty() {
                self.pending.remove(name);
            }
        }
        Some(tell)
    }

    /// Whether there is something to do for one more thread.
    pub(super) fn has_next(&self) -> bool {
        self.turns.has_next()
    }

    /// What there is to do next.
    pub(super) fn next(&mut self, now: Instant) -> Option<Next<W>> {
        let (asker, name) = self.turns.next()?;
        let pending = self.pending.get_mut(&name)?;
        let mut before = asker;
        for waiter in pending.waiters.values() {
            // Most are one asker's.
            if std::mem::replace(&mut before, waiter.asker) != waiter.asker {
                self.turns.remove(waiter.asker, &name);
            }
        }
        if pending.waiters.values().any(|waiter| now < waiter.until) {
            pending.is_under_way = true;
            self.turns.begin(asker);
            return Some(Next::LookUp(asker, name));
        }
        Some(Next::GiveUp(self.take_waiters(&name)))
    }

    /// The answer is there, at the expense of an asker. Returns who waits for it.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        (asker, name): (Asker, &DomainName),
        answer: &Answer,
    ) -> Vec<W> {
        let until = now + lasts(answer);
        self.known.insert(name.clone(), (until, answer.clone()));
        self.order.push_back((until, name.clone()));
        // What is first may be known anew by now, until later than noted here.
        while let Some((until, first)) = self.order.front()
            && (self.known.len() > PROXY_NAMES_MAX || now >= *until)
        {
            if self.known.get(first).is_some_and(|(current, _)| current == until) {
                self.known.remove(first);
            }
            self.order.pop_front();
        }
        self.turns.end(asker);
        self.take_waiters(name)
    }

    fn take_waiters(&mut self, name: &DomainName) -> Vec<W> {
        let waiters = self.pending.remove(name).map(|pending| pending.waiters).unwrap_or_default();
        waiters.into_values().map(|waiter| waiter.tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::model::Id;
    use crate::limits::{
        PROXY_DIAL_WITHIN, PROXY_LOOKUP_THREADS, PROXY_NAMES_WAITING_PER_ASKER_MAX,
    };
    use crate::sys::clock;

    const ADA: Asker = Asker::User(Id(1));
    const BOB: Asker = Asker::User(Id(2));

    fn name(text: &str) -> DomainName {
        DomainName::parse(text.as_bytes()).unwrap()
    }

    fn found(last: u8) -> Answer {
        Ok(Arc::from([IpAddr::from([192, 0, 2, last])]))
    }

    /// Asks as somebody who waits for as long as most do.
    fn ask<W>(
        cache: &mut Cache<W>,
        now: Instant,
        asker: Asker,
        name: &DomainName,
        tell: W,
    ) -> Asked {
        cache.ask(now, name, (asker, now + PROXY_DIAL_WITHIN), || tell)
    }

    /// Begins the next lookup, which must be that of `name`, for `asker`.
    fn begin<W: std::fmt::Debug + PartialEq>(
        cache: &mut Cache<W>,
        now: Instant,
        asker: Asker,
        name: &DomainName,
    ) {
        assert_eq!(cache.next(now), Some(Next::LookUp(asker, name.clone())));
    }

    #[test]
    fn a_name_is_looked_up_once_for_all_who_ask() {
        let now = clock::now();
        let mut cache = Cache::default();
        let (here, there) = (name("here.example"), name("there.example"));
        assert_eq!(ask(&mut cache, now, ADA, &here, 1), Asked::Waits(0));
        assert_eq!(ask(&mut cache, now, ADA, &here, 2), Asked::Waits(1));
        assert_eq!(ask(&mut cache, now, BOB, &here, 3), Asked::Waits(2));
        assert_eq!(ask(&mut cache, now, BOB, &there, 4), Asked::Waits(3));
        begin(&mut cache, now, ADA, &here);
        assert_eq!(ask(&mut cache, now, BOB, &here, 5), Asked::Waits(4), "it is under way");
        begin(&mut cache, now, BOB, &there);
        assert!(!cache.has_next() && cache.next(now).is_none());
        assert_eq!(cache.learn(now, (ADA, &here), &found(1)), [1, 2, 3, 5]);
        assert_eq!(ask(&mut cache, now, ADA, &here, 6), Asked::Known(found(1)));
        let later = now + PROXY_NAME_LASTS;
        assert!(matches!(ask(&mut cache, later, ADA, &here, 7), Asked::Waits(_)), "it has passed");
        begin(&mut cache, later, ADA, &here);
        assert_eq!(cache.learn(later, (ADA, &here), &found(2)), [7]);
        assert_eq!(ask(&mut cache, later, ADA, &here, 8), Asked::Known(found(2)));
    }

    #[test]
    fn that_a_name_is_not_there_is_remembered_for_a_shorter_time() {
        let now = clock::now();
        for (error, lasts) in [
            (LookupError::NotFound, PROXY_NO_NAME_LASTS),
            (LookupError::Unavailable, PROXY_NAME_TROUBLE_LASTS),
        ] {
            let mut cache = Cache::default();
            let gone = name("gone.example");
            assert!(matches!(ask(&mut cache, now, ADA, &gone, ()), Asked::Waits(_)));
            begin(&mut cache, now, ADA, &gone);
            cache.learn(now, (ADA, &gone), &Err(error));
            let almost = now + lasts - Duration::from_millis(1);
            assert_eq!(ask(&mut cache, almost, ADA, &gone, ()), Asked::Known(Err(error)));
            assert!(matches!(ask(&mut cache, now + lasts, ADA, &gone, ()), Asked::Waits(_)));
        }
    }

    #[test]
    fn a_name_is_nobodys_share_alone() {
        let now = clock::now();
        let mut cache = Cache::default();
        let shared = name("shared.example");
        for number in 1..PROXY_NAMES_WAITING_PER_ASKER_MAX {
            ask(&mut cache, now, ADA, &name(&format!("{number}.example")), 0);
        }
        assert!(matches!(ask(&mut cache, now, ADA, &shared, 1), Asked::Waits(_)));
        assert!(matches!(ask(&mut cache, now, BOB, &shared, 2), Asked::Waits(_)));
        // It is the last of one's, and the first of the other's.
        begin(&mut cache, now, ADA, &name("1.example"));
        begin(&mut cache, now, BOB, &shared);
        assert_eq!(cache.learn(now, (BOB, &shared), &found(1)), [1, 2]);
        // No longer does it take a place of either.
        for number in 1..=2 {
            let asked = ask(&mut cache, now, ADA, &name(&format!("{number}.more.example")), 0);
            assert!(matches!(asked, Asked::Waits(_)), "{number}");
        }
        assert_eq!(ask(&mut cache, now, ADA, &name("3.more.example"), 0), Asked::Full);
    }

    #[test]
    fn what_nobody_waits_for_is_not_looked_up() {
        let now = clock::now();
        let mut cache = Cache::default();
        let (left, shared, late) = (name("left.example"), name("shared.ex"), name("late.example"));
        ask(&mut cache, now, ADA, &left, "left");
        ask(&mut cache, now, ADA, &left, "twice");
        ask(&mut cache, now, ADA, &shared, "ada");
        ask(&mut cache, now, BOB, &shared, "bob");
        assert_eq!(cache.withdraw(&left, 0), Some("left"));
        assert_eq!(cache.withdraw(&left, 0), None, "it has gone");
        assert_eq!(cache.withdraw(&left, 1), Some("twice"));
        assert_eq!(cache.withdraw(&shared, 2), Some("ada"));
        // It is the other's alone now.
        begin(&mut cache, now, BOB, &shared);
        assert_eq!(cache.next(now), None);
        assert_eq!(cache.withdraw(&shared, 3), Some("bob"));
        assert_eq!(cache.learn(now, (BOB, &shared), &found(1)), [""; 0]);
        assert_eq!(ask(&mut cache, now, ADA, &shared, "ada"), Asked::Known(found(1)));
        // Two wait until different times; the later one counts.
        let (until, longer) = (now + PROXY_DIAL_WITHIN, now + 2 * PROXY_DIAL_WITHIN);
        cache.ask(now, &late, (ADA, until), || "ada");
        cache.ask(now, &late, (BOB, longer), || "bob");
        cache.ask(now, &left, (BOB, until), || "late");
        begin(&mut cache, until, ADA, &late);
        assert_eq!(cache.next(until), Some(Next::GiveUp(vec!["late"])));
        assert_eq!(cache.next(until), None);
        assert!(matches!(ask(&mut cache, until, BOB, &left, "again"), Asked::Waits(_)), "unknown");
        assert_eq!(cache.pending.len(), 2);
    }

    #[test]
    fn nothing_grows_without_bound() {
        let now = clock::now();
        let mut cache = Cache::default();
        for number in 0..3 * PROXY_NAMES_MAX {
            let name = name(&format!("{number}.example"));
            assert!(matches!(ask(&mut cache, now, ADA, &name, ()), Asked::Waits(_)));
            begin(&mut cache, now, ADA, &name);
            cache.learn(now, (ADA, &name), &found(1));
        }
        assert_eq!(cache.known.len(), PROXY_NAMES_MAX);
        assert!(cache.order.len() <= PROXY_NAMES_MAX);
        let (later, new) = (now + 2 * PROXY_NAME_LASTS, name("new.example"));
        ask(&mut cache, later, ADA, &new, ());
        begin(&mut cache, later, ADA, &new);
        cache.learn(later, (ADA, &new), &found(1));
        assert_eq!((cache.known.len(), cache.order.len()), (1, 1), "what has passed is gone");
        let mut asked = 0;
        while let Asked::Waits(_) =
            ask(&mut cache, later, ADA, &name(&format!("{asked}.waiting.example")), ())
        {
            asked += 1;
            cache.next(later);
        }
        assert_eq!(asked, PROXY_NAMES_WAITING_PER_ASKER_MAX + PROXY_LOOKUP_THREADS / 2);
        for number in [0, asked - 1] {
            let crowded = name(&format!("{number}.waiting.example"));
            for _ in 1..PROXY_LOOKUP_WAITERS_MAX {
                assert!(matches!(ask(&mut cache, later, ADA, &crowded, ()), Asked::Waits(_)));
            }
            assert_eq!(ask(&mut cache, later, ADA, &crowded, ()), Asked::Full);
        }
    }
}
