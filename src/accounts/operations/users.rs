//! Users: made, shown, changed, kept out, removed.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use rand::rngs::ThreadRng;

use crate::accounts::change::Change;
use crate::accounts::credentials::{password, recovery, totp};
use crate::accounts::model::{Id, User};
use crate::accounts::names::Name;
use crate::accounts::operations::enact::{Note, ensure_groups};
use crate::accounts::operations::views::UserView;
use crate::accounts::operations::{
    Done, LimitChanges, NewPassword, Operation, OperationError, OperationErrorKind, Operations,
    Outcome, PasswordSet, TotpSet,
};
use crate::accounts::secret::Secret;
use crate::accounts::service::State;
use crate::accounts::service::calendar::{Moment, day_of, month_start};

impl Operations<'_> {
    /// Those operations that are about users.
    pub(super) fn user(&self, operation: Operation) -> Result<Outcome, OperationError> {
        match operation {
            Operation::UserAdd { name, groups, password } => self.add_user(name, groups, password),
            Operation::UserList {} => Ok(self.users()),
            Operation::UserShow { name } => self.show_user(&name),
            Operation::UserSet {
                name,
                join,
                leave,
                limits,
                reserve_ipv4,
                reserve_ipv6,
                unreserve,
            } => {
                let reserve = Reserve { ipv4: reserve_ipv4, ipv6: reserve_ipv6, unreserve };
                self.set_user(&name, &join, &leave, &limits, &reserve)
            }
            Operation::UserPassword { name, password } => self.set_password(name, password),
            Operation::UserTotp { name } => self.set_totp(name),
            Operation::UserTotpOff { name } => self.unset_totp(&name),
            Operation::UserDisable { name } => self.set_disabled(&name, true),
            Operation::UserEnable { name } => self.set_disabled(&name, false),
            Operation::UserRemove { name } => self.remove_user(&name),
            _ => Err(OperationError::invalid("this is not about users")),
        }
    }

    fn add_user(
        &self,
        name: Name,
        groups: BTreeSet<Name>,
        wanted: NewPassword,
    ) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let mut rng = rand::rng();
        {
            let state = self.accounts.shared().state();
            ensure_groups(&state, &groups)?;
            if state.book().user_named(&name).is_some() {
                let message =
                    format!("there is a user {name} already (`corelane user show {name}`)");
                return Err(OperationError::new(OperationErrorKind::Exists, message));
            }
        }
        let (shown, hash) = self.hash(wanted, &mut rng)?;
        let detail = format!("groups: {}", joined(&groups));
        let user = User {
            groups,
            password: hash,
            ..User::new(Id::generate(&mut rng), name.clone(), Moment::now().unix)
        };
        let note = Note { action: "user_added", subject: name.to_string(), detail };
        let done = self.enact_new(vec![Change::AddUser(user)], note)?;
        Ok(Outcome::Password(PasswordSet { user: name, password: shown, done }))
    }

    /// The password to show, if it was made, and its hash.
    fn hash(
        &self,
        wanted: NewPassword,
        rng: &mut ThreadRng,
    ) -> Result<(Option<Secret>, Option<String>), OperationError> {
        let (password, is_made) = match wanted {
            NewPassword::None => return Ok((None, None)),
            NewPassword::Given(password) => (password, false),
            NewPassword::Generate => (password::generate(rng), true),
        };
        password::check(password.expose()).map_err(OperationError::invalid)?;
        let cost = self.accounts.shared().hash_cost();
        let hash = password::hash(password.expose(), cost, rng).map_err(OperationError::invalid)?;
        Ok((is_made.then_some(password), Some(hash)))
    }

    fn users(&self) -> Outcome {
        let state = self.accounts.shared().state();
        let users = state.book().users();
        Outcome::Users(users.into_iter().map(|user| view(&state, user)).collect())
    }

    fn show_user(&self, name: &Name) -> Result<Outcome, OperationError> {
        let state = self.accounts.shared().state();
        let user = find(&state, name)?;
        Ok(Outcome::User(Box::new(view(&state, user))))
    }

    fn set_user(
        &self,
        name: &Name,
        join: &BTreeSet<Name>,
        leave: &BTreeSet<Name>,
        limits: &LimitChanges,
        reserve: &Reserve,
    ) -> Result<Outcome, OperationError> {
        let detail = format!(
            "joins {}; leaves {}; {}{}",
            joined(join),
            joined(leave),
            limits.text(),
            reserve.text()
        );
        self.change(name, "user_changed", detail, |state, user| {
            ensure_groups(state, join)?;
            user.groups.extend(join.iter().cloned());
            user.groups.retain(|group| !leave.contains(group));
            limits.apply(&mut user.bounds, &mut user.acl);
            reserve.apply(state, user)
        })
        .map(Outcome::Done)
    }

    fn set_password(&self, name: Name, wanted: NewPassword) -> Result<Outcome, OperationError> {
        // Hashing takes long: it is done before anything is locked.
        let (password, hash) = self.hash(wanted, &mut rand::rng())?;
        let detail = if hash.is_some() { "set" } else { "removed" };
        let done = self.change(&name, "password_set", detail.to_owned(), |_, user| {
            user.password = hash;
            Ok(())
        })?;
        Ok(Outcome::Password(PasswordSet { user: name, password, done }))
    }

    fn set_totp(&self, name: Name) -> Result<Outcome, OperationError> {
        let mut rng = rand::rng();
        let secret = totp::generate_secret(&mut rng);
        let (recovery_codes, hashes) = recovery::generate(&mut rng);
        let address = totp::address(&name, &secret);
        let done = self.change(&name, "totp_set", String::new(), |_, user| {
            user.totp_secret = Some(secret);
            user.recovery_codes = hashes;
            Ok(())
        })?;
        Ok(Outcome::Totp(TotpSet { user: name, address, recovery_codes, done }))
    }

    fn unset_totp(&self, name: &Name) -> Result<Outcome, OperationError> {
        self.change(name, "totp_removed", String::new(), |_, user| {
            user.totp_secret = None;
            user.recovery_codes.clear();
            Ok(())
        })
        .map(Outcome::Done)
    }

    fn set_disabled(&self, name: &Name, disabled: bool) -> Result<Outcome, OperationError> {
        let action = if disabled { "user_disabled" } else { "user_enabled" };
        self.change(name, action, String::new(), |_, user| {
            user.disabled = disabled;
            Ok(())
        })
        .map(Outcome::Done)
    }

    fn remove_user(&self, name: &Name) -> Result<Outcome, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        let user = find(&state, name)?.id;
        let note =
            Note { action: "user_removed", subject: name.to_string(), detail: String::new() };
        self.enact(state, vec![Change::DeleteUser(user)], note).map(Outcome::Done)
    }

    /// Changes a user by `edit`.
    fn change(
        &self,
        name: &Name,
        action: &'static str,
        detail: String,
        edit: impl FnOnce(&State, &mut User) -> Result<(), OperationError>,
    ) -> Result<Done, OperationError> {
        let _turn = self.begin();
        let state = self.accounts.shared().state();
        let mut user = find(&state, name)?.clone();
        edit(&state, &mut user)?;
        let note = Note { action, subject: name.to_string(), detail };
        self.enact(state, vec![Change::PutUser(user)], note)
    }
}

