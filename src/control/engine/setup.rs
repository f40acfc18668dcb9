//! What an engine is told when it starts, and when its configuration is read again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::handshake::LocalIdentity;
use crate::handshake::keys::{PresharedKey, PublicKey};
use crate::policy::PeerPolicy;
use crate::wire::Features;

/// A peer of a server.
#[derive(Clone, Debug)]
pub struct PeerSetup {
    /// Who may connect.
    pub public_key: PublicKey,
    /// Mixed into the handshake; all zeros if none is configured.
    pub preshared_key: PresharedKey,
    /// Inner prefixes that belong to the peer.
    pub allowed: Vec<IpNet>,
    /// What the peer may reach, and how fast; everything if there is none. What it has used is
    /// counted ([`Engine::take_usage`](super::Engine::take_usage)) if there is one.
    pub policy: Option<Arc<PeerPolicy>>,
}

/// A server as it starts.
#[derive(Debug)]
pub struct ServerSetup {
    /// This side's static key.
    pub identity: Arc<LocalIdentity>,
    /// Workers, 1 to [`WORKERS_MAX`](crate::limits::WORKERS_MAX).
    pub workers: u8,
    /// What this side takes.
    pub features: Features,
    /// MTU of the TUN device, in bytes.
    pub tun_mtu: u16,
    /// Who may connect. A prefix named twice belongs to the peer named last.
    pub peers: Vec<PeerSetup>,
}

/// A client as it starts.
#[derive(Debug)]
pub struct ClientSetup {
    /// This side's static key.
    pub identity: Arc<LocalIdentity>,
    /// Workers, and so paths, 1 to [`WORKERS_MAX`](crate::limits::WORKERS_MAX).
    pub workers: u8,
    /// What this side takes.
    pub features: Features,
    /// MTU of the TUN device, in bytes.
    pub tun_mtu: u16,
    /// The server's static key.
    pub server_key: PublicKey,
    /// Where the server listens.
    pub server: SocketAddr,
    /// What may change while the client runs.
    pub options: ClientOptions,
}

/// The part of a client's set-up that may change while it runs.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Mixed into the handshake; all zeros if none is configured.
    pub preshared_key: PresharedKey,
    /// Inner prefixes that are reached through the server.
    pub allowed: Vec<IpNet>,
    /// A path that was idle for this long sends an empty packet, which keeps address translators
    /// and firewalls on the way open. `None` leaves idle paths silent.
    pub keepalive: Option<Duration>,
    /// The age at which a session is replaced, or a little sooner: from
    /// [`REKEY_AFTER_MIN`](crate::limits::REKEY_AFTER_MIN) to
    /// [`REKEY_AFTER`](crate::limits::REKEY_AFTER).
    pub rekey_after: Duration,
}

/// What a client is to go on with: the server of its configuration, or of the lease it has now.
#[derive(Clone, Debug)]
pub struct ServerChoice {
    /// The server's static key.
    pub key: PublicKey,
    /// Where the server listens.
    pub address: SocketAddr,
    /// MTU of the TUN device, in bytes.
    pub tun_mtu: u16,
    /// What is agreed with that server.
    pub options: ClientOptions,
}

/// A configuration that was read again.
#[derive(Clone, Debug)]
pub enum Reload {
    /// A server's peers. Sessions of peers that stay are not disturbed.
    Server {
        /// All peers, in order.
        peers: Vec<PeerSetup>,
    },
    /// A client's options. The session is not disturbed; a new pre-shared key is used from the
    /// next handshake on.
    Client(ClientOptions),
}
