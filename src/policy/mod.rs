//! Policy: what a user's packets may reach, how fast, and how much.
//!
//! [`acl`] is the rules and [`bounds`] the figures, both of them data. [`judge`] and [`bucket`] are
//! what workers make of them, [`peer`] puts these together for one peer. [`explain`] tells people
//! which rule decides.

pub mod acl;
pub mod bounds;
pub mod bucket;
pub mod explain;
pub mod judge;
pub mod peer;

pub use judge::{Defaults, Direction, Judge, Verdict};
pub use peer::{PeerPolicy, Policies, SharedPolicies};
