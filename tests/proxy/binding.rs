//! SOCKS5 BIND: somebody connects to a port that a client had opened.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::{Gateway, LONG, assert_ended, read_exactly, read_to_end};

/// Asks for a port to which `host` may connect; returns the reply, and where the port is.
fn request(gateway: &Gateway, host: [u8; 4]) -> (TcpStream, u8, SocketAddr) {
    let mut client = gateway.connect();
    let request = [&[5, 1, 0, 5, 2, 0, 1][..], &host, &[0, 21]].concat();
    client.write_all(&request).unwrap();
    assert_eq!(read_exactly(&mut client, 2), [5, 0]);
    let (reply, address) = reply(&mut client);
    (client, reply, address)
}

pub(crate) fn reply(client: &mut TcpStream) -> (u8, SocketAddr) {
    let reply = read_exactly(client, 10);
    assert_eq!((reply[0], reply[3]), (5, 1), "{reply:?}");
    let ip: [u8; 4] = reply[4..8].try_into().unwrap();
    (reply[1], SocketAddr::from((ip, u16::from_be_bytes([reply[8], reply[9]]))))
}

/// Connects from an address of this host.
pub(crate) fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: SocketAddr = from.parse().unwrap();
    socket.bind(&SockAddr::from(from)).unwrap();
    socket.connect(&SockAddr::from(to)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

#[test]
fn who_is_expected_comes_in_and_bytes_pass_both_ways() {
    let gateway = Gateway::start(&[]);
    let (mut client, granted, port) = request(&gateway, [127, 0, 0, 1]);
    assert_eq!(granted, 0);
    assert_ne!(port.port(), 0);
    // The client speaks before anybody is there.
    client.write_all(b"220 ready").unwrap();
    let mut peer = connect_from("127.0.0.1:0", port);
    assert_eq!(reply(&mut client), (0, peer.local_addr().unwrap()));
    assert_eq!(read_exactly(&mut peer, 9), b"220 ready");
    peer.write_all(b"USER anonymous").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"USER anonymous");
    client.write_all(b" and goodbye").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut peer), b" and goodbye");
    gateway.await_status("both have left", |status| {
        (status.connections, status.up_bytes, status.down_bytes) == (0, 21, 14)
    });
    // One peer is what was asked for.
    assert!(TcpStream::connect(port).is_err(), "the port is shut");
}

#[test]
fn a_host_that_is_not_expected_is_shut_out_and_the_port_waits_on() {
    let gateway = Gateway::start(&[]);
    let (mut client, granted, port) = request(&gateway, [127, 0, 0, 2]);
    assert_eq!(granted, 0);
    let mut stranger = connect_from("127.0.0.1:0", port);
    assert_ended(&mut stranger);
    gateway.await_status("it is counted", |status| status.strangers == 1);
    let peer = connect_from("127.0.0.2:0", port);
    assert_eq!(reply(&mut client), (0, peer.local_addr().unwrap()));
    assert!(gateway.status_text().contains("1 strangers"));
}

#[test]
fn a_port_is_opened_only_to_hosts_that_may_be_reached_and_to_nobody_in_particular() {
    let closed = Gateway::start_with_file("[[proxy]]\nlisten = [\"127.0.0.1:0\"]\n");
    assert_eq!(request(&closed, [127, 0, 0, 1]).1, 2, "where it is allowed, see above");
    let open = Gateway::start(&["--allow", "reserved"]);
    assert_eq!(request(&open, [127, 0, 0, 1]).1, 0);
    assert_eq!(request(&open, [0, 0, 0, 0]).1, 2, "anybody");
    assert_eq!(request(&open, [10, 0, 0, 1]).1, 2);
}

#[test]
fn a_port_for_a_name_is_for_the_hosts_of_that_name() {
    let gateway = Gateway::start(&[]);
    let mut client = gateway.connect();
    client.write_all(b"\x05\x01\0\x05\x02\0\x03\x09localhost\0\x15").unwrap();
    assert_eq!(read_exactly(&mut client, 2), [5, 0]);
    let head = read_exactly(&mut client, 4);
    let ip: std::net::IpAddr = match head[3] {
        1 => <[u8; 4]>::try_from(read_exactly(&mut client, 4)).unwrap().into(),
        _ => <[u8; 16]>::try_from(read_exactly(&mut client, 16)).unwrap().into(),
    };
    let port = read_exactly(&mut client, 2);
    let mut peer = TcpStream::connect((ip, u16::from_be_bytes([port[0], port[1]]))).unwrap();
    let second = read_exactly(&mut client, head[3] as usize * 4 + 6);
    assert_eq!(second[1], 0, "{second:?}");
    peer.write_all(b"hi").unwrap();
    assert_eq!(read_exactly(&mut client, 2), b"hi");
}
