//! One line of text that an administrator hands over, and the user is online.

use corelane::accounts::model::TokenScope;
use corelane::accounts::operations::{Operation, Outcome};
use corelane::exit::ExitCode;
use corelane::lab::addresses;
use corelane::login::invite::Invite;

use crate::daemon::Daemon;
use crate::site::{PORT, SERVER_V4, Server, Site, add_user, await_online};
use crate::tools;

fn invite(site: &Site, server: &Server) -> Invite {
    let token = Operation::TokenCreate {
        user: "alice".parse().unwrap(),
        label: "invite".to_owned(),
        scope: TokenScope::Invite,
        expires_s: Some(3600),
    };
    let outcomes = server.administer([add_user("alice"), token]);
    let Outcome::Token(made) = &outcomes[1] else { panic!("{outcomes:?}") };
    Invite {
        servers: vec![format!("{}:{PORT}", addresses::SERVER_V4)],
        pin: Some(site.pin()),
        user: "alice".parse().unwrap(),
        token: made.token.clone(),
        expires_unix_s: 0,
    }
}

/// A client that is told `target` alone.
fn client(site: &Site, name: &str, target: &str) -> Daemon {
    let (mut client, _) = Daemon::new(site.directory.path(), name, "up");
    client.target = Some(target.to_owned());
    let profiles = site.path(&format!("{name}.profiles")).display().to_string();
    client.flags.extend(["--state-directory".to_owned(), profiles]);
    client
}

#[test]
fn an_invite_is_redeemed_once_and_the_device_needs_no_secret_from_then_on() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    let invite = invite(&site, &server).to_text();
    server.start(&site.lab.server);
    let mut alice = client(&site, "alice", invite.expose());
    // By the invite, by the invite again, and by what it has become.
    for target in [invite.expose(), invite.expose(), "alice@192.0.2.1"] {
        alice.target = Some(target.to_owned());
        alice.start(&site.lab.client);
        await_online(&mut alice);
        tools::ping(&site.lab.client, SERVER_V4, "-c 3 -i 0.01");
        assert!(alice.terminate().success(), "{}", alice.log());
    }
    assert!(!alice.log().contains("clane_"), "no secret is logged");
    // Somebody else who has seen it comes too late.
    let mut thief = client(&site, "thief", invite.expose());
    thief.start(&site.lab.router);
    assert_eq!(thief.await_end().code(), Some(ExitCode::Denied as i32), "{}", thief.log());
}

#[test]
fn what_is_no_invite_is_told_apart() {
    let site = Site::new();
    for (target, code, said) in [
        ("corelane:abc", ExitCode::Failure, "the invite is damaged"),
        ("alice@nowhere", ExitCode::NotFound, "accept an invite by `corelane up INVITE`"),
    ] {
        let mut client = client(&site, "alice", target);
        client.start(&site.lab.client);
        assert_eq!(client.await_end().code(), Some(code as i32), "{}", client.log());
        assert!(client.log().contains(said), "{}", client.log());
    }
}
