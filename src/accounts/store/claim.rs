//! What is good once at all servers together: the one that claims it first may take it.

use std::fmt;

use crate::accounts::model::{Id, UnixMs};
use crate::accounts::store::connection::Connection;
use crate::accounts::store::error::StoreError;
use crate::accounts::store::value::Value;

/// Something that is good once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneTime {
    /// A user's time-based code.
    Totp {
        /// Whose.
        user: Id,
        /// Its time step.
        step: i64,
    },
    /// A user's recovery code.
    RecoveryCode {
        /// Whose.
        user: Id,
        /// SHA-256 of it.
        hash: [u8; 32],
    },
    /// The token of an invite.
    Invite(Id),
}

impl fmt::Display for OneTime {
    /// What its row is known by.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Totp { user, step } => write!(out, "totp {} {step}", user.0),
            Self::RecoveryCode { user, hash } => {
                write!(out, "recovery {} ", user.0)?;
                hash.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
            }
            Self::Invite(token) => write!(out, "invite {}", token.0),
        }
    }
}

/// Whose something is that is good once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// This spool's, from now on or since before: its server knows whether it was used.
    Ours,
    /// Another's.
    Others,
    /// The database has no such thing, or not yet.
    Unknown,
}

/// Claims `what` for the server with that spool. Asked again, it says the same, so that a lost
/// answer costs nothing.
pub(super) fn claim(
    connection: &mut Connection,
    what: &OneTime,
    spool: Id,
    now: UnixMs,
) -> Result<Claimed, StoreError> {
    let (there, mut of) = match *what {
        OneTime::Totp { user, .. } => ("users WHERE id = $4", vec![user.into()]),
        OneTime::RecoveryCode { user, hash } => (
            "recovery_codes WHERE user_id = $4 AND hash = $5",
            vec![user.into(), hash.as_slice().into()],
        ),
        OneTime::Invite(token) => ("tokens WHERE id = $4", vec![token.into()]),
    };
    let what = Value::text(&what.to_string());
    let mut values = vec![what.clone(), spool.into(), now.into()];
    values.append(&mut of);
    connection.execute(
        &format!(
            "INSERT INTO claims (what, spool, at)
             SELECT $1, $2, $3 WHERE EXISTS (SELECT 1 FROM {there})
             ON CONFLICT DO NOTHING"
        ),
        &values,
    )?;
    let mut rows = connection.query("SELECT spool FROM claims WHERE what = $1", &[what])?;
    Ok(match rows.first_mut().map(super::value::Row::integer).transpose()? {
        Some(owner) if owner == spool.0 => Claimed::Ours,
        Some(_) => Claimed::Others,
        None => Claimed::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::change::{Batch, BatchSource, Change};
    use crate::accounts::model::{Token, TokenScope, User};
    use crate::accounts::store::Store;
    use crate::accounts::store::testing::on_both;

    #[test]
    fn the_first_to_claim_has_it_for_good_and_what_is_not_there_nobody_has() {
        on_both(|place| {
            let (mut here, mut there) = (Store::open(place).unwrap(), Store::open(place).unwrap());
            let (user, invite, hash) = (Id(1), Id(2), [9; 32]);
            let known = User {
                recovery_codes: vec![hash],
                ..User::new(user, "alice".parse().unwrap(), UnixMs(0))
            };
            let token = Token {
                id: invite,
                user,
                hash,
                label: String::new(),
                scope: TokenScope::Invite,
                device: None,
                created: UnixMs(0),
                expires: None,
                last_used: None,
            };
            let source = BatchSource { spool: Id(7), server: "here".parse().unwrap() };
            let changes = vec![Change::AddUser(known), Change::PutToken(token)];
            here.commit(&source, &[Batch { sequence: 1, changes }]).unwrap();
            let all = [
                OneTime::Totp { user, step: 5 },
                OneTime::RecoveryCode { user, hash },
                OneTime::Invite(invite),
            ];
            for what in all {
                assert_eq!(here.claim(&what, Id(7), UnixMs(1)).unwrap(), Claimed::Ours, "{what}");
                assert_eq!(there.claim(&what, Id(8), UnixMs(2)).unwrap(), Claimed::Others);
                assert_eq!(here.claim(&what, Id(7), UnixMs(3)).unwrap(), Claimed::Ours);
            }
            let other = OneTime::Totp { user, step: 6 };
            assert_eq!(there.claim(&other, Id(8), UnixMs(2)).unwrap(), Claimed::Ours);
            // What was used up is gone from the table; the claim stays.
            let changes = vec![Change::DeleteToken(invite)];
            here.commit(&source, &[Batch { sequence: 2, changes }]).unwrap();
            let late = there.claim(&OneTime::Invite(invite), Id(8), UnixMs(4)).unwrap();
            assert_eq!(late, Claimed::Others);
            for nothing in [
                OneTime::Totp { user: Id(3), step: 5 },
                OneTime::RecoveryCode { user, hash: [8; 32] },
                OneTime::Invite(Id(3)),
            ] {
                assert_eq!(here.claim(&nothing, Id(7), UnixMs(1)).unwrap(), Claimed::Unknown);
            }
        });
    }
}
