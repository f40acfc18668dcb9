//! Groups of upstream proxies: which of its servers a connection goes through, and how they fare.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::accounts::names::Name;
use crate::exit::ExitCode;
use crate::login::tls::{ClientTls, TlsSetupError};
use crate::proxy::dial::Source;
use crate::proxy::header::Version;
use crate::proxy::origins::server_name;
use crate::proxy::target::{Target, TargetError};
use crate::telemetry::status::UpstreamStatus;

use super::handshake::Scheme;
use super::health::Health;
use super::proof::{Proof, ProofFileError};
use super::tls::TlsSettings;

/// Where an upstream proxy is, and what it speaks: `socks5://HOST:PORT`,
/// `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// What it speaks.
    pub scheme: Scheme,
    /// Where it is.
    pub target: Target,
}

/// Why a text is no address of an upstream proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadServerAddress {
    /// It does not say what the proxy speaks.
    #[error("expected socks5://, http:// or https:// in front")]
    Scheme,
    /// It speaks TLS, and no certificate can have such a name.
    #[error("no certificate can be for a host of this name")]
    Certificate,
    /// The host or the port is none.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl FromStr for ServerAddress {
    type Err = BadServerAddress;

    fn from_str(text: &str) -> Result<Self, BadServerAddress> {
        let (scheme, rest) = text.split_once("://").ok_or(BadServerAddress::Scheme)?;
        let found = Scheme::ALL.into_iter().find(|(name, _)| *name == scheme);
        let (_, scheme) = found.ok_or(BadServerAddress::Scheme)?;
        let target: Target = rest.strip_suffix('/').unwrap_or(rest).parse()?;
        match target.port {
            0 => Err(TargetError::Port.into()),
            _ if scheme == Scheme::Https && server_name(&target.host).is_none() => {
                Err(BadServerAddress::Certificate)
            }
            _ => Ok(Self { scheme, target }),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Scheme::ALL.into_iter().find(|(_, scheme)| *scheme == self.scheme);
        write!(out, "{}://{}", found.map_or("", |(name, _)| name), self.target)
    }
}

/// How connections are shared out among servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// To the one with the fewest connections.
    LeastConnections,
    /// By the client's address: the same client goes to the same server.
    Source,
    /// By the user: the same user goes to the same server. Who is none goes by the address.
    User,
}

impl Balance {
    /// All of them, with what the configuration calls them.
    pub const ALL: [(&'static str, Self); 4] = [
        ("round-robin", Self::RoundRobin),
        ("least-connections", Self::LeastConnections),
        ("source", Self::Source),
        ("user", Self::User),
    ];
}

/// What is known of a group beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// What rules call it.
    pub name: Name,
    /// Its servers, from one to [`crate::limits::PROXY_UPSTREAM_SERVERS_MAX`].
    pub servers: Vec<ServerAddress>,
    /// File with `USER:PASSWORD`, for all of them.
    pub credentials_file: Option<PathBuf>,
    /// File with a token instead.
    pub token_file: Option<PathBuf>,
    /// TLS to those that speak it.
    pub tls: TlsSettings,
    /// The most connections that each worker keeps ready to each server of HTTP.
    pub ready: usize,
    /// Which PROXY header comes first on each connection, and names the client, if one does.
    pub header: Option<Version>,
    /// From which of this host's addresses they are dialled on the gateway's own account.
    pub dial_from: Source,
    /// How connections are shared out.
    pub balance: Balance,
    /// How often each server is tried on its own account, if it is.
    pub check_every: Option<Duration>,
    /// What it is asked for then; just to take a connection if there is none.
    pub check: Option<Target>,
}

impl GroupSettings {
    /// A group that has nothing but servers.
    pub fn new(name: Name, servers: Vec<ServerAddress>) -> Self {
        Self {
            name,
            servers,
            credentials_file: None,
            token_file: None,
            tls: TlsSettings::default(),
            ready: 0,
            header: None,
            dial_from: Source::default(),
            balance: Balance::default(),
            check_every: None,
            check: None,
        }
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.credentials_file.iter().chain(&self.token_file).chain(self.tls.files())
    }
}

