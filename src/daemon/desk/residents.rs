//! Who is logged in at this server: which login, which session, which device, which ticket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

use ring::digest::{SHA256, digest};

use crate::accounts::model::Id;
use crate::accounts::names::Name;
use crate::accounts::secret::Secret;
use crate::handshake::keys::PublicKey;
use crate::limits::LOGINS_QUEUED_MAX;
use crate::login::server::LoginId;

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub(super) struct Resident {
    pub(super) login: LoginId,
    pub(super) session: Id,
    pub(super) user: Name,
    pub(super) device_key: PublicKey,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    /// The serial number of the certificate that was shown.
    pub(super) certificate: Option<String>,
    /// What carriers of this login show.
    pub(super) ticket: Secret,
}

/// What a session's end asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MovedOut {
    pub(super) login: LoginId,
    /// The device is online by no other session.
    pub(super) is_last: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Residents {
    by_login: BTreeMap<LoginId, Resident>,
    by_session: BTreeMap<Id, LoginId>,
    /// The newest session of each device.
    by_device: BTreeMap<PublicKey, Id>,
    /// By the hash of the ticket, which cannot be felt for by the time that a search takes.
    by_ticket: BTreeMap<[u8; 32], LoginId>,
    /// Sessions that ended before they moved in, the latest last. As many are kept as logins can be
    /// under way; some of these sessions never try to move in.
    ended_early: VecDeque<Id>,
}

impl Residents {
    /// Lets somebody move in; `false` if the session has ended already.
    pub(super) fn move_in(&mut self, resident: Resident) -> bool {
        if let Some(at) = self.ended_early.iter().position(|ended| *ended == resident.session) {
            self.ended_early.remove(at);
            return false;
        }
        self.by_session.insert(resident.session, resident.login);
        self.by_device.insert(resident.device_key, resident.session);
        self.by_ticket.insert(hash(&resident.ticket), resident.login);
        self.by_login.insert(resident.login, resident);
        true
    }

    /// A session has ended. If nobody has moved in by it yet, somebody is about to, and is not to.
    pub(super) fn move_out(&mut self, session: Id) -> Option<MovedOut> {
        let Some(login) = self.by_session.remove(&session) else {
            if self.ended_early.len() >= LOGINS_QUEUED_MAX {
                self.ended_early.pop_front();
            }
            self.ended_early.push_back(session);
            return None;
        };
        let resident = self.by_login.remove(&login)?;
        self.by_ticket.remove(&hash(&resident.ticket));
        let is_last = self.by_device.get(&resident.device_key) == Some(&session);
        if is_last {
            self.by_device.remove(&resident.device_key);
        }
        Some(MovedOut { login, is_last })
    }

    pub(super) fn get(&self, login: LoginId) -> Option<&Resident> {
        self.by_login.get(&login)
    }

    /// Whether somebody has moved in by this session.
    pub(super) fn is_here(&self, session: Id) -> bool {
        self.by_session.contains_key(&session)
    }

    /// The newest session of a device.
    pub(super) fn session_of(&self, device: &PublicKey) -> Option<Id> {
        self.by_device.get(device).copied()
    }

    /// Who a device is, for the log.
    pub(super) fn user_of(&self, device: &PublicKey) -> Option<&Name> {
        let login = self.by_session.get(self.by_device.get(device)?)?;
        self.get(*login).map(|resident| &resident.user)
    }

    /// Whose ticket this is.
    pub(super) fn with_ticket(&self, ticket: &Secret) -> Option<LoginId> {
        self.by_ticket.get(&hash(ticket)).copied()
    }

    /// The sessions whose logins have shown a certificate with one of these serial numbers.
    pub(super) fn with_certificates(&self, serials: &BTreeSet<String>) -> Vec<Id> {
        let shown = self.by_login.values().filter(|resident| {
            resident.certificate.as_ref().is_some_and(|serial| serials.contains(serial))
        });
        shown.map(|resident| resident.session).collect()
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_login.len()
    }
}

fn hash(ticket: &Secret) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, ticket.expose().as_bytes()).as_ref());
    hash
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(in super::super) fn resident(login: u64, session: i64, device: u8) -> Resident {
        Resident {
            login: LoginId(login),
            session: Id(session),
            user: "alice".parse().unwrap(),
            device_key: PublicKey([device; 32]),
            ipv4: None,
            ipv6: None,
            certificate: Some(format!("{login:02x}")),
            ticket: Secret::new(format!("ticket {login}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::resident;
    use super::*;

    #[test]
    fn whoever_moves_out_leaves_nothing_behind() {
        let mut residents = Residents::default();
        for (login, device) in [(1, 1), (2, 2)] {
            assert!(residents.move_in(resident(login, login as i64 * 10, device)));
        }
        assert_eq!(residents.with_ticket(&Secret::new("ticket 2".to_owned())), Some(LoginId(2)));
        assert_eq!(residents.with_certificates(&["02".to_owned()].into()), [Id(20)]);
        assert_eq!(residents.user_of(&PublicKey([2; 32])).unwrap().as_str(), "alice");
        for login in [1, 2] {
            let moved_out = MovedOut { login: LoginId(login), is_last: true };
            assert_eq!(residents.move_out(Id(login as i64 * 10)), Some(moved_out));
        }
        assert_eq!(format!("{residents:?}"), format!("{:?}", Residents::default()));
    }

    #[test]
    fn a_device_that_logs_in_anew_stays_when_its_former_session_ends() {
        let mut residents = Residents::default();
        residents.move_in(resident(1, 10, 7));
        residents.move_in(resident(2, 20, 7));
        let former = MovedOut { login: LoginId(1), is_last: false };
        assert_eq!(residents.move_out(Id(10)), Some(former));
        assert_eq!(residents.session_of(&PublicKey([7; 32])), Some(Id(20)));
        assert_eq!(residents.len(), 1);
    }

    #[test]
    fn who_is_sent_away_on_the_threshold_does_not_move_in() {
        let mut residents = Residents::default();
        assert_eq!(residents.move_out(Id(10)), None);
        assert!(!residents.move_in(resident(1, 10, 7)));
        assert_eq!(residents.len(), 0);
        assert!(residents.move_in(resident(2, 20, 7)), "another session does");
    }

    #[test]
    fn of_those_who_never_come_only_so_many_are_remembered() {
        let mut residents = Residents::default();
        for session in 0..=LOGINS_QUEUED_MAX as i64 {
            assert_eq!(residents.move_out(Id(session)), None);
        }
        assert_eq!(residents.ended_early.len(), LOGINS_QUEUED_MAX);
        assert!(!residents.move_in(resident(1, LOGINS_QUEUED_MAX as i64, 7)));
    }
}
