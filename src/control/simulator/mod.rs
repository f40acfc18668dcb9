//! A simulated world: the real control engines and the real workers of a server and its clients,
//! joined by a virtual network, in virtual time.
//!
//! How it works:
//!
//! 1. A [`World`] holds one [`side::Side`] for each machine: an [`Engine`] with real keys, and
//!    workers that lack nothing but descriptors ([`MemoryWorker`]). Handshakes, seals, replay
//!    windows, lanes and timers are those of the product.
//! 2. What a side sends are datagrams. The [`network`] loses, doubles, delays, damages and repeats
//!    them as its weather and a test's filter say, and delivers the rest as the kernel's steering
//!    would, after the same two bytes.
//! 3. The clock jumps from one event to the next, so hours pass in milliseconds. Everything random
//!    comes from one seed, so equal seeds give equal runs, which the hash of the [`trace`] shows.
//! 4. The [`oracle`] sees every packet that is sealed, opened and delivered, and objects as soon as
//!    one of its rules is broken.
//! 5. A [`plan`] turns a number into a world, its weather and its mishaps; a [`storm`] lets them
//!    rage, then calms it, and demands that the tunnel works again within a time that follows from
//!    the limits.
//!
//! [`Engine`]: crate::control::engine::Engine
//! [`MemoryWorker`]: crate::dataplane::testing::MemoryWorker

pub(crate) mod guests;
pub(crate) mod inner;
pub(crate) mod mishaps;
pub(crate) mod network;
pub(crate) mod oracle;
pub(crate) mod passage;
pub(crate) mod plan;
pub(crate) mod side;
pub(crate) mod storm;
pub(crate) mod trace;
pub(crate) mod world;

mod tests;

pub(crate) use network::{Packet, RELAY};
pub(crate) use side::Who;
pub(crate) use world::World;