/// A group of upstream proxies, shared by all workers.
#[derive(Debug)]
pub struct Group {
    /// What it was told.
    pub settings: GroupSettings,
    proof: OnceLock<Proof>,
    tls: OnceLock<ClientTls>,
    members: Vec<Member>,
    turn: AtomicUsize,
    /// When its servers are to be tried next.
    check_due: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Member {
    health: Mutex<Health>,
    connections: AtomicUsize,
    reached: AtomicU64,
    reached_at_once: AtomicU64,
    failed: AtomicU64,
    ready: AtomicUsize,
}

impl PartialEq for Group {
    /// Whether they were told the same.
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Group {}

/// Why a group cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its credentials cannot be had.
    #[error(transparent)]
    Proof(#[from] ProofFileError),
    /// Its TLS cannot be set up.
    #[error("TLS to the upstream proxy {name}: {source}", name = .name.as_str())]
    Tls {
        /// The group.
        name: Name,
        /// What is wrong.
        source: TlsSetupError,
    },
}

impl LoadError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Proof(error) => error.exit_code(),
            Self::Tls { .. } => ExitCode::ConfigInvalid,
        }
    }
}

/// A server as it stands when one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// For how long it is out yet, if it is.
    pub out_for: Option<Duration>,
    /// Whether it has been tried for this connection.
    pub was_tried: bool,
    /// Connections through it.
    pub connections: usize,
    /// What the client has drawn for it.
    pub weight: u64,
}

/// Which of the candidates is next, if any is left: those that are out come last, the one that is
/// back first before the others. `turn` says with whom a round begins.
pub fn choose(balance: Balance, candidates: &[Candidate], turn: usize) -> Option<usize> {
    let left = || candidates.iter().enumerate().filter(|(_, candidate)| !candidate.was_tried);
    let is_there = |(_, candidate): &(usize, &Candidate)| candidate.out_for.is_none();
    let behind = |index: usize| {
        let count = candidates.len().max(1);
        (index + count - turn % count) % count
    };
    let best = match balance {
        Balance::RoundRobin => left().filter(is_there).min_by_key(|(index, _)| behind(*index)),
        Balance::LeastConnections => {
            left().filter(is_there).min_by_key(|(index, it)| (it.connections, behind(*index)))
        }
        // The highest draw wins: when a server goes, only its own clients move.
        Balance::Source | Balance::User => left().filter(is_there).max_by_key(|(_, it)| it.weight),
    };
    best.or_else(|| left().min_by_key(|(_, it)| it.out_for)).map(|(index, _)| index)
}

impl Group {
    /// A group whose servers are all taken to be well.
    pub fn new(settings: GroupSettings) -> Self {
        let members = settings.servers.iter().map(|_| Member::default()).collect();
        Self {
            settings,
            proof: OnceLock::new(),
            tls: OnceLock::new(),
            members,
            turn: AtomicUsize::new(0),
            check_due: Mutex::default(),
        }
    }

    /// Reads the files that it names: credentials, and what TLS needs where a server speaks it.
    ///
    /// # Errors
    /// One is not as it should be.
    pub fn load(&self) -> Result<(), LoadError> {
        let GroupSettings { credentials_file, token_file, tls, servers, name, .. } = &self.settings;
        let proof = match (credentials_file, token_file) {
            (Some(path), _) => Some(Proof::of_credentials_file(path)?),
            (None, Some(path)) => Some(Proof::of_token_file(path)?),
            (None, None) => None,
        };
        if let Some(proof) = proof {
            self.set_proof(proof);
        }
        if servers.iter().any(|server| server.scheme == Scheme::Https) {
            let failed = |source| LoadError::Tls { name: name.clone(), source };
            let tls = tls.load().map_err(failed)?;
            self.tls.get_or_init(|| tls);
        }
        Ok(())
    }

    /// What is shown to its servers, unless that is known already.
    pub fn set_proof(&self, proof: Proof) {
        self.proof.get_or_init(|| proof);
    }

