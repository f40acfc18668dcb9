use std::collections::BTreeSet;

use super::*;
use crate::control::runtime::ControlPoll;
use crate::dataplane::messages::WorkerCommand;
use crate::lab::{Host, wait_until};
use crate::packet::CoalesceOptions;
use crate::sys::process::resident_bytes;
use crate::sys::testing::{PATIENCE, in_namespace};
use crate::sys::tun::{TunDevice, TunOffloadWish};
use crate::sys::udp::UdpOptions;

/// How often workers come and go, unless the variable of the environment says otherwise.
const ROUNDS: usize = 50;
const ROUNDS_VARIABLE: &str = "CORELANE_TEST_ROUNDS";
/// Set in the environment of the test program when the test of that name runs it again.
const ALONE: &str = "CORELANE_TEST_ALONE";
/// What the process may keep of workers that came and went, in bytes: less than one of them has.
const MEMORY_GROWTH_MAX: u64 = 512 << 10;

fn start(
    poll: &ControlPoll,
    seats: Vec<WorkerSeat>,
) -> (Pool, Vec<WorkerHandle>, Receiver<WorkerEvent>) {
    let options = ForwarderOptions {
        udp_gso: false,
        coalesce: CoalesceOptions { tcp: false, udp: false, checksum_offload: false },
        plaintext_max: 1408,
        copy_dscp: false,
        spin: crate::limits::SPIN_DEFAULT,
    };
    let placement = Placement::choose(&configured(Some(seats.len()), None, Switch::Auto));
    Pool::start(seats, &placement, options, &poll.waker()).unwrap()
}

#[test]
fn a_thread_that_hangs_is_left_behind() {
    let (release, hang) = crossbeam_channel::bounded::<()>(0);
    let threads = vec![thread::spawn(move || hang.recv().unwrap_or(())), thread::spawn(|| {})];
    let (tell, joined) = crossbeam_channel::bounded(1);
    let joining = thread::spawn(move || {
        Pool { threads }.join();
        tell.send(()).unwrap();
    });
    joined.recv_timeout(PATIENCE).expect("it must not be waited for");
    drop(release);
    joining.join().unwrap();
}

