//! Passes datagrams, for as long as the client's connection is there.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;

use crate::limits::{
    PROXY_DATAGRAM_BUFFER_LEN, PROXY_DATAGRAM_PORT_TRIES, PROXY_DATAGRAMS_WAITING_LEN_MAX,
    PROXY_DATAGRAMS_WAITING_MAX,
};
use crate::proxy::counters::DatagramDrop;
use crate::proxy::dial::names::{Awaited, Reply};
use crate::proxy::dial::own::OwnPrefixes;
use crate::proxy::dial::{Answer, Asker, Failure};
use crate::proxy::settings::Rules;
use crate::proxy::socks::association::Association;
use crate::proxy::stream::{End, Moved};
use crate::proxy::target::{DomainName, Host, Target};
use crate::proxy::upstream::{Question, Way};
use crate::sys::udp::{RecvBatch, SendTarget, UdpError, UdpOptions, UdpSocket};

use super::super::datagrams::{Datagrams, Sent};
use super::super::slab::ConnectionId;
use super::super::{Context, Order};
use super::admission::Visitor;
use super::{Connection, Phase, Step, Turn, write_out};

/// Reads of one turn of what a client says, to nobody, on the connection of its association.
const READS_PER_TURN: usize = 8;

/// An association, and its two sockets.
#[derive(Debug)]
pub(super) struct Associating {
    association: Association,
    /// Where the client sends to, and is answered from.
    inside: Port,
    /// From where its datagrams go out, to both families if this host has both.
    outside: Port,
    waiting: Waiting,
    /// The answer to the request.
    output: Vec<u8>,
    /// Until then, if no datagram passes.
    pub(super) until: Instant,
}

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    is_readable: bool,
}

/// Datagrams to names that are being looked up.
#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<(DomainName, u16, Box<[u8]>)>,
    bytes: usize,
    /// The names. Nobody looks them up any more when the association is gone.
    names: Vec<(DomainName, Awaited)>,
}

impl Waiting {
    /// Whether there is room for one with so many bytes.
    fn has_room(&self, len: usize) -> bool {
        self.datagrams.len() < PROXY_DATAGRAMS_WAITING_MAX
            && self.bytes + len <= PROXY_DATAGRAMS_WAITING_LEN_MAX
    }

    /// Takes one in, for which there is room.
    fn push(&mut self, name: &DomainName, port: u16, payload: &[u8]) {
        self.bytes += payload.len();
        self.datagrams.push_back((name.clone(), port, payload.into()));
    }

    /// Whether one waits for this name.
    fn has(&self, name: &DomainName) -> bool {
        self.datagrams.iter().any(|(waiting, ..)| waiting == name)
    }

    /// What becomes of one, if that is known by now: the addresses of the name, or that it is
    /// dropped. If not, it waits. A name for which none may wait is not even asked for.
    fn settle(
        &mut self,
        (name, port, payload): (&DomainName, u16, &[u8]),
        known: impl FnOnce() -> Option<Answer>,
        ask: impl FnOnce() -> Reply,
    ) -> Option<Result<Arc<[IpAddr]>, DatagramDrop>> {
        let has_room = self.has_room(payload.len());
        let reply = match (self.has(name), has_room) {
            (true, false) => Reply::Full,
            (false, false) => known().map_or(Reply::Full, Reply::Known),
            (true, true) => {
                self.push(name, port, payload);
                return None;
            }
            (false, true) => ask(),
        };
        match reply {
            Reply::Known(answer) => Some(answer.map_err(|_| DatagramDrop::NameUnknown)),
            Reply::Full => Some(Err(DatagramDrop::NamesWaiting)),
            Reply::Later(awaited) => {
                self.names.push((name.clone(), awaited));
                self.push(name, port, payload);
                None
            }
        }
    }

    /// Takes those out that go to a name.
    fn take(&mut self, name: &DomainName) -> Vec<(u16, Box<[u8]>)> {
        let mut taken = Vec::new();
        self.datagrams.retain_mut(|(waiting, port, payload)| {
            let is_its = waiting == name;
            if is_its {
                taken.push((*port, std::mem::take(payload)));
            }
            !is_its
        });
        self.bytes -= taken.iter().map(|(_, payload)| payload.len()).sum::<usize>();
        self.names.retain(|(waiting, _)| waiting != name);
        taken
    }
}

