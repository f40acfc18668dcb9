//! Traffic that goes on until it is told to end, and what became of it.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corelane::lab::{Host, wait_until};
use corelane::sys::clock;
use corelane::sys::udp::{RecvBatch, UdpOptions, UdpSocket as LargeSocket};

use crate::harness::PATIENCE;

/// Room for what arrives while a busy machine keeps the receiver waiting for seconds.
const RECEIVE_BUFFER_LEN: usize = 16 << 20;
/// Pause between two looks at the receiver's socket.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The period of what a stream carries, a prime: a segment in the wrong place would show.
const PERIOD: usize = 251;
/// Bytes of one write or read of a stream.
const CHUNK_LEN: usize = PERIOD * 256;

/// Tells a thread to end, when dropped at the latest.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Numbered datagrams from one host to another, at a pace.
pub(crate) struct Datagrams {
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    sender: (Stop, JoinHandle<()>),
    receiver: (Stop, JoinHandle<Fate>),
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) sent: u64,
    /// Each counted once.
    pub(crate) received: u64,
    /// Received behind a later one.
    pub(crate) reordered: u64,
}

impl Fate {
    pub(crate) fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

impl Datagrams {
    /// Sends one of `len` bytes, at least 8, to `address` of `to` after each `pause`.
    pub(crate) fn start(
        from: &Host,
        to: &Host,
        address: impl Into<IpAddr>,
        len: usize,
        pause: Duration,
    ) -> Self {
        let address = SocketAddr::new(address.into(), 0);
        let options = UdpOptions { receive_buffer: Some(RECEIVE_BUFFER_LEN), ..Default::default() };
        let receiving = to.run(|| LargeSocket::bind(address, &options)).unwrap().unwrap();
        let target = receiving.local_addr();
        let any = SocketAddr::new(unspecified(target.ip()), 0);
        let sending = from.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        let (sent, arrived) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (stop_sender, stop_receiver) = (Stop::default(), Stop::default());
        let sender = {
            let (stop, sent) = (stop_sender.flag(), Arc::clone(&sent));
            thread::spawn(move || send(&sending, target, len, pause, &stop, &sent))
        };
        let receiver = {
            let (stop, arrived) = (stop_receiver.flag(), Arc::clone(&arrived));
            thread::spawn(move || receive(&receiving, len, &stop, &arrived))
        };
        let (sender, receiver) = ((stop_sender, sender), (stop_receiver, receiver));
        Self { sent, arrived, sender, receiver }
    }

