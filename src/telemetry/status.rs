//! The report behind `corelane status --json`: a stable, versioned schema.
//!
//! Keys are added, never renamed or removed, within one schema number. Times are seconds, sizes
//! bytes, rates derived by the reader.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The schema number of [`StatusReport`].
pub const STATUS_SCHEMA: u32 = 1;

/// Everything a running daemon says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// Schema number, [`STATUS_SCHEMA`].
    pub schema: u32,
    /// `"server"` or `"client"`.
    pub role: String,
    /// Program version.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon was ready.
    pub uptime_s: f64,
    /// `"starting"`, `"connecting"`, `"up"` or `"stopping"`. A server is `"up"` once it listens.
    pub state: String,
    /// Name of the TUN device.
    pub tun: String,
    /// MTU of the TUN device.
    pub mtu: u32,
    /// Public key of this side, base64.
    pub public_key: String,
    /// Addresses the server listens on, or the client's server.
    pub endpoints: Vec<String>,
    /// Offloads in force.
    pub offloads: OffloadStatus,
    /// One entry per worker.
    pub workers: Vec<WorkerStatus>,
    /// One entry per peer.
    pub peers: Vec<PeerStatus>,
    /// Packets dropped by reason, over all threads. Every reason is present.
    pub drops: BTreeMap<String, u64>,
    /// The accounts of a server where people log in.
    #[serde(default)]
    pub accounts: Option<AccountsStatus>,
    /// The proxy gateway, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyStatus>,
    /// The last error, if any: what happened and what mends it.
    pub last_error: Option<String>,
}

/// How it stands with the accounts of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AccountsStatus {
    /// Sessions that last at this server.
    pub sessions: usize,
    /// Batches of changes that wait for the database.
    pub waiting_batches: usize,
    /// Their bytes in the spool.
    pub waiting_bytes: u64,
    /// Batches that the database has refused since the start.
    pub refused_batches: u64,
    /// Batches that the spool had no room for since the start.
    pub rejected_batches: u64,
    /// Whether the spool has no room now.
    pub spool_full: bool,
    /// Revocations that are in force and, for want of room in the spool, in memory only.
    #[serde(default)]
    pub unkept_revocations: usize,
    /// Why the database is away, if it is.
    pub database_away: Option<String>,
    /// Seconds since it was found to be away.
    pub database_away_s: Option<f64>,
}

/// What a proxy gateway is doing and has done, over all its workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Addresses on which it listens.
    pub listening: Vec<String>,
    /// Its workers.
    pub workers: u64,
    /// Clients that are there now.
    pub connections: u64,
    /// Clients that were let in.
    pub accepted: u64,
    /// Origins that were reached for them.
    pub reached: u64,
    /// Requests of HTTP that were forwarded, or were to be.
    #[serde(default)]
    pub requests: u64,
    /// Those of them for which a connection to the origin was there already.
    #[serde(default)]
    pub reused: u64,
    /// Clients of other proxies that are who they say they are.
    #[serde(default)]
    pub vouched: u64,
    /// Bytes from clients to origins.
    pub up_bytes: u64,
    /// Bytes from origins to clients.
    pub down_bytes: u64,
    /// Relays that ended because nothing moved any more, or because their time was over.
    pub timed_out: u64,
    /// Relays that ended because their user may not have them any more.
    pub revoked: u64,
    /// Relays that ended because a connection broke.
    pub broken: u64,
    /// Times that no client could be let in for want of descriptors.
    pub accept_pauses: u64,
    /// Connections to ports opened for clients (BIND), from hosts that were not expected.
    pub strangers: u64,
    /// UDP associations that were opened.
    pub associations: u64,
    /// Datagrams that were sent on for clients. Their bytes are among those above.
    pub up_datagrams: u64,
    /// Datagrams that were sent to clients.
    pub down_datagrams: u64,
    /// Datagrams of associations that went nowhere, by reason. Every reason is present.
    pub datagrams_dropped: BTreeMap<String, u64>,
    /// Clients that were sent away, by reason. Every reason is present.
    pub refused: BTreeMap<String, u64>,
    /// Origins that were not reached, by reason. Every reason is present.
    pub failed: BTreeMap<String, u64>,
    /// Lines of the access log that were written.
    #[serde(default)]
    pub access_log_lines: u64,
    /// Lines of the access log that were lost: it was too slow, or the disk is full.
    #[serde(default)]
    pub access_log_lost: u64,
    /// The servers of each group of upstream proxies.
    #[serde(default)]
    pub upstreams: Vec<UpstreamStatus>,
}

