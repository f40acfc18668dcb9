//! What other threads want of the engine: they put it into a channel, and the control thread does
//! it in its turn.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Waker;

use super::ControlPoll;
use crate::control::engine::{AdmitError, Engine, Now, PeerSetup};
use crate::dataplane::messages::Receipt;
use crate::handshake::keys::PublicKey;

/// Something to be done with the engine.
pub type EngineOrder = Box<dyn FnOnce(&mut Engine, Now) + Send>;

/// What the control thread is to do.
pub enum ControlOrder {
    /// Something with the engine.
    Engine(EngineOrder),
    /// To end, for this reason.
    End(String),
}

/// Gives orders to a control thread, from any other. An order for a thread that has ended is
/// dropped, and what it holds with it.
#[derive(Clone)]
pub struct ControlHandle {
    orders: Sender<ControlOrder>,
    waker: Arc<Waker>,
}

impl ControlHandle {
    /// A handle for the control thread that will sleep on `poll`, and what that thread is to be
    /// given.
    pub fn new(poll: &ControlPoll) -> (Self, Receiver<ControlOrder>) {
        let (orders, receiver) = unbounded();
        (Self { orders, waker: poll.waker() }, receiver)
    }

    /// Has the control thread do something with its engine. It must not wait there for anything.
    pub fn order(&self, order: impl FnOnce(&mut Engine, Now) + Send + 'static) {
        self.give(ControlOrder::Engine(Box::new(order)));
    }

    /// Has the control thread end as it does after a failure, for this reason.
    pub fn end(&self, reason: String) {
        self.give(ControlOrder::End(reason));
    }

    fn give(&self, order: ControlOrder) {
        // Both fail only if the control thread is gone, and then nothing is to be done any more.
        let _ = self.orders.send(order);
        let _ = self.waker.wake();
    }

    /// Has a peer admitted. `done` runs on the control thread, with what came of it.
    pub fn admit(
        &self,
        peer: PeerSetup,
        done: impl FnOnce(Result<(), AdmitError>) + Send + 'static,
    ) {
        self.order(move |engine, _| done(engine.admit_peer(peer)));
    }

    /// Has a peer dismissed. `receipt` is let go of when no worker takes or sends a packet of the
    /// peer any more.
    pub fn dismiss(&self, peer: PublicKey, receipt: Receipt) {
        self.order(move |engine, _| {
            engine.dismiss_peer(&peer);
            engine.acknowledge(receipt);
        });
    }
}
