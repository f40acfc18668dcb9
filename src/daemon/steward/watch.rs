//! The thread of the steward.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::config::HostPort;
use crate::control::runtime::ControlHandle;
use crate::daemon::DaemonError;
use crate::daemon::agreement::Agreement;
use crate::daemon::carriage::CarriageHandle;
use crate::daemon::lease::Lease;
use crate::limits::{RELOGIN_PAUSE_MAX, STEWARD_ENDS_WITHIN};
use crate::login::client::{ChannelError, News};
use crate::login::message::{LeaseTerms, RefusalCode};
use crate::sys::clock;

use super::heart::{self, Beat, Heart};
use super::outlook::{self, Outlook};
use super::ways::Ways;
use super::{Holdings, Login, LoginError, Steward, Tenancy, choice, lock};

const WAKER: Token = Token(0);
const CHANNEL: Token = Token(1);
const WAYS: Token = Token(2);

/// The running thread.
pub(in super::super) struct Watch {
    /// Dropped to stop it.
    stop: Option<Sender<()>>,
    doubt: Arc<AtomicBool>,
    waker: Waker,
    /// Says how the thread has ended.
    ended: Receiver<Option<LoginError>>,
}

impl Watch {
    /// Starts it. It has the control thread stop when there is no hope of a lease any more.
    pub(in super::super) fn start(
        steward: Steward,
        login: Login,
        (tenancy, holdings): (Arc<Mutex<Tenancy>>, Holdings),
        control: ControlHandle,
        carriage: Option<CarriageHandle>,
    ) -> Result<Self, DaemonError> {
        let mut ways = Ways::open(steward.servers.mark())?;
        ways.watch(&lock(&tenancy).outside());
        let start = |error| DaemonError::io("starting the steward of the lease")(error);
        let poll = Poll::new().map_err(start)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(start)?;
        ways.register(poll.registry(), WAYS).map_err(start)?;
        let (sender, stop) = bounded(0);
        let doubt = Arc::new(AtomicBool::new(false));
        let doubt_of_thread = Arc::clone(&doubt);
        let mut rounds = Rounds {
            steward,
            tenancy,
            holdings,
            control,
            carriage,
            poll,
            ways,
            stop,
            doubt: doubt_of_thread,
        };
        rounds.show_way_in(&login);
        let (end, ended) = bounded(1);
        let thread = thread::Builder::new().name("steward".to_owned());
        // If nobody hears how it ended, nobody wants to know.
        let work = move || drop(end.send(rounds.run(login)));
        thread.spawn(work).map_err(start)?;
        Ok(Self { stop: Some(sender), doubt, waker, ended })
    }

    /// Something suggests that the server is out of reach: it is asked at once.
    pub(in super::super) fn doubt(&self) {
        self.doubt.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Gives the lease back, without waiting until that is done.
    pub(in super::super) fn stop(&mut self) {
        self.stop = None;
        self.wake();
    }

    /// Waits for the end, but not for a server that takes long to say something; why the thread
    /// has had the control thread stop, if it has.
    pub(in super::super) fn join(mut self) -> Option<LoginError> {
        self.stop();
        self.ended.recv_timeout(STEWARD_ENDS_WITHIN).ok().flatten()
    }

    fn wake(&self) {
        // The thread looks again soon anyway.
        let _ = self.waker.wake();
    }
}

/// Why a client is not logged in any more.
enum Gone {
    /// This side stops.
    Asked,
    /// Nobody knows; the lease may still last.
    Lost(String),
    /// The server has said so.
    Ended { code: RefusalCode, message: String },
}

impl From<ChannelError> for Gone {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Ended { code, message } => Self::Ended { code, message },
            other => Self::Lost(other.to_string()),
        }
    }
}

struct Rounds {
    steward: Steward,
    tenancy: Arc<Mutex<Tenancy>>,
    holdings: Holdings,
    control: ControlHandle,
    carriage: Option<CarriageHandle>,
    poll: Poll,
    ways: Ways,
    stop: Receiver<()>,
    doubt: Arc<AtomicBool>,
}

