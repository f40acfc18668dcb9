//! Looks names up on threads of their own, since the system's resolver blocks.
//!
//! A name server that does not answer holds up the names that are its own and, where somebody asks
//! for many of them, other names of that one: askers take turns ([`super::turns`]), and what nobody
//! waits for any more is not looked up.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::limits::{PROXY_LOOKUP_STACK_LEN, PROXY_LOOKUP_THREADS, PROXY_NAME_ADDRESSES_MAX};
use crate::proxy::target::DomainName;
use crate::sys::clock;
use crate::sys::names::{self, LookupError};

use super::cache::{Answer, Asked, Cache, Next};
use super::turns::Asker;

/// Tells somebody of an answer, on the thread that found it.
pub type Tell = Box<dyn FnOnce(Answer) + Send>;
/// How a name is looked up; other than by the system only in tests.
type LookUp = dyn Fn(&str) -> Result<Vec<IpAddr>, LookupError> + Send + Sync;

/// Looks names up, for every worker. Cheap to clone; the threads end when the last one is dropped.
#[derive(Clone)]
pub struct Names(Arc<Office>);

/// What becomes of a question.
#[derive(Debug)]
pub enum Reply {
    /// The answer is known.
    Known(Answer),
    /// Somebody will be told, unless this is dropped before.
    Later(Awaited),
    /// Too many names are waiting, in all or of who asks.
    Full,
}

/// An answer that somebody waits for. When this is dropped it does so no longer.
pub struct Awaited {
    shared: Arc<Shared>,
    name: DomainName,
    number: u64,
}

impl Awaited {
    /// What it is the answer to.
    pub fn name(&self) -> &DomainName {
        &self.name
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let tell = self.shared.lock().cache.withdraw(&self.name, self.number);
        // The lock is free again before whatever is dropped with it.
        drop(tell);
    }
}

/// Held by those who may ask. The threads have their own share of what they work on.
struct Office(Arc<Shared>);

impl Drop for Office {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.work.notify_all();
    }
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    /// There is something to do, or nothing ever again.
    work: Condvar,
}

