//! Longest prefix match from an inner address to the peer that owns it.

mod hosts;
mod prefix_table;

pub use prefix_table::{PeerId, PrefixTable};