impl Port {
    fn open(address: SocketAddr) -> Result<UdpSocket, UdpError> {
        let socket = UdpSocket::bind(
            address,
            &UdpOptions {
                receive_buffer: Some(PROXY_DATAGRAM_BUFFER_LEN),
                follow_routes: true,
                ..UdpOptions::default()
            },
        )?;
        // Whoever sends large datagrams has reasons of its own.
        socket.allow_fragments()?;
        Ok(socket)
    }

    /// At the address that the client has reached, at one of `ports` if there are any.
    fn inside(
        ip: IpAddr,
        ports: Option<&RangeInclusive<u16>>,
        next: &mut u16,
    ) -> Result<UdpSocket, UdpError> {
        let Some(ports) = ports else { return Self::open(SocketAddr::new(ip, 0)) };
        let count = u32::from(*ports.end() - *ports.start()) + 1;
        let mut tries = 0;
        loop {
            let offset = u32::from(*next) % count;
            *next = next.wrapping_add(1);
            tries += 1;
            let port = u32::from(*ports.start()) + offset;
            let port = u16::try_from(port).unwrap_or_else(|_| *ports.end());
            match Self::open(SocketAddr::new(ip, port)) {
                Err(UdpError::AddressInUse { .. })
                    if tries < count.min(PROXY_DATAGRAM_PORT_TRIES) => {}
                opened => return opened,
            }
        }
    }

    /// To both families if this host has them.
    fn outside() -> Result<UdpSocket, UdpError> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        Self::open(any).or_else(|_| Self::open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
    }

    fn register(
        socket: UdpSocket,
        id: ConnectionId,
        number: usize,
        cx: &Context,
    ) -> io::Result<Self> {
        let fd = socket.as_raw_fd();
        cx.registry.register(&mut SourceFd(&fd), id.token(number), Interest::READABLE)?;
        Ok(Self { socket, is_readable: false })
    }

    /// Receives what there is, up to a batch. Returns whether there is something.
    fn receive(&mut self, received: &mut RecvBatch) -> bool {
        if !self.is_readable {
            return false;
        }
        // An error is that of a datagram that was sent earlier; the next one to come is an event.
        self.is_readable = received.receive(&self.socket).is_ok();
        self.is_readable
    }

    fn send(&self, cx: &mut Context) -> Sent {
        cx.datagrams.outgoing.send(&self.socket, &cx.counters)
    }
}

impl Connection {
    /// The client wants to send datagrams, from an address that it may know.
    pub(super) fn begin_associating(&mut self, announced: SocketAddr, cx: &mut Context) {
        let (association, inside, outside) = match self.open_association(announced, cx) {
            Ok(opened) => opened,
            Err(failure) => return self.fail(failure, cx),
        };
        let Phase::Asking(mut asking) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return;
        };
        cx.counters.associations.add(1);
        asking.front.accept(|| inside.socket.local_addr(), &mut asking.output);
        self.phase = Phase::Associating(Box::new(Associating {
            association,
            inside,
            outside,
            waiting: Waiting::default(),
            output: asking.output,
            until: cx.now + self.rules.idle_max,
        }));
    }

    fn open_association(
        &self,
        announced: SocketAddr,
        cx: &mut Context,
    ) -> Result<(Association, Port, Port), Failure> {
        let local = self.client.stream.tcp().local_addr();
        let local = local.map_err(|error| Failure::from(&error))?;
        let ports = self.rules.udp_ports.as_ref();
        let opened = Port::inside(local.ip().to_canonical(), ports, &mut cx.next_udp_port)
            .and_then(|inside| Ok((inside, Port::outside()?)));
        let (inside, outside) = opened.map_err(|error| {
            log::debug!("proxy: no association can be opened: {error}");
            Failure::Exhausted
        })?;
        let registered = Port::register(inside, self.id, 1, cx)
            .and_then(|inside| Ok((inside, Port::register(outside, self.id, 2, cx)?)));
        let (inside, outside) = registered.map_err(|error| Failure::from(&error))?;
        Ok((Association::new(self.from.ip(), announced), inside, outside))
    }

    /// Goes on passing datagrams.
    pub(super) fn associate(&mut self, cx: &mut Context) -> Step {
        let asker = self.asker();
        let Phase::Associating(associating) = &mut self.phase else { return Step::Next };
        if write_out(&mut self.client, &mut associating.output).is_err()
            || has_ended(&mut self.client)
        {
            return Step::Turn(Turn::Over);
        }
        let terms = Terms { rules: &self.rules, visitor: &self.visitor, asker };
        associating.take_from_client(self.id, terms, cx);
        let up = associating.outside.send(cx);
        associating.take_from_outside(terms, cx);
        let down = associating.inside.send(cx);
        associating.note(up, down, terms, cx);
        self.ledger.count(up.bytes, down.bytes);
        let ports = [&associating.inside, &associating.outside];
        let is_ready = self.client.is_readable() || ports.iter().any(|port| port.is_readable);
        Step::Turn(if is_ready { Turn::Again } else { Turn::Wait })
    }

    /// A name to which datagrams go was looked up.
    pub(in super::super) fn named(&mut self, name: &DomainName, answer: &Answer, cx: &mut Context) {
        let asker = self.asker();
        let Phase::Associating(associating) = &mut self.phase else { return };
        let terms = Terms { rules: &self.rules, visitor: &self.visitor, asker };
        let sent = associating.send_waiting(name, answer, terms, cx);
        associating.note(sent, Sent::default(), terms, cx);
        self.ledger.count(sent.bytes, 0);
    }
}

