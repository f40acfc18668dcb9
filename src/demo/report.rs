//! What a demo found: the machine-readable report and its rendering as a table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::proof::ProofReport;
use super::table::Table;
use crate::bench::{EndSummary, LatencyReport, units};
use crate::telemetry::status::{LanesInUse, OffloadStatus, StatusReport};

/// The schema number of [`DemoReport`]. Keys are added, never renamed or removed, within one
/// number.
pub const DEMO_SCHEMA: u32 = 1;

/// Everything a demo found: what `corelane demo --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DemoReport {
    /// [`DEMO_SCHEMA`].
    pub schema: u32,
    /// Program version.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// How long each measurement took, in seconds.
    pub duration_s: f64,
    /// Round-trip times.
    pub ping: LatencyRow,
    /// TCP throughput, test by test.
    pub tcp: Vec<TcpRow>,
    /// UDP rates, test by test.
    pub udp: Vec<UdpRow>,
    /// CPU time of both daemons over all TCP tests.
    pub cpu: CpuFacts,
    /// What the server says about itself after all this.
    pub server: TunnelFacts,
    /// What the client says about itself after all this.
    pub client: TunnelFacts,
    /// Whether the payload can be seen on the wire.
    pub proof: ProofReport,
}

/// Round-trip times through the tunnel and beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LatencyRow {
    /// `"icmp"`, or `"udp"` where ICMP sockets are not allowed.
    pub method: String,
    /// Through the tunnel.
    pub tunnel: LatencyReport,
    /// From host to host.
    pub direct: LatencyReport,
}

/// One TCP test through the tunnel and beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TcpRow {
    /// Parallel streams.
    pub streams: u16,
    /// `"forward"`: the client sends; `"reverse"`: the server does.
    pub direction: String,
    /// What arrived through the tunnel.
    pub tunnel: EndSummary,
    /// What arrived from host to host.
    pub direct: EndSummary,
    /// Throughput of the tunnel in percent of the direct one.
    pub ratio_percent: f64,
    /// CPU time of both daemons during the tunnel's test.
    pub cpu: CpuFacts,
}

/// CPU time of the daemons and what they moved with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuFacts {
    /// CPU seconds of the server.
    pub server_s: f64,
    /// CPU seconds of the client.
    pub client_s: f64,
    /// Payload bytes that arrived meanwhile.
    pub bytes: u64,
    /// CPU seconds of the server per 10^9 bytes.
    pub server_s_per_gb: f64,
    /// CPU seconds of the client per 10^9 bytes.
    pub client_s_per_gb: f64,
}

impl CpuFacts {
    pub(super) fn new(server_s: f64, client_s: f64, bytes: u64) -> Self {
        let gigabytes = bytes as f64 / 1e9;
        let per_gb = |seconds: f64| if bytes == 0 { 0.0 } else { seconds / gigabytes };
        Self {
            server_s,
            client_s,
            bytes,
            server_s_per_gb: per_gb(server_s),
            client_s_per_gb: per_gb(client_s),
        }
    }

    /// Several tests together.
    pub(super) fn sum<'a>(tests: impl Iterator<Item = &'a Self>) -> Self {
        let (mut server_s, mut client_s, mut bytes) = (0.0, 0.0, 0);
        for test in tests {
            server_s += test.server_s;
            client_s += test.client_s;
            bytes += test.bytes;
        }
        Self::new(server_s, client_s, bytes)
    }
}

/// The highest UDP rate through the tunnel that kept to the loss allowed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UdpRow {
    /// Payload bytes of a datagram.
    pub payload_bytes: u32,
    /// Whether the sender used trains (`UDP_SEGMENT`).
    pub trains: bool,
    /// The loss allowed, in percent.
    pub loss_target_percent: f64,
    /// Whether a rate was found that kept to it; if not, the figures are those of the test that
    /// lost least.
    pub target_met: bool,
    /// Datagrams per second that arrived.
    pub packets_per_second: f64,
    /// Payload bits per second that arrived.
    pub bits_per_second: f64,
    /// Datagrams lost, in percent.
    pub loss_percent: f64,
}

