//! Clients that have to say who they are: real curl, real accounts.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use corelane::accounts::operations::Outcome;
use corelane::proxy::upstream::group::{Balance, Group, GroupSettings};
use corelane::proxy::upstream::{Routes, Rule, Way};
use corelane::sys::clock;

use crate::clients::curl;
use crate::harness::{await_that, connect, echo, http, read_exactly, read_to_end, serve};
use crate::house::House;

#[test]
fn curl_gets_in_with_right_credentials_and_with_no_others() {
    let house = House::new(|_| {});
    let (proxy, url) = (house.address.to_string(), format!("http://{}/", http("the page")));
    let (token, tunnel) = (house.token("proxy"), house.token("tunnel"));
    let by_token = format!("ada:{token}");
    let bearer = format!("Proxy-Authorization: Bearer {token}");
    let socks = ["--socks5", &proxy];
    let tunneled = ["--proxy", &proxy, "--proxytunnel"];
    for shown in [
        [&socks[..], &["--proxy-user", "ada:right horse"]].concat(),
        [&socks[..], &["--proxy-user", &by_token]].concat(),
        [&tunneled[..], &["--proxy-user", "ada:right horse"]].concat(),
        [&tunneled[..], &["--proxy-anyauth", "--proxy-user", "ada:right horse"]].concat(),
        [&tunneled[..], &["--proxy-user", &by_token]].concat(),
        [&tunneled[..], &["--proxy-header", &bearer]].concat(),
    ] {
        let (code, text) = curl(&[&shown[..], &[&url]].concat());
        assert_eq!((code, text.as_str()), (Some(0), "the page"), "{shown:?}");
    }
    let of_tunnel = format!("ada:{tunnel}");
    for shown in [
        [&socks[..], &[]].concat(),
        [&socks[..], &["--proxy-user", "ada:wrong"]].concat(),
        [&socks[..], &["--proxy-user", "eve:right horse"]].concat(),
        vec!["--socks4", &proxy],
        [&tunneled[..], &[]].concat(),
        [&tunneled[..], &["--proxy-user", "ada:wrong"]].concat(),
        [&tunneled[..], &["--proxy-user", &of_tunnel]].concat(),
    ] {
        let (code, text) = curl(&[&shown[..], &[&url]].concat());
        assert!(code != Some(0) && !text.contains("the page"), "{shown:?}: {text}");
        assert!(shown[0] != "--proxy" || text.contains("407"), "{shown:?}: {text}");
    }
    let status = house.gateway.status();
    // One who is asked first, by `--proxy-anyauth`, is among the former.
    assert_eq!((status.refused["no_login"], status.refused["login_refused"]), (4, 4), "{status:?}");
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_answered_alike() {
    let house = House::new(|_| {});
    let answer = |credentials: &str| {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
        let mut stream = connect(house.address);
        let request = format!(
            "CONNECT a.example:1 HTTP/1.1\r\nHost: a.example:1\r\n\
             Proxy-Authorization: Basic {encoded}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        String::from_utf8(read_to_end(&mut stream)).unwrap()
    };
    let wrong = answer("ada:wrong");
    assert!(wrong.starts_with("HTTP/1.1 407") && wrong.contains("Basic realm"), "{wrong}");
    assert_eq!(answer("nobody:wrong"), wrong);
    house.run(r#"{"operation":"user_disable","name":"ada"}"#);
    assert_eq!(answer("ada:right horse"), wrong);
}

#[test]
fn disabling_a_user_closes_a_live_download_at_once_and_says_how_long_that_took() {
    let house = House::new(|_| {});
    // One that never ends.
    let origin = serve(|mut stream| while stream.write_all(&[7; 4096]).is_ok() {});
    let mut download = house.reach(origin);
    read_exactly(&mut download, 100_000);
    let mut idle = house.reach(echo());
    let before = clock::now();
    let outcome = house.run(r#"{"operation":"user_disable","name":"ada"}"#);
    let took = clock::now() - before;
    let Outcome::Done(done) = outcome else { panic!("{outcome:?}") };
    assert_eq!(done.proxy_logins_ended, 1);
    let closed_ms = done.closed_ms.expect("both workers have acted");
    assert!(closed_ms < 1000.0 && took < Duration::from_secs(10), "{done:?} {took:?}");
    for stream in [&mut download, &mut idle] {
        assert!(std::io::copy(stream, &mut std::io::sink()).is_err(), "it is reset, not ended");
    }
    let status = house.gateway.status();
    assert_eq!((status.revoked, status.connections), (2, 0), "{status:?}");
    let mut stream = connect(house.address);
    stream.write_all(b"\x05\x01\x02\x01\x03ada\x0bright horse").unwrap();
    assert_eq!(read_to_end(&mut stream), [5, 2, 1, 1]);
}

#[test]
fn a_rule_denies_the_address_that_is_dialled_and_ends_what_it_denies_later() {
    assert_ruled(&House::new(|_| {}));
}

#[test]
fn a_rule_denies_the_same_through_an_upstream_proxy() {
    let upstream = crate::harness::Gateway::start(&[]);
    let servers = vec![format!("socks5://{}", upstream.address).parse().unwrap()];
    let settings = GroupSettings::new("far".parse().unwrap(), servers);
    let settings = GroupSettings { balance: Balance::User, ..settings };
    let rule = Rule {
        domains: Vec::new(),
        networks: Vec::new(),
        ports: Vec::new(),
        users: vec!["ada".parse().unwrap()],
        groups: Vec::new(),
        way: Way::Upstream(0),
    };
    assert_ruled(&House::new(|rules| {
        rules.upstreams = vec![Arc::new(Group::new(settings))];
        rules.routes = Routes::new(&[rule]);
    }));
    assert_eq!(upstream.status().reached, 5, "all came through it");
}

/// Asserts that the rules of a user go for each connection and hold on.
fn assert_ruled(house: &House) {
    let (open, shut) = (echo(), echo());
    let address = house.address.to_string();
    let reply = |name: &str, origin: SocketAddr| {
        let mut stream = connect(house.address);
        let mut said = b"\x05\x01\x02\x01\x03ada\x0bright horse\x05\x01\x00\x03".to_vec();
        said.push(name.len() as u8);
        said.extend_from_slice(name.as_bytes());
        said.extend_from_slice(&origin.port().to_be_bytes());
        stream.write_all(&said).unwrap();
        read_exactly(&mut stream, 6)[5]
    };
    assert_eq!(reply("127.0.0.1", shut), 0, "it is there, by {address}");
    let (mut kept, mut lost) = (house.reach(open), house.reach(shut));
    house.set("{}", &format!(r#"["deny any {}/tcp","allow any"]"#, shut.port()));
    assert_eq!((reply("127.0.0.1", shut), reply("localhost", shut)), (2, 2));
    assert_eq!((reply("127.0.0.1", open), reply("localhost", open)), (0, 0));
    assert!(lost.read(&mut [0]).is_err(), "it is reset");
    kept.write_all(b"x").unwrap();
    assert_eq!(read_exactly(&mut kept, 1), b"x");
    assert_eq!(house.gateway.status().failed["ruled"], 2);
}

#[test]
fn what_a_user_has_moved_is_counted_to_the_byte() {
    let house = House::new(|_| {});
    let mut live = house.reach(echo());
    live.write_all(&[1; 12_345]).unwrap();
    read_exactly(&mut live, 12_345);
    await_that("the usage of a live connection", || {
        let moved = house.moved();
        if moved == (12_345, 12_345) { Ok(()) } else { Err(format!("{moved:?}")) }
    });
    let origin = serve(|mut stream| {
        let mut asked = [0; 5];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(&[2; 3_000_001]).unwrap();
    });
    let mut finished = house.reach(origin);
    finished.write_all(b"hello").unwrap();
    assert_eq!(read_to_end(&mut finished).len(), 3_000_001);
    drop(live);
    drop(finished);
    await_that("the usage of all", || {
        let moved = house.moved();
        let all = (12_350, 12_345 + 3_000_001);
        if moved == all { Ok(()) } else { Err(format!("{moved:?}")) }
    });
}

#[test]
fn what_goes_to_which_host_is_counted_where_that_is_wanted() {
    let origin = echo();
    let talk = |house: &House, len: usize| {
        let mut stream = house.reach(origin);
        stream.write_all(&vec![1; len]).unwrap();
        read_exactly(&mut stream, len);
    };
    let told = |house: &House| {
        let stats = r#"{"operation":"stats","user":"ada","since_s":86400,"by":"destination"}"#;
        let Outcome::Usage(usage) = house.run(stats) else { panic!() };
        usage
    };
    let house = House::new(|rules| rules.usage_by_destination = true);
    talk(&house, 1000);
    talk(&house, 77);
    // What was not reached is no destination.
    assert_eq!(house.ask(1, SocketAddr::from(([127, 0, 0, 1], 1))).1, 5);
    await_that("two connections that are over", || {
        let usage = told(&house);
        let [line] = &usage[..] else { return Err(format!("{usage:?}")) };
        assert_eq!(line.destination.as_deref(), Some("127.0.0.1"));
        let moved = (line.connections, line.received_bytes, line.sent_bytes);
        if moved == (Some(2), 1077, 1077) { Ok(()) } else { Err(format!("{usage:?}")) }
    });
    assert_eq!(house.moved(), (1077, 1077));

    let house = House::new(|_| {});
    talk(&house, 1000);
    await_that("the usage of the user", || {
        if house.moved() == (1000, 1000) { Ok(()) } else { Err(format!("{:?}", house.moved())) }
    });
    assert_eq!(told(&house), [], "nobody has said that it is to be kept");
}

#[test]
fn a_rate_holds_over_all_connections_of_a_user_and_nothing_is_lost() {
    let house = House::new(|_| {});
    // A million bytes each second.
    house.set(r#"{"down_bps":8000000}"#, "null");
    let origin = serve(|mut stream| drop(stream.write_all(&[3; 500_000])));
    let before = clock::now();
    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = house.reach(origin);
            std::thread::spawn(move || read_to_end(&mut stream).len())
        })
        .collect();
    let got: Vec<usize> = both.into_iter().map(|thread| thread.join().unwrap()).collect();
    let took = clock::now() - before;
    assert_eq!(got, [500_000, 500_000]);
    // What waits in the queue of the limit is ahead of its time, by 25 ms and a step.
    assert!(took > Duration::from_millis(930), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    house.set(r#"{"down_bps":800000000000}"#, "null");
    let transfer = || {
        let before = clock::now();
        assert_eq!(read_to_end(&mut house.reach(origin)).len(), 500_000);
        clock::now() - before
    };
    let is_fast = (0..5).any(|_| transfer() < Duration::from_millis(400));
    assert!(is_fast, "without that limit it is fast");
}

#[test]
fn a_user_has_as_many_connections_as_the_entrance_says() {
    let house = House::new(|rules| rules.connections_per_user_max = 2);
    let origin = echo();
    let mut held = vec![house.reach(origin), house.reach(origin)];
    let url = format!("http://{origin}/");
    let proxy = house.address.to_string();
    let flags = ["--proxy", &proxy, "--proxytunnel", "--proxy-user", "ada:right horse", &url];
    let (code, text) = curl(&flags);
    assert!(code != Some(0) && text.contains("429"), "{text}");
    held.pop();
    await_that("a free place", || {
        let connections = house.gateway.status().connections;
        if connections == 1 { Ok(()) } else { Err(connections.to_string()) }
    });
    drop(house.reach(origin));
    assert_eq!(house.gateway.status().failed["user_full"], 1);
}

#[test]
fn bounds_of_a_user_and_of_its_group_go_before_those_of_the_entrance() {
    let house = House::new(|rules| rules.connections_per_user_max = 1);
    let origin = echo();
    let count = || {
        let mut held = Vec::new();
        loop {
            let (stream, reply) = house.ask(1, origin);
            match reply {
                0 => held.push(stream),
                2 => return held.len(),
                other => panic!("{other}"),
            }
        }
    };
    let settled = |expected: usize| {
        await_that("so many connections at once", || {
            let seen = count();
            if seen == expected { Ok(()) } else { Err(seen.to_string()) }
        });
    };
    settled(1);
    house.run(r#"{"operation":"group_add","name":"staff","limits":{"set":{"connections_max":3}}}"#);
    house.run(r#"{"operation":"user_set","name":"ada","limits":{},"join":["staff"]}"#);
    settled(3);
    house.set(r#"{"connections_max":2}"#, "null");
    settled(2);
    // Of 1 each second, ten come at once.
    house.set(r#"{"connections_max":100,"connections_per_s":1}"#, "null");
    let seen = count();
    assert!((10..100).contains(&seen), "{seen}");
    assert!(house.gateway.status().failed["user_too_fast"] >= 1);
}

#[test]
fn a_rule_for_a_group_goes_for_its_members_from_when_they_are_in_it() {
    let origin = echo();
    let rule = Rule {
        domains: Vec::new(),
        networks: Vec::new(),
        ports: Vec::new(),
        users: Vec::new(),
        groups: vec!["guests".parse().unwrap()],
        way: Way::Block,
    };
    let house = House::new(|rules| rules.routes = Routes::new(&[rule]));
    assert_eq!(house.ask(1, origin).1, 0);
    house.run(r#"{"operation":"group_add","name":"guests","limits":{}}"#);
    assert_eq!(house.ask(1, origin).1, 0);
    house.run(r#"{"operation":"user_set","name":"ada","limits":{},"join":["guests"]}"#);
    await_that("the rule", || match house.ask(1, origin).1 {
        2 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(house.gateway.status().failed["blocked"], 1);
}
