//! Exchanges between real sockets, turned by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use socket2::SockRef;

use crate::limits::{PROXY_HELPINGS_PER_TURN, PROXY_ROOM_KEPT_MAX};
use crate::policy::bucket::Bucket;
use crate::proxy::http::{
    Body, Fate, Framing, HeadScanner, HttpError, NotForwarded, RequestHead, RequestTarget, Slots,
};
use crate::proxy::relay::Buffers;
use crate::proxy::settings::Rules;
use crate::proxy::stream::{End, Moved};
use crate::sys::clock;

use super::*;

const CHUNKED_POST: &str =
    "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
const GET: &str = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
const OLD_GET: &str = "GET http://a.example/ HTTP/1.0\r\n\r\n";
const CHUNKED_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Calls of a helping at most: each way a read, and writes of what was written here and of what
/// was read, of which a kernel that takes only a part, or nothing, makes two.
const CALLS_OF_A_HELPING: usize = 2 * (1 + 2 + 1);

fn errand(head: &str, behind: &[u8]) -> Result<Errand, NotForwarded> {
    let mut slots = Slots::new();
    let range = HeadScanner::default().scan(head.as_bytes()).unwrap().unwrap();
    let head = RequestHead::parse(&head.as_bytes()[range], &mut slots).unwrap();
    let RequestTarget::Absolute(to) = &head.target else { panic!("not absolute") };
    Errand::begin(&head, to, Ipv4Addr::LOCALHOST.into(), &Rules::default(), behind)
}

struct Stage {
    client_far: TcpStream,
    client: End,
    origin_far: TcpStream,
    origin: End,
    buffers: Buffers,
    passing: Passing,
    /// Calls of the turns that moved something.
    calls: usize,
    /// Those of the one with the most.
    most_calls: usize,
}

impl Stage {
    /// A request of which `behind` came with its head.
    fn new(head: &str, behind: &[u8]) -> Result<Self, NotForwarded> {
        let ((client_far, client), (origin_far, origin)) = (End::connected(), End::connected());
        let buffers = Buffers::default();
        let passing = Passing::new(errand(head, behind)?, behind.to_vec(), Vec::new());
        let (calls, most_calls) = (0, 0);
        Ok(Self { client_far, client, origin_far, origin, buffers, passing, calls, most_calls })
    }

    fn turn(&mut self) -> Result<Pace, Mishap> {
        self.client.forget();
        self.origin.forget();
        let (calls, moved) = (self.client.calls + self.origin.calls, self.passing.moved());
        let Self { client, origin, buffers, passing, .. } = self;
        let pace = passing.turn(clock::now(), client, origin, buffers);
        let calls = self.client.calls + self.origin.calls - calls;
        self.most_calls = self.most_calls.max(calls);
        if self.passing.moved() > moved {
            self.calls += calls;
        }
        pace
    }

    fn turn_until(&mut self, is_so: impl Fn(&Passing) -> bool) {
        let until = clock::now() + Duration::from_secs(60);
        while !is_so(&self.passing) {
            assert!(clock::now() < until, "it never comes to that");
            self.turn().unwrap();
        }
    }

    /// Has one side say `said` in pieces that end at `ends`, and hands out what the other gets of
    /// it: `len` bytes, or as many as come before something goes wrong.
    fn pass(&mut self, is_up: bool, said: &[u8], ends: &[usize], len: usize) -> Vec<u8> {
        let (speaker, hearer) = match is_up {
            true => (&self.client_far, &self.origin_far),
            false => (&self.origin_far, &self.client_far),
        };
        let (mut speaker, mut hearer) = (speaker.try_clone().unwrap(), hearer.try_clone().unwrap());
        hearer.set_nonblocking(true).unwrap();
        let (mut got, mut from) = (Vec::new(), 0);
        for &end in ends.iter().chain([&said.len()]) {
            speaker.write_all(&said[from..end]).unwrap();
            from = end;
            // What becomes of it is looked at below.
            let _ = self.turn();
        }
        let until = clock::now() + Duration::from_secs(60);
        let mut is_broken = false;
        loop {
            match hearer.read_to_end(&mut got) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => panic!("{outcome:?}"),
            }
            if is_broken || got.len() >= len {
                return got;
            }
            assert!(clock::now() < until, "{} of {len} bytes: {}", got.len(), got.escape_ascii());
            is_broken = matches!(self.turn(), Err(Mishap::Request(_) | Mishap::Response(_)));
        }
    }
}

