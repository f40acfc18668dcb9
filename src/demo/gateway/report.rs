//! What the demo of the proxy gateway found, for programs and for people.

use serde::{Deserialize, Serialize};

use crate::bench::units;
use crate::demo::table::Table;

/// The schema number of [`GatewayReport`]. Keys are added, never renamed or removed, within one
/// number.
pub const GATEWAY_DEMO_SCHEMA: u32 = 1;

/// What `corelane demo --proxy --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayReport {
    /// [`GATEWAY_DEMO_SCHEMA`].
    pub schema: u32,
    /// Program version.
    pub version: String,
    /// Workers of the gateway.
    pub workers: u64,
    /// The same page, by each protocol; the first one without the gateway.
    pub requests: Vec<RequestRow>,
    /// What was asked for and not given.
    pub refusals: Vec<RefusalRow>,
    /// One connection as fast as it goes; the first one without the gateway.
    pub routes: Vec<RouteRow>,
    /// Clients, as the gateway has counted them.
    pub clients: u64,
    /// Origins that it reached for them.
    pub origins_reached: u64,
    /// Bytes from clients to origins, as it has counted them.
    pub up_bytes: u64,
    /// Bytes from origins to clients.
    pub down_bytes: u64,
}

/// A page that was brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRow {
    /// The protocol, or `direct`.
    pub by: String,
    /// From the first packet to the whole page.
    pub took_ms: f64,
}

/// A request that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusalRow {
    /// The protocol.
    pub by: String,
    /// The address that was asked for.
    pub target: String,
    /// The code of the refusal.
    pub answer: String,
}

/// A connection that was busy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The protocol, or `direct`.
    pub by: String,
    /// Throughput in bits per second.
    pub bps: f64,
    /// The same as a share of the direct one.
    pub percent_of_direct: f64,
    /// CPU time of the gateway, in seconds per 10^9 bytes; none for the direct one.
    pub cpu_s_per_gb: Option<f64>,
}

impl GatewayReport {
    /// The report as a table.
    pub fn render(&self) -> String {
        let mut table = Table::default();
        table.row("", ["page", "throughput", "of direct", "CPU s/GB"].map(str::to_owned));
        for (request, route) in self.requests.iter().zip(&self.routes) {
            let cpu = route.cpu_s_per_gb.map_or_else(String::new, |cost| format!("{cost:.3}"));
            let cells = [
                format!("{:.2} ms", request.took_ms),
                units::bits_per_second(route.bps),
                format!("{:.0} %", route.percent_of_direct),
                cpu,
            ];
            table.row(&request.by, cells);
        }
        table.blank();
        for RefusalRow { by, target, answer } in &self.refusals {
            table.note("refused", format!("{target} by {by}: {answer}"));
        }
        let counted = format!(
            "{} clients, {} origins reached, {} up, {} down, by {} workers",
            self.clients,
            self.origins_reached,
            units::bytes(self.up_bytes),
            units::bytes(self.down_bytes),
            self.workers,
        );
        table.note("counted", counted);
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::{GATEWAY_DEMO_SCHEMA, GatewayReport, RefusalRow, RequestRow, RouteRow};

    #[test]
    fn a_report_for_people_has_a_row_for_each_way() {
        let request = |by: &str, took_ms| RequestRow { by: by.to_owned(), took_ms };
        let route = |by: &str, bps, cpu_s_per_gb| RouteRow {
            by: by.to_owned(),
            bps,
            percent_of_direct: bps / 1e8,
            cpu_s_per_gb,
        };
        let report = GatewayReport {
            schema: GATEWAY_DEMO_SCHEMA,
            version: String::new(),
            workers: 2,
            requests: vec![request("direct", 0.5), request("SOCKS5", 1.25)],
            refusals: vec![RefusalRow {
                by: "SOCKS5".to_owned(),
                target: "127.0.0.1:1080".to_owned(),
                answer: "02".to_owned(),
            }],
            routes: vec![route("direct", 1e10, None), route("SOCKS5", 8e9, Some(0.25))],
            clients: 3,
            origins_reached: 2,
            up_bytes: 100,
            down_bytes: 2000,
        };
        let text = report.render();
        let row: Vec<_> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(row[..3], ["SOCKS5", "1.25", "ms"], "{text}");
        assert_eq!(row[row.len() - 3..], ["80", "%", "0.250"], "{text}");
        assert!(text.contains("127.0.0.1:1080 by SOCKS5: 02"), "{text}");
        assert!(text.contains("3 clients, 2 origins reached"), "{text}");
    }
}