/// Reads what the client says to nobody. Returns whether it has ended its connection, and with it
/// the association.
fn has_ended(client: &mut End) -> bool {
    for _ in 0..READS_PER_TURN {
        match client.read(&mut [0; 1024]) {
            Ok(Moved::Bytes(_)) => {}
            Ok(Moved::Blocked) => return false,
            Ok(Moved::End) | Err(_) => return true,
        }
    }
    false
}

/// What goes for the datagrams of a client.
#[derive(Clone, Copy)]
struct Terms<'t> {
    rules: &'t Rules,
    visitor: &'t Visitor,
    /// At whose expense names are looked up.
    asker: Asker,
}

impl Terms<'_> {
    /// To which of the addresses of a host a datagram is sent: the first that the user may send to
    /// of a family that there is, if the entrance allows all of them. One that a rule sends through
    /// an upstream proxy is not sent past it.
    fn choose(
        self,
        target: &Target,
        addresses: &[IpAddr],
        outside: &Port,
        own: &OwnPrefixes,
    ) -> Result<IpAddr, DatagramDrop> {
        let (user, of_pass) = (self.visitor.user(), self.visitor.terms());
        let groups = of_pass.as_deref().map_or(&[][..], |terms| &terms.groups);
        let question = Question { target, addresses: Some(addresses), user, groups };
        if self.rules.routes.decide(&question) != Some(Way::Direct) {
            return Err(DatagramDrop::Denied);
        }
        for address in addresses {
            self.rules.guard.judge(*address, own).map_err(|_| DatagramDrop::Denied)?;
        }
        let is_v6 = outside.socket.is_v6();
        let mut reached = addresses.iter().filter(|ip| is_v6 || ip.is_ipv4()).peekable();
        reached.peek().ok_or(DatagramDrop::Refused)?;
        let is_allowed =
            |ip: &&IpAddr| self.visitor.may_send_to(SocketAddr::new(**ip, target.port));
        reached.find(is_allowed).copied().ok_or(DatagramDrop::Denied)
    }
}

impl Associating {
    /// The kernel tells of one of its sockets.
    pub(super) fn notice(&mut self, socket: usize, event: &Event) {
        let port = if socket == 1 { &mut self.inside } else { &mut self.outside };
        port.is_readable |= event.is_readable();
    }

