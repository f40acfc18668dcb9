//! What those who have said who they are get by HTTP without CONNECT: their requests are forwarded,
//! each for whom it shows.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use corelane::accounts::operations::Outcome;
use corelane::proxy::upstream::group::{Balance, Group, GroupSettings};
use corelane::proxy::upstream::{Routes, Rule, Way};
use corelane::sys::clock;

use crate::clients::{curl, python};
use crate::forwarding::{read_head, read_response};
use crate::harness::{await_that, connect, echo, read_exactly, read_to_end, serve};
use crate::house::House;
use crate::oracle::{Oracle, ok};

/// A request with credentials.
pub(crate) fn by(credentials: &str, request: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
    request.replacen("\r\n\r\n", &format!("\r\nProxy-Authorization: Basic {encoded}\r\n\r\n"), 1)
}

const ADA: &str = "ada:right horse";
const BEA: &str = "bea:left horse";

fn house_of_two(workers: usize) -> House {
    let house = House::with_workers(workers, |_| {});
    house.add("bea", "left horse");
    house
}

/// Says something, and returns the status of the answer and its body.
fn say(client: &mut TcpStream, said: &str) -> (String, Vec<u8>) {
    client.write_all(said.as_bytes()).unwrap();
    let (head, body) = read_response(client);
    (head[9..12].to_owned(), body)
}

/// The whole of what is answered before the connection ends.
fn last_words(client: &mut TcpStream, said: &str) -> String {
    client.write_all(said.as_bytes()).unwrap();
    String::from_utf8(read_to_end(client)).unwrap()
}

/// An origin whose answers never end.
pub(crate) fn endless() -> SocketAddr {
    serve(|mut stream| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
        let mut sent = stream.write_all(head);
        while sent.is_ok() {
            sent = stream.write_all(&[7; 4096]);
        }
    })
}

#[test]
fn curl_and_python_have_their_requests_forwarded() {
    let house = House::new(|_| {});
    let oracle = Oracle::parrot();
    let (url, token) = (oracle.url("/a"), house.token("proxy"));
    let proxy = |user: &str| format!("http://{user}@{}", house.address);
    let (right, wrong) = (proxy("ada:right%20horse"), proxy("ada:wrong"));
    let by_token = proxy(&format!("ada:{token}"));
    let nobody = format!("http://{}", house.address);
    let bearer = format!("Proxy-Authorization: Bearer {token}");
    for flags in [
        &["-x", &right][..],
        &["-x", &by_token],
        &["-x", &nobody, "--proxy-header", &bearer],
        &["-x", &right, "--proxy-anyauth"],
    ] {
        let (code, text) = curl(&[flags, &["--data", "b", &url, &url]].concat());
        assert_eq!((code, text.as_str()), (Some(0), "POST /a|bPOST /a|b"), "{flags:?}");
    }
    for flags in [&["-x", &wrong][..], &["-x", &nobody]] {
        let (_, text) = curl(&[flags, &["--include", &url]].concat());
        assert!(text.starts_with("HTTP/1.1 407 ") && !text.contains("GET /a|"), "{text}");
    }
    let program = "import sys, requests\n\
        s = requests.Session()\n\
        s.trust_env = False\n\
        s.proxies = {'http': sys.argv[1]}\n\
        print(s.get(sys.argv[2]).text)\n\
        print(s.post(sys.argv[2], data=b'x' * 100000).text == 'POST /a|' + 'x' * 100000)\n";
    assert_eq!(python(program, &[&right, &url]), "GET /a|\nTrue\n");
    let requests = oracle.requests();
    assert_eq!(requests.len(), 10);
    let told = requests.iter().filter(|it| it.head.to_lowercase().contains("proxy-")).count();
    assert_eq!(told, 0, "what is meant for the proxy stays there");
}

