//! Which way wishes go: rules, and what a client hears of them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;

use crate::harness::{
    Gateway, LONG, echo, greeting_and_request, http, read_exactly, read_to_end, serve,
};

/// What curl fetches.
pub(crate) fn fetch(arguments: &[&str]) -> String {
    let more = ["--silent", "--show-error", "--max-time", "60", "--noproxy", ""];
    let output = Command::new("curl").args(more).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What HTTP answers to a CONNECT: the status and its page.
fn connect_status(gateway: &Gateway, origin: &str) -> String {
    let mut stream = gateway.connect();
    let request = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    String::from_utf8(read_exactly(&mut stream, 12)).unwrap()
}

#[test]
fn a_rule_blocks_what_is_reached_without_it() {
    let origin = echo();
    let other = echo();
    let port = origin.port();
    let proxy = "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n";
    let open = Gateway::start_with_file(proxy);
    let by_network = format!("{proxy}[[proxy.rule]]\nnetworks = [\"127.0.0.0/8\"]\n");
    let by_network = format!("{by_network}ports = [{port}]\nto = \"block\"\n");
    let by_network = Gateway::start_with_file(&by_network);
    let by_name = format!("{proxy}[[proxy.rule]]\ndomains = [\"LOCALHOST\"]\nto = \"block\"\n");
    let by_name = Gateway::start_with_file(&by_name);
    for (host, network_rule, name_rule) in
        [("127.0.0.1", 2, 0), ("::ffff:127.0.0.1", 2, 0), ("localhost", 2, 2), ("LocalHost", 2, 2)]
    {
        let target = format!("{host}:{port}");
        assert_eq!(open.reply_to(&target), 0, "{target}: it is there");
        assert_eq!(by_network.reply_to(&target), network_rule, "{target} by its network");
        assert_eq!(by_name.reply_to(&target), name_rule, "{target} by its name");
        assert_eq!(by_network.reply_to(&format!("{host}:{}", other.port())), 0, "another port");
    }
    assert_eq!(connect_status(&by_network, &format!("localhost:{port}")), "HTTP/1.1 403");
    assert_eq!(connect_status(&open, &format!("localhost:{port}")), "HTTP/1.1 200");
    assert_eq!((by_network.status().failed["blocked"], by_name.status().failed["blocked"]), (5, 2));
    // A request that would be forwarded is blocked alike.
    let page = http("the page");
    let blocked = format!("{proxy}[[proxy.rule]]\nports = [{}]\nto = \"block\"\n", page.port());
    let blocked = Gateway::start_with_file(&blocked);
    for (gateway, expected) in [(&open, "200"), (&blocked, "403")] {
        let url = format!("http://localhost:{}/", page.port());
        let proxy = format!("http://{}", gateway.address);
        let code = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        assert_eq!(fetch(&[&code[..], &["--proxy", &proxy, &url]].concat()), expected);
    }
    let mut stream = by_name.connect();
    stream.write_all(&greeting_and_request(origin)).unwrap();
    assert_eq!(read_exactly(&mut stream, 4), [5, 0, 5, 0]);
}

/// An origin that tells who has connected: the port of its peer.
fn peer_teller() -> SocketAddr {
    serve(|mut stream| {
        let peer = stream.peer_addr().unwrap();
        drop(writeln!(stream, "{}", peer.port()));
    })
}

/// A proxy that sends what goes to `port` through a group with these servers.
pub(crate) fn chained(port: u16, servers: &str, more: &str) -> Gateway {
    Gateway::start_with_file(&format!(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\ndial_within_s = 10\n\
         [[proxy.upstream]]\nname = \"far\"\nservers = [{servers}]\n{more}\n\
         [[proxy.rule]]\nports = [{port}]\nto = \"far\"\n"
    ))
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn two_proxies_are_chained_in_either_protocol() {
    let (far, other) = (http("from afar"), http("from nearby"));
    let end = Gateway::start(&[]);
    for scheme in ["socks5", "http"] {
        let near = chained(far.port(), &format!("\"{scheme}://{}\"", end.address), "");
        let before = end.status().reached;
        for proxy in ["socks5h", "socks4a", "http"] {
            let proxy = format!("{proxy}://{}", near.address);
            let url = format!("http://localhost:{}/", far.port());
            assert_eq!(fetch(&["--proxytunnel", "--proxy", &proxy, &url]), "from afar");
        }
        assert_eq!(end.status().reached - before, 3, "{scheme}: all came through it");
        let url = format!("http://localhost:{}/", far.port());
        let proxy = format!("http://{}", near.address);
        assert_eq!(fetch(&["--proxy", &proxy, &url]), "from afar");
        assert_eq!(end.status().reached - before, 4, "{scheme}: a request that is forwarded, too");
        let url = format!("http://localhost:{}/", other.port());
        let proxy = format!("socks5h://{}", near.address);
        assert_eq!(fetch(&["--proxy", &proxy, &url]), "from nearby");
        assert_eq!(end.status().reached - before, 4, "{scheme}: a rule for one port only");
        let status = near.status();
        let [server] = &status.upstreams[..] else { panic!("{status:?}") };
        assert_eq!((server.reached, server.failed, server.out_for_s), (4, 0, None));
        near.await_status("the places are free again", |it| it.upstreams[0].connections == 0);
    }
}

#[test]
fn an_origin_that_speaks_first_is_heard_through_a_chain() {
    let origin = peer_teller();
    let end = Gateway::start(&[]);
    for scheme in ["socks5", "http"] {
        let near = chained(origin.port(), &format!("\"{scheme}://{}\"", end.address), "");
        let mut stream = near.connect();
        stream.write_all(&greeting_and_request(origin)).unwrap();
        read_exactly(&mut stream, 12);
        let told: u16 =
            String::from_utf8(read_to_end(&mut stream)).unwrap().trim().parse().unwrap();
        assert!(told > 0, "{scheme}");
    }
}

#[test]
fn the_next_server_is_asked_where_one_is_down() {
    let origin = echo();
    let end = Gateway::start(&[]);
    let (down, up) = (nobody(), end.address);
    let near = chained(origin.port(), &format!("\"socks5://{down}\", \"http://{up}\""), "");
    for _ in 0..8 {
        assert_eq!(near.reply_to(&origin.to_string()), 0);
    }
    let status = near.status();
    let [first, second] = &status.upstreams[..] else { panic!("{status:?}") };
    assert_eq!((first.failed, first.reached, second.failed), (3, 0, 0), "{status:?}");
    assert!(first.out_for_s.is_some() && second.out_for_s.is_none(), "{status:?}");
    assert_eq!(second.reached, 8);
    // What nobody can reach is told as it is, and nothing is held against who said so.
    let shut = nobody();
    let near = chained(shut.port(), &format!("\"socks5://{up}\""), "");
    for _ in 0..5 {
        assert_eq!(near.reply_to(&shut.to_string()), 5);
    }
    assert_eq!(near.status().upstreams[0].failed_in_a_row, 0);
    // Nobody is left.
    let near = chained(origin.port(), &format!("\"socks5://{down}\""), "");
    assert_eq!(near.reply_to(&origin.to_string()), 1);
    assert_eq!(connect_status(&near, &origin.to_string()), "HTTP/1.1 502");
    assert_eq!(near.status().failed["upstream"], 2);
}

#[test]
fn a_server_that_comes_back_is_found_by_a_check() {
    let origin = echo();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let more = "check_every_s = 1";
    let near = chained(origin.port(), &format!("\"socks5://{address}\""), more);
    near.await_status("it is found to be down", |it| it.upstreams[0].out_for_s.is_some());
    let _back = TcpListener::bind(address).unwrap();
    near.await_status("it is found to be back", |it| it.upstreams[0].out_for_s.is_none());
    near.await_status("and well", |it| it.upstreams[0].failed_in_a_row == 0);
}

#[test]
fn credentials_for_an_upstream_come_from_a_file() {
    use std::os::unix::fs::PermissionsExt;
    let origin = echo();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    std::fs::write(&file, "me:secret\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let (sender, heard) = channel();
    let upstream = serve(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).is_ok_and(|len| len > 2) {
            head.push_str(&line);
            line.clear();
        }
        let is_good = head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n");
        let status = if is_good { "200 OK" } else { "407 Who?" };
        drop(stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()));
        sender.send(head).unwrap();
    });
    let servers = format!("\"http://{upstream}\"");
    let more = format!("credentials_file = {file:?}");
    let with = chained(origin.port(), &servers, &more);
    let without = chained(origin.port(), &servers, "");
    let target = format!("not-looked-up-here.invalid:{}", origin.port());
    assert_eq!(with.reply_to(&target), 0);
    assert_eq!(without.reply_to(&target), 1);
    for _ in 0..2 {
        let head = heard.recv_timeout(LONG).unwrap();
        assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")), "{head}");
    }
    assert_eq!(without.status().upstreams[0].failed, 1);
}

