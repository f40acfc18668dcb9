//! Other proxies that ask whether their clients are who they say they are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use corelane::lab::{Host, LabOptions, TwoHosts, addresses};
use corelane::proxy::settings::{Auth, Rules};

use crate::harness::{await_that, connect};
use crate::house::House;
use crate::oracle::Oracle;
use crate::served::Served;

fn listed(rules: &mut Rules) {
    rules.auth_from = vec!["127.0.0.1/32".parse().unwrap()];
}

/// An answer: its status, its head, and how it ended.
fn read_answer(stream: &mut BufReader<TcpStream>) -> (u16, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "cut: {head}");
    }
    let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; len.map_or(0, |len| len.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), head)
}

/// A proxy that asks on one connection.
struct Asking(BufReader<TcpStream>);

impl Asking {
    fn at(address: SocketAddr) -> Self {
        Self(BufReader::new(connect(address)))
    }

    fn say(&mut self, fields: &str) {
        let request = format!(
            "GET /auth HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Method: GET\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\nX-Forwarded-Uri: /x?y\r\n\
             X-Original-URI: /x?y\r\n{fields}\r\n"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn ask(&mut self, fields: &str) -> (u16, String) {
        self.say(fields);
        read_answer(&mut self.0)
    }
}

fn shown(client: &str, credentials: &str) -> String {
    let encoded = STANDARD.encode(credentials);
    format!("X-Forwarded-For: {client}\r\nAuthorization: Basic {encoded}\r\n")
}

#[test]
fn each_question_is_decided_by_itself() {
    let house = House::new(listed);
    let bearer =
        format!("X-Forwarded-For: 192.0.2.7\r\nAuthorization: Bearer {}\r\n", house.token("proxy"));
    let right = shown("192.0.2.7", "ada:right horse");
    let wrong = shown("192.0.2.7", "ada:wrong horse");
    let of_proxy = right.replace("Authorization", "Proxy-Authorization");
    let nobody = "X-Forwarded-For: 192.0.2.7\r\n".to_owned();
    let unnamed = right.replace("X-Forwarded-For", "X-Real-IP");
    let questions = [
        (&right, 204),
        (&nobody, 401),
        (&right, 204),
        (&wrong, 401),
        (&bearer, 204),
        (&of_proxy, 401),
        (&unnamed, 400),
        (&right, 204),
    ];
    let mut asking = Asking::at(house.address);
    for (fields, expected) in questions {
        let (status, head) = asking.ask(fields);
        assert_eq!(status, expected, "{fields}{head}");
        assert_eq!(head.contains("\r\nRemote-User: ada\r\n"), status == 204, "{head}");
        let challenge = "\r\nWWW-Authenticate: Basic realm=\"corelane\", charset=\"UTF-8\"\r\n";
        assert_eq!(head.contains(challenge), status == 401, "{head}");
    }
    // All at once, in order.
    for (fields, _) in &questions {
        asking.say(fields);
    }
    for (fields, expected) in questions {
        let (status, head) = read_answer(&mut asking.0);
        assert_eq!(status, expected, "{fields}{head}");
    }
    house.run(r#"{"operation":"user_disable","name":"ada"}"#);
    assert_eq!(asking.ask(&right).0, 401, "it was remembered");
    house.run(r#"{"operation":"user_enable","name":"ada"}"#);
    assert_eq!(asking.ask(&right).0, 204);
    // What was asked about others lets nobody into the gateway.
    asking
        .0
        .get_mut()
        .write_all(b"CONNECT a.example:1 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .unwrap();
    assert_eq!(read_answer(&mut asking.0).0, 407);
    let status = house.gateway.status();
    assert_eq!((status.accepted, status.vouched), (1, 9), "{status:?}");
}

#[test]
fn nobody_is_heard_who_is_not_listed() {
    let right = shown("192.0.2.7", "ada:right horse");
    for (auth, listed, expected) in [
        (Auth::Required, "127.0.0.1/32", 204),
        (Auth::Off, "127.0.0.1/32", 204),
        (Auth::Required, "192.0.2.0/24", 407),
        (Auth::Off, "192.0.2.0/24", 404),
    ] {
        let house = House::new(|rules| {
            rules.auth = auth;
            rules.auth_from = vec![listed.parse().unwrap()];
        });
        assert_eq!(Asking::at(house.address).ask(&right).0, expected, "{auth:?} {listed}");
    }
}

#[test]
fn failures_are_charged_to_the_client_and_to_no_other() {
    let house = House::new(listed);
    house.add("bob", "left horse");
    let mut asking = Asking::at(house.address);
    // Whoever it claims to be, nginx has seen where it comes from.
    let answers: Vec<_> = (0..8)
        .map(|try_| {
            asking.ask(&shown(&format!("203.0.113.{try_}, 192.0.2.7"), &format!("ada:{try_}")))
        })
        .collect();
    let statuses: Vec<_> = answers.iter().map(|(status, _)| *status).collect();
    assert!(statuses.starts_with(&[401, 401, 401]) && statuses.ends_with(&[429]), "{statuses:?}");
    assert!(answers.last().unwrap().1.contains("\r\nRetry-After: "), "{answers:?}");
    assert_eq!(asking.ask(&shown("192.0.2.7", "bob:left horse")).0, 429, "the same client");
    for other in ["192.0.2.8", "203.0.113.1", "127.0.0.1"] {
        assert_eq!(asking.ask(&shown(other, "bob:left horse")).0, 204, "{other}");
    }
}

#[test]
fn answers_that_nobody_takes_are_not_heaped_up() {
    let house = House::new(listed);
    let mut asking = Asking::at(house.address);
    let fields = shown("192.0.2.7", "ada:right horse");
    let mut writer = asking.0.get_ref().try_clone().unwrap();
    let request = format!("GET /auth HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
    let count = 200_000;
    let writing = std::thread::spawn(move || {
        for _ in 0..count {
            writer.write_all(request.as_bytes()).unwrap();
        }
    });
    // Nobody reads: the buffers of the kernel fill up, and then it is the client that waits.
    let mut before = 0;
    await_that("a gateway that has stopped reading", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = house.gateway.status().vouched;
        let has_stopped = now > 0 && now == std::mem::replace(&mut before, now);
        if has_stopped { Ok(()) } else { Err(now.to_string()) }
    });
    assert!(before < count, "{before}");
    // Others are served meanwhile.
    assert_eq!(Asking::at(house.address).ask(&fields).0, 204);
    for _ in 0..count {
        assert_eq!(read_answer(&mut asking.0).0, 204);
    }
    writing.join().unwrap();
}

/// A server with accounts, and nginx beside it, which asks it.
struct Guarded {
    lab: TwoHosts,
    served: Served,
    backend: Oracle,
    nginx: Child,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.nginx.kill());
        drop(self.nginx.wait());
    }
}

impl Guarded {
    fn new() -> Self {
        let lab = TwoHosts::build(LabOptions::default()).unwrap();
        let proxy = "[[proxy]]\nlisten = [\"tcp://127.0.0.1:1080\"]\nauth = \"required\"\n\
                     auth_from = [\"127.0.0.1/32\"]\nrequest_within_s = 300\n";
        let served = Served::start(&lab.server, proxy);
        let page = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe page";
        let backend = lab.server.run(|| Oracle::start(|_| page.to_vec())).unwrap();
        let nginx = start_nginx(&lab.server, &served, &backend);
        let guarded = Self { lab, served, backend, nginx };
        await_that("nginx", || match guarded.lab.client.run(reach_nginx).unwrap() {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        });
        guarded
    }

    /// Asks nginx from a host; the status and the answer.
    fn get(&self, from: &Host, flags: &[&str]) -> (String, String) {
        let url = format!("http://{}/a?b=c", addresses::SERVER_V4);
        let common = ["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"];
        let mut command = from.command("curl").unwrap();
        let output = command.args(common).args(flags).args(["--include", &url]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        (text.split(' ').nth(1).unwrap().to_owned(), text)
    }
}

fn reach_nginx() -> std::io::Result<TcpStream> {
    TcpStream::connect(SocketAddr::from((addresses::SERVER_V4, 80)))
}

/// nginx with the file that comes with Corelane.
fn start_nginx(host: &Host, served: &Served, backend: &Oracle) -> Child {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/nginx-auth.conf");
    let site = std::fs::read_to_string(shipped).unwrap();
    let (was, is) = ("http://127.0.0.1:8000", format!("http://{}", backend.address));
    assert!(site.contains(was), "{site}");
    let text = format!(
        "pid {};\nevents {{}}\nhttp {{ access_log off;\n{} }}\n",
        served.path("nginx.pid").display(),
        site.replace(was, &is)
    );
    let config = served.path("nginx.conf");
    std::fs::write(&config, text).unwrap();
    let mut command = host.command("/usr/sbin/nginx").unwrap();
    command.args(["-e", "stderr", "-g", "daemon off; master_process off;", "-c"]).arg(config);
    command.stdin(Stdio::null()).spawn().unwrap()
}

#[test]
fn nginx_shows_a_page_to_those_whom_the_accounts_know() {
    let site = Guarded::new();
    let client = &site.lab.client;
    let ada = ["--user", "ada:right horse"];
    let (status, text) = site.get(client, &[]);
    assert!(status == "401" && text.contains("WWW-Authenticate: Basic realm="), "{text}");
    assert_eq!(site.get(client, &["--user", "ada:wrong"]).0, "401");
    assert_eq!(site.get(client, &["--user", "eve:right horse"]).0, "401");
    assert!(site.backend.visits().is_empty(), "{:?}", site.backend.visits());

    let claims = ["-H", "Remote-User: root", "-H", "X-Corelane-User: root"];
    let (status, text) = site.get(client, &[&ada[..], &claims].concat());
    assert!(status == "200" && text.ends_with("the page"), "{text}");
    let visits = site.backend.visits();
    let request = &visits[0].requests[0];
    assert!(request.head.starts_with("GET /a?b=c "), "{request:?}");
    assert_eq!(request.field("Remote-User"), Some("ada"), "{request:?}");
    assert_eq!(request.head.matches("emote-").count(), 1, "{request:?}");
    assert!(!request.head.contains("root"), "{request:?}");
    assert_eq!(request.field("Authorization"), None, "{request:?}");

    let bearer = format!("Authorization: Bearer {}", site.served.token());
    assert_eq!(site.get(client, &["-H", &bearer]).0, "200");
    // A body is for the page, not for the question.
    let upload = [&ada[..], &["--data", "some=thing"]].concat();
    assert_eq!(site.get(client, &upload).0, "200");
    assert_eq!(site.backend.visits().last().unwrap().requests[0].body, b"some=thing");

    let said = site.served.administer(&["user", "disable", "ada"]);
    assert!(said.contains("proxy login"), "{said}");
    assert_eq!(site.get(client, &ada).0, "401");
    assert_eq!(site.get(client, &["-H", &bearer]).0, "401");
    site.served.administer(&["user", "enable", "ada"]);
    assert_eq!(site.get(client, &ada).0, "200");
    let status = site.served.gateway.status();
    // nginx keeps a connection after each yes; it does not read the reasons of a no.
    let noes = status.refused["no_login"] + status.refused["login_refused"];
    assert_eq!((status.accepted, status.vouched, noes), (1 + 5, 4, 5), "{status:?}");
}

#[test]
fn nginx_has_a_guesser_wait_and_nobody_else() {
    let site = Guarded::new();
    let (guesser, other) = (&site.lab.client, &site.lab.server);
    // What the guesser says of itself is not what counts.
    let mut tries = 0;
    let mut guess = || {
        tries += 1;
        let claim = format!("X-Forwarded-For: 203.0.113.{tries}");
        let (status, text) = site.get(guesser, &["-H", &claim, "--user", &format!("ada:{tries}")]);
        let wait = text.lines().find_map(|line| line.strip_prefix("Retry-After: "));
        assert_eq!(wait.is_some(), status == "429", "{text}");
        assert!(wait.is_some() || status == "401", "{text}");
        wait.map_or(0, |wait| wait.parse::<u64>().unwrap())
    };
    assert_eq!(guess(), 0, "the first are free");
    // It goes on until it has to wait for long enough to look around, however slow the checks are.
    await_that("a guesser that waits", || match guess() {
        wait if wait >= 6 => Ok(()),
        wait => Err(wait.to_string()),
    });
    assert_eq!(site.get(guesser, &["--user", "bob:left horse"]).0, "429");
    assert_eq!(site.get(other, &["--user", "bob:left horse"]).0, "200");
}
