//! Real sockets in a namespace of their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    ReceivedMeta, RecvBatch, SendBatch, SendBatchFull, SendFaultKind, SendReport, SendTarget,
    UdpError, UdpOptions, UdpSocket,
};
use crate::limits::{RECEIVE_SLOT_LEN, RECEIVE_SLOTS, SEND_MESSAGES_MAX};
use crate::sys::allocations::allocations_in;
use crate::sys::testing::{self, in_namespace, is_readable, wait_readable, wait_writable};

const GRO: UdpOptions = UdpOptions {
    reuse_port: false,
    mark: None,
    receive_buffer: Some(4 << 20),
    send_buffer: None,
    gro: true,
    v6_only: false,
    follow_routes: false,
};

fn bind(address: &str) -> UdpSocket {
    UdpSocket::bind(address.parse().unwrap(), &GRO).unwrap()
}

fn to(remote: SocketAddr) -> SendTarget {
    SendTarget { remote, local: None }
}

/// The address at which `host` reaches `socket`.
fn reach(socket: &UdpSocket, host: &str) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), socket.local_addr().port())
}

/// Sends without expecting a fault.
fn send_all(batch: &mut SendBatch, socket: &UdpSocket, arena: &[u8]) -> SendReport {
    let report = batch.send(socket, arena, |fault| panic!("{fault:?}"));
    assert!(!report.blocked && batch.is_empty());
    report
}

fn send_one(socket: &UdpSocket, bytes: &[u8], target: SendTarget, ecn: u8) {
    let mut batch = SendBatch::new(1);
    batch.push(0..bytes.len(), &target, None, ecn).unwrap();
    assert_eq!(send_all(&mut batch, socket, bytes).datagrams, 1);
}

/// Receives until `count` datagrams are there: what the kernel said, and each one's bytes.
fn receive(socket: &UdpSocket, count: usize) -> Vec<(ReceivedMeta, Vec<u8>)> {
    let mut batch = RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN);
    let mut datagrams = Vec::new();
    while datagrams.len() < count {
        assert!(wait_readable(socket), "{} of {count} datagrams came", datagrams.len());
        batch.receive(socket).unwrap();
        let (metas, arena) = batch.split();
        for meta in metas {
            assert!(!meta.truncated);
            datagrams.extend(meta.datagrams().map(|range| (meta.clone(), arena[range].to_vec())));
        }
    }
    assert_eq!(datagrams.len(), count);
    datagrams
}

/// Bytes that tell each position from the others.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[test]
fn addresses_and_ecn_arrive_over_ipv4_ipv6_and_mapped() {
    in_namespace(|| {
        for (server, client, host) in [
            ("0.0.0.0:0", "0.0.0.0:0", "127.0.0.1"),
            ("[::]:0", "[::]:0", "::1"),
            ("[::]:0", "0.0.0.0:0", "127.0.0.1"),
            ("0.0.0.0:0", "[::]:0", "127.0.0.1"),
            ("[::]:0", "[::]:0", "127.0.0.1"),
        ] {
            let (server, client) = (bind(server), bind(client));
            let host_ip: IpAddr = host.parse().unwrap();
            for ecn in 0..4 {
                send_one(&client, b"question", to(reach(&server, host)), ecn);
                let (meta, bytes) = receive(&server, 1).remove(0);
                assert_eq!(bytes, b"question");
                assert_eq!(meta.from, reach(&client, host));
                assert_eq!(meta.local, Some(host_ip));
                assert_eq!((meta.ecn, meta.stride), (ecn, 8));
            }
        }
    });
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    in_namespace(|| {
        for server in ["0.0.0.0:0", "[::]:0"] {
            let (server, client) = (bind(server), bind("127.0.0.1:0"));
            send_one(&client, b"question", to(reach(&server, "127.9.8.7")), 0);
            let (meta, _) = receive(&server, 1).remove(0);
            assert_eq!(meta.local, Some("127.9.8.7".parse().unwrap()));
            let answer_to = SendTarget { remote: meta.from, local: meta.local };
            send_one(&server, b"answer", answer_to, 1);
            let (meta, bytes) = receive(&client, 1).remove(0);
            assert_eq!((meta.from, bytes), (reach(&server, "127.9.8.7"), b"answer".to_vec()));
        }
    });
}

