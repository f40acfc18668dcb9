//! Relays between real sockets, turned by hand.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use socket2::SockRef;

use super::*;
use crate::login::testing::Site;
use crate::login::tls::{ServerTls, Service};
use crate::proxy::stream::{Stream, TlsStream};
use crate::sys::clock;

struct Stage {
    client_far: TcpStream,
    client: End,
    origin_far: TcpStream,
    origin: End,
    buffers: Buffers,
    relay: Relay,
}

impl Stage {
    fn new(pipelined: &[u8], reply: &[u8]) -> Self {
        let ((client_far, client), (origin_far, origin)) = (End::connected(), End::connected());
        let mut buffers = Buffers::default();
        let relay = Relay::new(pipelined, reply, &mut buffers);
        Self { client_far, client, origin_far, origin, buffers, relay }
    }

    /// Goes on until nothing moves any more.
    fn settle(&mut self) -> Turn {
        for _ in 0..10_000 {
            self.client.forget();
            self.origin.forget();
            match self.relay.turn(
                clock::now(),
                &mut self.client,
                &mut self.origin,
                &mut self.buffers,
            ) {
                Turn::Again => {}
                turn => return turn,
            }
        }
        panic!("it never settles");
    }

    /// Goes on until `is_done` finds what it waits for: on loopback, too, bytes take a moment.
    fn settle_until(&mut self, mut is_done: impl FnMut(&Turn) -> bool) {
        let until = clock::now() + Duration::from_secs(60);
        while !is_done(&self.settle()) {
            assert!(clock::now() < until, "it never comes to that");
            std::thread::yield_now();
        }
    }

    fn holds_no_buffer(&self) -> bool {
        self.relay.up.waiting.is_none() && self.relay.down.waiting.is_none()
    }
}

#[test]
fn own_words_come_first_and_count_for_nobody() {
    let mut stage = Stage::new(b"early", b"reply");
    stage.origin_far.write_all(b"answer").unwrap();
    assert!(matches!(stage.settle(), Turn::Wait));
    let mut got = [0; 11];
    // The origin's bytes are on their way to this host's other socket.
    while stage.client_far.peek(&mut got).unwrap() < 11 {
        stage.settle();
    }
    assert_eq!(&got, b"replyanswer");
    let mut got = [0; 5];
    stage.origin_far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
    assert_eq!((stage.relay.up.bytes(), stage.relay.down.bytes()), (5, 6));
    assert!(stage.holds_no_buffer());
}

#[test]
fn a_reader_that_does_not_read_makes_the_writer_wait_and_one_buffer_is_held() {
    let mut stage = Stage::new(b"", b"");
    stage.client_far.set_nonblocking(true).unwrap();
    let block = vec![3_u8; 1 << 16];
    let mut sent = 0;
    let mut blocked = 0;
    while blocked < 50 {
        match stage.client_far.write(&block) {
            Ok(len) => (sent, blocked) = (sent + len, 0),
            Err(_) => blocked += 1,
        }
        assert!(matches!(stage.settle(), Turn::Wait));
    }
    let waiting = stage.relay.up.waiting.as_ref().map_or(0, Load::len);
    assert!((1..=PROXY_PIPE_LEN).contains(&waiting), "{waiting}");
    assert!(stage.relay.down.waiting.is_none());
    // It reads at last, and gets all of it.
    stage.client_far.shutdown(Shutdown::Write).unwrap();
    stage.origin_far.set_nonblocking(true).unwrap();
    let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        stage.settle();
        match stage.origin_far.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => got += len,
            Err(_) => std::thread::yield_now(),
        }
    }
    assert_eq!(got, sent);
    assert_eq!(stage.relay.up.bytes(), sent as u64);
    assert!(stage.relay.up.is_over() && !stage.relay.down.is_over() && stage.holds_no_buffer());
}

#[test]
fn both_directions_end_on_their_own() {
    for client_first in [true, false] {
        let mut stage = Stage::new(b"", b"");
        let (first, second) = match client_first {
            true => (&stage.client_far, &stage.origin_far),
            false => (&stage.origin_far, &stage.client_far),
        };
        let (mut first, mut second) = (first.try_clone().unwrap(), second.try_clone().unwrap());
        first.shutdown(Shutdown::Write).unwrap();
        second.set_nonblocking(true).unwrap();
        stage.settle_until(|turn| {
            assert!(matches!(turn, Turn::Wait));
            matches!(second.read(&mut [0]), Ok(0))
        });
        second.write_all(b"and yet").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        stage.settle_until(|turn| matches!(turn, Turn::Over));
        let mut rest = Vec::new();
        first.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"and yet");
    }
}

#[test]
fn a_reset_ends_a_relay_as_broken() {
    let mut stage = Stage::new(b"", b"");
    SockRef::from(&stage.origin_far).set_linger(Some(Duration::ZERO)).unwrap();
    let gone = std::mem::replace(&mut stage.origin_far, End::connected().0);
    drop(gone);
    stage.settle_until(|turn| matches!(turn, Turn::Broken(_)));
}

/// Sends `bytes` and ends; hands out what comes back until that ends.
fn exchange(mut far: TcpStream, bytes: Vec<u8>) -> std::thread::JoinHandle<Vec<u8>> {
    let mut writer = far.try_clone().unwrap();
    std::thread::spawn(move || {
        let sender = std::thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        sender.join().unwrap();
        got
    })
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(step).collect()
}