/// What is forwarded of a body, how many of the bytes are its own, and whether it ends there.
fn forwarded(mut body: Body, bytes: &[u8]) -> (Vec<u8>, usize, Result<bool, HttpError>) {
    let (mut forwarded, mut used) = (Vec::new(), 0);
    loop {
        match body.advance(&bytes[used..]) {
            Err(error) => return (forwarded, used, Err(error)),
            Ok(run) if run.used() == 0 => return (forwarded, used, Ok(body.is_done())),
            Ok(run) => {
                forwarded.extend_from_slice(&bytes[used..][..run.forward]);
                used += run.used();
            }
        }
    }
}

/// A body of many tiny chunks with extensions, or none.
fn tiny_chunks(extension: &str, count: usize) -> Vec<u8> {
    format!("1{extension}\r\na\r\n").repeat(count).into_bytes()
}

#[test]
fn what_stands_between_dropped_bytes_is_written_at_once() {
    const CHUNKS: usize = 8000;
    // By which way, the request, and what stands behind the size of each chunk.
    let table = [(true, CHUNKED_POST, ";"), (false, GET, ";a"), (false, OLD_GET, "")];
    for (is_up, head, extension) in table {
        let mut stage = Stage::new(head, b"").unwrap();
        let body = [tiny_chunks(extension, CHUNKS), b"0\r\n\r\n".to_vec()].concat();
        let mut expected = match head {
            OLD_GET => vec![b'a'; CHUNKS],
            _ => [tiny_chunks("", CHUNKS), b"0\r\n\r\n".to_vec()].concat(),
        };
        let said = match is_up {
            true => {
                expected.splice(0..0, stage.passing.errand_head());
                body
            }
            false => [CHUNKED_ANSWER, &body].concat(),
        };
        let got = stage.pass(is_up, &said, &[], expected.len());
        assert!(got.ends_with(&expected), "{extension:?}");
        // As many as there are reads, of which there is one for a buffer, and few more.
        assert!(stage.calls < 100, "{} calls for {} bytes", stage.calls, said.len());
    }
}

/// As much of `said` as the kernel keeps for a reader that does not read.
fn fill(mut far: &TcpStream, said: &[u8]) -> usize {
    far.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(len @ 1..) = far.write(&said[sent..]) {
        sent += len;
    }
    sent
}

#[test]
fn a_turn_is_bounded_however_little_goes_on_of_what_is_read() {
    let extension = format!(";{}", "x".repeat(250));
    let body = tiny_chunks(&extension, 40_000);
    for limit in [None, Some(Arc::new(Bucket::new(800_000, clock::now())))] {
        for is_up in [true, false] {
            let mut stage = Stage::new(if is_up { CHUNKED_POST } else { GET }, b"").unwrap();
            stage.passing.set_limits(limit.clone(), limit.clone());
            let sent = match is_up {
                true => fill(&stage.client_far, &body),
                false => fill(&stage.origin_far, &[CHUNKED_ANSWER, &body].concat()),
            };
            assert!(sent > 65_536, "{sent}");
            let most = CALLS_OF_A_HELPING * PROXY_HELPINGS_PER_TURN;
            let until = clock::now() + Duration::from_secs(60);
            let mut is_bounded = false;
            while !is_bounded && stage.passing.moved() < sent as u64 / 100 {
                assert!(clock::now() < until, "{} bytes of {sent}", stage.passing.moved());
                is_bounded = matches!(stage.turn().unwrap(), Pace::Again);
            }
            assert!(stage.most_calls <= most, "{} calls in a turn", stage.most_calls);
            assert!(is_bounded || limit.is_none(), "with a limit it reads little at a time");
        }
    }
}

