//! Who is not let in, and how they are told.

use std::fs;

use corelane::accounts::operations::{Operation, Outcome};
use corelane::exit::ExitCode;
use corelane::lab::addresses;

use crate::daemon::Daemon;
use crate::site::{SERVER_V4, Site, add_user, await_online};
use crate::tools;

#[test]
fn a_wrong_password_is_refused_with_a_reason_and_an_exit_code() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    for user in ["alice", "nobody"] {
        let mut client = site.client(user, &[addresses::SERVER_V4]);
        fs::write(site.path(&format!("{user}.password")), "guess").unwrap();
        client.start(&site.lab.client);
        assert_eq!(client.await_end().code(), Some(ExitCode::Denied as i32), "{}", client.log());
        assert!(client.log().contains("the login was refused"), "{}", client.log());
    }
    let links = tools::run(&site.lab.client, "ip -o link");
    assert!(!links.contains("corelane0"), "nothing was set up: {links}");
}

#[test]
fn a_server_that_another_authority_vouches_for_is_not_believed() {
    let (site, other) = (Site::new(), Site::new());
    let mut server = site.server("vpn", "");
    server.start(&site.lab.server);
    let mut client = other.client("alice", &[addresses::SERVER_V4]);
    client.start(&site.lab.client);
    assert_eq!(client.await_end().code(), Some(ExitCode::Denied as i32), "{}", client.log());
}

#[test]
fn a_pool_that_is_used_up_is_named() {
    let site = Site::new();
    // The server's own address, and two more.
    let mut server = site.server("vpn", "[lease]\npools = [\"10.77.0.0/30\"]\n");
    server.administer(["alice", "bob"].map(add_user));
    server.start(&site.lab.server);
    let mut alice = site.client("alice", &[addresses::SERVER_V4]);
    alice.start(&site.lab.client);
    await_online(&mut alice);
    let mut bob = site.client("bob", &[addresses::SERVER_V4]);
    bob.flags.extend(["--tun".to_owned(), "corelane1".to_owned()]);
    bob.start(&site.lab.client);
    assert_eq!(bob.await_end().code(), Some(ExitCode::Denied as i32), "{}", bob.log());
    assert!(bob.log().contains("make the pools larger"), "{}", bob.log());
    tools::ping(&site.lab.client, SERVER_V4, "-c 3 -i 0.01");
}

#[test]
fn of_two_machines_with_one_device_the_last_stays() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let mut first = site.client("alice", &[addresses::SERVER_V4]);
    first.start(&site.lab.client);
    await_online(&mut first);

    // The same state cannot be used twice on one host,
    let mut again = site.client("alice", &[addresses::SERVER_V4]);
    again.flags.extend(["--tun".to_owned(), "corelane1".to_owned()]);
    again.start(&site.lab.client);
    assert!(!again.await_end().success());
    assert!(again.log().contains("one device cannot log in twice"), "{}", again.log());

    // but copied to another it can, and takes the place of the first.
    let mut copy = site.client_copy("alice", "copy", addresses::SERVER_V4);
    copy.start(&site.lab.router);
    await_online(&mut copy);
    assert_eq!(first.await_end().code(), Some(ExitCode::Denied as i32), "{}", first.log());
    assert!(first.log().contains("this device has logged in elsewhere"), "{}", first.log());
    tools::ping(&site.lab.router, SERVER_V4, "-c 3 -i 0.01");
}

#[test]
fn a_password_and_a_code_come_by_standard_input_and_are_asked_for_once() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    let totp = Operation::UserTotp { name: "alice".parse().unwrap() };
    let outcomes = server.administer([add_user("alice"), totp]);
    let Outcome::Totp(set) = &outcomes[1] else { panic!("{outcomes:?}") };
    let code = set.recovery_codes[0].expose().to_owned();
    server.start(&site.lab.server);
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    client.start(&site.lab.client);
    assert_eq!(client.await_end().code(), Some(ExitCode::Denied as i32));
    assert!(client.log().contains("code of the authenticator is needed"), "{}", client.log());
    client.flags.push("--password-stdin".to_owned());
    client.stdin = Some(format!("{code}\n"));
    client.start(&site.lab.client);
    await_online(&mut client);
    tools::ping(&site.lab.client, SERVER_V4, "-c 3 -i 0.01");
    // By now the device has a token of its own: nothing is asked for.
    assert!(client.terminate().success());
    client.stdin = None;
    client.start(&site.lab.client);
    await_online(&mut client);
}

#[test]
fn authorities_of_the_system_vouch_for_the_names_that_a_server_has() {
    let (site, other) = (Site::new(), Site::new());
    let mut server = site.server("vpn", "");
    server.administer([add_user("alice")]);
    server.start(&site.lab.server);
    let authority = |site: &Site| fs::read_to_string(site.path("pki/ca.crt")).unwrap();
    let bundle = site.path("bundle.pem");
    let mut client = site.client("alice", &[addresses::SERVER_V4]);
    let config = fs::read_to_string(client.config_file()).unwrap();
    let mut lines: Vec<_> = config.lines().collect();
    lines.retain(|line| !line.starts_with("ca_file"));
    fs::write(client.config_file(), lines.join("\n")).unwrap();
    // What the system believes is where this variable says, in place of the machine's own.
    let bundled = format!("SSL_CERT_FILE={}", bundle.display());
    client.wrapper = ["env", "-u", "SSL_CERT_DIR", &bundled].map(str::to_owned).to_vec();
    let expect_refused = |client: &mut Daemon, why: &str| {
        client.start(&site.lab.client);
        assert_eq!(client.await_end().code(), Some(ExitCode::Denied as i32), "{}", client.log());
        assert!(client.log().contains(why), "{}", client.log());
    };

    fs::write(&bundle, authority(&other)).unwrap();
    expect_refused(&mut client, "from a CA that is not trusted here");

    fs::write(&bundle, authority(&other) + &authority(&site)).unwrap();
    client.start(&site.lab.client);
    await_online(&mut client);
    tools::ping(&site.lab.client, SERVER_V4, "-c 3 -i 0.01");
    assert!(client.terminate().success(), "{}", client.log());

    // A certificate of the same authority, for another name.
    let pki = site.path("pki").display().to_string();
    let renew = ["cert", "renew", "--domain", "vpn.example.org", "--dir", &pki];
    let output = server.daemon.ask_nobody(&renew);
    assert!(output.status.success(), "{output:?}");
    assert!(server.daemon.terminate().success(), "{}", server.daemon.log());
    server.start(&site.lab.server);
    let why = format!("is not for {}, but for ", addresses::SERVER_V4);
    expect_refused(&mut client, &why);
    assert!(client.log().contains("vpn.example.org"), "{}", client.log());
}
