use crate::accounts::operations::{Operation, OperationErrorKind, Outcome, StatsBy, UserView};
use crate::accounts::refusal::RefusalCode;
use crate::accounts::service::LoginAttempt;
use crate::accounts::service::testing::{PASSWORD, Rig, by_password, name};
use crate::accounts::store::Store;

fn kind(rig: &Rig, json: &str) -> OperationErrorKind {
    rig.run(serde_json::from_str(json).unwrap()).unwrap_err().kind
}

fn show(rig: &Rig, user: &str) -> UserView {
    match rig.run(Operation::UserShow { name: name(user) }).unwrap() {
        Outcome::User(view) => *view,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_user_is_made_shown_changed_and_removed_and_all_of_it_is_on_record() {
    let rig = Rig::new();
    rig.run_json(r#"{"operation":"group_add","name":"staff","limits":{"set":{"down_bps":7}}}"#);
    let made = rig.run_json(
        r#"{"operation":"user_add","name":"alice","groups":["staff"],"password":"generate"}"#,
    );
    let Outcome::Password(made) = made else { panic!("{made:?}") };
    let password = made.password.unwrap();
    assert!(made.done.stored);
    let attempt = LoginAttempt { password: Some(password), ..by_password("alice", 1) };
    assert!(rig.login(attempt.clone()).is_ok());
    let view = show(&rig, "alice");
    assert_eq!((view.bounds.down_bps, view.devices, view.sessions), (Some(7), 1, 1));
    assert!(view.has_password && !view.has_totp && !view.disabled);

    let passwd = format!(
        r#"{{"operation":"user_password","name":"alice","password":{{"given":"{PASSWORD}"}}}}"#
    );
    rig.run_json(&passwd);
    assert_eq!(rig.login(attempt).unwrap_err().code, RefusalCode::Denied);
    assert!(rig.login(by_password("alice", 1)).is_ok());
    rig.run_json(r#"{"operation":"user_set","name":"alice","leave":["staff"]}"#);
    assert_eq!(show(&rig, "alice").bounds.down_bps, None);
    rig.run_json(r#"{"operation":"user_remove","name":"alice"}"#);
    assert_eq!(
        kind(&rig, r#"{"operation":"user_show","name":"alice"}"#),
        OperationErrorKind::NotFound
    );

    let audit = r#"{"operation":"audit","user":"alice","since_s":3600,"limit":100}"#;
    let Outcome::Audit(entries) = rig.run_json(audit) else { panic!("no audit") };
    let actions: Vec<_> = entries.iter().rev().map(|entry| entry.action.as_str()).collect();
    for action in ["user_added", "password_set", "user_changed", "user_removed", "login"] {
        assert!(actions.contains(&action), "{actions:?}");
    }
    let by_admin = entries.iter().filter(|entry| entry.actor == "admin (uid 0)").count();
    assert_eq!(by_admin, 4);
    let file = rig.audit_text();
    assert!(!file.contains(PASSWORD) && !file.contains("argon2"), "{file}");
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    use OperationErrorKind::{Exists, Invalid, NotFound};
    let rig = Rig::new();
    rig.add("alice");
    let before = show(&rig, "alice");
    for (json, expected) in [
        (r#"{"operation":"user_add","name":"alice","groups":[],"password":"none"}"#, Exists),
        (r#"{"operation":"user_add","name":"bob","groups":["no"],"password":"none"}"#, NotFound),
        (
            r#"{"operation":"user_add","name":"bob","groups":[],"password":{"given":"short"}}"#,
            Invalid,
        ),
        (r#"{"operation":"user_set","name":"alice","join":["no"]}"#, NotFound),
        (r#"{"operation":"user_disable","name":"nobody"}"#, NotFound),
        (r#"{"operation":"group_remove","name":"no"}"#, NotFound),
        (r#"{"operation":"device_remove","user":"alice","device":"no"}"#, NotFound),
        (r#"{"operation":"session_kick","session":5}"#, NotFound),
        (r#"{"operation":"token_revoke","token":5}"#, NotFound),
        (r#"{"operation":"certificate_revoke","serial":"0a"}"#, NotFound),
        (
            r#"{"operation":"certificate_add","certificate":{"serial":"'; --","user":"alice",
                "fingerprint":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],
                "created":0,"expires":1,"revoked":null}}"#,
            Invalid,
        ),
    ] {
        assert_eq!(kind(&rig, json), expected, "{json}");
    }
    assert_eq!(show(&rig, "alice"), before);
    let Outcome::Users(users) = rig.run(Operation::UserList {}).unwrap() else { panic!("none") };
    assert_eq!(users.len(), 1);
    for bad in [
        r#"{"operation":"user_show","name":"a b"}"#,
        r#"{"operation":"user_show","name":"alice","more":1}"#,
        r#"{"operation":"user_show","name":"alice","name":"alice"}"#,
        r#"{"operation":"nothing"}"#,
        r#"{"operation":"user_set","name":"alice","limits":{"set":{"up_bps":-1}}}"#,
    ] {
        assert!(serde_json::from_str::<Operation>(bad).is_err(), "{bad}");
    }
}

#[test]
fn rules_are_explained_and_history_is_told() {
    let rig = Rig::new();
    rig.add("alice");
    rig.add("bob");
    rig.run_json(
        r#"{"operation":"user_set","name":"alice",
            "limits":{"acl":["allow 10.0.0.0/8 443/tcp","deny any"]}}"#,
    );
    let explain = |user: &str, destination: &str, port: u16| {
        let operation = Operation::AclExplain {
            user: name(user),
            destination: destination.parse().unwrap(),
            port: Some(port),
            protocol: crate::policy::acl::Protocol::Tcp,
        };
        match rig.run(operation).unwrap() {
            Outcome::Explanation(answer) => (answer.allowed, answer.reason),
            other => panic!("{other:?}"),
        }
    };
    assert!(explain("alice", "10.1.1.1", 443).0);
    let (allowed, reason) = explain("alice", "10.1.1.1", 80);
    assert!(!allowed && reason.contains("deny any"), "{reason}");
    let peer = rig.login(by_password("alice", 1)).unwrap().ipv4.unwrap().to_string();
    let (allowed, reason) = explain("bob", &peer, 80);
    assert!(!allowed && reason.contains("another client"), "{reason}");

    let first = rig.login(by_password("bob", 2)).unwrap();
    rig.accounts.add_usage(first.session, 10, 20);
    rig.login(by_password("bob", 2)).unwrap();
    let list = |ended: bool| {
        let user = Some(name("bob"));
        match rig.run(Operation::SessionList { user, ended, limit: 10 }).unwrap() {
            Outcome::Sessions(sessions) => sessions,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list(false).len(), 1);
    let all = list(true);
    let ended = all.iter().find(|session| session.id == first.session).unwrap();
    assert_eq!((ended.sent_bytes, ended.received_bytes), (10, 20));
    assert_eq!(ended.end, Some(crate::accounts::model::SessionEnd::Replaced));
    let stats = Operation::Stats { user: None, since_s: 0, by: StatsBy::Day };
    let Outcome::Usage(usage) = rig.run(stats).unwrap() else { panic!("no usage") };
    assert_eq!((usage[0].sent_bytes, usage[0].received_bytes), (10, 20));
}

#[test]
fn a_backup_is_a_whole_database() {
    let rig = Rig::new();
    rig.add("alice");
    let path = rig.directory.path().join("backup.db");
    rig.run(Operation::Backup { path: path.clone() }).unwrap();
    let url = path.to_str().unwrap().parse().unwrap();
    let copy = Store::open(&url).unwrap().load(0).unwrap();
    assert!(copy.users.values().any(|user| user.name == name("alice")));
    let unwritable = rig.directory.path().join("no/backup.db");
    let error = rig.run(Operation::Backup { path: unwritable }).unwrap_err();
    assert_eq!(error.kind, OperationErrorKind::Unavailable);
}
