//! Real reuseport groups in a namespace of their own: who gets what?

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use super::attach_lane_steering;
use crate::sys::testing::{in_namespace, is_readable};
use crate::sys::udp::{RecvBatch, SendBatch, SendTarget, UdpOptions, UdpSocket};

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
    /// `workers` sockets and one for control, steered.
    fn bind(address: &str, workers: u16) -> Self {
        let members = usize::from(workers) + 1;
        let members = UdpSocket::bind_group(address.parse().unwrap(), members, &OPTIONS).unwrap();
        attach_lane_steering(&members[0], workers).unwrap();
        Self { members, batch: RecvBatch::new(8, 65_536) }
    }

    fn control(&self) -> usize {
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
                let control = group.control();
                for kind in (0..=255_u8).filter(|&kind| kind != 4) {
                    let got = group.receivers_of(&sender, host, &[kind, 0, 0, 0], None);
                    assert_eq!(got, [(control, 1)], "type {kind} of {workers} workers");
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
        for bytes in [&[][..], &[4], &[1]] {
            assert_eq!(group.receivers_of(&sender, "127.0.0.1", bytes, None), [(2, 1)]);
        }
        assert_eq!(group.receivers_of(&sender, "127.0.0.1", &[4, 1], None), [(1, 1)]);
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
        assert_eq!(group.receivers_of(&sender, "127.0.0.1", &[1, 0], None), [(128, 1)]);
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
