//! What users have moved by the proxy, by the host that they asked for.
//!
//! Who asks for names without end gets no more room for it than others: a user has so many
//! destinations of its own on a day, and all users of a server together have; what goes elsewhere
//! is counted under one name. The database holds to the same bound for each user, so that a
//! restart makes no difference there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use crate::accounts::change::Change;
use crate::accounts::model::{DESTINATION_OTHER, DestinationRecord, Id};
use crate::accounts::names::Name;
use crate::limits::{DESTINATIONS_PER_DAY_MAX, DESTINATIONS_PER_USER_MAX};

/// What a user has moved to and from a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationMoved {
    /// The host as it was asked for, by name or address.
    pub destination: Box<str>,
    /// Connections and requests that were over.
    pub connections: u64,
    /// Bytes from the user.
    pub received_bytes: u64,
    /// Bytes to the user.
    pub sent_bytes: u64,
}

/// What was moved and not handed to the journal yet.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    moved: BTreeMap<(Id, Box<str>), DestinationMoved>,
    /// The day on which users had the following destinations of their own.
    day: i32,
    /// Hashes of them, by user.
    own: HashMap<Id, HashSet<u64>>,
    own_count: usize,
    hasher: RandomState,
}

impl Destinations {
    /// Adds what a user has moved, on that day.
    pub(super) fn add(&mut self, user: Id, day: i32, mut moved: DestinationMoved) {
        if day != self.day {
            (self.day, self.own_count) = (day, 0);
            self.own.clear();
        }
        if !self.has_room_for(user, &moved.destination) {
            moved.destination = DESTINATION_OTHER.into();
        }
        let key = (user, moved.destination.clone());
        let sum = self.moved.entry(key).or_insert_with(|| DestinationMoved {
            destination: moved.destination.clone(),
            ..DestinationMoved::default()
        });
        sum.connections = sum.connections.saturating_add(moved.connections);
        sum.received_bytes = sum.received_bytes.saturating_add(moved.received_bytes);
        sum.sent_bytes = sum.sent_bytes.saturating_add(moved.sent_bytes);
    }

    fn has_room_for(&mut self, user: Id, destination: &str) -> bool {
        let hash = self.hasher.hash_one(destination);
        let own = self.own.entry(user).or_default();
        if own.contains(&hash) {
            return true;
        }
        let has_room =
            own.len() < DESTINATIONS_PER_USER_MAX && self.own_count < DESTINATIONS_PER_DAY_MAX;
        if has_room {
            own.insert(hash);
            self.own_count += 1;
        }
        has_room
    }

    /// Takes it all, as changes.
    pub(super) fn take(&mut self, server: &Name, day: i32) -> Vec<Change> {
        let moved = std::mem::take(&mut self.moved).into_iter();
        let change = |((user, _), moved): (_, DestinationMoved)| {
            Change::AddDestinationUsage(DestinationRecord {
                user,
                server: server.clone(),
                day,
                destination: moved.destination.into(),
                connections: moved.connections,
                received_bytes: moved.received_bytes,
                sent_bytes: moved.sent_bytes,
            })
        };
        moved.map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(destination: &str) -> DestinationMoved {
        let destination = destination.into();
        DestinationMoved { destination, connections: 1, received_bytes: 10, sent_bytes: 100 }
    }

    fn taken(destinations: &mut Destinations) -> Vec<(i64, String, u64, u64, u64)> {
        let changes = destinations.take(&"here".parse().unwrap(), 5).into_iter();
        let record = |change| {
            let Change::AddDestinationUsage(it) = change else { panic!("{change:?}") };
            (it.user.0, it.destination, it.connections, it.received_bytes, it.sent_bytes)
        };
        changes.map(record).collect()
    }

    #[test]
    fn what_goes_to_one_host_adds_up_for_each_user() {
        let mut destinations = Destinations::default();
        for (user, host) in [(1, "a.example"), (2, "a.example"), (1, "b.example"), (1, "a.example")]
        {
            destinations.add(Id(user), 5, moved(host));
        }
        let expected = [(1, "a.example", 2), (1, "b.example", 1), (2, "a.example", 1)];
        let expected: Vec<_> = expected
            .map(|(user, host, count)| (user, host.to_owned(), count, 10 * count, 100 * count))
            .into();
        assert_eq!(taken(&mut destinations), expected);
        assert_eq!(taken(&mut destinations), []);
    }

    #[test]
    fn names_without_end_go_under_one_and_leave_others_their_room() {
        let mut destinations = Destinations::default();
        let names = 3 * DESTINATIONS_PER_USER_MAX;
        for round in 0..2 {
            for number in 0..names {
                destinations.add(Id(1), 5, moved(&format!("{number}.example")));
            }
            destinations.add(Id(2), 5, moved("a.example"));
            let lines = taken(&mut destinations);
            assert_eq!(lines.len(), DESTINATIONS_PER_USER_MAX + 2, "round {round}");
            let other = lines.iter().find(|line| line.1 == DESTINATION_OTHER).unwrap();
            assert_eq!(other.2, (names - DESTINATIONS_PER_USER_MAX) as u64, "none is lost");
            assert!(lines.iter().any(|line| (line.0, line.1.as_str()) == (2, "a.example")));
        }
        // The next day it begins anew.
        destinations.add(Id(1), 6, moved("new.example"));
        assert_eq!(taken(&mut destinations)[0].1, "new.example");
    }

    #[test]
    fn all_users_together_have_a_bound() {
        let mut destinations = Destinations::default();
        let users = 2 + (DESTINATIONS_PER_DAY_MAX / DESTINATIONS_PER_USER_MAX) as i64;
        for user in 0..users {
            for number in 0..DESTINATIONS_PER_USER_MAX {
                destinations.add(Id(user), 5, moved(&format!("{number}.example")));
            }
        }
        let lines = taken(&mut destinations);
        let own = lines.iter().filter(|line| line.1 != DESTINATION_OTHER).count();
        assert_eq!(own, DESTINATIONS_PER_DAY_MAX);
        let connections: u64 = lines.iter().map(|line| line.2).sum();
        assert_eq!(connections, users as u64 * DESTINATIONS_PER_USER_MAX as u64);
    }
}
