use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::accounts::credentials::password::HashCost;
use crate::accounts::model::{Certificate, DESTINATION_OTHER, UnixMs};
use crate::accounts::operations::{Actor, NewPassword, Operation};
use crate::accounts::refusal::RefusalCode;
use crate::accounts::secret::Secret;
use crate::accounts::service::{AccountsOptions, ShownCertificate};
use crate::limits::{DESTINATIONS_PER_USER_MAX, PROXY_PERMIT_LASTS, PROXY_PERMITS_MAX};
use crate::packet::Upper;

struct Rig {
    access: Access,
    _directory: TempDir,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("accounts.db").to_str().unwrap().parse().unwrap();
        let spool = directory.path().join("spool");
        let options = AccountsOptions {
            hash_cost: HashCost { memory_kib: 8, passes: 1 },
            hashers: 1,
            ..AccountsOptions::new(database, spool, "here".parse().unwrap())
        };
        let access = Access::new(AccessOptions {
            accounts: Accounts::open(options).unwrap(),
            policies: SharedPolicies::default(),
            defaults: Defaults::default(),
            pools: vec!["10.9.0.0/24".parse().unwrap()],
        });
        let rig = Self { access: access.unwrap(), _directory: directory };
        let password = NewPassword::Given(Secret::new("right horse".to_owned()));
        rig.run(Operation::UserAdd { name: "ada".parse().unwrap(), groups: [].into(), password });
        rig
    }

    fn run(&self, operation: Operation) {
        self.access.accounts.execute(&Actor::local(0), operation).unwrap();
    }

    fn ask(&self, now: Instant, from: &str, password: &str) -> Asked {
        self.show(now, from, right(password))
    }

    fn show(&self, now: Instant, from: &str, proof: PassProof) -> Asked {
        let (sender, answer) = channel();
        let from = from.parse().unwrap();
        let known = self.access.ask(now, from, proof, move |outcome| sender.send(outcome).unwrap());
        Asked { known, answer }
    }
}

fn right(password: &str) -> PassProof {
    PassProof::Password { user: "ada".to_owned(), password: Secret::new(password.to_owned()) }
}

struct Asked {
    known: Option<Arc<Permit>>,
    answer: Receiver<Outcome>,
}

impl Asked {
    fn outcome(self) -> Outcome {
        assert!(self.known.is_none(), "it was known");
        self.answer.recv_timeout(Duration::from_secs(60)).unwrap()
    }
}

#[test]
fn a_decision_is_remembered_for_what_was_shown_and_who_showed_it() {
    let rig = Rig::new();
    let now = clock::now();
    let first = rig.ask(now, "192.0.2.1", "right horse").outcome().unwrap();
    let again = rig.ask(now, "192.0.2.1", "right horse").known.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert!(rig.ask(now, "192.0.2.2", "right horse").outcome().is_ok(), "from elsewhere");
    let wrong = rig.ask(now, "192.0.2.1", "right horsf").outcome().unwrap_err();
    assert_eq!(wrong.code, RefusalCode::Denied);
    let wrong = rig.ask(now, "192.0.2.1", "right horsf").outcome().unwrap_err();
    assert_eq!(wrong.code, RefusalCode::Denied, "it was asked again");
    let later = now + PROXY_PERMIT_LASTS + Duration::from_secs(60);
    assert!(rig.ask(later, "192.0.2.1", "right horse").outcome().is_ok(), "not for ever");
}

#[test]
fn a_certificate_is_part_of_what_was_shown() {
    let rig = Rig::new();
    let now = clock::now();
    let certificate = |number: u8, with: Option<&str>| {
        let shown = ShownCertificate {
            serial: number.to_string(),
            fingerprint: [number; 32],
            user: "ada".to_owned(),
            not_after: UnixMs(i64::MAX),
        };
        let with = with.map(|password| Box::new(right(password)));
        PassProof::Certificate { shown: Box::new(shown), with }
    };
    for number in [1, 2] {
        let certificate = Certificate {
            serial: number.to_string(),
            user: "ada".parse().unwrap(),
            fingerprint: [number; 32],
            created: UnixMs(0),
            expires: UnixMs(i64::MAX),
            revoked: None,
        };
        rig.run(Operation::CertificateAdd { certificate });
    }
    let ask = |proof| rig.show(now, "192.0.2.1", proof);
    let first = ask(certificate(1, None)).outcome().unwrap();
    assert!(Arc::ptr_eq(&first, &ask(certificate(1, None)).known.unwrap()));
    for other in [certificate(2, None), certificate(1, Some("right horse")), right("right horse")] {
        assert!(!Arc::ptr_eq(&first, &ask(other).outcome().unwrap()), "each is asked about");
    }
    assert!(ask(certificate(3, None)).outcome().is_err());
    assert!(ask(certificate(1, Some("wrong"))).outcome().is_err());
    rig.run(Operation::CertificateRevoke { serial: "1".to_owned() });
    assert!(first.has_ended());
    assert!(ask(certificate(1, None)).outcome().is_err(), "it is not remembered");
    assert!(ask(certificate(2, None)).known.is_some());
}