/// What a daemon says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunnelFacts {
    /// Its workers.
    pub workers: usize,
    /// Workers that moved packets.
    pub workers_used: usize,
    /// The CPUs the workers are pinned to.
    pub cpus: Vec<usize>,
    /// Lanes of the session.
    pub lanes: LanesInUse,
    /// Offloads in force.
    pub offloads: OffloadStatus,
    /// MTU inside the tunnel.
    pub mtu: u32,
    /// Duration of the handshake (client only).
    pub handshake_ms: Option<f64>,
    /// Packets dropped, by reason; reasons without any are left out.
    pub drops: BTreeMap<String, u64>,
}

impl TunnelFacts {
    pub(super) fn of(status: &StatusReport) -> Self {
        let peer = status.peers.iter().find(|peer| peer.connected);
        let moved = status
            .workers
            .iter()
            .filter(|worker| worker.to_wire_packets > 0 || worker.from_wire_packets > 0);
        Self {
            workers: status.workers.len(),
            workers_used: moved.count(),
            cpus: status.workers.iter().filter_map(|worker| worker.cpu).collect(),
            lanes: peer.map(|peer| peer.lanes_in_use.clone()).unwrap_or_default(),
            offloads: status.offloads,
            mtu: status.mtu,
            handshake_ms: peer.and_then(|peer| peer.handshake_ms),
            drops: status
                .drops
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| (reason.clone(), *count))
                .collect(),
        }
    }
}

impl DemoReport {
    /// The report as a table.
    pub fn render(&self) -> String {
        let mut table = Table::default();
        table.row("", ["tunnel", "direct", "ratio"].map(str::to_owned));
        self.ping_rows(&mut table);
        table.blank();
        for row in &self.tcp {
            self.tcp_row(row, &mut table);
        }
        table.blank();
        table.row("", ["packets/s", "payload", "lost"].map(str::to_owned));
        for row in &self.udp {
            udp_row(row, &mut table);
        }
        table.blank();
        self.facts(&mut table);
        let cpus = if self.cpus == 1 { "CPU" } else { "CPUs" };
        format!(
            "Corelane {}, Linux {}, {} {cpus}, {} s per measurement\n\n{}",
            self.version,
            self.kernel,
            self.cpus,
            self.duration_s,
            table.render()
        )
    }

    fn ping_rows(&self, table: &mut Table) {
        let LatencyRow { method, tunnel, direct } = &self.ping;
        let ms = |value: Option<f64>| {
            value.map_or_else(|| "none".to_owned(), |ms| format!("{ms:.3} ms"))
        };
        let method = if method == "icmp" { "ping" } else { "UDP echo" };
        table.row(&format!("{method}, median"), [ms(tunnel.median_ms), ms(direct.median_ms)]);
        table.row(&format!("{method}, p99"), [ms(tunnel.p99_ms), ms(direct.p99_ms)]);
        let answered = |report: &LatencyReport| format!("{} of {}", report.received, report.sent);
        table.row(&format!("{method}, answered"), [answered(tunnel), answered(direct)]);
    }

    fn tcp_row(&self, row: &TcpRow, table: &mut Table) {
        let plural = if row.streams == 1 { "" } else { "s" };
        let arrow = if row.direction == "forward" { "to server" } else { "to client" };
        let name = format!("TCP, {} stream{plural}, {arrow}", row.streams);
        let tunnel = units::bits_per_second(row.tunnel.bits_per_second);
        let direct = units::bits_per_second(row.direct.bits_per_second);
        table.row(&name, [tunnel, direct, format!("{:.0} %", row.ratio_percent)]);
    }

