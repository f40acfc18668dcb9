//! A client that logs in: its server admits it for a while, under another secret each time, and
//! dismisses it. What the login itself says takes another way than the simulated network.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::network::SERVER;
use super::plan::{Mishap, Sabotage};
use super::side::{Who, peer};
use super::world::{Due, World};
use crate::control::engine::{PeerSetup, Reload, ServerChoice};
use crate::dataplane::messages::Receipt;
use crate::handshake::keys::PresharedKey;
use crate::limits::TUN_MTU_DEFAULT;

/// How long after a server has started its clients log in again.
const BACK_AFTER: Duration = Duration::from_millis(300);
/// How long a lease is on its way to the client.
const LEASE_TRAVELS: Duration = Duration::from_millis(15);

/// What is known of the client's logins.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// Whether it is one; otherwise the server's configuration has it.
    is_one: bool,
    /// Tells secrets apart.
    logins: u8,
    /// The receipt of its dismissal, if it is dismissed.
    dismissal: Option<Weak<()>>,
}

impl Guest {
    /// Whether it is dismissed, and every worker has said so.
    fn is_shut_out(&self) -> bool {
        self.dismissal.as_ref().is_some_and(|receipt| receipt.strong_count() == 0)
    }
}

impl World {
    /// The client is no configured peer any more, and has a lease. Before the world begins.
    pub(crate) fn become_guest(&mut self) {
        self.guest.is_one = true;
        self.options.preshared_key = self.next_secret();
        self.server.engine.reload(Reload::Server { peers: Vec::new() });
        let setup = self.guest_setup();
        self.server.engine.admit_peer(setup).unwrap();
    }

    fn guest_setup(&self) -> PeerSetup {
        let mut setup = peer(self.keys.client(), &["10.7.0.2/32"]);
        setup.preshared_key = PresharedKey::new([self.guest.logins; 32]);
        setup
    }

    /// The secret of the next login.
    fn next_secret(&mut self) -> PresharedKey {
        self.guest.logins = self.guest.logins.wrapping_add(1);
        PresharedKey::new([self.guest.logins; 32])
    }

    /// The client logs in: the server admits it, and soon it has its lease.
    pub(super) fn log_in(&mut self) {
        if !self.guest.is_one {
            return;
        }
        if let Some(until) = self.server.sleeps_until {
            return self.schedule(until, Due::Mishap(Mishap::LogIn));
        }
        self.options.preshared_key = self.next_secret();
        self.guest.dismissal = None;
        let setup = self.guest_setup();
        self.server.engine.admit_peer(setup).unwrap();
        self.pump();
        self.schedule(self.now + LEASE_TRAVELS, Due::Lease);
    }

    /// The client takes the lease of its latest login.
    pub(super) fn take_lease(&mut self) {
        if let Some(until) = self.client.sleeps_until {
            return self.schedule(until, Due::Lease);
        }
        let (key, options) = (self.keys.server(), self.options.clone());
        let now = self.clocks(Who::Client);
        let tun_mtu = TUN_MTU_DEFAULT;
        let choice = ServerChoice { key, address: SERVER, tun_mtu, options };
        self.client.engine.choose_server(now, choice);
        self.pump();
    }

    /// The server lets go of the client, which logs in again later.
    pub(super) fn dismiss(&mut self, lasts: Duration) {
        if !self.guest.is_one {
            return;
        }
        self.schedule(self.now + lasts, Due::Mishap(Mishap::LogIn));
        if self.server.sleeps_until.is_some() {
            return;
        }
        let receipt = Arc::new(());
        self.guest.dismissal = Some(Arc::downgrade(&receipt));
        let key = self.keys.client();
        if self.sabotage != Some(Sabotage::KeepGuests) {
            self.server.engine.dismiss_peer(&key);
        }
        self.server.engine.acknowledge(Receipt::new(receipt));
        self.pump();
    }

    /// Another process of the server knows of no guest.
    pub(super) fn forget_guests(&mut self) {
        if self.guest.is_one {
            self.server.engine.reload(Reload::Server { peers: Vec::new() });
            self.guest.dismissal = None;
            self.schedule(self.now + BACK_AFTER, Due::Mishap(Mishap::LogIn));
        }
    }

    /// Objects to a packet that the server has taken from somebody whom it has let go of.
    pub(super) fn watch_guest(&mut self, at: Who) {
        if at == Who::Server && self.guest.is_shut_out() {
            self.oracle.object("a packet of a dismissed peer was delivered".to_owned());
        }
    }
}
