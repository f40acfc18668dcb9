//! What is known of who showed what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::handshake::Source;
use crate::limits::{PROXY_PERMIT_LASTS, PROXY_PERMITS_MAX};

use super::{Outcome, Permit};

/// All that a decision depends on: what was shown, and who showed it, since whoever has failed too
/// often has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: Source,
    pub(super) shown: [u8; 32],
}

pub(super) type Answer = Box<dyn FnOnce(Outcome) + Send>;

enum Entry {
    /// The accounts have been asked, and these wait.
    Asked(Vec<Answer>),
    /// Good until then.
    Known(Arc<Permit>, Instant),
}

/// What is found under a key.
pub(super) enum Found {
    Known(Arc<Permit>),
    /// It waits with others for an answer.
    Asked,
    /// It waits for an answer, and the accounts are to be asked.
    Unknown,
}

/// Holds at most [`PROXY_PERMITS_MAX`] decisions. Refusals are not among them.
#[derive(Default)]
pub(super) struct Cache(HashMap<Key, Entry>);

impl Cache {
    /// Looks a decision up. Unless it is there, `answer` waits for it.
    pub(super) fn find(&mut self, key: Key, now: Instant, answer: Answer) -> Found {
        match self.0.get_mut(&key) {
            Some(Entry::Known(permit, until)) if now < *until && !permit.has_ended() => {
                return Found::Known(Arc::clone(permit));
            }
            Some(Entry::Asked(waiting)) => {
                waiting.push(answer);
                return Found::Asked;
            }
            Some(Entry::Known(..)) | None => {}
        }
        self.0.insert(key, Entry::Asked(vec![answer]));
        Found::Unknown
    }

    /// The accounts have decided. Returns those who have waited for that.
    pub(super) fn settle(
        &mut self,
        key: Key,
        permit: Option<&Arc<Permit>>,
        now: Instant,
    ) -> Vec<Answer> {
        let waiting = match self.0.remove(&key) {
            Some(Entry::Asked(waiting)) => waiting,
            Some(Entry::Known(..)) | None => Vec::new(),
        };
        if let Some(permit) = permit {
            self.make_room(now);
            let until = now + PROXY_PERMIT_LASTS;
            let until = permit.expires().map_or(until, |expires| expires.min(until));
            self.0.insert(key, Entry::Known(Arc::clone(permit), until));
        }
        waiting
    }

    /// Forgets what is no longer good.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, entry| match entry {
            Entry::Known(permit, until) => now < *until && !permit.has_ended(),
            Entry::Asked(_) => true,
        });
    }

    fn make_room(&mut self, now: Instant) {
        if self.0.len() < PROXY_PERMITS_MAX {
            return;
        }
        self.sweep(now);
        // Of a table that is full of good decisions, a part goes, so that this is seldom done.
        let mut excess = self.0.len().saturating_sub(PROXY_PERMITS_MAX * 7 / 8);
        self.0.retain(|_, entry| {
            let goes = excess > 0 && matches!(entry, Entry::Known(..));
            excess -= usize::from(goes);
            !goes
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
