//! The event loop of the carrier thread.
//!
//! Every carrier that has something to do waits in one queue, and gets a bounded helping in each
//! direction when its turn comes: one that is fast, or slow, or hostile, is in nobody's way.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::accounts::model::Id;
use crate::limits::{
    CARRIER_IDLE_MAX, CARRIER_ORDERS_MAX, CARRIER_QUEUE_LEN_MAX, CARRIER_QUEUE_LEN_MIN,
    CARRIER_QUEUES_LEN_MAX, CARRIER_SOCKETS_MAX, CARRIERS_MAX, CARRIERS_PER_LOGIN_MAX,
};
use crate::sys::clock;
use crate::sys::udp::UdpSocket;
use crate::telemetry::counters::DropCounters;
use crate::telemetry::drops::DropReason;

use super::super::courier::{self, Courier};
use super::super::link::{Buffers, CarrierEnd, CarrierStream, Link};
use super::{Order, Orders};

/// Tokens of one carrier: its channels, and then its connection.
const TOKENS_PER_CARRIER: usize = 256;
const STREAM: usize = TOKENS_PER_CARRIER - 1;
/// How often it is looked which carriers have been idle for too long.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Relay {
    poll: Poll,
    orders: Orders,
    drops: Arc<DropCounters>,
    sockets: Sockets,
    /// By slot; a slot gives a carrier its tokens and its address.
    carriers: Vec<Option<Carrier>>,
    /// How many of these are taken.
    tenants: usize,
    /// The oldest first.
    by_login: BTreeMap<Id, VecDeque<usize>>,
    /// Slots of the carriers that have something to do.
    busy: VecDeque<usize>,
    courier: Courier,
    buffers: Buffers,
    idle_look_at: Instant,
    stop: bool,
}

/// What carriers' channels are made of.
struct Sockets {
    server: SocketAddr,
    open: usize,
}

struct Carrier {
    login: Id,
    slot: usize,
    link: Link,
    channels: Vec<Option<Channel>>,
    /// Stands in the queue.
    is_queued: bool,
}

struct Channel {
    socket: UdpSocket,
    ready: bool,
}

