//! Many clients, slow readers, and too few descriptors.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use corelane::lab::Host;
use corelane::limits::PROXY_ASKING_MAX;
use corelane::sys::process::{cpu_time, resident_bytes};
use socket2::{Domain, Socket, Type};

use crate::forwarding::read_head;
use crate::forwarding::read_response;
use crate::harness::{
    Gateway, ask_for, assert_ended, connect, echo, greeting_and_request, http, leave_descriptors,
    origin, read_exactly,
};

#[test]
fn idle_connections_cost_little_and_slow_ones_no_more_than_their_buffers() {
    let gateway = Gateway::start(&["--workers", "2"]);
    let (listener, address) = origin();
    let pid = gateway.child.id();
    let pair = || {
        let client = gateway.reach(address);
        (client, listener.accept().unwrap().0)
    };
    // What is there once is not what a connection costs.
    let mut held: Vec<(TcpStream, TcpStream)> = (0..64).map(|_| pair()).collect();
    let before = resident_bytes(pid).unwrap();
    held.extend((0..1000).map(|_| pair()));
    let each = resident_bytes(pid).unwrap().saturating_sub(before) / 1000;
    assert!(each <= 8 * 1024, "{each} bytes for an idle connection");

    // Each has moved something, and is idle again: no buffer is left with it.
    for (client, served) in &mut held {
        client.write_all(&[1; 5000]).unwrap();
        read_exactly(served, 5000);
    }
    let each = resident_bytes(pid).unwrap().saturating_sub(before) / 1000;
    assert!(each <= 8 * 1024, "{each} bytes for a connection that is idle again");

    // A reader that does not read: the writer has to wait, and memory stays bounded.
    let (mut client, _served) = pair();
    client.set_nonblocking(true).unwrap();
    let before = resident_bytes(pid).unwrap();
    let chunk = vec![7; 1 << 16];
    let mut sent = 0_u64;
    let mut waited = 0;
    while waited < 20 {
        match client.write(&chunk) {
            Ok(len) => (sent, waited) = (sent + len as u64, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                waited += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 1 << 30, "nothing holds the writer back");
    }
    let grown = resident_bytes(pid).unwrap().saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes for one slow reader");
}

#[test]
fn what_was_said_is_not_held_while_an_answer_or_the_next_request_is_awaited() {
    const LEN: usize = 60_000;
    const COUNT: usize = 300;
    let gateway = Gateway::start(&["--workers", "1"]);
    let pid = gateway.child.id();
    let (listener, address) = origin();
    let head =
        format!("POST http://{address}/ HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n");
    let post = [head.as_bytes(), &[7; LEN]].concat();
    // Its origin takes all that is said, and says nothing.
    let ask = || {
        let mut client = gateway.connect();
        client.write_all(&post).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        read_head(&mut served);
        read_exactly(&mut served, LEN);
        (client, served)
    };
    let field = format!("X: {}\r\n", "x".repeat(7000));
    let options = format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{}\r\n", field.repeat(4));
    let know = || {
        let mut client = gateway.connect();
        client.write_all(options.as_bytes()).unwrap();
        read_head(&mut client);
        client
    };
    // What is there once is not what a connection costs.
    let first = (ask(), know());
    let before = resident_bytes(pid).unwrap();
    let asked: Vec<_> = (0..COUNT).map(|_| ask()).collect();
    let each = resident_bytes(pid).unwrap().saturating_sub(before) / COUNT as u64;
    assert!(each <= 16 * 1024, "{each} bytes for a request that awaits its answer");

    let before = resident_bytes(pid).unwrap();
    let known: Vec<_> = (0..COUNT).map(|_| know()).collect();
    let each = resident_bytes(pid).unwrap().saturating_sub(before) / COUNT as u64;
    assert!(each <= 12 * 1024, "{each} bytes for a connection that awaits the next request");
    drop((first, asked, known));
}

#[test]
fn without_descriptors_clients_wait_and_nothing_spins() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let origin = echo();
    let pid = gateway.child.id();
    // Room for two connections more, with their origins; then none.
    leave_descriptors(&gateway, 4);
    let held = [gateway.reach(origin), gateway.reach(origin)];
    let mut waiting = connect(gateway.address);
    waiting.write_all(&greeting_and_request(origin)).unwrap();
    let spent = cpu_time(pid).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let spent = cpu_time(pid).unwrap() - spent;
    assert!(spent < Duration::from_millis(100), "{spent:?} of half a second");
    drop(held);
    assert_eq!(read_exactly(&mut waiting, 12)[2..4], [5, 0], "served once there is room");
    let status = gateway.status();
    assert!(status.accept_pauses > 0, "{status:?}");
}

