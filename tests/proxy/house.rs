//! A gateway whose clients have to say who they are, with accounts.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

use corelane::accounts::credentials::password::HashCost;
use corelane::accounts::operations::{Actor, Operation, Outcome};
use corelane::accounts::service::{Accounts, AccountsOptions};
use corelane::policy::{Defaults, SharedPolicies};
use corelane::proxy::access::AccessOptions;
use corelane::proxy::dial::Guard;
use corelane::proxy::records::Format;
use corelane::proxy::settings::{Auth, Entrance, EntranceTls, LogPlace, LogSettings, Rules};
use corelane::proxy::{Gateway, Listeners};
use tempfile::TempDir;

use crate::harness::{await_that, connect, read_exactly};

/// A gateway with accounts, in this process.
pub(crate) struct House {
    pub(crate) gateway: Gateway,
    pub(crate) accounts: Accounts,
    pub(crate) address: SocketAddr,
    directory: TempDir,
}

impl House {
    /// One with two workers, where ada has an account.
    pub(crate) fn new(change: impl FnOnce(&mut Rules)) -> Self {
        Self::with_workers(2, change)
    }

    pub(crate) fn with_workers(workers: usize, change: impl FnOnce(&mut Rules)) -> Self {
        Self::with(workers, None, change)
    }

    /// One that speaks TLS.
    pub(crate) fn with_tls(tls: EntranceTls) -> Self {
        Self::with(2, Some(tls), |_| {})
    }

    fn with(workers: usize, tls: Option<EntranceTls>, change: impl FnOnce(&mut Rules)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("accounts.db").to_str().unwrap().parse().unwrap();
        let options = AccountsOptions {
            hash_cost: HashCost { memory_kib: 8, passes: 1 },
            ..AccountsOptions::new(
                database,
                directory.path().join("spool"),
                "here".parse().unwrap(),
            )
        };
        let accounts = Accounts::open(options).unwrap();
        let guard = Guard { allowed: vec!["loopback".parse().unwrap()] };
        let mut rules = Rules { auth: Auth::Required, guard, ..Rules::default() };
        change(&mut rules);
        let mut listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let listen_tls = if tls.is_some() { std::mem::take(&mut listen) } else { Vec::new() };
        let place = LogPlace::File(directory.path().join("access.log"));
        let access_log = Some(LogSettings { place, format: Format::Json });
        let entrance = Entrance { listen, listen_tls, tls, access_log, rules };
        let listeners = Listeners::bind(vec![entrance], workers).unwrap();
        let access = AccessOptions {
            accounts: accounts.clone(),
            policies: SharedPolicies::default(),
            defaults: Defaults::default(),
            pools: Vec::new(),
        };
        let cpus = vec![None; workers];
        let gateway =
            Gateway::start(listeners, &cpus, Some(access), |why| panic!("{why}")).unwrap();
        let address = gateway.addresses()[0];
        let house = Self { gateway, accounts, address, directory };
        house.add("ada", "right horse");
        house
    }

    /// Where its access log is, in JSON.
    pub(crate) fn access_log(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }

    pub(crate) fn add(&self, user: &str, password: &str) {
        self.run(&format!(
            r#"{{"operation":"user_add","name":"{user}","groups":[],
                "password":{{"given":"{password}"}}}}"#
        ));
    }

    pub(crate) fn run(&self, json: &str) -> Outcome {
        let operation: Operation = serde_json::from_str(json).unwrap();
        self.accounts.execute(&Actor::local(0), operation).unwrap()
    }

    pub(crate) fn token(&self, scope: &str) -> String {
        let outcome = self.run(&format!(
            r#"{{"operation":"token_create","user":"ada","label":"x","scope":"{scope}",
                "expires_s":null}}"#
        ));
        let Outcome::Token(made) = outcome else { panic!("{outcome:?}") };
        made.token.expose().to_owned()
    }

    /// Sets ada's limits and rules.
    pub(crate) fn set(&self, limits: &str, acl: &str) {
        self.set_of("ada", limits, acl);
    }

    pub(crate) fn set_of(&self, user: &str, limits: &str, acl: &str) {
        self.run(&format!(
            r#"{{"operation":"user_set","name":"{user}","limits":{{"set":{limits},"acl":{acl}}}}}"#
        ));
    }

    /// Connected by SOCKS5 as ada.
    pub(crate) fn reach(&self, origin: SocketAddr) -> TcpStream {
        let (stream, reply) = self.ask(1, origin);
        assert_eq!(reply, 0);
        stream
    }

    /// Asks by SOCKS5 as ada for a command (RFC 1928 section 4). The reply comes, too.
    pub(crate) fn ask(&self, command: u8, origin: SocketAddr) -> (TcpStream, u8) {
        let (stream, reply, _) = self.ask_as(("ada", "right horse"), command, origin);
        (stream, reply)
    }

    /// The same as somebody. The address of the reply comes, too.
    pub(crate) fn ask_as(
        &self,
        who: (&str, &str),
        command: u8,
        origin: SocketAddr,
    ) -> (TcpStream, u8, SocketAddr) {
        ask_as(self.address, who, command, origin)
    }

    /// Bytes that ada has moved by the database: to origins, and back.
    pub(crate) fn moved(&self) -> (u64, u64) {
        self.moved_by("ada")
    }

    pub(crate) fn moved_by(&self, user: &str) -> (u64, u64) {
        let stats =
            format!(r#"{{"operation":"stats","user":"{user}","since_s":86400,"by":"user"}}"#);
        let Outcome::Usage(usage) = self.run(&stats) else { panic!() };
        usage.first().map_or((0, 0), |usage| (usage.received_bytes, usage.sent_bytes))
    }

    /// Waits until the database has what a user has moved.
    pub(crate) fn await_moved(&self, user: &str, expected: (u64, u64)) {
        await_that("what was moved", || {
            let moved = self.moved_by(user);
            if moved == expected { Ok(()) } else { Err(format!("{moved:?}, not {expected:?}")) }
        });
    }
}

/// Asks a gateway by SOCKS5 for a command, as a user with a password; returns the reply and its
/// address.
pub(crate) fn ask_as(
    gateway: SocketAddr,
    (user, password): (&str, &str),
    command: u8,
    origin: SocketAddr,
) -> (TcpStream, u8, SocketAddr) {
    let mut stream = connect(gateway);
    let SocketAddr::V4(origin) = origin else { panic!("{origin}") };
    let mut said = vec![5, 1, 2, 1];
    for part in [user, password] {
        said.push(part.len() as u8);
        said.extend_from_slice(part.as_bytes());
    }
    said.extend_from_slice(&[5, command, 0, 1]);
    said.extend_from_slice(&origin.ip().octets());
    said.extend_from_slice(&origin.port().to_be_bytes());
    stream.write_all(&said).unwrap();
    let answer = read_exactly(&mut stream, 14);
    assert_eq!(answer[..5], [5, 2, 1, 0, 5], "{answer:?}");
    let ip: [u8; 4] = answer[8..12].try_into().unwrap();
    let at = SocketAddr::from((ip, u16::from_be_bytes([answer[12], answer[13]])));
    (stream, answer[5], at)
}
