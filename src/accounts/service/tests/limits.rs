use std::net::Ipv4Addr;
use std::time::Duration;

use crate::accounts::addresses::AddressPlan;
use crate::accounts::change::Change;
use crate::accounts::model::{SessionEnd, UnixMs};
use crate::accounts::operations::Outcome;
use crate::accounts::refusal::RefusalCode;
use crate::accounts::service::testing::{Rig, by_password, name};
use crate::accounts::service::{Notice, State};
use crate::handshake::keys::PublicKey;

fn code(rig: &Rig, user: &str, device: u8) -> Result<(), RefusalCode> {
    rig.login(by_password(user, device)).map(drop).map_err(|refusal| refusal.code)
}

fn set(rig: &Rig, bounds: &str) {
    rig.run_json(&format!(
        r#"{{"operation":"user_set","name":"alice","limits":{{"set":{bounds}}}}}"#
    ));
}

#[test]
fn devices_and_sessions_have_bounds() {
    let rig = Rig::new();
    rig.add("alice");
    set(&rig, r#"{"devices_max":2,"sessions_max":1}"#);
    assert_eq!(code(&rig, "alice", 1), Ok(()));
    assert_eq!(code(&rig, "alice", 2), Err(RefusalCode::TooManySessions));
    assert_eq!(code(&rig, "alice", 1), Ok(()), "its own session it takes the place of");
    set(&rig, r#"{"sessions_max":5}"#);
    assert_eq!(code(&rig, "alice", 2), Ok(()));
    assert_eq!(code(&rig, "alice", 3), Err(RefusalCode::TooManyDevices));
}

#[test]
fn a_key_belongs_to_one_user() {
    let taken = PublicKey([103; 32]);
    let rig = Rig::with(|options| options.foreign_keys = [taken].into());
    rig.add("alice");
    rig.add("bob");
    assert_eq!(code(&rig, "alice", 1), Ok(()));
    assert_eq!(code(&rig, "bob", 1), Err(RefusalCode::DeviceTaken));
    assert_eq!(code(&rig, "alice", 3), Err(RefusalCode::DeviceTaken), "the server's own");
    let mut weak = by_password("alice", 4);
    weak.device_key = PublicKey([0; 32]);
    assert_eq!(rig.login(weak).unwrap_err().code, RefusalCode::Malformed);
}

#[test]
fn two_machines_with_one_key_take_turns_and_both_learn_why() {
    let rig = Rig::new();
    rig.add("alice");
    let notices = rig.accounts.subscribe();
    for _ in 0..3 {
        rig.login(by_password("alice", 1)).unwrap();
    }
    for _ in 0..2 {
        let notice = notices.recv_timeout(Duration::from_secs(60)).unwrap();
        let Notice::SessionEnded { end, .. } = notice else { panic!("{notice:?}") };
        assert_eq!(end, SessionEnd::Replaced);
    }
    assert_eq!(rig.accounts.session_count(), 1);
}

#[test]
fn a_used_up_pool_says_so_and_a_removed_device_makes_room() {
    let rig = Rig::with(|options| {
        let pools = vec!["10.9.0.0/30".parse().unwrap()];
        options.addresses = AddressPlan { pools, excluded: Vec::new() };
    });
    rig.add("alice");
    assert_eq!((code(&rig, "alice", 1), code(&rig, "alice", 2)), (Ok(()), Ok(())));
    let refusal = rig.login(by_password("alice", 3)).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::PoolExhausted);
    assert!(refusal.message.contains("make the pools larger"), "{}", refusal.message);
    rig.run_json(r#"{"operation":"device_remove","user":"alice","device":"laptop"}"#);
    assert_eq!(code(&rig, "alice", 3), Ok(()));
}

#[test]
fn a_reserved_address_is_kept_for_its_user() {
    let rig = Rig::new();
    rig.add("alice");
    rig.add("bob");
    let reserve = r#"{"operation":"user_set","name":"alice","reserve_ipv4":"10.9.0.2"}"#;
    rig.run_json(reserve);
    let bob = rig.login(by_password("bob", 1)).unwrap();
    assert_eq!(bob.ipv4, Some("10.9.0.3".parse().unwrap()));
    let alice = rig.login(by_password("alice", 2)).unwrap();
    assert_eq!(alice.ipv4, Some("10.9.0.2".parse().unwrap()));
    let twice = reserve.replace("alice", "bob");
    assert!(rig.run(serde_json::from_str(&twice).unwrap()).is_err());
    let rig = rig.reopened();
    assert_eq!(rig.login(by_password("alice", 2)).unwrap().ipv4, alice.ipv4);
}

#[test]
fn a_quota_sends_its_user_away_and_keeps_it_out() {
    let rig = Rig::new();
    rig.add("alice");
    set(&rig, r#"{"day_bytes":1000}"#);
    let granted = rig.login(by_password("alice", 1)).unwrap();
    let notices = rig.accounts.subscribe();
    rig.accounts.add_usage(granted.session, 400, 500);
    assert!(notices.is_empty());
    rig.accounts.add_usage(granted.session, 50, 50);
    let notice = notices.recv_timeout(Duration::from_secs(60)).unwrap();
    let Notice::SessionEnded { end, .. } = notice else { panic!("{notice:?}") };
    assert_eq!(end, SessionEnd::QuotaExceeded);
    // What was still under way counts.
    rig.accounts.add_usage(granted.session, 7, 0);
    assert_eq!(code(&rig, "alice", 1), Err(RefusalCode::QuotaExceeded));
    let stats = r#"{"operation":"stats","user":null,"since_s":86400,"by":"user"}"#;
    let Outcome::Usage(usage) = rig.run_json(stats) else { panic!("no usage") };
    assert_eq!(usage.len(), 1);
    assert_eq!((usage[0].sent_bytes, usage[0].received_bytes), (457, 550));

    let rig = rig.reopened();
    assert_eq!(code(&rig, "alice", 1), Err(RefusalCode::QuotaExceeded));
    set(&rig, r#"{"day_bytes":100000}"#);
    assert_eq!(code(&rig, "alice", 1), Ok(()));
    let Outcome::User(view) = rig.run_json(r#"{"operation":"user_show","name":"alice"}"#) else {
        panic!("no user");
    };
    assert_eq!((view.name, view.day_bytes, view.month_bytes), (name("alice"), 1007, 1007));
}

#[test]
fn reserved_addresses_follow_when_everything_is_read_anew() {
    let rig = Rig::new();
    for user in ["alice", "bob", "carol"] {
        rig.add(user);
    }
    let [first, second] = ["10.9.0.77", "10.9.0.88"].map(|text| text.parse::<Ipv4Addr>().unwrap());
    let mut state = rig.accounts.shared().state();
    let mut known = state.book.known().clone();
    let mut reserve = |state: &mut State, of: [(&str, Option<Ipv4Addr>); 2]| {
        for (user, address) in of {
            let id = state.book.user_named(&name(user)).unwrap().id;
            known.users.get_mut(&id).unwrap().reserved_ipv4 = address;
        }
        state.replace_book(known.clone(), UnixMs(0));
    };
    reserve(&mut state, [("alice", Some(first)), ("bob", Some(second))]);
    let [alice, bob, carol] =
        ["alice", "bob", "carol"].map(|user| state.book.user_named(&name(user)).unwrap().id);
    assert!(state.addresses.reserve(carol, Some(first), None).is_err());
    // They change places, which only works if both are let go first; then one is free.
    reserve(&mut state, [("alice", Some(second)), ("bob", Some(first))]);
    assert!(state.addresses.reserve(bob, Some(second), None).is_err());
    assert!(state.addresses.reserve(alice, Some(first), None).is_err());
    reserve(&mut state, [("alice", Some(second)), ("bob", None)]);
    assert!(state.addresses.reserve(carol, Some(first), None).is_ok());
    drop(state);
    assert_eq!(rig.login(by_password("alice", 1)).unwrap().ipv4, Some(second));
    let mut state = rig.accounts.shared().state();
    let mut without = state.book.known().clone();
    without.apply(&Change::DeleteUser(alice));
    state.replace_book(without, UnixMs(0));
    assert_eq!(state.addresses.holder(second.into()), None, "its device is gone");
}