    /// Takes in what the client has sent, to be sent on.
    fn take_from_client(&mut self, id: ConnectionId, terms: Terms<'_>, cx: &mut Context) {
        let Datagrams { received, outgoing } = &mut cx.datagrams;
        if !self.inside.receive(received) {
            return;
        }
        let own = cx.own.current();
        let until = cx.now + terms.rules.dial_within;
        let (messages, arena) = received.split();
        for message in messages {
            let datagram = arena.get(message.range.clone()).unwrap_or_default();
            let (target, payload) = match self.association.from_client(message.from, datagram) {
                Ok(taken) => taken,
                Err(why) => {
                    cx.counters.drop_datagram(why.into());
                    continue;
                }
            };
            let chosen = match &target.host {
                Host::Address(ip) => terms.choose(&target, &[*ip], &self.outside, &own),
                Host::Name(name) => {
                    let known = || cx.names.known(cx.now, name);
                    let ask = || {
                        cx.names.ask(cx.now, name, (terms.asker, until), || {
                            let (handle, asked) = (cx.handle.clone(), name.clone());
                            Box::new(move |answer| handle.give(Order::Named(id, asked, answer)))
                        })
                    };
                    match self.waiting.settle((name, target.port, payload), known, ask) {
                        Some(Ok(addresses)) => {
                            terms.choose(&target, &addresses, &self.outside, &own)
                        }
                        Some(Err(why)) => Err(why),
                        None => continue,
                    }
                }
            };
            match chosen {
                Ok(ip) if terms.visitor.has_room_up(cx.now, ip, payload.len()) => {
                    self.association.sends_to(ip);
                    let remote = SocketAddr::new(ip, target.port);
                    outgoing.push(&SendTarget { remote, local: None }, &[], payload);
                }
                Ok(_) => cx.counters.drop_datagram(DatagramDrop::Limited),
                Err(why) => cx.counters.drop_datagram(why),
            }
        }
    }

    /// Takes in what others have sent, to be sent to the client.
    fn take_from_outside(&mut self, terms: Terms<'_>, cx: &mut Context) {
        let Datagrams { received, outgoing } = &mut cx.datagrams;
        if !self.outside.receive(received) {
            return;
        }
        let (messages, arena) = received.split();
        for message in messages {
            let payload = arena.get(message.range.clone()).unwrap_or_default();
            let from = message.from.ip();
            let taken = match self.association.to_client(message.from) {
                Ok(_) if !terms.visitor.may_send_to(message.from) => Err(DatagramDrop::Denied),
                Ok(_) if !terms.visitor.has_room_down(cx.now, from, payload.len()) => {
                    Err(DatagramDrop::Limited)
                }
                taken => taken.map_err(DatagramDrop::from),
            };
            match taken {
                Ok((remote, header)) => {
                    outgoing.push(&SendTarget { remote, local: None }, &header, payload);
                }
                Err(why) => cx.counters.drop_datagram(why),
            }
        }
    }

    /// Sends what waited for a name that was looked up.
    fn send_waiting(
        &mut self,
        name: &DomainName,
        answer: &Answer,
        terms: Terms<'_>,
        cx: &mut Context,
    ) -> Sent {
        let mut sent = Sent::default();
        let own = cx.own.current();
        for (port, payload) in self.waiting.take(name) {
            let chosen = match answer {
                Ok(addresses) => {
                    let target = Target { host: Host::Name(name.clone()), port };
                    terms.choose(&target, addresses, &self.outside, &own)
                }
                Err(_) => Err(DatagramDrop::NameUnknown),
            };
            match chosen {
                Ok(ip) if terms.visitor.has_room_up(cx.now, ip, payload.len()) => {
                    self.association.sends_to(ip);
                    let target = SendTarget { remote: SocketAddr::new(ip, port), local: None };
                    cx.datagrams.outgoing.push(&target, &[], &payload);
                }
                Ok(_) => cx.counters.drop_datagram(DatagramDrop::Limited),
                Err(why) => cx.counters.drop_datagram(why),
            }
            if cx.datagrams.outgoing.is_full() {
                sent += self.outside.send(cx);
            }
        }
        sent += self.outside.send(cx);
        sent
    }