#[test]
fn a_source_address_that_is_gone_is_reported_and_the_datagram_still_sent() {
    in_namespace(|| {
        for (host, gone) in [("127.0.0.1", "198.51.100.7"), ("::1", "2001:db8::7")] {
            let (server, client) = (bind("[::]:0"), bind("[::]:0"));
            let local = Some(gone.parse().unwrap());
            let target = SendTarget { remote: reach(&server, host), local };
            let mut batch = SendBatch::new(4);
            batch.push(0..4, &to(reach(&server, host)), None, 0).unwrap();
            batch.push(0..4, &target, None, 0).unwrap();
            batch.push(4..8, &target, Some(2), 0).unwrap();
            let mut faults = Vec::new();
            let report = batch.send(&client, b"fromgone", |fault| faults.push(fault));
            // Which error it is, and so whether the train is taken apart first, is the kernel's
            // choice.
            faults.retain(|fault| fault.kind != SendFaultKind::TrainRefused);
            let seen: Vec<_> = faults.iter().map(|f| (f.index, f.kind, f.datagrams)).collect();
            let gone = SendFaultKind::SourceGone;
            assert_eq!(seen, [(1, gone, 0), (2, gone, 0)]);
            assert_eq!((report.datagrams, report.failed), (4, 0));
            let bytes: Vec<_> = receive(&server, 4).into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(bytes, [&b"from"[..], b"from", b"go", b"ne"]);
        }
    });
}

#[test]
fn a_train_is_sent_in_one_call_and_received_in_one_slot() {
    in_namespace(|| {
        for (host, port) in [("127.0.0.1", "0.0.0.0:0"), ("::1", "[::]:0"), ("127.0.0.1", "[::]:0")]
        {
            let (server, client) = (bind(port), bind(port));
            assert!(client.has_gso() && server.has_gro());
            let arena = pattern(40 * 1400 + 333);
            let mut batch = SendBatch::new(1);
            batch.push(0..arena.len(), &to(reach(&server, host)), Some(1400), 2).unwrap();
            let report = send_all(&mut batch, &client, &arena);
            assert_eq!((report.calls, report.datagrams, report.bytes), (1, 41, arena.len()));
            let datagrams = receive(&server, 41);
            let (meta, _) = &datagrams[0];
            assert_eq!((meta.range.len(), meta.stride, meta.ecn), (arena.len(), 1400, 2));
            let bytes: Vec<u8> = datagrams.into_iter().flat_map(|(_, bytes)| bytes).collect();
            assert_eq!(bytes, arena);
        }
    });
}

#[test]
fn a_socket_without_gro_gets_the_datagrams_of_a_train_singly() {
    in_namespace(|| {
        let plain = UdpOptions { gro: false, ..GRO };
        let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &plain).unwrap();
        let client = bind("127.0.0.1:0");
        let arena = pattern(1000);
        let mut batch = SendBatch::new(1);
        batch.push(0..1000, &to(server.local_addr()), Some(300), 0).unwrap();
        send_all(&mut batch, &client, &arena);
        let lens: Vec<_> = receive(&server, 4).into_iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lens, [300, 300, 300, 100]);
    });
}

