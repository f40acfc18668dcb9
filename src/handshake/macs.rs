//! `mac1` and `mac2`: HMAC-SHA256, cut to 16 bytes, over everything that stands before them.

use ring::digest::{self, SHA256};
use ring::hmac::{self, HMAC_SHA256};
use subtle::ConstantTimeEq;

use crate::limits::MAC_LEN;

use super::cookie::Cookie;
use super::keys::PublicKey;

const MAC1_LABEL: &[u8] = b"corelane v1 mac1";

/// A key of HMAC-SHA256-128.
#[derive(Clone, Debug)]
pub(super) struct MacKey(hmac::Key);

impl MacKey {
    /// Takes `key` as it is.
    pub(super) fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, key))
    }

    /// The key of `mac1` in messages to the owner of `receiver`.
    pub(super) fn of_receiver(receiver: &PublicKey) -> Self {
        let mut hash = digest::Context::new(&SHA256);
        hash.update(MAC1_LABEL);
        hash.update(&receiver.0);
        Self::new(hash.finish().as_ref())
    }

    /// The first 16 bytes of the HMAC of `covered`.
    pub(super) fn mac(&self, covered: &[u8]) -> [u8; MAC_LEN] {
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&hmac::sign(&self.0, covered).as_ref()[..MAC_LEN]);
        mac
    }

    /// Whether `mac` is that of `covered`, in constant time.
    pub(super) fn verify(&self, covered: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        self.mac(covered).ct_eq(mac).into()
    }
}

/// Completes a message with both macs: `mac2` is zeros without a cookie. Returns `mac1`.
pub(super) fn append(
    message: &mut Vec<u8>,
    receiver: &MacKey,
    cookie: Option<&Cookie>,
) -> [u8; MAC_LEN] {
    let mac1 = receiver.mac(message);
    message.extend(mac1);
    let mac2 = cookie.map_or([0; MAC_LEN], |cookie| cookie.mac_key().mac(message));
    message.extend(mac2);
    mac1
}
