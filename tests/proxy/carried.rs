//! `corelane proxy-client`: what it carries, how it comes to an end, and how it goes on.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corelane::lab::Host;
use corelane::sys::clock;
use corelane::sys::signal::terminate;
use tempfile::TempDir;

use crate::harness::{
    Gateway, ask_for, assert_ended, await_that, echo, greeting_and_request, http, read_exactly,
    read_to_end, serve,
};
use crate::house::House;
use crate::routes::{chained, fetch};
use crate::secured::Site;
use crate::served::Served;

/// Flags of a client, and the files that they name.
struct Flags {
    list: Vec<String>,
    directory: TempDir,
}

impl Flags {
    /// Those of ada, who trusts the site.
    fn of(site: &Site, address: SocketAddr, password: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, format!("{password}\n")).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let server = format!("localhost:{}", address.port());
        let ca = site.authority().display().to_string();
        let file = file.display().to_string();
        let flags = ["--server", &server, "--ca-file", &ca, "--user", "ada"];
        let flags = flags.into_iter().chain(["--password-file", &file]).map(str::to_owned);
        Self { list: flags.collect(), directory }
    }

    /// The same with another value for one of them.
    fn with(mut self, flag: &str, value: &str) -> Self {
        let at = self.list.iter().position(|it| it == flag).unwrap();
        self.list[at + 1] = value.to_owned();
        self
    }

    fn start(&self) -> Gateway {
        Gateway::start_client(&self.list)
    }

    /// How a client ends that does not start.
    fn fail(&self) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
        command.arg("proxy-client").args(&self.list).args(["--listen", "127.0.0.1:0"]);
        let output: Output = command.env_remove("RUST_LOG").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

fn await_ready(client: &Gateway, count: u64) {
    client.await_status("connections that are ready", |it| it.upstreams[0].ready >= count);
}

#[test]
fn whatever_a_client_speaks_is_carried_over_connections_that_are_ready() {
    let (site, page) = (Site::new(), http("from afar"));
    let house = House::with_tls(site.entrance_tls());
    let client = Flags::of(&site, house.address, "right horse").start();
    let url = format!("http://localhost:{}/", page.port());
    let http = format!("http://{}", client.address);
    for round in 0..3 {
        for proxy in ["socks5h", "socks5", "socks4a", "http"] {
            await_ready(&client, 1);
            let proxy = format!("{proxy}://{}", client.address);
            let got = fetch(&["--proxytunnel", "--proxy", &proxy, &url]);
            assert_eq!(got, "from afar", "{proxy} in round {round}");
        }
        await_ready(&client, 1);
        assert_eq!(fetch(&["--proxy", &http, &url]), "from afar", "a request that is forwarded");
    }
    let status = client.status();
    let server = &status.upstreams[0];
    assert_eq!((server.reached, server.reached_at_once, server.failed), (15, 15, 0));
    let far = house.gateway.status();
    assert_eq!(far.reached, 15, "each came through");
    // One has shown at the start that it works. No handshake was made for nothing.
    assert!(far.accepted <= 15 + 1 + 2, "{far:?}");
    assert_eq!(far.refused.values().sum::<u64>(), 0, "{far:?}");
    // Many at once find more and more of them.
    let origin = echo();
    let held: Vec<TcpStream> = (0..8).map(|_| client.reach(origin)).collect();
    await_ready(&client, 2);
    for mut stream in held {
        stream.write_all(b"hello").unwrap();
        assert_eq!(read_exactly(&mut stream, 5), b"hello");
    }
}

/// A server as an administrator sets it up, and who is carried to it.
struct Pair<'h> {
    host: &'h Host,
    served: Served,
    client: Gateway,
    page: SocketAddr,
}

impl<'h> Pair<'h> {
    fn start(host: &'h Host) -> Self {
        // Its certificate is that of the logins.
        let proxy = "[[proxy]]\nlisten = [\"tls://127.0.0.1:8443\"]\nauth = \"required\"\n\
                     allow = [\"loopback\"]\n";
        let served = Served::start(host, proxy);
        let page = host.run(|| http("the page")).unwrap();
        let password = served.path("ada.password");
        std::fs::write(&password, "right horse\n").unwrap();
        std::fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
        let (ca, password) = (served.path("pki/ca.crt"), password.display().to_string());
        let ca = ca.display().to_string();
        let flags = ["--server", "localhost:8443", "--ca-file", &ca, "--user", "ada"];
        let flags = flags.into_iter().chain(["--password-file", &password]).map(str::to_owned);
        let client = Gateway::start_client_on(host, &flags.collect::<Vec<_>>());
        Self { host, served, client, page }
    }

