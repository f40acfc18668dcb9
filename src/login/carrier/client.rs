//! A client's end of a carrier.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::host::privileges;
use crate::limits::CARRIER_QUEUE_LEN_MAX;
use crate::sys::clock;
use crate::sys::udp::UdpSocket;
use crate::telemetry::counters::DropCounters;
use crate::telemetry::drops::DropReason;

use super::courier::{self, Courier};
use super::link::{Buffers, CarrierEnd, CarrierStream, Link};

const WAKER: Token = Token(0);
const STREAM: Token = Token(1);
const SOCKET: Token = Token(2);

/// Called once, on the relay's thread, when a carrier has ended.
pub type OnEnd = Box<dyn FnOnce(CarrierEnd) + Send>;

/// A carrier in operation: a thread that passes datagrams between a TLS connection and this
/// client's sockets. It ends when this is dropped, or the connection does.
pub struct CarrierClient {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl CarrierClient {
    /// Starts one. `ports` are those of the client's UDP sockets, by channel: the workers' in
    /// order, then the control thread's. `drops` is told what is lost; one carrier at a time may
    /// have it.
    ///
    /// # Errors
    /// The kernel gives no socket, poll or thread.
    pub fn start(
        carrier: CarrierStream,
        ports: Vec<u16>,
        drops: Arc<DropCounters>,
        on_end: OnEnd,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let socket = courier::bind((Ipv4Addr::LOCALHOST, 0).into()).map_err(io::Error::other)?;
        let address = socket.local_addr();
        let fd = socket.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), SOCKET, Interest::READABLE)?;
        let link = Link::new(clock::now(), carrier, poll.registry(), STREAM)?;
        let stop = Arc::new(AtomicBool::new(false));
        let relay = Relay {
            poll,
            socket,
            socket_ready: true,
            ports,
            link,
            courier: Courier::new(),
            buffers: Buffers::new(),
            drops,
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new().name("carrier".to_owned()).spawn(move || {
            if let Err(error) = privileges::drop_all_on_this_thread() {
                log::warn!("the carrier's thread keeps its capabilities: {error}");
            }
            on_end(relay.run());
        })?;
        Ok(Self { address, stop, waker, thread: Some(thread) })
    }

    /// Where datagrams for the server are to be sent.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for CarrierClient {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && self.waker.wake().is_ok()
        {
            // It waits for nothing but its poll, so it is gone in a moment; a panic has been told.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for CarrierClient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CarrierClient").field("address", &self.address).finish_non_exhaustive()
    }
}

struct Relay {
    poll: Poll,
    socket: UdpSocket,
    socket_ready: bool,
    ports: Vec<u16>,
    link: Link,
    courier: Courier,
    buffers: Buffers,
    drops: Arc<DropCounters>,
    stop: Arc<AtomicBool>,
}

impl Relay {
    fn run(mut self) -> CarrierEnd {
        let mut events = Events::with_capacity(16);
        let end = loop {
            if self.stop.load(Ordering::Acquire) {
                break CarrierEnd::Dismissed;
            }
            if let Err(end) = self.turn(&mut events) {
                break end;
            }
        };
        self.link.close(self.poll.registry());
        end
    }

    /// Waits for something to do, and does a bounded helping of it in each direction.
    fn turn(&mut self, events: &mut Events) -> Result<(), CarrierEnd> {
        let is_busy = self.socket_ready || self.link.readable;
        match self.poll.poll(events, is_busy.then_some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }
        for event in events.iter() {
            match event.token() {
                STREAM => {
                    if event.is_readable() || event.is_error() || event.is_read_closed() {
                        self.link.readable = true;
                    }
                    if event.is_writable() {
                        self.link.set_writable();
                    }
                }
                SOCKET => self.socket_ready = true,
                _ => {}
            }
        }
        let now = clock::now();
        if self.socket_ready {
            let ports = &self.ports;
            self.socket_ready = self.courier.collect(
                now,
                &self.socket,
                &mut self.link.outbox,
                CARRIER_QUEUE_LEN_MAX,
                &self.drops,
                |from| channel_of(ports, from),
            );
        }
        let too_late = self.link.send(now)?;
        self.drops.add(DropReason::CarrierTooLate, too_late as u64);
        if self.link.readable {
            self.receive(now)?;
        }
        Ok(())
    }

    fn receive(&mut self, now: std::time::Instant) -> Result<(), CarrierEnd> {
        let Self { link, buffers, courier, socket, ports, drops, .. } = self;
        let outcome = link.receive(now, buffers, |frame, body, bytes| {
            match ports.get(usize::from(frame.channel())) {
                Some(port) => {
                    let to = (Ipv4Addr::LOCALHOST, *port).into();
                    courier.push(socket, frame, body, bytes, to, drops);
                }
                None => drops.add(DropReason::CarrierStranger, frame.datagrams() as u64),
            }
        });
        courier.flush(socket, &buffers.plain, drops);
        outcome
    }
}

/// The channel of one of this client's own sockets.
fn channel_of(ports: &[u16], from: SocketAddr) -> Option<u8> {
    let position = ports.iter().position(|port| *port == from.port())?;
    from.ip().is_loopback().then_some(position as u8)
}
