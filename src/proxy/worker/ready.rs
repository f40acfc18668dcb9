//! Connections to upstream proxies that are made before anybody needs them.
//!
//! ```text
//! Connecting -> Talking -> Idle -> taken, and used
//!                  ^         |
//!                  `---------'  now and then it is asked again
//! ```
//!
//! A server that is asked about itself (`OPTIONS *`), inside TLS if it speaks that, and answers
//! that it is there and knows who asks, will do the same for a connection to an origin: then only
//! that is left to be asked for. Whoever finds none here dials as ever.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Interest, Registry, Token};
use zeroize::Zeroizing;

use crate::limits::{
    PROXY_READY_ATTEMPT_WITHIN, PROXY_READY_KEEP_ALIVE, PROXY_READY_LASTS, PROXY_READY_RENEW_MAX,
    PROXY_READY_RENEW_MIN, PROXY_READY_UNACKNOWLEDGED_MAX, PROXY_READY_WITHIN,
};
use crate::proxy::dial::names::{Awaited, Names, Reply};
use crate::proxy::dial::{self, Answer, Asker};
use crate::proxy::http::ConnectError;
use crate::proxy::settings::Rules;
use crate::proxy::stream::{End, Stream};
use crate::proxy::target::{DomainName, Host};
use crate::proxy::upstream::Group;
use crate::proxy::upstream::demand::Demand;
use crate::proxy::upstream::group::ReadySeat;
use crate::proxy::upstream::handshake::{Handshake, HandshakeError};
use crate::sys::names::LookupError;

use super::talk::{Progress, Talk};
use super::{Order, WorkerHandle};

/// What the kernel is to tell of them.
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// What is needed of the worker around them.
pub(super) struct Around<'w> {
    pub(super) now: Instant,
    pub(super) registry: &'w Registry,
    pub(super) names: &'w Names,
    pub(super) handle: &'w WorkerHandle,
}

/// The connections that a worker has ready.
#[derive(Debug)]
pub(super) struct Ready {
    fleets: Vec<Fleet>,
    places: Vec<Option<Place>>,
    free: Vec<usize>,
    /// Places of which the kernel has told.
    noticed: Vec<usize>,
    /// The token of a place.
    token: fn(usize) -> Token,
    /// When there is something to do.
    due: Option<Instant>,
}

/// Those to one server.
#[derive(Debug)]
struct Fleet {
    group: Arc<Group>,
    index: usize,
    demand: Demand,
    /// Its name, while that is being looked up.
    awaited: Option<Awaited>,
}

#[derive(Debug)]
struct Place {
    group: Arc<Group>,
    index: usize,
    state: State,
    until: Instant,
}

#[derive(Debug)]
enum State {
    Connecting {
        end: End,
        /// What is tried next.
        rest: Vec<SocketAddr>,
        /// Until when the server has to have answered.
        over_at: Instant,
    },
    Talking {
        talk: Box<Talk>,
        /// Since when it has been ready, if it is asked again.
        since: Option<Instant>,
    },
    Idle {
        end: End,
        since: Instant,
        _seat: ReadySeat,
    },
}

impl Fleet {
    fn is_of(&self, group: &Arc<Group>, index: usize) -> bool {
        Arc::ptr_eq(&self.group, group) && self.index == index
    }
}

impl Place {
    fn is_of(&self, fleet: &Fleet) -> bool {
        fleet.is_of(&self.group, self.index)
    }
}

impl Ready {
    /// None, with these tokens for those to come.
    pub(super) fn new(token: fn(usize) -> Token) -> Self {
        Self {
            fleets: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            noticed: Vec::new(),
            token,
            due: None,
        }
    }