#[test]
fn many_who_show_the_same_at_once_are_decided_on_once() {
    let rig = Rig::new();
    let now = clock::now();
    let asked: Vec<_> = (0..100).map(|_| rig.ask(now, "192.0.2.1", "right horse")).collect();
    let permits: Vec<_> =
        asked.into_iter().filter(|it| it.known.is_none()).map(|it| it.outcome().unwrap()).collect();
    assert!(permits.iter().all(|permit| Arc::ptr_eq(permit, &permits[0])), "{}", permits.len());
}

#[test]
fn what_was_revoked_is_not_remembered() {
    let rig = Rig::new();
    let now = clock::now();
    let held = rig.ask(now, "192.0.2.1", "right horse").outcome().unwrap();
    let anywhere = "203.0.113.5:443".parse().unwrap();
    assert!(held.may_reach(anywhere, Upper::Tcp));
    rig.run(Operation::UserDisable { name: "ada".parse().unwrap() });
    assert!(held.has_ended() && !held.may_reach(anywhere, Upper::Tcp));
    let refused = rig.ask(now, "192.0.2.1", "right horse").outcome().unwrap_err();
    assert_eq!(refused.code, RefusalCode::Denied);
    rig.access.shared.sweep(now);
    assert_eq!(lock(&rig.access.shared.cache).len(), 0);
}

#[test]
fn clients_of_the_tunnel_are_reached_where_a_rule_names_them_alone() {
    let rig = Rig::new();
    let now = clock::now();
    let permit = rig.ask(now, "192.0.2.1", "right horse").outcome().unwrap();
    let reach = |address: &str| permit.may_reach(address.parse().unwrap(), Upper::Tcp);
    assert!(reach("198.51.100.1:80") && reach("[2001:db8::1]:80"));
    assert!(!reach("10.9.0.7:80") && !reach("[::ffff:10.9.0.7]:80"));
    let terms = permit.policy();
    assert!(terms.up.is_none());
    let rules = ["allow 10.9.0.7 80/tcp", "deny 198.51.100.0/24", "allow any"];
    let rules: Vec<_> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let judge = crate::policy::Judge::new(&rules, Defaults::default());
    permit.set_policy(Arc::new(PeerPolicy { judge: judge.into(), ..(*terms).clone() }));
    assert!(reach("10.9.0.7:80") && !reach("10.9.0.8:80") && !reach("10.9.0.7:81"));
    assert!(!reach("198.51.100.1:80") && reach("203.0.113.1:80"));
}

#[test]
fn a_user_has_its_share_of_connections() {
    let member = Arc::new(Member::new(Id(1), "ada".parse().unwrap()));
    let now = clock::now();
    let held =
        [member.enter(now, true, 2, None).unwrap(), member.enter(now, true, 2, None).unwrap()];
    assert_eq!(member.enter(now, true, 2, None).map(drop), Err(TooMany::AtOnce));
    drop(held);
    // Three each second, and thirty at once.
    for _ in 0..30 {
        member.enter(now, true, 2, Some(3)).unwrap();
    }
    assert_eq!(member.enter(now, true, 2, Some(3)).map(drop), Err(TooMany::TooFast));
    let seat = member.enter(now + Duration::from_millis(340), true, 1, Some(3)).unwrap();
    assert_eq!(
        member.enter(now, true, 1, None).map(drop),
        Err(TooMany::AtOnce),
        "refusals hold no place"
    );
    drop(seat);
    member.enter(now, true, 1, None).unwrap();
    assert_eq!(member.enter(now, true, 1, Some(0)).map(drop), Err(TooMany::TooFast), "none at all");
    member.enter(now, true, 1, None).unwrap();
}

