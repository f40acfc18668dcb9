//! The access log: a line for each wish, with the exact bytes, whatever becomes of the file.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use corelane::accounts::operations::Outcome;
use corelane::sys::signal::terminate;
use serde_json::Value;
use tempfile::TempDir;

use crate::forwarding::read_response;
use crate::harness::{
    Gateway, await_that, connect, echo, origin, read_exactly, read_to_end, serve,
};
use crate::house::House;
use crate::members::by;
use crate::oracle::Oracle;

/// A gateway with an access log in JSON.
struct Site {
    gateway: Gateway,
    directory: TempDir,
}

impl Site {
    fn start(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory.path().join("access.log"), "json", more);
        Self { gateway: Gateway::start_with_file(&config), directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }

    /// The lines, once there are so many.
    fn await_lines(&self, count: usize) -> Vec<Value> {
        await_lines(&self.path(), count)
    }

    fn socks5(&self, command: u8, to: SocketAddr) -> (TcpStream, Vec<u8>) {
        let mut stream = self.gateway.connect();
        let SocketAddr::V4(to) = to else { panic!("{to}") };
        let mut request = vec![5, 1, 0, 5, command, 0, 1];
        request.extend_from_slice(&to.ip().octets());
        request.extend_from_slice(&to.port().to_be_bytes());
        stream.write_all(&request).unwrap();
        let reply = read_exactly(&mut stream, 12)[2..].to_vec();
        (stream, reply)
    }

    /// What HTTP answers, to the end.
    fn http(&self, said: &str) -> String {
        let mut stream = self.gateway.connect();
        stream.write_all(said.as_bytes()).unwrap();
        String::from_utf8_lossy(&read_to_end(&mut stream)).into_owned()
    }
}