/// Addresses to keep for a user.
struct Reserve {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    unreserve: bool,
}

impl Reserve {
    fn apply(&self, state: &State, user: &mut User) -> Result<(), OperationError> {
        if self.unreserve {
            (user.reserved_ipv4, user.reserved_ipv6) = (None, None);
        }
        user.reserved_ipv4 = self.ipv4.or(user.reserved_ipv4);
        user.reserved_ipv6 = self.ipv6.or(user.reserved_ipv6);
        let others = state.book().known().users.values().filter(|other| other.id != user.id);
        for other in others {
            let ipv4 = user.reserved_ipv4.is_some() && other.reserved_ipv4 == user.reserved_ipv4;
            let ipv6 = user.reserved_ipv6.is_some() && other.reserved_ipv6 == user.reserved_ipv6;
            if ipv4 || ipv6 {
                let message = format!("that address is kept for {} already", other.name);
                return Err(OperationError::new(OperationErrorKind::Exists, message));
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        let ipv4 = self.ipv4.map(|address| format!("; keeps {address}"));
        let ipv6 = self.ipv6.map(|address| format!("; keeps {address}"));
        let none = self.unreserve.then(|| "; keeps no address".to_owned());
        none.into_iter().chain(ipv4).chain(ipv6).collect()
    }
}

pub(super) fn find<'a>(state: &'a State, name: &Name) -> Result<&'a User, OperationError> {
    state.book().user_named(name).ok_or_else(|| OperationError::no_user(name))
}

fn view(state: &State, user: &User) -> UserView {
    let today = day_of(Moment::now().unix);
    let unwritten = state.unwritten_of(user.id);
    let moved = |first_day| state.book().moved_since(user.id, first_day).saturating_add(unwritten);
    UserView::new(state.book(), user, moved(today), moved(month_start(today)))
}

fn joined(names: &BTreeSet<Name>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}