    /// How many have been sent by now.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Sends no more, lets those on their way arrive, and tells what became of them all.
    #[track_caller]
    pub(crate) fn finish(self) -> Fate {
        let (stop, sender) = self.sender;
        drop(stop);
        sender.join().unwrap();
        let sent = self.sent.load(Relaxed);
        let arrived = || (self.arrived.load(Relaxed) >= sent).then_some(());
        // If some are lost it will be in vain.
        let _ = wait_until(PATIENCE / 10, "every datagram", arrived);
        let (stop, receiver) = self.receiver;
        drop(stop);
        Fate { sent, ..receiver.join().unwrap() }
    }
}

/// The address that stands for all of a family.
pub(crate) fn unspecified(family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn send(
    socket: &UdpSocket,
    target: SocketAddr,
    len: usize,
    pause: Duration,
    stop: &AtomicBool,
    sent: &AtomicU64,
) {
    let mut datagram = vec![0xa5; len];
    while !stop.load(Relaxed) {
        datagram[..8].copy_from_slice(&sent.load(Relaxed).to_be_bytes());
        match socket.send_to(&datagram, target) {
            Ok(_) => {
                sent.fetch_add(1, Relaxed);
            }
            // Not sent: the sender's own queue was full.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => panic!("datagram {}: {error}", sent.load(Relaxed)),
        }
        thread::sleep(pause);
    }
}

fn receive(socket: &LargeSocket, len: usize, stop: &AtomicBool, arrived: &AtomicU64) -> Fate {
    let mut batch = RecvBatch::new(64, len);
    let mut missing = BTreeSet::new();
    let (mut fate, mut next) = (Fate::default(), 0);
    loop {
        let is_last_look = stop.load(Relaxed);
        while batch.receive(socket).is_ok() {
            let (messages, arena) = batch.split();
            for message in messages {
                let number = arena[message.range.clone()].first_chunk().unwrap();
                let number = u64::from_be_bytes(*number);
                if number >= next {
                    missing.extend(next..number);
                    next = number + 1;
                } else {
                    assert!(missing.remove(&number), "datagram {number} has arrived twice");
                    fate.reordered += 1;
                }
                fate.received += 1;
            }
            arrived.store(fate.received, Relaxed);
        }
        if is_last_look {
            return fate;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// A TCP connection from one host to another that is written to without a pause.
pub(crate) struct Stream {
    stop: Stop,
    arrived: Arc<AtomicU64>,
    writer: JoinHandle<u64>,
    reader: JoinHandle<()>,
}

impl Stream {
    /// Connects to `address` of `to` and writes.
    pub(crate) fn start(from: &Host, to: &Host, address: impl Into<IpAddr>) -> Self {
        let address = SocketAddr::new(address.into(), 0);
        let listener = to.run(|| TcpListener::bind(address)).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, PATIENCE);
        let sending = from.run(connect).unwrap().unwrap();
        let receiving = listener.accept().unwrap().0;
        let (stop, arrived) = (Stop::default(), Arc::<AtomicU64>::default());
        let writer = {
            let stop = stop.flag();
            thread::spawn(move || write(sending, &stop))
        };
        let reader = {
            let arrived = Arc::clone(&arrived);
            thread::spawn(move || read(receiving, &arrived))
        };
        Self { stop, arrived, writer, reader }
    }

    /// Bytes that have arrived by now.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    /// Writes no more. Every byte must arrive, and the connection must end as it should; returns
    /// how many there were.
    #[track_caller]
    pub(crate) fn finish(self) -> u64 {
        drop(self.stop);
        let sent = self.writer.join().unwrap();
        self.reader.join().unwrap();
        assert_eq!(self.arrived.load(Relaxed), sent);
        sent
    }
}

/// What a stream carries, from any place on.
fn pattern() -> Vec<u8> {
    (0..CHUNK_LEN + PERIOD).map(|at| (at % PERIOD) as u8).collect()
}

fn write(mut stream: TcpStream, stop: &AtomicBool) -> u64 {
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let pattern = pattern();
    let mut sent = 0;
    while !stop.load(Relaxed) {
        stream.write_all(&pattern[..CHUNK_LEN]).unwrap();
        sent += CHUNK_LEN as u64;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    // Until the far side has closed: then it has read everything.
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    sent
}

fn read(mut stream: TcpStream, arrived: &AtomicU64) {
    // Stalls that are longer fail the test.
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (pattern, mut piece) = (pattern(), vec![0; CHUNK_LEN]);
    let mut position = 0;
    loop {
        let len = match stream.read(&mut piece) {
            Ok(0) => return,
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => panic!("after {position} bytes: {error}"),
        };
        let expected = &pattern[position % PERIOD..][..len];
        assert!(piece[..len] == *expected, "something else came after {position} bytes");
        position += len;
        arrived.store(position as u64, Relaxed);
    }
}

/// Waits until `load` says that it is well under way: `progress` is what it has carried.
#[track_caller]
pub(crate) fn await_progress(what: &str, at_least: u64, progress: impl Fn() -> u64) {
    let began = clock::now();
    let started = || (progress() >= at_least).then_some(());
    wait_until(PATIENCE, what, started).unwrap_or_else(|timeout| {
        panic!("{timeout}: {} in {:?}", progress(), clock::now() - began)
    });
}
