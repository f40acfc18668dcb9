//! Looks names up on threads of their own, since the system's resolver blocks.
//!
//! A name server that does not answer holds up the names that are its own, until every thread waits
//! for one of them.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::limits::{
    PROXY_LOOKUP_STACK_LEN, PROXY_LOOKUP_THREADS, PROXY_LOOKUPS_WAITING_MAX,
    PROXY_NAME_ADDRESSES_MAX,
};
use crate::proxy::target::DomainName;
use crate::sys::clock;
use crate::sys::names::{self, LookupError};

use super::cache::{Answer, Asked, Cache};

/// Who is told of an answer, on the thread that found it.
type Waiter = Box<dyn FnOnce(Answer) + Send>;
/// How a name is looked up; other than by the system only in tests.
type LookUp = dyn Fn(&str) -> Result<Vec<IpAddr>, LookupError> + Send + Sync;

/// Looks names up, for every worker. Cheap to clone; the threads end when the last one is dropped.
#[derive(Clone)]
pub struct Names {
    cache: Arc<Mutex<Cache<Waiter>>>,
    questions: Sender<DomainName>,
}

impl Names {
    /// Starts the threads, which inherit where they may run from the one that calls.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn start() -> io::Result<Self> {
        Self::with(Arc::new(names::look_up))
    }

    fn with(look_up: Arc<LookUp>) -> io::Result<Self> {
        let (questions, pending) = bounded(PROXY_LOOKUPS_WAITING_MAX);
        let cache = Arc::new(Mutex::default());
        for _ in 0..PROXY_LOOKUP_THREADS {
            let (cache, pending, look_up) = (Arc::clone(&cache), pending.clone(), look_up.clone());
            let thread = thread::Builder::new().name("proxy-names".to_owned());
            thread
                .stack_size(PROXY_LOOKUP_STACK_LEN)
                .spawn(move || work(&cache, &pending, &*look_up))?;
        }
        Ok(Self { cache, questions })
    }

    /// The addresses of `name`, if they are known. If not, `waiter` is called with them later, on
    /// another thread. Where too many wait already, that is the answer.
    pub fn ask(
        &self,
        now: Instant,
        name: &DomainName,
        waiter: impl FnOnce(Answer) + Send + 'static,
    ) -> Option<Answer> {
        let unavailable = Err(LookupError::Unavailable);
        let asked = lock(&self.cache).ask(now, name, || Box::new(waiter));
        match asked {
            Asked::Known(answer) => Some(answer),
            Asked::Waiting => None,
            Asked::Full => Some(unavailable),
            Asked::LookUp => match self.questions.try_send(name.clone()) {
                Ok(()) => None,
                // There is room for as many as the cache lets wait, so this does not happen.
                Err(_) => {
                    drop(lock(&self.cache).learn(now, name, &unavailable));
                    Some(unavailable)
                }
            },
        }
    }
}

fn work(cache: &Mutex<Cache<Waiter>>, pending: &Receiver<DomainName>, look_up: &LookUp) {
    for name in pending {
        let answer = look_up(name.as_str()).map(|mut addresses| {
            // What is forgotten here is neither judged nor dialled.
            addresses.truncate(PROXY_NAME_ADDRESSES_MAX);
            Arc::from(addresses)
        });
        let waiters = lock(cache).learn(clock::now(), &name, &answer);
        for waiter in waiters {
            waiter(answer.clone());
        }
    }
}

fn lock(cache: &Mutex<Cache<Waiter>>) -> MutexGuard<'_, Cache<Waiter>> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(30);

    fn name(text: &str) -> DomainName {
        DomainName::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn of_a_name_with_many_addresses_the_first_are_kept() {
        let many = |_: &str| Ok((0..1000_u32).map(|it| IpAddr::from(it.to_be_bytes())).collect());
        let names = Names::with(Arc::new(many)).unwrap();
        let (sender, answers) = unbounded();
        let told = move |answer| sender.send(answer).unwrap();
        assert_eq!(names.ask(clock::now(), &name("many.example"), told), None);
        let kept = answers.recv_timeout(LONG).unwrap().unwrap();
        assert_eq!(kept.len(), PROXY_NAME_ADDRESSES_MAX);
        assert_eq!(kept[0], IpAddr::from([0, 0, 0, 0]));
    }

    #[test]
    fn a_name_that_nobody_answers_for_holds_up_no_other() {
        let (release, held) = bounded::<()>(0);
        let names = Names::with(Arc::new(move |name: &str| {
            if name.starts_with("slow") {
                let _ = held.recv();
            }
            Ok(vec![IpAddr::from([192, 0, 2, name.len() as u8])])
        }))
        .unwrap();
        let (sender, answers) = unbounded();
        let ask = |text: &str| {
            let (sender, text) = (sender.clone(), text.to_owned());
            let told = text.clone();
            names.ask(clock::now(), &name(&text), move |answer| {
                sender.send((told, answer.unwrap())).unwrap();
            })
        };
        for number in 0..PROXY_LOOKUP_THREADS - 1 {
            assert_eq!(ask(&format!("slow{number}.example")), None);
        }
        for _ in 0..3 {
            assert!(ask("quick.example").is_none());
        }
        for _ in 0..3 {
            assert_eq!(answers.recv_timeout(LONG).unwrap().0, "quick.example");
        }
        let known = ask("quick.example").unwrap().unwrap();
        assert_eq!(known[..], [IpAddr::from([192, 0, 2, 13])]);
        // With the last thread taken, a name waits, and is looked up when one is free.
        assert_eq!(ask("slow.example"), None);
        assert_eq!(ask("late.example"), None);
        assert!(answers.recv_timeout(Duration::from_millis(20)).is_err());
        drop(release);
        let told: Vec<_> = answers.iter().take(PROXY_LOOKUP_THREADS + 1).collect();
        assert!(told.iter().any(|(name, _)| name == "late.example"));
    }
}