#[derive(Default)]
struct Desk {
    cache: Cache<Tell>,
    /// Whether nobody can ask any more.
    is_over: bool,
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
        let office = Office(Arc::default());
        for _ in 0..PROXY_LOOKUP_THREADS {
            let (shared, look_up) = (Arc::clone(&office.0), look_up.clone());
            let thread = thread::Builder::new().name("proxy-names".to_owned());
            thread
                .stack_size(PROXY_LOOKUP_STACK_LEN)
                .spawn(move || shared.look_names_up(&*look_up))?;
        }
        Ok(Self(Arc::new(office)))
    }

    /// The addresses of `name`, if they are known.
    pub fn known(&self, now: Instant, name: &DomainName) -> Option<Answer> {
        self.0.0.lock().cache.known(now, name)
    }

    /// The addresses of `name`, if they are known. If not, an asker is told later, on another
    /// thread, or that nobody could tell if nobody has begun to look until then.
    pub fn ask(
        &self,
        now: Instant,
        name: &DomainName,
        (asker, until): (Asker, Instant),
        tell: impl FnOnce() -> Tell,
    ) -> Reply {
        let shared = &self.0.0;
        let asked = shared.lock().cache.ask(now, name, (asker, until), tell);
        match asked {
            Asked::Known(answer) => Reply::Known(answer),
            Asked::Full => Reply::Full,
            Asked::Waits(number) => {
                shared.work.notify_one();
                Reply::Later(Awaited { shared: Arc::clone(shared), name: name.clone(), number })
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each of the threads does, to the end.
    fn look_names_up(&self, look_up: &LookUp) {
        while let Some((asker, name)) = self.await_next() {
            let answer = look_up(name.as_str()).map(|mut addresses| {
                // What is forgotten here is neither judged nor dialled.
                addresses.truncate(PROXY_NAME_ADDRESSES_MAX);
                Arc::from(addresses)
            });
            let waiters = self.lock().cache.learn(clock::now(), (asker, &name), &answer);
            for tell in waiters {
                tell(answer.clone());
            }
        }
    }

    /// Waits for a name whose turn it is, unless there will be none.
    fn await_next(&self) -> Option<(Asker, DomainName)> {
        let mut desk = self.lock();
        while !desk.is_over {
            match desk.cache.next(clock::now()) {
                Some(Next::LookUp(asker, name)) => {
                    // A lookup that is over may have let more than one begin.
                    if desk.cache.has_next() {
                        self.work.notify_one();
                    }
                    return Some((asker, name));
                }
                Some(Next::GiveUp(waiters)) => {
                    drop(desk);
                    for tell in waiters {
                        tell(Err(LookupError::Unavailable));
                    }
                    desk = self.lock();
                }
                None => desk = self.work.wait(desk).unwrap_or_else(PoisonError::into_inner),
            }
        }
        None
    }
}

impl std::fmt::Debug for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Awaited").field(&self.name).finish()
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::model::Id;
    use crate::limits::{PROXY_DIAL_WITHIN, PROXY_NAMES_WAITING_PER_ASKER_MAX};
    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(30);
    const ADA: Asker = Asker::User(Id(1));
    const BOB: Asker = Asker::User(Id(2));
    /// How many lookups of one asker are under way at most.
    const SHARE: usize = PROXY_LOOKUP_THREADS / 2;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text.as_bytes()).unwrap()
    }

    type Told = (String, Answer);

    /// Names that are looked up, those that begin with "slow" no sooner than this lets go of them.
    struct Script {
        names: Names,
        /// Lookups that have begun.
        begun: Receiver<String>,
        holds: Sender<()>,
        /// Where answers go, by name, and come from.
        answers: (Sender<Told>, Receiver<Told>),
    }

    impl Script {
        fn start() -> Self {
            let (sender, begun) = unbounded();
            let (holds, held) = bounded::<()>(0);
            let names = Names::with(Arc::new(move |name: &str| {
                sender.send(name.to_owned()).unwrap();
                if name.starts_with("slow") {
                    let _ = held.recv();
                }
                Ok(vec![IpAddr::from([192, 0, 2, name.len() as u8])])
            }));
            Self { names: names.unwrap(), begun, holds, answers: unbounded() }
        }

        fn ask_until(&self, asker: Asker, text: &str, until: Instant) -> Reply {
            let (sender, told) = (self.answers.0.clone(), text.to_owned());
            self.names.ask(clock::now(), &name(text), (asker, until), || {
                Box::new(move |answer| drop(sender.send((told, answer))))
            })
        }

        /// Asks; the answer has to be awaited.
        fn ask(&self, asker: Asker, text: &str) -> Awaited {
            match self.ask_until(asker, text, clock::now() + PROXY_DIAL_WITHIN) {
                Reply::Later(awaited) => awaited,
                other => panic!("{text}: {other:?}"),
            }
        }

        /// Asks for so many names that are held.
        fn ask_slow(&self, asker: Asker, count: usize) -> Vec<Awaited> {
            let ask = |number| self.ask(asker, &format!("slow{number}.example"));
            (0..count).map(ask).collect()
        }

        fn answer(&self) -> (String, Answer) {
            self.answers.1.recv_timeout(LONG).unwrap()
        }

        /// Lets go of so many.
        fn release(&self, count: usize) {
            (0..count).for_each(|_| self.holds.send_timeout((), LONG).unwrap());
        }

        /// The next lookups that begin.
        fn begun(&self, count: usize) -> Vec<String> {
            (0..count).map(|_| self.begun.recv_timeout(LONG).unwrap()).collect()
        }
    }

    #[test]
    fn of_a_name_with_many_addresses_the_first_are_kept() {
        let many = |_: &str| Ok((0..1000_u32).map(|it| IpAddr::from(it.to_be_bytes())).collect());
        let names = Names::with(Arc::new(many)).unwrap();
        let (sender, answers) = unbounded();
        let (now, many) = (clock::now(), name("many.example"));
        let tell = move |answer| drop(sender.send(answer));
        let reply = names.ask(now, &many, (ADA, now + LONG), || Box::new(tell));
        assert!(matches!(reply, Reply::Later(_)));
        let kept = answers.recv_timeout(LONG).unwrap().unwrap();
        assert_eq!(kept.len(), PROXY_NAME_ADDRESSES_MAX);
        assert_eq!(kept[0], IpAddr::from([0, 0, 0, 0]));
    }

    #[test]
    fn a_name_that_nobody_answers_for_holds_up_no_other() {
        let script = Script::start();
        let mut held = script.ask_slow(ADA, SHARE - 1);
        held.push(script.ask(ADA, "quick.example"));
        assert_eq!(script.answer().0, "quick.example");
        let known = script.names.known(clock::now(), &name("quick.example")).unwrap().unwrap();
        assert_eq!(known[..], [IpAddr::from([192, 0, 2, 13])]);
        // With the last of its threads taken, a name waits, and is looked up when one is free.
        held.push(script.ask(ADA, "slow.example"));
        held.push(script.ask(ADA, "late.example"));
        script.begun(SHARE + 1);
        assert!(script.begun.recv_timeout(Duration::from_millis(20)).is_err());
        script.release(1);
        assert_eq!(script.begun(1), ["late.example"]);
        let told = [script.answer().0, script.answer().0];
        assert!(told.iter().any(|name| name == "late.example"), "{told:?}");
    }

    #[test]
    fn who_asks_for_names_without_end_holds_up_nobody_else() {
        let script = Script::start();
        let most = SHARE + PROXY_NAMES_WAITING_PER_ASKER_MAX;
        // Those of the first helping are under way before more wait for them.
        let mut held = script.ask_slow(ADA, SHARE);
        assert!(script.begun(SHARE).iter().all(|name| name.starts_with("slow")));
        held.extend((SHARE..most).map(|it| script.ask(ADA, &format!("slow{it}.example"))));
        let full = script.ask_until(ADA, "more.example", clock::now() + LONG);
        assert!(matches!(full, Reply::Full), "{full:?}");
        // None of hers is over, and none begins.
        for number in 0..10 {
            let text = format!("{number}.example");
            let _awaited = script.ask(BOB, &text);
            assert_eq!((script.begun(1), script.answer().0), (vec![text.clone()], text));
        }
        // The last that she waits for is the first that he does.
        let last = format!("slow{}.example", most - 1);
        let _awaited = script.ask(BOB, &last);
        assert_eq!(script.begun(1), [&last[..]]);
        // She gets what she has asked for as soon as there is an answer.
        script.release(most);
        let told: Vec<_> = script.answers.1.iter().take(most + 1).map(|(name, _)| name).collect();
        assert_eq!(told.iter().filter(|name| **name == last).count(), 2, "both are told");
    }

    #[test]
    fn a_name_is_not_looked_up_for_who_has_gone_or_has_waited_too_long() {
        let script = Script::start();
        let held = script.ask_slow(ADA, SHARE);
        script.begun(SHARE);
        drop(held);
        let gone: Vec<_> =
            (0..20).map(|it| script.ask(ADA, &format!("gone{it}.example"))).collect();
        let late = script.ask_until(ADA, "late.example", clock::now());
        assert!(matches!(late, Reply::Later(_)), "{late:?}");
        let _last = script.ask(ADA, "last.example");
        // What is under way goes on, and who comes has its answer.
        let _again = script.ask(BOB, "slow0.example");
        drop(gone);
        script.release(SHARE);
        let mut told = [script.answer(), script.answer(), script.answer()];
        told.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let [last, late, slow] = told;
        assert_eq!((&last.0[..], last.1.is_ok()), ("last.example", true));
        assert_eq!(late, ("late.example".to_owned(), Err(LookupError::Unavailable)));
        assert_eq!((&slow.0[..], slow.1.is_ok()), ("slow0.example", true));
        assert_eq!(script.begun(1), ["last.example"]);
        assert!(script.begun.is_empty());
    }

    #[test]
    fn the_threads_end_with_the_last_who_may_ask() {
        let look_up: Arc<LookUp> = Arc::new(|_: &str| Err(LookupError::NotFound));
        let names = Names::with(Arc::clone(&look_up)).unwrap();
        drop(names.clone());
        assert_eq!(Arc::strong_count(&look_up), 1 + PROXY_LOOKUP_THREADS);
        drop(names);
        let until = clock::now() + LONG;
        while Arc::strong_count(&look_up) > 1 {
            assert!(clock::now() < until, "{}", Arc::strong_count(&look_up));
            thread::yield_now();
        }
    }
}
