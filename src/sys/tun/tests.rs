//! Real devices in namespaces of their own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use super::{TunDevice, TunError, TunOffloadWish, TunOffloads, TunQueue};
use crate::limits::{PACKET_LEN_MAX, VIRTIO_HEADER_LEN, WORKERS_MAX};
use crate::sys::link::{self, Occupant};
use crate::sys::netns::NetNamespace;
use crate::sys::testing::{self, in_namespace, is_readable, wait_readable};
use crate::sys::udp::{self, SendBatch, SendTarget, UdpOptions};

const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const HERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// `gso_type` of a virtio header (virtio 1.2, 5.1.6), and where it stands.
const GSO_TYPE: usize = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;

fn open(name: &str, queues: usize, wish: TunOffloadWish) -> TunDevice {
    TunDevice::open(name, queues, wish).unwrap()
}

fn set_persistent(queue: &TunQueue, persistent: bool) {
    let flag = libc::c_ulong::from(persistent);
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETPERSIST, flag) };
    assert_eq!(result, 0);
}

fn read(queue: &TunQueue) -> Vec<u8> {
    assert!(wait_readable(queue));
    let mut buffer = vec![0; VIRTIO_HEADER_LEN + PACKET_LEN_MAX];
    let len = queue.read(&mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

#[test]
fn a_fresh_device_is_down_bare_and_has_all_offloads_of_this_kernel() {
    in_namespace(|| {
        let first = open("", 1, TunOffloadWish::ALL);
        let second = open("core%d", 3, TunOffloadWish::ALL);
        assert_eq!((&first.name[..], &second.name[..]), ("tun0", "core0"));
        assert_eq!((first.queues.len(), second.queues.len()), (1, 3));
        assert_eq!(link::flags("core0").unwrap() & libc::IFF_UP, 0);
        assert_eq!(testing::address_of("core0"), None);
        assert!(second.offloads.checksum && second.offloads.tcp);
        let occupant = Occupant::Tun { multi_queue: true, open_queues: 3 };
        assert_eq!(link::occupant("core0").unwrap(), occupant);
        for queue in &second.queues {
            // SAFETY: F_GETFD takes no further argument.
            let flags = unsafe { libc::fcntl(queue.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
        drop(second);
        assert_eq!(link::occupant("core0").unwrap(), Occupant::Nobody);
    });
}

#[test]
fn a_queue_without_a_packet_would_block() {
    in_namespace(|| {
        let device = open("", 2, TunOffloadWish::ALL);
        link::bring_up(&device.name).unwrap();
        // IPv6 announces itself by its own; whatever that was is read first.
        for queue in &device.queues {
            let error = loop {
                match queue.read(&mut [0; 2048]) {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    for name in ["sixteen-bytes-xx", "a/b", "a b", "a:b", ".", "..", "a%d%d", "%s", "a\0b", "a\n"] {
        let error = TunDevice::open(name, 1, TunOffloadWish::ALL).unwrap_err();
        assert!(matches!(error, TunError::NameInvalid { .. }), "{name:?}: {error}");
    }
    for queues in [0, 129, usize::MAX] {
        let error = TunDevice::open("fine", queues, TunOffloadWish::ALL).unwrap_err();
        assert!(matches!(error, TunError::QueuesInvalid { .. }), "{queues}: {error}");
    }
}

#[test]
fn without_capabilities_the_error_says_which_is_missing() {
    testing::in_namespace_without_capabilities(|| {
        let error = TunDevice::open("core0", 1, TunOffloadWish::ALL).unwrap_err();
        // Root without capabilities still owns /dev/net/tun where it is closed to others.
        assert!(matches!(error, TunError::NotPermitted { .. }), "{error}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"));
    });
}

#[test]
fn a_device_that_somebody_has_open_is_left_alone() {
    in_namespace(|| {
        let holder = open("core0", 2, TunOffloadWish::NONE);
        for _ in ["down", "up"] {
            let error = TunDevice::open("core0", 1, TunOffloadWish::ALL).unwrap_err();
            assert!(matches!(error, TunError::NameInUse { .. }), "{error}");
            link::bring_up("core0").unwrap();
        }
        set_persistent(&holder.queues[0], true);
        for queue in &holder.queues {
            queue.set_attached(false).unwrap();
        }
        let error = TunDevice::open("core0", 1, TunOffloadWish::ALL).unwrap_err();
        assert!(matches!(error, TunError::NameInUse { .. }), "{error}");
    });
}

#[test]
fn an_interface_of_another_kind_is_left_alone() {
    in_namespace(|| {
        let _single = tun_rs::DeviceBuilder::new()
            .name("single0")
            .inherit_enable_state()
            .build_sync()
            .unwrap();
        for name in ["lo", "single0"] {
            let error = TunDevice::open(name, 1, TunOffloadWish::ALL).unwrap_err();
            assert!(matches!(error, TunError::NotAdoptable { .. }), "{error}");
        }
    });
}

#[test]
fn a_persistent_device_is_adopted_without_what_its_last_user_left() {
    in_namespace(|| {
        let first = open("core0", 2, TunOffloadWish::ALL);
        set_persistent(&first.queues[0], true);
        let len = 12_i32;
        // SAFETY: TUNSETVNETHDRSZ reads an int, which `len` is.
        let result = unsafe {
            libc::ioctl(first.queues[0].as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len)
        };
        assert_eq!(result, 0);
        drop(first);

        let second = open("core0", 1, TunOffloadWish::NONE);
        assert_eq!(second.offloads, TunOffloads::default());
        testing::configure("core0", HERE, NETMASK);
        let socket = UdpSocket::bind((HERE, 0)).unwrap();
        socket.send_to(b"datagram", (THERE, 9)).unwrap();
        let packet = loop {
            let packet = read(&second.queues[0]);
            if packet[VIRTIO_HEADER_LEN] >> 4 == 4 {
                break packet;
            }
        };
        // Nothing is left to do for whoever takes the packet.
        assert_eq!(packet[..VIRTIO_HEADER_LEN], [0; VIRTIO_HEADER_LEN]);
        assert_eq!(packet.len(), VIRTIO_HEADER_LEN + 28 + 8);
        set_persistent(&second.queues[0], false);
    });
}

#[test]
fn a_train_comes_out_as_one_super_packet() {
    in_namespace(|| {
        let device = open("", 1, TunOffloadWish::ALL);
        if !device.offloads.udp {
            // Linux before 6.2 has no UDP segmentation for TUN.
            return;
        }
        testing::configure(&device.name, HERE, NETMASK);
        let socket =
            udp::UdpSocket::bind(SocketAddr::from((HERE, 0)), &UdpOptions::default()).unwrap();
        let mut batch = SendBatch::new(1);
        let target = SendTarget { remote: SocketAddr::from((THERE, 9)), local: None };
        batch.push(0..10_000, &target, Some(1200), 0).unwrap();
        assert_eq!(batch.send(&socket, &[7; 10_000], |fault| panic!("{fault:?}")).datagrams, 9);
        let packet = loop {
            let packet = read(&device.queues[0]);
            if packet[VIRTIO_HEADER_LEN] >> 4 == 4 {
                break packet;
            }
        };
        assert_eq!(packet[GSO_TYPE], GSO_UDP_L4);
        assert_eq!(u16::from_ne_bytes([packet[4], packet[5]]), 1200);
        assert_eq!(packet.len(), VIRTIO_HEADER_LEN + 28 + 10_000);
    });
}

#[test]
fn a_detached_queue_gets_nothing_and_can_come_back() {
    in_namespace(|| {
        let device = open("", 2, TunOffloadWish::ALL);
        let [first, second] = &device.queues[..] else { panic!("two queues") };
        second.set_attached(false).unwrap();
        assert_eq!(second.set_attached(false).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        testing::configure(&device.name, HERE, NETMASK);
        let socket = UdpSocket::bind((HERE, 0)).unwrap();
        for port in 1000..1064 {
            socket.send_to(b"datagram", (THERE, port)).unwrap();
        }
        let mut packets = 0;
        while is_readable(first) {
            packets += usize::from(read(first)[VIRTIO_HEADER_LEN] >> 4 == 4);
        }
        assert_eq!(packets, 64);
        assert!(second.read(&mut [0; 100]).is_err());

        second.set_attached(true).unwrap();
        for port in 1000..1064 {
            socket.send_to(b"datagram", (THERE, port)).unwrap();
        }
        assert!(is_readable(first) && is_readable(second), "64 flows use both queues");
    });
}

/// Has a host answer datagrams that are written to ever other queues; returns, for each flow, the
/// queues that its answers come out of, and asserts that each question takes one answer.
fn queues_of_answers(device: &TunDevice, port: u16, turns: usize) -> Vec<(usize, usize)> {
    let queues = device.queues.len();
    let echo = UdpSocket::bind((HERE, 0)).unwrap();
    let here = (HERE, echo.local_addr().unwrap().port());
    (0..turns)
        .map(|turn| {
            let writer = turn * 7 % queues;
            let packet = udp_packet((THERE, port), here, b"question");
            assert_eq!(device.queues[writer].write(&packet).unwrap(), packet.len());
            let (_, from) = echo.recv_from(&mut [0; 16]).unwrap();
            echo.send_to(b"answer", from).unwrap();
            let readers: Vec<_> = (0..queues).filter(|&at| has_ipv4(&device.queues[at])).collect();
            let [reader] = readers[..] else { panic!("{readers:?} read an answer") };
            (writer, reader)
        })
        .collect()
}

/// The lane arithmetic relies on it: the kernel sends a flow to the queue that last wrote it.
#[test]
fn a_flow_follows_the_queue_that_wrote_it() {
    in_namespace(|| {
        let device = open("", 4, TunOffloadWish::ALL);
        testing::configure(&device.name, HERE, NETMASK);
        for (writer, reader) in queues_of_answers(&device, 5000, 16) {
            assert_eq!(reader, writer);
        }
    });
}

/// And on this, so that of two sides that follow each other one does not.
#[test]
fn a_fixed_flow_stays_whichever_queue_writes_it() {
    in_namespace(|| {
        let mut device = open("", 4, TunOffloadWish::ALL);
        device.fix_flows().unwrap();
        let occupant = Occupant::Tun { multi_queue: true, open_queues: 8 };
        assert_eq!(link::occupant(&device.name).unwrap(), occupant);
        testing::configure(&device.name, HERE, NETMASK);
        let mut used = [false; 4];
        for port in 5000..5032 {
            let answers = queues_of_answers(&device, port, 8);
            let (_, first) = answers[0];
            assert!(answers.iter().all(|(_, reader)| *reader == first), "{answers:?}");
            used[first] = true;
        }
        assert_eq!(used, [true; 4], "32 flows use every queue");

        let name = device.name.clone();
        drop(device);
        assert_eq!(link::occupant(&name).unwrap(), Occupant::Nobody);
    });
}

#[test]
fn a_device_has_room_for_as_many_fixed_queues_as_there_are_workers() {
    in_namespace(|| {
        let mut device = open("", WORKERS_MAX, TunOffloadWish::NONE);
        device.fix_flows().unwrap();
        let mut single = open("", 1, TunOffloadWish::NONE);
        single.fix_flows().unwrap();
        let occupant = Occupant::Tun { multi_queue: true, open_queues: 1 };
        assert_eq!(link::occupant(&single.name).unwrap(), occupant, "it has but one queue anyway");
    });
}

/// Empties the queue; was there an IPv4 packet?
fn has_ipv4(queue: &TunQueue) -> bool {
    let mut seen = false;
    while is_readable(queue) {
        seen |= read(queue)[VIRTIO_HEADER_LEN] >> 4 == 4;
    }
    seen
}

/// A UDP packet behind an empty virtio header; without a UDP checksum, as IPv4 allows.
fn udp_packet(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&(20 + udp_len).to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend_from_slice(&from.0.octets());
    ip.extend_from_slice(&to.0.octets());
    let sum: u32 = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0; VIRTIO_HEADER_LEN];
    packet.extend_from_slice(&ip);
    for word in [from.1, to.1, udp_len, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    packet
}

/// A wire: carries packets, virtio headers and all, between two queues until it is dropped.
struct Wire {
    stop: UnixStream,
    thread: JoinHandle<Carried>,
}

/// What a wire has carried from the first queue to the second.
#[derive(Debug, Default)]
struct Carried {
    longest: usize,
    gso_types: Vec<u8>,
}

impl Wire {
    fn between(first: TunQueue, second: TunQueue) -> Self {
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || {
            let mut carried = Carried::default();
            let mut buffer = vec![0; VIRTIO_HEADER_LEN + PACKET_LEN_MAX];
            while poll_three(&first, &second, &stopped) {
                while let Ok(len) = first.read(&mut buffer) {
                    carried.longest = carried.longest.max(len - VIRTIO_HEADER_LEN);
                    carried.gso_types.push(buffer[GSO_TYPE] & 0x7f);
                    // In two pieces, to see that the kernel puts them together.
                    let (head, tail) = buffer[..len].split_at(VIRTIO_HEADER_LEN + 20);
                    let pieces = [io::IoSlice::new(head), io::IoSlice::new(tail)];
                    assert_eq!(second.write_vectored(&pieces).unwrap(), len);
                }
                while let Ok(len) = second.read(&mut buffer) {
                    assert_eq!(first.write(&buffer[..len]).unwrap(), len);
                }
            }
            carried
        });
        Self { stop, thread }
    }

    fn cut(self) -> Carried {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// Waits for one of two queues; false once the third descriptor is closed at its far end.
fn poll_three(first: &TunQueue, second: &TunQueue, stop: &UnixStream) -> bool {
    let descriptors = [first.as_raw_fd(), second.as_raw_fd(), stop.as_raw_fd()];
    let mut polls = descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: three live pollfds are given, and the count says three.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), 3, -1) };
    ready > 0 && polls[2].revents == 0
}

/// Sends bytes by TCP from one namespace to another through two TUN devices.
fn carry_tcp(wish: TunOffloadWish) -> Carried {
    const LEN: usize = 2 << 20;
    let make = |address| {
        let namespace = NetNamespace::create().unwrap();
        let queue = namespace
            .run_in(|| {
                let mut device = open("", 1, wish);
                testing::configure(&device.name, address, NETMASK);
                device.queues.remove(0)
            })
            .unwrap();
        (namespace, queue)
    };
    let ((client, client_queue), (server, server_queue)) = (make(HERE), make(THERE));
    let wire = Wire::between(client_queue, server_queue);
    let listener = server.run_in(|| TcpListener::bind((THERE, 0)).unwrap()).unwrap();
    let to = listener.local_addr().unwrap();
    let sender = thread::spawn(move || {
        let connect = || TcpStream::connect_timeout(&to, testing::PATIENCE).unwrap();
        let mut stream = client.run_in(connect).unwrap();
        stream.write_all(&vec![42; LEN]).unwrap();
    });
    let (mut stream, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), HERE);
    stream.set_read_timeout(Some(testing::PATIENCE)).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received.len() == LEN && received.iter().all(|&byte| byte == 42));
    wire.cut()
}

#[test]
fn tcp_crosses_two_devices_in_super_packets() {
    let carried = carry_tcp(TunOffloadWish::ALL);
    assert!(carried.gso_types.contains(&GSO_TCPV4));
    assert!(carried.longest > 10_000, "{carried:?}");
}

#[test]
fn tcp_crosses_two_devices_in_single_packets_if_that_is_the_wish() {
    for wish in [
        TunOffloadWish::NONE,
        TunOffloadWish { checksum: true, ..TunOffloadWish::NONE },
        // Segmentation is not to be had without checksums.
        TunOffloadWish { checksum: false, ..TunOffloadWish::ALL },
    ] {
        let carried = carry_tcp(wish);
        assert!(carried.gso_types.iter().all(|&kind| kind == GSO_NONE));
        assert!(carried.longest <= 1500, "{carried:?}");
    }
}

#[test]
fn a_queue_can_be_lent_to_poll() {
    in_namespace(|| {
        let device = open("", 1, TunOffloadWish::ALL);
        let queue = &device.queues[0];
        assert_eq!(queue.as_fd().as_raw_fd(), queue.as_raw_fd());
        let poll = mio::Poll::new().unwrap();
        let fd = queue.as_raw_fd();
        let mut source = mio::unix::SourceFd(&fd);
        poll.registry().register(&mut source, mio::Token(0), mio::Interest::READABLE).unwrap();
    });
}
