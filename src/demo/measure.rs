//! The measurements, one after the other.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::error::DemoError;
use super::report::{CpuFacts, DEMO_SCHEMA, DemoReport, LatencyRow, TcpRow, TunnelFacts, UdpRow};
use super::site::SERVER_INNER_V4;
use super::start::{STEPS, STEPS_OF_STARTING, Steps};
use super::{Demo, Tell, ping, proof};
use crate::bench::{
    self, Attempt, BenchError, Direction, LatencyReport, LatencySpec, SearchReport, TestReport,
    TestSpec, units,
};
use crate::lab::addresses::SERVER_V4;
use crate::limits::TUN_MTU_DEFAULT;

/// TCP tests: streams and direction.
const TCP_TESTS: [(u16, Direction); 3] =
    [(1, Direction::Forward), (1, Direction::Reverse), (4, Direction::Forward)];
/// UDP tests: payload bytes, and whether in trains.
const UDP_TESTS: [(u32, bool); 3] = [(1300, false), (1300, true), (64, false)];
/// Ping, the tests, the proof, the daemons' own figures.
pub(super) const STEPS_OF_MEASURING: usize = 1 + TCP_TESTS.len() + UDP_TESTS.len() + 1 + 1;
/// The loss a UDP test allows, in percent: what iperf3 users call none.
const LOSS_TARGET_PERCENT: f64 = 0.1;
/// The share of a measurement's time that each try of a UDP rate gets, and the least it gets.
const TRIES_PER_DURATION: u32 = 4;
const TRY_DURATION_MIN: Duration = Duration::from_millis(200);

pub(super) fn measure(demo: &mut Demo, tell: Tell<'_>) -> Result<DemoReport, DemoError> {
    let mut steps = Steps::new(STEPS_OF_STARTING, STEPS, tell);
    let ping = demo.measure_ping(&mut steps)?;
    let mut tcp = Vec::with_capacity(TCP_TESTS.len());
    for (streams, direction) in TCP_TESTS {
        tcp.push(demo.measure_tcp(streams, direction, &mut steps)?);
    }
    let mut udp = Vec::with_capacity(UDP_TESTS.len());
    for (payload_bytes, trains) in UDP_TESTS {
        udp.push(demo.measure_udp(payload_bytes, trains, &mut steps)?);
    }

    steps.begin("look for the payload on the wire");
    let tun = demo.server.status()?.tun;
    let proof = proof::prove(&demo.lab, &tun, &demo.stop)?;
    if let Some(objection) = proof.objection() {
        return Err(DemoError::NotConcealed(objection));
    }
    steps.done("not to be seen");

    steps.begin("ask both daemons");
    let (server, client) = (demo.server.status()?, demo.client.status()?);
    steps.done("done");
    Ok(DemoReport {
        schema: DEMO_SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| "of unknown version".to_owned(), |text| text.trim().to_owned()),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        duration_s: demo.options.duration.as_secs_f64(),
        cpu: CpuFacts::sum(tcp.iter().map(|row| &row.cpu)),
        ping,
        tcp,
        udp,
        server: TunnelFacts::of(&server),
        client: TunnelFacts::of(&client),
        proof,
    })
}

impl Demo {
    fn measure_ping(&self, steps: &mut Steps<'_>) -> Result<LatencyRow, DemoError> {
        steps.begin("ping");
        let (direct, _) = self.ping(SERVER_V4)?;
        let (tunnel, method) = self.ping(SERVER_INNER_V4)?;
        let median =
            tunnel.median_ms.map_or_else(|| "no answer".to_owned(), |ms| format!("{ms:.3} ms"));
        steps.done(&median);
        Ok(LatencyRow { method: method.to_owned(), tunnel, direct })
    }

