mod responder;
mod secrets;
mod session;
mod vectors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::keys::{PresharedKey, PrivateKey};
use super::macs::{self, MacKey};
use super::*;
use crate::limits::MAC_LEN;

const CLIENT_PARAMS: InitiatorParams =
    InitiatorParams { workers: 2, features: Features::CHECKSUM_OFFLOAD };
const SERVER_PARAMS: ResponderParams =
    ResponderParams { workers: 4, base: 2, features: Features::empty() };
const CLIENT_INDEX: SessionIndex = SessionIndex(0xc11e_0001);
const SERVER_INDEX: SessionIndex = SessionIndex(0x5e4e_0002);

/// A client and a server that know each other's keys, with seeded randomness and virtual time.
struct Pair {
    rng: ChaCha20Rng,
    now: Instant,
    client: LocalIdentity,
    server: Arc<LocalIdentity>,
    responder: Responder,
    clock: TimestampClock,
}

impl Pair {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        #[expect(clippy::disallowed_methods, reason = "the one origin of the virtual time")]
        let now = Instant::now();
        let client = LocalIdentity::new(PrivateKey::generate(&mut rng));
        let server = Arc::new(LocalIdentity::new(PrivateKey::generate(&mut rng)));
        let responder = Responder::new(Arc::clone(&server), now, &mut rng);
        Self { rng, now, client, server, responder, clock: TimestampClock::default() }
    }

    fn initiate(&mut self, cookie: Option<&Cookie>) -> (PendingInitiation, Vec<u8>) {
        self.initiate_with(CLIENT_PARAMS, cookie)
    }

    fn initiate_with(
        &mut self,
        params: InitiatorParams,
        cookie: Option<&Cookie>,
    ) -> (PendingInitiation, Vec<u8>) {
        let timestamp = self.clock.next(Duration::from_secs(1_700_000_000));
        PendingInitiation::start(
            &self.client,
            self.server.public(),
            params,
            CLIENT_INDEX,
            timestamp,
            cookie,
            &mut self.rng,
        )
        .unwrap()
    }

    fn deliver(&mut self, from: SocketAddr, datagram: &[u8]) -> InitiationOutcome {
        self.responder.consume_initiation(self.now, from, datagram, &mut self.rng)
    }

    fn accept(&mut self, datagram: &[u8]) -> Box<AcceptedInitiation> {
        // Each from an address of its own, so that no rate is ever outrun.
        let port = self.rng.get_word_pos() as u16;
        let from = SocketAddr::from(([10, 1, (port >> 8) as u8, port as u8], 1000));
        match self.deliver(from, datagram) {
            InitiationOutcome::Accepted(accepted) => accepted,
            other => panic!("initiation was not accepted: {other:?}"),
        }
    }

    fn refuse(&mut self, from: SocketAddr, datagram: &[u8]) -> HandshakeError {
        match self.deliver(from, datagram) {
            InitiationOutcome::Drop(error) => error,
            other => panic!("initiation was not dropped: {other:?}"),
        }
    }

    fn respond(&mut self, initiation: &[u8], psk: &PresharedKey) -> (Vec<u8>, Established) {
        let accepted = self.accept(initiation);
        accepted.respond(SERVER_INDEX, psk, SERVER_PARAMS, &mut self.rng).unwrap()
    }
}

/// Makes both macs right again after a message was changed, as anyone who knows the receiver's
/// public key can.
fn stamp(datagram: &mut Vec<u8>, receiver: &PublicKey) {
    datagram.truncate(datagram.len() - 2 * MAC_LEN);
    macs::append(datagram, &MacKey::of_receiver(receiver), None);
}

fn source(last_byte: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last_byte], 51820))
}