#[test]
fn a_batch_mixes_trains_datagrams_sizes_and_destinations() {
    in_namespace(|| {
        let (v4, v6, client) = (bind("127.0.0.1:0"), bind("[::1]:0"), bind("[::]:0"));
        let arena = pattern(65_507);
        let mut batch = SendBatch::new(5);
        batch.push(0..2000, &to(v4.local_addr()), Some(500), 1).unwrap();
        batch.push(2000..2000, &to(v6.local_addr()), None, 0).unwrap();
        batch.push(2000..2100, &to(v6.local_addr()), Some(100), 3).unwrap();
        batch.push(0..65_507, &to(v4.local_addr()), None, 0).unwrap();
        batch.push(7..8, &to(v6.local_addr()), Some(0), 0).unwrap();
        assert!(batch.is_full());
        assert_eq!(batch.push(0..1, &to(v4.local_addr()), None, 0), Err(SendBatchFull));
        let report = send_all(&mut batch, &client, &arena);
        assert_eq!((report.calls, report.datagrams), (1, 8));
        assert_eq!(report.bytes, 2000 + 100 + 65_507 + 1);

        let at_v4 = receive(&v4, 5);
        assert_eq!(at_v4[4].1, arena);
        let at_v6 = receive(&v6, 3);
        let seen: Vec<_> = at_v6.iter().map(|(meta, bytes)| (meta.ecn, &bytes[..])).collect();
        assert_eq!(seen, [(0, &[][..]), (3, &arena[2000..2100]), (0, &arena[7..8])]);
    });
}

#[test]
fn a_refused_train_goes_out_singly() {
    in_namespace(|| {
        let (server, client) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
        let arena = pattern(2000);
        let mut batch = SendBatch::new(3);
        batch.push(0..10, &to(server.local_addr()), None, 0).unwrap();
        // Far more segments than any kernel takes.
        batch.push(0..2000, &to(server.local_addr()), Some(10), 0).unwrap();
        batch.push(10..20, &to(server.local_addr()), None, 0).unwrap();
        let mut faults = Vec::new();
        let report = batch.send(&client, &arena, |fault| faults.push(fault));
        assert_eq!(faults.len(), 1);
        assert_eq!((faults[0].index, faults[0].kind), (1, SendFaultKind::TrainRefused));
        assert_eq!((report.train_fallbacks, report.datagrams, report.failed), (1, 202, 0));
        assert_eq!(report.split_datagrams, 200);
        let bytes: Vec<u8> = receive(&server, 202).into_iter().flat_map(|(_, b)| b).collect();
        assert_eq!(bytes, [&arena[..10], &arena, &arena[10..20]].concat());
    });
}

#[test]
fn with_gso_switched_off_trains_go_out_singly_without_a_fault() {
    in_namespace(|| {
        let (server, client) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
        let arena = pattern(1001);
        let mut batch = SendBatch::new(2);
        batch.set_gso(false);
        batch.push(0..1001, &to(server.local_addr()), Some(100), 0).unwrap();
        let report = send_all(&mut batch, &client, &arena);
        assert_eq!((report.datagrams, report.calls, report.train_fallbacks), (11, 6, 0));
        assert_eq!(report.split_datagrams, 11);
        let bytes: Vec<u8> = receive(&server, 11).into_iter().flat_map(|(_, b)| b).collect();
        assert_eq!(bytes, arena);
    });
}

#[test]
fn what_does_not_fit_the_link_is_reported_with_its_size() {
    in_namespace(|| {
        testing::set_mtu("lo", 1500);
        for (host, overhead) in [("127.0.0.1", 28), ("::1", 48)] {
            let (server, client) = (bind("[::]:0"), bind("[::]:0"));
            let target = to(reach(&server, host));
            let fits = 1500 - overhead;
            let arena = pattern(10_000);
            let mut batch = SendBatch::new(4);
            batch.push(0..fits, &target, None, 0).unwrap();
            batch.push(0..fits + 1, &target, None, 0).unwrap();
            batch.push(0..3 * fits, &target, Some(fits as u16), 0).unwrap();
            batch.push(0..5000, &target, Some(2000), 0).unwrap();
            let mut faults = Vec::new();
            let report = batch.send(&client, &arena, |fault| faults.push(fault));
            let seen: Vec<_> =
                faults.iter().map(|fault| (fault.index, fault.kind, fault.datagrams)).collect();
            let expected = [
                (1, SendFaultKind::TooBig { datagram_len: fits + 1 }, 1),
                (3, SendFaultKind::TrainRefused, 0),
                (3, SendFaultKind::TooBig { datagram_len: 2000 }, 2),
            ];
            assert_eq!(seen, expected);
            assert_eq!((report.datagrams, report.failed), (5, 3));
            let (_, shorter) = receive(&server, 5).remove(4);
            assert_eq!(shorter, arena[4000..5000], "the end of the train fits");
        }
    });
}

