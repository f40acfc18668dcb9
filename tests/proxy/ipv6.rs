//! Datagrams and ports for others where everything is IPv6.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use corelane::lab::{LabOptions, TwoHosts, addresses};

use crate::harness::{Gateway, LONG, assert_ended, connect, read_exactly};

const CONFIG: &str = "[[proxy]]\nlisten = [\"[::1]:0\"]\nallow = [\"loopback\"]\n";

/// A request of SOCKS5 (RFC 1928 section 4), and what is replied: how it went, and an address.
fn request(gateway: &Gateway, command: u8, to: SocketAddr) -> (TcpStream, u8, SocketAddr) {
    let mut client = connect(gateway.address);
    client.write_all(&[&[5, 1, 0, 5, command, 0][..], &address_bytes(to)].concat()).unwrap();
    assert_eq!(read_exactly(&mut client, 2), [5, 0]);
    let (reply, address) = reply(&mut client);
    (client, reply, address)
}

fn reply(client: &mut TcpStream) -> (u8, SocketAddr) {
    let head = read_exactly(client, 4);
    let ip: IpAddr = match head[3] {
        1 => <[u8; 4]>::try_from(read_exactly(client, 4)).unwrap().into(),
        4 => <[u8; 16]>::try_from(read_exactly(client, 16)).unwrap().into(),
        other => panic!("{other}"),
    };
    let port = read_exactly(client, 2);
    (head[1], SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
}

fn address_bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip() {
        IpAddr::V4(ip) => [&[1][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[4][..], &ip.octets()].concat(),
    };
    bytes.extend(address.port().to_be_bytes());
    bytes
}

fn socket(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

#[test]
fn datagrams_of_an_ipv6_client_reach_both_families() {
    let gateway = Gateway::start_with_file(CONFIG);
    let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let (_tcp, granted, at) = request(&gateway, 3, nowhere);
    assert_eq!((granted, at.ip()), (0, Ipv6Addr::LOCALHOST.into()), "where the client is");
    let client = socket(Ipv6Addr::LOCALHOST.into());
    let mut buffer = [0; 2000];
    for ip in [IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()] {
        let origin = socket(ip);
        let to = origin.local_addr().unwrap();
        let header = [&[0, 0, 0][..], &address_bytes(to)].concat();
        client.send_to(&[&header[..], b"there"].concat(), at).unwrap();
        let (len, from) = origin.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"there");
        assert_eq!(from.ip(), ip);
        origin.send_to(b"and back", from).unwrap();
        let (len, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&[&header[..], b"and back"].concat()[..], at));
    }
    // A host that the client has not sent to is not heard, and one that is denied not reached.
    let denied = [&[0, 0, 0][..], &address_bytes("[fd00:ec2::254]:80".parse().unwrap())].concat();
    client.send_to(&denied, at).unwrap();
    gateway.await_status("it is denied", |status| status.datagrams_dropped["denied"] == 1);
    let status = gateway.status();
    assert_eq!((status.up_datagrams, status.down_datagrams), (2, 2), "{status:?}");
}

#[test]
fn only_the_ipv6_host_that_is_expected_comes_to_a_port() {
    let lab = TwoHosts::build(LabOptions::default()).unwrap();
    let gateway = Gateway::start_on(&lab.server, &[]);
    let expected = SocketAddr::from((addresses::CLIENT_V6, 21));
    let ask = || request(&gateway, 2, expected);
    let (mut client, granted, port) = lab.server.run(ask).unwrap();
    assert_eq!((granted, port.ip()), (0, addresses::SERVER_V6.into()));
    let mut stranger = lab.server.run(|| connect(port)).unwrap();
    assert_ended(&mut stranger);
    gateway.await_status("it is counted", |status| status.strangers == 1);
    let mut peer = lab.client.run(|| connect(port)).unwrap();
    assert_eq!(reply(&mut client), (0, peer.local_addr().unwrap()));
    peer.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut client, 5), b"hello");
    client.write_all(b"good day").unwrap();
    assert_eq!(read_exactly(&mut peer, 8), b"good day");
    // Hosts that may not be reached may not come either.
    for denied in ["[::1]:21", "[2001:db8::1]:21", "[fd00::1]:21", "[::]:21"] {
        let ask = || request(&gateway, 2, denied.parse().unwrap()).1;
        assert_eq!(lab.server.run(ask).unwrap(), 2, "{denied}");
    }
}

#[test]
fn a_port_waits_for_as_long_as_the_configuration_says() {
    let gateway = Gateway::start_with_file(&format!("{CONFIG}bind_within_s = 1\n"));
    let expected: SocketAddr = "[::1]:21".parse().unwrap();
    // Whoever comes in time is let in, and stays.
    let (mut client, granted, port) = request(&gateway, 2, expected);
    assert_eq!(granted, 0);
    let mut peer = connect(port);
    assert_eq!(reply(&mut client).0, 0);
    let (mut late, granted, port) = request(&gateway, 2, expected);
    assert_eq!(granted, 0);
    assert_eq!(reply(&mut late).0, 6, "nobody has come");
    assert_eq!(late.read(&mut [0]).unwrap(), 0);
    assert!(TcpStream::connect(port).is_err(), "the port is shut");
    peer.write_all(b"still here").unwrap();
    assert_eq!(read_exactly(&mut client, 10), b"still here");
    assert_eq!(gateway.status().failed["timed_out"], 1);
}
