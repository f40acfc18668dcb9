//! What peers have used, to the byte.
//!
//! Workers count into memory that they share with the control thread, session by session. A session
//! that has ended is kept here until the last worker has let go of it: until then one may still
//! count.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::handshake::keys::PublicKey;
use crate::telemetry::counters::{Carried, SessionUsage};

/// The use that peers have made of sessions which have ended.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Sessions that a worker may still count for.
    ending: Vec<(PublicKey, Arc<SessionUsage>)>,
    /// What was counted for others and nobody has asked for yet.
    ended: BTreeMap<PublicKey, Carried>,
}

impl Ledger {
    /// A session of `peer` has ended.
    pub(super) fn end(&mut self, peer: PublicKey, usage: Arc<SessionUsage>) {
        self.settle();
        self.ending.push((peer, usage));
    }

    /// Closes the accounts of sessions that no worker knows any more.
    fn settle(&mut self) {
        let Self { ending, ended } = self;
        ending.retain_mut(|(peer, usage)| {
            // Asked before the last look: whoever let go of it counts no more.
            let is_settled = Arc::get_mut(usage).is_some();
            if is_settled {
                let carried = usage.take();
                if carried != Carried::default() {
                    ended.entry(*peer).or_default().add(carried);
                }
            }
            !is_settled
        });
    }

    /// What was counted since the last call: for sessions that have ended, and for those in `live`.
    pub(super) fn take<'a>(
        &mut self,
        live: impl Iterator<Item = (&'a PublicKey, &'a SessionUsage)>,
    ) -> Vec<(PublicKey, Carried)> {
        self.settle();
        let mut taken = std::mem::take(&mut self.ended);
        let mut count = |peer: &PublicKey, usage: &SessionUsage| {
            let carried = usage.take();
            if carried != Carried::default() {
                taken.entry(*peer).or_default().add(carried);
            }
        };
        self.ending.iter().for_each(|(peer, usage)| count(peer, usage));
        live.for_each(|(peer, usage)| count(peer, usage));
        taken.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(usage: &SessionUsage, worker: usize, sent: u64, received: u64) {
        usage.lane(worker).sent.bytes.add(sent);
        usage.lane(worker).received.bytes.add(received);
    }

    #[test]
    fn every_byte_is_told_once_also_what_is_counted_while_a_session_ends() {
        let (ada, bob) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let mut ledger = Ledger::default();
        let (live, ending) = (SessionUsage::new(2), Arc::new(SessionUsage::new(2)));
        let carried = |sent_bytes, received_bytes| Carried { sent_bytes, received_bytes };
        let take = |ledger: &mut Ledger| ledger.take([(&ada, &live)].into_iter());

        count(&live, 0, 1, 10);
        count(&live, 1, 2, 20);
        assert_eq!(take(&mut ledger), [(ada, carried(3, 30))]);
        assert_eq!(take(&mut ledger), []);

        let of_worker = Arc::clone(&ending);
        count(&of_worker, 1, 100, 0);
        ledger.end(bob, ending);
        assert_eq!(take(&mut ledger), [(bob, carried(100, 0))]);
        count(&of_worker, 1, 0, 7);
        count(&live, 1, 0, 5);
        assert_eq!(take(&mut ledger), [(ada, carried(0, 5)), (bob, carried(0, 7))]);
        count(&of_worker, 0, 1, 0);
        drop(of_worker);
        assert_eq!(take(&mut ledger), [(bob, carried(1, 0))]);
        assert!(ledger.ending.is_empty() && take(&mut ledger).is_empty());
    }

    #[test]
    fn sessions_that_have_ended_are_not_kept() {
        let mut ledger = Ledger::default();
        for peer in 0..100 {
            let usage = Arc::new(SessionUsage::new(1));
            count(&usage, 0, 1, 1);
            ledger.end(PublicKey([peer % 2; 32]), usage);
        }
        assert_eq!((ledger.ending.len(), ledger.ended.len()), (1, 2));
        let total: u64 = ledger.take([].into_iter()).iter().map(|(_, it)| it.sent_bytes).sum();
        assert_eq!(total, 100);
    }
}