impl Relay {
    pub(super) fn new(
        poll: Poll,
        orders: Orders,
        server: SocketAddr,
        drops: Arc<DropCounters>,
    ) -> Self {
        Self {
            poll,
            orders,
            drops,
            sockets: Sockets { server, open: 0 },
            carriers: Vec::new(),
            tenants: 0,
            by_login: BTreeMap::new(),
            busy: VecDeque::new(),
            courier: Courier::new(),
            buffers: Buffers::new(),
            idle_look_at: clock::now() + IDLE_LOOK_EVERY,
            stop: false,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stop {
            if let Err(error) = self.wait(&mut events) {
                log::error!("waiting for events of carriers failed, they end: {error}");
                break;
            }
            let now = clock::now();
            self.take_orders(now);
            for _ in 0..self.busy.len() {
                self.serve_next(now);
            }
            if now >= self.idle_look_at {
                self.idle_look_at = now + IDLE_LOOK_EVERY;
                self.close_idle(now);
            }
        }
        for slot in 0..self.carriers.len() {
            self.close(slot, &CarrierEnd::Dismissed);
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = if self.busy.is_empty() { IDLE_LOOK_EVERY } else { Duration::ZERO };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }
        for event in events.iter() {
            self.note(event);
        }
        Ok(())
    }

    /// Remembers what is ready. An event may be of the slot's last tenant; then there is nothing
    /// to be found, and no harm done.
    fn note(&mut self, event: &Event) {
        let Some(number) = event.token().0.checked_sub(1) else { return };
        let (slot, source) = (number / TOKENS_PER_CARRIER, number % TOKENS_PER_CARRIER);
        let Some(Some(carrier)) = self.carriers.get_mut(slot) else { return };
        if source == STREAM {
            carrier.link.readable |=
                event.is_readable() || event.is_error() || event.is_read_closed();
            if event.is_writable() {
                carrier.link.set_writable();
            }
        } else if let Some(Some(channel)) = carrier.channels.get_mut(source) {
            channel.ready = true;
        }
        if !std::mem::replace(&mut carrier.is_queued, true) {
            self.busy.push_back(slot);
        }
    }

    fn take_orders(&mut self, now: Instant) {
        for _ in 0..CARRIER_ORDERS_MAX {
            match self.orders.try_recv() {
                Ok(Order::Adopt { carrier, login }) => self.adopt(now, *carrier, login),
                Ok(Order::Close { login, guard }) => {
                    while let Some(slot) = self.oldest_of(login) {
                        self.close(slot, &CarrierEnd::Dismissed);
                    }
                    drop(guard);
                }
                Ok(Order::Stop) => self.stop = true,
                Err(_) => return,
            }
        }
    }

    fn oldest_of(&self, login: Id) -> Option<usize> {
        self.by_login.get(&login)?.front().copied()
    }

    fn adopt(&mut self, now: Instant, carrier: CarrierStream, login: Id) {
        if self.by_login.get(&login).is_some_and(|slots| slots.len() >= CARRIERS_PER_LOGIN_MAX)
            && let Some(oldest) = self.oldest_of(login)
        {
            self.close(oldest, &CarrierEnd::Dismissed);
        }
        let free = self.carriers.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.carriers.len());
        if slot >= CARRIERS_MAX {
            log::warn!("a carrier was refused: there are {CARRIERS_MAX}, as many as may be");
            return;
        }
        let from = carrier.stream.peer_addr();
        let token = token_of(slot, STREAM);
        let link = match Link::new(now, carrier, self.poll.registry(), token) {
            Ok(link) => link,
            Err(error) => {
                log::warn!("a connection cannot become a carrier: {error}");
                return;
            }
        };
        let carrier = Carrier { login, slot, link, channels: Vec::new(), is_queued: true };
        if let Ok(from) = from {
            log::debug!("a carrier from {from} begins");
        }
        if slot == self.carriers.len() {
            self.carriers.push(None);
        }
        if let Some(place) = self.carriers.get_mut(slot) {
            *place = Some(carrier);
            self.tenants += 1;
            self.by_login.entry(login).or_default().push_back(slot);
            self.busy.push_back(slot);
        }
    }

    /// Gives the first carrier in the queue a helping, and its place at the end of the queue if it
    /// is not done.
    fn serve_next(&mut self, now: Instant) {
        let Some(slot) = self.busy.pop_front() else { return };
        let share = CARRIER_QUEUES_LEN_MAX / self.tenants.max(1);
        let len_max = share.clamp(CARRIER_QUEUE_LEN_MIN, CARRIER_QUEUE_LEN_MAX);
        let Self { carriers, sockets, courier, buffers, drops, poll, .. } = self;
        let Some(Some(carrier)) = carriers.get_mut(slot) else { return };
        carrier.is_queued = false;
        let outcome = carrier
            .send(now, courier, sockets.server, len_max, drops)
            .and_then(|()| carrier.receive(now, courier, buffers, sockets, poll.registry(), drops));
        match outcome {
            Ok(()) if carrier.is_busy() => {
                carrier.is_queued = true;
                self.busy.push_back(slot);
            }
            Ok(()) => {}
            Err(end) => self.close(slot, &end),
        }
    }

    fn close(&mut self, slot: usize, end: &CarrierEnd) {
        let Some(carrier) = self.carriers.get_mut(slot).and_then(Option::take) else { return };
        log::debug!("a carrier has ended: {end}");
        self.tenants -= 1;
        self.sockets.open -= carrier.channels.iter().flatten().count();
        if let Some(slots) = self.by_login.get_mut(&carrier.login) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.by_login.remove(&carrier.login);
            }
        }
        self.busy.retain(|other| *other != slot);
        carrier.link.close(self.poll.registry());
    }

    fn close_idle(&mut self, now: Instant) {
        let is_idle = |carrier: &Carrier| {
            now.saturating_duration_since(carrier.link.heard) >= CARRIER_IDLE_MAX
        };
        let idle: Vec<usize> =
            self.carriers.iter().flatten().filter(|it| is_idle(it)).map(|it| it.slot).collect();
        for slot in idle {
            self.close(slot, &CarrierEnd::Idle(CARRIER_IDLE_MAX));
        }
    }
}

