//! The secret of one direction of a session, and the lane keys derived from it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};
use zeroize::{Zeroize, Zeroizing};

use crate::limits::{KEY_LEN, WORKERS_MAX};

/// Begins the HKDF-Expand info of a lane key; the lane number follows as one byte.
const LANE_KEY_LABEL: &[u8] = b"lane";

/// The secret from which every lane key of one direction of a session is derived.
///
/// It cannot be copied, so that a lane that was claimed for sending stays claimed. It is wiped when
/// dropped, and does not move meanwhile: a move would leave it behind on the stack.
pub struct LaneSecret {
    secret: Box<Zeroizing<[u8; KEY_LEN]>>,
    /// One bit per lane that has been given to a sender.
    senders: [AtomicU64; LANE_WORDS],
}

/// Words of a bit set of lanes.
const LANE_WORDS: usize = WORKERS_MAX.div_ceil(u64::BITS as usize);

impl LaneSecret {
    /// Takes over a secret that a handshake has made.
    pub fn new(mut secret: [u8; KEY_LEN]) -> Self {
        Self::take(&mut secret)
    }

    /// The same, and wipes the secret where it was.
    pub fn take(secret: &mut [u8; KEY_LEN]) -> Self {
        let mut taken = Self { secret: Box::default(), senders: Default::default() };
        taken.secret.copy_from_slice(&*secret);
        secret.zeroize();
        taken
    }

    /// Claims `lane` for sending. `false` if it has been claimed before, or is no lane: a second
    /// sender would begin to count at 0 again and repeat nonces.
    #[must_use]
    pub fn claim(&self, lane: u8) -> bool {
        let bit = 1 << (u32::from(lane) % u64::BITS);
        // Nothing else is ordered by the claim.
        self.senders
            .get(usize::from(lane) / u64::BITS as usize)
            .is_some_and(|word| word.fetch_or(bit, Relaxed) & bit == 0)
    }

    /// The AES-256-GCM key of `lane`: HKDF-Expand with SHA-256 (RFC 5869 section 2.3).
    pub fn derive(&self, lane: u8) -> LessSafeKey {
        let secret = Prk::new_less_safe(HKDF_SHA256, &**self.secret);
        let info = [LANE_KEY_LABEL, &[lane]];
        #[expect(clippy::expect_used, reason = "HKDF-SHA256 yields up to 8160 bytes")]
        let key = secret.expand(&info, &AES_256_GCM).expect("one key of 32 bytes");
        LessSafeKey::new(UnboundKey::from(key))
    }

    /// The secret itself, for tests that compare both ends.
    #[cfg(test)]
    pub(crate) fn expose(&self) -> &[u8; KEY_LEN] {
        &self.secret
    }
}

impl fmt::Debug for LaneSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use ring::hkdf::{HKDF_SHA256, Prk};
    use serde_json::{Value, json};

    use super::LaneSecret;
    use crate::limits::{DATA_HEADER_LEN, DATA_OVERHEAD_LEN};
    use crate::session::lane::SendLane;
    use crate::wire::vectors::{check, counting, hex};
    use crate::wire::{PATH_MESSAGE_LEN, PathMessage, SessionIndex};

    /// The bytes of a lane key, computed apart from `derive`.
    fn key_bytes(secret: &[u8; 32], lane: u8) -> [u8; 32] {
        let mut key = [0; 32];
        let secret = Prk::new_less_safe(HKDF_SHA256, secret);
        let info = [b'l', b'a', b'n', b'e', lane];
        secret.expand(&[&info], HKDF_SHA256).unwrap().fill(&mut key).unwrap();
        key
    }

    fn sealed(secret: &[u8; 32], lane: u8, counter: u64, plaintext: &[u8]) -> Value {
        let remote = SessionIndex(0x0102_0304);
        let mut sender = SendLane::at_counter(&LaneSecret::new(*secret), lane, remote, counter);
        let mut datagram = vec![0; DATA_OVERHEAD_LEN + plaintext.len()];
        datagram[DATA_HEADER_LEN..][..plaintext.len()].copy_from_slice(plaintext);
        sender.seal(&mut datagram).unwrap();
        json!({
            "secret": hex(secret),
            "lane": lane,
            "lane_key": hex(&key_bytes(secret, lane)),
            "receiver_index": hex(&remote.0.to_be_bytes()),
            "counter": counter,
            "plaintext": hex(plaintext),
            "datagram": hex(&datagram),
        })
    }

    fn path_message(message: PathMessage, meaning: &str) -> (Value, [u8; PATH_MESSAGE_LEN]) {
        let mut bytes = [0; PATH_MESSAGE_LEN];
        message.emit(&mut bytes);
        (json!({ "meaning": meaning, "bytes": hex(&bytes) }), bytes)
    }

    #[test]
    fn a_lane_is_claimed_once() {
        let secret = LaneSecret::new([7; 32]);
        for lane in 0..=127 {
            assert!(secret.claim(lane));
        }
        assert!((0..=255).all(|lane| !secret.claim(lane)));
    }

    #[test]
    fn data_and_path_messages_are_those_of_the_vectors() {
        let token = 0x0102_0304_0506_0708;
        let (probe, probe_bytes) =
            path_message(PathMessage::Probe { path: 3, token }, "probe, path 3");
        let ack = PathMessage::ProbeAck { path: 3, token, plaintext_len: 1408 };
        let (ack, _) = path_message(ack, "answer to a probe of 1408 bytes, path 3");
        let (close, _) = path_message(PathMessage::Close { reason: 0 }, "close, ordinary end");
        let secret = counting(0xa0);
        // The first 16 bytes of an IPv4 header whose packet carries both flags.
        let flagged: [u8; 16] = [0xd5, 0, 0, 16, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1];
        check(
            "data.json",
            &json!({
                "description": "lane keys, data messages and path messages, hexadecimal",
                "data_messages": [
                    sealed(&secret, 0, 0, &[]),
                    sealed(&secret, 1, 0, &[]),
                    sealed(&secret, 127, 0x0123_4567, &flagged),
                    sealed(&secret, 2, 5, &probe_bytes),
                ],
                "path_messages": [probe, ack, close],
            }),
        );
    }
}
