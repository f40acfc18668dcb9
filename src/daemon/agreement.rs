//! What a client and its server have agreed on, by the configuration or by a lease.

use std::time::Duration;

use ipnet::IpNet;

use crate::config::secrets::load_preshared_key;
use crate::config::{KnownServer, UpConfig};
use crate::control::engine::ClientOptions;
use crate::daemon::DaemonError;
use crate::handshake::keys::PresharedKey;
use crate::host::resolver::DnsRequest;

/// What a tunnel is to be like.
#[derive(Clone, Debug)]
pub(super) struct Agreement {
    /// The client's own inner addresses, with the prefix length of their network.
    pub(super) addresses: Vec<IpNet>,
    /// Destinations to send through the tunnel.
    pub(super) routes: Vec<IpNet>,
    /// Name servers that the client's host asks.
    pub(super) dns: DnsRequest,
    /// MTU of the TUN device, in bytes.
    pub(super) mtu: u16,
    /// Mixed into the handshake.
    pub(super) preshared_key: PresharedKey,
    /// Idle time after which an empty packet is sent.
    pub(super) keepalive: Option<Duration>,
    /// The age at which sessions are replaced.
    pub(super) rekey_after: Duration,
}

impl Agreement {
    /// With a server whose key is known, as the configuration says.
    pub(super) fn configured(config: &UpConfig, far: &KnownServer) -> Result<Self, DaemonError> {
        let preshared_key = match &far.preshared_key_file {
            Some(path) => load_preshared_key(path)?,
            None => PresharedKey::default(),
        };
        Ok(Self {
            addresses: config.addresses.clone(),
            routes: config.routes.clone(),
            dns: config.dns.clone(),
            mtu: config.tun.mtu,
            preshared_key,
            keepalive: config.keepalive_s.map(|seconds| Duration::from_secs(seconds.into())),
            rekey_after: Duration::from_secs(config.rekey_after_s.into()),
        })
    }

    /// What the engine is told, which alone has the pre-shared key from then on: one that is
    /// replaced is to be nowhere. Through the server are reached the routes, and the network of the
    /// client's own addresses.
    pub(super) fn take_options(&mut self) -> ClientOptions {
        let networks = self.addresses.iter().map(IpNet::trunc);
        ClientOptions {
            preshared_key: std::mem::take(&mut self.preshared_key),
            allowed: networks.chain(self.routes.iter().copied()).collect(),
            keepalive: self.keepalive,
            rekey_after: self.rekey_after,
        }
    }
}
