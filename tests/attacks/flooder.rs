//! A flood of datagrams from ever new addresses, at a rate. The measurements use it, too.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corelane::handshake::keys::PublicKey;
use corelane::lab::Host;
use corelane::limits::MAC_LEN;
use corelane::sys::clock;
use corelane::sys::udp::{SendBatch, SendTarget, UdpOptions, UdpSocket};
use corelane::wire::{DataHeader, INITIATION_LEN, SessionIndex};
use rand::RngCore;
use ring::{digest, hmac};

/// Datagrams of one system call, each from an address of its own.
const BATCH: usize = 64;
/// How long the flooder rests between batches, unless it is late.
const REST: Duration = Duration::from_micros(300);

/// What the flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Random bytes that begin like no message.
    Junk,
    /// Initiations with a right `mac1` and nothing behind it: made by somebody who knows the
    /// server's public key.
    Initiations,
    /// The same with a `mac2` that nobody gave the key for: as if they proved their address.
    Claims,
    /// Data messages of sessions that there are not.
    Strangers,
}

impl Kind {
    /// One datagram of this kind.
    pub(crate) fn datagram(self, server: &PublicKey) -> Vec<u8> {
        let len = match self {
            Self::Junk => 256,
            Self::Initiations | Self::Claims => INITIATION_LEN,
            Self::Strangers => 128,
        };
        let mut datagram = vec![0; len];
        rand::rng().fill_bytes(&mut datagram);
        match self {
            Self::Junk => datagram[0] = 0xff,
            Self::Initiations | Self::Claims => {
                datagram[..4].copy_from_slice(&[1, 1, 0, 0]);
                correct_mac1(&mut datagram, server);
                let mac2 = INITIATION_LEN - MAC_LEN;
                datagram[mac2..].fill(u8::from(self == Self::Claims));
            }
            Self::Strangers => {
                let receiver = SessionIndex(rand::random());
                if let Some(header) = datagram.first_chunk_mut() {
                    DataHeader { lane: rand::random(), receiver, counter: 0 }.emit(header);
                }
            }
        }
        datagram
    }
}

/// Puts the `mac1` into an initiation that anybody who knows the server's public key can compute
/// (docs/protocol.md, "Macs").
pub(crate) fn correct_mac1(initiation: &mut [u8], server: &PublicKey) {
    let key = [&b"corelane v1 mac1"[..], &server.0].concat();
    let key = digest::digest(&digest::SHA256, &key);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_ref());
    let (covered, macs) = initiation.split_at_mut(INITIATION_LEN - 2 * MAC_LEN);
    macs[..MAC_LEN].copy_from_slice(&hmac::sign(&key, covered).as_ref()[..MAC_LEN]);
}

/// A flood that goes on until it is stopped or dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Floods `to` from `host` with `rate` datagrams a second, from addresses in 100.64.0.0/10,
    /// which the host must have (`ip route add local`).
    pub(crate) fn start(
        host: &Host,
        kind: Kind,
        to: SocketAddr,
        server: &PublicKey,
        rate: u32,
    ) -> io::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let options = UdpOptions { send_buffer: Some(4 << 20), ..UdpOptions::default() };
        let socket = host.run(|| UdpSocket::bind(any, &options)).map_err(io::Error::other)?;
        let socket = socket.map_err(io::Error::other)?;
        let arena: Vec<u8> = (0..BATCH).flat_map(|_| kind.datagram(server)).collect();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop_flag, sent_count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::Builder::new().name("flood".to_owned()).spawn(move || {
            flood(&socket, &arena, to, rate, &stop_flag, &sent_count);
        })?;
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// Datagrams that the kernel has taken so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Ends it, and says how many datagrams there were.
    pub(crate) fn stop(mut self) -> u64 {
        self.join();
        self.sent()
    }

    fn join(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed, and shows in what was sent.
            let _ = thread.join();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.join();
    }
}

fn flood(
    socket: &UdpSocket,
    arena: &[u8],
    to: SocketAddr,
    rate: u32,
    stop: &AtomicBool,
    sent: &AtomicU64,
) {
    let len = arena.len() / BATCH;
    let mut batch = SendBatch::new(BATCH);
    let started = clock::now();
    let (mut count, mut source) = (0, 0_u32);
    while !stop.load(Relaxed) {
        let due = ((clock::now() - started).as_secs_f64() * f64::from(rate)) as u64;
        if count >= due {
            thread::sleep(REST);
            continue;
        }
        for number in 0..BATCH.min((due - count) as usize) {
            // An odd step visits every address of the range before it comes back to one.
            source = source.wrapping_add(0x9e37_79b1);
            let local = Ipv4Addr::from_bits(0x6440_0000 | (source >> 10));
            let target = SendTarget { remote: to, local: Some(local.into()) };
            if batch.push(number * len..(number + 1) * len, &target, None, 0).is_err() {
                break;
            }
        }
        let report = batch.send(socket, arena, |_| {});
        batch.clear();
        count += report.datagrams as u64;
        sent.store(count, Relaxed);
        if report.blocked || report.datagrams == 0 {
            thread::sleep(REST);
        }
    }
}