    /// What somebody gets who comes by this protocol.
    fn get(&self, proxy: &str) -> String {
        let proxy = format!("{proxy}://{}", self.client.address);
        let url = format!("http://localhost:{}/", self.page.port());
        let mut command = self.host.command("curl").unwrap();
        let flags = ["--silent", "--max-time", "60", "--noproxy", "", "--proxytunnel"];
        let output = command.args(flags).args(["--proxy", &proxy, &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn a_server_as_an_administrator_sets_it_up_is_the_gateway_of_a_host() {
    let host = Host::create("both").unwrap();
    let pair = Pair::start(&host);
    for proxy in ["socks5h", "socks4a", "http"] {
        assert_eq!(pair.get(proxy), "the page", "{proxy}");
    }
    assert_eq!(pair.served.gateway.status().reached, 3);
    let said = pair.served.administer(&["user", "disable", "ada"]);
    assert!(said.contains("proxy login"), "{said}");
    assert_eq!(pair.get("socks5h"), "");
    pair.served.administer(&["user", "enable", "ada"]);
    await_that("being let in again", || match pair.get("socks5h") {
        page if page == "the page" => Ok(()),
        other => Err(other),
    });
}

#[test]
fn a_path_that_has_gone_without_a_word_costs_a_moment_and_not_the_connection() {
    let host = Host::create("path").unwrap();
    let ip = |words: &str| {
        let status = host.command("ip").unwrap().args(words.split(' ')).status().unwrap();
        assert!(status.success(), "ip {words}");
    };
    ip("address add 10.99.0.2/32 dev lo");
    ip("route replace local 127.0.0.1 dev lo table local src 10.99.0.2");
    let pair = Pair::start(&host);
    let workers = pair.client.status().workers;
    await_ready(&pair.client, workers);
    assert_eq!(pair.get("socks5h"), "the page");
    await_ready(&pair.client, workers);
    // The host moves to another network: nothing is answered any more to where it was.
    ip("route replace local 127.0.0.1 dev lo table local src 127.0.0.1");
    ip("address del 10.99.0.2/32 dev lo");
    assert_eq!(pair.get("socks5h"), "the page");
    let server = &pair.client.status().upstreams[0];
    assert_eq!((server.reached, server.reached_at_once, server.failed), (2, 1, 0), "{server:?}");
}

#[test]
fn what_is_wrong_is_told_at_the_start() {
    let (site, other) = (Site::new(), Site::new());
    let house = House::with_tls(site.entrance_tls());
    let flags = || Flags::of(&site, house.address, "right horse");
    let shut = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let authority = other.authority().display().to_string();
    for (flags, code, said) in [
        (Flags::of(&site, house.address, "wrong"), 6, "is the password right?"),
        (flags().with("--user", "eve"), 6, "is the password right?"),
        (flags().with("--ca-file", &authority), 6, "`--ca-file`"),
        (flags().with("--ca-file", "/nowhere"), 3, "/nowhere"),
        (flags().with("--server", "no-such-host.invalid:1"), 5, "is it spelled right?"),
        (flags().with("--server", &shut.to_string()), 1, "nobody listens"),
        (flags().with("--password-file", "/nowhere"), 5, "/nowhere"),
    ] {
        let (got, text) = flags.fail();
        assert!(got == Some(code) && text.contains(said), "{:?}: {got:?} {text}", flags.list);
        assert!(!text.contains("right horse"), "{text}");
    }
    // What certificates have no part in is not mended by flags about them.
    let (code, text) = flags().with("--server", &http("no TLS").to_string()).fail();
    assert!(code == Some(6) && text.contains("does not speak TLS"), "{text}");
    assert!(!text.contains("--ca-file"), "{text}");
    // Nobody can be asked for a password here.
    let mut nobody = flags();
    nobody.list.truncate(nobody.list.len() - 2);
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.arg("proxy-client").args(&nobody.list).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(6) && text.contains("--password-stdin"), "{text}");
    // The same gateway, with what is right.
    let client = flags().start();
    assert_eq!(client.reply_to(&echo().to_string()), 0);
    let token = house.token("proxy");
    let client = Flags::of(&site, house.address, &token).start();
    assert_eq!(client.reply_to(&echo().to_string()), 0, "a token in the place of the password");
}

#[test]
fn whoever_stops_it_does_not_wait_for_a_gateway_that_is_silent() {
    let (site, silent) = (Site::new(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let flags = Flags::of(&site, silent.local_addr().unwrap(), "x");
    let socket = flags.directory.path().join("status.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.arg("proxy-client").args(&flags.list).args(["--listen", "127.0.0.1:0"]);
    let mut child = command.arg("--status-socket").arg(socket).spawn().unwrap();
    silent.set_nonblocking(true).unwrap();
    let mut asked = None;
    await_that("being asked", || {
        asked = Some(silent.accept().map_err(|error| error.to_string())?);
        Ok(())
    });
    terminate(&mut child).unwrap();
    await_that("its end in good order", || match child.try_wait().unwrap() {
        Some(status) if status.success() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(asked);
}

#[test]
fn a_token_says_who_comes_by_itself() {
    let site = Site::new();
    let house = House::with_tls(site.entrance_tls());
    let flags = |scope| {
        let mut flags = Flags::of(&site, house.address, &house.token(scope));
        let at = flags.list.iter().position(|it| it == "--user").unwrap();
        flags.list.drain(at..at + 2);
        flags.list[at] = "--token-file".to_owned();
        flags
    };
    let (code, text) = flags("tunnel").fail();
    assert!(code == Some(6) && text.contains("--scope proxy"), "{text}");
    let client = flags("proxy").start();
    assert_eq!(client.reply_to(&echo().to_string()), 0);
}

#[test]
fn who_is_disabled_is_carried_no_more_until_that_is_over() {
    let site = Site::new();
    let house = House::with_tls(site.entrance_tls());
    let client = Flags::of(&site, house.address, "right horse").start();
    let origin = echo();
    await_ready(&client, 1);
    let mut live = client.reach(origin);
    live.write_all(b"x").unwrap();
    assert_eq!(read_exactly(&mut live, 1), b"x");
    house.run(r#"{"operation":"user_disable","name":"ada"}"#);
    // Its end comes as it comes from an origin that is gone.
    assert_ended(&mut live);
    client.await_status("nothing is ready", |it| it.upstreams[0].ready == 0);
    for _ in 0..3 {
        assert_eq!(client.reply_to(&origin.to_string()), 1);
    }
    client.await_log("demands credentials");
    house.run(r#"{"operation":"user_enable","name":"ada"}"#);
    // Those who have failed have to wait for a while.
    await_that("being let in again", || match client.reply_to(&origin.to_string()) {
        0 => Ok(()),
        reply => Err(reply.to_string()),
    });
    await_ready(&client, 1);
}

#[test]
fn two_hosts_of_a_user_with_one_connection_take_turns() {
    let site = Site::new();
    let house = House::with_tls(site.entrance_tls());
    house.set(r#"{"connections_max":1}"#, "null");
    let (origin, start) = (echo(), clock::now());
    let flags = Flags::of(&site, house.address, "right horse");
    let first = flags.start();
    await_ready(&first, 1);
    // Its place waits to be used at the first.
    let second = flags.start();
    for (client, other) in [(&second, &first), (&first, &second), (&second, &first)] {
        // The gateway may yet have to hear of the end of the one before.
        let mut live = None;
        await_that("a connection", || {
            let mut stream = client.connect();
            let reply = ask_for(&mut stream, origin);
            live = Some(stream);
            if reply == 0 { Ok(()) } else { Err(reply.to_string()) }
        });
        let mut live = live.unwrap();
        assert_ne!(other.reply_to(&origin.to_string()), 0, "there is one");
        live.write_all(b"x").unwrap();
        assert_eq!(read_exactly(&mut live, 1), b"x");
    }
    // Beside the connections that are needed each makes some at the start, and then tries for one
    // that is ready once a second at most.
    let seconds = (clock::now() - start).as_secs();
    let status = house.gateway.status();
    let most = 4 * (10 + seconds) + first.status().accepted + second.status().accepted;
    assert!(status.accepted <= most, "{seconds} s: {status:?}");
}

#[test]
fn the_gateway_may_go_and_come_back() {
    let site = Site::new();
    let first = site.gateway("");
    let client = Flags::of(&site, first.address, "x").start();
    let origin = echo();
    await_ready(&client, 1);
    assert_eq!(client.reply_to(&origin.to_string()), 0);
    let port = first.address.port();
    drop(first);
    client.await_status("nothing is ready", |it| it.upstreams[0].ready == 0);
    assert_eq!(client.reply_to(&origin.to_string()), 1);
    let again = site.config("").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let second = Gateway::start_with_file(&again);
    await_ready(&client, 1);
    assert_eq!(client.reply_to(&origin.to_string()), 0);
    assert_eq!(second.status().reached, 1);
}

#[test]
fn silent_connections_are_kept_by_asking_again() {
    let site = Site::new();
    let gateway = site.gateway("keep_alive_s = 2");
    let client = Flags::of(&site, gateway.address, "x").start();
    await_ready(&client, 1);
    await_that("some time", || match client.report().uptime_s {
        5.0.. => Ok(()),
        less => Err(less.to_string()),
    });
    await_ready(&client, 1);
    let status = gateway.status();
    // The one of the start, and the one that is ready.
    assert_eq!((status.accepted, status.connections), (2, 1), "{status:?}");
}

#[test]
fn what_cannot_be_carried_is_refused() {
    let site = Site::new();
    let gateway = site.gateway("");
    let client = Flags::of(&site, gateway.address, "x").start();
    let origin = echo();
    for (command, expected) in [(1, 0), (2, 2), (3, 2)] {
        let mut stream = client.connect();
        let mut request = greeting_and_request(origin);
        request[4] = command;
        stream.write_all(&request).unwrap();
        assert_eq!(read_exactly(&mut stream, 4), [5, 0, 5, expected], "command {command}");
    }
}

/// The head of a request, if another one comes.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

#[test]
fn a_server_that_does_not_say_is_dialled_as_ever_and_not_asked_all_the_time() {
    for answer in [
        "404 What?\r\nContent-Length: 0\r\n\r\n",
        "200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "200 OK\r\n\r\n",
        // Nor may what it says behind an answer be taken for one to the next request.
        "200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        assert_dialled_as_ever(answer);
    }
}

/// Asserts that connections to a server that answers OPTIONS so are made when they are needed.
fn assert_dialled_as_ever(answer: &'static str) {
    let (asked, start) = (Arc::new(AtomicUsize::new(0)), clock::now());
    let counted = Arc::clone(&asked);
    let upstream = serve(move |mut stream| {
        let Some(first) = head(&mut stream) else { return };
        let is_connect = first.starts_with("CONNECT ");
        counted.fetch_add(usize::from(!is_connect), Ordering::Relaxed);
        let answer = if is_connect { "200 OK\r\n\r\n" } else { answer };
        drop(stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()));
        // It is not the server that ends the connection.
        drop(head(&mut stream));
    });
    let near = chained(7, &format!("\"http://{upstream}\""), "ready = 4");
    for _ in 0..20 {
        assert_eq!(near.reply_to("a.example:7"), 0);
    }
    let server = &near.status().upstreams[0];
    assert_eq!((server.reached, server.reached_at_once, server.failed), (20, 0, 0), "{server:?}");
    let asked = asked.load(Ordering::Relaxed);
    let seconds = (clock::now() - start).as_secs() as usize;
    let workers = near.status().workers as usize;
    // A machine that is busy with something else may miss an answer, and asks again after a while.
    let most = workers * (1 + seconds);
    assert!(asked <= most, "{asked} times by {workers} workers in {seconds} s");
}

#[test]
fn a_connection_that_is_dead_when_it_is_needed_is_made_anew() {
    // Whatever is asked for on a connection that was ready is answered by its end.
    let upstream = serve(|mut stream| {
        let Some(first) = head(&mut stream) else { return };
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        if first.starts_with("CONNECT ") {
            drop(stream.write_all(b"hello"));
        } else {
            drop(head(&mut stream));
        }
    });
    let near = chained(7, &format!("\"http://{upstream}\""), "ready = 1");
    let workers = near.status().workers;
    near.await_status("all are ready", |it| it.upstreams[0].ready == workers);
    let mut stream = near.connect();
    let mut request = vec![5, 1, 0, 5, 1, 0, 3, 9];
    request.extend_from_slice(b"a.example\x00\x07");
    stream.write_all(&request).unwrap();
    // Without a length in the answer to CONNECT all that follows is of the tunnel.
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with(&[5, 0, 5, 0]) && answer.ends_with(b"hello"), "{answer:?}");
    let server = &near.status().upstreams[0];
    assert_eq!((server.reached, server.reached_at_once, server.failed), (1, 0, 0), "{server:?}");
}
