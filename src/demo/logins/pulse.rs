//! A conversation over one TCP connection, to see how long it is ever interrupted.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::bench::StopFlag;
use crate::demo::DemoError;
use crate::lab::Host;
use crate::limits::BENCH_TICK;
use crate::sys::clock;

/// How long to pause after each answer.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take before the conversation counts as broken.
const BROKEN_AFTER: Duration = Duration::from_secs(30);

/// One question and its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    /// When the question was asked.
    pub(super) asked: Instant,
    /// How long the answer took.
    pub(super) took: Duration,
}

/// The conversation: a thread that asks, another that answers. Both end when this is dropped.
#[derive(Debug)]
pub(super) struct Pulse {
    stop: StopFlag,
    asking: Option<JoinHandle<io::Result<Vec<Beat>>>>,
    answering: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Connects `client` to `server` at its address `inner` and begins.
    pub(super) fn start(client: &Host, server: &Host, inner: Ipv4Addr) -> Result<Self, DemoError> {
        let failed = |error| DemoError::io("hold a conversation over TCP")(error);
        let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let listener = listener.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let to = SocketAddr::from((inner, port));
        let stream = client.run(|| TcpStream::connect_timeout(&to, CONNECT_WITHIN))?;
        let stream = stream.and_then(prepare).map_err(failed)?;
        let far = listener.accept().and_then(|(far, _)| prepare(far)).map_err(failed)?;
        let stop = StopFlag::new();
        let (asks, answers) = (stop.clone(), stop.clone());
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        let answering =
            spawn("demo-answers").spawn(move || answer(far, &answers)).map_err(failed)?;
        let asking = spawn("demo-asks").spawn(move || ask(stream, &asks)).map_err(failed)?;
        Ok(Self { stop, asking: Some(asking), answering: Some(answering) })
    }

    /// Ends the conversation; every beat of it.
    ///
    /// # Errors
    /// The connection was broken: reset, closed, or without an answer for too long.
    pub(super) fn finish(mut self) -> Result<Vec<Beat>, DemoError> {
        self.stop.raise();
        let asked = self.asking.take().and_then(|thread| thread.join().ok());
        asked
            .unwrap_or_else(|| Err(ErrorKind::Other.into()))
            .map_err(DemoError::io("keep one TCP connection through all of this"))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.answering.take() {
            // If it panicked that has been printed.
            let _ = thread.join();
        }
        if let Some(thread) = self.asking.take() {
            let _ = thread.join();
        }
    }
}

/// The longest answer to a question that was open at some time from `from` to `to`.
pub(super) fn longest(beats: &[Beat], from: Instant, to: Instant) -> Duration {
    let within = |beat: &&Beat| beat.asked <= to && beat.asked + beat.took >= from;
    beats.iter().filter(within).map(|beat| beat.took).max().unwrap_or_default()
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(BENCH_TICK))?;
    stream.set_write_timeout(Some(BROKEN_AFTER))?;
    Ok(stream)
}

fn ask(mut stream: TcpStream, stop: &StopFlag) -> io::Result<Vec<Beat>> {
    let mut beats = Vec::new();
    while !stop.is_raised() {
        let asked = clock::now();
        stream.write_all(&[1])?;
        let mut answer = [0];
        while let Err(error) = stream.read_exact(&mut answer) {
            let took = clock::now().duration_since(asked);
            if !is_tick(&error) || took >= BROKEN_AFTER {
                return Err(error);
            }
            if stop.is_raised() {
                return Ok(beats);
            }
        }
        beats.push(Beat { asked, took: clock::now().duration_since(asked) });
        thread::sleep(PAUSE);
    }
    Ok(beats)
}

fn answer(mut stream: TcpStream, stop: &StopFlag) {
    let mut question = [0];
    while !stop.is_raised() {
        match stream.read(&mut question) {
            Ok(0) => return,
            Ok(_) if stream.write_all(&question).is_err() => return,
            Err(error) if !is_tick(&error) => return,
            _ => {}
        }
    }
}

fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_answer_is_that_of_a_question_that_was_open_in_the_time() {
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let beat = |ms, took| Beat { asked: at(ms), took: Duration::from_millis(took) };
        let beats = [beat(0, 5), beat(15, 700), beat(800, 3), beat(900, 90)];
        assert_eq!(longest(&beats, at(20), at(30)), Duration::from_millis(700));
        assert_eq!(longest(&beats, at(0), at(10)), Duration::from_millis(5));
        assert_eq!(longest(&beats, at(790), at(850)), Duration::from_millis(3));
        assert_eq!(longest(&beats, at(2000), at(3000)), Duration::ZERO);
    }
}
