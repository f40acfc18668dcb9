//! What those who have said who they are get by SOCKS5 besides CONNECT: datagrams, and ports for
//! others.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use corelane::accounts::operations::Outcome;
use corelane::proxy::upstream::{Routes, Rule, Way};
use corelane::sys::clock;

use crate::binding::{connect_from, reply};
use crate::datagrams::{Client, LOCALHOST, udp_echo};
use crate::harness::{LONG, assert_ended, await_that, connect, read_exactly};
use crate::house::House;

/// An association of a user.
fn associate(house: &House, user: &str, password: &str) -> Client {
    let nowhere = SocketAddr::from(([0; 4], 0));
    let (tcp, code, address) = house.ask_as((user, password), 3, nowhere);
    assert_eq!(code, 0);
    Client::over(tcp, address)
}

fn await_dropped(house: &House, why: &str, count: u64) {
    await_that(why, || {
        let status = house.gateway.status();
        let dropped = status.datagrams_dropped[why];
        if dropped == count { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

#[test]
fn each_datagram_is_judged_by_the_rules_of_its_user_as_they_are_now() {
    let house = House::new(|_| {});
    let (open, other) = (udp_echo(LOCALHOST), UdpSocket::bind((LOCALHOST, 0)).unwrap());
    other.set_read_timeout(Some(LONG)).unwrap();
    let at = other.local_addr().unwrap();
    let client = associate(&house, "ada", "right horse");
    client.send(open.address, b"one");
    assert_eq!(client.receive(), (open.address, b"one".to_vec()));
    client.send(at, b"two");
    let (_, outside) = other.recv_from(&mut [0; 10]).unwrap();
    other.send_to(b"three", outside).unwrap();
    assert_eq!(client.receive(), (at, b"three".to_vec()));
    // A rule about another protocol says nothing about datagrams.
    let ruled = |protocol| format!(r#"["deny any {}/{protocol}","allow any"]"#, at.port());
    house.set("{}", &ruled("tcp"));
    client.send(at, b"four");
    assert_eq!(other.recv(&mut [0; 10]).unwrap(), 4);
    house.set("{}", &ruled("udp"));
    client.send(at, b"five");
    await_dropped(&house, "denied", 1);
    other.send_to(b"six", outside).unwrap();
    await_dropped(&house, "denied", 2);
    client.send(open.address, b"seven");
    assert_eq!(client.receive(), (open.address, b"seven".to_vec()), "and nothing before it");
    house.set("{}", r#"["allow any"]"#);
    client.send(at, b"eight");
    other.recv(&mut [0; 10]).unwrap();
    other.send_to(b"nine", outside).unwrap();
    assert_eq!(client.receive(), (at, b"nine".to_vec()));
}

#[test]
fn a_name_is_sent_to_by_an_address_that_the_user_may_send_to() {
    let house = House::new(|_| {});
    let echo = udp_echo(LOCALHOST);
    let client = associate(&house, "ada", "right horse");
    let by_name = crate::datagrams::header_by_name("localhost", echo.address.port());
    house.set("{}", r#"["deny any udp","allow any"]"#);
    client.udp.send(&[&by_name[..], b"x"].concat()).unwrap();
    await_dropped(&house, "denied", 1);
    // Of two addresses, where there are two.
    house.set("{}", r#"["allow 127.0.0.1 udp"]"#);
    client.udp.send(&[&by_name[..], b"x"].concat()).unwrap();
    assert_eq!(client.receive(), (echo.address, b"x".to_vec()));
}

#[test]
fn rules_about_users_go_for_their_datagrams() {
    let rule = Rule {
        domains: Vec::new(),
        networks: Vec::new(),
        ports: Vec::new(),
        users: vec!["ada".parse().unwrap()],
        groups: Vec::new(),
        way: Way::Block,
    };
    let house = House::new(|rules| rules.routes = Routes::new(&[rule]));
    house.add("bea", "left horse");
    let echo = udp_echo(LOCALHOST);
    let ada = associate(&house, "ada", "right horse");
    ada.send(echo.address, b"x");
    await_dropped(&house, "denied", 1);
    let bea = associate(&house, "bea", "left horse");
    bea.send(echo.address, b"x");
    assert_eq!(bea.receive(), (echo.address, b"x".to_vec()));
}

#[test]
fn datagrams_are_counted_to_the_byte() {
    let house = House::new(|_| {});
    let (echo, deaf) = (udp_echo(LOCALHOST), UdpSocket::bind((LOCALHOST, 0)).unwrap());
    let client = associate(&house, "ada", "right horse");
    for len in [0, 1, 1400, 60_000] {
        client.send(echo.address, &vec![7; len]);
        assert_eq!(client.receive().1.len(), len);
    }
    client.send(deaf.local_addr().unwrap(), &[7; 100]);
    // What is denied is not counted.
    client.send("10.0.0.1:9".parse().unwrap(), &[7; 1000]);
    house.await_moved("ada", (61_501, 61_401));
}

#[test]
fn what_a_limit_has_no_room_for_is_dropped_and_counted_and_nothing_is_late() {
    let house = House::new(|_| {});
    let echo = udp_echo(LOCALHOST);
    let client = associate(&house, "ada", "right horse");
    // One of these each second, and a queue of as much.
    for (limit, is_up) in [(r#"{"up_bps":8000}"#, true), (r#"{"down_bps":8000}"#, false)] {
        house.set(limit, "null");
        let before = house.gateway.status();
        for _ in 0..100 {
            client.send(echo.address, &[7; 1000]);
            // It would lose some of many at once, which is not what is looked at here.
            if !is_up {
                echo.seen.recv_timeout(LONG).unwrap();
            }
        }
        let mut after = house.gateway.status();
        await_that("all are dealt with", || {
            after = house.gateway.status();
            let dropped = after.datagrams_dropped["limited"] - before.datagrams_dropped["limited"];
            let down = after.down_datagrams - before.down_datagrams;
            if dropped + down == 100 { Ok(()) } else { Err(format!("{after:?}")) }
        });
        let (up, down) = (
            after.up_datagrams - before.up_datagrams,
            after.down_datagrams - before.down_datagrams,
        );
        assert_eq!(up, if is_up { down } else { 100 });
        assert!((1..70).contains(&down), "{down}");
        for _ in 0..down {
            client.receive();
        }
        house.set(r#"{"up_bps":800000000000,"down_bps":800000000000}"#, "null");
    }
    for number in 0..100 {
        client.send(echo.address, &[number; 1000]);
        assert_eq!(client.receive().1, [number; 1000], "without a limit all pass");
    }
}

#[test]
fn datagrams_without_payload_have_a_rate_as_well() {
    /// As many as the gateway's sockets hold by far.
    const AT_ONCE: u64 = 100;
    const ALL: u64 = 40 * AT_ONCE;
    let house = House::new(|_| {});
    for ip in [LOCALHOST, Ipv6Addr::LOCALHOST.into()] {
        let origin = UdpSocket::bind((ip, 0)).unwrap();
        origin.set_read_timeout(Some(LONG)).unwrap();
        let at = origin.local_addr().unwrap();
        let client = associate(&house, "ada", "right horse");
        client.send(at, b"x");
        let (_, outside) = origin.recv_from(&mut [0; 2]).unwrap();
        for (limit, is_up) in [(r#"{"up_bps":8000}"#, true), (r#"{"down_bps":8000}"#, false)] {
            house.set(limit, "null");
            let counts = || {
                let status = house.gateway.status();
                let passed = if is_up { status.up_datagrams } else { status.down_datagrams };
                (passed, status.datagrams_dropped["limited"])
            };
            let (passed_before, dropped_before) = counts();
            let begin = clock::now();
            for _ in 0..ALL / AT_ONCE {
                let (passed, dropped) = counts();
                for _ in 0..AT_ONCE {
                    match is_up {
                        true => client.send(at, b""),
                        false => drop(origin.send_to(b"", outside).unwrap()),
                    }
                }
                await_that("all are dealt with", || {
                    let (now_passed, now_dropped) = counts();
                    let count = now_passed + now_dropped - passed - dropped;
                    if count == AT_ONCE { Ok(()) } else { Err(format!("{count}")) }
                });
            }
            let (passed, dropped) = counts();
            let (passed, dropped) = (passed - passed_before, dropped - dropped_before);
            // 1000 bytes each second, and a queue of as much: by their headers alone.
            let most = (clock::now().duration_since(begin).as_secs() + 3) * 1000
                / if ip.is_ipv4() { 28 } else { 48 };
            assert!(passed >= 1 && passed <= most, "{passed} have passed of {most} at most");
            assert_eq!(passed + dropped, ALL);
        }
    }
    // What counts as usage is payload.
    house.await_moved("ada", (2, 0));
}

#[test]
fn disabling_a_user_ends_its_associations_at_once() {
    let house = House::new(|_| {});
    let echo = udp_echo(LOCALHOST);
    let mut client = associate(&house, "ada", "right horse");
    client.send(echo.address, b"x");
    client.receive();
    let outcome = house.run(r#"{"operation":"user_disable","name":"ada"}"#);
    let Outcome::Done(done) = outcome else { panic!("{outcome:?}") };
    assert!(done.closed_ms.is_some_and(|ms| ms < 1000.0), "{done:?}");
    assert!(!matches!(client.tcp.read(&mut [0]), Ok(1)), "its connection has ended");
    let status = house.gateway.status();
    assert_eq!((status.revoked, status.connections), (1, 0), "{status:?}");
    await_that("nobody is at the port any more", || {
        match client.udp.send(b"x").and_then(|_| client.udp.send(b"x")) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// A port of ada's to which `host` may connect.
fn port_for(house: &House, host: [u8; 4]) -> (TcpStream, u8, SocketAddr) {
    house.ask_as(("ada", "right horse"), 2, SocketAddr::from((host, 21)))
}

#[test]
fn who_comes_to_a_port_is_judged_by_the_rules_of_its_user_then_and_before() {
    let house = House::new(|_| {});
    house.set("{}", r#"["deny 127.0.0.2","allow any"]"#);
    assert_eq!(port_for(&house, [127, 0, 0, 2]).1, 2);
    let (mut client, granted, port) = port_for(&house, [127, 0, 0, 3]);
    assert_eq!(granted, 0);
    house.set("{}", r#"["deny 127.0.0.2/31","allow any"]"#);
    let mut shut_out = connect_from("127.0.0.3:0", port);
    assert_ended(&mut shut_out);
    await_that("it is counted", || match house.gateway.status().strangers {
        1 => Ok(()),
        strangers => Err(strangers.to_string()),
    });
    house.set("{}", r#"["allow any"]"#);
    let mut peer = connect_from("127.0.0.3:0", port);
    assert_eq!(reply(&mut client), (0, peer.local_addr().unwrap()));
    peer.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut client, 5), b"hello");
    client.write_all(b"hello yourself").unwrap();
    assert_eq!(read_exactly(&mut peer, 14), b"hello yourself");
    house.await_moved("ada", (14, 5));
    house.set("{}", r#"["deny 127.0.0.3","allow any"]"#);
    assert!(client.read(&mut [0]).is_err(), "it is reset");
    assert_eq!(house.gateway.status().revoked, 1);
}

#[test]
fn what_comes_by_a_port_is_limited() {
    let house = House::new(|_| {});
    house.set(r#"{"down_bps":4000000}"#, "null");
    let (mut client, _, port) = port_for(&house, [127, 0, 0, 1]);
    let mut peer = connect_from("127.0.0.1:0", port);
    reply(&mut client);
    let before = clock::now();
    let writer = std::thread::spawn(move || peer.write_all(&[1; 400_000]).unwrap());
    read_exactly(&mut client, 400_000);
    let took = clock::now() - before;
    assert!(took > std::time::Duration::from_millis(700), "{took:?}");
    writer.join().unwrap();
}

#[test]
fn a_port_that_waits_is_shut_when_its_user_is_disabled() {
    let house = House::new(|_| {});
    let (mut client, _, port) = port_for(&house, [127, 0, 0, 1]);
    house.run(r#"{"operation":"user_disable","name":"ada"}"#);
    assert_eq!(read_exactly(&mut client, 2), [5, 2]);
    assert!(TcpStream::connect(port).is_err(), "nobody listens there");
    let mut refused = connect(house.address);
    refused.write_all(b"\x05\x01\x02\x01\x03ada\x0bright horse").unwrap();
    assert_eq!(read_exactly(&mut refused, 4), [5, 2, 1, 1]);
}
