//! What the demo of logins found, for programs and for people.

use serde::{Deserialize, Serialize};

use crate::bench::units;
use crate::demo::table::Table;

/// The schema number of [`LoginReport`]. Keys are added, never renamed or removed, within one
/// number.
pub const LOGIN_DEMO_SCHEMA: u32 = 1;

/// What `corelane demo --login --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoginReport {
    /// [`LOGIN_DEMO_SCHEMA`].
    pub schema: u32,
    /// Program version.
    pub version: String,
    /// From the start of the client to an echo through the tunnel: TLS, password, code, lease,
    /// tunnel.
    pub online_ms: f64,
    /// What one TCP connection carried, before, while and after UDP was blocked.
    pub carrier: CarrierFacts,
    /// What happened when the server died.
    pub failover: FailoverFacts,
    /// What happened when the user was disabled.
    pub revocation: RevocationFacts,
}

/// One TCP connection over UDP, over TLS, and over UDP again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarrierFacts {
    /// Throughput over UDP, in bits per second.
    pub udp_bps: f64,
    /// Throughput over TLS.
    pub tls_bps: f64,
    /// Throughput after the return.
    pub again_bps: f64,
    /// The longest pause of another TCP connection beside it when UDP was blocked.
    pub to_tls_ms: f64,
    /// From the end of the block to the first datagram over UDP.
    pub back_after_ms: f64,
    /// The longest pause of the other connection meanwhile.
    pub to_udp_ms: f64,
}

/// A server was killed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverFacts {
    /// From the kill to an echo through the other server.
    pub online_again_ms: f64,
}

/// A user was disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevocationFacts {
    /// What `corelane user disable` printed.
    pub answer: String,
    /// From the command to its answer, which comes when every path is closed.
    pub took_ms: f64,
    /// Peers of the server that were connected then.
    pub peers_afterwards: usize,
    /// From the command to the end of the client, which had nothing left to do.
    pub client_ended_ms: f64,
}

impl LoginReport {
    /// The report as a table.
    pub fn render(&self) -> String {
        let ms = |value: f64| {
            if value < 1000.0 { format!("{value:.0} ms") } else { format!("{:.2} s", value / 1e3) }
        };
        let rate = |value: f64| units::bits_per_second(value);
        let Self { carrier, failover, revocation, .. } = self;
        let mut table = Table::default();
        table.row("login to first echo (TLS, password, code, lease)", [ms(self.online_ms)]);
        table.blank();
        table.row("one TCP connection, over UDP", [rate(carrier.udp_bps)]);
        table.row("  UDP blocked: over TLS", [rate(carrier.tls_bps)]);
        table.row("  no longer blocked: over UDP", [rate(carrier.again_bps)]);
        table.row("longest pause when UDP was blocked", [ms(carrier.to_tls_ms)]);
        table.row("UDP used again after", [ms(carrier.back_after_ms)]);
        table.row("longest pause meanwhile", [ms(carrier.to_udp_ms)]);
        table.blank();
        table.row("server killed: online at the other after", [ms(failover.online_again_ms)]);
        table.row("user disabled: every path closed after", [ms(revocation.took_ms)]);
        table.note("  the command said", revocation.answer.clone());
        table.render()
    }
}
