//! Finding the best of several servers: all are knocked at together, and the best that answers is
//! taken.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::config::{HostPort, LoginConfig};
use crate::daemon::carriage::Access;
use crate::daemon::resolve::{outer_lookup, resolve_all};
use crate::limits::{
    BACKUP_SERVERS_AFTER, LOGIN_ADDRESSES_MAX, LOGIN_ANSWER_WITHIN, LOGIN_CONNECT_WITHIN,
    SERVER_CHOICE_GRACE,
};
use crate::login::client::{Channel, ChannelError, Destination};
use crate::login::message::Secret;
use crate::login::tls::ClientTls;
use crate::sys::clock;

use super::LoginError;
use super::choice::{self, Offer};

/// The servers of a configuration, and what has been learned about them.
pub(super) struct Servers {
    preferred: Vec<HostPort>,
    backup: Vec<HostPort>,
    tls: ClientTls,
    mark: u32,
    /// What names stood for when they were last looked up: when the tunnel is down, its name
    /// servers may be out of reach.
    known: BTreeMap<String, Vec<SocketAddr>>,
}

/// A server that has answered.
pub(super) struct Visit {
    pub(super) channel: Channel,
    pub(super) server: HostPort,
    pub(super) address: SocketAddr,
    offer: Offer,
}

/// What those who knock at servers report.
enum Report {
    Resolved(HostPort, Vec<SocketAddr>),
    Unknown(HostPort, std::io::Error),
    Answered(Box<Visit>),
    Failed(ChannelError),
}

/// What it takes to knock, and where to tell of it.
#[derive(Clone)]
struct Knocker {
    tls: ClientTls,
    mark: u32,
    is_backup: bool,
    reports: Sender<Report>,
}

impl Servers {
    pub(super) fn new(login: &LoginConfig, tls: ClientTls, mark: u32) -> Self {
        let (preferred, backup) = (login.servers.clone(), login.backup_servers.clone());
        Self { preferred, backup, tls, mark, known: BTreeMap::new() }
    }

    /// The mark on packets that keeps them out of the tunnel.
    pub(super) const fn mark(&self) -> u32 {
        self.mark
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.preferred.len() + self.backup.len()
    }

    /// What it takes to open a carrier to one of them.
    pub(super) fn access(&self, name: String, address: SocketAddr, ticket: Secret) -> Access {
        Access { name, address, tls: self.tls.clone(), mark: self.mark, ticket }
    }

    /// Every address that a server is known to have.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.known.values().flatten().copied().collect()
    }

    /// Knocks at all servers and takes the best that answers; for `silent`, which has just ceased
    /// to, no other is kept waiting. Gives up as soon as `stop` has something to say.
    pub(super) fn find(
        &mut self,
        stop: &Receiver<()>,
        silent: Option<&HostPort>,
    ) -> Result<Visit, LoginError> {
        let has_hope = self.preferred.iter().any(|server| Some(server) != silent);
        let patience = if has_hope { BACKUP_SERVERS_AFTER } else { SERVER_CHOICE_GRACE };
        let mut search = Search::begin(clock::now(), patience);
        let arriving = self.knock();
        loop {
            let wait = search.wait_until().saturating_duration_since(clock::now());
            if wait.is_zero() {
                return search.take_best();
            }
            crossbeam_channel::select! {
                recv(arriving) -> report => match report {
                    Ok(report) => self.note(report, &mut search),
                    // All have reported.
                    Err(_) => return search.take_best(),
                },
                recv(stop) -> _ => return Err(LoginError::NoServer(search.errors)),
                default(wait) => {}
            }
        }
    }

    fn note(&mut self, report: Report, search: &mut Search) {
        match report {
            Report::Resolved(server, addresses) => {
                self.known.insert(server.to_string(), addresses);
            }
            Report::Unknown(server, source) => {
                log::warn!("no address found for {server}: {source}");
            }
            Report::Answered(visit) => {
                if !visit.offer.is_backup {
                    search.preferred_at.get_or_insert_with(clock::now);
                }
                search.visits.push(*visit);
            }
            Report::Failed(error) => {
                log::info!("{error}");
                search.errors.push(error);
            }
        }
    }

    /// What comes of knocking at every server; it ends when all have answered or have not.
    fn knock(&self) -> Receiver<Report> {
        let (reports, arriving) = unbounded();
        for (is_backup, servers) in [(false, &self.preferred), (true, &self.backup)] {
            let (tls, mark) = (self.tls.clone(), self.mark);
            let knocker = Knocker { tls, mark, is_backup, reports: reports.clone() };
            for server in servers {
                let known = self.known.get(&server.to_string()).cloned().unwrap_or_default();
                for address in &known {
                    knocker.clone().knock(server.clone(), *address);
                }
                knocker.clone().look_up(server.clone(), known);
            }
        }
        arriving
    }
}

impl Knocker {
    /// Looks a name up and knocks at all addresses but those that are known.
    fn look_up(self, server: HostPort, known: Vec<SocketAddr>) {
        let outside = outer_lookup(Some(self.mark));
        let work = move || match resolve_all(&server, outside.as_ref()) {
            Ok(mut found) => {
                found.truncate(LOGIN_ADDRESSES_MAX);
                for address in found.iter().filter(|address| !known.contains(address)) {
                    self.clone().knock(server.clone(), *address);
                }
                let _ = self.reports.send(Report::Resolved(server, found));
            }
            Err(error) => drop(self.reports.send(Report::Unknown(server, error))),
        };
        start("look-up", work);
    }

    fn knock(self, server: HostPort, address: SocketAddr) {
        let work = move || {
            let report = match self.visit(server, address) {
                Ok(visit) => Report::Answered(Box::new(visit)),
                Err(error) => Report::Failed(error),
            };
            // Nobody listens any more if another was quicker.
            let _ = self.reports.send(report);
        };
        start("knock", work);
    }

    fn visit(&self, server: HostPort, address: SocketAddr) -> Result<Visit, ChannelError> {
        let to = Destination { name: server.host(), address, mark: Some(self.mark) };
        let mut channel = Channel::connect(to, &self.tls, LOGIN_CONNECT_WITHIN)?;
        let load = channel.load(LOGIN_ANSWER_WITHIN)?;
        let offer = Offer {
            is_backup: self.is_backup,
            round_trip: load.round_trip,
            load_permille: load.load_permille,
        };
        Ok(Visit { channel, server, address, offer })
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        log::error!("cannot start a thread: {error}");
    }
}

/// How far a search has got.
struct Search {
    began: Instant,
    /// How long to wait for a server that is no backup where one has answered.
    patience: Duration,
    visits: Vec<Visit>,
    errors: Vec<ChannelError>,
    /// When the first server answered that is not a backup.
    preferred_at: Option<Instant>,
}

impl Search {
    fn begin(began: Instant, patience: Duration) -> Self {
        Self { began, patience, visits: Vec::new(), errors: Vec::new(), preferred_at: None }
    }

    /// Until when to wait for a better one.
    fn wait_until(&self) -> Instant {
        match self.preferred_at {
            Some(first) => first + SERVER_CHOICE_GRACE,
            None if !self.visits.is_empty() => self.began + self.patience,
            None => self.began + LOGIN_CONNECT_WITHIN + LOGIN_ANSWER_WITHIN,
        }
    }

    fn take_best(mut self) -> Result<Visit, LoginError> {
        let offers: Vec<Offer> = self.visits.iter().map(|visit| visit.offer).collect();
        match choice::best(&offers) {
            Some(best) => Ok(self.visits.swap_remove(best)),
            None => Err(LoginError::NoServer(self.errors)),
        }
    }
}
