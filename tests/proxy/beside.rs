//! The gateway beside a tunnel.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use corelane::lab::Host;

use crate::datagrams::{Client, LOCALHOST, udp_echo};
use crate::harness::{Gateway, ask_for, await_that, connect, read_exactly, read_to_end};
use crate::house::ask_as;
use crate::members::{by, endless};
use crate::oracle::Oracle;

#[test]
fn a_server_serves_both_and_gives_relays_time_when_it_stops() {
    let host = Host::create("server").unwrap();
    let mut gateway = Gateway::start_beside_a_tunnel(
        &host,
        "[server]\nlisten = [\"127.0.0.1:20443\"]\n[tun]\naddresses = [\"10.77.0.1/24\"]\n\
         [workers]\ncount = 2\n\
         [[proxy]]\nlisten = [\"tcp://127.0.0.1:1080\"]\nallow = [\"loopback\", \"private\"]\n\
         [[proxy]]\nlisten = [\"tcp://[::1]:1080\"]\nprotocols = [\"http\"]\n",
    );
    let reach = || host.run(|| connect(gateway.address)).unwrap();
    let listener = host.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let mut client = reach();
    assert_eq!(ask_for(&mut client, listener.local_addr().unwrap()), 0);
    let (mut origin, _) = listener.accept().unwrap();
    // The server's inner address is its own, even where private ones are allowed.
    assert_eq!(ask_for(&mut reach(), "10.77.0.1:1".parse().unwrap()), 2);

    let report = gateway.report();
    assert_eq!((report.role.as_str(), report.workers.len()), ("server", 2));
    let status = report.proxy.unwrap();
    assert_eq!((status.workers, status.reached, status.failed["denied"]), (2, 1, 1));
    assert_eq!(status.listening, ["127.0.0.1:1080", "[::1]:1080"]);

    gateway.terminate();
    gateway.await_log("stopping");
    client.write_all(b"a last word").unwrap();
    assert_eq!(read_exactly(&mut origin, 11), b"a last word");
    drop((client, origin));
    assert!(gateway.await_end().success());
}

#[test]
fn people_of_a_server_have_requests_forwarded_and_datagrams_passed_by_their_rules() {
    let host = Host::create("server").unwrap();
    let gateway = Gateway::start_with_accounts(
        &host,
        "[workers]\ncount = 1\n[[proxy]]\nlisten = [\"tcp://127.0.0.1:1080\"]\n\
         auth = \"required\"\nallow = [\"loopback\"]\n",
    );
    for user in ["ada", "bea"] {
        gateway.administer(&["user", "add", user, "--password-stdin"], "right horse battery\n");
    }
    let (oracle, echo) = host.run(|| (Oracle::parrot(), udp_echo(LOCALHOST))).unwrap();
    let fetch = |user: &str, url: &str| {
        let proxy = format!("http://{user}:right%20horse%20battery@127.0.0.1:1080");
        let mut curl = host.command("curl").unwrap();
        curl.args(["--silent", "--show-error", "--include", "--max-time", "60", "--noproxy", ""]);
        let output = curl.args(["--proxy", &proxy, url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let rule = format!("deny any {}/tcp", oracle.address.port());
    gateway.administer(&["user", "set", "bea", "--rule", &rule, "--rule", "allow any"], "");
    let (of_ada, of_bea) = (fetch("ada", &oracle.url("/")), fetch("bea", &oracle.url("/")));
    assert!(of_ada.starts_with("HTTP/1.1 200 ") && of_ada.ends_with("GET /|"), "{of_ada}");
    assert!(of_bea.starts_with("HTTP/1.1 403 "), "{of_bea}");

    let ada = ("ada", "right horse battery");
    let nowhere = SocketAddr::from(([0; 4], 0));
    let client = host.run(|| {
        let (tcp, reply, address) = ask_as(gateway.address, ada, 3, nowhere);
        assert_eq!(reply, 0);
        Client::over(tcp, address)
    });
    let client = client.unwrap();
    client.send(echo.address, b"hello");
    assert_eq!(client.receive(), (echo.address, b"hello".to_vec()));

    let up = oracle.visits()[0].bytes.len() + 5;
    let down = of_ada.len() + 5;
    await_that("what ada has moved, to the byte", || {
        let stats = gateway.administer(&["stats", "--user", "ada", "--json"], "");
        let says = |field: &str, bytes: usize| stats.contains(&format!("\"{field}\": {bytes}"));
        let is_so = says("received_bytes", up) && says("sent_bytes", down);
        if is_so { Ok(()) } else { Err(format!("{up} up, {down} down: {stats}")) }
    });

    // A download that never ends, and the association, end when ada is disabled.
    let endless = host.run(endless).unwrap();
    let mut download = host.run(|| connect(gateway.address)).unwrap();
    let get = format!("GET http://{endless}/ HTTP/1.1\r\nHost: a\r\n\r\n");
    let get = by("ada:right horse battery", &get);
    download.write_all(get.as_bytes()).unwrap();
    read_exactly(&mut download, 100_000);
    let said = gateway.administer(&["user", "disable", "ada"], "");
    assert!(said.contains("1 session") || said.contains("proxy login"), "{said}");
    assert!(std::io::copy(&mut download, &mut std::io::sink()).is_err(), "it is reset");
    let mut tcp = client.tcp;
    assert_eq!(read_to_end(&mut tcp), b"", "the association has ended");
}
