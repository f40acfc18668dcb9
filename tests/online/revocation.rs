//! Whoever is no longer welcome is out within a second: user, device, token, certificate.

use std::fs;
use std::time::Duration;

use corelane::accounts::operations::Done;
use corelane::exit::ExitCode;
use corelane::lab::addresses;
use corelane::sys::clock;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::site::{SERVER_V4, Server, Site, ask, await_online};
use crate::tools;

/// How long a revocation may take, until every path is closed.
pub(crate) const WITHIN: Duration = Duration::from_secs(1);
/// How often a user is let out and in again.
const ROUNDS: usize = 20;

/// A server on which alice may log in, and her client, online by an invite.
fn online(site: &Site) -> (Server, Daemon) {
    let mut server = site.server("vpn", "");
    server.start(&site.lab.server);
    ask(&server, &["user", "add", "alice", "--no-password"]);
    (server, invited(site))
}

fn invited(site: &Site) -> Daemon {
    let server = format!("{}:20443", addresses::SERVER_V4);
    let config = site.path("vpn.toml").display().to_string();
    let command = ["invite", "alice", "--server", &server, "-c", &config];
    let (mut client, _) = Daemon::new(site.directory.path(), "alice", "up");
    let output = client.ask_nobody(&command);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let invite = text.lines().find(|line| line.starts_with("corelane:"));
    client.target = Some(invite.unwrap_or_else(|| panic!("{text}")).to_owned());
    let profiles = site.path("profiles").display().to_string();
    client.flags.extend(["--state-directory".to_owned(), profiles]);
    client.start(&site.lab.client);
    await_online(&mut client);
    tools::ping(&site.lab.client, SERVER_V4, "-c 3 -i 0.01");
    client
}

/// The client was told why, and has ended with the exit code for it.
#[track_caller]
pub(crate) fn expect_out(client: &mut Daemon, why: &str) {
    assert_eq!(client.await_end().code(), Some(ExitCode::Denied as i32), "{}", client.log());
    assert!(client.log().contains(why), "{}", client.log());
}

pub(crate) fn closed(answer: &Value) -> Duration {
    let done: Done = serde_json::from_value(answer.get("value").unwrap_or(answer).clone()).unwrap();
    assert_eq!(done.sessions_ended, 1, "{answer}");
    Duration::from_secs_f64(done.closed_ms.unwrap() / 1000.0)
}

#[test]
fn a_user_that_is_disabled_is_out_within_a_second_each_time() {
    let site = Site::new();
    let (server, mut client) = online(&site);
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        if round > 0 {
            ask(&server, &["user", "enable", "alice"]);
            client.start(&site.lab.client);
            await_online(&mut client);
        }
        let took = closed(&ask(&server, &["user", "disable", "alice"]));
        assert!(took <= WITHIN, "{took:?}");
        assert!(!tools::echo(&site.lab.client, SERVER_V4), "nothing passes any more");
        expect_out(&mut client, "no longer good");
        times.push(took);
    }
    times.sort_unstable();
    println!("every path closed: median {:?}, max {:?}", times[ROUNDS / 2], times[ROUNDS - 1]);
    // And it is not let in again.
    client.start(&site.lab.client);
    assert_eq!(client.await_end().code(), Some(ExitCode::Denied as i32), "{}", client.log());
}

#[test]
fn a_device_and_a_token_that_are_removed_are_out_within_a_second() {
    let site = Site::new();
    let (server, mut client) = online(&site);
    let devices = ask(&server, &["device", "ls"]);
    let device = text(&devices, "name");
    let took = closed(&ask(&server, &["device", "rm", "alice", &device]));
    assert!(took <= WITHIN, "{took:?}");
    expect_out(&mut client, "no longer good");

    let mut client = invited(&site);
    let tokens = ask(&server, &["token", "ls"]);
    let took = closed(&ask(&server, &["token", "revoke", &text(&tokens, "id")]));
    assert!(took <= WITHIN, "{took:?}");
    expect_out(&mut client, "no longer good");
}

/// The value of `key` in the only entry of a list.
fn text(answer: &Value, key: &str) -> String {
    let list = answer.get("value").unwrap_or(answer).as_array().unwrap();
    let [only] = &list[..] else { panic!("{answer}") };
    let value = &only[key];
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn a_certificate_that_is_revoked_is_out_within_a_second() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    server.start(&site.lab.server);
    ask(&server, &["user", "add", "alice", "--no-password"]);
    let (mut client, serial) = site.client_with_certificate("alice");
    client.start(&site.lab.client);
    await_online(&mut client);
    tools::ping(&site.lab.client, SERVER_V4, "-c 3 -i 0.01");
    site.revoke(&serial);
    let revoked = clock::now();
    while tools::echo(&site.lab.client, SERVER_V4) {
        assert!(clock::now() - revoked < WITHIN, "it still gets through");
    }
    println!("out {:?} after its certificate was revoked", clock::now() - revoked);
    expect_out(&mut client, "the certificate was revoked");
}

#[test]
fn a_certificate_that_is_revoked_by_command_is_out_within_a_second() {
    let site = Site::new();
    let mut server = site.server("vpn", "");
    // The accounts are told at once; that the list is read, too, is for the test above.
    let config = fs::read_to_string(server.daemon.config_file()).unwrap();
    let mut lines: Vec<_> = config.lines().collect();
    lines.retain(|line| !line.starts_with("client_crl_file"));
    fs::write(server.daemon.config_file(), lines.join("\n")).unwrap();
    server.start(&site.lab.server);
    ask(&server, &["user", "add", "alice", "--no-password"]);
    let (mut client, serial) = site.client_with_certificate("alice");
    client.start(&site.lab.client);
    await_online(&mut client);
    tools::ping(&site.lab.client, SERVER_V4, "-c 3 -i 0.01");

    let [pki, config] = [site.path("pki"), server.daemon.config_file()];
    let [pki, config] = [pki.to_str().unwrap(), config.to_str().unwrap()];
    let began = clock::now();
    let revoke = ["cert", "revoke", &serial, "--dir", pki, "-c", config];
    let output = server.daemon.ask_nobody(&revoke);
    let took = clock::now() - began;
    assert!(!tools::echo(&site.lab.client, SERVER_V4), "nothing passes any more");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let closed = said.split("1 session ended, every path closed in ").nth(1);
    let closed = closed.and_then(|rest| rest.split(" ms").next()?.parse::<f64>().ok());
    let closed = Duration::from_secs_f64(closed.unwrap_or_else(|| panic!("{said}")) / 1000.0);
    assert!(closed <= WITHIN && closed <= took, "{closed:?} of {took:?}");
    println!("every path closed: {closed:?}; the whole command: {took:?}");
    expect_out(&mut client, "no longer good");
    client.start(&site.lab.client);
    assert_eq!(client.await_end().code(), Some(ExitCode::Denied as i32), "{}", client.log());
}
