//! A worker with a real device and real sockets, turned by hand.

mod limits;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::{Events, Poll, Token, Waker};

use super::{FIRST_SOCKET, ReadFault, Worker, WorkerParts};
use crate::dataplane::ForwarderOptions;
use crate::dataplane::messages::{Endpoint, SessionInstall, WorkerCommand, WorkerEvent};
use crate::dataplane::tests::{CLIENT, CLIENT_INDEX, PEER, SERVER, install};
use crate::limits::{DATA_OVERHEAD_LEN, TUN_MTU_DEFAULT, WORKER_EVENTS_MAX, padded_len};
use crate::packet::CoalesceOptions;
use crate::routing::PrefixTable;
use crate::session::lanes::Role;
use crate::sys::clock;
use crate::sys::testing::{self, PATIENCE, in_namespace, wait_readable};
use crate::sys::tun::{TunDevice, TunOffloadWish};
use crate::sys::udp::{SendBatch, SendTarget, UdpOptions, UdpSocket};
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::drops::DropReason;
use crate::wire::{DataHeader, SessionIndex};

/// A client's only worker, its device up, with a session to a server.
struct Bench {
    worker: Worker,
    counters: Arc<WorkerCounters>,
    events: Events,
    /// A program of this host that sends into the tunnel.
    program: UdpSocket,
    commands: Sender<WorkerCommand>,
    _reports: Receiver<WorkerEvent>,
    _control: Poll,
}

impl Bench {
    fn new(server: SocketAddr, send_buffer: Option<usize>) -> Self {
        Self::with_gso(true, server, send_buffer)
    }

    fn with_gso(udp_gso: bool, server: SocketAddr, send_buffer: Option<usize>) -> Self {
        let wish = TunOffloadWish::ALL;
        let mut tun = TunDevice::open("cl0", 1, wish).expect("this test makes TUN devices");
        testing::configure("cl0", CLIENT, Ipv4Addr::new(255, 255, 255, 0));
        testing::set_mtu("cl0", TUN_MTU_DEFAULT);
        let options = UdpOptions { send_buffer, ..UdpOptions::default() };
        let control = Poll::new().unwrap();
        let (commands, command_queue) = crossbeam_channel::unbounded();
        let (event_queue, reports) = crossbeam_channel::bounded(WORKER_EVENTS_MAX);
        let counters = Arc::new(WorkerCounters::default());
        let (mut worker, _) = Worker::new(WorkerParts {
            worker: 0,
            cpu: None,
            tun: tun.queues.remove(0),
            sockets: vec![UdpSocket::bind("0.0.0.0:0".parse().unwrap(), &options).unwrap()],
            commands: command_queue,
            events: event_queue,
            control_waker: Arc::new(Waker::new(control.registry(), Token(0)).unwrap()),
            counters: Arc::clone(&counters),
            options: ForwarderOptions {
                udp_gso,
                coalesce: CoalesceOptions::ALL,
                plaintext_max: usize::from(TUN_MTU_DEFAULT),
                copy_dscp: false,
                spin: crate::limits::SPIN_DEFAULT,
            },
        })
        .unwrap();
        let prefixes = PrefixTable::from_entries([("10.8.0.0/24".parse().unwrap(), PEER)]);
        commands.send(WorkerCommand::SetPrefixes(Arc::new(prefixes))).unwrap();
        let install = install(Role::Client, 1, 1);
        let endpoint = install.endpoint.map(|endpoint| Endpoint { remote: server, ..endpoint });
        let install = SessionInstall { endpoint, ..install };
        commands.send(WorkerCommand::InstallSession(Box::new(install))).unwrap();
        worker.forwarder.apply_commands(&mut worker.links);
        let program = SocketAddr::from((CLIENT, 0));
        let program = UdpSocket::bind(program, &UdpOptions::default()).unwrap();
        let events = Events::with_capacity(8);
        Self { worker, counters, events, program, commands, _reports: reports, _control: control }
    }

    /// The program sends `trains` super-packets of `datagrams` datagrams with `len` bytes each.
    fn send(&self, trains: usize, datagrams: usize, len: usize) {
        send(&self.program, trains, datagrams, len);
    }

    fn turn(&mut self) {
        self.worker.turn().unwrap();
    }

    /// Waits as the worker does between two turns, but not for ever.
    fn await_work(&mut self) {
        self.worker.links.watch_for_room(self.worker.poll.registry()).unwrap();
        if !self.worker.has_work() {
            self.worker.poll.poll(&mut self.events, Some(PATIENCE)).unwrap();
            assert!(!self.events.is_empty(), "the worker would sleep for ever");
            self.worker.note_readiness(&self.events);
        }
    }

    fn sealed(&self) -> u64 {
        self.counters.to_wire.packets.get()
    }
}

fn send(program: &UdpSocket, trains: usize, datagrams: usize, len: usize) {
    let arena = vec![7; datagrams * len];
    let target = SendTarget { remote: SocketAddr::from((SERVER, 9)), local: None };
    for _ in 0..trains {
        let mut batch = SendBatch::new(1);
        batch.push(0..arena.len(), &target, Some(len as u16), 0).unwrap();
        let report = batch.send(program, &arena, |fault| panic!("{fault:?}"));
        assert_eq!(report.datagrams, datagrams);
    }
}

