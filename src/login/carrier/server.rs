//! A server's end of all its carriers: one thread.

mod relay;

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use mio::{Poll, Token, Waker};
use thiserror::Error;

use crate::accounts::model::Id;
use crate::host::privileges;
use crate::limits::CARRIER_ORDERS_MAX;
use crate::telemetry::counters::DropCounters;

use super::link::CarrierStream;
use relay::Relay;

const WAKER: Token = Token(0);

/// What the thread is asked to do.
enum Order {
    Adopt { carrier: Box<CarrierStream>, login: Id },
    Close { login: Id, guard: Box<dyn Any + Send> },
    Stop,
}

/// Why a connection cannot become a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotAdopted {
    /// Too many want to.
    #[error("too many connections want to become carriers at once")]
    Busy,
    /// The thread has ended.
    #[error("this server carries no datagrams over TLS any more")]
    Stopped,
}

/// Reaches the carrier thread from any other.
#[derive(Clone)]
pub struct CarrierHandle {
    orders: Sender<Order>,
    waker: Arc<Waker>,
}

impl CarrierHandle {
    /// Has a connection carry datagrams from now on. If the login that it belongs to has too many
    /// carriers, its oldest is closed.
    ///
    /// # Errors
    /// See [`NotAdopted`]; the connection is closed then.
    pub fn adopt(&self, carrier: CarrierStream, login: Id) -> Result<(), NotAdopted> {
        let order = Order::Adopt { carrier: Box::new(carrier), login };
        self.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => NotAdopted::Busy,
            TrySendError::Disconnected(_) => NotAdopted::Stopped,
        })?;
        self.wake();
        Ok(())
    }

    /// Closes all carriers of a login, and drops `guard` when they are.
    pub fn close(&self, login: Id, guard: impl Any + Send) {
        // If the thread has ended, so have all carriers.
        let _ = self.orders.send(Order::Close { login, guard: Box::new(guard) });
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("cannot wake the carrier thread: {error}");
        }
    }
}

impl fmt::Debug for CarrierHandle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("CarrierHandle")
    }
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct CarrierRelay {
    handle: CarrierHandle,
    thread: Option<JoinHandle<()>>,
}

impl CarrierRelay {
    /// Starts it. `server` is where this server takes datagrams, as reached from 127.0.0.0/8;
    /// `drops` is told what is lost, and nobody else may tell it of drops of the same kinds.
    ///
    /// # Errors
    /// The kernel gives no poll or thread.
    pub fn start(server: SocketAddr, drops: Arc<DropCounters>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (orders, received) = crossbeam_channel::bounded(CARRIER_ORDERS_MAX);
        let relay = Relay::new(poll, received, server, drops);
        let thread = thread::Builder::new().name("carriers".to_owned()).spawn(move || {
            if let Err(error) = privileges::drop_all_on_this_thread() {
                log::warn!("the carriers' thread keeps its capabilities: {error}");
            }
            relay.run();
        })?;
        Ok(Self { handle: CarrierHandle { orders, waker }, thread: Some(thread) })
    }

    /// Reaches the thread.
    #[must_use]
    pub fn handle(&self) -> CarrierHandle {
        self.handle.clone()
    }
}

impl Drop for CarrierRelay {
    fn drop(&mut self) {
        let told = self.handle.orders.send(Order::Stop).is_ok();
        self.handle.wake();
        if let Some(thread) = self.thread.take().filter(|_| told) {
            // A panic has been told.
            let _ = thread.join();
        }
    }
}

type Orders = Receiver<Order>;