    /// Counts what has passed.
    fn note(&mut self, up: Sent, down: Sent, terms: Terms<'_>, cx: &Context) {
        if up.datagrams + down.datagrams > 0 {
            self.until = cx.now + terms.rules.idle_max;
            terms.visitor.count(up.bytes, down.bytes);
        }
        cx.counters.up_datagrams.add(up.datagrams);
        cx.counters.up_bytes.add(up.bytes);
        cx.counters.down_datagrams.add(down.datagrams);
        cx.counters.down_bytes.add(down.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::names::LookupError;

    fn name(number: usize) -> DomainName {
        DomainName::parse(format!("host{number}.example").as_bytes()).unwrap()
    }

    #[test]
    fn what_waits_for_names_is_bounded_and_comes_out_in_order() {
        let mut waiting = Waiting::default();
        for number in 0..PROXY_DATAGRAMS_WAITING_MAX {
            assert!(waiting.has_room(10));
            waiting.push(&name(number % 2), 53, &[number as u8; 10]);
        }
        assert!(!waiting.has_room(0), "too many");
        assert!(waiting.has(&name(1)) && !waiting.has(&name(2)));
        let taken = waiting.take(&name(1));
        let odd = (0..PROXY_DATAGRAMS_WAITING_MAX).filter(|number| number % 2 == 1);
        let expected: Vec<_> = odd.map(|number| (53, Box::from([number as u8; 10]))).collect();
        assert_eq!(taken, expected);
        assert!(!waiting.has(&name(1)) && waiting.has(&name(0)));
        waiting.take(&name(0));
        assert_eq!((waiting.datagrams.len(), waiting.bytes), (0, 0));
        let large = vec![0; 1 + PROXY_DATAGRAMS_WAITING_LEN_MAX / 2];
        waiting.push(&name(0), 1, &large);
        assert!(!waiting.has_room(large.len()), "too many bytes");
        assert!(waiting.has_room(0));
    }

    #[test]
    fn a_name_is_asked_for_once_and_not_for_what_is_dropped() {
        let mut waiting = Waiting::default();
        let (found, unknown) = (Answer::Ok(Arc::from([])), Err(LookupError::NotFound));
        let asks_not = || -> Reply { panic!("it is asked for") };
        let knows_not = || -> Option<Answer> { panic!("it is looked for") };
        let new = |number: usize| name(100 + number);
        let ask = |waiting: &mut Waiting, reply: Reply| {
            waiting.settle((&new(0), 53, b"new"), knows_not, || reply)
        };
        assert_eq!(ask(&mut waiting, Reply::Known(found.clone())), Some(Ok(Arc::from([]))));
        assert_eq!(ask(&mut waiting, Reply::Known(unknown)), Some(Err(DatagramDrop::NameUnknown)));
        assert_eq!(ask(&mut waiting, Reply::Full), Some(Err(DatagramDrop::NamesWaiting)));
        assert!(waiting.datagrams.is_empty());
        waiting.push(&name(0), 53, b"first");
        assert_eq!(waiting.settle((&name(0), 53, b"next"), knows_not, asks_not), None);
        while waiting.has_room(1) {
            waiting.push(&name(1), 53, b"more");
        }
        let full = Some(Err(DatagramDrop::NamesWaiting));
        assert_eq!(waiting.settle((&name(0), 53, b"late"), knows_not, asks_not), full);
        assert_eq!(waiting.settle((&new(1), 53, b"late"), || None, asks_not), full);
        let known = waiting.settle((&new(2), 53, b"known"), || Some(found), asks_not);
        assert_eq!(known, Some(Ok(Arc::from([]))));
        assert_eq!(waiting.datagrams.len(), PROXY_DATAGRAMS_WAITING_MAX);
    }

    #[test]
    fn a_range_of_ports_is_kept_to_and_runs_out() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        // A port that nobody else has; the range is that one alone.
        let free = Port::open(SocketAddr::new(ip, 0)).unwrap().local_addr().port();
        let mut next = 7;
        let only = free..=free;
        let first = Port::inside(ip, Some(&only), &mut next).unwrap();
        assert_eq!(first.local_addr().port(), free);
        let taken = Port::inside(ip, Some(&only), &mut next);
        assert!(matches!(taken, Err(UdpError::AddressInUse { .. })), "{taken:?}");
        drop(first);
        assert!(Port::inside(ip, Some(&only), &mut next).is_ok());
    }
}
