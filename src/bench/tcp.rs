//! The two ends of a TCP stream.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use super::conduct::{Job, StreamContext};
use super::error::{BenchError, is_transient};
use super::pacer::Pacer;
use super::protocol::{TestSpec, payload};
use super::report::StreamReport;
use crate::limits::{BENCH_TCP_CHUNK_LEN_MAX, BENCH_TICK};
use crate::sys::clock;

/// Makes the job that sends on, or receives from, `stream`.
pub(crate) fn job(
    stream: TcpStream,
    spec: &TestSpec,
    sends: bool,
) -> Result<Job<'static>, BenchError> {
    stream
        .set_read_timeout(Some(BENCH_TICK))
        .and_then(|()| stream.set_write_timeout(Some(BENCH_TICK)))
        .map_err(BenchError::io("setting a stream's timeouts"))?;
    let chunk_len = spec.length.clamp(1, BENCH_TCP_CHUNK_LEN_MAX) as usize;
    let rate_bps = spec.stream_rate_bps();
    Ok(if sends {
        Box::new(move |context| send(stream, chunk_len, rate_bps, context))
    } else {
        Box::new(move |context| receive(stream, chunk_len, context))
    })
}

/// Writes until the test's end, then says so by closing the stream's sending direction.
fn send(
    mut stream: TcpStream,
    chunk_len: usize,
    rate_bps: Option<u64>,
    context: &StreamContext<'_>,
) -> Result<StreamReport, BenchError> {
    let chunk = payload(chunk_len);
    let mut pacer = rate_bps.map(|rate| Pacer::new(rate, context.start));
    let mut bytes = 0_u64;
    let stopped = loop {
        let now = clock::now();
        if now >= context.end || context.aborted(now) {
            break now;
        }
        if let Some(pacer) = &mut pacer {
            let wait = pacer.due_in(now);
            if !wait.is_zero() {
                thread::sleep(wait.min(BENCH_TICK));
                continue;
            }
        }
        match stream.write(&chunk) {
            Ok(len) => {
                bytes += len as u64;
                context.count(len, 0);
                if let Some(pacer) = &mut pacer {
                    pacer.sent(len);
                }
            }
            Err(error) if is_transient(&error) => {}
            Err(source) => return Err(BenchError::Io { action: "sending on a stream", source }),
        }
    };
    // If the far end is already gone its report will be missing, which is noticed elsewhere.
    let _ = stream.shutdown(Shutdown::Write);
    let seconds = stopped.duration_since(context.start).as_secs_f64();
    Ok(StreamReport { bytes, seconds, ..StreamReport::default() })
}

/// Reads until the far end closes its sending direction.
fn receive(
    mut stream: TcpStream,
    chunk_len: usize,
    context: &StreamContext<'_>,
) -> Result<StreamReport, BenchError> {
    let mut chunk = vec![0; chunk_len];
    let mut bytes = 0_u64;
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => {
                bytes += len as u64;
                context.count(len, 0);
            }
            Err(error) if is_transient(&error) => {}
            Err(source) => return Err(BenchError::Io { action: "receiving on a stream", source }),
        }
        if context.aborted(clock::now()) {
            break;
        }
    }
    let seconds = clock::now().duration_since(context.start).as_secs_f64();
    Ok(StreamReport { bytes, seconds, ..StreamReport::default() })
}
