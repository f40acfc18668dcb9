//! Whose names wait to be looked up, and whose turn it is: tables without a thread or a clock.
//!
//! Askers take turns, a name at a time, and none has more lookups under way than there are threads
//! left for the others: whoever asks for names that nobody answers for keeps half of the threads
//! busy at most, two such a third each, and so on.

use std::collections::{HashMap, VecDeque};

use crate::accounts::model::Id;
use crate::handshake::Source;
use crate::limits::{
    PROXY_LOOKUP_THREADS, PROXY_LOOKUPS_WAITING_MAX, PROXY_NAMES_WAITING_PER_ASKER_MAX,
};
use crate::proxy::target::DomainName;

/// Who wants to know a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asker {
    /// A user, by all of its connections.
    User(Id),
    /// A source whose clients do not say who they are.
    Source(Source),
    /// The gateway itself: upstream proxies have the names. They are as many as were configured, so
    /// their number is not bounded here, and what clients ask for takes no room from them.
    Gateway,
}

/// The names that wait, by who wants to know them. One that several want to know waits for each of
/// them.
#[derive(Debug)]
pub(super) struct Turns {
    shares: HashMap<Asker, Share>,
    /// Those for whom names wait, in the order in which they have their turns.
    order: VecDeque<Asker>,
    /// The names that wait, of all.
    waiting: usize,
    /// Threads that look nothing up.
    free: usize,
}

/// What an asker has.
#[derive(Debug, Default)]
struct Share {
    waiting: VecDeque<DomainName>,
    under_way: usize,
}

impl Default for Turns {
    fn default() -> Self {
        let free = PROXY_LOOKUP_THREADS;
        Self { shares: HashMap::new(), order: VecDeque::new(), waiting: 0, free }
    }
}

impl Turns {
    /// Whether another name may wait for an asker.
    pub(super) fn has_room(&self, asker: Asker) -> bool {
        let its = self.shares.get(&asker).map_or(0, |share| share.waiting.len());
        let is_bounded =
            self.waiting < PROXY_LOOKUPS_WAITING_MAX && its < PROXY_NAMES_WAITING_PER_ASKER_MAX;
        is_bounded || asker == Asker::Gateway
    }

    /// Whether a name waits for an asker.
    pub(super) fn has(&self, asker: Asker, name: &DomainName) -> bool {
        self.shares.get(&asker).is_some_and(|share| share.waiting.contains(name))
    }

    /// Has a name wait for an asker, for whom it does not yet.
    pub(super) fn push(&mut self, asker: Asker, name: DomainName) {
        let share = self.shares.entry(asker).or_default();
        if share.waiting.is_empty() {
            self.order.push_back(asker);
        }
        share.waiting.push_back(name);
        self.waiting += 1;
    }

    /// Has a name no longer wait for an asker, if it does.
    pub(super) fn remove(&mut self, asker: Asker, name: &DomainName) {
        let Some(share) = self.shares.get_mut(&asker) else { return };
        let Some(at) = share.waiting.iter().position(|waiting| waiting == name) else { return };
        share.waiting.remove(at);
        self.waiting -= 1;
        if share.waiting.is_empty() {
            self.order.retain(|waiting| *waiting != asker);
            self.tidy(asker);
        }
    }

    /// Whether somebody has its turn.
    pub(super) fn has_next(&self) -> bool {
        self.next_at().is_some()
    }

    /// The next name, and whose turn that is. It no longer waits for it.
    pub(super) fn next(&mut self) -> Option<(Asker, DomainName)> {
        let asker = self.order.remove(self.next_at()?)?;
        let share = self.shares.get_mut(&asker)?;
        let name = share.waiting.pop_front()?;
        self.waiting -= 1;
        if share.waiting.is_empty() {
            self.tidy(asker);
        } else {
            self.order.push_back(asker);
        }
        Some((asker, name))
    }

    /// Where whoever has its turn stands in the order. Those before have lookups under way, so they
    /// are fewer than threads.
    fn next_at(&self) -> Option<usize> {
        let under_way = |asker| self.shares.get(asker).map_or(0, |share| share.under_way);
        self.order.iter().position(|asker| under_way(asker) < self.free)
    }

    /// A lookup begins, at the expense of an asker.
    pub(super) fn begin(&mut self, asker: Asker) {
        self.shares.entry(asker).or_default().under_way += 1;
        self.free -= 1;
    }

    /// It is over.
    pub(super) fn end(&mut self, asker: Asker) {
        if let Some(share) = self.shares.get_mut(&asker) {
            share.under_way -= 1;
            self.free += 1;
        }
        self.tidy(asker);
    }