    /// Keeps connections to the servers of the groups in `rules`, and to no others.
    pub(super) fn set_rules(&mut self, rules: &[Arc<Rules>], now: Instant) {
        let groups = || rules.iter().flat_map(|rules| &rules.upstreams);
        self.fleets.retain(|fleet| groups().any(|group| Arc::ptr_eq(group, &fleet.group)));
        for group in groups().filter(|group| group.settings.ready > 0) {
            for (index, server) in group.settings.servers.iter().enumerate() {
                let is_there = self.fleets.iter().any(|fleet| fleet.is_of(group, index));
                if !is_there && server.scheme.is_http() {
                    let demand = Demand::new(group.settings.ready, now);
                    let group = Arc::clone(group);
                    self.fleets.push(Fleet { group, index, demand, awaited: None });
                }
            }
        }
        for number in 0..self.places.len() {
            let place = self.places.get(number).and_then(Option::as_ref);
            if place.is_some_and(|place| !self.fleets.iter().any(|fleet| place.is_of(fleet))) {
                self.remove(number);
            }
        }
        self.due = Some(now);
    }

    /// Keeps none any more.
    pub(super) fn stop(&mut self, now: Instant) {
        self.set_rules(&[], now);
    }

    /// When [`Ready::turn`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The kernel tells of the connection at a place.
    pub(super) fn notice(&mut self, number: usize, event: &Event) {
        let Some(Some(place)) = self.places.get_mut(number) else { return };
        match &mut place.state {
            State::Connecting { end, .. } | State::Idle { end, .. } => end.notice(event),
            State::Talking { talk, .. } => talk.origin.notice(event),
        }
        self.noticed.push(number);
    }

    /// A connection to a server of a group, if one is ready; the kernel tells of it under `token`
    /// from here on.
    pub(super) fn take(
        &mut self,
        (group, index): (&Arc<Group>, usize),
        registry: &Registry,
        token: Token,
        now: Instant,
    ) -> Option<End> {
        let at = self.fleets.iter().position(|fleet| fleet.is_of(group, index))?;
        self.due = Some(now);
        let mut ready: Vec<(Instant, usize)> = self.ready(at).collect();
        if let Some(fleet) = self.fleets.get_mut(at) {
            fleet.demand.take(ready.len());
        }
        // The one that was asked last is the surest to be there.
        ready.sort_unstable();
        while let Some((_, number)) = ready.pop() {
            let Some(Place { state: State::Idle { mut end, .. }, .. }) = self.remove(number) else {
                continue;
            };
            if end.probe() && registry.reregister(end.stream.tcp_mut(), token, INTEREST).is_ok() {
                return Some(end);
            }
        }
        None
    }

    /// Somebody has got through a server that was dialled, or that had been ready.
    pub(super) fn encourage(&mut self, group: &Arc<Group>, index: usize, now: Instant) {
        if let Some(fleet) = self.fleets.iter_mut().find(|fleet| fleet.is_of(group, index)) {
            fleet.demand.succeed();
            self.due = Some(now);
        }
    }

    /// The name of a server was looked up.
    pub(super) fn locate(&mut self, name: &DomainName, answer: &Answer, around: &Around<'_>) {
        self.due = Some(around.now);
        for at in 0..self.fleets.len() {
            let Some(fleet) = self.fleets.get_mut(at) else { continue };
            let server = fleet.group.server(fleet.index);
            let is_named = server.is_some_and(|it| it.target.host == Host::Name(name.clone()));
            if is_named && fleet.awaited.take().is_some() {
                self.begin_missing(at, answer, around);
            }
        }
    }

    /// Does what there is to do.
    pub(super) fn turn(&mut self, around: &Around<'_>) {
        let is_due = self.due.is_some_and(|due| around.now >= due);
        if !is_due && self.noticed.is_empty() {
            return;
        }
        for number in std::mem::take(&mut self.noticed) {
            self.go_on(number, around);
        }
        for number in 0..self.places.len() {
            let place = self.places.get(number).and_then(Option::as_ref);
            if place.is_some_and(|place| around.now >= place.until) {
                self.expire(number, around);
            }
        }
        for at in 0..self.fleets.len() {
            let ready = self.ready(at).count();
            if let Some(fleet) = self.fleets.get_mut(at) {
                fleet.demand.look(ready, around.now);
            }
            self.reinforce(at, around);
        }
        let places = self.places.iter().flatten().map(|place| place.until);
        let fleets = self.fleets.iter();
        let fleets = fleets.map(|fleet| fleet.demand.due(self.there(fleet)));
        self.due = places.chain(fleets).min();
    }

