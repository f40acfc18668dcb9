use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::accounts::model::{SessionEnd, TokenScope, UnixMs};
use crate::sys::clock;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn user(id: i64, called: &str) -> User {
    User::new(Id(id), name(called), UnixMs(0))
}

fn device(id: i64, user: i64, key: u8) -> Device {
    Device {
        id: Id(id),
        user: Id(user),
        name: name("laptop"),
        public_key: PublicKey([key; 32]),
        created: UnixMs(0),
        last_login: UnixMs(0),
    }
}

fn token(id: i64, user: i64, hash: u8, device: Option<i64>) -> Token {
    Token {
        id: Id(id),
        user: Id(user),
        hash: [hash; 32],
        label: String::new(),
        scope: TokenScope::Tunnel,
        device: device.map(Id),
        created: UnixMs(0),
        expires: None,
        last_used: None,
    }
}

fn session(id: i64, user: i64, device: i64) -> SessionRecord {
    SessionRecord {
        id: Id(id),
        user: Id(user),
        device: Id(device),
        server: name("here"),
        from: "192.0.2.1:5".parse().unwrap(),
        started: UnixMs(0),
        ended: None,
        received_bytes: 0,
        sent_bytes: 0,
    }
}

/// One of the changes that indexes are about, among few rows, so that they meet.
fn random_change(rng: &mut StdRng) -> Change {
    let mut few = || rng.random_range(1..6);
    let (id, of, key) = (few(), few(), few());
    match few() * 2 + few() % 2 {
        2 => Change::AddUser(user(id, &format!("u{key}"))),
        3 => Change::PutUser(user(id, &format!("own{id}"))),
        4 => Change::DeleteUser(Id(id)),
        5 | 6 => Change::PutDevice(device(id, of, key as u8)),
        7 => Change::DeleteDevice(Id(id)),
        8 => Change::PutToken(token(id, of, id as u8, (key < 3).then_some(key))),
        9 => Change::DeleteToken(Id(id)),
        10 => Change::StartSession(session(id, of, key)),
        _ => Change::EndSession { session: Id(id), at: UnixMs(0), end: SessionEnd::LoggedOut },
    }
}

#[test]
fn indexes_are_those_of_what_is_known_whatever_was_changed() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut book = Book::default();
        for step in 0..60 {
            let change = random_change(&mut rng);
            book.apply(&change);
            assert_eq!(book, Book::new(book.known.clone()), "seed {seed}, step {step}: {change:?}");
        }
    }
}

#[test]
fn rules_and_bounds_come_from_the_user_first_and_then_from_its_groups() {
    let mut book = Book::default();
    for (group, rule, up_bps) in [("b", "deny 10.0.0.0/8", 5), ("a", "allow any", 9)] {
        let bounds = Bounds { up_bps: Some(up_bps), ..Bounds::default() };
        let acl = vec![rule.parse().unwrap()];
        book.apply(&Change::PutGroup(Group { name: name(group), bounds, acl }));
    }
    let acl = vec!["deny any icmp".parse().unwrap()];
    let groups = BTreeSet::from([name("a"), name("b")]);
    book.apply(&Change::AddUser(User { acl, groups, ..user(1, "alice") }));
    let (bounds, rules) = book.policy_of(book.user_named(&name("alice")).unwrap());
    assert_eq!(bounds.up_bps, Some(9));
    let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["deny any icmp", "allow any", "deny 10.0.0.0/8"]);
}

#[test]
fn usage_is_summed_over_servers_and_forgotten_after_a_month() {
    let mut book = Book::default();
    let usage = |server: &str, day| UsageRecord {
        user: Id(1),
        server: name(server),
        day,
        received_bytes: 2,
        sent_bytes: 1,
    };
    for (server, day) in [("a", 100), ("b", 100), ("a", 101), ("a", 101), ("a", 130)] {
        book.apply(&Change::AddUsage(usage(server, day)));
    }
    assert_eq!(book.moved_since(Id(1), 100), 15);
    assert_eq!(book.moved_since(Id(1), 101), 9);
    assert_eq!(book.moved_since(Id(2), 0), 0);
    book.apply(&Change::AddUsage(usage("a", 132)));
    assert_eq!(book.moved_since(Id(1), 0), 12, "day 100 is gone");
    let enormous = UsageRecord { sent_bytes: u64::MAX, ..usage("a", 132) };
    book.apply(&Change::AddUsage(enormous));
    assert_eq!(book.moved_since(Id(1), 0), u64::MAX);
}

/// A login asks the book a dozen times. The bound is generous, so that a busy machine meets it.
#[test]
fn ten_thousand_users_are_looked_up_in_far_less_than_a_millisecond() {
    const USERS: i64 = 10_000;
    let mut known = Snapshot::default();
    for id in 1..=USERS {
        known.users.insert(Id(id), user(id, &format!("user{id}")));
        let mut key = [0; 32];
        key[..8].copy_from_slice(&id.to_le_bytes());
        let device = Device { public_key: PublicKey(key), ..device(id, id, 0) };
        known.devices.insert(Id(id), device);
        known.tokens.insert(Id(id), Token { hash: key, ..token(id, id, 0, Some(id)) });
        known.sessions.insert(Id(id), session(id, id, id));
    }
    let book = Book::new(known);
    let start = clock::now();
    for id in 1..=USERS {
        let user = book.user_named(&name(&format!("user{id}"))).unwrap();
        let device = book.devices_of(user.id).next().unwrap();
        assert_eq!(book.device_with_key(&device.public_key).unwrap().user, user.id);
        assert_eq!(book.token_with_hash(&device.public_key.0).unwrap().user, user.id);
        assert_eq!(book.sessions_of(user.id).count(), 1);
        assert_eq!(book.moved_since(user.id, 0), 0);
        assert!(book.policy_of(user).1.is_empty());
    }
    let each = clock::now().duration_since(start) / USERS as u32;
    assert!(each < Duration::from_millis(1), "{each:?} each");
}
