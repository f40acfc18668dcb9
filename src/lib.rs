//! Corelane: a thread-per-core userspace VPN for Linux.

pub mod bench;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod demo;
pub mod exit;
pub mod handshake;
pub mod host;
pub mod lab;
pub mod limits;
pub mod packet;
mod rate;
pub mod routing;
pub mod session;
pub mod sys;
pub mod telemetry;
pub mod wire;
