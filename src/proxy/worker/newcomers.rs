//! Those who have come and not asked for anything yet: they make room for others.

use std::collections::VecDeque;

use crate::limits::{PROXY_ASKING_MAX, PROXY_ROOM_MADE_MAX};
use crate::proxy::counters::Refusal;
use crate::proxy::crowd::Crowd;

use super::connection::Turn;
use super::slab::ConnectionId;
use super::{Order, ProxyWorker};

/// The clients of one worker that have not asked for anything yet.
#[derive(Debug)]
pub(super) struct Newcomers {
    /// By entrance.
    lines: Vec<Line>,
}

/// Those of one entrance.
#[derive(Debug)]
struct Line {
    /// All who have come and perhaps not asked, the oldest first.
    ids: VecDeque<ConnectionId>,
    /// How many of them have not.
    count: usize,
    crowd: Crowd,
}

impl Newcomers {
    pub(super) fn new(crowds: &[Crowd]) -> Self {
        let line = |crowd: &Crowd| Line { ids: VecDeque::new(), count: 0, crowd: crowd.clone() };
        Self { lines: crowds.iter().map(line).collect() }
    }

    fn add(&mut self, id: ConnectionId, entrance: usize) {
        if let Some(line) = self.lines.get_mut(entrance) {
            line.ids.push_back(id);
            line.count += 1;
            line.crowd.begin_asking();
        }
    }

    /// One of an entrance has asked for something, or is gone.
    pub(super) fn leave(&mut self, entrance: usize) {
        if let Some(line) = self.lines.get_mut(entrance) {
            line.count -= 1;
            line.crowd.end_asking();
        }
    }

    /// How many there are at an entrance, or at all of them.
    fn count(&self, at: Option<usize>) -> usize {
        match at {
            Some(entrance) => self.lines.get(entrance).map_or(0, |line| line.count),
            None => self.lines.iter().map(|line| line.count).sum(),
        }
    }

    /// The entrance that has most of them.
    fn fullest(&self) -> Option<usize> {
        let lines = self.lines.iter().enumerate();
        lines.max_by_key(|(_, line)| line.count).map(|(entrance, _)| entrance)
    }
}

impl ProxyWorker {
    /// A client has been let in at an entrance. Those who came before it make room if they are too
    /// many.
    pub(super) fn welcome(&mut self, id: ConnectionId, entrance: usize) {
        self.newcomers.add(id, entrance);
        let workers = self.workers.get().map_or(1, Vec::len);
        let most = self.rules.get(entrance).map_or(1, |rules| rules.asking_max(workers));
        while self.newcomers.count(Some(entrance)) > most
            && self.is_crowded(entrance)
            && self.make_room(Some(entrance))
        {}
        while self.newcomers.count(None) > PROXY_ASKING_MAX && self.make_room(None) {}
        let connections = &mut self.connections;
        if let Some(line) = self.newcomers.lines.get_mut(entrance)
            && line.ids.len() > 2 * PROXY_ASKING_MAX
        {
            line.ids.retain(|id| connections.get_mut(*id).is_some_and(|one| one.is_asking()));
        }
    }

    fn is_crowded(&self, entrance: usize) -> bool {
        let crowd = self.crowds.get(entrance).zip(self.rules.get(entrance));
        crowd.is_some_and(|(crowd, rules)| crowd.is_crowded(rules))
    }

    /// The client of an entrance, or of the one that has most of them, that has asked for nothing
    /// for the longest time has to go. Returns whether there was one.
    pub(super) fn make_room(&mut self, at: Option<usize>) -> bool {
        let Some(entrance) = at.or_else(|| self.newcomers.fullest()) else { return false };
        while let Some(line) = self.newcomers.lines.get_mut(entrance)
            && let Some(id) = line.ids.pop_front()
        {
            if let Some(connection) = self.connections.get_mut(id)
                && connection.is_asking()
            {
                connection.turn_away(Refusal::MadeRoom, &mut self.cx);
                self.conclude(id, true, Turn::Over);
                return true;
            }
        }
        false
    }

    /// Some of them have to go at once: those who come next need not wait for each. Returns whether
    /// there was one.
    pub(super) fn make_room_at_once(&mut self, at: Option<usize>) -> bool {
        let some = self.newcomers.count(at).div_ceil(2).min(PROXY_ROOM_MADE_MAX);
        (0..some).filter(|_| self.make_room(at)).count() > 0
    }

    /// The other workers make room, as [`ProxyWorker::make_room_at_once`] does.
    pub(super) fn have_room_made(&self, at: Option<usize>) {
        for worker in self.workers.get().into_iter().flatten() {
            worker.give(Order::MakeRoom(at));
        }
    }

    /// Whether some worker has one at an entrance, or at any.
    pub(super) fn has_newcomers_anywhere(&self, at: Option<usize>) -> bool {
        let mut crowds = self.crowds.iter().enumerate();
        crowds.any(|(entrance, it)| at.is_none_or(|at| at == entrance) && it.has_asking())
    }
}
