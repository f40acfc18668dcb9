//! The thread that hears what other servers have changed.

use std::sync::Arc;

use crate::accounts::journal::{Foreign, JournalOptions, News, Shared};
use crate::accounts::model::Id;
use crate::accounts::store::{Follower, StoreError};
use crate::limits::{STORE_RETRY_FIRST, STORE_RETRY_MAX};

/// The follower.
pub(super) struct Follow<F> {
    pub(super) shared: Arc<Shared>,
    /// The own spool.
    pub(super) spool: Id,
    /// How far the log of changes is known.
    pub(super) position: i64,
    pub(super) options: JournalOptions,
    pub(super) on_foreign: F,
}

impl<F: FnMut(Foreign)> Follow<F> {
    /// Follows until the journal stops.
    pub(super) fn run(mut self) {
        let mut pause = STORE_RETRY_FIRST;
        let mut is_away = false;
        while !self.is_stopping() {
            let connected = Follower::connect(&self.options.database);
            let ended = connected.and_then(|mut follower| {
                if is_away {
                    log::info!("{}: other servers are heard again", self.options.database);
                }
                (is_away, pause) = (false, STORE_RETRY_FIRST);
                self.follow(&mut follower)
            });
            let Err(error) = ended else { break };
            if !is_away {
                log::warn!("{}: other servers are not heard: {error}", self.options.database);
            }
            is_away = true;
            if self.shared.pause(pause) {
                break;
            }
            pause = STORE_RETRY_MAX.min(2 * pause);
        }
    }

    fn is_stopping(&self) -> bool {
        self.shared.state().is_stopping
    }

    fn follow(&mut self, follower: &mut Follower) -> Result<(), StoreError> {
        loop {
            while self.read(follower)? {}
            let is_stopping = || self.shared.state().is_stopping;
            if follower.await_news(is_stopping) {
                return Ok(());
            }
        }
    }

    /// Hands over what is new; whether there may be more.
    fn read(&mut self, follower: &mut Follower) -> Result<bool, StoreError> {
        let Some(entries) = follower.entries_after(self.position)? else {
            log::warn!("{}: fallen behind, so everything is read anew", self.options.database);
            let snapshot = follower.load(self.options.usage_since_day)?;
            self.position = snapshot.position;
            self.hand_over(News::Reloaded(Box::new(snapshot)));
            return Ok(true);
        };
        let mut own = None;
        let is_any = !entries.is_empty();
        for entry in entries {
            self.position = entry.position;
            if entry.spool == self.spool {
                own = Some(entry.sequence);
                continue;
            }
            // In the order of the log: what was changed here before, there after.
            if let Some(sequence) = own.take() {
                self.shared.state().echoed(sequence);
            }
            self.hand_over(News::Changes(entry.changes));
        }
        if let Some(sequence) = own {
            self.shared.state().echoed(sequence);
        }
        Ok(is_any)
    }

    fn hand_over(&mut self, news: News) {
        (self.on_foreign)(Foreign { news, shared: Arc::clone(&self.shared) });
    }
}
