//! The control engine: everything the control thread decides, without any I/O.
//!
//! An [`Engine`] is a deterministic state machine. Time is an argument, randomness comes from a
//! source that it is given, and what it wants done comes out of queues. Its methods are of three
//! kinds.
//!
//! 1. Inputs: [`start`](Engine::start) once, then [`handle_datagram`](Engine::handle_datagram),
//!    [`handle_worker_event`](Engine::handle_worker_event),
//!    [`handle_timeout`](Engine::handle_timeout), [`reload`](Engine::reload),
//!    [`admit_peer`](Engine::admit_peer), [`dismiss_peer`](Engine::dismiss_peer),
//!    [`set_server`](Engine::set_server), [`choose_server`](Engine::choose_server) and, last,
//!    [`request_close`](Engine::request_close).
//! 2. Outputs, drained after each input in this order: [`poll_command`](Engine::poll_command),
//!    [`poll_transmit`](Engine::poll_transmit), [`poll_event`](Engine::poll_event). A session must
//!    be in the workers' queues before the response that makes the client use it is on the wire:
//!    a worker drains its queue before it declares a session unknown, so no packet is lost.
//! 3. Getters: [`poll_timeout`](Engine::poll_timeout) tells when to call `handle_timeout` next.
//!
//! Workers forward every path message to the engine, and report a new address
//! ([`WorkerEvent::PathSeen`]) before any path message that came from it; the engine answers probes
//! through the worker whose packets travel on the probed path. A receiving lane whose counter
//! nears its end is reported ([`WorkerEvent::KeyNearlyUsed`]) like a sending one, so that the
//! client, the only side that rekeys, learns about the server's lanes too.

mod backoff;
mod client;
mod core;
mod event;
mod health;
mod path;
mod path_mtu;
mod report;
mod server;
mod session;
mod setup;
#[cfg(test)]
mod tests;
mod usage;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::CryptoRng;

use crate::dataplane::messages::{Endpoint, Receipt, WorkerCommand, WorkerEvent};
use crate::handshake::keys::PublicKey;
use crate::policy::PeerPolicy;
use crate::telemetry::counters::{Carried, DropCounters};
use crate::telemetry::status::PeerStatus;

pub use event::{DisconnectReason, EngineEvent, Now, Target};
pub use server::AdmitError;
pub use setup::{ClientOptions, ClientSetup, PeerSetup, Reload, ServerChoice, ServerSetup};

use self::core::Core;
use client::Client;
use server::Server;

/// The state machine of a server or a client.
pub struct Engine {
    core: Core,
    role: Role,
    started: bool,
}

/// Few exist, so their size does not matter.
#[allow(clippy::large_enum_variant)]
enum Role {
    Server(Server),
    Client(Client),
}

/// Where an engine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Not started yet.
    Starting,
    /// A client without a confirmed session.
    Connecting,
    /// A server that listens, or a client whose session works.
    Up,
    /// A clean stop has begun.
    Stopping,
}

impl EngineState {
    /// The name in status reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Stopping => "stopping",
        }
    }
}

impl Engine {
    /// A server. `rng` is asked for bytes where they are to be a secret (`fill_bytes`), and for
    /// numbers otherwise: a daemon gives secrets that nothing it keeps can yield again.
    pub fn new_server(
        setup: ServerSetup,
        rng: impl CryptoRng + Send + 'static,
        now: Instant,
    ) -> Self {
        let ServerSetup { identity, workers, features, tun_mtu, peers } = setup;
        let mut core = Core::new(identity, workers, features, tun_mtu, Box::new(rng));
        let mut server = Server::new(&mut core, now);
        server.set_peers(&mut core, peers);
        Self { core, role: Role::Server(server), started: false }
    }

    /// A client. `rng` is as for a server.
    pub fn new_client(
        setup: ClientSetup,
        rng: impl CryptoRng + Send + 'static,
        now: Instant,
    ) -> Self {
        let (identity, rng) = (Arc::clone(&setup.identity), Box::new(rng));
        let mut core = Core::new(identity, setup.workers, setup.features, setup.tun_mtu, rng);
        let client = Client::new(setup, now);
        client.announce_prefixes(&mut core);
        Self { core, role: Role::Client(client), started: false }
    }