#[test]
fn where_fragments_are_allowed_a_datagram_may_exceed_the_link() {
    in_namespace(|| {
        testing::set_mtu("lo", 1280);
        for (client, host) in
            [("[::]:0", "::1"), ("[::]:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1")]
        {
            let (server, client) = (bind("[::]:0"), bind(client));
            client.allow_fragments().unwrap();
            let sent = pattern(4000);
            send_one(&client, &sent, to(reach(&server, host)), 0);
            let (_, bytes) = receive(&server, 1).remove(0);
            assert_eq!(bytes, sent, "{host}");
        }
    });
}

#[test]
fn a_socket_that_follows_routes_does_not_know_where_a_datagram_arrived() {
    in_namespace(|| {
        for (any, host) in [("[::]:0", "::1"), ("[::]:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1")]
        {
            for follow_routes in [false, true] {
                let options = UdpOptions { follow_routes, ..GRO };
                let socket = UdpSocket::bind(any.parse().unwrap(), &options).unwrap();
                send_one(&bind(any), b"hello", to(reach(&socket, host)), 0b10);
                let (meta, _) = receive(&socket, 1).remove(0);
                let expected = (!follow_routes).then(|| host.parse().unwrap());
                assert_eq!((meta.local, meta.ecn), (expected, 0b10), "{host}");
            }
        }
    });
}

#[test]
fn unreachable_destinations_and_bad_ranges_hold_nothing_up() {
    in_namespace(|| {
        let (server, client) = (bind("127.0.0.1:0"), bind("0.0.0.0:0"));
        let nowhere = to("192.0.2.1:9".parse().unwrap());
        let other_family = to("[::1]:9".parse().unwrap());
        let mut batch = SendBatch::new(6);
        batch.push(0..4, &nowhere, None, 0).unwrap();
        let local = Some("127.0.0.1".parse().unwrap());
        batch.push(0..4, &SendTarget { local, ..nowhere }, Some(1), 0).unwrap();
        batch.push(4..9, &to(server.local_addr()), None, 0).unwrap();
        #[allow(clippy::reversed_empty_ranges)]
        batch.push(9..4, &to(server.local_addr()), None, 0).unwrap();
        batch.push(0..4, &other_family, None, 0).unwrap();
        batch.push(0..4, &to(server.local_addr()), None, 0).unwrap();
        let mut faults = Vec::new();
        let report = batch.send(&client, b"datagram", |fault| faults.push(fault));
        assert!(faults.iter().all(|fault| fault.kind == SendFaultKind::Refused));
        let seen: Vec<_> = faults.iter().map(|f| (f.index, f.errno, f.datagrams)).collect();
        let expected = [
            (0, libc::ENETUNREACH, 1),
            (1, libc::ENETUNREACH, 4),
            (2, libc::EFAULT, 1),
            (3, libc::EFAULT, 1),
            (4, libc::EAFNOSUPPORT, 1),
        ];
        assert_eq!(seen, expected);
        assert_eq!((report.datagrams, report.failed, report.blocked), (1, 8, false));
        assert_eq!(receive(&server, 1)[0].1, b"data");
    });
}

