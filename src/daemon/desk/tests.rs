//! What happens between the decision on a login and its moving in, and between an end and the next
//! login: the desk with real accounts and an engine whose orders are counted.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use tempfile::TempDir;

use super::*;
use crate::accounts::addresses::AddressPlan;
use crate::accounts::credentials::password::HashCost;
use crate::accounts::operations::{Actor, Operation, Outcome, UsageView};
use crate::accounts::service::{AccountsOptions, Notice};
use crate::control::runtime::{ControlOrder, ControlPoll};
use crate::lab::wait_until;
use crate::limits::RETURN_WITHIN;
use crate::login::carrier::CarrierRelay;

const SOON: Duration = Duration::from_secs(60);
const DEVICE: PublicKey = PublicKey([7; 32]);

struct Rig {
    desk: Desk,
    notices: Receiver<Notice>,
    orders: Receiver<ControlOrder>,
    _carriers: CarrierRelay,
    _poll: ControlPoll,
    _directory: TempDir,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn run(accounts: &Accounts, json: &str) -> Outcome {
    let operation: Operation = serde_json::from_str(json).unwrap();
    accounts.execute(&Actor::local(0), operation).unwrap()
}

impl Rig {
    /// A desk whose alice has a password.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("accounts.db").to_str().unwrap().parse().unwrap();
        let pools = vec!["10.9.0.0/24".parse().unwrap()];
        let accounts = Accounts::open(AccountsOptions {
            addresses: AddressPlan { pools, excluded: Vec::new() },
            hash_cost: HashCost { memory_kib: 8, passes: 1 },
            hashers: 1,
            ..AccountsOptions::new(database, directory.path().join("spool"), name("here"))
        })
        .unwrap();
        run(
            &accounts,
            r#"{"operation":"user_add","name":"alice","groups":[],
                "password":{"given":"correct horse"}}"#,
        );
        let notices = accounts.subscribe();
        let poll = ControlPoll::new().unwrap();
        let (control, orders) = ControlHandle::new(&poll);
        let nowhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let carriers = CarrierRelay::start(nowhere, Arc::default()).unwrap();
        let house =
            House { name: name("here"), key: PublicKey([1; 32]), port: 1, lease: lease_config() };
        let defaults = Defaults::default();
        let desk = Desk::new(accounts, control, carriers.handle(), house, defaults);
        Self { desk, notices, orders, _carriers: carriers, _poll: poll, _directory: directory }
    }

    fn accounts(&self) -> &Accounts {
        &self.desk.inner.accounts
    }

    /// The accounts let alice in; the desk has not heard of it yet.
    fn granted(&self) -> Grant {
        let attempt = AccountsAttempt {
            from: "192.0.2.1:4000".parse().unwrap(),
            user: Some("alice".to_owned()),
            password: Some(Secret::new("correct horse".to_owned())),
            code: None,
            token: None,
            certificate: None,
            device_name: name("laptop"),
            device_key: DEVICE,
            version: "test".to_owned(),
        };
        let (answer, outcome) = bounded(1);
        let answer = Box::new(move |granted| answer.send(granted).unwrap());
        self.accounts().login(attempt, answer);
        outcome.recv_timeout(SOON).unwrap().unwrap()
    }

    /// Lets somebody move in, and what the client hears of it.
    fn move_in(
        &self,
        login: u64,
        grant: &Grant,
        certificate: Option<&str>,
    ) -> Receiver<Result<LeaseTerms, Refused>> {
        let (answer, answered) = bounded(1);
        self.desk.inner.move_in(
            LoginId(login),
            grant.clone(),
            certificate.map(str::to_owned),
            PresharedKey::default(),
            Box::new(move |outcome| drop(answer.send(outcome))),
        );
        answered
    }

    /// The next notice, as the rounds would take it.
    fn heed_one(&self) {
        self.desk.inner.heed(self.notices.recv_timeout(SOON).unwrap());
    }

    fn end(&self, grant: &Grant, end: SessionEnd) {
        self.accounts().end(grant.session, end);
        self.heed_one();
    }

    /// Orders to the control thread since it was last asked.
    fn ordered(&self) -> usize {
        self.orders.try_iter().count()
    }
}

fn lease_config() -> LeaseConfig {
    LeaseConfig {
        pools: Vec::new(),
        endpoints: Vec::new(),
        routes: Vec::new(),
        dns_servers: Vec::new(),
        search_domains: Vec::new(),
        split_domains: Vec::new(),
        mtu: 1400,
        keepalive_s: None,
        lasts_s: 3600,
    }
}

fn code(answered: &Receiver<Result<LeaseTerms, Refused>>) -> RefusalCode {
    answered.recv_timeout(SOON).unwrap().unwrap_err().code
}