    /// Forgets an asker that has nothing any more.
    fn tidy(&mut self, asker: Asker) {
        let is_empty = |share: &Share| share.waiting.is_empty() && share.under_way == 0;
        if self.shares.get(&asker).is_some_and(is_empty) {
            self.shares.remove(&asker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> Asker {
        Asker::User(Id(number as i64))
    }

    fn name(text: &str) -> DomainName {
        DomainName::parse(text.as_bytes()).unwrap()
    }

    /// Has so many names wait for an asker.
    fn fill(turns: &mut Turns, asker: Asker, count: usize) {
        for number in 0..count {
            turns.push(asker, name(&format!("{number}.example")));
        }
    }

    /// Begins every lookup that has its turn; returns whose they are.
    fn begin_all(turns: &mut Turns) -> Vec<Asker> {
        let mut begun = Vec::new();
        while let Some((asker, _)) = turns.next() {
            turns.begin(asker);
            begun.push(asker);
        }
        begun
    }

    #[test]
    fn none_has_more_threads_than_are_left_for_others() {
        for flooders in 1..PROXY_LOOKUP_THREADS {
            let mut turns = Turns::default();
            (0..flooders).for_each(|it| fill(&mut turns, user(it), PROXY_LOOKUP_THREADS));
            let begun = begin_all(&mut turns);
            for flooder in 0..flooders {
                let its = begun.iter().filter(|it| **it == user(flooder)).count();
                let share = PROXY_LOOKUP_THREADS / (1 + flooders);
                assert!(share <= its && its <= share + 1, "{its} of {flooders}");
            }
            assert!(begun.len() < PROXY_LOOKUP_THREADS, "{flooders}");
            // Whoever comes has its turn at once, and without another's end.
            turns.push(user(99), name("new.example"));
            assert_eq!(turns.next(), Some((user(99), name("new.example"))), "{flooders}");
        }
    }

    #[test]
    fn with_every_thread_taken_askers_take_turns() {
        // Each has filled its share before the next one comes.
        let (askers, mut turns) = (2 * PROXY_LOOKUP_THREADS, Turns::default());
        (0..askers).for_each(|it| fill(&mut turns, user(it), PROXY_NAMES_WAITING_PER_ASKER_MAX));
        let mut under_way = VecDeque::from(begin_all(&mut turns));
        assert_eq!(under_way.len(), PROXY_LOOKUP_THREADS);
        turns.push(user(99), name("new.example"));
        // One ends after the other: before a new name its asker waits for one of each at most.
        let mut before = Vec::new();
        loop {
            turns.end(under_way.pop_front().unwrap());
            let (asker, _) = turns.next().unwrap();
            turns.begin(asker);
            under_way.push_back(asker);
            if asker == user(99) {
                break;
            }
            before.push(asker);
        }
        assert_eq!(before.len(), askers);
        assert!((0..askers).all(|it| before.contains(&user(it))), "{before:?}");
    }

    #[test]
    fn names_of_one_come_in_order_and_some_are_taken_back() {
        let mut turns = Turns::default();
        fill(&mut turns, user(1), 4);
        assert!(turns.has(user(1), &name("2.example")) && !turns.has(user(2), &name("2.example")));
        turns.remove(user(1), &name("0.example"));
        turns.remove(user(1), &name("2.example"));
        turns.remove(user(1), &name("2.example"));
        turns.remove(user(2), &name("1.example"));
        assert_eq!(turns.next(), Some((user(1), name("1.example"))));
        assert!(turns.has_next());
        turns.remove(user(1), &name("3.example"));
        assert_eq!((turns.has_next(), turns.next()), (false, None));
        assert!(turns.shares.is_empty() && turns.order.is_empty() && turns.waiting == 0);
        turns.begin(user(1));
        turns.end(user(1));
        assert!(turns.shares.is_empty() && turns.free == PROXY_LOOKUP_THREADS);
    }

    #[test]
    fn a_share_and_all_of_them_are_bounded_but_for_the_gateway() {
        let mut turns = Turns::default();
        for asker in (0..).map(user) {
            if !turns.has_room(asker) {
                break;
            }
            fill(&mut turns, asker, PROXY_NAMES_WAITING_PER_ASKER_MAX);
            assert!(!turns.has_room(asker));
        }
        assert_eq!(turns.waiting, PROXY_LOOKUPS_WAITING_MAX);
        assert!(turns.has_room(Asker::Gateway));
        fill(&mut turns, Asker::Gateway, 2 * PROXY_NAMES_WAITING_PER_ASKER_MAX);
        assert!(turns.has_room(Asker::Gateway));
    }
}
