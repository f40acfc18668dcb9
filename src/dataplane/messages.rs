//! What the control thread and a tunnel worker say to each other.
//!
//! Commands travel over one bounded-by-protocol channel per worker, events over one channel that
//! all workers share; each send is followed by a wake-up of the receiver's poll. A worker drains
//! its commands before it declares a receiver index unknown, so a session that was installed before
//! its handshake response left is always found.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::policy::PeerPolicy;
use crate::routing::{PeerId, PrefixTable};
use crate::session::keys::LaneSecret;
use crate::session::lanes::LanePlan;
use crate::telemetry::counters::SessionUsage;
use crate::wire::{Features, PathMessage, SessionIndex};

/// Where a peer is reached: its address, and which of our sockets and addresses it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The far end's address and port.
    pub remote: SocketAddr,
    /// Our address that the far end sent to; replies leave from it. `None` lets the kernel choose.
    pub local: Option<IpAddr>,
    /// Which of this side's listening addresses (in configuration order) it arrived on.
    pub listener: u8,
}

/// A session as a worker needs it.
#[derive(Clone, Debug)]
pub struct SessionInstall {
    /// The peer it belongs to.
    pub peer: PeerId,
    /// The index that arrives in data messages to us.
    pub local: SessionIndex,
    /// The index we write into data messages to the far side.
    pub remote: SessionIndex,
    /// Who sends and receives on which lane.
    pub plan: LanePlan,
    /// Secret that our sending lane keys are derived from.
    pub send_secret: Arc<LaneSecret>,
    /// Secret that our receiving lane keys are derived from.
    pub receive_secret: Arc<LaneSecret>,
    /// When the session has reached its last age: from then on it neither seals nor opens. Workers
    /// see to that themselves, since the control thread may be late to tell.
    pub expires: Instant,
    /// What the far end takes, and so may be sent.
    pub features: Features,
    /// The client knows its server's address; a server learns each path's from the first
    /// authenticated packet on it.
    pub endpoint: Option<Endpoint>,
    /// Where the worker counts what the session carries.
    pub usage: Arc<SessionUsage>,
    /// What the peer may reach, and how fast; everything if there is none.
    pub policy: Option<Arc<PeerPolicy>>,
}

/// Something that is let go of when it is no longer needed, which whoever waits for that notices:
/// the sender of a channel, say.
#[derive(Clone)]
pub struct Receipt(Arc<dyn Send + Sync>);

impl Receipt {
    /// `guard` is dropped with the last clone of the receipt.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Arc::new(guard))
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Receipt({} left)", Arc::strong_count(&self.0))
    }
}

/// From the control thread to a worker.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the text of a variant explains its fields")]
pub enum WorkerCommand {
    /// Receive on this session at once. Send on it as soon as this worker's path has an endpoint,
    /// in place of any earlier session of the same peer; the earlier one keeps receiving.
    InstallSession(Box<SessionInstall>),
    /// The path numbered `path` of a session leads to `endpoint` from now on: it was confirmed, or
    /// the far end moved.
    SetPathEndpoint { session: SessionIndex, path: u8, endpoint: Endpoint },
    /// A path carries plaintexts of at most `plaintext_max` bytes, as measured.
    SetPathPlaintextMax { session: SessionIndex, path: u8, plaintext_max: usize },
    /// Neither send nor receive on the session that arrives as `session` any more.
    RemoveSession { session: SessionIndex },
    /// Send a path message on this worker's lane, the datagram padded to carry `plaintext_len`
    /// bytes of plaintext (0: just the message).
    SendPathMessage { session: SessionIndex, message: PathMessage, plaintext_len: usize },
    /// Send a path message on this worker's lane to `endpoint`, wherever the path leads.
    SendPathMessageTo { session: SessionIndex, message: PathMessage, endpoint: Endpoint },
    /// Send an empty packet on this worker's lane.
    SendKeepalive { session: SessionIndex },
    /// Which peer owns which inner prefix.
    SetPrefixes(Arc<PrefixTable>),
    /// What a peer may reach, and how fast, from now on.
    SetPolicy { peer: PeerId, policy: Option<Arc<PeerPolicy>> },
    /// Attach or detach this worker's TUN queue (a client falling back to one path).
    SetQueueAttached(bool),
    /// Let go of this, now that all commands before it are carried out.
    LetGo(Receipt),
    /// Finish: send what is batched and return.
    Stop,
}

/// From a worker to the control thread.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the text of a variant explains its fields")]
pub enum WorkerEvent {
    /// An authenticated packet arrived on a path at `worker` from an address that is new to it:
    /// the first packet of the session on the path, or the far end moved to `endpoint`.
    PathSeen { worker: usize, session: SessionIndex, path: u8, endpoint: Endpoint },
    /// An authenticated path message arrived on `lane` from `endpoint`, in a datagram with
    /// `plaintext_len` bytes of plaintext.
    PathMessage {
        worker: usize,
        session: SessionIndex,
        lane: u8,
        endpoint: Endpoint,
        message: PathMessage,
        plaintext_len: usize,
    },
    /// A lane of the session, sent or received by `worker`, has used its key up to the rekey
    /// threshold.
    KeyNearlyUsed { worker: usize, session: SessionIndex },
    /// The kernel refused a datagram with so many bytes of plaintext as too large for the path
    /// (`EMSGSIZE`).
    PathTooBig { worker: usize, session: SessionIndex, path: u8, plaintext_len: usize },
    /// The worker cannot go on because the TUN device is gone; `error` is the kernel's word for it.
    DeviceGone { worker: usize, error: String },
    /// The worker cannot go on for another reason, or it panicked. `error` says what happened.
    Failed { worker: usize, error: String },
    /// The worker was told to stop and has: it touches no packet any more.
    Stopped { worker: usize },
    /// The worker has closed its TUN queue and its sockets. Nothing comes after this, however it
    /// ended.
    Closed { worker: usize },
}
