//! What both ends do alike while a test runs: one thread per stream, a line per second over the
//! control connection, each end's report at the end, and a latest end for everything.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::error::BenchError;
use super::line::LineChannel;
use super::protocol::{Progress, TestSpec};
use super::report::{Interval, SideReport, StreamReport};
use super::stop::StopFlag;
use crate::limits::{BENCH_END_GRACE, BENCH_INTERVAL, BENCH_SILENCE_MAX, BENCH_TICK};
use crate::sys::clock;

/// What a stream's thread shares with the thread that conducts the test.
#[derive(Debug)]
pub(crate) struct StreamContext<'a> {
    /// When the test began.
    pub(crate) start: Instant,
    /// When senders stop.
    pub(crate) end: Instant,
    /// Payload bytes moved so far; only the stream's thread writes.
    pub(crate) bytes: AtomicU64,
    /// Datagrams moved so far; only the stream's thread writes.
    pub(crate) datagrams: AtomicU64,
    shared: &'a Shared,
}

#[derive(Debug)]
struct Shared {
    latest_end: Instant,
    abort: AtomicBool,
    /// A stream's thread returned an error.
    failed: AtomicBool,
    far_end_finished: AtomicBool,
}

impl StreamContext<'_> {
    /// Whether to give up: the test was stopped, failed elsewhere, or is far past its end.
    pub(crate) fn aborted(&self, now: Instant) -> bool {
        self.shared.abort.load(Ordering::Relaxed) || now >= self.shared.latest_end
    }

    /// Whether the far end says it has sent everything.
    pub(crate) fn far_end_finished(&self) -> bool {
        self.shared.far_end_finished.load(Ordering::Acquire)
    }

    /// Adds to the running totals.
    pub(crate) fn count(&self, bytes: usize, datagrams: usize) {
        // A single writer: no read-modify-write is needed.
        let add = |counter: &AtomicU64, amount: usize| {
            counter.store(counter.load(Ordering::Relaxed) + amount as u64, Ordering::Relaxed);
        };
        add(&self.bytes, bytes);
        add(&self.datagrams, datagrams);
    }
}

/// Moves the data of one stream and says what it did.
pub(crate) type Job<'j> =
    Box<dyn FnOnce(&StreamContext<'_>) -> Result<StreamReport, BenchError> + Send + 'j>;

/// What a test came to, seen from one end.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) own: SideReport,
    pub(crate) far: SideReport,
    pub(crate) own_intervals: Vec<Interval>,
    pub(crate) far_intervals: Vec<Interval>,
}

/// Called with each interval of either end as it passes; the flag says whether it is this end's.
pub(crate) type OnInterval<'f> = &'f mut dyn FnMut(&Interval, bool);

/// Runs `jobs`, one thread each, to the end of the test, and exchanges reports with the far end.
/// On failure the far end is told, so that it need not wait for its own timeout.
pub(crate) fn conduct(
    control: &mut LineChannel,
    spec: &TestSpec,
    jobs: Vec<Job<'_>>,
    stop: &StopFlag,
    on_interval: OnInterval<'_>,
) -> Result<Outcome, BenchError> {
    let start = clock::now();
    let shared = Shared {
        latest_end: start + spec.duration() + BENCH_END_GRACE,
        abort: AtomicBool::new(false),
        failed: AtomicBool::new(false),
        far_end_finished: AtomicBool::new(false),
    };
    let contexts: Vec<_> = jobs
        .iter()
        .map(|_| StreamContext {
            start,
            end: start + spec.duration(),
            bytes: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            shared: &shared,
        })
        .collect();
    let result = thread::scope(|scope| {
        let mut threads = VecDeque::with_capacity(jobs.len());
        let mut spawned = Ok(());
        for (job, context) in jobs.into_iter().zip(&contexts) {
            match thread::Builder::new().name("bench-stream".to_owned()).spawn_scoped(
                scope,
                move || {
                    let result = job(context);
                    context.shared.failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    result
                },
            ) {
                Ok(thread) => threads.push_back(thread),
                Err(error) => spawned = Err(BenchError::io("starting a thread")(error)),
            }
        }
        let mut conductor = Conductor {
            control: &mut *control,
            shared: &shared,
            contexts: &contexts,
            stop,
            on_interval,
            interval_start: start,
            heard_at: start,
            reported: (0, 0),
            own_intervals: Vec::new(),
            far_intervals: Vec::new(),
            far: None,
            intervals_max: usize::try_from(spec.duration().as_secs()).unwrap_or(0) + 16,
        };
        let result = spawned.and_then(|()| conductor.run(&mut threads));
        // Whatever ended the run, no thread outlives it.
        shared.abort.store(true, Ordering::Relaxed);
        result
    });
    if let Err(error) = &result {
        // The far end may be the one that failed; then nobody reads this.
        let _ = control.send(&Progress::Failed { reason: error.to_string() });
    }
    result
}

