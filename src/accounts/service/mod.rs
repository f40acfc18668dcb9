//! The accounts of a running server: logins, sessions, revocation.
//!
//! [`Accounts`] is a handle. What it does for logins it does at the `desk`, a thread of its own,
//! with a few threads for passwords, and from memory. What changes goes to the journal and from
//! there to the database. Nothing here knows of sockets or TLS.

mod admit;
mod attempt;
mod audit;
pub(crate) mod calendar;
mod claims;
mod desk;
mod destinations;
mod hashers;
mod judge;
mod notices;
mod passes;
mod sessions;
mod state;
#[cfg(test)]
pub(in crate::accounts) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use thiserror::Error;

pub use crate::accounts::service::attempt::{Grant, LoginAnswer, LoginAttempt, ShownCertificate};
pub use crate::accounts::service::desk::{RenewalAnswer, refusal_of};
pub use crate::accounts::service::destinations::DestinationMoved;
pub use crate::accounts::service::notices::{Acknowledgement, Enforcement, Notice};
pub use crate::accounts::service::passes::{Pass, PassAnswer, PassAttempt, PassProof, PassTerms};

pub(in crate::accounts) use crate::accounts::service::audit::Deed;
pub(in crate::accounts) use crate::accounts::service::state::State;

use crate::accounts::addresses::{AddressPlan, Addresses, BadPlan, Holder};
use crate::accounts::book::Book;
use crate::accounts::change::Change;
use crate::accounts::credentials::backoff::Backoff;
use crate::accounts::credentials::demand::LoginPolicy;
use crate::accounts::credentials::password::{self, BadPassword, HashCost};
use crate::accounts::journal::{Journal, JournalError, JournalOptions, JournalStatus, OpenJournal};
use crate::accounts::model::{Id, SessionEnd};
use crate::accounts::names::Name;
use crate::accounts::service::audit::AuditLog;
use crate::accounts::service::calendar::{Moment, day_of, month_start};
use crate::accounts::service::claims::Claims;
use crate::accounts::service::desk::{DeskJob, ToCheck, busy};
use crate::accounts::service::destinations::Destinations;
use crate::accounts::service::hashers::Hashers;
use crate::accounts::service::state::Familiar;
use crate::accounts::store::{DatabaseUrl, Retention};
use crate::handshake::keys::PublicKey;
use crate::limits::{HASHERS_MAX, LEASE_DEFAULT, LOGINS_QUEUED_MAX};
use crate::policy::judge::Defaults;

/// What a service needs to know.
#[derive(Clone, Debug)]
pub struct AccountsOptions {
    /// The database.
    pub database: DatabaseUrl,
    /// The file in which changes wait for the database.
    pub spool: PathBuf,
    /// This server's name.
    pub server: Name,
    /// What a login has to show.
    pub policy: LoginPolicy,
    /// Which inner addresses devices get.
    pub addresses: AddressPlan,
    /// Keys that no device may have: the server's own, and those of configured peers.
    pub foreign_keys: BTreeSet<PublicKey>,
    /// How long a lease lasts.
    pub lease: Duration,
    /// What holds where no rule matches.
    pub policy_defaults: Defaults,
    /// The file of the audit log, beside the database.
    pub audit_log: Option<PathBuf>,
    /// What the hash of a password costs.
    pub hash_cost: HashCost,
    /// Threads that hash passwords.
    pub hashers: usize,
    /// How long history is kept in the database.
    pub retention: Retention,
}

impl AccountsOptions {
    /// Those of a server without pools, with everything else by default.
    pub fn new(database: DatabaseUrl, spool: PathBuf, server: Name) -> Self {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Self {
            database,
            spool,
            server,
            policy: LoginPolicy::default(),
            addresses: AddressPlan::default(),
            foreign_keys: BTreeSet::new(),
            lease: LEASE_DEFAULT,
            policy_defaults: Defaults::default(),
            audit_log: None,
            hash_cost: HashCost::DEFAULT,
            hashers: cpus.min(HASHERS_MAX),
            retention: Retention::default(),
        }
    }
}

