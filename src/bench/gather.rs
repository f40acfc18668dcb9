//! How a server brings the streams of a test together before it starts.

use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::error::BenchError;
use super::line::LineChannel;
use super::protocol::{Answer, Progress, TestSpec, Token};
use super::stop::StopFlag;
use super::udp::UdpEnd;
use crate::limits::BENCH_SETUP_TIMEOUT;
use crate::sys::clock;
use crate::sys::udp::{RecvBatch, SendTarget};

/// How long to wait for a stream before looking whether the client is still there.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Names the test to the client and takes its TCP streams as they arrive, until there is one of
/// each number; returns them in order.
pub(super) fn tcp_streams(
    control: &mut LineChannel,
    test: &TestSpec,
    token: Token,
    arrivals: &Receiver<(u16, TcpStream)>,
    stop: &StopFlag,
) -> Result<Vec<TcpStream>, BenchError> {
    control.send(&Answer::Ready { token, udp_ports: Vec::new() })?;
    let mut found: Vec<Option<TcpStream>> = (0..test.streams).map(|_| None).collect();
    let deadline = clock::now() + BENCH_SETUP_TIMEOUT;
    while found.iter().any(Option::is_none) {
        // A timeout is told from an arrival by what is missing still.
        if let Ok((number, stream)) = arrivals.recv_timeout(LOOK_EVERY) {
            match found.get_mut(usize::from(number)) {
                Some(slot @ None) => *slot = Some(stream),
                _ => return Err(BenchError::Protocol("a stream number too many".to_owned())),
            }
        } else {
            check_client(control, deadline, stop)?;
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Opens the UDP streams, names their ports to the client and waits until each has been heard on;
/// returns each with the client's address of it.
pub(super) fn udp_ends(
    control: &mut LineChannel,
    test: &TestSpec,
    token: Token,
    stop: &StopFlag,
) -> Result<Vec<(UdpEnd, SendTarget)>, BenchError> {
    let address = local_ip(control)?;
    let ends = (0..test.streams)
        .map(|_| UdpEnd::bind(address, token.datagram_id()))
        .collect::<Result<Vec<_>, _>>()?;
    control.send(&Answer::Ready { token, udp_ports: ends.iter().map(UdpEnd::port).collect() })?;
    let mut batch = RecvBatch::new(1, 2048);
    let mut targets: Vec<Option<SendTarget>> = vec![None; ends.len()];
    let deadline = clock::now() + BENCH_SETUP_TIMEOUT;
    loop {
        for (end, target) in ends.iter().zip(&mut targets) {
            if target.is_none() {
                *target = end.heard_hello(&mut batch);
            }
        }
        if let Some(targets) = targets.iter().copied().collect::<Option<Vec<_>>>() {
            return Ok(ends.into_iter().zip(targets).collect());
        }
        check_client(control, deadline, stop)?;
    }
}

/// The address at which the client reached this server.
fn local_ip(control: &LineChannel) -> Result<IpAddr, BenchError> {
    let address = control
        .stream()
        .local_addr()
        .map_err(BenchError::io("asking for a connection's address"))?;
    Ok(address.ip().to_canonical())
}

/// Waits a moment; an error if the client has gone, is too slow, or the server is to stop.
fn check_client(
    control: &mut LineChannel,
    deadline: Instant,
    stop: &StopFlag,
) -> Result<(), BenchError> {
    if stop.is_raised() {
        return Err(BenchError::Interrupted);
    }
    if clock::now() >= deadline {
        return Err(BenchError::TimedOut("waiting for the client's streams"));
    }
    match control.receive::<Progress>(LOOK_EVERY)? {
        None => Ok(()),
        Some(_) => Err(BenchError::Protocol("a report before the start".to_owned())),
    }
}