    /// What is shown to its servers.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.get()
    }

    /// TLS to its servers, once that was loaded.
    pub fn tls(&self) -> Option<&ClientTls> {
        self.tls.get()
    }

    /// The address of a server.
    pub fn server(&self, index: usize) -> Option<&ServerAddress> {
        self.settings.servers.get(index)
    }

    /// Chooses a server for a connection, and counts the connection as one of its own; `tried` has
    /// a bit for each that was tried. `None` if none is left.
    pub fn enter(self: &Arc<Self>, key: u64, tried: u64, now: Instant) -> Option<Lease> {
        let candidates: Vec<Candidate> = (0..)
            .zip(self.members.iter().zip(&self.settings.servers))
            .map(|(index, (member, server))| Candidate {
                out_for: lock(&member.health).out_for(now),
                was_tried: tried & (1 << index) != 0,
                connections: member.connections.load(Relaxed),
                weight: hash(&(key, server)),
            })
            .collect();
        // A further try for the same connection is no turn of its own.
        let turn = match tried {
            0 => self.turn.fetch_add(1, Relaxed),
            _ => self.turn.load(Relaxed),
        };
        let index = choose(self.settings.balance, &candidates, turn)?;
        self.members.get(index)?.connections.fetch_add(1, Relaxed);
        Some(Lease { group: Arc::clone(self), index })
    }

    /// What a client draws by: the same for the same client.
    pub fn key(&self, source: IpAddr, user: Option<&Name>) -> u64 {
        match (self.settings.balance, user) {
            (Balance::User, Some(user)) => hash(user),
            _ => hash(&source.to_canonical()),
        }
    }

    /// A server has done what it was asked.
    pub fn succeed(&self, index: usize) {
        if let Some(member) = self.members.get(index) {
            member.reached.fetch_add(1, Relaxed);
            lock(&member.health).succeed();
        }
    }

    /// The same over a connection that was ready.
    pub fn succeed_at_once(&self, index: usize) {
        if let Some(member) = self.members.get(index) {
            member.reached_at_once.fetch_add(1, Relaxed);
        }
        self.succeed(index);
    }

    /// Counts a connection that is ready, until what this returns is dropped.
    pub fn count_ready(self: &Arc<Self>, index: usize) -> ReadySeat {
        if let Some(member) = self.members.get(index) {
            member.ready.fetch_add(1, Relaxed);
        }
        ReadySeat { group: Arc::clone(self), index }
    }

    /// A server has failed.
    pub fn fail(&self, index: usize, now: Instant, why: &dyn fmt::Display) {
        let (Some(member), Some(server)) = (self.members.get(index), self.server(index)) else {
            return;
        };
        member.failed.fetch_add(1, Relaxed);
        if let Some(wait) = lock(&member.health).fail(now) {
            let name = self.settings.name.as_str();
            log::warn!("upstream {name}: {server} is left out for {wait:?}: {why}");
        }
    }

    /// A server has answered as it should, whatever became of what it was asked.
    pub fn be_well(&self, index: usize) {
        if let Some(member) = self.members.get(index) {
            lock(&member.health).succeed();
        }
    }

    /// Whether its servers are to be tried now; then they are not again before the next time.
    pub fn is_check_due(&self, now: Instant) -> bool {
        let Some(every) = self.settings.check_every else { return false };
        let mut due = self.check_due.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = due.is_none_or(|due| now >= due);
        if is_due {
            *due = Some(now + every);
        }
        is_due
    }

    /// How its servers fare.
    pub fn status(&self, now: Instant) -> impl Iterator<Item = UpstreamStatus> {
        self.members.iter().zip(&self.settings.servers).map(move |(member, server)| {
            let health = *lock(&member.health);
            UpstreamStatus {
                upstream: self.settings.name.as_str().to_owned(),
                server: server.to_string(),
                connections: member.connections.load(Relaxed) as u64,
                reached: member.reached.load(Relaxed),
                reached_at_once: member.reached_at_once.load(Relaxed),
                ready: member.ready.load(Relaxed) as u64,
                failed: member.failed.load(Relaxed),
                failed_in_a_row: health.failures(),
                out_for_s: health.out_for(now).map(|left| left.as_secs().max(1)),
            }
        })
    }
}

/// A connection's place at a server; it is free again when this is dropped.
#[derive(Debug)]
pub struct Lease {
    group: Arc<Group>,
    /// Which server.
    pub index: usize,
}

