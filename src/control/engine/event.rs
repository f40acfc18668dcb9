//! What an engine tells the thread that runs it.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::handshake::keys::PublicKey;

/// The time of an input.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Runs evenly; all timers go by it.
    pub monotonic: Instant,
    /// Time since 1970-01-01 UTC, for the timestamp of an initiation. It may jump.
    pub unix: Duration,
}

/// Which workers a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every worker.
    All,
    /// One worker.
    Worker(usize),
}

/// Something worth a log line or an action of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// A session was confirmed where there was none. On a client this means that a packet has
    /// been to the server and back.
    Connected {
        /// The far side.
        peer: PublicKey,
        /// From the first initiation to the response; a client knows it, a server does not.
        handshake: Option<Duration>,
    },
    /// The last session with a peer is gone.
    Disconnected {
        /// The far side.
        peer: PublicKey,
        /// Why.
        reason: DisconnectReason,
    },
    /// A session took the place of another.
    Rekeyed {
        /// The far side.
        peer: PublicKey,
    },
    /// A path's authenticated packets come from another address.
    PeerMoved {
        /// The far side.
        peer: PublicKey,
        /// The path.
        path: u8,
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
    },
    /// Some paths do not get through while others do; the client goes on with one.
    PathsReduced {
        /// The far side.
        peer: PublicKey,
        /// The paths that do not get through.
        silent: Vec<u8>,
    },
    /// All paths get through again.
    PathsRestored {
        /// The far side.
        peer: PublicKey,
    },
    /// The server has not answered several initiations in a row; its name may stand for another
    /// address by now.
    NoAnswer {
        /// Where they went.
        server: SocketAddr,
        /// Initiations sent since the attempt began.
        tries: u32,
    },
    /// Nothing gets through to the server over UDP: a carrier would be of use. Said again while
    /// that goes on.
    UdpSilent {
        /// The far side.
        peer: PublicKey,
    },
    /// Much of what goes to the server over UDP, or comes from it, is lost: a carrier may do
    /// better. Said again, ever more rarely, while that goes on.
    UdpLossy {
        /// The far side.
        peer: PublicKey,
        /// Percent of what was asked that was not answered.
        lost_percent: u8,
    },
    /// The carrier that took the place of UDP because that was lossy loses as much. UDP is in use
    /// again, and the carrier has nothing more to do.
    CarrierLossy {
        /// The far side.
        peer: PublicKey,
        /// Percent of what was asked that was not answered.
        lost_percent: u8,
    },
    /// UDP gets through again, and is in use: the carrier has nothing more to do, once what is on
    /// its way has arrived.
    UdpRestored {
        /// The far side.
        peer: PublicKey,
    },
    /// Something an administrator should know of.
    Warning(String),
}

/// Why the last session with a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The far side said goodbye.
    Closed,
    /// Nothing came back, probes included.
    Silent,
    /// No handshake renewed it in time.
    Expired,
    /// The peer is no longer configured.
    Removed,
    /// The peer was admitted for a time that is over.
    Dismissed,
    /// A client goes on with another server.
    ServerChanged,
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the far side closed the session",
            Self::Silent => "the far side does not answer",
            Self::Expired => "the session expired without a new handshake",
            Self::Removed => "the peer was removed from the configuration",
            Self::Dismissed => "its lease has ended",
            Self::ServerChanged => "another server takes its place",
        })
    }
}
