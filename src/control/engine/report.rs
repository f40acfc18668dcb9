//! A peer as `corelane status` shows it.

use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::handshake::keys::PublicKey;
use crate::telemetry::status::PeerStatus;

use super::path::Path;
use super::session::{History, Session};

/// Puts a [`PeerStatus`] together. `live` are all sessions, `current` among them; each path comes
/// with whether it has fallen silent.
pub(super) fn peer_status<'a>(
    now: Instant,
    public_key: &PublicKey,
    allowed: &[IpNet],
    current: Option<&Session>,
    live: impl Iterator<Item = &'a Session>,
    history: &History,
    paths: impl Iterator<Item = (&'a Path, bool)> + Clone,
) -> PeerStatus {
    let seconds_since = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
    let (sent_bytes, received_bytes) = history.bytes(live);
    let rtt = paths.clone().filter_map(|(path, _)| path.rtt).min();
    let paths = paths.filter(|_| current.is_some());
    let features = current.map(|session| session.features.names()).unwrap_or_default();
    PeerStatus {
        public_key: public_key.to_string(),
        allowed_ips: allowed.iter().map(IpNet::to_string).collect(),
        connected: current.is_some(),
        paths: paths.map(|(path, silent)| path.status(silent)).collect(),
        lanes_in_use: current.map(Session::lanes_in_use).unwrap_or_default(),
        session_age_s: current.map(|session| seconds_since(session.since)),
        last_handshake_s: history.last_handshake.map(seconds_since),
        handshake_ms: history.handshake.map(milliseconds),
        rekeys: history.rekeys,
        received_bytes,
        sent_bytes,
        rtt_ms: rtt.map(milliseconds),
        features: features.into_iter().map(str::to_owned).collect(),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
