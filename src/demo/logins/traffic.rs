//! One TCP connection that is busy for as long as the story takes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::bench::{self, BenchError, Interval, StopFlag, TestSpec};
use crate::demo::DemoError;
use crate::lab::Host;
use crate::limits::BENCH_TICK;
use crate::sys::clock;
use crate::sys::netns::NetNamespace;

/// Longer than the story takes.
const AS_LONG_AS_NEEDED: Duration = Duration::from_secs(300);
/// How much longer than asked for a rate may take to be seen: reports come once a second.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// What was seen of a second: when its report came, and what it says.
type Seen = Arc<Mutex<Vec<(Instant, Interval)>>>;

/// The connection and the thread that keeps it busy; both end when this is dropped.
#[derive(Debug)]
pub(super) struct Traffic {
    seen: Seen,
    stop: StopFlag,
    thread: Option<JoinHandle<Result<(), BenchError>>>,
}

impl Traffic {
    /// Begins to send from `client` to the bench server at `server`.
    pub(super) fn start(client: &Host, server: SocketAddr) -> Result<Self, DemoError> {
        let namespace = client
            .run(NetNamespace::current)?
            .map_err(DemoError::io("open the client's network namespace"))?;
        let (seen, stop) = (Seen::default(), StopFlag::new());
        let (sees, stops) = (Arc::clone(&seen), stop.clone());
        let send = move || {
            namespace
                .enter_current_thread()
                .map_err(|source| BenchError::Io { action: "entering a namespace", source })?;
            let spec = TestSpec::tcp(AS_LONG_AS_NEEDED);
            let mut note = |interval: &Interval| {
                let mut seen = sees.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push((clock::now(), *interval));
            };
            bench::run_test(server, &spec, &stops, &mut note).map(drop)
        };
        let thread = thread::Builder::new()
            .name("demo-traffic".to_owned())
            .spawn(send)
            .map_err(DemoError::io("start a thread"))?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Bits per second over the next `duration` or a little more, in whole seconds.
    ///
    /// # Errors
    /// The connection is broken, or nothing is heard of it.
    pub(super) fn rate_during(
        &self,
        duration: Duration,
        stop: &StopFlag,
    ) -> Result<f64, DemoError> {
        let begun = clock::now();
        loop {
            thread::sleep(BENCH_TICK);
            if stop.is_raised() {
                return Err(DemoError::Interrupted);
            }
            let now = clock::now();
            let has_ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            if has_ended || now > begun + duration + SEEN_WITHIN {
                let text = "the TCP connection through the tunnel was broken";
                return Err(DemoError::NotShown(text.to_owned()));
            }
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut bytes, mut seconds) = (0, 0.0);
            // The second in which it began belongs to what was before.
            for (_, interval) in seen.iter().filter(|(at, _)| *at > begun).skip(1) {
                bytes += interval.bytes;
                seconds += interval.end_s - interval.start_s;
            }
            if seconds >= duration.as_secs_f64() {
                return Ok(bytes as f64 * 8.0 / seconds);
            }
        }
    }

    /// Ends the connection.
    ///
    /// # Errors
    /// It was broken before.
    pub(super) fn finish(mut self) -> Result<(), DemoError> {
        self.stop.raise();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(BenchError::Interrupted) | Ok(()))) | None => Ok(()),
            Some(Ok(Err(error))) => Err(DemoError::measuring("one TCP connection")(error)),
            Some(Err(_)) => Err(DemoError::NotShown("a thread has panicked".to_owned())),
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            // Its error no longer matters; if it panicked that has been printed.
            let _ = thread.join();
        }
    }
}