fn config(path: &Path, format: &str, more: &str) -> String {
    format!(
        "[workers]\ncount = 2\n[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n\
         access_log = \"{}\"\naccess_log_format = \"{format}\"\n{more}",
        path.display()
    )
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

pub(crate) fn await_lines(path: &Path, count: usize) -> Vec<Value> {
    await_that("lines of the access log", || {
        let seen = lines(path);
        if seen.len() >= count { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let lines = lines(path);
    assert_eq!(lines.len(), count, "{lines:?}");
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a line says of these keys, in their order.
pub(crate) fn told(line: &Value, keys: &[&str]) -> String {
    let said = keys.iter().map(|key| match &line[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    said.collect::<Vec<_>>().join(" ")
}

const WISH: [&str; 8] =
    ["protocol", "method", "target", "via", "status", "outcome", "up_bytes", "down_bytes"];

fn address_of(reply: &[u8]) -> SocketAddr {
    let ip: [u8; 4] = reply[4..8].try_into().unwrap();
    SocketAddr::from((ip, u16::from_be_bytes([reply[8], reply[9]])))
}

#[test]
fn a_relay_of_each_protocol_has_one_line_with_its_exact_bytes() {
    let site = Site::start("");
    let echo = echo();
    let talk = |mut stream: TcpStream, len: usize| {
        stream.write_all(&vec![7; len]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream).len(), len);
    };
    let before = jiff_now();
    let (stream, _) = site.socks5(1, echo);
    let client = stream.local_addr().unwrap();
    talk(stream, 100_001);
    let mut stream = site.gateway.connect();
    let SocketAddr::V4(v4) = echo else { panic!() };
    let mut request = vec![4, 1];
    request.extend_from_slice(&v4.port().to_be_bytes());
    request.extend_from_slice(&v4.ip().octets());
    request.push(0);
    stream.write_all(&request).unwrap();
    assert_eq!(read_exactly(&mut stream, 8)[1], 90);
    talk(stream, 2);
    let mut stream = site.gateway.connect();
    // What is said behind the request belongs to the relay.
    let head = format!("CONNECT localhost:{} HTTP/1.1\r\nHost: x\r\n\r\nabc", echo.port());
    stream.write_all(head.as_bytes()).unwrap();
    let answer = "HTTP/1.1 200 Connection established\r\n\r\n";
    assert_eq!(read_exactly(&mut stream, answer.len()), answer.as_bytes());
    assert_eq!(read_exactly(&mut stream, 3), b"abc");
    talk(stream, 3_000_000);
    let lines = site.await_lines(3);
    let find = |protocol: &str| {
        let found = lines.iter().find(|line| line["protocol"] == protocol);
        found.unwrap_or_else(|| panic!("{protocol}: {lines:?}"))
    };
    let expected = format!("socks5 CONNECT {echo} {echo} null ok 100001 100001");
    assert_eq!(told(find("socks5"), &WISH), expected);
    assert_eq!(find("socks5")["client"], client.to_string());
    assert_eq!(find("socks5")["user"], Value::Null);
    assert_eq!(told(find("socks4"), &WISH), format!("socks4 CONNECT {echo} {echo} null ok 2 2"));
    let expected =
        format!("connect CONNECT localhost:{} {echo} 200 ok 3000003 3000003", echo.port());
    assert_eq!(told(find("connect"), &WISH), expected);
    for line in &lines {
        let time: String = serde_json::from_value(line["time"].clone()).unwrap();
        assert!(time >= before && time <= jiff_now(), "{time}");
        assert!(line["duration_ms"].as_u64().unwrap() < 60_000);
    }
    let status = site.gateway.status();
    assert_eq!((status.access_log_lines, status.access_log_lost), (3, 0));
    assert!(site.gateway.status_text().contains("3 lines, none lost"));
}

/// The present, as lines have it.
fn jiff_now() -> String {
    let since = corelane::sys::clock::unix_time();
    let now = jiff::Timestamp::from_millisecond(since.as_millis().try_into().unwrap()).unwrap();
    format!("{now:.3}")
}

#[test]
fn each_request_of_http_has_a_line_and_no_query_or_password_is_in_it() {
    let site = Site::start("");
    // Bytes that the origin has got are told by their number.
    let origin = serve(|mut stream| {
        let mut got = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|len| len > 0) {
            got.push(byte[0]);
            if got.ends_with(b"\r\n\r\n") {
                let body = got.len().to_string();
                let head = "HTTP/1.1 201 Created\r\nContent-Length: ";
                drop(write!(stream, "{head}{}\r\n\r\n{body}", body.len()));
                got.clear();
            }
        }
    });
    let mut client = site.gateway.connect();
    let mut sizes = Vec::new();
    for path in ["/a?password=hunter2", "/b/\u{1b}[2J"] {
        let path = path.replace('\u{1b}', "%1b");
        write!(client, "GET http://{origin}{path} HTTP/1.1\r\nHost: {origin}\r\n\r\n").unwrap();
        let (head, body) = read_response(&mut client);
        assert!(head.starts_with("HTTP/1.1 201"), "{head}");
        let got: usize = String::from_utf8(body.clone()).unwrap().parse().unwrap();
        sizes.push((got, head.len() + body.len()));
    }
    let lines = site.await_lines(2);
    for ((line, path), (up, down)) in lines.iter().zip(["/a", "/b/%1b[2J"]).zip(sizes) {
        let expected = format!("http GET http://{origin}{path} {origin} 201 ok {up} {down}");
        assert_eq!(told(line, &WISH), expected);
    }
    drop(client);
    // Userinfo in a URL is refused, and told of without it.
    let refused = site.http(&format!("GET http://u:hunter2@{origin}/ HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    let lines = site.await_lines(3);
    assert_eq!(told(&lines[2], &WISH), "http null null null 400 malformed 0 0");
    let text = std::fs::read_to_string(site.path()).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn what_switches_to_websocket_has_one_line_at_its_end() {
    let site = Site::start("");
    let origin = serve(|mut stream| {
        let mut got = Vec::new();
        let mut byte = [0];
        while !got.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len > 0) {
            got.push(byte[0]);
        }
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                    Upgrade: websocket\r\n\r\nat once";
        drop(stream.write_all(head.as_bytes()));
        let mut asked = [0; 4];
        drop(stream.read_exact(&mut asked));
        drop(stream.write_all(&[1; 1000]));
    });
    let mut client = site.gateway.connect();
    write!(
        client,
        "GET http://{origin}/ws HTTP/1.1\r\nHost: {origin}\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\n\r\n"
    )
    .unwrap();
    let head = crate::forwarding::read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(read_exactly(&mut client, 7), b"at once");
    client.write_all(b"ping").unwrap();
    assert_eq!(read_to_end(&mut client).len(), 1000);
    drop(client);
    let lines = site.await_lines(1);
    let keys = ["method", "status", "outcome"];
    assert_eq!(told(&lines[0], &keys), "GET 101 ok");
    // The head of the answer and what came after it.
    assert_eq!(lines[0]["down_bytes"], head.len() + 7 + 1000);
}

#[test]
fn ports_and_datagrams_for_others_have_a_line_each() {
    let site = Site::start("");
    let (mut client, reply) = site.socks5(2, "127.0.0.1:21".parse().unwrap());
    assert_eq!(reply[1], 0);
    let mut peer = connect(address_of(&reply));
    let from = peer.local_addr().unwrap();
    assert_eq!(read_exactly(&mut client, 10)[1], 0);
    peer.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut client, 5), b"hello");
    drop((client, peer));
    let lines = site.await_lines(1);
    assert_eq!(told(&lines[0], &WISH), format!("bind BIND 127.0.0.1:21 {from} null ok 0 5"));

    let (client, reply) = site.socks5(3, "0.0.0.0:0".parse().unwrap());
    assert_eq!(reply[1], 0);
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(to) = far.local_addr().unwrap() else { panic!() };
    let mut datagram = vec![0, 0, 0, 1];
    datagram.extend_from_slice(&to.ip().octets());
    datagram.extend_from_slice(&to.port().to_be_bytes());
    datagram.extend_from_slice(&[9; 300]);
    near.send_to(&datagram, address_of(&reply)).unwrap();
    let mut buffer = [0; 2000];
    let (len, from) = far.recv_from(&mut buffer).unwrap();
    assert_eq!(len, 300);
    far.send_to(&[8; 77], from).unwrap();
    let (len, _) = near.recv_from(&mut buffer).unwrap();
    let (up, down) = (site.gateway.status().up_bytes, site.gateway.status().down_bytes - 5);
    assert_eq!((len, up), (87, 300), "the header of SOCKS and the payload");
    drop(client);
    let lines = site.await_lines(2);
    let expected = format!("udp ASSOCIATE null null null ok {up} {down}");
    assert_eq!(told(&lines[1], &WISH), expected);
}

#[test]
fn refusals_and_failures_have_lines_with_their_reasons() {
    let rule = "[[proxy.rule]]\ndomains = [\"blocked.example\"]\nto = \"block\"\n";
    let site = Site::start(&format!("request_within_s = 1\n{rule}"));
    let shut = origin().1;
    assert_eq!(site.gateway.reply_to(&shut.to_string()), 5);
    assert_eq!(site.gateway.reply_to("blocked.example:443"), 2);
    let head = format!("CONNECT {shut} HTTP/1.1\r\nHost: {shut}\r\n\r\n");
    assert!(site.http(&head).starts_with("HTTP/1.1 502"));
    let head = format!("GET http://{shut}/x?y HTTP/1.1\r\nHost: {shut}\r\n\r\n");
    assert!(site.http(&head).starts_with("HTTP/1.1 502"));
    assert!(site.http("GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert_eq!(site.http("\0\n"), "");
    assert!(site.http("GET http://slow.exa").starts_with("HTTP/1.1 408"));
    let lines = site.await_lines(7);
    let told: Vec<String> = lines.iter().map(|line| told(line, &WISH)).collect();
    assert_eq!(
        told,
        [
            format!("socks5 CONNECT {shut} null null refused 0 0"),
            "socks5 CONNECT blocked.example:443 null null blocked 0 0".to_owned(),
            format!("connect CONNECT {shut} null 502 refused 0 0"),
            format!("http GET http://{shut}/x null 502 refused 0 0"),
            "http null null null 404 not_served 0 0".to_owned(),
            "null null null null null malformed 0 0".to_owned(),
            "http null null null 408 too_slow 0 0".to_owned(),
        ]
    );
    // Who comes and goes without a word has wished for nothing.
    drop(site.gateway.connect());
    site.gateway.await_status("it is gone", |status| status.connections == 0);
    let mut last = site.gateway.connect();
    assert_eq!(crate::harness::ask_for(&mut last, shut), 5);
    assert_eq!(site.await_lines(8)[7]["outcome"], "refused");
}

#[test]
fn a_log_that_is_moved_away_goes_on_in_a_new_file() {
    let site = Site::start("");
    let shut = origin().1;
    let refuse = || assert_eq!(site.gateway.reply_to(&shut.to_string()), 5);
    let moved = |number: u8| site.directory.path().join(format!("access.log.{number}"));
    refuse();
    site.await_lines(1);
    // As logrotate does it with `copytruncate` off: by SIGHUP, and without.
    std::fs::rename(site.path(), moved(1)).unwrap();
    site.gateway.reload();
    await_that(
        "the new file",
        || {
            if site.path().exists() { Ok(()) } else { Err("none".to_owned()) }
        },
    );
    refuse();
    site.await_lines(1);
    std::fs::rename(site.path(), moved(2)).unwrap();
    await_that(
        "the new file",
        || {
            if site.path().exists() { Ok(()) } else { Err("none".to_owned()) }
        },
    );
    refuse();
    site.await_lines(1);
    for number in [1, 2] {
        assert_eq!(lines(&moved(number)).len(), 1, "nothing is lost, and nothing is there twice");
    }
    // What was emptied in its place is appended to from its beginning.
    std::fs::OpenOptions::new().write(true).truncate(true).open(site.path()).unwrap();
    refuse();
    site.await_lines(1);
}

#[test]
fn the_end_of_the_log_is_written_when_the_gateway_stops_and_the_rest_outlives_a_kill() {
    let shut = origin().1;
    let mut site = Site::start("");
    for _ in 0..20 {
        assert_eq!(site.gateway.reply_to(&shut.to_string()), 5);
    }
    let live = site.gateway.reach(echo());
    site.gateway.terminate();
    site.gateway.await_log("stopping");
    drop(live);
    assert!(site.gateway.await_end().success());
    let lines = site.await_lines(21);
    assert_eq!(told(&lines[20], &["outcome"]), "ok");

    let mut site = Site::start("");
    for _ in 0..20 {
        assert_eq!(site.gateway.reply_to(&shut.to_string()), 5);
    }
    site.await_lines(20);
    site.gateway.child.kill().unwrap();
    site.gateway.await_end();
    site.await_lines(20);
}

#[test]
fn a_reader_that_is_too_slow_loses_lines_and_delays_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    let file = directory.path().join("proxy.toml");
    std::fs::write(&file, config(&path, "text", "")).unwrap();
    let output = command.args(["proxy", "-c"]).arg(&file).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("access_log"), "nobody reads: {told}");

    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let gateway = Gateway::start_with_file(&config(&path, "text", ""));
    let shut = origin().1;
    await_that("lines that are lost", || {
        for _ in 0..100 {
            assert_eq!(gateway.reply_to(&shut.to_string()), 5);
        }
        let status = gateway.status();
        let is_so = status.access_log_lost > 0 && status.access_log_lines > 0;
        if is_so { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let told = gateway.await_log("cannot write the access log");
    assert!(told.contains("clients are served all the same"), "{told}");
    assert!(gateway.status_text().contains(" lost"));
    gateway.reach(echo());
}

#[test]
fn standard_output_takes_the_log_in_the_format_of_web_servers() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.toml");
    let out = directory.path().join("out");
    // A port that is free now, since nobody reads the log that tells which it is.
    let address = origin().1;
    let text = config(Path::new("-"), "common", "").replace("127.0.0.1:0", &address.to_string());
    std::fs::write(&file, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_corelane"))
        .args(["proxy", "-c"])
        .arg(&file)
        .arg("--status-socket")
        .arg(directory.path().join("status.sock"))
        .stdout(std::fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    await_that("a gateway", || {
        TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
    });
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    read_to_end(&mut stream);
    terminate(&mut child).unwrap();
    assert!(child.wait().unwrap().success());
    let seen = lines(&out);
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(
        seen[0].starts_with("127.0.0.1 - - [") && seen[0].ends_with("] \"-\" 404 0"),
        "{seen:?}"
    );
}

#[test]
fn lines_name_who_it_was_and_never_who_it_was_not() {
    let house = House::new(|rules| rules.usage_by_destination = true);
    house.add("bea", "left horse");
    let as_user = |credentials: &str, request: &str| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
        let shown = format!("\r\nProxy-Authorization: Basic {encoded}\r\n\r\n");
        request.replacen("\r\n\r\n", &shown, 1)
    };
    let echo = echo();
    let mut relay = house.reach(echo);
    relay.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut relay, 5), b"hello");
    drop(relay);
    let log = house.access_log();
    await_lines(&log, 1);
    // One connection serves two users, one after the other.
    let oracle = Oracle::parrot();
    let mut client = connect(house.address);
    for credentials in ["ada:right horse", "bea:left horse"] {
        client.write_all(as_user(credentials, &oracle.get("/a?b")).as_bytes()).unwrap();
        assert!(read_response(&mut client).0.starts_with("HTTP/1.1 200"));
    }
    await_lines(&log, 3);
    // A password in the field of the user, behind what others have asked for; and none at all.
    let stranger = as_user("hunter2:hunter3", &oracle.get("/"));
    for (mut client, said) in [(client, stranger), (connect(house.address), oracle.get("/"))] {
        client.write_all(said.as_bytes()).unwrap();
        assert!(read_to_end(&mut client).starts_with(b"HTTP/1.1 407"));
    }
    let lines = await_lines(&log, 5);
    let seen: Vec<String> =
        lines.iter().map(|line| told(line, &["user", "protocol", "status", "outcome"])).collect();
    let expected = [
        "ada socks5 null ok",
        "ada http 200 ok",
        "bea http 200 ok",
        "null http 407 login_refused",
        "null http 407 no_login",
    ];
    assert_eq!(seen, expected);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("hunter") && !text.contains("horse"), "{text}");
    // What the lines say is what the database has, for each host and user.
    let bytes = |line: &Value| (line["up_bytes"].as_u64(), line["down_bytes"].as_u64());
    await_that("the usage of bea", || {
        let stats = r#"{"operation":"stats","user":"bea","since_s":86400,"by":"destination"}"#;
        let Outcome::Usage(usage) = house.run(stats) else { panic!() };
        let [line] = &usage[..] else { return Err(format!("{usage:?}")) };
        assert_eq!((line.destination.as_deref(), line.connections), (Some("127.0.0.1"), Some(1)));
        assert_eq!((Some(line.received_bytes), Some(line.sent_bytes)), bytes(&lines[2]));
        Ok(())
    });
}

#[test]
fn whoever_has_used_a_quota_up_is_named_and_no_guesser() {
    let house = House::new(|_| {});
    house.set(r#"{"day_bytes":4000}"#, "null");
    let log = house.access_log();
    let oracle = Oracle::parrot();
    let get = oracle.get("/");
    // One that is between two requests, and one that has no answer yet.
    let mut idle = connect(house.address);
    idle.write_all(by("ada:right horse", &get).as_bytes()).unwrap();
    assert!(read_response(&mut idle).0.starts_with("HTTP/1.1 200"));
    await_lines(&log, 1);
    let silent = serve(|mut stream| drop(read_to_end(&mut stream)));
    let mut waiting = connect(house.address);
    let unanswered = format!("GET http://{silent}/ HTTP/1.1\r\nHost: a\r\n\r\n");
    waiting.write_all(by("ada:right horse", &unanswered).as_bytes()).unwrap();
    let mut relay = house.reach(echo());
    await_that("all are under way", || match house.gateway.status().reached {
        3 => Ok(()),
        reached => Err(reached.to_string()),
    });
    relay.write_all(&[1; 4000]).unwrap();
    drop(relay.read_to_end(&mut Vec::new()));
    let page = String::from_utf8(read_to_end(&mut waiting)).unwrap();
    assert!(page.starts_with("HTTP/1.1 403") && page.contains("is used up"), "{page}");
    assert_eq!(read_to_end(&mut idle), b"");
    await_lines(&log, 4);
    let http = |credentials: &str| {
        let mut client = connect(house.address);
        client.write_all(by(credentials, &get).as_bytes()).unwrap();
        String::from_utf8(read_to_end(&mut client)).unwrap()
    };
    let told_by_http = http("ada:right horse");
    assert!(told_by_http.starts_with("HTTP/1.1 403"), "{told_by_http}");
    await_lines(&log, 5);
    let mut client = connect(house.address);
    client.write_all(b"\x05\x01\x02\x01\x03ada\x0bright horse").unwrap();
    assert_eq!(read_to_end(&mut client), [5, 2, 1, 1]);
    await_lines(&log, 6);
    assert!(http("ada:wrong horse").starts_with("HTTP/1.1 407"));
    let lines = await_lines(&log, 7);
    let mut seen: Vec<String> =
        lines.iter().map(|line| told(line, &["user", "protocol", "status", "outcome"])).collect();
    // They have ended together.
    seen[1..4].sort();
    let expected = [
        "ada http 200 ok",
        "ada http 403 revoked",
        "ada http null quota_used_up",
        "ada socks5 null revoked",
        "ada http 403 quota_used_up",
        "ada socks5 null quota_used_up",
        "null http 407 login_refused",
    ];
    assert_eq!(seen, expected);
    let refused = house.gateway.status().refused;
    assert_eq!((refused["quota_used_up"], refused["login_refused"]), (3, 1), "{refused:?}");
    let audit = r#"{"operation":"audit","user":"ada","since_s":3600,"limit":100}"#;
    let Outcome::Audit(entries) = house.run(audit) else { panic!("no audit") };
    let quota = entries.iter().filter(|entry| entry.outcome == "quota_exceeded");
    assert_eq!(quota.count(), 2, "{entries:?}");
}
