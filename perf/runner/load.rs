//! Corelane's own traffic generator between two hosts.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use corelane::bench::{self, BenchServer, StopFlag, TestReport, TestSpec};
use corelane::lab::TwoHosts;

use super::Failure;

/// Runs `client` on the client's host against a traffic generator that listens at `target` on the
/// server's, and is told where.
pub(crate) fn with_generator<T: Send>(
    lab: &TwoHosts,
    target: Ipv4Addr,
    client: impl FnOnce(SocketAddr) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let over = StopFlag::new();
    let address = SocketAddr::from((target, 0));
    let server = lab.server.run(|| BenchServer::bind(address, over.clone()))??;
    let address = server.local_address()?;
    thread::scope(|scope| {
        let serving = scope.spawn(|| lab.server.run(|| server.serve(false)));
        let outcome = lab.client.run(|| client(address));
        over.raise();
        let served = serving.join().map_err(|_| "the traffic generator panicked")?;
        let outcome = outcome??;
        served??;
        Ok(outcome)
    })
}

/// Runs one test.
pub(crate) fn run_test(
    lab: &TwoHosts,
    target: Ipv4Addr,
    test: &TestSpec,
    stop: &StopFlag,
) -> Result<TestReport, Failure> {
    with_generator(lab, target, |address| Ok(bench::run_test(address, test, stop, &mut |_| {})?))
}
