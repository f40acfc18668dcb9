//! What an engine tells: lines of the log, and calls of the hooks.

use std::net::SocketAddr;
use std::time::Instant;

use log::Level;

use super::{ControlError, ControlThread, describe};
use crate::control::engine::EngineEvent;
use crate::handshake::keys::PublicKey;
use crate::sys::clock;
use crate::telemetry::line_budget::LineBudget;

/// What a line is about that a far side, or somebody on the way to it, can cause at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topic {
    Connected,
    Disconnected,
    Moved,
    Paths,
    Warning,
}

impl Topic {
    const ALL: [Self; 5] =
        [Self::Connected, Self::Disconnected, Self::Moved, Self::Paths, Self::Warning];

    /// As the line says that tells what was left out.
    const fn name(self) -> &'static str {
        match self {
            Self::Connected => "peers that connected",
            Self::Disconnected => "peers that disconnected",
            Self::Moved => "paths that moved",
            Self::Paths => "paths that do not get through, or do again",
            Self::Warning => "what is amiss",
        }
    }
}

/// The budgets of all topics.
#[derive(Default)]
pub(super) struct Lines {
    budgets: [LineBudget<PublicKey>; Topic::ALL.len()],
}

impl Lines {
    fn admits(&mut self, topic: Topic, peer: &PublicKey) -> bool {
        self.budgets[topic as usize].admits(clock::now(), *peer)
    }

    /// A warning whose peer the engine knows: it warns of each once in a while.
    fn admits_warning(&mut self) -> bool {
        self.budgets[Topic::Warning as usize].admits_any(clock::now())
    }

    /// When something is to be told of lines that were left out.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.budgets.iter().filter_map(LineBudget::poll_timeout).min()
    }
}

impl ControlThread {
    pub(super) fn handle_engine_event(&mut self, event: EngineEvent) -> Result<(), ControlError> {
        match event {
            EngineEvent::Connected { peer, handshake } => {
                if self.lines.admits(Topic::Connected, &peer) {
                    let who = self.describe(&peer);
                    match handshake {
                        Some(took) => log::info!("connected to {who}, handshake took {took:.1?}"),
                        None => log::info!("peer {who} connected"),
                    }
                }
                self.hooks.connected(&peer).map_err(ControlError::Hook)?;
            }
            EngineEvent::Disconnected { peer, reason } => {
                if self.lines.admits(Topic::Disconnected, &peer) {
                    log::info!("peer {} disconnected: {reason}", self.describe(&peer));
                }
                self.hooks.disconnected(&peer, reason);
            }
            EngineEvent::Rekeyed { peer } => {
                log::debug!("session with {} renewed", self.describe(&peer));
            }
            EngineEvent::PeerMoved { peer, path, from, to } => {
                if self.lines.admits(Topic::Moved, &peer) {
                    let who = self.describe(&peer);
                    log::info!("path {path} of peer {who} moved from {from} to {to}");
                }
            }
            EngineEvent::PathsReduced { peer, silent } => {
                let warning = format!(
                    "paths {silent:?} to {peer} do not get through although others do (a firewall \
                     that knows only one UDP flow per host?); going on with one path and one worker"
                );
                if self.lines.admits(Topic::Paths, &peer) {
                    log::warn!("{warning}");
                }
                self.reporter.set_last_error(warning);
            }
            EngineEvent::PathsRestored { peer } => {
                if self.lines.admits(Topic::Paths, &peer) {
                    log::info!("all paths to {peer} get through again");
                }
            }
            EngineEvent::NoAnswer { server, tries } => self.look_for_server(server, tries),
            EngineEvent::UdpSilent { peer } => {
                log::debug!("nothing gets through to {} over UDP", self.describe(&peer));
                self.hooks.udp_fails();
            }
            EngineEvent::UdpLossy { peer, lost_percent } => {
                log::info!(
                    "{lost_percent} % of probes over UDP to {} are lost",
                    self.describe(&peer)
                );
                self.hooks.udp_fails();
            }
            EngineEvent::CarrierLossy { peer, lost_percent } => {
                let peer = self.describe(&peer);
                log::info!(
                    "{lost_percent} % of probes over TLS to {peer} are lost, too: UDP is in use"
                );
                self.hooks.udp_restored();
            }
            EngineEvent::UdpRestored { peer } => {
                log::info!("UDP to {} gets through again and is in use", self.describe(&peer));
                self.hooks.udp_restored();
            }
            EngineEvent::Warning(warning) => self.warn(warning),
        }
        Ok(())
    }

    fn look_for_server(&mut self, server: SocketAddr, tries: u32) {
        self.warn(format!(
            "server {server} has not answered {tries} initiations; is it running, is UDP to it \
             allowed, and are the keys right on both sides?"
        ));
        if let Some(address) = self.hooks.server_address() {
            self.engine.set_server(address);
        }
    }

    fn warn(&mut self, warning: String) {
        if self.lines.admits_warning() {
            log::warn!("{warning}");
        }
        self.reporter.set_last_error(warning);
    }

    /// Tells of lines that were left out, when it is time.
    pub(super) fn tell_what_was_left_out(&mut self) {
        if self.lines.poll_timeout().is_none() {
            return;
        }
        let now = clock::now();
        for topic in Topic::ALL {
            let Some(left_out) = self.lines.budgets[topic as usize].take_left_out(now) else {
                continue;
            };
            let (lines, about) = (left_out.lines, topic.name());
            let level = if topic == Topic::Warning { Level::Warn } else { Level::Info };
            match left_out.most_about {
                Some(peer) => {
                    let who = self.describe(&peer);
                    log::log!(level, "left out {lines} more lines about {about}, mostly {who}");
                }
                None => log::log!(level, "left out {lines} more lines about {about}"),
            }
        }
    }

    fn describe(&self, peer: &PublicKey) -> String {
        describe(peer, self.hooks.name_of(peer))
    }
}
