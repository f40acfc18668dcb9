//! TCP streams, by iperf3.

use std::net::Ipv4Addr;
use std::time::Duration;

use corelane::bench::StopFlag;
use corelane::lab::{TwoHosts, wait_until};
use serde_json::Value;

use super::Failure;
use super::process::Process;

/// iperf3's own port.
const PORT: u16 = 5201;
/// Time iperf3 gets besides the test itself, for setting up and reporting.
const GRACE: Duration = Duration::from_secs(15);

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

/// One TCP test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpTest {
    pub(crate) streams: u16,
    pub(crate) way: Way,
    pub(crate) seconds: u32,
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Received {
    pub(crate) bytes: f64,
    pub(crate) bits_per_second: f64,
}

/// An iperf3 server and a client in the middle of a test.
pub(crate) struct RunningTest {
    server: Process,
    client: Process,
    within: Duration,
}

impl TcpTest {
    /// Starts both ends. The server listens on `address` alone, so that nothing can take a shorter
    /// way.
    pub(crate) fn start(&self, lab: &TwoHosts, address: Ipv4Addr) -> Result<RunningTest, Failure> {
        let (address, port) = (address.to_string(), PORT.to_string());
        let mut command = lab.server.command("iperf3")?;
        command.args(["--server", "--one-off", "--bind", &address, "--port", &port]);
        let mut server = Process::spawn("iperf3 --server", command)?;
        wait_until(GRACE, "iperf3 to listen", || {
            let listens = lab.server.run(listens).unwrap_or(false);
            (listens || server.ensure_alive().is_err()).then_some(())
        })?;
        server.ensure_alive()?;
        let mut command = lab.client.command("iperf3")?;
        command.args([
            "--json",
            "--connect-timeout",
            "5000",
            "--client",
            &address,
            "--port",
            &port,
        ]);
        command.args(["--time", &self.seconds.to_string()]);
        command.args(["--parallel", &self.streams.to_string()]);
        if self.way == Way::Down {
            command.arg("--reverse");
        }
        let client = Process::spawn("iperf3 --client", command)?;
        let within = Duration::from_secs(u64::from(self.seconds)) + GRACE;
        Ok(RunningTest { server, client, within })
    }
}

impl RunningTest {
    /// Waits for the end of the test.
    pub(crate) fn finish(self, stop: &StopFlag) -> Result<Received, Failure> {
        // A failing client says why in its JSON, whatever its exit status.
        let report = self.client.finish(self.within, stop)?;
        let received = parse(&report)?;
        self.server.finish(GRACE, stop)?;
        Ok(received)
    }
}

/// What iperf3's receiver saw.
fn parse(report: &str) -> Result<Received, Failure> {
    let report: Value = serde_json::from_str(report)
        .map_err(|error| format!("iperf3 printed no report: {error}"))?;
    if let Some(error) = report["error"].as_str() {
        return Err(format!("iperf3: {error}").into());
    }
    let sum = &report["end"]["sum_received"];
    match (sum["bytes"].as_f64(), sum["bits_per_second"].as_f64()) {
        (Some(bytes), Some(bits_per_second)) if bytes > 0.0 => {
            Ok(Received { bytes, bits_per_second })
        }
        _ => Err("iperf3 received nothing".into()),
    }
}

/// Whether something listens on iperf3's port in the network namespace of the calling thread.
fn listens() -> bool {
    // Address and port in hexadecimal, then state 0A, TCP_LISTEN (proc_net_tcp.rst).
    let port = format!(":{PORT:04X} ");
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    table.lines().any(|line| line.contains(&port) && line.contains(" 0A "))
}

#[cfg(test)]
mod tests {
    use super::{Received, parse};

    #[test]
    fn the_receivers_sum_counts() {
        let report = r#"{"end": {"sum_sent": {"bytes": 9, "bits_per_second": 9.0},
            "sum_received": {"bytes": 3000, "bits_per_second": 12000.5}}}"#;
        let received = parse(report).unwrap();
        assert_eq!(received, Received { bytes: 3000.0, bits_per_second: 12000.5 });
    }

    #[test]
    fn errors_are_passed_on() {
        for (report, reason) in [
            (r#"{"error": "unable to connect"}"#, "unable to connect"),
            (r#"{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}"#, "nothing"),
            ("{}", "nothing"),
            ("", "no report"),
        ] {
            let error = parse(report).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
