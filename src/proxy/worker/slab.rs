//! Connections by number, such that a number which outlives its connection leads nowhere.

use mio::Token;

/// Names a connection of one worker. It is not used again while anything may remember it: the same
/// place comes with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::proxy) struct ConnectionId {
    place: u32,
    generation: u32,
}

const SOCKET_BITS: u32 = 3;
const PLACE_BITS: u32 = 29;
/// Places a slab may have.
const PLACES_MAX: usize = 1 << PLACE_BITS;

const _: () = assert!(usize::BITS == 64 && SOCKET_BITS + PLACE_BITS == 32, "a token has 64 bits");

impl ConnectionId {
    /// The token of one of the sockets of this connection, of which there are eight at most.
    pub(super) fn token(self, socket: usize) -> Token {
        let low = self.place as usize;
        Token((self.generation as usize) << 32 | low << SOCKET_BITS | (socket & 7))
    }

    /// The connection and the socket of a token.
    pub(super) fn of_token(token: Token) -> (Self, usize) {
        let place = (token.0 as u32) >> SOCKET_BITS;
        (Self { place, generation: (token.0 >> 32) as u32 }, token.0 & 7)
    }
}

/// A token of the worker itself, which is none of a connection: those have no last generation.
pub(super) const fn own_token(number: usize) -> Token {
    Token(usize::MAX - number)
}

/// The number of a token of the worker itself.
pub(super) fn own_number(token: Token) -> Option<usize> {
    (token.0 >> 32 == u32::MAX as usize).then(|| usize::MAX - token.0)
}

/// The connections of a worker.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<(u32, Option<Box<T>>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// A name for a connection that is to be put there next.
    pub(super) fn reserve(&mut self) -> Option<ConnectionId> {
        if let Some(place) = self.free.pop() {
            let (generation, _) = self.places.get(place as usize)?;
            return Some(ConnectionId { place, generation: *generation });
        }
        if self.places.len() >= PLACES_MAX {
            return None;
        }
        self.places.push((0, None));
        Some(ConnectionId { place: (self.places.len() - 1) as u32, generation: 0 })
    }

    /// Puts a connection where a place was reserved for it.
    pub(super) fn put(&mut self, id: ConnectionId, connection: T) {
        if let Some((generation, place)) = self.places.get_mut(id.place as usize)
            && *generation == id.generation
        {
            *place = Some(Box::new(connection));
        }
    }

    /// The connection, if it is still there.
    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        match self.places.get_mut(id.place as usize) {
            Some((generation, Some(connection))) if *generation == id.generation => {
                Some(connection)
            }
            _ => None,
        }
    }

    /// Takes the connection out, or gives a place back that was only reserved.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Box<T>> {
        let (generation, place) = self.places.get_mut(id.place as usize)?;
        if *generation != id.generation {
            return None;
        }
        *generation = if *generation >= u32::MAX - 1 { 0 } else { *generation + 1 };
        self.free.push(id.place);
        place.take()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The names of all.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        let places = (0..).zip(&self.places);
        let taken = places.filter(|(_, (_, connection))| connection.is_some());
        taken
            .map(|(place, (generation, _))| ConnectionId { place, generation: *generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_its_own_connection_alone() {
        let mut slab = Slab::default();
        let first = slab.reserve().unwrap();
        assert!(slab.get_mut(first).is_none());
        slab.put(first, 'a');
        assert_eq!(slab.get_mut(first), Some(&mut 'a'));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.remove(first).as_deref(), Some(&'a'));
        assert_eq!(slab.remove(first), None, "only once");
        let second = slab.reserve().unwrap();
        slab.put(second, 'b');
        assert_ne!(first, second);
        assert_eq!(first.place, second.place);
        assert!(slab.get_mut(first).is_none());
        slab.put(first, 'c');
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.ids(), [second]);
    }

    #[test]
    fn tokens_tell_connection_and_socket_and_are_not_the_workers_own() {
        for place in [0, 1, 77, PLACES_MAX as u32 - 1] {
            for generation in [0, 1, u32::MAX - 1] {
                for socket in 0..8 {
                    let id = ConnectionId { place, generation };
                    let token = id.token(socket);
                    assert_eq!(ConnectionId::of_token(token), (id, socket));
                    assert_eq!(own_number(token), None);
                }
            }
        }
        for number in [0, 1, 255] {
            assert_eq!(own_number(own_token(number)), Some(number));
        }
    }
}
