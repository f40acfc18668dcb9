//! The handshake, both halves, and what a flood of initiations costs before it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane::handshake::keys::{PresharedKey, PrivateKey};
use corelane::handshake::{
    AcceptedInitiation, Cookie, HandshakeError, InitiationOutcome, InitiatorParams, LocalIdentity,
    PendingInitiation, Responder, ResponderParams, Timestamp,
};
use corelane::limits::HANDSHAKES_UNPROVED_PPS;
use corelane::sys::clock;
use corelane::wire::{Features, SessionIndex};
use criterion::{BatchSize, Criterion};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A client and a server that know each other's keys.
struct Pair {
    rng: StdRng,
    client: LocalIdentity,
    server: Arc<LocalIdentity>,
    responder: Responder,
    now: Instant,
    /// Initiations judged so far; each has a source of its own.
    sources: u32,
}

impl Pair {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let client = LocalIdentity::new(PrivateKey::generate(&mut rng));
        let server = Arc::new(LocalIdentity::new(PrivateKey::generate(&mut rng)));
        let now = clock::now();
        let responder = Responder::new(Arc::clone(&server), now, &mut rng);
        Self { rng, client, server, responder, now, sources: 0 }
    }

    fn initiate(&mut self, cookie: Option<&Cookie>) -> (PendingInitiation, Vec<u8>) {
        let params = InitiatorParams { workers: 2, features: Features::empty() };
        let (local, timestamp) = (SessionIndex(1), Timestamp::from_unix(Duration::ZERO));
        let (client, server) = (&self.client, self.server.public());
        let rng = &mut self.rng;
        PendingInitiation::start(client, server, params, local, timestamp, cookie, rng).unwrap()
    }

    fn judge(&mut self, from: SocketAddr, datagram: &[u8]) -> InitiationOutcome {
        self.responder.consume_initiation(self.now, from, datagram, &mut self.rng)
    }

    /// Judges an initiation from a source that sends its first, no faster than all of them may.
    fn accept(&mut self, datagram: &[u8]) -> Box<AcceptedInitiation> {
        self.now += Duration::from_secs(1) / HANDSHAKES_UNPROVED_PPS;
        self.sources += 1;
        let [a, b, c, _] = (self.sources << 8).to_be_bytes();
        match self.judge(([10, a, b, c], 1000).into(), datagram) {
            InitiationOutcome::Accepted(accepted) => accepted,
            refused => panic!("{refused:?}"),
        }
    }

    fn respond(&mut self, datagram: &[u8]) -> Vec<u8> {
        let params = ResponderParams { workers: 2, base: 0, features: Features::empty() };
        let accepted = self.accept(datagram);
        let preshared = PresharedKey::default();
        accepted.respond(SessionIndex(2), &preshared, params, &mut self.rng).unwrap().0
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    halves(criterion);
    flood(criterion);
}

fn halves(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    let mut pair = Pair::new();
    group.bench_function("initiator, initiation", |bencher| bencher.iter(|| pair.initiate(None)));
    let (_, datagram) = pair.initiate(None);
    group.bench_function("responder", |bencher| bencher.iter(|| pair.respond(&datagram)));
    group.bench_function("initiator, response", |bencher| {
        let answered = || {
            let (pending, datagram) = pair.initiate(None);
            (pending, pair.respond(&datagram))
        };
        let finish = |(mut pending, response): (PendingInitiation, Vec<u8>)| {
            pending.consume_response(&response, &PresharedKey::default()).unwrap()
        };
        bencher.iter_batched(answered, finish, BatchSize::SmallInput);
    });
    group.finish();
}

/// What is done with initiations that get no answer of weight: time stands still, so the source
/// has long outrun its rate.
fn flood(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("refuse");
    let mut pair = Pair::new();
    let from: SocketAddr = ([192, 0, 2, 1], 1000).into();
    let (pending, mut datagram) = pair.initiate(None);
    let reply = loop {
        if let InitiationOutcome::Reply(reply) = pair.judge(from, &datagram) {
            break reply;
        }
    };
    group.bench_function("without a cookie: mac1, mac2, cookie reply", |bencher| {
        bencher.iter(|| {
            assert!(matches!(pair.judge(from, &datagram), InitiationOutcome::Reply(_)));
        });
    });
    let cookie = pending.consume_cookie_reply(&reply).unwrap();
    let (_, proved) = pair.initiate(Some(&cookie));
    let over_rate =
        |outcome| matches!(outcome, InitiationOutcome::Drop(HandshakeError::RateLimited));
    while !over_rate(pair.judge(from, &proved)) {}
    group.bench_function("with a cookie, over its rate: mac1, mac2", |bencher| {
        bencher.iter(|| assert!(over_rate(pair.judge(from, &proved))));
    });
    datagram[20] ^= 1;
    group.bench_function("junk: mac1", |bencher| {
        bencher.iter(|| {
            let outcome = pair.judge(from, &datagram);
            assert!(matches!(outcome, InitiationOutcome::Drop(HandshakeError::MacInvalid)));
        });
    });
    group.finish();
}
