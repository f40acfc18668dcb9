//! Inner packets: what is read from a TUN device, carried inside data messages, and written to a
//! TUN device again.
//!
//! To the wire: [`parse::Parsed`] looks at a packet once, [`split::Split`] turns a super-packet
//! into segments that are ready to seal, [`run::RunTracker`] finds runs among small packets. From
//! the wire: [`coalesce::Coalescer`] puts runs together again, in place, for one `writev` each.
//! [`ecn`], [`mss`], [`icmp`] and [`fragment`] are the duties of a router.
//!
//! Everything here is pure: no socket, no clock, no allocation after construction. Layouts follow
//! RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP) and RFC 768 (UDP).

pub mod checksum;
pub mod coalesce;
pub mod ecn;
pub mod ends;
pub mod error;
pub mod flags;
pub mod fragment;
#[doc(hidden)]
pub mod fuzz;
pub mod icmp;
pub mod mss;
pub mod parse;
pub mod run;
pub mod split;
pub mod virtio;

mod field;
mod segment;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use coalesce::{CoalesceOptions, Coalescer, FinishedRun};
pub use ends::{Ends, Upper};
pub use error::PacketError;
pub use parse::{IpVersion, Parsed, Transport};
pub use run::RunTracker;
pub use split::Split;
pub use virtio::VirtioHeader;
