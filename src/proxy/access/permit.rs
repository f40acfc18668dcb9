//! What somebody may do who has shown who it is.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ipnet::IpNet;

use crate::accounts::model::{Id, SessionEnd};
use crate::accounts::service::{Pass, PassTerms};
use crate::packet::Upper;
use crate::policy::judge::FarEnd;
use crate::policy::{PeerPolicy, Verdict};

use super::{Member, lock};

/// A pass, and what follows from it here. Shared by all connections that rest on it.
#[derive(Debug)]
pub struct Permit {
    pass: Arc<Pass>,
    member: Arc<Member>,
    policy: Mutex<Arc<PeerPolicy>>,
    pools: Arc<[IpNet]>,
}

impl Permit {
    pub(super) fn new(
        pass: Arc<Pass>,
        member: Arc<Member>,
        policy: Arc<PeerPolicy>,
        pools: Arc<[IpNet]>,
    ) -> Self {
        Self { pass, member, policy: Mutex::new(policy), pools }
    }

    /// Which pass it is.
    pub fn id(&self) -> Id {
        self.pass.id
    }

    /// Whose it is.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Whether it is no longer good.
    pub fn has_ended(&self) -> bool {
        self.pass.has_ended()
    }

    /// Why it is no longer good, if it is not.
    pub fn end(&self) -> Option<SessionEnd> {
        self.pass.end()
    }

    /// The bounds and the groups of the user, as they are now.
    pub fn terms(&self) -> Arc<PassTerms> {
        self.pass.terms()
    }

    /// When it ends by itself.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.pass.expires
    }

    /// What holds now. It may be asked for at any time, and costs little.
    pub fn policy(&self) -> Arc<PeerPolicy> {
        Arc::clone(&lock(&self.policy))
    }

    pub(super) fn set_policy(&self, policy: Arc<PeerPolicy>) {
        *lock(&self.policy) = policy;
    }

    /// Whether an address may be dialled at that port, over TCP or UDP. A client of the tunnel is
    /// reached only where a rule names its address.
    pub fn may_reach(&self, address: SocketAddr, upper: Upper) -> bool {
        let (ip, port) = (address.ip().to_canonical(), Some(address.port()));
        let far_end = FarEnd { address: ip, upper, port };
        let is_a_clients = || self.pools.iter().any(|pool| pool.contains(&ip));
        !self.has_ended() && self.policy().judge.decide(&far_end, is_a_clients).0 == Verdict::Pass
    }
}
