//! Who this side is.

use super::keys::{PrivateKey, PublicKey};
use super::macs::MacKey;

/// This side's static key, with what is derived from it once.
#[derive(Debug)]
pub struct LocalIdentity {
    private: PrivateKey,
    public: PublicKey,
    mac_key: MacKey,
}

impl LocalIdentity {
    /// The identity of the owner of `private`.
    pub fn new(private: PrivateKey) -> Self {
        let public = private.public();
        Self { private, public, mac_key: MacKey::of_receiver(&public) }
    }

    /// The key that others know this side by.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// The key of `mac1` in messages to this side.
    pub(super) fn mac_key(&self) -> &MacKey {
        &self.mac_key
    }
}
