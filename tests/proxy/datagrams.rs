//! SOCKS5 UDP ASSOCIATE with real datagrams.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;

use crate::harness::{Gateway, LONG, await_that, descriptors, read_exactly};

/// An origin that sends every datagram back, and tells by `seen` who has sent it.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    pub(crate) seen: std::sync::mpsc::Receiver<(SocketAddr, usize)>,
}

pub(crate) fn udp_echo(ip: IpAddr) -> Echo {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let (sender, seen) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..len], from));
            if sender.send((from, len)).is_err() {
                break;
            }
        }
    });
    Echo { address, seen }
}

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A client of an association.
pub(crate) struct Client {
    pub(crate) tcp: TcpStream,
    pub(crate) udp: UdpSocket,
}

/// What the gateway replies to a request for an association, and where datagrams go then.
fn request(gateway: &Gateway) -> (TcpStream, u8, SocketAddr) {
    let mut tcp = gateway.connect();
    tcp.write_all(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let reply = read_exactly(&mut tcp, 12);
    let ip: [u8; 4] = reply[6..10].try_into().unwrap();
    let port = u16::from_be_bytes([reply[10], reply[11]]);
    (tcp, reply[3], SocketAddr::from((ip, port)))
}

impl Client {
    pub(crate) fn start(gateway: &Gateway) -> Self {
        let (tcp, reply, address) = request(gateway);
        assert_eq!((reply, address.ip()), (0, LOCALHOST), "the address that the client reached");
        Self::over(tcp, address)
    }

    /// One whose association has this connection, and sends to that address.
    pub(crate) fn over(tcp: TcpStream, address: SocketAddr) -> Self {
        let udp = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        udp.connect(address).unwrap();
        udp.set_read_timeout(Some(LONG)).unwrap();
        Self { tcp, udp }
    }

    pub(crate) fn send(&self, to: SocketAddr, payload: &[u8]) {
        self.udp.send(&[&header(to)[..], payload].concat()).unwrap();
    }

    /// The next datagram that comes back: whose it is, and what is in it.
    pub(crate) fn receive(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = vec![0; 1 << 16];
        let len = self.udp.recv(&mut buffer).unwrap();
        buffer.truncate(len);
        assert_eq!(buffer[..3], [0; 3]);
        let (ip, rest) = match buffer[3] {
            1 => (IpAddr::from(<[u8; 4]>::try_from(&buffer[4..8]).unwrap()), &buffer[8..]),
            4 => (IpAddr::from(<[u8; 16]>::try_from(&buffer[4..20]).unwrap()), &buffer[20..]),
            other => panic!("{other}"),
        };
        let port = u16::from_be_bytes([rest[0], rest[1]]);
        (SocketAddr::new(ip, port), rest[2..].to_vec())
    }

    fn hears_nothing(&self) -> bool {
        self.udp.set_nonblocking(true).unwrap();
        let heard = self.udp.recv(&mut [0; 100]);
        self.udp.set_nonblocking(false).unwrap();
        heard.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

fn header(to: SocketAddr) -> Vec<u8> {
    let mut header = vec![0; 3];
    match to.ip() {
        IpAddr::V4(ip) => {
            header.push(1);
            header.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            header.push(4);
            header.extend_from_slice(&ip.octets());
        }
    }
    header.extend_from_slice(&to.port().to_be_bytes());
    header
}

pub(crate) fn header_by_name(name: &str, port: u16) -> Vec<u8> {
    let mut header = vec![0, 0, 0, 3, name.len() as u8];
    header.extend_from_slice(name.as_bytes());
    header.extend_from_slice(&port.to_be_bytes());
    header
}

#[test]
fn datagrams_pass_whole_both_ways() {
    let gateway = Gateway::start(&[]);
    let echo = udp_echo(LOCALHOST);
    let client = Client::start(&gateway);
    let mut bytes = 0;
    for len in [0, 1, 512, 1400, 9000, 60_000] {
        let payload: Vec<u8> = (0..len).map(|index| index as u8).collect();
        client.send(echo.address, &payload);
        assert_eq!(client.receive(), (echo.address, payload), "{len} bytes");
        bytes += len as u64;
    }
    // More than a turn takes, of several sizes, all on their way at the same time.
    for round in 0..20 {
        for number in 0..40 {
            client.send(echo.address, &vec![number; 1 + usize::from(number)]);
        }
        for number in 0..40 {
            assert_eq!(client.receive().1, vec![number; 1 + usize::from(number)], "{round}");
            bytes += 1 + u64::from(number);
        }
    }
    gateway.await_status("all of it is counted", |status| {
        let datagrams = (status.up_datagrams, status.down_datagrams, status.associations);
        datagrams == (806, 806, 1) && (status.up_bytes, status.down_bytes) == (bytes, bytes)
    });
    let text = gateway.status_text();
    assert!(text.contains("806 up, 806 down"), "{text}");
}

#[test]
fn a_name_is_looked_up_and_what_waits_for_it_is_sent() {
    let gateway = Gateway::start(&[]);
    // The name has addresses of one or of both families.
    let v4 = udp_echo(LOCALHOST);
    let v6 = UdpSocket::bind(("::1", v4.address.port())).ok();
    let client = Client::start(&gateway);
    let header = header_by_name("localhost", v4.address.port());
    client.udp.send(&[&header[..], b"first"].concat()).unwrap();
    client.udp.send(&[&header[..], b"second"].concat()).unwrap();
    let is_v6 = await_sender(&v4, v6.as_ref());
    gateway.await_status("both have gone", |status| status.up_datagrams == 2);
    if !is_v6 {
        let heard = [client.receive(), client.receive()];
        assert_eq!(heard.map(|(_, payload)| payload), [b"first".to_vec(), b"second".to_vec()]);
    }
    client.udp.send(&header_by_name("no-such-host.invalid", 9)).unwrap();
    gateway.await_status("that has no address", |status| {
        status.datagrams_dropped["name_unknown"] == 1
    });
}

/// Waits for a datagram at one of the two. Returns whether it came by IPv6.
fn await_sender(v4: &Echo, v6: Option<&UdpSocket>) -> bool {
    let mut is_v6 = false;
    if let Some(v6) = v6 {
        v6.set_nonblocking(true).unwrap();
    }
    await_that("a datagram", || {
        is_v6 = v6.is_some_and(|v6| v6.recv(&mut [0; 100]).is_ok());
        let came = is_v6 || v4.seen.try_recv().is_ok();
        if came { Ok(()) } else { Err("nothing".to_owned()) }
    });
    is_v6
}

#[test]
fn nobody_else_uses_an_association_or_gets_through_it_unasked() {
    let gateway = Gateway::start(&[]);
    let echo = udp_echo(LOCALHOST);
    let client = Client::start(&gateway);
    let relay = client.udp.peer_addr().unwrap();
    // Another host is first.
    let other = UdpSocket::bind("127.0.0.2:0").unwrap();
    other.send_to(&[&header(echo.address)[..], b"theft"].concat(), relay).unwrap();
    gateway.await_status("it is turned away", |status| status.datagrams_dropped["not_client"] == 1);
    client.send(echo.address, b"mine");
    assert_eq!(client.receive().1, b"mine");
    let (outside, len) = echo.seen.recv_timeout(LONG).unwrap();
    assert_eq!(len, 4, "what the other host sent has not come");
    // The same host from another port, now that the client's is known.
    let second = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    second.send_to(&[&header(echo.address)[..], b"theft"].concat(), relay).unwrap();
    gateway.await_status("so is that", |status| status.datagrams_dropped["not_client"] == 2);
    // Somebody whom the client has not sent to.
    let unasked = UdpSocket::bind("127.0.0.3:0").unwrap();
    let outside = SocketAddr::from((LOCALHOST, outside.port()));
    unasked.send_to(b"hello", outside).unwrap();
    gateway.await_status("it is not let in", |status| status.datagrams_dropped["unasked"] == 1);
    assert!(client.hears_nothing());
    // The very same, once it was asked.
    client.send(unasked.local_addr().unwrap(), b"who are you?");
    unasked.set_read_timeout(Some(LONG)).unwrap();
    unasked.recv(&mut [0; 100]).unwrap();
    unasked.send_to(b"hello", outside).unwrap();
    assert_eq!(client.receive(), (unasked.local_addr().unwrap(), b"hello".to_vec()));
}

#[test]
fn a_target_that_is_denied_gets_nothing_and_the_same_is_reached_where_it_is_allowed() {
    let closed = Gateway::start_with_file("[[proxy]]\nlisten = [\"127.0.0.1:0\"]\n");
    let open = Gateway::start(&[]);
    let echo = udp_echo(LOCALHOST);
    let client = Client::start(&closed);
    let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), echo.address.port());
    for header in [
        header(echo.address),
        header(mapped),
        header_by_name("localhost", echo.address.port()),
        header("169.254.169.254:80".parse().unwrap()),
    ] {
        client.udp.send(&header).unwrap();
    }
    closed.await_status("all are denied", |status| status.datagrams_dropped["denied"] == 4);
    assert_eq!(closed.status().up_datagrams, 0);
    assert!(echo.seen.try_recv().is_err());
    let client = Client::start(&open);
    for to in [echo.address, mapped] {
        client.send(to, b"x");
        assert_eq!(client.receive(), (echo.address, b"x".to_vec()));
    }
    client.send("169.254.169.254:80".parse().unwrap(), b"x");
    open.await_status("no kind was allowed but one", |status| {
        status.datagrams_dropped["denied"] == 1
    });
}

#[test]
fn fragments_and_nonsense_are_dropped_and_counted() {
    let gateway = Gateway::start(&[]);
    let echo = udp_echo(LOCALHOST);
    let client = Client::start(&gateway);
    let whole = [&header(echo.address)[..], b"x"].concat();
    for (at, byte) in [(2, 1), (2, 0x80), (0, 1), (1, 1), (3, 2)] {
        let mut bad = whole.clone();
        bad[at] = byte;
        client.udp.send(&bad).unwrap();
    }
    for len in 0..10 {
        client.udp.send(&whole[..len]).unwrap();
    }
    client.udp.send(&whole).unwrap();
    assert_eq!(client.receive().1, b"x");
    let status = gateway.status();
    let dropped = |name: &str| status.datagrams_dropped[name];
    assert_eq!((dropped("fragment"), dropped("malformed")), (2, 13), "{status:?}");
    assert_eq!(echo.seen.try_iter().count(), 1);
}

#[test]
fn an_association_ends_with_its_connection() {
    let gateway = Gateway::start(&[]);
    let echo = udp_echo(LOCALHOST);
    let before = {
        let client = Client::start(&gateway);
        client.send(echo.address, b"x");
        client.receive();
        drop(client.tcp);
        gateway.await_status("it is gone", |status| status.connections == 0);
        // Nobody is at the port any more.
        await_that("a refusal", || {
            match client.udp.send(b"x").and_then(|_| client.udp.send(b"x")) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        descriptors(&gateway).len()
    };
    for _ in 0..50 {
        drop(Client::start(&gateway));
    }
    gateway.await_status("all are gone", |status| status.connections == 0);
    await_that("descriptors that are given back", || match descriptors(&gateway).len() {
        now if now <= before => Ok(()),
        now => Err(format!("{before}, then {now}")),
    });
}

#[test]
fn an_association_that_is_idle_ends() {
    let gateway = Gateway::start_with_file(
        "[[proxy]]\nlisten = [\"127.0.0.1:0\"]\nallow = [\"loopback\"]\nidle_max_s = 1\n",
    );
    let mut client = Client::start(&gateway);
    // What it says on the connection is for nobody, and keeps nothing open.
    client.tcp.write_all(&[7; 5000]).unwrap();
    let mut rest = Vec::new();
    client.tcp.read_to_end(&mut rest).unwrap_or_default();
    assert!(rest.is_empty());
    gateway.await_status("it has timed out", |status| {
        (status.timed_out, status.connections) == (1, 0)
    });
}

#[test]
fn ports_are_those_of_the_range_and_a_client_without_one_is_told() {
    // One that is free now, and that nobody takes by chance in between.
    let free = UdpSocket::bind((LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let gateway = Gateway::start(&["--workers", "1", "--udp-ports", &format!("{free}-{free}")]);
    let first = Client::start(&gateway);
    assert_eq!(first.udp.peer_addr().unwrap().port(), free);
    let (_, reply, _) = request(&gateway);
    assert_eq!(reply, 1);
    drop(first);
    await_that("a port that is free again", || match request(&gateway) {
        (_, 0, address) if address.port() == free => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn pysocks_sends_datagrams() {
    let gateway = Gateway::start(&[]);
    let echo = udp_echo(LOCALHOST);
    let script = "import socks, sys
s = socks.socksocket(type=socks.socket.SOCK_DGRAM)
s.set_proxy(socks.SOCKS5, '127.0.0.1', int(sys.argv[1]))
s.settimeout(60)
for payload in [b'one', b'two' * 400]:
    s.sendto(payload, ('127.0.0.1', int(sys.argv[2])))
    assert s.recvfrom(65536) == (payload, ('127.0.0.1', int(sys.argv[2])))
print('done')";
    let output = Command::new("/usr/bin/python3")
        .args(["-c", script, &gateway.address.port().to_string()])
        .arg(echo.address.port().to_string())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"done\n", "python3-socks: {errors}");
}