#[test]
fn bulk_passes_both_ways_at_once_byte_for_byte_through_pipes_and_without_them() {
    for has_pipes in [true, false] {
        let mut stage = Stage::new(b"", b"");
        // Those that others use.
        let lent: Vec<_> = match has_pipes {
            true => Vec::new(),
            false => std::iter::from_fn(|| stage.buffers.pipes.lend()).collect(),
        };
        let (up, down) = (noise(12_345_678, 1), noise(9_876_543, 2));
        let client = exchange(stage.client_far.try_clone().unwrap(), up.clone());
        let origin = exchange(stage.origin_far.try_clone().unwrap(), down.clone());
        let until = clock::now() + Duration::from_secs(60);
        loop {
            stage.client.forget();
            stage.origin.forget();
            match stage.relay.turn(
                clock::now(),
                &mut stage.client,
                &mut stage.origin,
                &mut stage.buffers,
            ) {
                Turn::Over => break,
                Turn::Broken(error) => panic!("{error}"),
                Turn::Again | Turn::Wait => {}
            }
            assert!(clock::now() < until, "it never ends");
        }
        assert!(origin.join().unwrap() == up, "pipes: {has_pipes}");
        assert!(client.join().unwrap() == down, "pipes: {has_pipes}");
        let counted = (stage.relay.up.bytes(), stage.relay.down.bytes());
        assert_eq!(counted, (up.len() as u64, down.len() as u64));
        assert!(stage.holds_no_buffer(), "an idle direction holds neither buffer nor pipe");
        assert_eq!(stage.buffers.pipes.lend().is_some(), has_pipes);
        drop(lent);
    }
}

#[test]
fn a_reader_that_is_gone_in_the_midst_of_bulk_leaves_no_pipe_to_others() {
    let mut stage = Stage::new(b"", b"");
    let mut writer = stage.client_far.try_clone().unwrap();
    let sender = std::thread::spawn(move || drop(writer.write_all(&noise(32_000_000, 3))));
    let until = clock::now() + Duration::from_secs(60);
    while !matches!(stage.relay.up.waiting, Some(Load::Pipe(_))) {
        stage.settle();
        assert!(clock::now() < until, "nothing is spliced");
    }
    SockRef::from(&stage.origin_far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(std::mem::replace(&mut stage.origin_far, End::connected().0));
    // Only an event of the kernel tells a reset from an end here.
    stage.settle_until(|turn| matches!(turn, Turn::Broken(_) | Turn::Over));
    let Stage { relay, mut buffers, client_far, client, .. } = stage;
    relay.release(&mut buffers);
    assert_eq!(buffers.pipes.lend().map(|pipe| pipe.held()), Some(0));
    drop((client_far, client));
    sender.join().unwrap();
}

#[test]
fn a_turn_is_bounded_however_short_the_records_of_tls_are() {
    const RECORDS: usize = 30_000;
    let site = Site::new();
    let tls = ServerTls::load(&site.pki.tls_files(), Service::Login).unwrap();
    let mut stage = Stage::new(b"", b"");
    let client = std::mem::replace(&mut stage.client, End::connected().1);
    let secured = client.wrap(|stream| match stream {
        Stream::Tcp(tcp) => TlsStream::server(tcp, &tls).map(Stream::Tls),
        secured => Ok(secured),
    });
    stage.client = secured.unwrap();
    // With a limit little is read at a time, more often than the kernel has something.
    let limit = Arc::new(Bucket::new(800_000, clock::now()));
    stage.relay.set_limits(Some(limit), None);
    let name = "localhost".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(site.client().config, name).unwrap();
    let mut far = stage.client_far.try_clone().unwrap();
    let (said, heard) = mpsc::channel();
    let speaker = std::thread::spawn(move || {
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(&mut far).unwrap();
        }
        said.send(()).unwrap();
        let mut records = Vec::new();
        for _ in 0..RECORDS {
            tls.writer().write_all(b"x").unwrap();
            tls.write_tls(&mut records).unwrap();
        }
        // As much as the kernel takes while nobody reads.
        far.set_nonblocking(true).unwrap();
        let sent = far.write(&records).unwrap();
        said.send(()).unwrap();
        far.set_nonblocking(false).unwrap();
        far.write_all(&records[sent..]).unwrap();
    });
    stage.settle_until(|_| heard.try_recv().is_ok());
    heard.recv().unwrap();
    stage.origin_far.set_nonblocking(true).unwrap();
    let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
    let until = clock::now() + Duration::from_secs(60);
    while got < RECORDS {
        stage.client.forget();
        stage.origin.forget();
        let before = stage.client.calls;
        let Stage { client, origin, buffers, relay, .. } = &mut stage;
        assert!(matches!(
            relay.turn(clock::now(), client, origin, buffers),
            Turn::Again | Turn::Wait
        ));
        let calls = stage.client.calls - before;
        // And one by which the other direction finds nothing, or a key of TLS.
        assert!(calls <= PROXY_HELPINGS_PER_TURN + 2, "{calls} calls in a turn");
        got += stage.origin_far.read(&mut buffer).unwrap_or(0);
        assert!(clock::now() < until, "{got} of {RECORDS}");
    }
    speaker.join().unwrap();
}
