//! Connections that have not logged in: how many there may be, and which one makes room.
//!
//! Whoever arrives gets a place. What is full loses the one that has been there for longest: of
//! those without a TLS handshake first, since such a one costs its maker nothing. So a crowd of
//! silent connections, however it is renewed, pushes out itself and not somebody who logs in.

use std::collections::{BTreeSet, HashMap};

use crate::handshake::Source;
use crate::limits::{LOGIN_PENDING_MAX, LOGIN_PENDING_PER_SOURCE_MAX};

/// A place in the crowd. The order is that in which they make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    has_tls: bool,
    arrival: u64,
    /// Which connection has it.
    pub(super) slot: usize,
}

impl Place {
    /// Whether the connection has made its TLS handshake.
    pub(super) fn has_tls(&self) -> bool {
        self.has_tls
    }
}

/// Every place that is taken.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    arrivals: u64,
    all: BTreeSet<Place>,
    by_source: HashMap<Source, BTreeSet<Place>>,
}

impl Crowd {
    /// The connection that has to go before one of `source` is let in, if any.
    pub(super) fn in_the_way_of(&self, source: Source) -> Option<Place> {
        let own =
            self.by_source.get(&source).filter(|own| own.len() >= LOGIN_PENDING_PER_SOURCE_MAX);
        match own {
            Some(own) => own.first().copied(),
            None if self.all.len() >= LOGIN_PENDING_MAX => self.first(),
            None => None,
        }
    }

    /// The connection that goes first.
    pub(super) fn first(&self) -> Option<Place> {
        self.all.first().copied()
    }

    /// Gives a place to a new connection.
    pub(super) fn enter(&mut self, source: Source, slot: usize) -> Place {
        self.arrivals += 1;
        let place = Place { has_tls: false, arrival: self.arrivals, slot };
        self.insert(source, place);
        place
    }

    /// The connection has made its TLS handshake: others go before it.
    pub(super) fn promote(&mut self, source: Source, place: Place) -> Place {
        self.leave(source, place);
        let place = Place { has_tls: true, ..place };
        self.insert(source, place);
        place
    }

    /// The connection has logged in or is gone.
    pub(super) fn leave(&mut self, source: Source, place: Place) {
        self.all.remove(&place);
        if let Some(own) = self.by_source.get_mut(&source) {
            own.remove(&place);
            if own.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }

    fn insert(&mut self, source: Source, place: Place) {
        self.all.insert(place);
        self.by_source.entry(source).or_default().insert(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> Source {
        Source::V4(number.to_be_bytes())
    }

    #[test]
    fn a_source_that_has_its_share_makes_room_for_itself() {
        let mut crowd = Crowd::default();
        let mine: Vec<_> =
            (0..LOGIN_PENDING_PER_SOURCE_MAX).map(|slot| crowd.enter(source(1), slot)).collect();
        crowd.enter(source(2), 999);
        assert_eq!(crowd.in_the_way_of(source(2)), None);
        assert_eq!(crowd.in_the_way_of(source(1)), Some(mine[0]));
        let promoted = crowd.promote(source(1), mine[0]);
        assert_eq!(crowd.in_the_way_of(source(1)), Some(mine[1]), "one with TLS goes later");
        crowd.leave(source(1), promoted);
        assert_eq!(crowd.in_the_way_of(source(1)), None);
    }

    #[test]
    fn a_full_house_loses_the_oldest_without_tls_and_then_the_oldest() {
        let mut crowd = Crowd::default();
        let places: Vec<_> =
            (0..LOGIN_PENDING_MAX).map(|slot| crowd.enter(source(slot as u32), slot)).collect();
        let promoted = crowd.promote(source(0), places[0]);
        assert_eq!(crowd.in_the_way_of(source(u32::MAX)), Some(places[1]));
        for (slot, place) in places.iter().enumerate().skip(1) {
            assert_eq!(crowd.first(), Some(*place));
            crowd.leave(source(slot as u32), *place);
        }
        assert_eq!(crowd.first(), Some(promoted));
        crowd.leave(source(0), promoted);
        assert_eq!(crowd.first(), None);
        assert!(crowd.by_source.is_empty());
    }
}