/// Why there are no accounts.
#[derive(Debug, Error)]
pub enum AccountsError {
    /// The journal or the database.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The pools of inner addresses.
    #[error(transparent)]
    Addresses(#[from] BadPlan),
    /// The audit log.
    #[error(
        "the audit log {} cannot be opened: {error}; it must be writable for the user that runs \
         this, and its folder must be there (`audit_log_file` in [accounts])",
        path.display()
    )]
    AuditLog {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The cost of a password's hash.
    #[error(transparent)]
    Cost(#[from] BadPassword),
    /// A thread could not be started.
    #[error("a thread for logins cannot be started: {0}")]
    Thread(io::Error),
}

/// What does not change while the service runs.
#[derive(Debug)]
struct Settings {
    policy: LoginPolicy,
    lease: Duration,
    policy_defaults: Defaults,
    hash_cost: HashCost,
    /// The hash of a random password, for users that do not exist.
    nobodys_hash: String,
    database: DatabaseUrl,
}

/// What the threads share.
pub(in crate::accounts) struct Shared {
    settings: Settings,
    state: Mutex<State>,
    journal: Journal,
    hashers: Hashers<ToCheck>,
    audit: Mutex<AuditLog>,
    /// Held during an operation of an administrator: one after the other.
    operation: Mutex<()>,
}

impl Shared {
    pub(in crate::accounts) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The lock of operations.
    pub(in crate::accounts) fn operation(&self) -> &Mutex<()> {
        &self.operation
    }

    pub(in crate::accounts) fn hash_cost(&self) -> HashCost {
        self.settings.hash_cost
    }

    pub(in crate::accounts) fn policy_defaults(&self) -> Defaults {
        self.settings.policy_defaults
    }

    pub(in crate::accounts) fn database(&self) -> &DatabaseUrl {
        &self.settings.database
    }
}

/// The accounts of a server. A clone is another handle; when the last one goes, sessions end and
/// what they have moved is written.
#[derive(Clone)]
pub struct Accounts {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    jobs: Sender<DeskJob>,
    desk: Mutex<Option<JoinHandle<()>>>,
}

impl Accounts {
    /// Opens the database and begins to take logins. Sessions of this server that the database
    /// believes to last have ended when the server stopped; the devices keep their addresses.
    ///
    /// # Errors
    /// See [`AccountsError`].
    pub fn open(options: AccountsOptions) -> Result<Self, AccountsError> {
        let mut rng = rand::rng();
        let now = Moment::now();
        let nobody = password::generate(&mut rng);
        let settings = Settings {
            policy: options.policy,
            lease: options.lease,
            policy_defaults: options.policy_defaults,
            hash_cost: options.hash_cost,
            nobodys_hash: password::hash(nobody.expose(), options.hash_cost, &mut rng)?,
            database: options.database.clone(),
        };
        let audit = AuditLog::open(options.audit_log.clone()).map_err(|error| {
            AccountsError::AuditLog { path: options.audit_log.unwrap_or_default(), error }
        })?;
        let journal = JournalOptions {
            database: options.database,
            spool: options.spool,
            server: options.server.clone(),
            usage_since_day: month_start(day_of(now.unix)),
            retention: options.retention,
        };
        let opened = Journal::open(journal, &mut rng)?;
        let book = Book::new(opened.snapshot.clone());
        let addresses = Addresses::new(&options.addresses)?;
        let mut state = State {
            server: options.server,
            book,
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            passes: BTreeMap::new(),
            by_proxy: BTreeMap::new(),
            destinations: Destinations::default(),
            addresses,
            backoff: Backoff::default(),
            familiar: Familiar::default(),
            codes_used: HashMap::new(),
            foreign_keys: options.foreign_keys,
            subscribers: Vec::new(),
        };
        restore_addresses(&mut state);
        Self::start(settings, state, opened, audit, options.hashers)
    }

    fn start(
        settings: Settings,
        mut state: State,
        opened: OpenJournal,
        audit: AuditLog,
        hashers: usize,
    ) -> Result<Self, AccountsError> {
        let (jobs, at_desk) = bounded(LOGINS_QUEUED_MAX);
        let checked = jobs.clone();
        // The desk goes only when the server stops, and its clients with it.
        let check = move |to_check: ToCheck| drop(checked.send(to_check.check()));
        let hashers = Hashers::start(hashers, check).map_err(AccountsError::Thread)?;
        let claims = match settings.database.is_shared() {
            true => {
                let (database, spool) = (settings.database.clone(), opened.spool());
                let claims = Claims::start(database, spool, jobs.clone());
                Some(claims.map_err(AccountsError::Thread)?)
            }
            false => None,
        };
        let leftovers = sessions_left_over(&state, Moment::now());
        leftovers.iter().for_each(|change| state.book.apply(change));
        // News may come before there is somebody to take it.
        let taker = Arc::new(OnceLock::<Weak<Shared>>::new());
        let for_news = Arc::clone(&taker);
        let journal = opened.start(move |news| {
            if let Some(shared) = for_news.wait().upgrade() {
                shared.take_news(news);
            }
        })?;
        let shared = Arc::new(Shared {
            settings,
            state: Mutex::new(state),
            journal,
            hashers,
            audit: Mutex::new(audit),
            operation: Mutex::new(()),
        });
        let _ = taker.set(Arc::downgrade(&shared));
        shared.keep(&shared.state(), leftovers);
        let desk = Arc::clone(&shared);
        let run = move || desk::run(&desk, claims, &at_desk);
        let thread = thread::Builder::new().name("accounts-desk".to_owned()).spawn(run);
        let desk = Mutex::new(Some(thread.map_err(AccountsError::Thread)?));
        Ok(Self { inner: Arc::new(Inner { shared, jobs, desk }) })
    }

    /// Decides on a login, later and on another thread: this never waits. `answer` gets the
    /// outcome.
    pub fn login(&self, attempt: LoginAttempt, answer: LoginAnswer) {
        let job = DeskJob::Login(Box::new(attempt), answer);
        if let Err(refused) = self.inner.jobs.try_send(job)
            && let DeskJob::Login(_, answer) = refused.into_inner()
        {
            answer(Err(busy()));
        }
    }

    /// Decides whether somebody may use the proxy, later and on another thread: this never waits.
    /// `answer` gets the outcome.
    pub fn ask_for_pass(&self, attempt: PassAttempt, answer: PassAnswer) {
        let job = DeskJob::Pass(Box::new(attempt), answer);
        if let Err(refused) = self.inner.jobs.try_send(job)
            && let DeskJob::Pass(_, answer) = refused.into_inner()
        {
            answer(Err(busy()));
        }
    }

    /// Lets the lease of a session last longer; `answer` gets until when.
    pub fn renew(&self, session: Id, answer: RenewalAnswer) {
        if let Err(refused) = self.inner.jobs.try_send(DeskJob::Renew(session, answer))
            && let DeskJob::Renew(_, answer) = refused.into_inner()
        {
            answer(Err(busy()));
        }
    }

    /// Ends a session of this server, for a reason that lies with the client or the server.
    /// Subscribers are told as of any other end.
    pub fn end(&self, session: Id, end: SessionEnd) {
        // A full desk empties: it waits for nobody.
        let _ = self.inner.jobs.send(DeskJob::End(session, end));
    }

    /// Counts what a session has moved since the last time, also one that has just ended. A user
    /// who has used up a quota is sent away.
    pub fn add_usage(&self, session: Id, sent_bytes: u64, received_bytes: u64) {
        let over = {
            let mut state = self.inner.shared.state();
            state.add_usage(session, sent_bytes, received_bytes, Moment::now().unix)
        };
        if let Some(user) = over {
            let _ = self.inner.jobs.send(DeskJob::Review(user));
        }
    }

    /// Counts what a user has moved by the proxy since the last time. One who has used up a quota
    /// is sent away.
    pub fn add_proxy_usage(&self, user: Id, sent_bytes: u64, received_bytes: u64) {
        let is_over = {
            let mut state = self.inner.shared.state();
            state.add_proxy_usage(user, sent_bytes, received_bytes, Moment::now().unix)
        };
        if is_over {
            let _ = self.inner.jobs.send(DeskJob::Review(user));
        }
    }

    /// Counts what a user has moved by the proxy to and from some hosts, of what is over.
    pub fn add_proxy_destinations(&self, user: Id, moved: Vec<DestinationMoved>) {
        let now = Moment::now().unix;
        self.inner.shared.state().add_destinations(user, moved, now);
    }

    /// Notices of what changes for sessions and passes of this server from now on. A subscriber
    /// takes them without delay, since revocation waits for their acknowledgement.
    pub fn subscribe(&self) -> Receiver<Notice> {
        let (subscriber, notices) = unbounded();
        self.inner.shared.state().subscribers.push(subscriber);
        notices
    }

    /// How many sessions last at this server.
    pub fn session_count(&self) -> usize {
        self.inner.shared.state().live.len()
    }

    /// How it stands with what waits for the database.
    pub fn journal_status(&self) -> JournalStatus {
        self.inner.shared.journal.status()
    }

    pub(in crate::accounts) fn shared(&self) -> &Shared {
        &self.inner.shared
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.jobs.send(DeskJob::Stop);
        let desk = self.desk.get_mut().unwrap_or_else(PoisonError::into_inner);
        if desk.take().is_some_and(|desk| desk.join().is_err()) {
            log::error!("the thread that decides on logins has panicked");
        }
    }
}

/// The ends of sessions that were not ended when this server stopped.
fn sessions_left_over(state: &State, now: Moment) -> Vec<Change> {
    let sessions = state.book.known().sessions.values();
    let here = sessions.filter(|session| session.server == state.server);
    let end = SessionEnd::ServerStopped;
    here.map(|session| Change::EndSession { session: session.id, at: now.unix, end }).collect()
}

/// Lets devices have again what they had, and keeps what is reserved.
fn restore_addresses(state: &mut State) {
    let users: Vec<_> = state.book.known().users.values().cloned().collect();
    users.iter().for_each(|user| state.follow_reservation(user));
    let leases = state.book.known().leases.values();
    for lease in leases.filter(|lease| lease.server == state.server) {
        if let Some(device) = state.book.device(lease.device) {
            let holder = Holder { device: device.id, user: device.user };
            let away_since = Some(lease.granted);
            state.addresses.restore(holder, lease.ipv4, lease.ipv6, away_since);
        }
    }
}