/// A socket becomes full where the next hop's hardware address is unknown: what has been sent
/// waits in the kernel and occupies the send buffer until the neighbour is known.
fn a_full_socket_stops_the_reading_of_tun(udp_gso: bool) {
    const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const ROUNDS: usize = 6;
    const SINGLES: usize = 20;
    const TRAIN: usize = 60;
    const DATAGRAMS: usize = ROUNDS * (SINGLES + TRAIN);
    in_namespace(move || {
        let tap = tun_rs::DeviceBuilder::new()
            .layer(tun_rs::Layer::L2)
            .name("tap0")
            .inherit_enable_state()
            .build_sync()
            .unwrap();
        testing::configure("tap0", Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(255, 255, 255, 0));
        let mut bench = Bench::with_gso(udp_gso, (NEIGHBOUR, 4500).into(), Some(20_000));
        for _ in 0..ROUNDS {
            bench.send(SINGLES, 1, 1000);
            bench.send(1, TRAIN, 1000);
        }
        while !bench.worker.links.is_blocked() {
            bench.turn();
            assert!(bench.sealed() < DATAGRAMS as u64, "the socket is not full yet");
        }
        let sealed = bench.sealed();
        for _ in 0..10 {
            bench.turn();
            // Room for a moment, gone by the time it is used.
            bench.worker.links.links[0].blocked = false;
        }
        assert_eq!(bench.sealed(), sealed, "TUN is not read while a socket is full");

        testing::add_neighbour("tap0", NEIGHBOUR, [2, 0, 0, 0, 0, 2]);
        let mut frame = [0; 2048];
        let mut counters = Vec::new();
        tap.set_nonblocking(true).unwrap();
        while counters.len() < DATAGRAMS {
            match tap.recv(&mut frame) {
                Ok(len) if frame[12..14] == [8, 0] && frame[23] == 17 => {
                    let datagram = &frame[42..len];
                    assert_eq!(datagram.len(), padded_len(1028) + DATA_OVERHEAD_LEN);
                    counters.push(DataHeader::parse(datagram).unwrap().counter);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bench.await_work();
                    bench.turn();
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(counters, (0..DATAGRAMS as u64).collect::<Vec<_>>());
        assert_eq!(bench.counters.drops.get(DropReason::SendFailed), 0);
        assert_eq!(bench.counters.gso_fallbacks.get(), 0);
    });
}

#[test]
fn a_full_socket_stops_the_reading_of_tun_and_nothing_is_lost() {
    a_full_socket_stops_the_reading_of_tun(true);
}

#[test]
fn the_same_where_every_datagram_leaves_alone() {
    a_full_socket_stops_the_reading_of_tun(false);
}

#[test]
fn a_socket_with_room_does_not_wake_its_worker() {
    in_namespace(|| {
        let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UdpOptions::default());
        let server = server.unwrap();
        let mut bench = Bench::new(server.local_addr(), None);
        bench.turn();
        bench.send(1, 1, 100);
        while bench.sealed() == 0 {
            bench.await_work();
            bench.turn();
        }
        assert!(wait_readable(&server.as_fd()), "it has left the worker's socket");
        bench.worker.poll.poll(&mut bench.events, Some(Duration::ZERO)).unwrap();
        let about_sockets = bench.events.iter().filter(|event| event.token().0 >= FIRST_SOCKET);
        assert_eq!(about_sockets.count(), 0);
    });
}

#[test]
fn a_link_that_goes_down_and_up_again_costs_only_the_packets_of_that_time() {
    in_namespace(|| {
        let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UdpOptions::default());
        let mut bench = Bench::new(server.unwrap().local_addr(), None);
        testing::take_down("cl0");
        bench.turn();
        testing::configure("cl0", CLIENT, Ipv4Addr::new(255, 255, 255, 0));
        bench.turn();
        bench.send(1, 1, 100);
        while bench.sealed() == 0 {
            bench.await_work();
            bench.turn();
        }
    });
}

/// The worker looks at the clock itself: nobody tells it that the session is over.
#[test]
fn a_running_worker_lets_go_of_a_session_at_its_last_age() {
    in_namespace(|| {
        let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UdpOptions::default());
        let bench = Bench::new(server.unwrap().local_addr(), None);
        let install = SessionInstall {
            local: SessionIndex(1),
            expires: clock::now() + Duration::from_millis(200),
            ..install(Role::Client, 1, 1)
        };
        let (former, next) = (CLIENT_INDEX, Box::new(install));
        for command in
            [WorkerCommand::RemoveSession { session: former }, WorkerCommand::InstallSession(next)]
        {
            bench.commands.send(command).unwrap();
        }
        let Bench { mut worker, counters, commands, program, .. } = bench;
        let waker = Arc::clone(&worker._waker);
        let running = thread::spawn(move || worker.run());
        let began = clock::now();
        while counters.drops.get(DropReason::NoSession) == 0 {
            assert!(clock::now() < began + PATIENCE, "the session is used for too long");
            send(&program, 1, 1, 100);
            thread::sleep(Duration::from_millis(10));
        }
        let sealed = counters.to_wire.packets.get();
        send(&program, 1, 1, 100);
        commands.send(WorkerCommand::Stop).unwrap();
        waker.wake().unwrap();
        running.join().unwrap().unwrap();
        assert_eq!(counters.to_wire.packets.get(), sealed);
    });
}

#[test]
fn only_a_device_that_is_gone_ends_a_worker() {
    let table = [
        (libc::EAGAIN, ReadFault::Empty),
        (libc::EIO, ReadFault::Empty),
        (libc::EINTR, ReadFault::Interrupted),
        (libc::EINVAL, ReadFault::PacketLost),
        (libc::EBADFD, ReadFault::DeviceGone),
        (libc::EFAULT, ReadFault::DeviceGone),
    ];
    for (errno, fault) in table {
        let error = io::Error::from_raw_os_error(errno);
        assert_eq!(ReadFault::of(&error), fault, "{error}");
    }
}
