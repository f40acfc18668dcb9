//! What the desk knows: who is here, and what has been said about those who are about to come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::accounts::model::Id;
use crate::accounts::names::Name;
use crate::handshake::keys::PublicKey;
use crate::limits::{ENDED_SESSION_KEPT, RETURN_WITHIN};
use crate::policy::SharedPolicies;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

use super::residents::{MovedOut, Resident, Residents};

/// Orders to the control thread are given while this is locked, so that they arrive in the order of
/// what is written here.
#[derive(Default)]
pub(super) struct Register {
    pub(super) residents: Residents,
    pub(super) policies: SharedPolicies<Name>,
    /// Devices whose session has been replaced by one that has not moved in yet, and since when.
    returning: BTreeMap<PublicKey, Instant>,
    /// The serial numbers on the revocation list.
    revoked: BTreeSet<String>,
    /// What holds since a moment for sessions that have been granted and not moved in yet.
    changed_early: BTreeMap<Id, (Instant, Bounds, Vec<AclRule>)>,
    /// By which session a device was here last, and until when: what it has moved is told later.
    left: BTreeMap<PublicKey, (Id, Instant)>,
}

impl Register {
    /// Lets somebody move in; `false` if the session has ended already, or if its certificate has
    /// been revoked while the login was decided.
    pub(super) fn move_in(&mut self, resident: Resident) -> bool {
        let shown = resident.certificate.as_ref();
        if shown.is_some_and(|serial| self.is_revoked(serial)) {
            return false;
        }
        let device = resident.device_key;
        let moves_in = self.residents.move_in(resident);
        if moves_in {
            self.returning.remove(&device);
        }
        moves_in
    }

    /// A session of `device` has ended; `None` if nobody has moved in by it.
    pub(super) fn move_out(
        &mut self,
        session: Id,
        device: PublicKey,
        now: Instant,
    ) -> Option<MovedOut> {
        let moved_out = self.residents.move_out(session)?;
        if moved_out.is_last {
            self.left.insert(device, (session, now));
        }
        Some(moved_out)
    }

    /// The session to which what a device has moved is counted.
    pub(super) fn counted_session(&self, device: &PublicKey) -> Option<Id> {
        let left = || self.left.get(device).map(|(session, _)| *session);
        self.residents.session_of(device).or_else(left)
    }

    /// Takes a new revocation list. Returns the sessions that it ends.
    pub(super) fn revoke(&mut self, serials: &BTreeSet<String>) -> Vec<Id> {
        self.revoked.clone_from(serials);
        self.residents.with_certificates(serials)
    }

    /// Whether the revocation list names this serial number.
    pub(super) fn is_revoked(&self, serial: &str) -> bool {
        self.revoked.contains(serial)
    }

    /// Other bounds and rules hold for a session that has not moved in yet.
    pub(super) fn change_early(&mut self, session: Id, to: (Bounds, Vec<AclRule>), now: Instant) {
        self.changed_early.insert(session, (now, to.0, to.1));
    }

    /// What holds for a session that has just moved in, if that is not what it was granted.
    pub(super) fn take_change(&mut self, session: Id) -> Option<(Bounds, Vec<AclRule>)> {
        self.changed_early.remove(&session).map(|(_, bounds, acl)| (bounds, acl))
    }

    /// Forgets what was kept for sessions that have not moved in since, and those that have long
    /// moved out.
    pub(super) fn forget(&mut self, now: Instant) {
        self.changed_early.retain(|_, (at, ..)| now < *at + ENDED_SESSION_KEPT);
        self.left.retain(|_, (_, at)| now < *at + ENDED_SESSION_KEPT);
    }

    pub(super) fn await_return(&mut self, device: PublicKey, now: Instant) {
        self.returning.insert(device, now);
    }

    /// Whether a device was to come back. It is not any more.
    pub(super) fn take_returning(&mut self, device: &PublicKey) -> bool {
        self.returning.remove(device).is_some()
    }

    /// Devices that have not come back in time: they have logged in somewhere else.
    pub(super) fn take_lost(&mut self, now: Instant) -> Vec<PublicKey> {
        let returning = &mut self.returning;
        let is_late = |(_, since): &(&PublicKey, &Instant)| now >= **since + RETURN_WITHIN;
        let lost: Vec<_> = returning.iter().filter(is_late).map(|(device, _)| *device).collect();
        returning.retain(|device, _| !lost.contains(device));
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::super::residents::testing::resident;
    use super::*;
    use crate::sys::clock;

    #[test]
    fn a_certificate_that_is_revoked_while_its_login_is_decided_does_not_move_in() {
        let mut register = Register::default();
        assert!(register.move_in(resident(1, 10, 1)));
        let serials = BTreeSet::from(["01".to_owned(), "02".to_owned()]);
        assert_eq!(register.revoke(&serials), [Id(10)]);
        assert!(!register.move_in(resident(2, 20, 2)));
        assert!(register.move_in(resident(3, 30, 3)), "another certificate is still good");
        assert_eq!(register.revoke(&BTreeSet::new()), []);
        assert!(register.move_in(resident(2, 40, 2)), "it is on the list no more");
    }

    #[test]
    fn a_policy_that_changes_before_its_session_moves_in_holds_then() {
        let (mut register, now) = (Register::default(), clock::now());
        let slow = Bounds { up_bps: Some(5), ..Bounds::default() };
        register.change_early(Id(10), (Bounds::default(), Vec::new()), now);
        register.change_early(Id(10), (slow, Vec::new()), now);
        register.change_early(Id(20), (slow, Vec::new()), now);
        register.forget(now + ENDED_SESSION_KEPT / 2);
        assert_eq!(register.take_change(Id(10)), Some((slow, Vec::new())));
        assert_eq!(register.take_change(Id(10)), None);
        register.forget(now + ENDED_SESSION_KEPT);
        assert_eq!(register.take_change(Id(20)), None, "it never moved in");
    }

    #[test]
    fn what_a_device_has_moved_counts_a_while_after_its_session_has_ended() {
        let (mut register, now) = (Register::default(), clock::now());
        let device = PublicKey([7; 32]);
        assert_eq!(register.counted_session(&device), None);
        for (login, session) in [(1, 10), (2, 20)] {
            assert!(register.move_in(resident(login, session, 7)));
            assert_eq!(register.counted_session(&device), Some(Id(session)));
        }
        register.move_out(Id(10), device, now).unwrap();
        assert_eq!(register.counted_session(&device), Some(Id(20)));
        register.move_out(Id(20), device, now).unwrap();
        register.forget(now + ENDED_SESSION_KEPT / 2);
        assert_eq!(register.counted_session(&device), Some(Id(20)));
        register.forget(now + ENDED_SESSION_KEPT);
        assert_eq!(register.counted_session(&device), None);
    }

    #[test]
    fn a_device_that_has_come_back_is_neither_awaited_nor_lost() {
        let (mut register, now) = (Register::default(), clock::now());
        let [back, ended, elsewhere] = [7, 8, 9].map(|device| PublicKey([device; 32]));
        for device in [back, ended, elsewhere] {
            register.await_return(device, now);
        }
        assert!(register.move_in(resident(1, 10, 7)));
        assert!(!register.take_returning(&back));
        assert!(register.take_returning(&ended));
        assert_eq!(register.take_lost(now), []);
        assert_eq!(register.take_lost(now + RETURN_WITHIN), [elsewhere]);
        assert_eq!(register.take_lost(now + RETURN_WITHIN), []);
    }
}
