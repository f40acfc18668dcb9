//! Puts the status report together.

use std::time::Instant;

use crate::control::engine::Engine;
use crate::telemetry::drops::DropReason;
use crate::telemetry::status::{OffloadStatus, STATUS_SCHEMA, StatusReport, WorkerStatus};

use super::workers::{WorkerHandle, Workers};

/// What a status report says that does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct DaemonInfo {
    /// Program version.
    pub version: String,
    /// Name of the TUN device.
    pub tun: String,
    /// MTU of the TUN device, in bytes.
    pub mtu: u32,
    /// Addresses the server listens on, or the client's server.
    pub endpoints: Vec<String>,
    /// Offloads in force.
    pub offloads: OffloadStatus,
}

/// Makes reports, and remembers what the next one needs of the last.
pub(super) struct Reporter {
    info: DaemonInfo,
    started: Instant,
    last_error: Option<String>,
    last_report: Instant,
    /// Each worker's busy nanoseconds at the last report.
    busy_ns: Vec<u64>,
}

impl Reporter {
    pub(super) fn new(info: DaemonInfo, now: Instant) -> Self {
        Self { info, started: now, last_error: None, last_report: now, busy_ns: Vec::new() }
    }

    /// The name of the TUN device.
    pub(super) fn device(&self) -> &str {
        &self.info.tun
    }

    pub(super) fn set_last_error(&mut self, error: String) {
        self.last_error = Some(error);
    }

    pub(super) fn report(
        &mut self,
        now: Instant,
        engine: &Engine,
        workers: &Workers,
    ) -> StatusReport {
        let elapsed_ns = now.saturating_duration_since(self.last_report).as_nanos() as u64;
        self.last_report = now;
        self.busy_ns.resize(workers.handles().len(), 0);
        let statuses = workers.handles().iter().zip(&mut self.busy_ns).enumerate();
        let statuses = statuses
            .map(|(number, (handle, before))| worker_status(number, handle, before, elapsed_ns));
        StatusReport {
            schema: STATUS_SCHEMA,
            role: engine.role_name().to_owned(),
            version: self.info.version.clone(),
            pid: std::process::id(),
            uptime_s: now.saturating_duration_since(self.started).as_secs_f64(),
            state: engine.state().name().to_owned(),
            tun: self.info.tun.clone(),
            mtu: self.info.mtu,
            public_key: engine.public_key().to_string(),
            endpoints: self.info.endpoints.clone(),
            offloads: self.info.offloads,
            workers: statuses.collect(),
            peers: engine.status(now),
            drops: DropReason::ALL
                .iter()
                .map(|reason| (reason.name().to_owned(), dropped(*reason, engine, workers)))
                .collect(),
            accounts: None,
            proxy: None,
            last_error: self.last_error.clone(),
        }
    }
}

/// Packets dropped for `reason` by all threads together.
fn dropped(reason: DropReason, engine: &Engine, workers: &Workers) -> u64 {
    let workers = workers.handles().iter().map(|handle| handle.counters.drops.get(reason));
    engine.drops().get(reason) + workers.sum::<u64>()
}

fn worker_status(
    worker: usize,
    handle: &WorkerHandle,
    busy_before_ns: &mut u64,
    elapsed_ns: u64,
) -> WorkerStatus {
    let counters = &handle.counters;
    let packets = counters.to_wire.packets.get() + counters.from_wire.packets.get();
    let calls =
        [&counters.tun_reads, &counters.tun_writes, &counters.udp_sends, &counters.udp_receives];
    let batches: u64 = calls.into_iter().map(|calls| calls.get()).sum();
    let busy_ns = counters.busy_ns.get();
    let worked_ns = busy_ns.saturating_sub(std::mem::replace(busy_before_ns, busy_ns));
    WorkerStatus {
        worker,
        cpu: handle.cpu,
        to_wire_packets: counters.to_wire.packets.get(),
        to_wire_bytes: counters.to_wire.bytes.get(),
        from_wire_packets: counters.from_wire.packets.get(),
        from_wire_bytes: counters.from_wire.bytes.get(),
        batches,
        // Every packet passes through two batches: the one it came in and the one it left in.
        average_batch: 2.0 * ratio(packets, batches),
        busy_share: ratio(worked_ns, elapsed_ns).min(1.0),
        gso_fallbacks: counters.gso_fallbacks.get(),
        tun_fallbacks: counters.tun_fallbacks.get(),
        reordered: counters.reordered.get(),
    }
}

/// A quotient, 0 where there is none.
fn ratio(dividend: u64, divisor: u64) -> f64 {
    if divisor == 0 { 0.0 } else { dividend as f64 / divisor as f64 }
}
