//! Super-packets cut and put together again, beside a copy of the same bytes; and the whole way of
//! a super-packet through a worker, beside the cipher alone.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::Arc;

use corelane::dataplane::ForwarderOptions;
use corelane::dataplane::messages::{Endpoint, SessionInstall, WorkerCommand};
use corelane::dataplane::offline::{OfflineWorker, Sent};
use corelane::limits::{
    DATA_HEADER_LEN, PACKET_LEN_MAX, REJECT_AFTER, RUN_PACKETS_MAX, TUN_MTU_DEFAULT,
    VIRTIO_HEADER_LEN,
};
use corelane::packet::virtio::{GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM};
use corelane::packet::{
    CoalesceOptions, Coalescer, Parsed, Split, Transport, VirtioHeader, checksum,
};
use corelane::routing::{PeerId, PrefixTable};
use corelane::session::keys::LaneSecret;
use corelane::session::lanes::{LanePlan, Role};
use corelane::sys::clock;
use corelane::telemetry::counters::SessionUsage;
use corelane::wire::{Features, SessionIndex};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// What the kernel hands over for 64 KiB of one flow.
struct SuperPacket {
    name: &'static str,
    vnet: VirtioHeader,
    packet: Vec<u8>,
}

impl SuperPacket {
    fn new(transport: Transport) -> Self {
        let (name, gso_type, header_len, segment_size) = match transport {
            Transport::Tcp => ("TCP", GSO_TCPV4, 20, TUN_MTU_DEFAULT - 40),
            Transport::Udp => ("UDP", GSO_UDP_L4, 8, 1300),
        };
        let segments = (PACKET_LEN_MAX - 40) / usize::from(segment_size);
        let payload_len = usize::from(segment_size) * segments;
        let total_len = 20 + header_len + payload_len;
        let mut packet = vec![0x5a; total_len];
        packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 0, 0, 0]);
        packet[9] = transport.protocol();
        packet[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
        packet[12..16].copy_from_slice(&CLIENT.octets());
        packet[16..20].copy_from_slice(&SERVER.octets());
        let sum = !checksum::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let upper_len = total_len - 20;
        match transport {
            Transport::Tcp => packet[20..40].copy_from_slice(&[
                0x30, 0x39, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0,
            ]),
            Transport::Udp => {
                packet[20..24].copy_from_slice(&[0x30, 0x39, 0x14, 0x51]);
                packet[24..26].copy_from_slice(&(upper_len as u16).to_be_bytes());
            }
        }
        let pseudo =
            checksum::pseudo_header(CLIENT.into(), SERVER.into(), transport.protocol(), upper_len);
        let field = 20 + transport.checksum_offset();
        packet[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        let vnet = VirtioHeader {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: 20 + header_len as u16,
            gso_size: segment_size,
            csum_start: 20,
            csum_offset: transport.checksum_offset() as u16,
        };
        Self { name, vnet, packet }
    }

    fn both() -> [Self; 2] {
        [Self::new(Transport::Tcp), Self::new(Transport::Udp)]
    }

    /// As it is read from TUN.
    fn frame(&self) -> Vec<u8> {
        let mut header = [0; VIRTIO_HEADER_LEN];
        self.vnet.emit(&mut header);
        [&header[..], &self.packet].concat()
    }

    /// The segments in an arena, each behind room for a header, and where they lie.
    fn segments(&self) -> (Vec<u8>, Vec<Range<usize>>) {
        let split = Split::new(&self.vnet, &self.packet, true).unwrap();
        let (mut arena, mut ranges) = (Vec::new(), Vec::new());
        for index in 0..split.segments() {
            let start = arena.len() + DATA_HEADER_LEN;
            let end = start + split.segment_len(index);
            arena.resize(end, 0);
            split.write_segment(index, &mut arena[start..]);
            ranges.push(start..end);
        }
        (arena, ranges)
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    split(criterion);
    coalesce(criterion);
    worker(criterion);
}

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    for whole in SuperPacket::both() {
        group.throughput(Throughput::Bytes(whole.packet.len() as u64));
        let mut arena = vec![0; 2 * PACKET_LEN_MAX];
        group.bench_function(BenchmarkId::new("segments", whole.name), |bencher| {
            bencher.iter(|| {
                let split = Split::new(&whole.vnet, &whole.packet, true).unwrap();
                let mut at = 0;
                for index in 0..split.segments() {
                    at += DATA_HEADER_LEN;
                    at += split.write_segment(index, &mut arena[at..]);
                }
                at
            });
        });
        group.bench_function(BenchmarkId::new("copy alone", whole.name), |bencher| {
            bencher.iter(|| arena[..whole.packet.len()].copy_from_slice(&whole.packet));
        });
    }
    group.finish();
}