#[test]
fn private_addresses_are_denied_before_an_upstream_is_asked() {
    let end = Gateway::start(&[]);
    let config = |allow: &str| {
        format!(
            "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [{allow}]\n[[proxy.upstream]]\n\
             name = \"far\"\nservers = [\"socks5://{}\"]\n[[proxy.rule]]\nto = \"far\"\n",
            end.address
        )
    };
    let (closed, open) = (config(""), config("\"loopback\""));
    let (closed, open) = (Gateway::start_with_file(&closed), Gateway::start_with_file(&open));
    let origin = echo();
    assert_eq!(closed.reply_to(&origin.to_string()), 2);
    assert_eq!(closed.status().upstreams[0].reached, 0);
    assert_eq!(open.reply_to(&origin.to_string()), 0);
    assert_eq!(closed.reply_to("169.254.169.254:80"), 2);
    // A name is the upstream's to judge.
    assert_eq!(closed.reply_to(&format!("localhost:{}", origin.port())), 0);
}

#[test]
fn a_rule_goes_for_bind_and_for_each_datagram() {
    let echoing = UdpSocket::bind("127.0.0.1:0").unwrap();
    let origin = echoing.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, from)) = echoing.recv_from(&mut buffer) {
            drop(echoing.send_to(&buffer[..len], from));
        }
    });
    let proxy = "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n";
    let rule = format!("[[proxy.rule]]\nports = [{}]\nto = \"block\"\n", origin.port());
    let upstream = "[[proxy.upstream]]\nname = \"far\"\nservers = [\"socks5://127.0.0.1:9\"]\n\
                    [[proxy.rule]]\nto = \"far\"\n";
    let open = Gateway::start_with_file(proxy);
    let blocked = Gateway::start_with_file(&format!("{proxy}{rule}"));
    let chained = Gateway::start_with_file(&format!("{proxy}{upstream}"));
    for (gateway, is_open) in [(&open, true), (&blocked, false), (&chained, false)] {
        let mut bind = greeting_and_request(origin);
        bind[4] = 2;
        let mut stream = gateway.connect();
        stream.write_all(&bind).unwrap();
        assert_eq!(read_exactly(&mut stream, 4)[3], if is_open { 0 } else { 2 });

        let mut associate = greeting_and_request("0.0.0.0:0".parse().unwrap());
        associate[4] = 3;
        let mut stream = gateway.connect();
        stream.write_all(&associate).unwrap();
        let reply = read_exactly(&mut stream, 12);
        assert_eq!(reply[3], 0, "{reply:?}");
        let port = u16::from_be_bytes([reply[10], reply[11]]);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let [high, low] = origin.port().to_be_bytes();
        let datagram = [&[0, 0, 0, 1, 127, 0, 0, 1, high, low][..], b"hello"].concat();
        socket.send_to(&datagram, ("127.0.0.1", port)).unwrap();
        if is_open {
            let mut buffer = [0; 64];
            let len = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..len].ends_with(b"hello"));
        } else {
            gateway.await_status("it is dropped", |it| it.datagrams_dropped["denied"] == 1);
        }
    }
}

