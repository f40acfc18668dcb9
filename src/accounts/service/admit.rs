//! What somebody gets who has proved who they are: a device, addresses, a session.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rand::CryptoRng;

use crate::accounts::addresses::{Holder, Leased};
use crate::accounts::change::Change;
use crate::accounts::credentials::token;
use crate::accounts::model::{
    Device, Id, LeaseRecord, SessionEnd, SessionRecord, Token, TokenScope, UnixMs, User,
};
use crate::accounts::names::Name;
use crate::accounts::refusal::{Refusal, RefusalCode};
use crate::accounts::secret::Secret;
use crate::accounts::service::attempt::{Grant, LoginAttempt};
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::judge::{Identified, UsedCode};
use crate::accounts::service::state::{Live, State};
use crate::limits::DEVICES_PER_USER_DEFAULT;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

/// A login that may go ahead once its changes are safe.
pub(super) struct Admission {
    /// What is to be written, all of it or nothing.
    pub(super) changes: Vec<Change>,
    /// Sessions of the same device that this one takes the place of.
    pub(super) replaced: Vec<Id>,
    /// The session as this server keeps it.
    pub(super) live: Live,
    /// What the client gets.
    pub(super) grant: Grant,
}

/// What the server grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// How long a lease lasts.
    pub(super) lease: Duration,
    /// Whether a login needs to show no more than a token.
    pub(super) token_is_enough: bool,
}

/// Decides what somebody gets. Nothing is changed but the plan of addresses, in which a device
/// keeps what it was given.
///
/// # Errors
/// A bound of the user is reached, the device's key is taken, or no address is free.
pub(super) fn admit(
    state: &mut State,
    attempt: &LoginAttempt,
    who: &Identified,
    terms: Terms,
    now: Moment,
    rng: &mut impl CryptoRng,
) -> Result<Admission, Refusal> {
    let user = state.book.user(who.user).cloned().ok_or_else(super::judge::denied)?;
    let (bounds, acl) = state.book.policy_of(&user);
    let (device, is_new) = admissible(state, attempt, &user, &bounds, now, rng)?;
    let leased = lease_addresses(state, &device, now.unix)?;

    let mut changes: Vec<_> = code_used(who).into_iter().collect();
    changes.push(match is_new {
        true => Change::PutDevice(device.clone()),
        false => Change::DeviceSeen { device: device.id, at: now.unix },
    });
    let needs_own = attempt.password.is_some() && terms.token_is_enough;
    let (token, device_token) =
        redeem(state, who.token, needs_own, &device, now.unix, rng, &mut changes);
    let mut live = Live {
        user: user.id,
        device: device.id,
        device_key: device.public_key,
        token,
        certificate: who.certificate.clone(),
        expires: now.instant,
        bounds,
        acl: acl.clone(),
        received_bytes: 0,
        sent_bytes: 0,
        unwritten: (0, 0),
    };
    let lease = state.lease_of(&live, terms.lease, now.unix);
    live.expires = now.instant + lease;
    let addresses = (leased.ipv4, leased.ipv6);
    let (ipv4, ipv6) = addresses;
    let server = state.server.clone();
    changes.extend(leased.displaced.into_iter().map(|device| {
        let server = state.server.clone();
        Change::DeleteLease { device, server }
    }));
    let granted = now.unix;
    changes.push(Change::PutLease(LeaseRecord {
        device: device.id,
        server,
        ipv4,
        ipv6,
        granted,
        expires: UnixMs(now.unix.0.saturating_add(lease.as_millis() as i64)),
    }));
    let session = begin_session(state, attempt, &device, now, rng, &mut changes);
    let replaced = end_replaced(state, &user, &device, session, now.unix, &mut changes);
    let grant = grant_of(session, &user, &live, addresses, acl, device_token);
    Ok(Admission { changes, replaced, live, grant })
}