fn coalesce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalesce");
    for whole in SuperPacket::both() {
        let (arena, ranges) = whole.segments();
        group.throughput(Throughput::Bytes(whole.packet.len() as u64));
        let mut coalescer = Coalescer::new(CoalesceOptions::ALL, RUN_PACKETS_MAX);
        group.bench_function(BenchmarkId::new("segments", whole.name), |bencher| {
            let join = |arena: &mut Vec<u8>| {
                let mut runs = 0;
                for range in &ranges {
                    let parsed = Parsed::parse_plaintext(&arena[range.clone()]).unwrap();
                    coalescer.push(arena, range.clone(), &parsed, |_, _| runs += 1).unwrap();
                }
                coalescer.flush(arena, |_, _| runs += 1);
                assert_eq!(runs, 1);
            };
            bencher.iter_batched_ref(|| arena.clone(), join, BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// A worker of one side with a session to the other.
fn side(role: Role) -> OfflineWorker {
    let options = ForwarderOptions {
        udp_gso: true,
        coalesce: CoalesceOptions::ALL,
        plaintext_max: usize::from(TUN_MTU_DEFAULT),
        copy_dscp: false,
        spin: corelane::limits::SPIN_DEFAULT,
    };
    let mut worker = OfflineWorker::new(0, options).unwrap();
    let [up, down] = [[1; 32], [2; 32]].map(|secret| Arc::new(LaneSecret::new(secret)));
    let (send_secret, receive_secret, owned) = match role {
        Role::Client => (up, down, SERVER),
        Role::Server => (down, up, CLIENT),
    };
    let remote = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 20443).into();
    worker.command(WorkerCommand::InstallSession(Box::new(SessionInstall {
        peer: PeerId(1),
        local: SessionIndex(1),
        remote: SessionIndex(1),
        plan: LanePlan::new(role, 1, 1, 0).unwrap(),
        send_secret,
        receive_secret,
        expires: clock::now() + REJECT_AFTER,
        features: Features::CHECKSUM_OFFLOAD,
        endpoint: Some(Endpoint { remote, local: None, listener: 0 }),
        usage: Arc::new(SessionUsage::new(1)),
        policy: None,
    })));
    let prefixes = PrefixTable::from_entries([(IpAddr::V4(owned).into(), PeerId(1))]);
    worker.command(WorkerCommand::SetPrefixes(Arc::new(prefixes)));
    worker
}

fn worker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("worker");
    for whole in SuperPacket::both() {
        let (mut client, mut server) = (side(Role::Client), side(Role::Server));
        let frame = whole.frame();
        group.throughput(Throughput::Bytes(whole.packet.len() as u64));
        group.bench_function(BenchmarkId::new("to wire", whole.name), |bencher| {
            let seal = |frame: &mut Vec<u8>| client.encapsulate(frame);
            bencher.iter_batched_ref(|| frame.clone(), seal, BatchSize::LargeInput);
        });
        let mut sealed = || {
            client.encapsulate(&mut frame.clone());
            std::mem::take(client.sent())
        };
        let now = clock::now();
        group.bench_function(BenchmarkId::new("from wire", whole.name), |bencher| {
            let open = |Sent { messages, arena }: &mut Sent| {
                server.decapsulate(now, messages, arena);
                while server.take_event().is_some() {}
            };
            bencher.iter_batched_ref(&mut sealed, open, BatchSize::LargeInput);
        });
        assert!(server.tun_writes() > 0 && server.counters().reordered.get() == 0);
    }
    group.finish();
}