    /// Those of a fleet that are ready: when each is asked again, and its place.
    fn ready(&self, at: usize) -> impl Iterator<Item = (Instant, usize)> {
        let fleet = self.fleets.get(at);
        let places = self.places.iter().enumerate();
        places.filter_map(move |(number, place)| match place {
            Some(place @ Place { state: State::Idle { .. }, until, .. }) => {
                fleet.filter(|fleet| place.is_of(fleet)).map(|_| (*until, number))
            }
            _ => None,
        })
    }

    /// How many of a fleet are there or on their way.
    fn there(&self, fleet: &Fleet) -> usize {
        let places = self.places.iter().flatten().filter(|place| place.is_of(fleet)).count();
        places + usize::from(fleet.awaited.is_some())
    }

    /// Begins as many as are missing.
    fn reinforce(&mut self, at: usize, around: &Around<'_>) {
        let Some(fleet) = self.fleets.get(at) else { return };
        if fleet.awaited.is_some() || fleet.demand.missing(self.there(fleet), around.now) == 0 {
            return;
        }
        let Some(server) = fleet.group.server(fleet.index) else { return };
        let reply = match &server.target.host {
            Host::Address(address) => Reply::Known(Ok(Arc::from([*address]))),
            Host::Name(name) => {
                let until = around.now + PROXY_READY_WITHIN;
                around.names.ask(around.now, name, (Asker::Gateway, until), || {
                    let (handle, asked) = (around.handle.clone(), name.clone());
                    Box::new(move |answer| handle.give(Order::Located(asked, answer)))
                })
            }
        };
        match reply {
            Reply::Known(answer) => self.begin_missing(at, &answer, around),
            Reply::Later(awaited) => {
                if let Some(fleet) = self.fleets.get_mut(at) {
                    fleet.awaited = Some(awaited);
                }
            }
            Reply::Full => self.begin_missing(at, &Err(LookupError::Unavailable), around),
        }
    }

    fn begin_missing(&mut self, at: usize, answer: &Answer, around: &Around<'_>) {
        let Some(fleet) = self.fleets.get(at) else { return };
        let Some(server) = fleet.group.server(fleet.index) else { return };
        let port = server.target.port;
        let addresses: &[IpAddr] = answer.as_deref().unwrap_or_default();
        let there = self.there(fleet);
        let (group, index) = (Arc::clone(&fleet.group), fleet.index);
        for _ in 0..fleet.demand.missing(there, around.now) {
            let rest = addresses.iter().rev().map(|ip| SocketAddr::new(*ip, port)).collect();
            let over_at = around.now + PROXY_READY_WITHIN;
            if !self.connect((Arc::clone(&group), index), rest, over_at, around) {
                return self.fail(&group, index, &"it cannot be reached", around.now);
            }
        }
    }

    /// Begins to connect to the last address of a list. Returns whether that could be done for one
    /// of them.
    fn connect(
        &mut self,
        (group, index): (Arc<Group>, usize),
        mut rest: Vec<SocketAddr>,
        over_at: Instant,
        around: &Around<'_>,
    ) -> bool {
        while let Some(address) = rest.pop() {
            let number = self.free.pop().unwrap_or(self.places.len());
            let begun = dial::connect(address, group.settings.dial_from).and_then(|mut stream| {
                around.registry.register(&mut stream, (self.token)(number), INTEREST)?;
                Ok(stream)
            });
            let place = begun.ok().map(|stream| {
                let end = End::new(Stream::Tcp(stream));
                let until = (around.now + PROXY_READY_ATTEMPT_WITHIN).min(over_at);
                let state = State::Connecting { end, rest: std::mem::take(&mut rest), over_at };
                Place { group: Arc::clone(&group), index, state, until }
            });
            let is_begun = place.is_some();
            match self.places.get_mut(number) {
                Some(empty) => *empty = place,
                None => self.places.push(place),
            }
            if is_begun {
                return true;
            }
            self.free.push(number);
        }
        false
    }

