//! The control engine.
mod path_mtu;