    /// By ICMP or, where that is not allowed, by UDP.
    fn ping(&self, to: Ipv4Addr) -> Result<(LatencyReport, &'static str), DemoError> {
        let request = ping::Request::to(to);
        match self.lab.client.run(|| ping::ping(&request, &self.stop))? {
            Ok(_) if self.stop.is_raised() => Err(DemoError::Interrupted),
            Ok(report) => Ok((report, "icmp")),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let spec = LatencySpec {
                    count: u32::from(request.count),
                    interval: request.interval,
                    ..LatencySpec::default()
                };
                let report = self
                    .lab
                    .client
                    .run(|| bench::run_latency(self.bench.at(to), &spec, &self.stop))?
                    .map_err(DemoError::measuring("UDP echo"))?;
                Ok((report, "udp"))
            }
            Err(error) => Err(DemoError::io(format!("ping {to}"))(error)),
        }
    }

    fn measure_tcp(
        &self,
        streams: u16,
        direction: Direction,
        steps: &mut Steps<'_>,
    ) -> Result<TcpRow, DemoError> {
        let plural = if streams == 1 { "" } else { "s" };
        let arrow = match direction {
            Direction::Forward => "to server",
            Direction::Reverse => "to client",
        };
        let name = format!("TCP, {streams} stream{plural}, {arrow}");
        steps.begin(&name);
        let spec = TestSpec { streams, direction, ..TestSpec::tcp(self.options.duration) };
        let direct = self.run_test(SERVER_V4, &spec, &name)?.receiver;
        let (server_before, client_before) = self.cpu_seconds()?;
        let tunnel = self.run_test(SERVER_INNER_V4, &spec, &name)?.receiver;
        let (server_after, client_after) = self.cpu_seconds()?;
        steps.done(&units::bits_per_second(tunnel.bits_per_second));
        let ratio_percent = match direct.bits_per_second {
            direct if direct > 0.0 => tunnel.bits_per_second * 100.0 / direct,
            _ => 0.0,
        };
        let cpu =
            CpuFacts::new(server_after - server_before, client_after - client_before, tunnel.bytes);
        let direction = match direction {
            Direction::Forward => "forward",
            Direction::Reverse => "reverse",
        };
        let direction = direction.to_owned();
        Ok(TcpRow { streams, direction, tunnel, direct, ratio_percent, cpu })
    }

    fn cpu_seconds(&self) -> Result<(f64, f64), DemoError> {
        Ok((self.server.cpu_seconds()?, self.client.cpu_seconds()?))
    }

    fn run_test(&self, to: Ipv4Addr, spec: &TestSpec, name: &str) -> Result<TestReport, DemoError> {
        let report = self.on_client(|| {
            bench::run_test(self.bench.at(IpAddr::from(to)), spec, &self.stop, &mut |_| {})
        })?;
        report.map_err(DemoError::measuring(format!("{name}, to {to}")))
    }

    fn on_client<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, BenchError> + Send,
    ) -> Result<Result<T, BenchError>, DemoError> {
        Ok(self.lab.client.run(work)?)
    }

    fn measure_udp(
        &self,
        payload_bytes: u32,
        trains: bool,
        steps: &mut Steps<'_>,
    ) -> Result<UdpRow, DemoError> {
        // What the tunnel's MTU leaves behind the headers of IPv4 and UDP.
        let mtu = self.options.mtu.unwrap_or(TUN_MTU_DEFAULT);
        let payload_bytes = payload_bytes.min(u32::from(mtu) - 28);
        let suffix = if trains { " in trains" } else { "" };
        let name = format!("UDP, {payload_bytes} B{suffix}");
        steps.begin(&name);
        let duration = (self.options.duration / TRIES_PER_DURATION).max(TRY_DURATION_MIN);
        let spec = TestSpec { length: payload_bytes, gso: trains, ..TestSpec::udp(duration) };
        let server = self.bench.at(SERVER_INNER_V4);
        let found = self.on_client(|| {
            bench::search_rate(server, &spec, LOSS_TARGET_PERCENT, &self.stop, &mut |_| {})
        })?;
        let row = udp_row(&found.map_err(DemoError::measuring(name))?, payload_bytes, trains);
        steps.done(&format!(
            "{}, {:.3} % lost",
            units::packets_per_second(row.packets_per_second),
            row.loss_percent
        ));
        Ok(row)
    }
}

/// The best test of a search or, if none kept to the target, the one that lost least.
fn udp_row(found: &SearchReport, payload_bytes: u32, trains: bool) -> UdpRow {
    let bits_per_packet = f64::from(payload_bytes) * 8.0;
    let least = |best: Option<Attempt>, attempt: &Attempt| match best {
        Some(best) if best.loss_percent <= attempt.loss_percent => Some(best),
        _ => Some(*attempt),
    };
    let (bits_per_second, loss_percent) = match &found.best {
        Some(best) => (best.receiver.bits_per_second, best.loss_percent()),
        None => found
            .attempts
            .iter()
            .fold(None, least)
            .map_or((0.0, 100.0), |attempt| (attempt.received_bps, attempt.loss_percent)),
    };
    UdpRow {
        payload_bytes,
        trains,
        loss_target_percent: found.loss_target_percent,
        target_met: found.best.is_some(),
        packets_per_second: bits_per_second / bits_per_packet,
        bits_per_second,
        loss_percent,
    }
}

#[cfg(test)]
mod tests {
    use super::udp_row;
    use crate::bench::{Attempt, SearchReport};

    #[test]
    fn without_a_rate_that_kept_to_the_target_the_least_loss_is_shown_and_marked() {
        let attempt = |received_bps, loss_percent| Attempt {
            rate_bps: None,
            sent_bps: 2e6,
            received_bps,
            loss_percent,
        };
        let mut found = SearchReport {
            schema: 1,
            loss_target_percent: 0.1,
            best: None,
            attempts: vec![attempt(1.6e6, 20.0), attempt(0.8e6, 5.0), attempt(0.4e6, 5.0)],
        };
        let row = udp_row(&found, 100, false);
        assert!(!row.target_met);
        assert_eq!((row.packets_per_second, row.loss_percent), (1000.0, 5.0));
        found.attempts.clear();
        assert_eq!(udp_row(&found, 100, false).loss_percent, 100.0);
    }
}