#[test]
fn silent_clients_keep_nobody_out() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let origin = echo();
    let silent: Vec<TcpStream> = (0..2000).map(|_| gateway.connect()).collect();
    let mut client = gateway.reach(origin);
    client.write_all(b"x").unwrap();
    assert_eq!(read_exactly(&mut client, 1), b"x");
    drop(silent);
    gateway.await_status("they are gone", |status| status.connections == 1);
}

#[test]
fn a_house_full_of_silent_clients_is_open_to_all_who_ask() {
    const PLACES: usize = 48;
    let gateway = Gateway::start_with_file(&format!(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n\
         connections_max = {PLACES}\n[workers]\ncount = 4\n"
    ));
    let origin = echo();
    let silent: Vec<TcpStream> = (0..10 * PLACES).map(|_| gateway.connect()).collect();
    gateway.await_status("all have come", |status| {
        let turned_away = status.refused["full"] + status.refused["made_room"];
        turned_away + status.connections == silent.len() as u64
    });
    let status = gateway.status();
    assert!(PLACES > status.connections as usize, "some are left to others: {status:?}");
    // They come to each of the workers, wherever those are who say nothing.
    let mut held: Vec<TcpStream> = (0..PLACES).map(|_| gateway.reach(origin)).collect();
    for client in &mut held {
        client.write_all(b"x").unwrap();
        assert_eq!(read_exactly(client, 1), b"x");
    }
    let status = gateway.status();
    assert_eq!(status.connections as usize, PLACES, "{status:?}");
    assert_eq!(status.refused["full"], 0, "{status:?}");
    // Those who are being served make room for nobody.
    let mut more = gateway.connect();
    assert_ended(&mut more);
    assert_eq!(gateway.status().refused["full"], 1);
    for client in &mut held {
        client.write_all(b"y").unwrap();
        assert_eq!(read_exactly(client, 1), b"y");
    }
}

/// What a browser does: several connections at once, and then a request on each.
#[test]
fn clients_that_have_not_asked_yet_stay_as_long_as_there_is_room() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\nconnections_max = 10\n\
         [workers]\ncount = 4\n",
    );
    let origin = echo();
    for _ in 0..10 {
        let mut clients: Vec<TcpStream> = (0..6).map(|_| gateway.connect()).collect();
        gateway.await_status("all are in", |status| status.connections == 6);
        for client in &mut clients {
            assert_eq!(ask_for(client, origin), 0);
        }
        drop(clients);
        gateway.await_status("all have gone", |status| status.connections == 0);
    }
    assert_eq!(gateway.status().refused["made_room"], 0);
}

#[test]
fn nobody_makes_room_where_that_is_not_enough() {
    let table = |max: usize| {
        format!(
            "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n\
             connections_max = {max}\n[workers]\ncount = 2\n"
        )
    };
    let gateway = Gateway::start_with_file(&table(100));
    let origin = echo();
    let _served: Vec<TcpStream> = (0..20).map(|_| gateway.reach(origin)).collect();
    let silent: Vec<TcpStream> = (0..10).map(|_| gateway.connect()).collect();
    gateway.await_status("all are in", |status| status.connections == 30);
    gateway.write_config(&table(20));
    gateway.reload();
    gateway.await_status("a client is refused", |status| {
        assert_ended(&mut gateway.connect());
        status.refused["full"] > 0
    });
    assert_eq!(gateway.status().refused["made_room"], 0);
    drop(silent);
    gateway.await_status("they are gone", |status| status.connections == 20);
}

#[test]
fn silent_clients_keep_nobody_out_where_descriptors_are_few() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let origin = echo();
    leave_descriptors(&gateway, 150);
    let silent: Vec<TcpStream> = (0..3000).map(|_| gateway.connect()).collect();
    // All of them are before these in the line.
    let mut held: Vec<TcpStream> = (0..20).map(|_| gateway.reach(origin)).collect();
    for client in &mut held {
        client.write_all(b"x").unwrap();
        assert_eq!(read_exactly(client, 1), b"x");
    }
    let status = gateway.status();
    assert!(status.accept_pauses <= 30, "the line does not wait for each of them: {status:?}");
    assert_eq!(status.failed["exhausted"], 0, "{status:?}");
    assert_eq!(status.reached, held.len() as u64);
    drop(silent);
    gateway.await_status("they are gone", |status| status.connections == 20);
}