/// Whether somebody would be admitted if there is an address left.
///
/// # Errors
/// As [`admit`], but for the addresses.
pub(super) fn ensure_admissible(
    state: &State,
    attempt: &LoginAttempt,
    who: &Identified,
    now: Moment,
    rng: &mut impl CryptoRng,
) -> Result<(), Refusal> {
    let user = state.book.user(who.user).ok_or_else(super::judge::denied)?;
    let (bounds, _) = state.book.policy_of(user);
    admissible(state, attempt, user, &bounds, now, rng).map(drop)
}

/// The device that somebody may have a session from, and whether it is new.
fn admissible(
    state: &State,
    attempt: &LoginAttempt,
    user: &User,
    bounds: &Bounds,
    now: Moment,
    rng: &mut impl CryptoRng,
) -> Result<(Device, bool), Refusal> {
    let pending = state.unwritten_of(user.id);
    if state.quota_exceeded(user.id, bounds, pending, now.unix) {
        return Err(Refusal::new(
            RefusalCode::QuotaExceeded,
            "what this account may move in a day or a month is used up: it begins anew at \
             midnight UTC or with the next month (`corelane user set --day-bytes` raises it)",
        ));
    }
    let (device, is_new) = device_of(state, attempt, user, bounds, now.unix, rng)?;
    ensure_session_free(state, user, device.id, bounds)?;
    Ok((device, is_new))
}

fn code_used(who: &Identified) -> Option<Change> {
    Some(match who.code? {
        UsedCode::Totp(step) => Change::TotpUsed { user: who.user, step },
        UsedCode::Recovery(hash) => Change::RecoveryCodeUsed { user: who.user, hash },
    })
}

