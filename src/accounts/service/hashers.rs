//! The threads that hash passwords. They stand back for those that move packets.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::limits::{HASHERS_NICE, HASHES_QUEUED_MAX};
use crate::sys::process;

/// A bounded number of threads with a bounded queue of jobs, all of one kind.
#[derive(Debug)]
pub(super) struct Hashers<J> {
    queue: Option<Sender<J>>,
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
        let work = Arc::new(work);
        let start = |number| {
            let (jobs, work): (Receiver<J>, _) = (jobs.clone(), Arc::clone(&work));
            let run = move || {
                if let Err(error) = process::stand_back(HASHERS_NICE) {
                    log::warn!("passwords may cost other work some speed: {error}");
                }
                jobs.iter().for_each(|job| work(job));
            };
            thread::Builder::new().name(format!("hasher{number}")).spawn(run)
        };
        let threads = (0..count.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { queue: Some(queue), threads })
    }

    /// Has a job done soon, or gives it back if too many wait already.
    pub(super) fn submit(&self, job: J) -> Result<(), J> {
        match &self.queue {
            Some(queue) => queue.try_send(job).map_err(|refused| refused.into_inner()),
            None => Err(job),
        }
    }
}

impl<J> Drop for Hashers<J> {
    /// Waits for what was submitted.
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // One that has panicked has nothing more to say.
            let _ = thread.join();
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
}
