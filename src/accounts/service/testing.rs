//! Accounts to be tried out: a database in a directory of its own, passwords that cost little.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use tempfile::TempDir;

use crate::accounts::addresses::AddressPlan;
use crate::accounts::change::Change;
use crate::accounts::credentials::password::{self, HashCost};
use crate::accounts::model::{Id, UnixMs, User};
use crate::accounts::names::Name;
use crate::accounts::operations::{
    Actor, NewPassword, Operation, OperationError, Outcome, TokenMade, TotpSet,
};
use crate::accounts::refusal::Refusal;
use crate::accounts::secret::Secret;
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::{
    Accounts, AccountsOptions, Grant, LoginAttempt, Pass, PassAttempt, PassProof,
};
use crate::handshake::keys::PublicKey;

/// As little as argon2 allows.
pub(in crate::accounts) const CHEAP: HashCost = HashCost { memory_kib: 8, passes: 1 };
/// The password of every user here.
pub(in crate::accounts) const PASSWORD: &str = "correct horse";

pub(in crate::accounts) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(in crate::accounts) fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

pub(in crate::accounts) struct Rig {
    pub(in crate::accounts) accounts: Accounts,
    pub(in crate::accounts) directory: TempDir,
    /// That of [`PASSWORD`].
    hash: OnceCell<String>,
}

impl Rig {
    pub(in crate::accounts) fn new() -> Self {
        Self::with(|_| {})
    }

    /// One whose options are changed first.
    pub(in crate::accounts) fn with(change: impl FnOnce(&mut AccountsOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = Self::options(&directory);
        change(&mut options);
        Self { accounts: Accounts::open(options).unwrap(), directory, hash: OnceCell::new() }
    }

    pub(in crate::accounts) fn options(directory: &TempDir) -> AccountsOptions {
        let database = directory.path().join("accounts.db").to_str().unwrap().parse().unwrap();
        let spool = directory.path().join("spool");
        let pools = vec!["10.9.0.0/24".parse().unwrap(), "fd09::/64".parse().unwrap()];
        let excluded = vec!["10.9.0.1/32".parse().unwrap()];
        AccountsOptions {
            addresses: AddressPlan { pools, excluded },
            hash_cost: CHEAP,
            hashers: 2,
            audit_log: Some(directory.path().join("audit.log")),
            ..AccountsOptions::new(database, spool, name("here"))
        }
    }

    /// The same after a restart of the server.
    pub(in crate::accounts) fn reopened(self) -> Self {
        let Self { accounts, directory, hash } = self;
        drop(accounts);
        let accounts = Accounts::open(Self::options(&directory)).unwrap();
        Self { accounts, directory, hash }
    }

    pub(in crate::accounts) fn run(&self, operation: Operation) -> Result<Outcome, OperationError> {
        self.accounts.execute(&Actor::local(0), operation)
    }

    /// Runs an operation that is written as the command line sends it.
    pub(in crate::accounts) fn run_json(&self, json: &str) -> Outcome {
        self.run(serde_json::from_str(json).unwrap()).unwrap()
    }

    /// Adds a user with [`PASSWORD`].
    pub(in crate::accounts) fn add(&self, user: &str) {
        let password = NewPassword::Given(secret(PASSWORD));
        self.run(Operation::UserAdd { name: name(user), groups: [].into(), password }).unwrap();
    }

    /// Adds a user with [`PASSWORD`] to memory alone.
    pub(in crate::accounts) fn add_quickly(&self, user: &str) {
        let shared = self.accounts.shared();
        let mut state = shared.state();
        let hash = self.hash.get_or_init(|| {
            password::hash(PASSWORD, shared.hash_cost(), &mut rand::rng()).unwrap()
        });
        let user = User {
            password: Some(hash.clone()),
            ..User::new(Id::generate(&mut rand::rng()), name(user), UnixMs(0))
        };
        shared.make(&mut state, &[Change::AddUser(user)], Moment::now());
    }

    pub(in crate::accounts) fn token(&self, json: &str) -> TokenMade {
        match self.run_json(json) {
            Outcome::Token(token) => token,
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::accounts) fn totp(&self, user: &str) -> TotpSet {
        match self.run(Operation::UserTotp { name: name(user) }).unwrap() {
            Outcome::Totp(totp) => totp,
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::accounts) fn login(&self, attempt: LoginAttempt) -> Result<Grant, Refusal> {
        let (answer, outcome) = bounded(1);
        self.accounts.login(attempt, Box::new(move |granted| answer.send(granted).unwrap()));
        outcome.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    /// Until when the lease lasts now.
    pub(in crate::accounts) fn renew(&self, granted: &Grant) -> Result<Instant, Refusal> {
        let (answer, outcome) = bounded(1);
        let answer = Box::new(move |renewed| answer.send(renewed).unwrap());
        self.accounts.renew(granted.session, answer);
        outcome.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    /// Asks for a pass for the proxy.
    pub(in crate::accounts) fn pass(&self, proof: PassProof) -> Result<Arc<Pass>, Refusal> {
        self.pass_from(77, proof)
    }

    /// The same from a host that is known by its number.
    pub(in crate::accounts) fn pass_from(
        &self,
        host: u8,
        proof: PassProof,
    ) -> Result<Arc<Pass>, Refusal> {
        let (answer, outcome) = bounded(1);
        let attempt = PassAttempt { from: [192, 0, 2, host].into(), proof };
        let answer = Box::new(move |issued| answer.send(issued).unwrap());
        self.accounts.ask_for_pass(attempt, answer);
        outcome.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    /// The audit log as the file has it.
    pub(in crate::accounts) fn audit_text(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("audit.log")).unwrap()
    }
}

/// A login by password from a device that is known by its number.
pub(in crate::accounts) fn by_password(user: &str, device: u8) -> LoginAttempt {
    LoginAttempt {
        user: Some(user.to_owned()),
        password: Some(secret(PASSWORD)),
        ..from_device(device)
    }
}

/// A login that shows nothing yet.
pub(in crate::accounts) fn from_device(device: u8) -> LoginAttempt {
    LoginAttempt {
        from: format!("192.0.2.{device}:4000").parse().unwrap(),
        user: None,
        password: None,
        code: None,
        token: None,
        certificate: None,
        device_name: name("laptop"),
        device_key: PublicKey([device.wrapping_add(100); 32]),
        version: "test".to_owned(),
    }
}
