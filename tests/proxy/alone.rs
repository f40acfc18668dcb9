//! A gateway with accounts and no tunnel.

use std::fs::Permissions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Gateway, await_that, connect, echo, read_exactly, read_to_end};
use crate::house::ask_as;
use crate::members::by;
use crate::oracle::Oracle;
use crate::served::done;

const PASSWORD: &str = "right horse battery";
const TABLE: &str = "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nauth = \"required\"\n\
                     allow = [\"loopback\"]\nrequest_within_s = 300\n";

#[test]
fn people_are_known_without_a_tunnel_and_without_any_privilege() {
    let mut gateway = Gateway::start_alone_with_accounts(TABLE);
    gateway.administer(&["user", "add", "ada", "--password-stdin"], &format!("{PASSWORD}\n"));
    let echo = echo();
    let (mut relay, reply, _) = ask_as(gateway.address, ("ada", PASSWORD), 1, echo);
    assert_eq!(reply, 0);
    relay.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut relay, 5), b"hello");

    let oracle = Oracle::parrot();
    let fetch = |user: &str| {
        let mut stream = connect(gateway.address);
        let get =
            format!("GET {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", oracle.url("/"));
        stream.write_all(by(user, &get).as_bytes()).unwrap();
        String::from_utf8(read_to_end(&mut stream)).unwrap()
    };
    assert!(fetch(&format!("ada:{PASSWORD}")).starts_with("HTTP/1.1 200 "));
    assert!(fetch("ada:wrong").starts_with("HTTP/1.1 407 "));
    assert_eq!(oracle.visits().len(), 1, "a stranger gets nowhere");
    // Without a tunnel it is for the proxy.
    let token = gateway.administer(&["token", "create", "ada", "--json"], "");
    let token: serde_json::Value = serde_json::from_str(&token).unwrap();
    let token = token["token"].as_str().unwrap();
    assert!(fetch(&format!("ada:{token}")).starts_with("HTTP/1.1 200 "));

    let report = gateway.report();
    assert_eq!(report.role, "proxy");
    let accounts = report.accounts.expect("they are told of");
    assert_eq!((accounts.database_away, accounts.rejected_batches), (None, 0));
    // Rules hold, and a user who is disabled is gone at once.
    gateway.administer(&["user", "set", "ada", "--rule", "deny any"], "");
    assert!(fetch(&format!("ada:{PASSWORD}")).starts_with("HTTP/1.1 403 "));
    gateway.administer(&["user", "set", "ada", "--rule", "allow any"], "");
    let (mut relay, reply, _) = ask_as(gateway.address, ("ada", PASSWORD), 1, echo);
    assert_eq!(reply, 0);
    let said = gateway.administer(&["user", "disable", "ada"], "");
    assert!(said.contains("proxy login"), "{said}");
    assert!(std::io::copy(&mut relay, &mut std::io::sink()).is_err(), "it is reset");

    // What was moved is there when the gateway is not.
    gateway.terminate();
    assert!(gateway.await_end().success());
    let users = gateway.administer(&["user", "ls"], "");
    assert!(users.contains("ada"), "{users}");
    let stats = gateway.administer(&["stats", "--user", "ada", "--json"], "");
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let moved = stats[0]["received_bytes"].as_u64().unwrap();
    let by_requests: usize = oracle.visits().iter().map(|visit| visit.bytes.len()).sum();
    assert_eq!(moved, by_requests as u64 + 5, "{stats}");
}

#[test]
fn invites_are_refused_and_the_file_is_one_for_the_proxy() {
    let gateway = Gateway::start_alone_with_accounts(TABLE);
    let file = gateway.config_file();
    let corelane = |command: &[&str]| {
        let mut corelane = Command::new(env!("CARGO_BIN_EXE_corelane"));
        corelane.args(command).output().unwrap()
    };
    let file = file.to_str().unwrap();
    let check = corelane(&["config", "check", file]);
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success() && said.contains("corelane proxy"), "{check:?}");
    let invite = corelane(&["invite", "ada", "-c", file, "--server", "127.0.0.1:1"]);
    let said = String::from_utf8_lossy(&invite.stderr);
    assert!(!invite.status.success() && said.contains("--scope proxy"), "{invite:?}");
    let token = corelane(&["token", "create", "ada", "-c", file, "--scope", "tunnel"]);
    let said = String::from_utf8_lossy(&token.stderr);
    assert!(!token.status.success() && said.contains("--scope proxy"), "{token:?}");
    let shown = corelane(&["config", "show", "--effective", "-c", file]);
    let said = String::from_utf8_lossy(&shown.stdout);
    assert!(said.starts_with("# corelane proxy with") && said.contains("[accounts]"), "{shown:?}");
    assert!(!said.contains("[tun]") && !said.contains("[server]"), "{said}");
    // Whoever names a file means its server, and no other.
    gateway.write_config("[[proxy]]\nlisten = [\"127.0.0.1:0\"]\n");
    let users = corelane(&["user", "ls", "-c", file]);
    let said = String::from_utf8_lossy(&users.stderr);
    assert!(!users.status.success() && said.contains("has no accounts"), "{users:?}");
}

