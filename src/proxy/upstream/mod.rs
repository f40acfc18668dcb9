//! Which way a client's wish goes: straight to the origin, nowhere, or through another proxy.
//!
//! [`rules`] say which. Where it is through another proxy, a [`group`] says which of its servers is
//! asked, by how they fare ([`health`], and [`check`] on the gateway's own account), and
//! [`handshake`] is what is said to it.

pub mod check;
pub mod group;
pub mod handshake;
pub mod health;
pub mod rules;

pub use group::Group;
pub use rules::{Question, Routes, Rule, Way};
