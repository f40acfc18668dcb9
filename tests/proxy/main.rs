//! The proxy gateway as its users meet it: the real program, real sockets on loopback, curl.

#![expect(clippy::unwrap_used, reason = "a failure of the harness fails the test")]

mod access;
mod alone;
mod announced;
mod asked;
mod beside;
mod binding;
mod carried;
mod certified;
mod chained;
mod clients;
mod datagrams;
mod forwarding;
mod harness;
mod house;
mod ipv6;
mod known;
mod life;
mod members;
mod members_socks;
mod names;
mod oracle;
mod origins;
mod outside;
mod own;
mod pressure;
mod records;
mod refusals;
mod relays;
mod routes;
mod secured;
mod served;
mod smuggling;
mod splicing;
