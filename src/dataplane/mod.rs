//! The tunnel worker: one thread that moves packets between its TUN queue and its sockets.
//!
//! [`worker`] is the event loop, `forwarder` what it does with packets: `to_wire` and `from_wire`
//! are its two directions, `policing` what a peer may do, `waiting` where its packets wait for
//! their turn; `spin` how a worker waits, `tables` what it knows, `trains` how datagrams leave
//! together, `link` the socket they leave by. [`messages`] is all that a worker and the control
//! thread share.

#[doc(hidden)]
pub mod fuzz;
pub mod messages;
#[doc(hidden)]
pub mod offline;
pub mod worker;

mod forwarder;
mod from_wire;
mod index_map;
mod link;
mod policing;
mod spin;
mod tables;
mod to_wire;
mod trains;
mod waiting;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use forwarder::ForwarderOptions;