#[test]
fn each_request_on_a_connection_is_for_whom_it_shows_and_for_nobody_without() {
    let house = house_of_two(1);
    let (open, shut) = (Oracle::parrot(), Oracle::parrot());
    house.set_of("bea", "{}", &format!(r#"["deny any {}/tcp","allow any"]"#, shut.address.port()));
    let mut client = connect(house.address);
    for (user, oracle, status) in [
        (ADA, &shut, "200"),
        (ADA, &shut, "200"),
        (BEA, &open, "200"),
        (ADA, &shut, "200"),
        (BEA, &shut, "403"),
    ] {
        let (seen, _) = say(&mut client, &by(user, &oracle.get("/")));
        assert_eq!(seen, status, "{user}");
    }
    assert_eq!(house.gateway.status().accepted, 1, "all on one connection");
    // One that was known is not known by that for ever.
    for (later, expected) in [
        (open.get("/"), "HTTP/1.1 407 "),
        (by("ada:wrong", &open.get("/")), "HTTP/1.1 407 "),
        (by(ADA, &open.get("/")), "HTTP/1.1 200 "),
    ] {
        let mut client = connect(house.address);
        assert_eq!(say(&mut client, &by(ADA, &open.get("/"))).0, "200");
        let later = later.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let answer = last_words(&mut client, &later);
        assert!(answer.starts_with(expected), "{answer}");
    }
    let status = house.gateway.status();
    assert_eq!((status.refused["no_login"], status.refused["login_refused"]), (1, 1), "{status:?}");
}

#[test]
fn a_connection_to_an_origin_serves_several_users_each_by_rules_of_its_own() {
    let house = house_of_two(1);
    let oracle = Oracle::parrot();
    let ask = |user: &str| {
        let mut client = connect(house.address);
        let (status, _) = say(&mut client, &by(user, &oracle.get("/")));
        drop(client);
        await_that("it has left", || match house.gateway.status().connections {
            0 => Ok(()),
            connections => Err(connections.to_string()),
        });
        status
    };
    let shut = format!(r#"["deny any {}/tcp","allow any"]"#, oracle.address.port());
    assert_eq!((ask(ADA).as_str(), ask(BEA).as_str()), ("200", "200"));
    assert_eq!(oracle.visits().len(), 1, "both by the same connection");
    house.set_of("bea", "{}", &shut);
    assert_eq!((ask(BEA).as_str(), ask(ADA).as_str()), ("403", "200"));
    house.set_of("bea", "{}", r#"["allow any"]"#);
    assert_eq!((ask(BEA).as_str(), ask(ADA).as_str()), ("200", "200"));
    assert_eq!(oracle.visits().len(), 1, "which was there for ada all the time");
    assert_eq!(house.gateway.status().failed["ruled"], 1);
}

#[test]
fn a_connection_that_others_might_not_have_got_is_its_users_alone() {
    let rule = |users: &[&str], way| Rule {
        domains: Vec::new(),
        networks: Vec::new(),
        ports: Vec::new(),
        users: users.iter().map(|user| user.parse().unwrap()).collect(),
        groups: Vec::new(),
        way,
    };
    let house = House::with_workers(1, |rules| {
        rules.routes = Routes::new(&[rule(&["ada", "bea"], Way::Direct), rule(&[], Way::Block)]);
    });
    for user in ["bea", "eve"] {
        house.add(user, "left horse");
    }
    let oracle = Oracle::parrot();
    for (user, status, visits) in [(ADA, "200", 1), ("eve:left horse", "403", 1), (BEA, "200", 2)] {
        let mut client = connect(house.address);
        for _ in 0..if status == "200" { 2 } else { 1 } {
            assert_eq!(say(&mut client, &by(user, &oracle.get("/"))).0, status, "{user}");
        }
        assert_eq!(oracle.visits().len(), visits, "{user}");
    }
}

#[test]
fn revocation_ends_what_is_being_forwarded_and_says_why_where_it_can() {
    let house = House::new(|_| {});
    // One that never ends, one that never begins, and one between two requests.
    let endless = endless();
    let silent = serve(|mut stream| drop(read_to_end(&mut stream)));
    let oracle = Oracle::parrot();
    let get = |address| by(ADA, &format!("GET http://{address}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut download = connect(house.address);
    download.write_all(get(endless).as_bytes()).unwrap();
    read_exactly(&mut download, 100_000);
    let mut waiting = connect(house.address);
    waiting.write_all(get(silent).as_bytes()).unwrap();
    let mut between = connect(house.address);
    assert_eq!(say(&mut between, &get(oracle.address)).0, "200");
    await_that("all are under way", || match house.gateway.status().reached {
        3 => Ok(()),
        reached => Err(reached.to_string()),
    });
    let outcome = house.run(r#"{"operation":"user_disable","name":"ada"}"#);
    let Outcome::Done(done) = outcome else { panic!("{outcome:?}") };
    assert!(done.closed_ms.is_some_and(|ms| ms < 1000.0), "{done:?}");
    assert!(std::io::copy(&mut download, &mut std::io::sink()).is_err(), "it is reset");
    let answer = String::from_utf8(read_to_end(&mut waiting)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 407 ") && answer.contains("no longer good"), "{answer}");
    assert_eq!(read_to_end(&mut between), b"");
    let status = house.gateway.status();
    assert_eq!(status.revoked, 2, "{status:?}");
}

#[test]
fn a_rule_ends_what_it_denies_and_leaves_the_rest() {
    let house = House::with_workers(1, |_| {});
    let origins: [_; 3] = std::array::from_fn(|_| {
        serve(|mut stream| {
            read_head(&mut stream);
            // The answer comes once the test has shown that the first bytes have.
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").unwrap();
            let mut asked = [0; 2];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(b"done").unwrap();
        })
    });
    let silent = serve(|mut stream| drop(read_to_end(&mut stream)));
    let post = |address| {
        let head = format!("POST http://{address}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n");
        by(ADA, &format!("{head}\r\n"))
    };
    let begin = |address| {
        let mut client = connect(house.address);
        client.write_all(post(address).as_bytes()).unwrap();
        client
    };
    let mut clients: Vec<_> = origins.iter().map(|address| begin(*address)).collect();
    let heads: Vec<_> = clients.iter_mut().map(read_head).collect();
    assert!(heads.iter().all(|head| head.starts_with("HTTP/1.1 200 ")), "{heads:?}");
    let mut waiting = begin(silent);
    await_that("it is under way", || match house.gateway.status().reached {
        4 => Ok(()),
        reached => Err(reached.to_string()),
    });
    let (first, silent) = (origins[0].port(), silent.port());
    let acl = format!(r#"["deny any {first}/tcp","deny any {silent}/tcp","allow any"]"#);
    house.set("{}", &acl);
    assert!(clients[0].read(&mut [0]).is_err(), "it is reset");
    let answer = String::from_utf8(read_to_end(&mut waiting)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    for client in &mut clients[1..] {
        client.write_all(b"go").unwrap();
        assert_eq!(read_exactly(client, 4), b"done");
    }
    assert_eq!(house.gateway.status().revoked, 2);
}

#[test]
fn whoever_changes_groups_keeps_nothing_that_rules_for_groups_may_have_given() {
    let rule = Rule {
        domains: Vec::new(),
        networks: Vec::new(),
        ports: Vec::new(),
        users: Vec::new(),
        groups: vec!["guests".parse().unwrap()],
        way: Way::Block,
    };
    let house = House::with_workers(1, |rules| rules.routes = Routes::new(&[rule]));
    house.run(r#"{"operation":"group_add","name":"guests","limits":{}}"#);
    let oracle = Oracle::parrot();
    let get = by(ADA, &format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", oracle.url("/")));
    let mut keeping = connect(house.address);
    assert_eq!(say(&mut keeping, &get).0, "200");
    let mut live = house.reach(echo());
    // Terms that say nothing of groups leave what is there.
    house.set(r#"{"connections_max":50}"#, "null");
    live.write_all(b"x").unwrap();
    assert_eq!(read_exactly(&mut live, 1), b"x");
    assert_eq!(say(&mut keeping, &get).0, "200");
    house.run(r#"{"operation":"user_set","name":"ada","limits":{},"join":["guests"]}"#);
    assert!(live.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    assert_eq!(say(&mut keeping, &get).0, "403");
    assert_eq!(oracle.visits().len(), 1, "one connection to the origin");
    let status = house.gateway.status();
    assert_eq!((status.revoked, status.failed["blocked"]), (1, 1), "{status:?}");
}

#[test]
fn what_was_forwarded_is_counted_to_the_byte_heads_included() {
    let house = house_of_two(2);
    let oracle = Oracle::parrot();
    let mut client = connect(house.address);
    let (mut up, mut down) = ([0; 2], [0; 2]);
    for round in 0..6 {
        let user = round % 2;
        let body = "x".repeat(round * 50_000);
        let chunked = format!("{:x};drop=this\r\n{body}\r\n0\r\n\r\n", body.len());
        let (field, body) = match round {
            3 => ("Transfer-Encoding: chunked".to_owned(), chunked),
            _ => (format!("Content-Length: {}", body.len()), body),
        };
        let url = oracle.url("/");
        let head = format!("POST {url} HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        let before: usize = oracle.visits().iter().map(|visit| visit.bytes.len()).sum();
        client.write_all(by([ADA, BEA][user], &head).as_bytes()).unwrap();
        client.write_all(body.as_bytes()).unwrap();
        let (head, body) = read_response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let after: usize = oracle.visits().iter().map(|visit| visit.bytes.len()).sum();
        up[user] += (after - before) as u64;
        down[user] += (head.len() + body.len()) as u64;
    }
    house.await_moved("ada", (up[0], down[0]));
    house.await_moved("bea", (up[1], down[1]));
    // What the proxy says itself is nobody's.
    let mut client = connect(house.address);
    let refused = "GET http://10.0.0.1/ HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(say(&mut client, &by(ADA, refused)).0, "403");
    let status = house.gateway.status();
    assert_eq!((status.up_bytes, status.down_bytes), (up[0] + up[1], down[0] + down[1]));
    house.await_moved("ada", (up[0], down[0]));
}

#[test]
fn a_websocket_is_counted_limited_and_ended_as_any_relay() {
    let house = House::new(|_| {});
    let origin = serve(|mut stream| {
        read_head(&mut stream);
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
        // With the first words right behind.
        stream.write_all(format!("{switch}\r\nhello").as_bytes()).unwrap();
        let mut reader = stream.try_clone().unwrap();
        drop(std::io::copy(&mut reader, &mut stream));
    });
    let mut client = connect(house.address);
    let ask = format!(
        "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\n\r\n"
    );
    client.write_all(by(ADA, &ask).as_bytes()).unwrap();
    let head = read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(read_exactly(&mut client, 5), b"hello");
    client.write_all(&[1; 12_345]).unwrap();
    read_exactly(&mut client, 12_345);
    let asked = format!(
        "GET / HTTP/1.1\r\nHost: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    let down = head.len() + 5 + 12_345;
    house.await_moved("ada", ((asked.len() + 12_345) as u64, down as u64));
    house.set("{}", &format!(r#"["deny any {}/tcp","allow any"]"#, origin.port()));
    assert!(client.read(&mut [0]).is_err(), "it is reset");
}

#[test]
fn a_rate_holds_for_bodies_both_ways_and_nothing_is_lost() {
    let house = House::new(|_| {});
    let large = ok(&[3; 400_000]);
    let oracle = Oracle::start(move |request| match request.line() {
        "GET /" => large.clone(),
        _ => ok(request.body.len().to_string().as_bytes()),
    });
    let transfer = |is_up: bool| {
        let mut client = connect(house.address);
        let before = clock::now();
        let got = match is_up {
            true => {
                let head = format!(
                    "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n",
                    oracle.url("/")
                );
                let said = by(ADA, &head) + &"x".repeat(400_000);
                String::from_utf8(say(&mut client, &said).1).unwrap()
            }
            false => say(&mut client, &by(ADA, &oracle.get("/"))).1.len().to_string(),
        };
        assert_eq!(got, "400000");
        clock::now() - before
    };
    // Half a million bytes each second; what waits in the queue of the limit is ahead of its time.
    for (limit, is_up) in [
        (r#"{"down_bps":4000000,"up_bps":800000000000}"#, false),
        (r#"{"down_bps":800000000000,"up_bps":4000000}"#, true),
    ] {
        house.set(limit, "null");
        let took = transfer(is_up);
        assert!(took > Duration::from_millis(700), "{limit}: {took:?}");
        assert!(took < Duration::from_secs(10), "{limit}: {took:?}");
        let is_free = (0..5).any(|_| transfer(!is_up) < Duration::from_millis(500));
        assert!(is_free, "{limit}: the other way has no limit");
    }
}

#[test]
fn small_requests_do_not_slip_past_a_rate() {
    let house = House::new(|_| {});
    let oracle = Oracle::parrot();
    // 20,000 bytes each second.
    house.set(r#"{"up_bps":160000}"#, "null");
    let path = format!("/{}", "x".repeat(4000));
    let mut client = connect(house.address);
    let before = clock::now();
    for _ in 0..25 {
        assert_eq!(say(&mut client, &by(ADA, &oracle.get(&path))).0, "200");
    }
    let took = clock::now() - before;
    // Five seconds' worth, of which a queue of some packets is ahead.
    assert!(took > Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_connection_between_two_requests_is_one_of_its_users_and_of_no_other() {
    let house = House::new(|rules| rules.connections_per_user_max = 2);
    house.add("bea", "left horse");
    let oracle = Oracle::parrot();
    let mut held: Vec<_> = (0..2).map(|_| connect(house.address)).collect();
    for client in &mut held {
        assert_eq!(say(client, &by(ADA, &oracle.get("/"))).0, "200");
        assert_eq!(say(client, &by(ADA, &oracle.get("/"))).0, "200", "it has its place");
    }
    let mut third = connect(house.address);
    assert_eq!(say(&mut third, &by(ADA, &oracle.get("/"))).0, "429");
    // Once one of them is another's, there is room for it.
    assert_eq!(say(&mut held[0], &by(BEA, &oracle.get("/"))).0, "200");
    let mut third = connect(house.address);
    assert_eq!(say(&mut third, &by(ADA, &oracle.get("/"))).0, "200");
    assert_eq!(house.gateway.status().failed["user_full"], 1);
}

#[test]
fn a_rule_is_asked_again_about_what_is_kept_through_an_upstream_proxy() {
    let upstream = crate::harness::Gateway::start(&[]);
    let servers = vec![format!("http://{}", upstream.address).parse().unwrap()];
    let settings = GroupSettings::new("far".parse().unwrap(), servers);
    let settings = GroupSettings { balance: Balance::LeastConnections, ..settings };
    let rule = Rule {
        domains: Vec::new(),
        networks: Vec::new(),
        ports: Vec::new(),
        users: Vec::new(),
        groups: Vec::new(),
        way: Way::Upstream(0),
    };
    let house = House::with_workers(1, |rules| {
        rules.upstreams = vec![Arc::new(Group::new(settings))];
        rules.routes = Routes::new(&[rule]);
    });
    let oracle = Oracle::parrot();
    let mut client = connect(house.address);
    for _ in 0..2 {
        assert_eq!(say(&mut client, &by(ADA, &oracle.get("/"))).0, "200");
    }
    assert_eq!((upstream.status().reached, oracle.visits().len()), (1, 1));
    let upstreams = house.gateway.status().upstreams;
    assert_eq!(upstreams[0].connections, 1, "it is held for as long as it is kept");
    house.set("{}", &format!(r#"["deny any {}/tcp","allow any"]"#, oracle.address.port()));
    let answer = last_words(&mut client, &by(ADA, &oracle.get("/")));
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}