fn grant_of(
    session: Id,
    user: &User,
    live: &Live,
    (ipv4, ipv6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
    acl: Vec<AclRule>,
    device_token: Option<Secret>,
) -> Grant {
    Grant {
        session,
        user: user.name.clone(),
        device: live.device,
        device_key: live.device_key,
        ipv4,
        ipv6,
        expires: live.expires,
        bounds: live.bounds,
        acl,
        device_token,
    }
}

/// The device with the key that was shown; a new one if the user may have another.
fn device_of(
    state: &State,
    attempt: &LoginAttempt,
    user: &User,
    bounds: &Bounds,
    now: UnixMs,
    rng: &mut impl CryptoRng,
) -> Result<(Device, bool), Refusal> {
    let taken = || {
        Refusal::new(
            RefusalCode::DeviceTaken,
            "the key of this device belongs to another device: make a new one for it (on the \
             client, remove the directory with its state and log in again)",
        )
    };
    if state.foreign_keys.contains(&attempt.device_key) {
        return Err(taken());
    }
    if let Some(device) = state.book.device_with_key(&attempt.device_key) {
        return if device.user == user.id { Ok((device.clone(), false)) } else { Err(taken()) };
    }
    if attempt.device_key.is_low_order() {
        return Err(Refusal::new(RefusalCode::Malformed, "the device's key is none (RFC 7748)"));
    }
    let devices = state.book.devices_of(user.id).count();
    let most = bounds.devices_max.unwrap_or(DEVICES_PER_USER_DEFAULT);
    if devices >= most as usize {
        let message = format!(
            "this account has {devices} devices and may have {most}: have one removed \
             (`corelane device rm`)"
        );
        return Err(Refusal::new(RefusalCode::TooManyDevices, message));
    }
    let device = Device {
        id: Id::generate(rng),
        user: user.id,
        name: free_name(state, user.id, &attempt.device_name),
        public_key: attempt.device_key,
        created: now,
        last_login: now,
    };
    Ok((device, true))
}

/// `wanted`, or the first of `wanted-2`, `wanted-3`... that none of the user's devices has.
fn free_name(state: &State, user: Id, wanted: &Name) -> Name {
    let is_free = |name: &Name| state.book.devices_of(user).all(|device| device.name != *name);
    if is_free(wanted) {
        return wanted.clone();
    }
    // Names have a greatest length, and a number needs room.
    let stem: String = wanted.as_str().chars().take(16).collect();
    let numbered = (2u32..).filter_map(|number| format!("{stem}-{number}").parse().ok());
    numbered.into_iter().find(is_free).unwrap_or_else(|| wanted.clone())
}

fn ensure_session_free(
    state: &State,
    user: &User,
    device: Id,
    bounds: &Bounds,
) -> Result<(), Refusal> {
    let Some(most) = bounds.sessions_max else { return Ok(()) };
    let others = state.book.sessions_of(user.id).filter(|session| session.device != device);
    if others.count() < most as usize {
        return Ok(());
    }
    let message = format!(
        "this account has {most} devices online, as many as allowed: take one offline, or have it \
         ended (`corelane session kick`)"
    );
    Err(Refusal::new(RefusalCode::TooManySessions, message))
}

/// The addresses that the device has at this server from now on.
fn lease_addresses(state: &mut State, device: &Device, now: UnixMs) -> Result<Leased, Refusal> {
    let holder = Holder { device: device.id, user: device.user };
    state
        .addresses
        .lease(holder, now)
        .map_err(|error| Refusal::new(RefusalCode::PoolExhausted, format!("this server: {error}")))
}

/// Uses a token, and gives the device one of its own where it needs one. Returns the token that
/// the session rests on, and the new one.
///
/// An invite is used up by its first use, and so is what a password was shown for where a token is
/// enough: the device comes back by itself, after a restart of the server say, with a token that
/// is good for it alone. What it had before is gone.
fn redeem(
    state: &State,
    shown: Option<Id>,
    needs_own: bool,
    device: &Device,
    now: UnixMs,
    rng: &mut impl CryptoRng,
    changes: &mut Vec<Change>,
) -> (Option<Id>, Option<Secret>) {
    let shown = shown.and_then(|shown| state.book.token(shown));
    let is_invite = shown.is_some_and(|token| token.scope == TokenScope::Invite);
    if let Some(shown) = shown {
        changes.push(match is_invite {
            true => Change::DeleteToken(shown.id),
            false => Change::TokenUsed { token: shown.id, at: now },
        });
    }
    if !is_invite && (shown.is_some() || !needs_own) {
        return (shown.map(|token| token.id), None);
    }
    let earlier = state.book.tokens_of(device.user).filter(|token| token.device == Some(device.id));
    changes.extend(earlier.map(|token| Change::DeleteToken(token.id)));
    let (secret, hash) = token::generate(rng);
    let token = Token {
        id: Id::generate(rng),
        user: device.user,
        hash,
        label: format!("device {}", device.name),
        scope: TokenScope::Device,
        device: Some(device.id),
        created: now,
        expires: None,
        last_used: Some(now),
    };
    // A session that a password has opened does not end with the token.
    let rests_on = is_invite.then_some(token.id);
    changes.push(Change::PutToken(token));
    (rests_on, Some(secret))
}

fn begin_session(
    state: &State,
    attempt: &LoginAttempt,
    device: &Device,
    now: Moment,
    rng: &mut impl CryptoRng,
    changes: &mut Vec<Change>,
) -> Id {
    let id = Id::generate(rng);
    changes.push(Change::StartSession(SessionRecord {
        id,
        user: device.user,
        device: device.id,
        server: state.server.clone(),
        from: attempt.from,
        started: now.unix,
        ended: None,
        received_bytes: 0,
        sent_bytes: 0,
    }));
    id
}

/// A device has one session: the others end, wherever they are.
fn end_replaced(
    state: &State,
    user: &User,
    device: &Device,
    session: Id,
    now: UnixMs,
    changes: &mut Vec<Change>,
) -> Vec<Id> {
    let earlier = state.book.sessions_of(user.id).filter(|earlier| earlier.device == device.id);
    let mut here = Vec::new();
    for earlier in earlier.filter(|earlier| earlier.id != session) {
        if state.live.contains_key(&earlier.id) {
            // Those are closed with what they have moved.
            here.push(earlier.id);
        } else {
            let end = SessionEnd::Replaced;
            changes.push(Change::EndSession { session: earlier.id, at: now, end });
        }
    }
    here
}
