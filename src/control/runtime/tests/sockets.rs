//! What arrives on the control thread's own sockets, and what leaves by them.

use super::*;
use crate::limits::{CONTROL_CROWD, CONTROL_DATAGRAMS_PER_TURN, HANDSHAKES_PER_SOURCE_BURST};

/// A socket that holds all that a test sends to it.
fn roomy_socket() -> UdpSocket {
    let loopback: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let options = UdpOptions { receive_buffer: Some(1 << 20), ..UdpOptions::default() };
    UdpSocket::bind(loopback, &options).unwrap()
}

fn register(listeners: Vec<Vec<UdpSocket>>) -> Sockets {
    Sockets::register(listeners, Poll::new().unwrap().registry()).unwrap()
}

fn started_server_engine() -> Engine {
    let mut engine = server_engine();
    engine.start(now());
    while engine.poll_command().is_some() {}
    engine
}

/// What the server's one peer sends to connect.
fn initiation() -> Vec<u8> {
    let mut client = client_engine((Ipv4Addr::LOCALHOST, 1).into());
    client.start(now());
    while client.poll_command().is_some() {}
    client.poll_transmit().unwrap().1
}

#[test]
fn a_flood_is_taken_in_bounded_helpings() {
    let (first, second) = (roomy_socket(), roomy_socket());
    let addresses = [first.local_addr(), second.local_addr()];
    let mut sockets = register(vec![vec![first, second]]);
    let mut engine = started_server_engine();

    let sender = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let flood = 3 * CONTROL_DATAGRAMS_PER_TURN;
    for address in addresses {
        for _ in 0..flood {
            sender.send_to(&[9; 100], address).unwrap();
        }
    }
    let junk = DropReason::DatagramUnknownType;
    sockets.receive(&mut engine);
    assert_eq!(engine.drops().get(junk), 2 * CONTROL_DATAGRAMS_PER_TURN as u64);
    assert!(sockets.any_ready(), "the rest is not forgotten");
    while sockets.any_ready() {
        sockets.receive(&mut engine);
    }
    assert_eq!(engine.drops().get(junk), 2 * flood as u64);
}

/// The thread rests a little after a crowd and does not after a single datagram.
#[test]
fn what_comes_in_crowds_is_left_to_gather() {
    let socket = roomy_socket();
    let address = socket.local_addr();
    let mut sockets = register(vec![vec![socket]]);
    let mut engine = started_server_engine();
    let sender = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (count, crowd) in [(1, false), (CONTROL_CROWD, true), (CONTROL_CROWD - 1, false)] {
        for _ in 0..count {
            sender.send_to(&[9; 100], address).unwrap();
        }
        sockets.set_ready(0);
        sockets.receive(&mut engine);
        assert_eq!(sockets.is_crowded(), crowd, "{count} datagrams");
    }
}

#[test]
fn the_first_sockets_of_all_listeners_have_their_turn_before_the_second_ones() {
    let sockets: Vec<_> = (0..4).map(|_| roomy_socket()).collect();
    let addresses: Vec<_> = sockets.iter().map(UdpSocket::local_addr).collect();
    let [a, b, c, d] = <[_; 4]>::try_from(sockets).unwrap();
    let mut sockets = register(vec![vec![a, b], vec![c, d]]);
    let mut engine = started_server_engine();

    let initiation = initiation();
    let senders = [0; 4].map(|_| StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    for _ in 0..HANDSHAKES_PER_SOURCE_BURST {
        senders[0].send_to(&initiation, addresses[0]).unwrap();
    }
    sockets.receive(&mut engine);
    while engine.poll_command().is_some() {}
    while engine.poll_transmit().is_some() {}
    // From now on each is answered with a cookie.
    for number in (0..4).rev() {
        senders[number].send_to(&initiation, addresses[number]).unwrap();
        sockets.set_ready(number);
    }
    sockets.receive(&mut engine);
    let answered: Vec<_> = std::iter::from_fn(|| engine.poll_transmit())
        .map(|(to, _)| (to.listener, to.remote))
        .collect();
    let sender = |number: usize| senders[number].local_addr().unwrap();
    assert_eq!(answered, [(0, sender(0)), (1, sender(2)), (0, sender(1)), (1, sender(3))]);
}

#[test]
fn every_answer_reaches_who_asked_from_the_address_that_was_asked() {
    const EACH: usize = 30;
    let (first, second) = (roomy_socket(), roomy_socket());
    let addresses = [first.local_addr(), second.local_addr()];
    let mut sockets = register(vec![vec![first], vec![second]]);
    let mut engine = started_server_engine();

    let initiation = initiation();
    let senders = [0; 6].map(|_| StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let asks = || (0..EACH).flat_map(|_| senders.iter().zip(addresses.iter().cycle()));
    for (sender, address) in asks() {
        sender.send_to(&initiation, address).unwrap();
    }
    while sockets.any_ready() {
        sockets.receive(&mut engine);
        while engine.poll_command().is_some() {}
        sockets.transmit(&mut engine);
    }
    let (mut answers, mut buffer) = (0, [0; 2048]);
    for (sender, address) in senders.iter().zip(addresses.iter().cycle()) {
        sender.set_nonblocking(true).unwrap();
        while let Ok((_, from)) = sender.recv_from(&mut buffer) {
            assert_eq!(from, *address);
            answers += 1;
        }
    }
    // One session; the free share goes on with replays, which are not answered, and then cookies.
    let replays = engine.drops().get(DropReason::HandshakeReplayed);
    let cookies = engine.drops().get(DropReason::HandshakeCookieRequired);
    assert_eq!(answers, 1 + cookies);
    assert_eq!(1 + replays + cookies, asks().count() as u64);
    assert_eq!(engine.drops().get(DropReason::SendFailed), 0);
}

#[test]
fn answers_that_cannot_be_sent_are_counted() {
    let mut sockets = register(vec![vec![roomy_socket()]]);
    let mut engine = started_server_engine();
    let initiation = initiation();
    let remote = (Ipv4Addr::LOCALHOST, 9).into();
    let nowhere = Endpoint { remote, local: None, listener: 1 };
    for _ in 0..100 {
        engine.handle_datagram(now(), nowhere, &initiation);
    }
    while engine.poll_command().is_some() {}
    let cookies = engine.drops().get(DropReason::HandshakeCookieRequired);
    assert!(cookies > 50, "{cookies}");
    sockets.transmit(&mut engine);
    let lost = engine.drops().get(DropReason::SendFailed);
    assert_eq!(lost, 1 + cookies, "there is no second listener");
}

#[test]
fn what_the_kernel_has_no_room_for_is_counted_once() {
    let socket = roomy_socket();
    socket.set_receive_buffer(0).unwrap();
    let address = socket.local_addr();
    let mut sockets = register(vec![vec![socket]]);
    let mut engine = started_server_engine();
    let sender = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for _ in 0..100 {
        sender.send_to(&[9; 1000], address).unwrap();
    }
    sockets.receive(&mut engine);
    for _ in 0..2 {
        sockets.count_overflows(engine.drops());
        let read = engine.drops().get(DropReason::DatagramUnknownType);
        let lost = engine.drops().get(DropReason::ControlQueueFull);
        assert!(read > 0 && lost > 0, "{read} and {lost}");
        assert_eq!(read + lost, 100);
    }
}