    fn remove(&mut self, number: usize) -> Option<Place> {
        let place = self.places.get_mut(number)?.take()?;
        self.free.push(number);
        Some(place)
    }

    fn put_back(&mut self, number: usize, place: Place) {
        if let Some(empty) = self.places.get_mut(number) {
            *empty = Some(place);
            self.free.retain(|free| *free != number);
        }
    }

    /// The kernel has told of a connection.
    fn go_on(&mut self, number: usize, around: &Around<'_>) {
        let Some(mut place) = self.remove(number) else { return };
        match place.state {
            State::Connecting { end, rest, over_at } if end.is_hung_up() => {
                let server = (Arc::clone(&place.group), place.index);
                drop(end);
                if !self.connect(server, rest, over_at, around) {
                    self.fail(&place.group, place.index, &"it cannot be reached", around.now);
                }
            }
            State::Connecting { end, over_at, .. } if end.is_writable() => {
                place.until = over_at;
                self.ask(number, (place.group, place.index, place.until), end, None, around);
            }
            State::Idle { mut end, since, _seat } => {
                if end.is_quiet() {
                    place.state = State::Idle { end, since, _seat };
                    self.put_back(number, place);
                } else {
                    self.fail(&place.group, place.index, &"it has closed it", around.now);
                }
            }
            State::Talking { talk, since } => {
                place.state = State::Talking { talk, since };
                self.listen(number, place, around);
            }
            state @ State::Connecting { .. } => {
                place.state = state;
                self.put_back(number, place);
            }
        }
    }

    /// Asks a server whether it is there.
    fn ask(
        &mut self,
        number: usize,
        (group, index, until): (Arc<Group>, usize, Instant),
        end: End,
        since: Option<Instant>,
        around: &Around<'_>,
    ) {
        let Some(server) = group.server(index) else { return };
        let mut output = Zeroizing::new(Vec::new());
        let begun = Handshake::greet(server, group.proof(), &mut output)
            .and_then(|greeting| Talk::begin((&group, server), (end, 0), greeting, output));
        match begun {
            Ok(talk) => {
                let state = State::Talking { talk: Box::new(talk), since };
                self.listen(number, Place { group, index, state, until }, around);
            }
            Err(error) => self.lose(&group, index, &error, around.now),
        }
    }

    /// Goes on with what is said to a server; its place is free.
    fn listen(&mut self, number: usize, mut place: Place, around: &Around<'_>) {
        let State::Talking { talk, since } = &mut place.state else { return };
        match talk.go_on() {
            Ok(Progress::Wait) => self.put_back(number, place),
            Ok(Progress::Done) => {
                let keep_alive = talk.handshake.keep_alive().unwrap_or(PROXY_READY_KEEP_ALIVE);
                place.until = around.now + renew_after(keep_alive, number);
                // Nobody may speak behind an answer.
                let is_clean = talk.input.is_empty();
                let since = *since;
                let State::Talking { talk, .. } = place.state else { return };
                if !is_clean {
                    let why = "it says more than an answer";
                    return self.be_refused((&place.group, place.index), true, &why, around.now);
                }
                if since.is_some() {
                    self.encourage(&place.group, place.index, around.now);
                }
                let fleet = self.fleets.iter_mut().find(|it| it.is_of(&place.group, place.index));
                if let Some(fleet) = fleet {
                    fleet.demand.stand_ready();
                }
                talk.origin.stream.give_up_unacknowledged(Some(PROXY_READY_UNACKNOWLEDGED_MAX));
                let _seat = place.group.count_ready(place.index);
                let since = since.unwrap_or(around.now);
                place.state = State::Idle { end: talk.origin, since, _seat };
                self.put_back(number, place);
            }
            Err(error) => self.lose(&place.group, place.index, &error, around.now),
        }
    }

