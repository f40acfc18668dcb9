//! Which proofs of identity a login needs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// One kind of proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// A client certificate that TLS has verified.
    Certificate,
    /// The user's password.
    Password,
    /// A token: of an application, of an invite, or a device's own.
    Token,
    /// A time-based code, or a recovery code.
    Totp,
}

impl Proof {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Certificate, "certificate"),
        (Self::Password, "password"),
        (Self::Token, "token"),
        (Self::Totp, "totp"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(proof, _)| *proof == self).map_or("", |(_, name)| name)
    }
}

/// Proofs that are enough together, such as `password+totp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProofSet(BTreeSet<Proof>);

impl ProofSet {
    /// Whether it has `proof`.
    pub fn contains(&self, proof: Proof) -> bool {
        self.0.contains(&proof)
    }

    /// Those of it that are not in `shown`, codes aside.
    pub fn missing(&self, shown: &BTreeSet<Proof>) -> BTreeSet<Proof> {
        self.0.difference(shown).copied().filter(|proof| *proof != Proof::Totp).collect()
    }
}

/// A text that is no set of proofs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} does not say what a login needs: name `certificate`, `password`, `totp` and `token`, \
     those that are needed together joined as in `password+totp`; `totp` alone proves nothing"
)]
pub struct BadProofSet(pub String);

impl FromStr for ProofSet {
    type Err = BadProofSet;

    fn from_str(text: &str) -> Result<Self, BadProofSet> {
        let error = || BadProofSet(text.to_owned());
        let mut proofs = BTreeSet::new();
        for word in text.split('+') {
            let found = Proof::ALL.iter().find(|(_, name)| *name == word.trim());
            let (proof, _) = found.ok_or_else(error)?;
            if !proofs.insert(*proof) {
                return Err(error());
            }
        }
        if proofs.iter().all(|proof| *proof == Proof::Totp) {
            Err(error())
        } else {
            Ok(Self(proofs))
        }
    }
}

impl fmt::Display for ProofSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, proof) in self.0.iter().enumerate() {
            if position > 0 {
                out.write_str("+")?;
            }
            out.write_str(proof.name())?;
        }
        Ok(())
    }
}

/// What a server wants to see: one of several sets of proofs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginPolicy(Vec<ProofSet>);

impl LoginPolicy {
    /// One of `alternatives` is enough. With none, nobody can log in.
    pub fn new(alternatives: Vec<ProofSet>) -> Self {
        Self(alternatives)
    }

    /// The alternatives, in the order of the configuration.
    pub fn alternatives(&self) -> &[ProofSet] {
        &self.0
    }

    /// Whether a token alone is enough.
    pub fn takes_token_alone(&self) -> bool {
        self.within_reach(&BTreeSet::from([Proof::Token])).any(|set| !set.contains(Proof::Totp))
    }

    /// Those that whoever shows `shown` could still fulfil with a code.
    pub fn within_reach(&self, shown: &BTreeSet<Proof>) -> impl Iterator<Item = &ProofSet> {
        self.0.iter().filter(|alternative| alternative.missing(shown).is_empty())
    }

    /// Whether nothing but a certificate is missing for one of them.
    pub fn wants_certificate(&self, shown: &BTreeSet<Proof>) -> bool {
        let certificate = BTreeSet::from([Proof::Certificate]);
        self.0.iter().any(|alternative| alternative.missing(shown) == certificate)
    }
}

impl Default for LoginPolicy {
    /// Whatever a new installation offers: a certificate, a password with a code if the user has
    /// set codes up, or a token.
    fn default() -> Self {
        let alone = |proof| ProofSet(BTreeSet::from([proof]));
        Self(vec![alone(Proof::Certificate), alone(Proof::Password), alone(Proof::Token)])
    }
}

impl fmt::Display for LoginPolicy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, alternative) in self.0.iter().enumerate() {
            if position > 0 {
                out.write_str(" or ")?;
            }
            write!(out, "{alternative}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proof_sets_truth_table() {
        for (text, read) in [
            ("certificate", "certificate"),
            ("totp+password", "password+totp"),
            ("certificate + password + totp + token", "certificate+password+token+totp"),
        ] {
            assert_eq!(text.parse::<ProofSet>().unwrap().to_string(), read);
        }
        for text in ["", "totp", "password+", "password+password", "Password", "pin", "+"] {
            assert_eq!(text.parse::<ProofSet>(), Err(BadProofSet(text.to_owned())));
        }
    }

    #[test]
    fn what_is_within_reach_and_what_misses_only_a_certificate() {
        let sets = ["certificate+password", "password+totp", "token"];
        let policy = LoginPolicy::new(sets.map(|text| text.parse().unwrap()).to_vec());
        let reach = |shown: &[Proof]| {
            let shown = shown.iter().copied().collect();
            let sets: Vec<_> = policy.within_reach(&shown).map(ToString::to_string).collect();
            (sets, policy.wants_certificate(&shown))
        };
        let owned = |sets: &[&str]| sets.iter().map(|set| (*set).to_owned()).collect::<Vec<_>>();
        assert_eq!(reach(&[]), (owned(&[]), false));
        assert_eq!(reach(&[Proof::Password]), (owned(&["password+totp"]), true));
        assert_eq!(reach(&[Proof::Token]), (owned(&["token"]), false));
        let both = [Proof::Certificate, Proof::Password];
        assert_eq!(reach(&both), (owned(&["certificate+password", "password+totp"]), false));
        assert_eq!(policy.to_string(), "certificate+password or password+totp or token");
    }
}