/// A chunked body: chunks with what stands behind their sizes, and an end, or none.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop::sample::select(vec!["", "", ";", ";a=b", " ;x", "LONG"]);
    let len = prop_oneof![8 => 1..20usize, 1 => 3000..9000usize];
    let end = prop::sample::select(vec![
        "0\r\n\r\n",
        "0;e\r\nX-Sum: 1\r\nHost: b\r\nY: 2\r\n\r\n",
        "0\r\nTE: z\r\n\r\nGET http://a.example/ HTTP/1.1\r\n",
        "5;\r\nhe",
        "1;\r\na\r\nx",
        "2;\r\nab\r\0",
    ]);
    (prop::collection::vec((len, extension), 0..50), end).prop_map(|(chunks, end)| {
        let mut bytes = Vec::new();
        for (number, (len, extension)) in chunks.into_iter().enumerate() {
            let extension = extension.replace("LONG", &format!(";{}", "y".repeat(200)));
            bytes.extend_from_slice(format!("{len:x}{extension}\r\n").as_bytes());
            bytes.extend((0..len).map(|at| (at + number) as u8));
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(end.as_bytes());
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_of_a_body_arrives_as_if_it_were_looked_at_alone(
        bytes in body(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        way in 0..3u8,
        is_ahead in any::<bool>(),
    ) {
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        let first = ends.first().copied().filter(|_| is_ahead && way == 0).unwrap_or(0);
        let head = match way {
            0 => CHUNKED_POST,
            1 => GET,
            _ => OLD_GET,
        };
        // What is malformed is refused before anything has gone.
        let Ok(mut stage) = Stage::new(head, &bytes[..first]) else {
            prop_assert!(forwarded(Body::new(Framing::Chunked), &bytes).2.is_err());
            return Ok(());
        };
        let (said, expected) = match way {
            0 => (bytes[first..].to_vec(), forwarded(Body::new(Framing::Chunked), &bytes)),
            1 => (bytes.clone(), forwarded(Body::new(Framing::Chunked), &bytes)),
            _ => (bytes.clone(), forwarded(Body::without_chunks(Framing::Chunked), &bytes)),
        };
        let ends: Vec<_> = ends.iter().map(|end| end - first).collect();
        let (body, used, outcome) = expected;
        let (head, got) = match way {
            0 => {
                let head = stage.passing.errand_head().len();
                (head, stage.pass(true, &said, &ends, head + body.len()))
            }
            _ => {
                // The head of the answer comes first, which leaves the body to itself.
                let head = stage.pass(false, CHUNKED_ANSWER, &[], 1);
                prop_assert!(head.ends_with(b"\r\n\r\n"));
                (head.len(), [head, stage.pass(false, &said, &ends, body.len())].concat())
            }
        };
        match outcome {
            Err(_) => {
                let whole = got.get(head..).unwrap_or_default();
                prop_assert!(whole == body || (way == 0 && got.is_empty()));
            }
            Ok(is_done) => {
                prop_assert_eq!(&got[head..], &body[..]);
                // What ends a message may be dropped, so that nobody sees when it has come.
                stage.turn_until(|passing| match way {
                    0 => passing.errand.exchange.is_sent() == is_done,
                    _ => (passing.errand.exchange.fate() != Fate::Running) == is_done,
                });
                let flow = if way == 0 { &stage.passing.up } else { &stage.passing.down };
                prop_assert!(!flow.is_pending());
                prop_assert!(bytes[used..].starts_with(flow.unread()));
                prop_assert_eq!(flow.bytes(), (head + body.len()) as u64);
            }
        }
    }
}

#[test]
fn a_slow_reader_gets_every_byte_and_what_follows_the_body_stays() {
    for is_up in [true, false] {
        let mut stage = Stage::new(if is_up { CHUNKED_POST } else { GET }, b"").unwrap();
        let mut bytes = Vec::new();
        for number in 0..4000_usize {
            let chunk = vec![number as u8; number % 300 + 1];
            bytes.extend_from_slice(format!("{:x};n={number}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(&chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\nX-Sum: 1\r\n\r\n");
        let (expected, used, _) = forwarded(Body::new(Framing::Chunked), &bytes);
        assert_eq!(used, bytes.len());
        bytes.extend_from_slice(b"GET http://a.example/next");
        let (speaker, hearer, near) = match is_up {
            true => (&stage.client_far, &stage.origin_far, &stage.origin),
            false => (&stage.origin_far, &stage.client_far, &stage.client),
        };
        SockRef::from(near.stream.tcp()).set_send_buffer_size(4096).unwrap();
        SockRef::from(hearer).set_recv_buffer_size(4096).unwrap();
        let (mut speaker, mut hearer) = (speaker.try_clone().unwrap(), hearer.try_clone().unwrap());
        let begin = if is_up { Vec::new() } else { CHUNKED_ANSWER.to_vec() };
        let said = [begin, bytes].concat();
        let sender = thread::spawn(move || speaker.write_all(&said).unwrap());
        hearer.set_nonblocking(true).unwrap();
        let (mut got, mut bite) = (Vec::new(), [0; 3001]);
        let until = clock::now() + Duration::from_secs(60);
        while !got.ends_with(b"0\r\nX-Sum: 1\r\n\r\n") {
            stage.turn().unwrap();
            if let Ok(len) = hearer.read(&mut bite) {
                got.extend_from_slice(&bite[..len]);
            }
            assert!(clock::now() < until, "{} bytes", got.len());
        }
        sender.join().unwrap();
        assert!(got.ends_with(&expected));
        let head = got.len() - expected.len();
        let flow = if is_up { &stage.passing.up } else { &stage.passing.down };
        assert_eq!(flow.bytes(), got.len() as u64);
        assert!(got[..head].ends_with(b"\r\n\r\n"));
        // What the next request begins with comes now or has come.
        let (mut rest, end) = match is_up {
            true => (stage.passing.end(&mut stage.buffers).0, &mut stage.client),
            false => (flow.unread().to_vec(), &mut stage.origin),
        };
        end.forget();
        while let Ok(Moved::Bytes(len)) = end.read(&mut bite) {
            rest.extend_from_slice(&bite[..len]);
        }
        assert_eq!(rest, b"GET http://a.example/next");
    }
}

#[test]
fn what_waits_is_held_once_and_what_has_gone_is_not_held() {
    const LEN: usize = 60_000;
    let head = format!(
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: {LEN}\r\n\r\n"
    );
    // Room as it is after longer words.
    let room = |words: &[u8]| {
        let mut room = Vec::with_capacity(2 * LEN);
        room.extend_from_slice(words);
        room
    };
    for len in [LEN, 100, 0] {
        let body = vec![7; LEN];
        let (ahead, later) = body.split_at(len);
        let mut stage = Stage::new(&head, b"").unwrap();
        stage.passing = Passing::new(errand(&head, ahead).unwrap(), room(ahead), room(b""));
        let held = stage.passing.held();
        assert!(held <= len + PROXY_ROOM_KEPT_MAX, "{held} of {len} while the origin is reached");
        let sent = stage.passing.errand_head().len() + LEN;
        assert_eq!(stage.pass(true, later, &[], sent).len(), sent);
        assert_eq!(stage.passing.waits(), Waits::Answer);
        let held = stage.passing.held();
        assert!(held <= PROXY_ROOM_KEPT_MAX, "{held} while the answer is awaited");
        let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n", &body[..9000]].concat();
        assert!(stage.pass(false, &answer, &[], 9000).len() >= 9000);
        stage.pass(false, &body, &[], LEN);
        let held = stage.passing.held();
        assert!(held <= PROXY_ROOM_KEPT_MAX, "{held} while the rest of the answer is awaited");
    }
}

#[test]
fn a_head_is_held_for_as_long_as_it_may_have_to_be_written_again() {
    for is_reused in [true, false] {
        let mut stage = Stage::new(GET, b"").unwrap();
        stage.passing.errand.exchange.set_reused(is_reused);
        let head = stage.passing.errand_head();
        assert_eq!(stage.pass(true, b"", &[], head.len()), head);
        let held = stage.passing.errand_head();
        assert_eq!(held, if is_reused { head.clone() } else { Vec::new() });
        if is_reused {
            (stage.origin_far, stage.origin) = End::connected();
            stage.passing.begin_again();
            assert_eq!(stage.pass(true, b"", &[], head.len()), head);
            assert_eq!(stage.passing.errand_head(), b"", "it goes to a new connection once");
        }
    }
}

#[test]
fn what_was_sent_ahead_goes_on_wherever_it_was_cut() {
    let body = b"3;a\r\nabc\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n";
    let (expected, ..) = forwarded(Body::new(Framing::Chunked), body);
    for cut in 0..=body.len() {
        let (ahead, later) = body.split_at(cut);
        let mut stage = Stage::new(CHUNKED_POST, ahead).unwrap();
        let head = stage.passing.errand_head();
        let got = stage.pass(true, later, &[], head.len() + expected.len());
        assert_eq!(got[head.len()..], expected[..], "cut after {cut} bytes");
    }
}
