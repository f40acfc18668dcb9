//! Policy: what a user's packets may reach, how fast, and how much.
//!
//! [`acl`] is the rules, [`bounds`] the figures. Both are data; what a worker needs of them is
//! compiled once, when a session is granted or a rule changes.

pub mod acl;
pub mod bounds;