#[test]
fn a_name_is_not_unknown_where_there_is_no_descriptor_to_ask_by() {
    let gateway = Gateway::start(&["--workers", "1"]);
    let page = http("the page");
    let fetch = |client: &mut TcpStream, host: &str| {
        let get = format!("GET http://{host}:{}/ HTTP/1.1\r\nHost: a\r\n\r\n", page.port());
        client.write_all(get.as_bytes()).unwrap();
        read_response(client).0
    };
    // Two for clients that are served; those who say nothing take the rest.
    leave_descriptors(&gateway, 15);
    let mut served = [gateway.connect(), gateway.connect()];
    for client in &mut served {
        assert!(fetch(client, "127.0.0.1").starts_with("HTTP/1.1 200 "));
    }
    let _silent: Vec<TcpStream> = (0..12).map(|_| gateway.connect()).collect();
    gateway.await_status("all are in", |status| status.connections == 14);
    // What the question took it gives to the last of them.
    let _last = gateway.connect();
    let [first, second] = &mut served;
    let answer = fetch(first, "localhost");
    assert!(["200", "503"].contains(&&answer[9..12]), "{answer}");
    // Room was made, and what could not be asked for was not learned.
    assert!(fetch(second, "localhost").starts_with("HTTP/1.1 200 "));
    let status = gateway.status();
    assert_eq!(status.failed["name_not_found"], 0, "{status:?}");
    assert!(status.refused["made_room"] > 0, "{status:?}");
}

/// Opens connections from an address of its own until it is told to end.
const SILENT: &str = "\
import resource, socket, sys
source, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = [socket.create_connection(('127.0.0.1', port), 60, (source, 0)) for _ in range(count)]
print('ready', flush=True)
sys.stdin.read()
";

#[test]
fn a_hundred_thousand_who_say_nothing_keep_nobody_out() {
    const SOURCES: u8 = 25;
    const OF_EACH: usize = 4000;
    const ALL: u64 = SOURCES as u64 * OF_EACH as u64;
    const KEPT: u64 = 2 * PROXY_ASKING_MAX as u64;
    // The namespace takes what is left of them away with it.
    let host = Host::create("gateway").unwrap();
    let gateway = Gateway::start_on(&host, &["--allow", "loopback", "--workers", "2"]);
    let pid = gateway.child.id();
    let origin = host.run(echo).unwrap();
    let reach = || host.run(|| gateway.reach(origin)).unwrap();
    let mut early = reach();
    let before = resident_bytes(pid).unwrap();
    let (port, count) = (gateway.address.port().to_string(), OF_EACH.to_string());
    // Several processes, since each may have a part of the descriptors that it takes.
    let mut half_open: Vec<Child> = (1..=SOURCES)
        .map(|last| {
            let source = format!("127.1.0.{last}");
            let mut command = host.command("/usr/bin/python3").unwrap();
            command.args(["-c", SILENT, &source, &port, &count]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for process in &mut half_open {
        let mut line = [0; 6];
        process.stdout.take().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready\n");
    }
    gateway.await_status("all have come", |status| status.accepted == ALL + 1);
    let grown = resident_bytes(pid).unwrap().saturating_sub(before);
    let mut late = reach();
    for client in [&mut early, &mut late] {
        client.write_all(b"x").unwrap();
        assert_eq!(read_exactly(client, 1), b"x");
    }
    let status = gateway.status();
    let made_room = status.refused["made_room"];
    assert_eq!(status.connections, ALL - made_room + 2, "{status:?}");
    // Fewer where descriptors are scarcer.
    assert!(status.connections <= KEPT + 2, "{status:?}");
    assert!(grown < KEPT * 4096, "{grown} bytes for {KEPT} who say nothing");
    for process in &mut half_open {
        drop(process.stdin.take());
        process.wait().unwrap();
    }
    gateway.await_status("they are gone", |status| status.connections == 2);
}

#[test]
fn a_source_that_opens_connections_too_fast_is_shut_out_and_others_are_not() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n\
         connections_per_source_per_s = 1\n",
    );
    let origin = echo();
    let reply = |mut stream: TcpStream| {
        // Who is shut out may not even get to say it.
        let _ = stream.write_all(&greeting_and_request(origin));
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok().map(|()| answer[3])
    };
    let replies: Vec<_> = (0..500).map(|_| reply(gateway.connect())).collect();
    assert_eq!(replies[..10], [Some(0); 10], "so many come at once");
    let shut_out = replies.iter().filter(|reply| reply.is_none()).count();
    assert!(shut_out > 0);
    assert_eq!(gateway.status().refused["source_too_fast"], shut_out as u64);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&gateway.address.into()).unwrap();
    assert_eq!(reply(TcpStream::from(socket)), Some(0));
}
