//! Names that people give to accounts, groups and devices.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::ACCOUNT_NAME_LEN_MAX;

/// A text that cannot be the name of an account, a group or a device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} cannot be a name: a name has 1 to {ACCOUNT_NAME_LEN_MAX} bytes, letters, digits and \
     `.`, `_`, `-`, `@` or `+`, and begins with a letter or a digit"
)]
pub struct BadName(pub String);

/// The name of a user, a group or a device, as it is compared and stored: it can stand in a file
/// name, a log line, a URL or a certificate without being taken for anything else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Name {
    /// What this host calls itself, as far as that can be a name.
    pub fn of_this_host() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().parse().unwrap_or_else(|_| Self("host".to_owned()))
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let is_letter_or_digit = |char: char| char.is_alphanumeric();
        let acceptable = (1..=ACCOUNT_NAME_LEN_MAX).contains(&text.len())
            && text.starts_with(is_letter_or_digit)
            && text.chars().all(|char| is_letter_or_digit(char) || "._-@+".contains(char));
        if acceptable { Ok(Self(text.to_owned())) } else { Err(BadName(text.to_owned())) }
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_truth_table() {
        for text in ["alice", "a", "7", "j.doe@example.org", "bob_2", "x+vpn", "élodie", "李"] {
            assert_eq!(text.parse::<Name>().map(String::from), Ok(text.to_owned()));
        }
        let long = "n".repeat(ACCOUNT_NAME_LEN_MAX + 1);
        for text in
            ["", " ", "-a", ".a", "@", "a b", "a/b", "a'--", "a\n", "a\0", "a:b", "a,b", &long]
        {
            assert_eq!(text.parse::<Name>(), Err(BadName(text.to_owned())));
        }
    }

    #[test]
    fn a_bad_name_is_refused_as_json_too() {
        assert!(serde_json::from_str::<Name>("\"a b\"").is_err());
        assert_eq!(serde_json::to_string(&"bob".parse::<Name>().unwrap()).unwrap(), "\"bob\"");
    }
}
