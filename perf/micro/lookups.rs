//! What is looked up for every datagram: the lane, the replay window, the owner of an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use corelane::dataplane::ForwarderOptions;
use corelane::dataplane::messages::{SessionInstall, WorkerCommand};
use corelane::dataplane::offline::OfflineWorker;
use corelane::limits::{REJECT_AFTER, TUN_MTU_DEFAULT};
use corelane::packet::CoalesceOptions;
use corelane::routing::{PeerId, PrefixTable};
use corelane::session::keys::LaneSecret;
use corelane::session::lanes::{LanePlan, Role};
use corelane::session::replay::ReplayWindow;
use corelane::sys::clock;
use corelane::telemetry::counters::SessionUsage;
use corelane::wire::{Features, SessionIndex};
use criterion::{BenchmarkId, Criterion};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Addresses that are looked up in turn: more than a branch predictor learns by heart.
const ADDRESSES: usize = 4096;

pub(crate) fn bench(criterion: &mut Criterion) {
    replay(criterion);
    prefixes(criterion);
    lanes(criterion);
}

fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay window");
    let accept = |window: &mut ReplayWindow, counter| {
        let is_fresh = window.check(counter);
        if is_fresh {
            window.commit(counter);
        }
        is_fresh
    };
    let (mut window, mut counter) = (ReplayWindow::new(), 0);
    group.bench_function("in order", |bencher| {
        bencher.iter(|| {
            counter += 1;
            accept(&mut window, counter)
        });
    });
    let (mut window, mut counter) = (ReplayWindow::new(), 0_u64);
    group.bench_function("swapped in pairs", |bencher| {
        bencher.iter(|| {
            counter += 1;
            accept(&mut window, counter ^ 1)
        });
    });
    let mut window = ReplayWindow::new();
    (0..10_000).for_each(|counter| window.commit(counter));
    let mut counter = 0;
    group.bench_function("replayed", |bencher| {
        bencher.iter(|| {
            counter = (counter + 1) % 10_000;
            accept(&mut window, counter)
        });
    });
    group.finish();
}

fn prefixes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefix match");
    let mut rng = SmallRng::seed_from_u64(1);
    for count in [1, 1_000, 100_000_u32] {
        let v4: Vec<_> = (0..count)
            .map(|_| Ipv4Addr::from_bits(0x0a00_0000 | rng.random::<u32>() >> 8))
            .collect();
        let v6: Vec<_> = (0..count)
            .map(|_| Ipv6Addr::from_bits(0xfd_u128 << 120 | rng.random::<u128>() >> 8))
            .collect();
        let entries_v4 = (0..).zip(&v4).map(|(peer, address)| {
            (IpNet::V4(Ipv4Net::new_assert(*address, 32 - (peer % 4) as u8)), PeerId(peer))
        });
        let entries_v6 = (0..).zip(&v6).map(|(peer, address)| {
            (IpNet::V6(Ipv6Net::new_assert(*address, 64 + (peer % 4) as u8)), PeerId(peer))
        });
        let table = PrefixTable::from_entries(entries_v4.chain(entries_v6));
        let mut pick = |addresses: Vec<IpAddr>| -> Vec<IpAddr> {
            (0..ADDRESSES).map(|_| addresses[rng.random_range(0..addresses.len())]).collect()
        };
        let addresses = [
            ("IPv4", pick(v4.into_iter().map(IpAddr::V4).collect())),
            ("IPv6", pick(v6.into_iter().map(IpAddr::V6).collect())),
        ];
        for (family, addresses) in addresses {
            let mut next = addresses.iter().cycle();
            group.bench_function(BenchmarkId::new(family, count), |bencher| {
                bencher.iter(|| table.lookup(*next.next().unwrap()).unwrap());
            });
        }
    }
    group.finish();
}

fn lanes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session and lane");
    let options = ForwarderOptions {
        udp_gso: true,
        coalesce: CoalesceOptions::ALL,
        plaintext_max: usize::from(TUN_MTU_DEFAULT),
        copy_dscp: false,
        spin: corelane::limits::SPIN_DEFAULT,
    };
    for count in [1, 10_000_u32] {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut worker = OfflineWorker::new(0, options).unwrap();
        let indices: Vec<_> = (0..count).map(|_| SessionIndex(rng.random())).collect();
        for (peer, local) in (0..).zip(&indices) {
            let secret = |byte| Arc::new(LaneSecret::new([byte; 32]));
            worker.command(WorkerCommand::InstallSession(Box::new(SessionInstall {
                peer: PeerId(peer),
                local: *local,
                remote: *local,
                plan: LanePlan::new(Role::Server, 2, 2, 0).unwrap(),
                send_secret: secret(1),
                receive_secret: secret(2),
                expires: clock::now() + REJECT_AFTER,
                features: Features::empty(),
                endpoint: None,
                usage: Arc::new(SessionUsage::new(2)),
                policy: None,
            })));
        }
        let mut next = indices.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| assert!(worker.receives(*next.next().unwrap(), 0)));
        });
    }
    group.finish();
}