struct Conductor<'a, 'f> {
    control: &'a mut LineChannel,
    shared: &'a Shared,
    contexts: &'a [StreamContext<'a>],
    stop: &'a StopFlag,
    on_interval: OnInterval<'f>,
    interval_start: Instant,
    /// When the far end last said something.
    heard_at: Instant,
    /// Bytes and datagrams already reported in earlier intervals.
    reported: (u64, u64),
    own_intervals: Vec<Interval>,
    far_intervals: Vec<Interval>,
    far: Option<SideReport>,
    /// A far end that reports more intervals than the test can have is not remembered further.
    intervals_max: usize,
}

type Streams<'scope> = VecDeque<ScopedJoinHandle<'scope, Result<StreamReport, BenchError>>>;

impl Conductor<'_, '_> {
    fn run(&mut self, threads: &mut Streams<'_>) -> Result<Outcome, BenchError> {
        let mut own: Option<SideReport> = None;
        let mut finished = Vec::with_capacity(threads.len());
        loop {
            let now = clock::now();
            if self.stop.is_raised() {
                return Err(BenchError::Interrupted);
            }
            if now >= self.shared.latest_end {
                return Err(BenchError::TimedOut("waiting for the end of the test"));
            }
            if self.far.is_none() && now.duration_since(self.heard_at) >= BENCH_SILENCE_MAX {
                return Err(BenchError::TimedOut("waiting for a sign of life of the far end"));
            }
            if own.is_none() && now.duration_since(self.interval_start) >= BENCH_INTERVAL {
                self.report_interval(now)?;
            }
            if self.shared.failed.load(Ordering::Relaxed) {
                return Err(self.first_failure(threads));
            }
            // Joined in order, so that reports stand in the order of the streams.
            while threads.front().is_some_and(ScopedJoinHandle::is_finished) {
                if let Some(thread) = threads.pop_front() {
                    finished.push(join(thread)?);
                }
            }
            if threads.is_empty() && own.is_none() {
                let report = SideReport { streams: std::mem::take(&mut finished) };
                self.report_interval(clock::now())?;
                self.control.send(&Progress::Finished(report.clone()))?;
                own = Some(report);
            }
            if let (Some(own), Some(far)) = (&own, &self.far) {
                return Ok(Outcome {
                    own: own.clone(),
                    far: far.clone(),
                    own_intervals: std::mem::take(&mut self.own_intervals),
                    far_intervals: std::mem::take(&mut self.far_intervals),
                });
            }
            self.listen(now)?;
        }
    }

    /// Stops every stream and returns the error of the first that failed by itself.
    fn first_failure(&self, threads: &mut Streams<'_>) -> BenchError {
        self.shared.abort.store(true, Ordering::Relaxed);
        let mut failures = threads.drain(..).filter_map(|thread| join(thread).err());
        failures.next().unwrap_or(BenchError::TimedOut("waiting for a stream"))
    }

    /// Waits for the far end's next line, but no longer than to the next thing to do.
    fn listen(&mut self, now: Instant) -> Result<(), BenchError> {
        let next = self.interval_start + BENCH_INTERVAL;
        let wait = next.saturating_duration_since(now).clamp(Duration::from_millis(1), BENCH_TICK);
        let message = self.control.receive(wait)?;
        if message.is_some() {
            self.heard_at = clock::now();
        }
        match message {
            None => {}
            Some(Progress::Interval(_)) if self.far_intervals.len() >= self.intervals_max => {}
            Some(Progress::Interval(interval)) => {
                self.far_intervals.push(interval);
                (self.on_interval)(&interval, false);
            }
            Some(Progress::Finished(report)) => {
                if report.streams.len() != self.contexts.len() {
                    let text = "the far end's report has another number of streams";
                    return Err(BenchError::Protocol(text.to_owned()));
                }
                self.far = Some(report);
                self.shared.far_end_finished.store(true, Ordering::Release);
            }
            Some(Progress::Failed { reason }) => return Err(BenchError::FarEndFailed(reason)),
        }
        Ok(())
    }

    /// Closes the current interval, tells the far end and begins the next.
    fn report_interval(&mut self, now: Instant) -> Result<(), BenchError> {
        let (mut bytes, mut datagrams) = (0, 0);
        for stream in self.contexts {
            bytes += stream.bytes.load(Ordering::Relaxed);
            datagrams += stream.datagrams.load(Ordering::Relaxed);
        }
        let Some(start) = self.contexts.first().map(|stream| stream.start) else { return Ok(()) };
        let interval = Interval {
            start_s: self.interval_start.duration_since(start).as_secs_f64(),
            end_s: now.duration_since(start).as_secs_f64(),
            bytes: bytes - self.reported.0,
            datagrams: datagrams - self.reported.1,
        };
        // The last interval may hold nothing but the wait for the far end's last line.
        if interval.bytes == 0 && interval.end_s - interval.start_s < 0.5 {
            return Ok(());
        }
        self.reported = (bytes, datagrams);
        self.interval_start = now;
        self.own_intervals.push(interval);
        (self.on_interval)(&interval, true);
        self.control.send(&Progress::Interval(interval))
    }
}

fn join(
    thread: ScopedJoinHandle<'_, Result<StreamReport, BenchError>>,
) -> Result<StreamReport, BenchError> {
    // A thread that panicked has printed why.
    thread.join().unwrap_or_else(|_| {
        let source = std::io::Error::other("the thread panicked");
        Err(BenchError::Io { action: "running a stream", source })
    })
}
