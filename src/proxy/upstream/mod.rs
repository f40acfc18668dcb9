//! Which way a client's wish goes: straight to the origin, nowhere, or through another proxy.
//!
//! [`rules`] say which. Where it is through another proxy, a [`group`] says which of its servers is
//! asked, by how they fare ([`health`], and [`check`] on the gateway's own account), and
//! [`handshake`] is what is said to it, inside [`tls`] if it speaks that, and with a [`proof`] of
//! who asks if it wants one. Connections that are made beforehand are as many as there is a
//! [`demand`] for. [`probe`] says the same on a thread that may wait.

pub mod check;
pub mod demand;
pub mod group;
pub mod handshake;
pub mod health;
pub mod probe;
pub mod proof;
pub mod rules;
pub mod tls;

pub use group::Group;
pub use proof::Proof;
pub use rules::{Question, Routes, Rule, Way};