#[test]
fn what_was_told_to_stop_has_let_go_of_its_accounts_when_that_is_over() {
    for _ in 0..5 {
        let gateway = Gateway::start_alone_with_accounts(TABLE);
        gateway.stop_by_command();
        // It would say that another process uses them.
        gateway.administer(&["user", "ls"], "");
    }
}

#[test]
fn the_audit_log_has_clients_of_ipv4_as_such_where_the_socket_is_one_of_ipv6() {
    let table = TABLE
        .replace("127.0.0.1:0", "[::]:0")
        .replace("request_within_s", "auth_from = [\"127.0.0.1/32\"]\nrequest_within_s");
    let gateway = Gateway::start_alone_with_accounts(&table);
    gateway.administer(&["user", "add", "ada", "--password-stdin"], &format!("{PASSWORD}\n"));
    let address = SocketAddr::from(([127, 0, 0, 1], gateway.address.port()));
    let credentials = STANDARD.encode("ada:wrong");
    // Whoever is asked about is told by the address that the other proxy names.
    for (request, refused) in [
        ("GET http://a/ HTTP/1.1\r\nProxy-Authorization: ", 407),
        ("GET /auth HTTP/1.1\r\nX-Forwarded-For: ::ffff:192.0.2.9\r\nAuthorization: ", 401),
        ("GET /auth HTTP/1.1\r\nX-Forwarded-For: 2001:db8::9\r\nAuthorization: ", 401),
    ] {
        let mut client = connect(address);
        let request =
            format!("{request}Basic {credentials}\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {refused} ")), "{answer}");
    }
    let mut sources = Vec::new();
    await_that("every refusal is in the audit log", || {
        let audit = gateway.administer(&["audit", "--json"], "");
        let audit: serde_json::Value = serde_json::from_str(&audit).unwrap();
        let source = |entry: &serde_json::Value| entry["from"].as_str().map(str::to_owned);
        sources = audit.as_array().unwrap().iter().filter_map(source).collect();
        if sources.len() >= 3 { Ok(()) } else { Err(format!("{audit}")) }
    });
    sources.sort_unstable();
    assert_eq!(sources, ["127.0.0.1", "192.0.2.9", "2001:db8::9"]);
}

#[test]
fn two_gateways_do_not_have_the_same_accounts_at_once() {
    let gateway = Gateway::start_alone_with_accounts(TABLE);
    let output = Command::new(env!("CARGO_BIN_EXE_corelane"))
        .args(["proxy", "-c"])
        .arg(gateway.config_file())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("spool"), "{errors}");
}

#[test]
fn a_gateway_that_was_open_is_not_closed_by_a_reload_that_it_cannot_carry_out() {
    let open = TABLE.replace("auth = \"required\"\n", "");
    let gateway = Gateway::start_alone_with_accounts(&open);
    assert!(gateway.report().accounts.is_none(), "nobody is asked");
    let echo = echo();
    gateway.reach(echo);
    gateway.write_config(TABLE);
    let output = Command::new("kill").arg("-HUP").arg(gateway.child.id().to_string()).status();
    assert!(output.unwrap().success());
    let line = gateway.await_log("configuration not applied");
    assert!(line.contains("restart"), "{line}");
    assert_eq!(gateway.reply_to(&echo.to_string()), 0, "the rules from before");
}

#[test]
fn one_command_makes_a_gateway_and_another_goes_through_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (file, here) = (path("server.toml"), directory.path().to_str().unwrap());
    let said = done(&["init", "gateway", "--address", "127.0.0.1", "--dir", here], "");
    let pin = said.split(" has the pin ").nth(1).unwrap().split(':').next().unwrap();
    assert!(said.contains(&format!("corelane proxy -c {file}\n")), "{said}");
    assert!(said.contains(&format!("--server 127.0.0.1:8443 --ca-pin {pin} ")), "{said}");
    let checked = done(&["config", "check", &file], "");
    assert!(checked.contains("corelane proxy"), "{checked}");
    let again = Command::new(env!("CARGO_BIN_EXE_corelane"))
        .args(["init", "gateway", "--address", "127.0.0.1", "--dir", here])
        .output()
        .unwrap();
    assert!(!again.status.success(), "what is there is not made anew");

    // The database is there, the gateway is not.
    done(&["user", "add", "ada", "--password-stdin", "-c", &file], "right horse battery\n");
    let made = std::fs::read_to_string(&file).unwrap();
    let made = made.replace("[::]:8443", "127.0.0.1:0");
    let here =
        made.replace("[[proxy]]", "[[proxy]]\nallow = [\"loopback\"]\nrequest_within_s = 300");
    let gateway = Gateway::start_with_file(&here);
    let password = path("password");
    std::fs::write(&password, "right horse battery").unwrap();
    std::fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let server = gateway.address.to_string();
    let flags =
        ["--server", &server, "--ca-pin", pin, "--user", "ada", "--password-file", &password];
    let client = Gateway::start_client(&flags.map(str::to_owned));
    let mut relay = client.reach(echo());
    relay.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut relay, 5), b"hello");
    // Commands find the gateway by what lies where they work.
    let issue = ["cert", "issue", "ada", "--dir", &path("pki"), "--out", &path("ada")];
    let issued = done(&issue, "");
    assert!(!issued.contains("no accounts were told"), "{issued}");
}