    /// The time of a connection is over.
    fn expire(&mut self, number: usize, around: &Around<'_>) {
        let Some(place) = self.remove(number) else { return };
        let Place { group, index, .. } = place;
        match place.state {
            State::Connecting { rest, over_at, .. } if around.now < over_at => {
                if !self.connect((Arc::clone(&group), index), rest, over_at, around) {
                    self.fail(&group, index, &"it cannot be reached", around.now);
                }
            }
            State::Connecting { .. } | State::Talking { .. } => {
                self.fail(&group, index, &"it has not answered in time", around.now);
            }
            State::Idle { mut end, since, .. } => {
                let fleet = self.fleets.iter().find(|fleet| fleet.is_of(&group, index));
                // This one is out of its place already.
                let is_wanted = fleet.is_some_and(|it| !it.demand.has_excess(self.there(it) + 1));
                // Another one finds the server's rules as they are then.
                let is_young = around.now < since + PROXY_READY_LASTS;
                if is_wanted && is_young && end.probe() {
                    let until = around.now + PROXY_READY_WITHIN;
                    self.ask(number, (group, index, until), end, Some(since), around);
                }
            }
        }
    }

    /// A server does not answer as it should.
    fn lose(&mut self, group: &Arc<Group>, index: usize, error: &HandshakeError, now: Instant) {
        let is_unable = match error {
            HandshakeError::Closed { .. } => return self.fail(group, index, error, now),
            HandshakeError::Tls(_)
            | HandshakeError::Http(
                ConnectError::Credentials
                | ConnectError::Denied(_)
                | ConnectError::Refused(429 | 500..),
            ) => false,
            _ => true,
        };
        self.be_refused((group, index), is_unable, error, now);
    }

    /// A server does not let this client in, or does not do this at all.
    fn be_refused(
        &mut self,
        (group, index): (&Arc<Group>, usize),
        is_unable: bool,
        why: &dyn std::fmt::Display,
        now: Instant,
    ) {
        if let Some(fleet) = self.fleets.iter_mut().find(|fleet| fleet.is_of(group, index)) {
            fleet.demand.be_refused(is_unable, now);
        }
        tell(group, index, why);
    }

    /// A server is not reached, or does not stay.
    fn fail(
        &mut self,
        group: &Arc<Group>,
        index: usize,
        why: &dyn std::fmt::Display,
        now: Instant,
    ) {
        if let Some(fleet) = self.fleets.iter_mut().find(|fleet| fleet.is_of(group, index)) {
            fleet.demand.fail(now);
        }
        tell(group, index, why);
    }
}

fn tell(group: &Group, index: usize, why: &dyn std::fmt::Display) {
    if let Some(server) = group.server(index) {
        let name = group.settings.name.as_str();
        log::debug!("upstream {name}: no connection to {server} is ready: {why}");
    }
}

/// After how long a server is asked again that bears a silence of `keep_alive`: not all of them at
/// the same time, since meanwhile they are not ready.
fn renew_after(keep_alive: Duration, number: usize) -> Duration {
    let within = (keep_alive / 2).min(PROXY_READY_RENEW_MAX);
    (within - within / 16 * (number % 8) as u32).max(PROXY_READY_RENEW_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_again_in_good_time_but_not_without_a_pause() {
        for (bears, at_least, at_most) in [(0, 1000, 1000), (1, 1000, 1000), (40, 11000, 20000)] {
            for number in 0..16 {
                let after = renew_after(Duration::from_secs(bears), number).as_millis();
                assert!((at_least..=at_most).contains(&after), "{bears} s: {after} ms");
            }
        }
        assert_eq!(renew_after(Duration::MAX, 0), PROXY_READY_RENEW_MAX);
    }
}
