//! Real reuseport groups in a namespace of their own: who gets what?

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use super::{CONTROL_MEMBERS, MAC2_OFFSET, attach_lane_steering};
use crate::sys::testing::{in_namespace, is_readable};
use crate::sys::udp::{RecvBatch, SendBatch, SendTarget, UdpOptions, UdpSocket};
use crate::wire::INITIATION_LEN;

const OPTIONS: UdpOptions = UdpOptions {
    reuse_port: false,
    mark: None,
    receive_buffer: Some(4 << 20),
    send_buffer: None,
    gro: true,
    v6_only: false,
    follow_routes: false,
};

struct Group {
    members: Vec<UdpSocket>,
    batch: RecvBatch,
}

impl Group {
    /// `workers` sockets and those of the control thread, steered.
    fn bind(address: &str, workers: u16) -> Self {
        let members = usize::from(workers) + CONTROL_MEMBERS;
        let members = UdpSocket::bind_group(address.parse().unwrap(), members, &OPTIONS).unwrap();
        attach_lane_steering(&members[0], workers).unwrap();
        Self { members, batch: RecvBatch::new(8, 65_536) }
    }

    /// The control thread's socket for what is neither data nor a whole initiation.
    fn rest(&self) -> usize {
        self.members.len() - 1
    }

    fn address(&self, host: &str) -> SocketAddr {
        let ip: IpAddr = host.parse().unwrap();
        SocketAddr::new(ip, self.members[0].local_addr().port())
    }

    /// Sends over the loopback, which delivers before the call returns, and tells which members
    /// got how many datagrams.
    fn receivers_of(
        &mut self,
        sender: &UdpSocket,
        host: &str,
        bytes: &[u8],
        segment_size: Option<u16>,
    ) -> Vec<(usize, usize)> {
        let target = SendTarget { remote: self.address(host), local: None };
        let mut send = SendBatch::new(1);
        send.push(0..bytes.len(), &target, segment_size, 0).unwrap();
        let report = send.send(sender, bytes, |fault| panic!("{fault:?}"));
        assert!(!report.blocked);
        let mut receivers = Vec::new();
        for (index, member) in self.members.iter().enumerate() {
            let mut datagrams = 0;
            while is_readable(member) {
                self.batch.receive(member).unwrap();
                let metas = self.batch.messages();
                datagrams += metas.iter().map(|meta| meta.datagrams().count()).sum::<usize>();
            }
            if datagrams > 0 {
                receivers.push((index, datagrams));
            }
        }
        receivers
    }
}

#[test]
fn each_lane_reaches_its_worker_and_all_else_the_control_thread() {
    in_namespace(|| {
        for (address, host, sender) in [
            ("127.0.0.1:0", "127.0.0.1", "127.0.0.1:0"),
            ("[::]:0", "::1", "[::]:0"),
            ("[::]:0", "127.0.0.1", "127.0.0.1:0"),
        ] {
            let sender = UdpSocket::bind(sender.parse().unwrap(), &OPTIONS).unwrap();
            for workers in [1_u16, 2, 3, 7] {
                let mut group = Group::bind(address, workers);
                for lane in 0..=255_u8 {
                    let owner = usize::from(lane) % usize::from(workers);
                    let got = group.receivers_of(&sender, host, &[4, lane, 0, 0], None);
                    assert_eq!(got, [(owner, 1)], "lane {lane} of {workers} workers");
                }
                let rest = group.rest();
                for kind in (0..=255_u8).filter(|&kind| kind != 4) {
                    let got = group.receivers_of(&sender, host, &[kind, 0, 0, 0], None);
                    assert_eq!(got, [(rest, 1)], "type {kind} of {workers} workers");
                }
            }
        }
    });
}

/// A load behind the end of the datagram would end the program with 0: worker 0.
#[test]
fn datagrams_too_short_to_name_a_lane_go_to_the_control_thread() {
    in_namespace(|| {
        let sender = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &OPTIONS).unwrap();
        let mut group = Group::bind("127.0.0.1:0", 2);
        let rest = group.rest();
        for bytes in [&[][..], &[4], &[1]] {
            assert_eq!(group.receivers_of(&sender, "127.0.0.1", bytes, None), [(rest, 1)]);
        }
        assert_eq!(group.receivers_of(&sender, "127.0.0.1", &[4, 1], None), [(1, 1)]);
    });
}

/// Those that claim to prove their address, those that do not, and what is no initiation.
#[test]
fn initiations_are_told_apart_by_whether_they_carry_a_mac2() {
    in_namespace(|| {
        for (address, host) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "::1")] {
            let sender = UdpSocket::bind(address.parse().unwrap(), &OPTIONS).unwrap();
            for workers in [1, 3] {
                let mut group = Group::bind(address, workers);
                let mut receivers =
                    |bytes: &[u8], stride| group.receivers_of(&sender, host, bytes, stride);
                let [claims, plain, rest] = [0, 1, 2].map(|it| usize::from(workers) + it);
                let mut initiation = vec![1; INITIATION_LEN];
                assert_eq!(receivers(&initiation, None), [(claims, 1)]);
                assert_eq!(receivers(&initiation[1..], None), [(rest, 1)], "cut short");
                initiation[MAC2_OFFSET as usize..].fill(0);
                assert_eq!(receivers(&initiation, None), [(plain, 1)]);
                let stride = INITIATION_LEN as u16;
                assert_eq!(receivers(&initiation.repeat(5), Some(stride)), [(plain, 5)]);
                for at in 0..4 {
                    let mut initiation = initiation.clone();
                    initiation[MAC2_OFFSET as usize + at] = 0x40;
                    assert_eq!(receivers(&initiation, None), [(claims, 1)], "byte {at}");
                }
            }
        }
    });
}

#[test]
fn a_train_of_one_lane_stays_together() {
    in_namespace(|| {
        for (address, host) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "::1")] {
            let sender = UdpSocket::bind(address.parse().unwrap(), &OPTIONS).unwrap();
            let mut group = Group::bind(address, 3);
            for lane in 0..6_u8 {
                let mut train = Vec::new();
                for _ in 0..20 {
                    train.extend_from_slice(&[4, lane, 0, 0, 9, 9, 9, 9]);
                }
                let got = group.receivers_of(&sender, host, &train, Some(8));
                assert_eq!(got, [(usize::from(lane % 3), 20)]);
            }
        }
    });
}

#[test]
fn the_largest_group_can_be_steered() {
    in_namespace(|| {
        let sender = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &OPTIONS).unwrap();
        let mut group = Group::bind("127.0.0.1:0", 128);
        for lane in [0_u8, 1, 127, 128, 255] {
            let got = group.receivers_of(&sender, "127.0.0.1", &[4, lane], None);
            assert_eq!(got, [(usize::from(lane % 128), 1)]);
        }
        let rest = group.rest();
        assert_eq!(group.receivers_of(&sender, "127.0.0.1", &[1, 0], None), [(rest, 1)]);
    });
}

#[test]
fn nonsense_is_refused() {
    in_namespace(|| {
        let group = Group::bind("127.0.0.1:0", 1);
        for workers in [0, 129, u16::MAX] {
            let error = attach_lane_steering(&group.members[0], workers).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        }
        let not_a_member = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &OPTIONS).unwrap();
        assert!(attach_lane_steering(&not_a_member.as_fd(), 1).is_err());
    });
}