#[test]
fn origins_and_upstream_proxies_are_dialled_from_the_address_that_is_said() {
    let origin = serve(|mut stream| {
        let peer = stream.peer_addr().unwrap();
        drop(writeln!(stream, "{}", peer.ip()));
    });
    let config = |from: &str, more: &str| {
        format!(
            "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\n\
             dial_from = [{from}]\n{more}"
        )
    };
    let seen = |gateway: &Gateway| {
        let mut stream = gateway.reach(origin);
        String::from_utf8(read_to_end(&mut stream)).unwrap().trim().to_owned()
    };
    let from = "\"127.0.0.5\", \"::1\"";
    assert_eq!(seen(&Gateway::start_with_file(&config(from, ""))), "127.0.0.5");
    // A family of which nothing is said goes as the kernel chooses.
    assert_eq!(seen(&Gateway::start_with_file(&config("\"::1\"", ""))), "127.0.0.1");
    let server = peer_teller_of_addresses();
    let more = format!(
        "[[proxy.upstream]]\nname = \"far\"\nservers = [\"socks5://{}\"]\n\
         [[proxy.rule]]\nto = \"far\"\n",
        server.0
    );
    let chained = Gateway::start_with_file(&config(from, &more));
    assert_ne!(chained.reply_to("192.0.2.1:9"), 0, "that one is no proxy");
    assert_eq!(server.1.recv_timeout(LONG).unwrap(), "127.0.0.5");
    // What is no address of this host is told at start.
    for (from, text) in [
        ("\"192.0.2.77\"", "`ip address` lists those there are"),
        ("\"127.0.0.5\", \"127.0.0.6\"", "one address of each family"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config(from, "")).unwrap();
        let command = Command::new(env!("CARGO_BIN_EXE_corelane"))
            .args(["proxy", "-c"])
            .arg(file.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&command.stderr);
        assert!(!command.status.success() && said.contains(text), "{said}");
    }
}

/// A server that tells a channel from which address it was connected, and closes.
fn peer_teller_of_addresses() -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let (sender, seen) = channel();
    let address = serve(move |stream| {
        sender.send(stream.peer_addr().unwrap().ip().to_string()).unwrap();
    });
    (address, seen)
}
