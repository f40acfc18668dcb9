//! Which names were looked up, and who waits for those that are being looked up: tables without a
//! thread or a clock.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::{
    PROXY_LOOKUP_WAITERS_MAX, PROXY_LOOKUPS_WAITING_MAX, PROXY_NAME_LASTS,
    PROXY_NAME_TROUBLE_LASTS, PROXY_NAMES_MAX, PROXY_NO_NAME_LASTS,
};
use crate::proxy::target::DomainName;
use crate::sys::names::LookupError;

/// What is known of a name.
pub type Answer = Result<Arc<[IpAddr]>, LookupError>;

/// How long an answer is remembered.
fn lasts(answer: &Answer) -> Duration {
    match answer {
        Ok(_) => PROXY_NAME_LASTS,
        Err(LookupError::NotFound) => PROXY_NO_NAME_LASTS,
        Err(LookupError::Unavailable) => PROXY_NAME_TROUBLE_LASTS,
    }
}

/// The tables; `W` is who waits.
#[derive(Debug)]
pub(super) struct Cache<W> {
    known: HashMap<DomainName, (Instant, Answer)>,
    /// The known ones in the order in which they were learned, with the time they hold until.
    order: VecDeque<(Instant, DomainName)>,
    pending: HashMap<DomainName, Vec<W>>,
}

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The answer is known.
    Known(Answer),
    /// Somebody has asked already; the answer comes.
    Waiting,
    /// The answer comes once somebody has looked the name up.
    LookUp,
    /// Too many are waiting.
    Full,
}

impl<W> Default for Cache<W> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), pending: HashMap::new() }
    }
}

impl<W> Cache<W> {
    /// Asks for a name. `waiter` is only made where it has to wait.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        name: &DomainName,
        waiter: impl FnOnce() -> W,
    ) -> Asked {
        if let Some((until, answer)) = self.known.get(name)
            && now < *until
        {
            return Asked::Known(answer.clone());
        }
        if let Some(waiters) = self.pending.get_mut(name) {
            if waiters.len() >= PROXY_LOOKUP_WAITERS_MAX {
                return Asked::Full;
            }
            waiters.push(waiter());
            return Asked::Waiting;
        }
        if self.pending.len() >= PROXY_LOOKUPS_WAITING_MAX {
            return Asked::Full;
        }
        self.pending.insert(name.clone(), vec![waiter()]);
        Asked::LookUp
    }

    /// The answer is there. Returns who waits for it.
    pub(super) fn learn(&mut self, now: Instant, name: &DomainName, answer: &Answer) -> Vec<W> {
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
        self.pending.remove(name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text.as_bytes()).unwrap()
    }

    fn found(last: u8) -> Answer {
        Ok(Arc::from([IpAddr::from([192, 0, 2, last])]))
    }

    #[test]
    fn a_name_is_looked_up_once_for_all_who_ask() {
        let now = clock::now();
        let mut cache = Cache::default();
        let (here, there) = (name("here.example"), name("there.example"));
        assert_eq!(cache.ask(now, &here, || 1), Asked::LookUp);
        assert_eq!(cache.ask(now, &here, || 2), Asked::Waiting);
        assert_eq!(cache.ask(now, &there, || 3), Asked::LookUp);
        assert_eq!(cache.learn(now, &here, &found(1)), [1, 2]);
        assert_eq!(cache.ask(now, &here, || 4), Asked::Known(found(1)));
        let later = now + PROXY_NAME_LASTS;
        assert_eq!(cache.ask(later, &here, || 5), Asked::LookUp, "it has passed");
        assert_eq!(cache.learn(later, &here, &found(2)), [5]);
        assert_eq!(cache.ask(later, &here, || 6), Asked::Known(found(2)));
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
            assert_eq!(cache.ask(now, &gone, || ()), Asked::LookUp);
            cache.learn(now, &gone, &Err(error));
            let almost = now + lasts - Duration::from_millis(1);
            assert_eq!(cache.ask(almost, &gone, || ()), Asked::Known(Err(error)));
            assert_eq!(cache.ask(now + lasts, &gone, || ()), Asked::LookUp);
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let now = clock::now();
        let mut cache = Cache::default();
        for number in 0..3 * PROXY_NAMES_MAX {
            let name = name(&format!("{number}.example"));
            assert_eq!(cache.ask(now, &name, || ()), Asked::LookUp);
            cache.learn(now, &name, &found(1));
        }
        assert_eq!(cache.known.len(), PROXY_NAMES_MAX);
        assert!(cache.order.len() <= PROXY_NAMES_MAX);
        let later = now + 2 * PROXY_NAME_LASTS;
        cache.learn(later, &name("new.example"), &found(1));
        assert_eq!((cache.known.len(), cache.order.len()), (1, 1), "what has passed is gone");
        for number in 0..PROXY_LOOKUPS_WAITING_MAX {
            let name = name(&format!("{number}.waiting.example"));
            assert_eq!(cache.ask(later, &name, || ()), Asked::LookUp);
        }
        assert_eq!(cache.ask(later, &name("more.example"), || ()), Asked::Full);
        let crowded = name("0.waiting.example");
        for _ in 1..PROXY_LOOKUP_WAITERS_MAX {
            assert_eq!(cache.ask(later, &crowded, || ()), Asked::Waiting);
        }
        assert_eq!(cache.ask(later, &crowded, || ()), Asked::Full);
    }
}