impl Rounds {
    /// Until it is asked to stop, or there is no hope, which it then returns.
    fn run(&mut self, first: Login) -> Option<LoginError> {
        let mut login = first;
        let mut tries = 0;
        loop {
            let began = clock::now();
            let reason = match self.stay(&mut login) {
                Gone::Asked => return None,
                Gone::Lost(reason) => {
                    log::warn!("{reason}; logging in again");
                    None
                }
                Gone::Ended { code, message } => Some(LoginError::Ended { code, message }),
            };
            let left = login.server.clone();
            drop(login);
            // A server that takes logins and drops them is not to be hammered at.
            tries = if clock::now() < began + RELOGIN_PAUSE_MAX { tries + 1 } else { 0 };
            match self.come_back(reason, tries, &left) {
                Ok(Some(back)) => login = back,
                Ok(None) => return None,
                Err(error) => {
                    self.control.end(error.to_string());
                    return Some(error);
                }
            }
        }
    }

    fn is_asked_to_stop(&self) -> bool {
        self.stop.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Looks after a login as long as it lasts.
    fn stay(&mut self, login: &mut Login) -> Gone {
        let registry = self.poll.registry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = registry.register(&mut login.channel, CHANNEL, interest) {
            return Gone::Lost(format!("the connection to the server cannot be watched: {error}"));
        }
        let gone = self.talk(login).map_or_else(|gone| gone, |never| match never {});
        // It is closed in any case.
        let _ = self.poll.registry().deregister(&mut login.channel);
        gone
    }

    fn talk(&mut self, login: &mut Login) -> Result<std::convert::Infallible, Gone> {
        let every = heart::beats_every(self.steward.servers.count(), self.has_all());
        let mut heart = Heart::new(clock::now(), every);
        let mut renewal = Renewal::of(login);
        let mut events = Events::with_capacity(8);
        let mut news = Vec::new();
        loop {
            // What was said before the connection was lost counts.
            let turned = login.channel.turn(&mut news);
            for news in news.drain(..) {
                match news {
                    News::Pong { nonce, .. } => heart.heard(nonce),
                    News::Renewed(terms) => {
                        self.take_renewal(login, *terms);
                        renewal = Renewal::of(login);
                    }
                    News::NotRenewed(refusal) => {
                        log::warn!("the lease was not renewed: {}", refusal.message);
                        renewal.put_off(clock::now());
                    }
                    News::Ended { code, message } => return Err(Gone::Ended { code, message }),
                }
            }
            let more = turned?;
            if self.is_asked_to_stop() {
                // Whether it arrives or not: the server notices in either case.
                let _ = login.channel.logout().and_then(|()| login.channel.turn(&mut news));
                return Err(Gone::Asked);
            }
            let now = clock::now();
            if self.doubt.swap(false, Ordering::Relaxed) {
                heart.doubt(now);
            }
            if now >= renewal.ends {
                return Err(Gone::Lost("the lease has run out".to_owned()));
            }
            let mut says = more;
            if now >= renewal.due {
                login.channel.renew()?;
                renewal.put_off(now);
                says = true;
            }
            match heart.beat(now) {
                Beat::Rest => {}
                Beat::Ask(nonce) => {
                    login.channel.ping(nonce)?;
                    says = true;
                }
                Beat::Stopped => {
                    return Err(Gone::Lost(format!("{} does not answer", login.server)));
                }
            }
            if !says {
                let due = heart.due().min(renewal.due).min(renewal.ends);
                self.wait(&mut events, due.saturating_duration_since(now));
            }
        }
    }

    /// Whether this host reaches nothing but through the tunnel.
    fn has_all(&self) -> bool {
        let tenancy = lock(&self.tenancy);
        let Agreement { routes, .. } = tenancy.lease.agreement(&tenancy.config);
        tenancy.config.kill_switch || routes.iter().any(|route| route.prefix_len() == 0)
    }

    /// Waits for an event, and sees to it if it is that the network has changed.
    fn wait(&mut self, events: &mut Events, time: Duration) {
        let now = clock::now();
        let ways_due = self.ways.poll_timeout(now).map(|due| due.saturating_duration_since(now));
        let time = ways_due.map_or(time, |due| due.min(time));
        if let Err(error) = self.poll.poll(events, Some(time))
            && error.kind() != io::ErrorKind::Interrupted
        {
            log::error!("waiting for events failed: {error}");
            thread::sleep(time.min(Duration::from_secs(1)));
        }
        if self.ways.have_changed(events, clock::now()) {
            self.doubt.store(true, Ordering::Relaxed);
            self.control.order(|engine, now| engine.network_changed(now));
            if let Some(carriage) = &self.carriage {
                carriage.network_changed();
            }
        }
    }

    /// The terms may have changed with the renewal; the secret is that of the login.
    fn take_renewal(&mut self, login: &mut Login, terms: LeaseTerms) {
        match Lease::new(terms, login.lease.preshared_key.clone()) {
            Ok(lease) => {
                log::debug!("the lease is renewed for {:?}", lease.lasts);
                (login.lease, login.at) = (lease, clock::now());
                if lock(&self.tenancy).renew(&login.lease) {
                    self.settle(login);
                } else {
                    self.move_in(login);
                }
            }
            Err(error) => log::warn!("{error}; the terms of before stay in force"),
        }
    }

    /// Logs in again, as soon as a server lets it, after `tries` in vain. `None` if it is asked to
    /// stop meanwhile.
    fn come_back(
        &mut self,
        reason: Option<LoginError>,
        tries: u32,
        left: &HostPort,
    ) -> Result<Option<Login>, LoginError> {
        let mut error = reason;
        let mut events = Events::with_capacity(8);
        for tries in tries.. {
            let least = match error.as_ref().map(outlook::later) {
                Some(Outlook::Hopeless) => break,
                Some(Outlook::After(least)) => least,
                None => Duration::ZERO,
            };
            let pause = least.max(choice::pause(tries, &mut self.steward.rng));
            if let Some(error) = &error {
                log::warn!("{error}; next try in {pause:.1?}");
            }
            let until = clock::now() + pause;
            while let Some(left) = time_left(until) {
                if self.is_asked_to_stop() {
                    return Ok(None);
                }
                // The network has changed: perhaps for the better.
                if self.doubt.swap(false, Ordering::Relaxed) && least.is_zero() {
                    break;
                }
                self.wait(&mut events, left);
            }
            match self.steward.log_in(&self.stop, Some(left)) {
                Ok(login) => {
                    self.move_in(&login);
                    return Ok(Some(login));
                }
                Err(_) if self.is_asked_to_stop() => return Ok(None),
                Err(failure) => error = Some(failure),
            }
        }
        error.map_or(Ok(None), Err)
    }

    /// Goes where the login leads.
    fn move_in(&mut self, login: &Login) {
        let config = lock(&self.tenancy).config.clone();
        let tenancy = self.steward.tenancy(config, login);
        *lock(&self.tenancy) = tenancy;
        self.settle(login);
    }

    /// Has engine and host go on with what the lease says.
    fn settle(&mut self, login: &Login) {
        let (outside, agreement) = {
            let tenancy = lock(&self.tenancy);
            (tenancy.outside(), tenancy.lease.agreement(&tenancy.config))
        };
        self.ways.watch(&outside);
        if let Err(error) = self.holdings.furnish(outside, agreement) {
            log::error!("not everything that the lease says is in place: {error}");
        }
        // The control thread may go over to another endpoint before it comes to this.
        let tenancy = Arc::clone(&self.tenancy);
        self.control.order(move |engine, now| engine.choose_server(now, lock(&tenancy).choice()));
        self.show_way_in(login);
    }

    /// Carriers go where the login was.
    fn show_way_in(&self, login: &Login) {
        if let Some(carriage) = &self.carriage {
            carriage.set_access(self.steward.access(login));
        }
    }
}

/// The time until then; `None` if it has come.
fn time_left(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(clock::now());
    (!left.is_zero()).then_some(left)
}

/// When a lease is to be renewed, and when it is over.
struct Renewal {
    due: Instant,
    ends: Instant,
}

impl Renewal {
    fn of(login: &Login) -> Self {
        let lasts = login.lease.lasts;
        Self { due: login.at + lasts / 2, ends: login.at + lasts }
    }

    /// Tries again when half of what is left is over.
    fn put_off(&mut self, now: Instant) {
        let left = self.ends.saturating_duration_since(now);
        self.due = now + (left / 2).max(Duration::from_secs(1));
    }
}