#[test]
fn what_waits_to_be_used_gives_its_place_to_what_is_needed_and_to_nothing_else() {
    let member = Arc::new(Member::new(Id(1), "ada".parse().unwrap()));
    let now = clock::now();
    let (told, hears) = crossbeam_channel::unbounded();
    let wait = |name: &'static str| {
        let mut seat = member.enter(now, false, 3, None).unwrap();
        let told = told.clone();
        seat.wait(move || told.send(name).unwrap());
        seat
    };
    let (first, mut second, third) = (wait("first"), wait("second"), wait("third"));
    assert_eq!(member.enter(now, false, 3, None).map(drop), Err(TooMany::AtOnce));
    assert!(first.is_held() && hears.try_recv().is_err());
    let needed = member.enter(now, true, 3, None).unwrap();
    assert_eq!(hears.try_recv(), Ok("first"), "it has waited for the longest time");
    assert!(!first.is_held() && second.is_held());
    assert!(second.stop_waiting() && second.is_held(), "it is used");
    drop(first);
    assert_eq!(member.enter(now, false, 3, None).map(drop), Err(TooMany::AtOnce), "it had none");
    let _also_needed = member.enter(now, true, 3, None).unwrap();
    assert_eq!(hears.try_recv(), Ok("third"));
    assert_eq!(member.enter(now, true, 3, None).map(drop), Err(TooMany::AtOnce), "all are used");
    drop((needed, second, third));
    let mut last = wait("last");
    drop(wait("it goes by itself"));
    assert!(last.stop_waiting());
    assert!(hears.try_recv().is_err());
}

#[test]
fn what_was_moved_is_told_to_the_byte_and_nothing_grows_without_bound() {
    let rig = Rig::new();
    let now = clock::now();
    let permit = rig.ask(now, "192.0.2.1", "right horse").outcome().unwrap();
    permit.member().count(3, 5);
    permit.member().count(10, 20);
    let user = permit.member().user;
    let moved = |now| {
        let moved = rig.access.shared.sweep(now).into_iter();
        let told = moved.map(|Moved { user, up, down, destinations }| {
            let told = |it: DestinationMoved| (it.destination, it.connections, it.sent_bytes);
            (user, up, down, destinations.into_iter().map(told).collect::<Vec<_>>())
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(moved(now), [(user, 13, 25, vec![])]);
    assert_eq!(moved(now), []);
    permit.member().count_destination("a.example", 3, 4);
    permit.member().count_destination("a.example", 3, 4);
    assert_eq!(moved(now), [(user, 0, 0, vec![("a.example".into(), 2, 8)])]);
    assert_eq!(moved(now), []);
    for number in 0..DESTINATIONS_PER_USER_MAX + 3 {
        permit.member().count_destination(&number.to_string(), 0, 1);
    }
    let [(_, _, _, many)] = &moved(now)[..] else { panic!() };
    assert_eq!(many.len(), DESTINATIONS_PER_USER_MAX + 1);
    assert!(many.contains(&(DESTINATION_OTHER.into(), 3, 3)));
    permit.member().count(1, 0);
    drop(permit);
    let later = now + 2 * PROXY_PERMIT_LASTS;
    assert_eq!(moved(later), [(user, 1, 0, vec![])], "of one who has just left");
    // The thread that has decided may hold it for a moment longer.
    let shared = &rig.access.shared;
    let give_up_at = clock::now() + Duration::from_secs(60);
    while (lock(&shared.permits).len(), lock(&shared.members).len()) != (0, 0) {
        assert!(clock::now() < give_up_at, "somebody is kept for ever");
        std::thread::sleep(Duration::from_millis(1));
        shared.sweep(later);
    }

    let permit = rig.ask(now, "192.0.2.1", "right horse").outcome().unwrap();
    let mut cache = Cache::default();
    for number in 0..PROXY_PERMITS_MAX + 10 {
        let mut shown = [0; 32];
        shown[..8].copy_from_slice(&number.to_be_bytes());
        let key = Key { source: Source::V4([0; 4]), shown };
        cache.settle(key, Some(&permit), now);
        assert!(cache.len() <= PROXY_PERMITS_MAX);
    }
}
