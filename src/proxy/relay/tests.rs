//! Relays between real sockets, turned by hand.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::*;
use crate::limits::PROXY_BUFFER_LEN;
use crate::sys::clock;

/// A connection: the far end, and this one as a worker has it.
fn connection() -> (TcpStream, End) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (far, End::perhaps_ready(mio::net::TcpStream::from_std(near)))
}

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
        let ((client_far, client), (origin_far, origin)) = (connection(), connection());
        let mut buffers = Buffers::default();
        let relay = Relay::new(pipelined, reply, &mut buffers);
        Self { client_far, client, origin_far, origin, buffers, relay }
    }

    /// Goes on until nothing moves any more.
    fn settle(&mut self) -> Turn {
        for _ in 0..10_000 {
            self.client.forget();
            self.origin.forget();
            match self.relay.turn(&mut self.client, &mut self.origin, &mut self.buffers) {
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
    let waiting = stage.relay.up.waiting.as_ref().map_or(0, |chunk| chunk.bytes().len());
    assert!((1..=PROXY_BUFFER_LEN).contains(&waiting), "{waiting}");
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
    let gone = std::mem::replace(&mut stage.origin_far, connection().0);
    drop(gone);
    stage.settle_until(|turn| matches!(turn, Turn::Broken(_)));
}
