//! Who a client says that it is: `Proxy-Authorization` (RFC 9110 section 11.7.2), in both
//! directions.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use zeroize::{Zeroize, Zeroizing};

use crate::limits::HTTP_CREDENTIALS_LEN_MAX;

use super::fields::Fields;

/// What a client has sent. Wiped from memory when dropped, and not printed by `Debug`.
pub enum Credentials {
    /// A user and a password (RFC 7617).
    Basic {
        /// The user; no colon, no control character.
        user: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A token (RFC 6750).
    Bearer(Zeroizing<String>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::Bearer(_) => "Bearer",
        })
    }
}

/// Why credentials cannot be checked. The client is asked for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Two of them: which one counts?
    #[error("Proxy-Authorization is repeated")]
    Repeated,
    /// They are longer than any of ours.
    #[error("Proxy-Authorization has more than {HTTP_CREDENTIALS_LEN_MAX} bytes")]
    TooLong,
    /// Another scheme than Basic and Bearer.
    #[error("Proxy-Authorization is neither of the scheme Basic nor Bearer")]
    Scheme,
    /// No `USER:PASSWORD` in base64 and UTF-8.
    #[error("Proxy-Authorization is not USER:PASSWORD in UTF-8 and base64")]
    Basic,
    /// Not of the characters that a token has.
    #[error("Proxy-Authorization has a malformed token")]
    Bearer,
}

/// Some clients leave the padding out; nothing else is forgiven.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Credentials {
    /// Reads the credentials of a request to a proxy; `None` if it has none.
    pub fn of_proxy_request(fields: Fields<'_, '_>) -> Result<Option<Self>, CredentialsError> {
        Self::of(fields, "proxy-authorization")
    }

    /// Reads the credentials of a request to this server itself; `None` if it has none.
    pub fn of_request(fields: Fields<'_, '_>) -> Result<Option<Self>, CredentialsError> {
        Self::of(fields, "authorization")
    }

    fn of(fields: Fields<'_, '_>, name: &str) -> Result<Option<Self>, CredentialsError> {
        match fields.one(name) {
            Ok(Some(value)) => Self::parse(value).map(Some),
            Ok(None) => Ok(None),
            Err(_) => Err(CredentialsError::Repeated),
        }
    }

    /// Reads the value of the field: a scheme, in whatever case, and what belongs to it.
    fn parse(value: &[u8]) -> Result<Self, CredentialsError> {
        if value.len() > HTTP_CREDENTIALS_LEN_MAX {
            return Err(CredentialsError::TooLong);
        }
        let scheme_len = value.iter().position(|&byte| byte == b' ').unwrap_or(value.len());
        let (scheme, rest) = value.split_at_checked(scheme_len).unwrap_or_default();
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"basic") {
            return basic(rest).ok_or(CredentialsError::Basic);
        }
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return bearer(rest).ok_or(CredentialsError::Bearer);
        }
        Err(CredentialsError::Scheme)
    }
}

fn basic(encoded: &[u8]) -> Option<Credentials> {
    // Room for all of it, so that no part stays behind in memory that has been given back.
    let mut decoded = Zeroizing::new(Vec::with_capacity(encoded.len()));
    BASE64.decode_vec(encoded, &mut decoded).ok()?;
    let text = str::from_utf8(&decoded).ok()?;
    // RFC 7617 section 2: no control characters in either, no colon in the user.
    if text.chars().any(char::is_control) {
        return None;
    }
    let (user, password) = text.split_once(':')?;
    Some(Credentials::Basic {
        user: user.to_owned(),
        password: Zeroizing::new(password.to_owned()),
    })
}

fn bearer(token: &[u8]) -> Option<Credentials> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    let token =
        str::from_utf8(token).ok().filter(|t| !t.is_empty() && t.bytes().all(|b| is_token(&b)))?;
    Some(Credentials::Bearer(Zeroizing::new(token.to_owned())))
}

/// The value of a `Proxy-Authorization` that this proxy sends to another. Wiped from memory when
/// dropped.
#[derive(Clone)]
pub struct ProxyAuthorization(Zeroizing<Vec<u8>>);

impl fmt::Debug for ProxyAuthorization {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ProxyAuthorization")
    }
}

impl ProxyAuthorization {
    /// Credentials of the scheme Basic. The error names a user with a colon, and control characters
    /// in either part, which RFC 7617 section 2 rules out.
    pub fn basic(user: &str, password: &str) -> Result<Self, CredentialsError> {
        if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
            return Err(CredentialsError::Basic);
        }
        let plain = Zeroizing::new([user, password].join(":"));
        let mut encoded = STANDARD.encode(plain.as_bytes());
        let mut value = Zeroizing::new(Vec::with_capacity("Basic ".len() + encoded.len()));
        value.extend_from_slice(b"Basic ");
        value.extend_from_slice(encoded.as_bytes());
        encoded.zeroize();
        Ok(Self(value))
    }

    /// A token, of the scheme Bearer. The error names one that has other characters than RFC 6750
    /// section 2.1 allows.
    pub fn bearer(token: &str) -> Result<Self, CredentialsError> {
        bearer(token.as_bytes()).ok_or(CredentialsError::Bearer)?;
        Ok(Self(Zeroizing::new([b"Bearer ", token.as_bytes()].concat())))
    }

    /// The value itself.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}