/// How an upstream proxy fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// The group that it is in.
    pub upstream: String,
    /// Its address.
    pub server: String,
    /// Connections through it now.
    pub connections: u64,
    /// Times that it has done what it was asked.
    pub reached: u64,
    /// Those of them for which a connection was ready.
    #[serde(default)]
    pub reached_at_once: u64,
    /// Connections that are ready now.
    #[serde(default)]
    pub ready: u64,
    /// Times that it has failed.
    pub failed: u64,
    /// Those since it has last done what it was asked.
    pub failed_in_a_row: u32,
    /// Seconds for which it is left out yet, if it is.
    pub out_for_s: Option<u64>,
}

/// Which offloads are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadStatus {
    /// TUN hands over and takes checksums half done (`TUN_F_CSUM`).
    pub tun_checksum: bool,
    /// TUN hands over and takes TCP super-packets (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tun_tcp_segmentation: bool,
    /// TUN hands over and takes UDP super-packets (`TUN_F_USO4`, `TUN_F_USO6`).
    pub tun_udp_segmentation: bool,
    /// UDP sockets send trains of datagrams (`UDP_SEGMENT`).
    pub udp_gso: bool,
    /// UDP sockets receive trains of datagrams (`UDP_GRO`).
    pub udp_gro: bool,
    /// The kernel steers datagrams to workers by lane (`SO_ATTACH_REUSEPORT_CBPF`).
    pub steering: bool,
}

/// One worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Worker number.
    pub worker: usize,
    /// The CPU it is pinned to, if pinning succeeded.
    pub cpu: Option<usize>,
    /// Inner packets sealed and sent.
    pub to_wire_packets: u64,
    /// Inner bytes sealed and sent.
    pub to_wire_bytes: u64,
    /// Inner packets opened and delivered.
    pub from_wire_packets: u64,
    /// Inner bytes opened and delivered.
    pub from_wire_bytes: u64,
    /// Calls that read, wrote, sent or received a batch.
    pub batches: u64,
    /// Packets per batch, both directions.
    pub average_batch: f64,
    /// Share of its time spent working since the last report, or since the start, 0 to 1.
    pub busy_share: f64,
    /// Datagrams sent singly because a train was refused.
    pub gso_fallbacks: u64,
    /// Super-packets written singly because the whole was refused.
    pub tun_fallbacks: u64,
    /// Data messages that arrived behind a higher counter of their lane.
    pub reordered: u64,
}

/// One peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Public key, base64.
    pub public_key: String,
    /// Prefixes the peer owns.
    pub allowed_ips: Vec<String>,
    /// Whether a session is established.
    pub connected: bool,
    /// Every path of the current session.
    pub paths: Vec<PathStatus>,
    /// Lanes the peer may send on, and lanes this side sends on.
    pub lanes_in_use: LanesInUse,
    /// Age of the current session.
    pub session_age_s: Option<f64>,
    /// Seconds since the last completed handshake.
    pub last_handshake_s: Option<f64>,
    /// Duration of the last handshake: from the first initiation to keys in hand (client only).
    pub handshake_ms: Option<f64>,
    /// Sessions that replaced an earlier one.
    pub rekeys: u64,
    /// Inner bytes received from the peer over all sessions.
    pub received_bytes: u64,
    /// Inner bytes sent to the peer over all sessions.
    pub sent_bytes: u64,
    /// Round-trip time of the last answered probe, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Features the peer takes, and so in use towards it, by name.
    pub features: Vec<String>,
}

/// One path of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    /// Path number: the client worker that owns it.
    pub path: usize,
    /// The far end's address and port.
    pub endpoint: Option<String>,
    /// `"unconfirmed"`, `"up"` or `"silent"`.
    pub state: String,
    /// The largest plaintext the path is known to carry, in bytes.
    pub plaintext_max: usize,
}

/// Lane numbers in use in each direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanesInUse {
    /// Lanes of this side's workers.
    pub sending: Vec<u8>,
    /// Lanes of the far side's workers.
    pub receiving: Vec<u8>,
}

/// One request on the status socket, as one line of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum StatusRequest {
    /// Answer with a [`StatusReport`].
    Status,
    /// Stop the daemon cleanly; answered before it does.
    Down,
    /// Read the configuration again, as on SIGHUP.
    Reload,
}

/// One answer on the status socket, as one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum StatusAnswer {
    /// The report.
    Status(Box<StatusReport>),
    /// Done, or begun.
    Ok,
    /// Refused, with the reason.
    Error {
        /// What went wrong.
        message: String,
    },
}