impl Carrier {
    fn is_busy(&self) -> bool {
        self.link.readable || self.channels.iter().flatten().any(|channel| channel.ready)
    }

    /// What the server has sent to this client goes to its connection.
    fn send(
        &mut self,
        now: Instant,
        courier: &mut Courier,
        server: SocketAddr,
        len_max: usize,
        drops: &DropCounters,
    ) -> Result<(), CarrierEnd> {
        let Self { channels, link, .. } = self;
        for (number, channel) in (0..).zip(channels) {
            let Some(channel) = channel.as_mut().filter(|channel| channel.ready) else { continue };
            let outbox = &mut link.outbox;
            channel.ready = courier.collect(now, &channel.socket, outbox, len_max, drops, |from| {
                (from == server).then_some(number)
            });
            let too_late = link.send(now)?;
            drops.add(DropReason::CarrierTooLate, too_late as u64);
        }
        let too_late = link.send(now)?;
        drops.add(DropReason::CarrierTooLate, too_late as u64);
        Ok(())
    }

    /// What the client has sent goes to the server, each channel from a socket of its own.
    fn receive(
        &mut self,
        now: Instant,
        courier: &mut Courier,
        buffers: &mut Buffers,
        sockets: &mut Sockets,
        registry: &Registry,
        drops: &DropCounters,
    ) -> Result<(), CarrierEnd> {
        if !self.link.readable {
            return Ok(());
        }
        let Self { link, channels, slot, .. } = self;
        let mut last: Option<u8> = None;
        let server = sockets.server;
        let outcome = link.receive(now, buffers, |frame, body, bytes| {
            let number = frame.channel();
            if let Some(before) = last.filter(|before| *before != number)
                && let Some(Some(channel)) = channels.get(usize::from(before))
            {
                courier.flush(&channel.socket, bytes, drops);
            }
            last = Some(number);
            match sockets.channel(channels, *slot, number, registry) {
                Some(socket) => courier.push(socket, frame, body, bytes, server, drops),
                None => drops.add(DropReason::CarrierSendFailed, frame.datagrams() as u64),
            }
        });
        if let Some(Some(channel)) = last.and_then(|last| channels.get(usize::from(last))) {
            courier.flush(&channel.socket, &buffers.plain, drops);
        }
        outcome
    }
}

impl Sockets {
    /// The socket of a channel, which is made when it is first needed.
    fn channel<'a>(
        &mut self,
        channels: &'a mut Vec<Option<Channel>>,
        slot: usize,
        number: u8,
        registry: &Registry,
    ) -> Option<&'a UdpSocket> {
        let number = usize::from(number);
        if channels.len() <= number {
            channels.resize_with(number + 1, || None);
        }
        let place = channels.get_mut(number)?;
        if place.is_none() {
            *place = Some(self.open(slot, number, registry)?);
        }
        place.as_ref().map(|channel| &channel.socket)
    }

    fn open(&mut self, slot: usize, number: usize, registry: &Registry) -> Option<Channel> {
        if self.open >= CARRIER_SOCKETS_MAX {
            return None;
        }
        let socket = match courier::bind(SocketAddr::new(address_of(slot), 0)) {
            Ok(socket) => socket,
            Err(error) => {
                log::warn!("a carrier has no socket for channel {number}: {error}");
                return None;
            }
        };
        let token = token_of(slot, number);
        let fd = socket.as_raw_fd();
        if let Err(error) = registry.register(&mut SourceFd(&fd), token, Interest::READABLE) {
            log::warn!("a carrier's channel {number} cannot be watched: {error}");
            return None;
        }
        self.open += 1;
        Some(Channel { socket, ready: true })
    }
}

fn token_of(slot: usize, source: usize) -> Token {
    Token(1 + slot * TOKENS_PER_CARRIER + source)
}

/// A carrier's address: each has a /24 of its own, beside that of 127.0.0.1.
fn address_of(slot: usize) -> IpAddr {
    let [high, low] = (slot as u16 + 1).to_be_bytes();
    Ipv4Addr::new(127, high, low, 1).into()
}
