//! The threads that hash passwords. They stand back for those that move packets: by their nice
//! value and, because that keeps no hash out of the caches, by resting while others are busy.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::limits::{
    HASHERS_HOLD_BACK_ABOVE, HASHERS_NICE, HASHERS_REST_MAX, HASHERS_REST_TIMES, HASHERS_WATCH,
    HASHES_QUEUED_MAX,
};
use crate::sys::{clock, process};

/// A bounded number of threads with a bounded queue of jobs, all of one kind.
#[derive(Debug)]
pub(super) struct Hashers<J> {
    /// The queue, and what keeps the threads resting between jobs.
    open: Option<(Sender<J>, Sender<()>)>,
    threads: Vec<JoinHandle<()>>,
}

impl<J: Send + 'static> Hashers<J> {
    /// Starts `count` threads that do `work`.
    ///
    /// # Errors
    /// The kernel grants no thread.
    pub(super) fn start(
        count: usize,
        work: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = bounded(HASHES_QUEUED_MAX);
        let (open, closed) = bounded(0);
        let restraint = Arc::new(Mutex::new(Restraint::new(clock::now(), process_time())));
        let work = Arc::new(work);
        let start = |number| {
            let jobs: Receiver<J> = jobs.clone();
            let (work, restraint) = (Arc::clone(&work), Arc::clone(&restraint));
            let closed: Receiver<()> = closed.clone();
            let run = move || {
                if let Err(error) = process::stand_back(HASHERS_NICE) {
                    log::warn!("passwords may cost other work some speed: {error}");
                }
                for job in jobs {
                    let (began, own) = (clock::now(), thread_time());
                    work(job);
                    let (now, own) = (clock::now(), thread_time().saturating_sub(own));
                    let mut restraint = restraint.lock().unwrap_or_else(PoisonError::into_inner);
                    let rest = restraint.rest_after(now - began, own, now, process_time());
                    drop(restraint);
                    // Nothing is ever sent: it ends early when no more is to be done.
                    let _ = closed.recv_timeout(rest);
                }
            };
            thread::Builder::new().name(format!("hasher{number}")).spawn(run)
        };
        let threads = (0..count.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { open: Some((queue, open)), threads })
    }

    /// Has a job done soon, or gives it back if too many wait already.
    pub(super) fn submit(&self, job: J) -> Result<(), J> {
        match &self.open {
            Some((queue, _)) => queue.try_send(job).map_err(|refused| refused.into_inner()),
            None => Err(job),
        }
    }
}

impl<J> Drop for Hashers<J> {
    /// Waits for what was submitted.
    fn drop(&mut self) {
        self.open = None;
        for thread in self.threads.drain(..) {
            // One that has panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

/// Linux has both clocks; a time that stood still would mean no rest.
fn process_time() -> Duration {
    process::cpu_time(std::process::id()).unwrap_or_default()
}

fn thread_time() -> Duration {
    process::thread_cpu_time().unwrap_or_default()
}

/// Judges whether hashing holds back. A sans-IO machine: the CPU times are passed in.
#[derive(Debug)]
struct Restraint {
    since: Instant,
    /// CPU time of the whole process at that time.
    process: Duration,
    /// CPU time of hashes since then.
    hashing: Duration,
    others_are_busy: bool,
}

impl Restraint {
    fn new(now: Instant, process: Duration) -> Self {
        Self { since: now, process, hashing: Duration::ZERO, others_are_busy: false }
    }

    /// How long the thread of a hash rests that `took` so long and used `own` of the CPU, of the
    /// `process` time that the process has used until `now`.
    fn rest_after(
        &mut self,
        took: Duration,
        own: Duration,
        now: Instant,
        process: Duration,
    ) -> Duration {
        self.hashing += own;
        let watched = now.saturating_duration_since(self.since);
        if watched >= HASHERS_WATCH {
            let others = process.saturating_sub(self.process).saturating_sub(self.hashing);
            let others_are_busy = others > watched.mul_f64(HASHERS_HOLD_BACK_ABOVE);
            *self = Self { others_are_busy, ..Self::new(now, process) };
        }
        if self.others_are_busy {
            (took * HASHERS_REST_TIMES).min(HASHERS_REST_MAX)
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_and_too_much_of_it_is_given_back() {
        let (release, held) = bounded::<()>(0);
        let (begun, has_begun) = bounded(HASHES_QUEUED_MAX + 2);
        let hashers = Hashers::start(1, move |number: usize| {
            begun.send(number).unwrap();
            let _ = held.recv();
        })
        .unwrap();
        hashers.submit(0).unwrap();
        assert_eq!(has_begun.recv(), Ok(0));
        for number in 1..=HASHES_QUEUED_MAX {
            hashers.submit(number).unwrap();
        }
        assert_eq!(hashers.submit(usize::MAX), Err(usize::MAX));
        drop(release);
        drop(hashers);
        assert_eq!(has_begun.len(), HASHES_QUEUED_MAX);
    }

    #[test]
    fn hashing_rests_while_others_are_busy_and_only_then() {
        let ms = Duration::from_millis;
        let start = clock::now();
        let mut restraint = Restraint::new(start, ms(1000));
        // Two threads hash all the time for 200 ms, and nobody else does anything.
        let mut process = ms(1000);
        for round in 1..=10 {
            process += ms(40);
            for _ in 0..2 {
                let rest = restraint.rest_after(ms(20), ms(20), start + ms(20 * round), process);
                assert_eq!(rest, ms(0), "round {round}");
            }
        }
        // Now others have most of a CPU as well.
        let began = start + ms(200);
        let mut rests = Vec::new();
        for round in 1..=10 {
            process += ms(40 + 16);
            for _ in 0..2 {
                let now = began + ms(20 * round);
                rests.push(restraint.rest_after(ms(20), ms(20), now, process));
            }
        }
        assert_eq!(rests.first(), Some(&ms(0)));
        assert_eq!(rests.last(), Some(&(ms(20) * HASHERS_REST_TIMES)));
        // A hash that took long does not have its thread rest for ever.
        let long = restraint.rest_after(ms(900), ms(20), began + ms(201), process);
        assert_eq!(long, HASHERS_REST_MAX);
        // The others have come to rest.
        let quiet = began + ms(1000);
        assert_eq!(restraint.rest_after(ms(20), ms(20), quiet, process + ms(20)), ms(0));
    }
}
