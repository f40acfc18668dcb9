//! Connections to origins that are kept for further requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::{Interest, Registry, Token};

use crate::limits::PROXY_KEPT_SWEEP_EVERY;
use crate::proxy::http::Scheme;
use crate::proxy::settings::Rules;
use crate::proxy::stream::End;
use crate::proxy::target::Target;
use crate::proxy::upstream::group::Lease;

/// A connection to an origin that is between two exchanges.
#[derive(Debug)]
pub(in crate::proxy) struct Origin {
    /// The connection.
    pub(in crate::proxy) end: End,
    /// Whom it leads to, and how.
    pub(in crate::proxy) key: (Scheme, Target),
    /// Whether it is the client's own, because it may be authenticated as such, or because others
    /// might have to go another way.
    pub(in crate::proxy) is_bound: bool,
    /// What the rules of users are asked about, as far as it is known: the address to which it
    /// leads, perhaps by way of an upstream proxy.
    pub(in crate::proxy) address: Option<SocketAddr>,
    /// Its place at the upstream proxy that it goes through.
    pub(in crate::proxy) lease: Option<Lease>,
}

/// Connections that nobody uses. One is used again only for the very target that it was dialled
/// for, only under the very rules by which its address was judged, and only by those whose own
/// rules let them reach that address now.
///
/// The kernel tells of each under a token of its own: one that has something to say, its end
/// mostly, is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Pool {
    places: Vec<Option<Idle>>,
    free: Vec<usize>,
    /// The places of those to an origin, the last used one last.
    by_origin: HashMap<(Scheme, Target), Vec<usize>>,
    /// The token of a place.
    token: fn(usize) -> Token,
    /// When to look which have been kept for too long.
    sweep_at: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    origin: Origin,
    rules: Arc<Rules>,
    until: Instant,
}

/// What the kernel is to tell of one that nobody uses: that it can be written to is nothing new.
const IDLE: Interest = Interest::READABLE;
const USED: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Pool {
    /// An empty one, whose places have these tokens.
    pub(in crate::proxy) fn new(token: fn(usize) -> Token) -> Self {
        let (places, free) = (Vec::new(), Vec::new());
        Self { places, free, by_origin: HashMap::new(), token, sweep_at: None }
    }

    /// Keeps a connection that was dialled under `rules`, if they have room for it. An older one
    /// may have to go.
    pub(in crate::proxy) fn put(
        &mut self,
        mut origin: Origin,
        rules: &Arc<Rules>,
        now: Instant,
        registry: &Registry,
    ) {
        let kept = rules.kept;
        if origin.is_bound || kept.max == 0 || kept.per_origin_max == 0 || !origin.end.is_quiet() {
            return;
        }
        let same = self.by_origin.get(&origin.key);
        if let Some(places) = same.filter(|places| places.len() >= kept.per_origin_max)
            && let Some(oldest) = places.first().copied()
        {
            self.remove(oldest);
        }
        while self.len() >= kept.max {
            let Some(oldest) = self.oldest() else { break };
            self.remove(oldest);
        }
        let place = self.free.pop().unwrap_or(self.places.len());
        let token = (self.token)(place);
        if registry.reregister(origin.end.stream.tcp_mut(), token, IDLE).is_err() {
            // Without word from the kernel it would be kept beyond its end.
            if place < self.places.len() {
                self.free.push(place);
            }
            return;
        }
        self.by_origin.entry(origin.key.clone()).or_default().push(place);
        let idle = Idle { origin, rules: Arc::clone(rules), until: now + kept.lasts };
        match self.places.get_mut(place) {
            Some(empty) => *empty = Some(idle),
            None => self.places.push(Some(idle)),
        }
        self.sweep_at.get_or_insert(now + PROXY_KEPT_SWEEP_EVERY);
    }

    /// A connection to an origin that may be used under `rules` by one who `may_use` it and is, as
    /// far as the kernel knows, still open; from here on the kernel tells of it under `token`.
    pub(in crate::proxy) fn take(
        &mut self,
        key: &(Scheme, Target),
        rules: &Arc<Rules>,
        may_use: impl Fn(&Origin) -> bool,
        registry: &Registry,
        token: Token,
    ) -> Option<Origin> {
        loop {
            let places = self.by_origin.get(key)?;
            let is_fit = |place: &&usize| {
                let idle = self.places.get(**place).and_then(Option::as_ref);
                idle.is_some_and(|idle| Arc::ptr_eq(&idle.rules, rules) && may_use(&idle.origin))
            };
            let place = places.iter().rev().find(is_fit).copied()?;
            let mut origin = self.remove(place)?;
            if origin.end.probe()
                && registry.reregister(origin.end.stream.tcp_mut(), token, USED).is_ok()
            {
                return Some(origin);
            }
        }
    }

    /// The kernel tells of the connection at a place.
    pub(in crate::proxy) fn notice(&mut self, place: usize) {
        // The word may be late, and meant for one that was there before.
        let idle = self.places.get_mut(place).and_then(Option::as_mut);
        if idle.is_some_and(|idle| !idle.origin.end.probe()) {
            self.remove(place);
        }
    }

    /// When [`Pool::sweep`] is to be called.
    pub(in crate::proxy) fn due(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// Closes what has been kept for too long.
    pub(in crate::proxy) fn sweep(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        for place in 0..self.places.len() {
            let idle = self.places.get(place).and_then(Option::as_ref);
            if idle.is_some_and(|idle| now >= idle.until) {
                self.remove(place);
            }
        }
        self.sweep_at = (self.len() > 0).then(|| now + PROXY_KEPT_SWEEP_EVERY);
    }

    /// How many there are.
    pub(in crate::proxy) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn oldest(&self) -> Option<usize> {
        let places = self.places.iter().enumerate();
        let used = places.filter_map(|(place, idle)| Some((idle.as_ref()?.until, place)));
        used.min().map(|(_, place)| place)
    }

    fn remove(&mut self, place: usize) -> Option<Origin> {
        let Idle { origin, .. } = self.places.get_mut(place)?.take()?;
        self.free.push(place);
        if let Some(places) = self.by_origin.get_mut(&origin.key) {
            places.retain(|other| *other != place);
            if places.is_empty() {
                self.by_origin.remove(&origin.key);
            }
        }
        Some(origin)
    }
}