    /// Everything is in place: a client begins to connect.
    pub fn start(&mut self, now: Now) {
        self.started = true;
        self.handle_timeout(now);
    }

    /// A datagram arrived on a socket of the control thread, at [`Endpoint::local`] from
    /// [`Endpoint::remote`].
    pub fn handle_datagram(&mut self, now: Now, from: Endpoint, datagram: &[u8]) {
        if self.core.closing || !self.started {
            return;
        }
        match &mut self.role {
            Role::Server(server) => server.handle_datagram(&mut self.core, now, from, datagram),
            Role::Client(client) => client.handle_datagram(&mut self.core, now, datagram),
        }
    }

    /// A worker has something to tell.
    pub fn handle_worker_event(&mut self, now: Now, event: WorkerEvent) {
        if self.core.closing {
            return;
        }
        match &mut self.role {
            Role::Server(server) => server.handle_worker_event(&mut self.core, now, event),
            Role::Client(client) => client.handle_worker_event(&mut self.core, now, event),
        }
    }

    /// Does what has become due. Harmless if nothing has.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.core.closing || !self.started {
            return;
        }
        match &mut self.role {
            Role::Server(server) => server.handle_timeout(&mut self.core, now.monotonic),
            Role::Client(client) => client.handle_timeout(&mut self.core, now),
        }
    }

    /// The configuration was read again. Sessions that are still allowed go on undisturbed.
    pub fn reload(&mut self, reload: Reload) {
        match (&mut self.role, reload) {
            (Role::Server(server), Reload::Server { peers }) => {
                server.set_peers(&mut self.core, peers);
            }
            (Role::Client(client), Reload::Client(options)) => {
                client.set_options(&mut self.core, options);
            }
            (Role::Server(_), Reload::Client(_)) | (Role::Client(_), Reload::Server { .. }) => {
                let warning = "the new configuration is for the other role and was not applied";
                self.core.event(EngineEvent::Warning(warning.to_owned()));
            }
        }
    }

    /// Admits a peer beside the configured ones, or tells what is new about one that was admitted:
    /// its session is not disturbed, and a new pre-shared key counts from its next handshake on.
    /// A reload leaves it alone.
    ///
    /// # Errors
    /// What stands in the configuration comes first; see [`AdmitError`].
    pub fn admit_peer(&mut self, setup: PeerSetup) -> Result<(), AdmitError> {
        match &mut self.role {
            Role::Server(server) => server.admit(&mut self.core, setup),
            Role::Client(_) => Err(AdmitError::NoServer),
        }
    }

    /// Lets go of a peer that was admitted: its sessions end at once. Returns whether there was
    /// one; configured peers stay.
    pub fn dismiss_peer(&mut self, key: &PublicKey) -> bool {
        match &mut self.role {
            Role::Server(server) => server.dismiss(&mut self.core, key),
            Role::Client(_) => false,
        }
    }

    /// Has the workers let go of `receipt` once they have carried out all commands so far.
    pub fn acknowledge(&mut self, receipt: Receipt) {
        self.core.command(Target::All, WorkerCommand::LetGo(receipt));
    }

    /// What a client goes on with. If it is the server that it has, the session goes on, and a new
    /// pre-shared key makes another one beside it at once; if it is not, the client says goodbye
    /// and connects to the other.
    pub fn choose_server(&mut self, now: Now, choice: ServerChoice) {
        if let Role::Client(client) = &mut self.role {
            client.choose_server(&mut self.core, now, choice, self.started);
        }
    }

    /// A client's server has another address from now on. The session in use is not disturbed.
    pub fn set_server(&mut self, server: SocketAddr) {
        if let Role::Client(client) = &mut self.role {
            client.set_server(server);
        }
    }

    /// The network around a client is another one: it shows the server at once where it is now,
    /// whether or not there is anything to send, and does not wait with a handshake that waits.
    pub fn network_changed(&mut self, now: Now) {
        if self.core.closing || !self.started {
            return;
        }
        if let Role::Client(client) = &mut self.role {
            client.show_way(&mut self.core, now);
        }
    }

    /// Sets what a peer of a server may do from now on, also in the sessions that it has. Returns
    /// whether there is such a peer.
    pub fn set_policy(&mut self, peer: &PublicKey, policy: Option<Arc<PeerPolicy>>) -> bool {
        match &mut self.role {
            Role::Server(server) => server.set_policy(&mut self.core, peer, policy),
            Role::Client(_) => false,
        }
    }

    /// What each peer of a server that has a policy has carried since the last call: inner bytes
    /// that its policy let pass. Every byte is told once, also of sessions that were replaced and
    /// of peers that are gone, so ask often enough for what it is for, and once more at the end.
    pub fn take_usage(&mut self) -> Vec<(PublicKey, Carried)> {
        match &mut self.role {
            Role::Server(server) => server.take_usage(),
            Role::Client(_) => Vec::new(),
        }
    }

    /// Has a client tell when UDP falls silent ([`EngineEvent::UdpSilent`]) or loses much
    /// ([`EngineEvent::UdpLossy`]), and go back to UDP when that works again while a carrier is in
    /// use, or when the carrier does no better.
    pub fn watch_udp(&mut self, now: Now, watched: bool) {
        if let Role::Client(client) = &mut self.role {
            client.watch_udp(now.monotonic, watched);
        }
    }

    /// Has a client send everything to `relay`, an address on this host behind which datagrams are
    /// taken to the server in another way than by UDP; or, if `None`, to the server itself. The
    /// session is not disturbed.
    pub fn use_carrier(&mut self, now: Now, relay: Option<SocketAddr>) {
        if self.core.closing {
            return;
        }
        if let Role::Client(client) = &mut self.role {
            client.use_carrier(&mut self.core, now, relay);
        }
    }

    /// The relay that a client sends everything to, if it does.
    pub fn carrier(&self) -> Option<SocketAddr> {
        match &self.role {
            Role::Client(client) => client.carrier(),
            Role::Server(_) => None,
        }
    }

    /// Says goodbye to everybody. Nothing but the outputs that this leaves is to be expected of
    /// the engine afterwards.
    pub fn request_close(&mut self) {
        if std::mem::replace(&mut self.core.closing, true) {
            return;
        }
        match &mut self.role {
            Role::Server(server) => server.request_close(&mut self.core),
            Role::Client(client) => client.request_close(&mut self.core),
        }
    }

    /// The next command for workers, to be queued before any datagram is sent.
    pub fn poll_command(&mut self) -> Option<(Target, WorkerCommand)> {
        self.core.commands.pop_front()
    }

    /// The next datagram to send, and where to; only once no command is left.
    pub fn poll_transmit(&mut self) -> Option<(Endpoint, Vec<u8>)> {
        debug_assert!(self.core.commands.is_empty(), "workers must learn of sessions first");
        self.core.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        self.core.events.pop_front()
    }

    /// Whether an output waits to be drained.
    #[cfg(test)]
    pub(crate) fn has_outputs(&self) -> bool {
        let Core { commands, transmits, events, .. } = &self.core;
        !(commands.is_empty() && transmits.is_empty() && events.is_empty())
    }

    /// When to call [`Self::handle_timeout`] next; may change with every input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.core.closing || !self.started {
            return None;
        }
        match &self.role {
            Role::Server(server) => server.poll_timeout(),
            Role::Client(client) => client.poll_timeout(),
        }
    }

    /// Where the engine stands.
    pub fn state(&self) -> EngineState {
        match &self.role {
            _ if self.core.closing => EngineState::Stopping,
            _ if !self.started => EngineState::Starting,
            Role::Client(client) if !client.is_up() => EngineState::Connecting,
            Role::Server(_) | Role::Client(_) => EngineState::Up,
        }
    }

    /// Every peer, in the order of the configuration.
    pub fn status(&self, now: Instant) -> Vec<PeerStatus> {
        match &self.role {
            Role::Server(server) => server.status(now),
            Role::Client(client) => vec![client.status(now)],
        }
    }

    /// What the control thread dropped, by reason.
    pub fn drops(&self) -> &Arc<DropCounters> {
        &self.core.drops
    }

    /// This side's public key.
    pub fn public_key(&self) -> &PublicKey {
        self.core.identity.public()
    }

    /// `"server"` or `"client"`.
    pub const fn role_name(&self) -> &'static str {
        match self.role {
            Role::Server(_) => "server",
            Role::Client(_) => "client",
        }
    }
}