    fn facts(&self, table: &mut Table) {
        let cpu = &self.cpu;
        table.note(
            "CPU per GB of TCP",
            format!("server {:.2} s, client {:.2} s", cpu.server_s_per_gb, cpu.client_s_per_gb),
        );
        let both = |facts: fn(&TunnelFacts) -> String| {
            let (server, client) = (facts(&self.server), facts(&self.client));
            if server == client {
                format!("both {server}")
            } else {
                format!("server {server}, client {client}")
            }
        };
        table.note(
            "workers",
            both(|facts| match facts.workers_used {
                used if used == facts.workers => used.to_string(),
                used => format!("{used} of {}", facts.workers),
            }),
        );
        let LanesInUse { sending, receiving } = &self.client.lanes;
        table.note(
            "lanes",
            format!("{} to server, {} to client", lane_list(sending), lane_list(receiving)),
        );
        table.note("offloads", offload_list(&self.server.offloads, &self.client.offloads));
        table.note("MTU inside", both(|facts| facts.mtu.to_string()));
        if let Some(ms) = self.client.handshake_ms {
            table.note("handshake", format!("{ms:.2} ms"));
        }
        table.note("drops", both(|facts| drop_list(&facts.drops)));
        let (outer, inner) = (&self.proof.outer, &self.proof.inner);
        table.note(
            "concealed",
            match self.proof.objection() {
                None => format!(
                    "yes: a 64-byte pattern is in {} packets inside, in {} of {} outside, where \
                     all datagrams are of types 1 to 4",
                    inner.with_pattern, outer.with_pattern, outer.packets
                ),
                Some(objection) => format!("NOT PROVED: {objection}"),
            },
        );
    }
}

fn udp_row(row: &UdpRow, table: &mut Table) {
    let trains = if row.trains { " in trains" } else { "" };
    let unmet = if row.target_met { "" } else { " (!)" };
    table.row(
        &format!("UDP, {} B{trains}", row.payload_bytes),
        [
            units::packets_per_second(row.packets_per_second),
            units::bits_per_second(row.bits_per_second),
            format!("{:.3} %{unmet}", row.loss_percent),
        ],
    );
}

/// `2 (0-1)`, from lane numbers.
fn lane_list(lanes: &[u8]) -> String {
    match (lanes.iter().min(), lanes.iter().max()) {
        (Some(first), Some(last)) if first == last => format!("1 ({first})"),
        (Some(first), Some(last)) => format!("{} ({first}-{last})", lanes.len()),
        _ => "0".to_owned(),
    }
}

/// What both ends have, then what only one of them has.
fn offload_list(server: &OffloadStatus, client: &OffloadStatus) -> String {
    let (mut both, mut only) = (Vec::new(), Vec::new());
    for (name, in_force) in OFFLOADS {
        match (in_force(server), in_force(client)) {
            (true, true) => both.push(name),
            (true, false) => only.push(format!("{name} (server)")),
            (false, true) => only.push(format!("{name} (client)")),
            (false, false) => {}
        }
    }
    let all: Vec<&str> = both.into_iter().chain(only.iter().map(String::as_str)).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

type InForce = fn(&OffloadStatus) -> bool;

/// Every offload, by a name that fits a table.
const OFFLOADS: [(&str, InForce); 6] = [
    ("checksum", |offloads| offloads.tun_checksum),
    ("TSO", |offloads| offloads.tun_tcp_segmentation),
    ("USO", |offloads| offloads.tun_udp_segmentation),
    ("UDP GSO", |offloads| offloads.udp_gso),
    ("UDP GRO", |offloads| offloads.udp_gro),
    ("lane steering", |offloads| offloads.steering),
];

fn drop_list(drops: &BTreeMap<String, u64>) -> String {
    if drops.is_empty() {
        return "none".to_owned();
    }
    let list: Vec<String> =
        drops.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    list.join(" + ")
}

#[cfg(test)]
mod tests;