#[test]
fn a_session_that_ends_before_it_moves_in_is_admitted_nowhere() {
    let rig = Rig::new();
    let grant = rig.granted();
    rig.end(&grant, SessionEnd::Kicked);
    assert_eq!(rig.ordered(), 0, "nobody was there to be dismissed");
    assert_eq!(code(&rig.move_in(1, &grant, None)), RefusalCode::Revoked);
    assert_eq!(rig.ordered(), 0);
    assert_eq!(rig.desk.user_of(&DEVICE), None);
}

#[test]
fn a_certificate_on_the_list_ends_the_session_that_it_would_open() {
    let rig = Rig::new();
    let grant = rig.granted();
    rig.desk.revoked(&["0a".to_owned()].into());
    assert_eq!(code(&rig.move_in(1, &grant, Some("0a"))), RefusalCode::Revoked);
    assert_eq!(rig.ordered(), 0);
    let is_over = || (rig.accounts().session_count() == 0).then_some(());
    wait_until(SOON, "the accounts to end it, too", is_over).unwrap();
    // One that has moved in goes with the next list.
    let grant = rig.granted();
    let answered = rig.move_in(2, &grant, Some("0b"));
    assert_eq!(rig.ordered(), 1);
    assert!(answered.recv_timeout(SOON).is_err(), "the order was dropped, and the answer with it");
    rig.heed_one();
    rig.desk.revoked(&["0a".to_owned(), "0b".to_owned()].into());
    rig.heed_one();
    assert_eq!(rig.ordered(), 1, "it is dismissed");
    assert_eq!(rig.desk.user_of(&DEVICE), None);
}

#[test]
fn a_policy_that_changes_before_the_session_moves_in_is_kept_for_then() {
    let rig = Rig::new();
    let grant = rig.granted();
    let changer = rig.accounts().clone();
    let json = r#"{"operation":"user_set","name":"alice","limits":{"set":{"up_bps":5}}}"#;
    let change = std::thread::spawn(move || drop(run(&changer, json)));
    rig.heed_one();
    change.join().unwrap();
    assert_eq!(rig.ordered(), 0, "nobody to set it for");
    assert_eq!(grant.bounds.up_bps, None);
    let kept = rig.desk.inner.register().take_change(grant.session).unwrap();
    assert_eq!(kept.0.up_bps, Some(5));
    rig.desk.inner.register().change_early(grant.session, kept, clock::now());
    let _answered = rig.move_in(1, &grant, None);
    assert_eq!(rig.ordered(), 1);
    assert_eq!(rig.desk.inner.register().take_change(grant.session), None, "it was taken");
}

#[test]
fn a_device_that_logs_in_anew_is_dismissed_only_if_it_does_not_come() {
    let rig = Rig::new();
    let first = rig.granted();
    let _answered = rig.move_in(1, &first, None);
    assert_eq!(rig.ordered(), 1);
    let second = rig.granted();
    rig.heed_one();
    assert_eq!(rig.ordered(), 0, "what it is about to get takes the place of what it has");
    assert_eq!(rig.desk.inner.register().take_lost(clock::now()), []);
    // The second ends before it moves in: what the device still has of the first goes with it, and
    // whoever has ended it waits for that.
    rig.accounts().end(second.session, SessionEnd::Kicked);
    rig.heed_one();
    assert_eq!(rig.ordered(), 1);
    assert_eq!(code(&rig.move_in(2, &second, None)), RefusalCode::Revoked);
    let later = clock::now() + RETURN_WITHIN;
    assert_eq!(rig.desk.inner.register().take_lost(later), [], "it is not awaited any more");
}

#[test]
fn what_a_device_has_moved_counts_after_the_end_of_its_session() {
    let rig = Rig::new();
    let grant = rig.granted();
    let _answered = rig.move_in(1, &grant, None);
    rig.end(&grant, SessionEnd::Kicked);
    rig.desk.add_usage(vec![(DEVICE, Carried { sent_bytes: 100, received_bytes: 23 })]);
    rig.desk.add_usage(vec![(PublicKey([8; 32]), Carried { sent_bytes: 1, received_bytes: 1 })]);
    let used = || {
        let json = r#"{"operation":"stats","user":"alice","since_s":3600,"by":"user"}"#;
        let Outcome::Usage(lines) = run(rig.accounts(), json) else { return None };
        let sum = |of: fn(&UsageView) -> u64| lines.iter().map(of).sum::<u64>();
        Some((sum(|it| it.sent_bytes), sum(|it| it.received_bytes)))
    };
    wait_until(SOON, "the usage to be stored", || used().filter(|sums| *sums == (100, 23)))
        .unwrap();
}
