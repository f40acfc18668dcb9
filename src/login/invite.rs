//! Invites: one line of text that an administrator hands over and a client logs in with.
//!
//! It says where the servers are, by which authority to know them, who logs in, and has a token
//! that is good once: `corelane:` and JSON in base64url (RFC 4648 section 5, without padding).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::accounts::names::Name;
use crate::accounts::secret::Secret;
use crate::limits::{INVITE_LEN_MAX, INVITE_SERVERS_MAX, INVITE_TOKEN_LEN_MAX, SERVER_LEN_MAX};
use crate::login::tls::Pin;

/// What every invite begins with.
const SCHEME: &str = "corelane:";
/// The version of what is inside.
const VERSION: u16 = 1;

/// An invite, before or after it was handed over. `Debug` does not show its token.
#[derive(Clone, Debug)]
pub struct Invite {
    /// Where to log in: names or addresses with ports, best first; at least one.
    pub servers: Vec<String>,
    /// The authority that vouches for the servers; `None` if the system knows it.
    pub pin: Option<Pin>,
    /// Who is invited.
    pub user: Name,
    /// What it shows at its first login.
    pub token: Secret,
    /// When it ceases to be good, in seconds since 1970.
    pub expires_unix_s: u64,
}

/// A text that is no invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadInvite {
    /// It is something else.
    #[error("this is no invite: one begins with `{SCHEME}` and is a single line")]
    NotAnInvite,
    /// It is cut, or something was typed wrongly.
    #[error("the invite is damaged: copy the whole line anew, from `{SCHEME}` to its end")]
    Damaged,
    /// A later program made it.
    #[error("the invite is of version {0}, which this program does not know: update it")]
    Version(u16),
}

/// The JSON inside.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inside {
    v: u16,
    servers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin: Option<String>,
    user: Name,
    token: Secret,
    expires: u64,
}

/// The version alone, which every version has.
#[derive(Deserialize)]
struct Version {
    v: u16,
}

impl Invite {
    /// The line to hand over.
    pub fn to_text(&self) -> Secret {
        let inside = Inside {
            v: VERSION,
            servers: self.servers.clone(),
            pin: self.pin.map(|pin| pin.to_string()),
            user: self.user.clone(),
            token: self.token.clone(),
            expires: self.expires_unix_s,
        };
        // Texts and numbers always become JSON.
        let json = Zeroizing::new(serde_json::to_string(&inside).unwrap_or_default());
        Secret::new(format!("{SCHEME}{}", *Zeroizing::new(BASE64.encode(json.as_bytes()))))
    }

    /// Whether `text` is meant to be an invite.
    pub fn is_meant(text: &str) -> bool {
        text.trim_start().starts_with(SCHEME)
    }
}

impl FromStr for Invite {
    type Err = BadInvite;

    fn from_str(text: &str) -> Result<Self, BadInvite> {
        let inside = text.trim().strip_prefix(SCHEME).ok_or(BadInvite::NotAnInvite)?;
        if inside.len() > INVITE_LEN_MAX {
            return Err(BadInvite::Damaged);
        }
        let json = Zeroizing::new(BASE64.decode(inside).map_err(|_| BadInvite::Damaged)?);
        let Version { v } = version(&json)?;
        if v != VERSION {
            return Err(BadInvite::Version(v));
        }
        let inside: Inside = serde_json::from_slice(&json).map_err(|_| BadInvite::Damaged)?;
        let pin = inside.pin.map(|pin| pin.parse()).transpose().map_err(|_| BadInvite::Damaged)?;
        let servers_fit = (1..=INVITE_SERVERS_MAX).contains(&inside.servers.len())
            && inside.servers.iter().all(|server| server.len() <= SERVER_LEN_MAX);
        if !servers_fit || inside.token.expose().len() > INVITE_TOKEN_LEN_MAX {
            return Err(BadInvite::Damaged);
        }
        Ok(Self {
            servers: inside.servers,
            pin,
            user: inside.user,
            token: inside.token,
            expires_unix_s: inside.expires,
        })
    }
}

/// The version of an invite, whatever else it has.
fn version(json: &[u8]) -> Result<Version, BadInvite> {
    serde_json::from_slice(json).map_err(|_| BadInvite::Damaged)
}

impl fmt::Display for Invite {
    /// What may be shown of it: not the token.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "an invite of {} to {}", self.user, self.servers.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Invite {
        Invite {
            servers: vec!["vpn.example.org:20443".to_owned(), "[2001:db8::1]:443".to_owned()],
            pin: Some(Pin([7; 32])),
            user: "alice".parse().unwrap(),
            token: Secret::new("clane_x".to_owned()),
            expires_unix_s: 1_800_000_000,
        }
    }

    #[test]
    fn an_invite_survives_being_handed_over() {
        let text = invite().to_text();
        assert!(Invite::is_meant(text.expose()));
        let read: Invite = format!("  {}\n", text.expose()).parse().unwrap();
        assert_eq!(read.servers, invite().servers);
        assert_eq!((read.pin, read.user.as_str()), (Some(Pin([7; 32])), "alice"));
        assert_eq!((read.token.expose(), read.expires_unix_s), ("clane_x", 1_800_000_000));
        assert!(!format!("{read:?} {read}").contains("clane_x"));
    }

    #[test]
    fn whatever_is_cut_or_changed_is_refused() {
        let text = invite().to_text();
        let text = text.expose();
        for len in 0..text.len() {
            assert!(text[..len].parse::<Invite>().is_err(), "{len}");
        }
        assert_eq!("alice".parse::<Invite>().unwrap_err(), BadInvite::NotAnInvite);
        let of = |json: &str| format!("{SCHEME}{}", BASE64.encode(json)).parse::<Invite>();
        let good = r#""servers":["a:1"],"user":"a","token":"t","expires":1"#;
        assert!(of(&format!("{{\"v\":1,{good}}}")).is_ok());
        let later = of(&format!("{{\"v\":2,{good},\"more\":1}}")).unwrap_err();
        assert_eq!(later, BadInvite::Version(2));
        for bad in [
            format!("{{\"v\":1,{good},\"more\":1}}"),
            format!("{{\"v\":1,\"v\":1,{good}}}"),
            format!("{{\"v\":1,{good},\"pin\":\"short\"}}"),
            format!("{{\"v\":1,{}}}", good.replace("\"a:1\"", "")),
            format!("{{\"v\":1,{}}}", good.replace("\"user\":\"a\"", "\"user\":\"a b\"")),
            format!("{{\"v\":1,{}}}", good.replace("a:1", &"a".repeat(SERVER_LEN_MAX + 1))),
            "[".repeat(2000),
        ] {
            assert_eq!(of(&bad).unwrap_err(), BadInvite::Damaged, "{bad}");
        }
        let long = format!("{SCHEME}{}", "A".repeat(INVITE_LEN_MAX + 1));
        assert_eq!(long.parse::<Invite>().unwrap_err(), BadInvite::Damaged);
    }
}