/// A closed waker leaves the worker's poll, and with it would go a wake-up the worker has not
/// taken yet.
#[test]
fn a_worker_stops_although_nobody_waits_for_it() {
    let workers = 8;
    let outcome = in_namespace(|| {
        let poll = ControlPoll::new().unwrap();
        let tun = TunDevice::open("stop%d", workers, TunOffloadWish::NONE).unwrap();
        let seats = tun.queues.into_iter().map(|tun| WorkerSeat { tun, sockets: Vec::new() });
        let (_pool, handles, events) = start(&poll, seats.collect());
        for handle in handles {
            handle.commands.send(WorkerCommand::Stop).unwrap();
            handle.waker.wake().unwrap();
        }
        (0..2 * workers).map(|_| events.recv_timeout(PATIENCE)).collect::<Vec<_>>()
    });
    let mut stopped = BTreeSet::new();
    for event in outcome {
        match event {
            Ok(WorkerEvent::Stopped { worker }) => assert!(stopped.insert(worker)),
            Ok(WorkerEvent::Closed { worker }) => assert!(stopped.contains(&worker)),
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(stopped.len(), workers);
}

fn configured(count: Option<usize>, cpus: Option<&[usize]>, pin: Switch) -> WorkersConfig {
    WorkersConfig { count, cpus: cpus.map(<[usize]>::to_vec), pin }
}

#[test]
fn workers_take_the_given_cpus_in_turn() {
    let placement = Placement::choose(&configured(Some(5), Some(&[4, 6]), Switch::Auto));
    assert_eq!(placement.cpus, [4, 6, 4, 6, 4].map(Some));
    let placement = Placement::choose(&configured(None, Some(&[4, 6]), Switch::On));
    assert_eq!(placement.cpus, [4, 6].map(Some));
}

#[test]
fn there_is_at_least_one_worker_and_at_most_as_many_as_lanes() {
    assert_eq!(Placement::among(&[], &configured(None, None, Switch::On)).cpus, [None]);
    let cpus: Vec<_> = (0..500).collect();
    let placement = Placement::among(&cpus, &configured(None, None, Switch::Auto));
    assert_eq!(placement.workers(), WORKERS_MAX);
}

#[test]
fn workers_are_pinned_if_told_so_or_where_there_are_cpus_enough() {
    let cpus: Vec<_> = (0..PIN_CPUS_MIN).collect();
    // (CPUs, switch, pinned)
    let table = [
        /* 1 */ (PIN_CPUS_MIN, Switch::Auto, true),
        /* 2 */ (PIN_CPUS_MIN - 1, Switch::Auto, false),
        /* 3 */ (1, Switch::On, true),
        /* 4 */ (PIN_CPUS_MIN, Switch::Off, false),
    ];
    for (number, (allowed, pin, pinned)) in (1..).zip(table) {
        let placement = Placement::among(&cpus[..allowed], &configured(None, None, pin));
        assert_eq!(placement.workers(), allowed, "row {number}");
        let is_right = |cpu: &Option<usize>| cpu.is_some() == pinned;
        assert!(placement.cpus.iter().all(is_right), "row {number}");
    }
}

/// What this process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
}

impl Holdings {
    fn now() -> Self {
        let count = |what| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        Self { descriptors: count("fd"), threads: count("task") }
    }
}

/// Starts workers with a device and a socket each, has every one of them receive something from
/// its socket, and stops them.
fn come_and_go() {
    let poll = ControlPoll::new().unwrap();
    let tun = TunDevice::open("come%d", 4, TunOffloadWish::ALL).unwrap();
    let options = UdpOptions { gro: true, ..UdpOptions::default() };
    let socket = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let seats: Vec<_> =
        tun.queues.into_iter().map(|tun| WorkerSeat { tun, sockets: vec![socket()] }).collect();
    let addresses: Vec<_> = seats.iter().map(|seat| seat.sockets[0].local_addr()).collect();
    let (pool, handles, events) = start(&poll, seats);
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for (address, handle) in addresses.iter().zip(&handles) {
        sender.send_to(&[0xff; 60_000], address).unwrap();
        let received = || (handle.counters.udp_receives.get() > 0).then_some(());
        wait_until(PATIENCE, "a worker to receive", received).unwrap();
    }
    for handle in &handles {
        handle.commands.send(WorkerCommand::Stop).unwrap();
        handle.waker.wake().unwrap();
    }
    let mut closed = 0;
    while closed < handles.len() {
        let event = events.recv_timeout(PATIENCE).unwrap();
        closed += usize::from(matches!(event, WorkerEvent::Closed { .. }));
    }
    let ended = || pool.threads.iter().all(JoinHandle::is_finished).then_some(());
    wait_until(PATIENCE, "the threads to end", ended).unwrap();
    pool.join();
}

/// Runs as a process of its own: other tests come and go beside this one.
#[test]
fn workers_that_come_and_go_leave_nothing_behind() {
    if std::env::var_os(ALONE).is_none() {
        let host = Host::create("pool").expect("this test makes network namespaces");
        let name = "daemon::pool::tests::workers_that_come_and_go_leave_nothing_behind";
        let mut command = host.command(std::env::current_exe().unwrap()).unwrap();
        let command = command.args(["--exact", name, "--test-threads=1"]).env(ALONE, "1");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text} {output:?}");
        return;
    }
    let rounds = std::env::var(ROUNDS_VARIABLE);
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let resident = || resident_bytes(std::process::id()).unwrap();
    // The first of them make what the process keeps for good.
    (0..3).for_each(|_| come_and_go());
    let (before, memory) = (Holdings::now(), resident());
    for round in 0..rounds {
        come_and_go();
        // A thread that was joined is in the kernel's list a moment longer.
        let restored = || (Holdings::now() == before).then_some(());
        wait_until(PATIENCE, "the process to hold what it held", restored).unwrap_or_else(
            |timeout| panic!("round {round}: {timeout}: {before:?}, {:?}", Holdings::now()),
        );
    }
    let grown = resident().saturating_sub(memory);
    assert!(grown < MEMORY_GROWTH_MAX, "{grown} bytes more after {rounds} rounds");
}
