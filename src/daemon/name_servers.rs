//! The name servers of a client, from the moment its tunnel is there to its end.
//!
//! Setting them up may mean to run a program that takes seconds, so a thread of its own does it:
//! whoever wants something leaves word, the last word counts, and nobody waits but at the start and
//! the end of the tunnel. Files are quickly written, and for that long a caller waits who wants to
//! know what came of it.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::daemon::DaemonError;
use crate::host::resolver::{DnsMode, DnsRequest, RESOLV_CONF, Resolver, ResolverError};
use crate::limits::NAME_SERVERS_PATIENCE;
use crate::sys::clock;
use crate::sys::inotify::FileWatch;

/// What the host asks, as the configuration or a lease wants it.
pub(super) struct NameServers {
    desk: Arc<Desk>,
    mode: DnsMode,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where word is left.
struct Desk {
    slip: Mutex<Slip>,
    changed: Condvar,
}

/// What is wanted, and what came of it.
#[derive(Default)]
struct Slip {
    /// To be set up.
    wanted: Option<DnsRequest>,
    /// To be looked at.
    repair: bool,
    /// Before this, what is wanted waits.
    is_open: bool,
    /// Everything is to be set back, and the thread to end.
    stop: bool,
    /// How often somebody has wanted something, and how much of that is done.
    asked: u64,
    done: u64,
    /// What came of what was done last: how much was put back.
    outcome: Option<Result<usize, ResolverError>>,
    /// How many wait to be told.
    waiting: usize,
}

impl Desk {
    fn slip(&self) -> MutexGuard<'_, Slip> {
        self.slip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Slip)) {
        let mut slip = self.slip();
        change(&mut slip);
        slip.asked += 1;
        drop(slip);
        self.changed.notify_all();
    }

    /// What came of what has been wanted so far; `None` if that takes longer than until `due`.
    fn await_outcome(&self, due: Option<Instant>) -> Option<Result<usize, ResolverError>> {
        let mut slip = self.slip();
        let asked = slip.asked;
        slip.waiting += 1;
        while slip.done < asked {
            let left = due.map(|due| due.saturating_duration_since(clock::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            let left = left.unwrap_or(Duration::from_secs(60));
            let waited = self.changed.wait_timeout(slip, left);
            slip = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        slip.waiting -= 1;
        if slip.done < asked { None } else { slip.outcome.take() }
    }
}

impl NameServers {
    /// Nothing is set up yet; what a run that was killed has left behind is undone.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(super) fn start(
        tun: &str,
        mode: DnsMode,
        wanted: DnsRequest,
    ) -> Result<Arc<Self>, DaemonError> {
        if let Err(error) = Resolver::remove_leftovers(tun) {
            log::warn!("name servers of an earlier run may be left: {error}");
        }
        let slip = Slip { wanted: Some(wanted), ..Slip::default() };
        let desk = Arc::new(Desk { slip: Mutex::new(slip), changed: Condvar::new() });
        let keeper = Keeper { tun: tun.to_owned(), mode, applied: None, resolver: None };
        let desk_of_thread = Arc::clone(&desk);
        let thread = thread::Builder::new().name("name-servers".to_owned());
        let thread = thread
            .spawn(move || keeper.run(&desk_of_thread))
            .map_err(DaemonError::io("starting the thread of the name servers"))?;
        Ok(Arc::new(Self { desk, mode, thread: Mutex::new(Some(thread)) }))
    }

    /// Sets them up, and waits for that; the tunnel leads to them by now. Where the host knows no
    /// way and none was insisted on, it asks whom it asked before.
    pub(super) fn install(&self) -> Result<(), DaemonError> {
        self.desk.change(|slip| slip.is_open = true);
        match self.desk.await_outcome(None) {
            Some(Err(error)) if self.mode == DnsMode::Auto => {
                log::error!("this host goes on asking its own name servers: {error}");
                Ok(())
            }
            Some(Err(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Has these set up instead of those before. Nobody waits for it; the log tells if it fails.
    pub(super) fn want(&self, request: DnsRequest) {
        self.desk.change(|slip| slip.wanted = Some(request));
    }

    /// The same for somebody who wants to know what came of it, if that is soon.
    pub(super) fn set(&self, request: DnsRequest) -> Result<(), String> {
        self.want(request);
        self.soon().map(drop)
    }

    /// Has them set up again if another program has changed them. Returns how much that was, if it
    /// was soon done.
    pub(super) fn repair(&self) -> Result<usize, String> {
        self.desk.change(|slip| slip.repair = true);
        self.soon()
    }

    fn soon(&self) -> Result<usize, String> {
        let outcome = self.desk.await_outcome(Some(clock::now() + NAME_SERVERS_PATIENCE));
        outcome.unwrap_or(Ok(0)).map_err(|error| error.to_string())
    }

    /// Sets everything back, and waits for that.
    pub(super) fn remove(&self) {
        self.desk.change(|slip| slip.stop = true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic has been told.
            let _ = thread.join();
        }
    }
}

impl Drop for NameServers {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The thread.
struct Keeper {
    tun: String,
    mode: DnsMode,
    /// What is set up, as far as that went well.
    applied: Option<DnsRequest>,
    resolver: Option<Resolver>,
}

impl Keeper {
    fn run(mut self, desk: &Desk) {
        loop {
            let mut slip = desk.slip();
            while !slip.stop && (!slip.is_open || slip.done == slip.asked) {
                slip = desk.changed.wait(slip).unwrap_or_else(PoisonError::into_inner);
            }
            if slip.stop {
                break;
            }
            let asked = slip.asked;
            let (wanted, repair) = (slip.wanted.take(), std::mem::take(&mut slip.repair));
            drop(slip);
            let mut outcome = wanted.map_or(Ok(0), |wanted| self.set(wanted).map(|()| 0));
            if outcome.is_ok() && repair {
                outcome = self.repair();
            }
            let mut slip = desk.slip();
            if let (Err(error), 0) = (&outcome, slip.waiting) {
                log::error!("name servers are not as they should be: {error}");
            }
            (slip.done, slip.outcome) = (asked, Some(outcome));
            drop(slip);
            desk.changed.notify_all();
        }
        if let Some(resolver) = self.resolver.take()
            && let Err(error) = resolver.remove()
        {
            log::error!("{error}; the next start mends that");
        }
        let mut slip = desk.slip();
        slip.done = slip.asked;
        drop(slip);
        desk.changed.notify_all();
    }

    fn set(&mut self, wanted: DnsRequest) -> Result<(), ResolverError> {
        // A lease that is renewed says the same again and again.
        if self.applied.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.applied = None;
        match self.resolver.take() {
            Some(resolver) if wanted.is_empty() => resolver.remove()?,
            Some(mut resolver) => {
                let updated = resolver.update(&wanted);
                self.resolver = Some(resolver);
                updated?;
            }
            None => self.resolver = Resolver::install(&self.tun, self.mode, &wanted)?,
        }
        self.applied = Some(wanted);
        Ok(())
    }

    fn repair(&mut self) -> Result<usize, ResolverError> {
        self.resolver.as_mut().map_or(Ok(false), Resolver::repair).map(usize::from)
    }
}

/// Hears when another program writes the file of name servers, wherever that is.
pub(super) fn watch_file() -> Option<FileWatch> {
    let file = Path::new(RESOLV_CONF);
    let watched = FileWatch::open().and_then(|watch| {
        file.parent().map_or(Ok(()), |directory| watch.watch(directory))?;
        if file.exists() {
            watch.watch(file)?;
        }
        Ok(watch)
    });
    let told = |error: &std::io::Error| {
        log::warn!("nobody tells when another program changes {RESOLV_CONF}: {error}");
    };
    watched.inspect_err(told).ok()
}