/// An answer "port unreachable" to an earlier datagram must not disturb later ones, in either
/// direction.
#[test]
fn icmp_errors_do_not_reach_the_socket() {
    in_namespace(|| {
        for host in ["127.0.0.1", "::1"] {
            let (server, client) = (bind("[::]:0"), bind("[::]:0"));
            let gone = reach(&bind("[::]:0"), host);
            for _ in 0..3 {
                send_one(&client, b"nobody listens", to(gone), 0);
                send_one(&client, b"somebody does", to(reach(&server, host)), 0);
            }
            receive(&server, 3);
            assert!(!is_readable(&client));
            let mut batch = RecvBatch::new(1, 2048);
            assert_eq!(batch.receive(&client).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
    });
}

/// Datagrams to a neighbour whose hardware address is unknown wait in the kernel and keep the
/// send buffer occupied, so the socket blocks; once the neighbour is known, all of them leave.
#[test]
fn a_full_socket_blocks_and_what_is_left_is_sent_later() {
    in_namespace(|| {
        const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
        let tap = tun_rs::DeviceBuilder::new()
            .layer(tun_rs::Layer::L2)
            .name("tap0")
            .inherit_enable_state()
            .build_sync()
            .unwrap();
        testing::configure("tap0", Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(255, 255, 255, 0));
        let small = UdpOptions { send_buffer: Some(20_000), ..GRO };
        let client = UdpSocket::bind("0.0.0.0:0".parse().unwrap(), &small).unwrap();
        let arena = pattern(60 * 1000);
        let target = to(SocketAddr::from((NEIGHBOUR, 4000)));
        let mut batch = SendBatch::new(SEND_MESSAGES_MAX);
        for number in 0..60 {
            batch.push(number * 1000..(number + 1) * 1000, &target, None, 0).unwrap();
        }
        let mut report = batch.send(&client, &arena, |fault| panic!("{fault:?}"));
        assert!(report.blocked && !batch.is_empty());
        assert!((1..60).contains(&report.datagrams));

        testing::add_neighbour("tap0", NEIGHBOUR, [2, 0, 0, 0, 0, 2]);
        let mut sent = report.datagrams;
        while report.blocked {
            assert!(wait_writable(&client));
            report = batch.send(&client, &arena, |fault| panic!("{fault:?}"));
            sent += report.datagrams;
        }
        assert_eq!((sent, batch.is_empty()), (60, true));

        // Behind Ethernet, IPv4 and UDP headers lies each datagram, in order.
        let mut frame = [0; 2048];
        let mut payloads = Vec::new();
        while payloads.len() < arena.len() {
            assert!(wait_readable(&tap));
            let len = tap.recv(&mut frame).unwrap();
            let is_datagram = frame[12..14] == [8, 0] && frame[23] == 17;
            if is_datagram && frame[36..38] == 4000_u16.to_be_bytes() {
                payloads.extend_from_slice(&frame[42..len]);
            }
        }
        assert_eq!(payloads, arena);
    });
}

#[test]
fn the_send_and_receive_path_allocates_nothing() {
    in_namespace(|| {
        let (server, client) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
        let arena = pattern(64 * 100);
        let mut send = SendBatch::new(SEND_MESSAGES_MAX);
        let mut receive = RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN);
        let target = to(server.local_addr());
        let allocations = allocations_in(|| {
            for _ in 0..3 {
                for number in 0..SEND_MESSAGES_MAX {
                    send.push(number * 100..(number + 1) * 100, &target, Some(30), 1).unwrap();
                }
                assert_eq!(send_all(&mut send, &client, &arena).datagrams, 64 * 4);
                let mut datagrams = 0;
                while datagrams < 64 * 4 {
                    assert!(wait_readable(&server));
                    receive.receive(&server).unwrap();
                    let (metas, _) = receive.split();
                    datagrams += metas.iter().map(|meta| meta.datagrams().count()).sum::<usize>();
                }
            }
        });
        assert_eq!(allocations, 0);
    });
}

#[test]
fn a_slot_that_is_too_short_is_flagged() {
    in_namespace(|| {
        let (server, client) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
        send_one(&client, &pattern(101), to(server.local_addr()), 0);
        send_one(&client, &pattern(100), to(server.local_addr()), 0);
        let mut batch = RecvBatch::new(2, 100);
        assert!(wait_readable(&server));
        while batch.messages().len() < 2 {
            batch.receive(&server).unwrap();
        }
        let flags: Vec<_> = batch.messages().iter().map(|meta| meta.truncated).collect();
        assert_eq!(flags, [true, false]);
        assert_eq!(batch.message(1).map(|meta| meta.range.clone()), Some(100..200));
        assert_eq!(batch.message(2), None);
    });
}

#[test]
fn buffers_are_what_was_asked_for_and_overflow_is_counted() {
    in_namespace(|| {
        let options = UdpOptions {
            receive_buffer: Some(20_000),
            send_buffer: Some(9 << 20),
            ..UdpOptions::default()
        };
        let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        assert_eq!(server.receive_buffer().unwrap(), 20_000);
        // A user namespace gives no right to go beyond the system's bound.
        let bound = std::fs::read_to_string("/proc/sys/net/core/wmem_max").unwrap();
        let bound: usize = bound.trim().parse().unwrap();
        assert!([9 << 20, bound].contains(&server.send_buffer().unwrap()));
        assert_eq!(server.receive_drops().unwrap(), 0);
        let client = bind("127.0.0.1:0");
        for _ in 0..100 {
            send_one(&client, &[0; 1000], to(server.local_addr()), 0);
        }
        assert!(server.receive_drops().unwrap() > 0);
    });
}

#[test]
fn bind_errors_tell_the_cause() {
    in_namespace(|| {
        let taken = bind("0.0.0.0:0").local_addr().port();
        let _holder = bind(&format!("0.0.0.0:{taken}"));
        let error = |address: &str, options: &UdpOptions| {
            UdpSocket::bind(address.parse().unwrap(), options).unwrap_err()
        };
        let again = format!("0.0.0.0:{taken}");
        assert!(matches!(error(&again, &GRO), UdpError::AddressInUse { .. }));
        assert!(error(&again, &GRO).to_string().contains(&format!("sport = :{taken}")));
        let foreign = error("192.0.2.1:0", &GRO);
        assert!(matches!(foreign, UdpError::AddressNotAvailable { .. }), "{foreign}");
    });
}

#[test]
fn without_capabilities_the_cause_is_told_and_buffers_are_what_can_be_had() {
    testing::in_namespace_without_capabilities(|| {
        let privileged = UdpSocket::bind("0.0.0.0:443".parse().unwrap(), &GRO).unwrap_err();
        assert!(matches!(privileged, UdpError::PortForbidden { .. }), "{privileged}");
        let marked = UdpOptions { mark: Some(1), ..GRO };
        let marked = UdpSocket::bind("0.0.0.0:0".parse().unwrap(), &marked).unwrap_err();
        assert!(matches!(marked, UdpError::MarkForbidden), "{marked}");
        let huge = UdpOptions { receive_buffer: Some(usize::MAX), ..GRO };
        let huge = UdpSocket::bind("0.0.0.0:0".parse().unwrap(), &huge).unwrap();
        assert!(huge.receive_buffer().unwrap() > 0);
    });
}

#[test]
fn a_group_shares_one_port_and_refuses_strangers() {
    in_namespace(|| {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let group = UdpSocket::bind_group(address, 3, &GRO).unwrap();
            let shared = group[0].local_addr();
            assert_ne!(shared.port(), 0);
            assert!(group.iter().all(|member| member.local_addr() == shared));
            let second = UdpSocket::bind_group(shared, 3, &GRO);
            assert!(matches!(second, Err(UdpError::AddressInUse { .. })));
            drop(group);
            UdpSocket::bind_group(shared, 1, &GRO).unwrap();
        }
    });
}

#[test]
fn v6_only_leaves_the_ipv4_port_free() {
    in_namespace(|| {
        let v6_only = UdpOptions { v6_only: true, ..GRO };
        let v6 = UdpSocket::bind("[::]:0".parse().unwrap(), &v6_only).unwrap();
        bind(&format!("0.0.0.0:{}", v6.local_addr().port()));
    });
}

#[test]
fn a_mark_is_set() {
    in_namespace(|| {
        let marked = UdpOptions { mark: Some(0xc0de), ..GRO };
        let socket = UdpSocket::bind("[::]:0".parse().unwrap(), &marked).unwrap();
        assert_eq!(socket2::SockRef::from(&socket).mark().unwrap(), 0xc0de);
    });
}

#[test]
fn batches_may_move_to_the_thread_that_uses_them() {
    fn assert_send<T: Send>() {}
    assert_send::<SendBatch>();
    assert_send::<RecvBatch>();
}
