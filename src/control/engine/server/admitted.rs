//! Peers that are admitted beside the configured ones, for as long as a lease lasts.

use ipnet::IpNet;
use thiserror::Error;

use super::super::core::Core;
use super::super::{DisconnectReason, PeerSetup};
use super::{PublicKey, Server};

/// Why a peer is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AdmitError {
    /// The configuration has the key.
    #[error(
        "the key is that of a configured peer: take it out of the `[[peer]]` tables of the \
         configuration, or give the device another key"
    )]
    KeyConfigured,
    /// A prefix belongs to another peer.
    #[error(
        "{0} belongs to another peer: take it out of that peer's `allowed_ips` in the \
         configuration, or out of the pools"
    )]
    PrefixTaken(IpNet),
    /// Only a server admits peers.
    #[error("a client admits no peers")]
    NoServer,
}

impl Server {
    /// Admits a peer, or tells what is new about one that was. What it has of sessions goes on; a
    /// new pre-shared key counts from its next handshake on.
    pub(in super::super) fn admit(
        &mut self,
        core: &mut Core,
        setup: PeerSetup,
    ) -> Result<(), AdmitError> {
        let known = self.by_key.get(&setup.public_key).copied();
        if known.and_then(|id| self.peers.get(&id)).is_some_and(|peer| !peer.is_admitted) {
            return Err(AdmitError::KeyConfigured);
        }
        let owner = |prefix: &IpNet| self.prefixes.owner(*prefix);
        let taken = setup.allowed.iter().find(|it| owner(it).is_some_and(|it| Some(it) != known));
        if let Some(taken) = taken {
            return Err(AdmitError::PrefixTaken(*taken));
        }
        let allowed = setup.allowed.clone();
        let (id, before) = match known.and_then(|id| Some((id, self.peers.get_mut(&id)?))) {
            Some((id, peer)) => (id, peer.replace_setup(core, setup).allowed),
            None => (self.add_peer(setup, true), Vec::new()),
        };
        if allowed != before {
            for prefix in before {
                self.prefixes.remove(prefix, id);
            }
            for prefix in allowed {
                self.prefixes.insert(prefix, id);
            }
            self.announce_prefixes(core);
        }
        Ok(())
    }

    /// Lets go of a peer that was admitted, its sessions first. Returns whether there was one.
    pub(in super::super) fn dismiss(&mut self, core: &mut Core, key: &PublicKey) -> bool {
        let Some(id) = self.by_key.get(key).copied() else { return false };
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.is_admitted) else { return false };
        for prefix in &peer.setup.allowed {
            self.prefixes.remove(*prefix, id);
        }
        self.remove_peer(core, id, DisconnectReason::Dismissed);
        self.announce_prefixes(core);
        true
    }
}