impl Lease {
    /// The server's address.
    pub fn server(&self) -> Option<&ServerAddress> {
        self.group.server(self.index)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(member) = self.group.members.get(self.index) {
            member.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// A connection to a server that is ready, as it is counted.
#[derive(Debug)]
pub struct ReadySeat {
    group: Arc<Group>,
    index: usize,
}

impl Drop for ReadySeat {
    fn drop(&mut self) {
        if let Some(member) = self.group.members.get(self.index) {
            member.ready.fetch_sub(1, Relaxed);
        }
    }
}

/// The same for the same value in every worker, and after a restart.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn lock(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PROXY_UPSTREAM_FAILURES_MAX;
    use crate::sys::clock;

    fn group(balance: Balance, count: usize) -> Arc<Group> {
        let server = |number| format!("socks5://192.0.2.{number}:1080").parse().unwrap();
        let servers = (1..=count).map(server).collect();
        let settings = GroupSettings::new("far".parse().unwrap(), servers);
        Arc::new(Group::new(GroupSettings { balance, ..settings }))
    }

    fn candidate(
        out_s: Option<u64>,
        was_tried: bool,
        connections: usize,
        weight: u64,
    ) -> Candidate {
        Candidate { out_for: out_s.map(Duration::from_secs), was_tried, connections, weight }
    }

    #[test]
    fn the_next_server_is_chosen_as_the_balance_says() {
        let [a, b, c] = [
            candidate(None, false, 5, 7),
            candidate(None, false, 3, 9),
            candidate(None, false, 3, 8),
        ];
        let out = |it: Candidate, seconds| Candidate {
            out_for: Some(Duration::from_secs(seconds)),
            ..it
        };
        let tried = |it: Candidate| Candidate { was_tried: true, ..it };
        let (round, least, hashed) =
            (Balance::RoundRobin, Balance::LeastConnections, Balance::Source);
        for (candidates, turn, expected) in [
            ([a, b, c], 0, [Some(0), Some(1), Some(1)]),
            ([a, b, c], 1, [Some(1), Some(1), Some(1)]),
            ([a, b, c], 2, [Some(2), Some(2), Some(1)]),
            ([a, b, c], 3, [Some(0), Some(1), Some(1)]),
            ([out(a, 1), b, c], 0, [Some(1), Some(1), Some(1)]),
            ([a, out(b, 1), c], 1, [Some(2), Some(2), Some(2)]),
            ([a, tried(b), c], 1, [Some(2), Some(2), Some(2)]),
            // All that is left is out: the one that is back first.
            ([tried(a), out(b, 9), out(c, 2)], 0, [Some(2); 3]),
            ([tried(a), tried(b), tried(c)], 0, [None; 3]),
        ] {
            let chosen = [round, least, hashed].map(|it| choose(it, &candidates, turn));
            assert_eq!(chosen, expected, "{candidates:?} in turn {turn}");
        }
        assert_eq!(choose(round, &[], 7), None);
    }

    #[test]
    fn connections_go_round_and_are_counted_until_they_end() {
        let now = clock::now();
        let group = group(Balance::RoundRobin, 3);
        let leases: Vec<Lease> = (0..6).map(|_| group.enter(0, 0, now).unwrap()).collect();
        assert_eq!(leases.iter().map(|it| it.index).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
        assert!(group.status(now).all(|it| it.connections == 2));
        drop(leases);
        assert!(group.status(now).all(|it| it.connections == 0));
        assert!(group.enter(0, 0b111, now).is_none(), "all were tried");
    }

    #[test]
    fn a_server_that_is_out_moves_its_own_clients_alone() {
        let now = clock::now();
        let group = group(Balance::Source, 4);
        let sources: Vec<IpAddr> = (0..200).map(|it| IpAddr::from([192, 0, 2, it])).collect();
        let servers = || -> Vec<usize> {
            let enter = |source| group.enter(group.key(source, None), 0, now).unwrap().index;
            sources.iter().copied().map(enter).collect()
        };
        let before = servers();
        assert_eq!(before, servers(), "the same client goes to the same server");
        for index in 0..4 {
            let count = before.iter().filter(|it| **it == index).count();
            assert!((20..=80).contains(&count), "server {index} has {count} of 200 clients");
        }
        for _ in 0..PROXY_UPSTREAM_FAILURES_MAX {
            group.fail(2, now, &"it is down");
        }
        for (before, after) in before.iter().zip(servers()) {
            assert!(*before == 2 || *before == after);
            assert_ne!(after, 2);
        }
        group.succeed(2);
        assert_eq!(before, servers(), "they come back");
    }

    #[test]
    fn users_go_together_wherever_they_come_from() {
        let group = group(Balance::User, 8);
        let [alice, bob] = ["alice", "bob"].map(|name| name.parse::<Name>().unwrap());
        let [here, there] = ["192.0.2.1", "2001:db8::1"].map(|it| it.parse::<IpAddr>().unwrap());
        assert_eq!(group.key(here, Some(&alice)), group.key(there, Some(&alice)));
        assert_ne!(group.key(here, Some(&alice)), group.key(here, Some(&bob)));
        assert_ne!(group.key(here, None), group.key(there, None));
    }

    #[test]
    fn addresses_of_servers_read_back() {
        for text in ["socks5://192.0.2.1:1080", "http://proxy.example:3128", "http://[::1]:1"] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), text);
        }
        for text in ["https://proxy.example:8443", "https://192.0.2.1:1", "https://[::1]:1"] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), text);
        }
        for text in ["192.0.2.1:1080", "ftp://a:1", "http://a", "http://a:0", "http://u:p@a:1"] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text}");
        }
        let nameless = format!("https://{}:1", ["a"; 128].join("."));
        assert_eq!(nameless.parse::<ServerAddress>(), Err(BadServerAddress::Certificate));
    }
}
