//! Why somebody may reach something, or may not, in words.

use std::fmt;
use std::net::IpAddr;

use super::acl::{AclRule, Action, Protocol};
use super::judge::{Defaults, FarEnd, Judge, Reason, Verdict};
use crate::packet::Upper;

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether packets pass, either way.
    pub verdict: Verdict,
    /// What decided.
    pub reason: Reason,
    /// The rule that decided, if one did.
    pub rule: Option<AclRule>,
}

/// Says whether those for whom `rules` hold, in this order, may talk with `address`, at `port` over
/// `protocol`; without a port or protocol the question is about packets of which nothing else is
/// known, such as fragments. `is_other_peers` says whether the address belongs to another peer.
pub fn explain(
    rules: &[AclRule],
    defaults: Defaults,
    address: IpAddr,
    port: Option<u16>,
    protocol: Option<Protocol>,
    is_other_peers: bool,
) -> Explanation {
    let upper = match protocol {
        Some(Protocol::Tcp) => Upper::Tcp,
        Some(Protocol::Udp) => Upper::Udp,
        Some(Protocol::Icmp) => Upper::Icmp,
        None => Upper::Unknown,
    };
    let far_end = FarEnd { address, upper, port };
    let (verdict, reason) = Judge::new(rules, defaults).decide(&far_end, || is_other_peers);
    let rule = match reason {
        Reason::Rule(at) => rules.get(at).cloned(),
        _ => None,
    };
    Explanation { verdict, reason, rule }
}

impl Explanation {
    /// Whether packets pass.
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Pass
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.is_allowed() { "allowed: " } else { "denied: " })?;
        match (self.reason, &self.rule) {
            (Reason::Rule(at), Some(rule)) => write!(out, "rule {}, `{rule}`, decides", at + 1),
            (Reason::Rule(at), None) => write!(out, "rule {} decides", at + 1),
            (Reason::NoRuleMatches, _) => {
                out.write_str("no rule matches, and what no rule allows is denied")
            }
            (Reason::NoRules, _) => {
                let default = match self.verdict {
                    Verdict::Pass => Action::Allow,
                    Verdict::Denied | Verdict::Isolated => Action::Deny,
                };
                write!(out, "there are no rules, and `accounts.without_rules` is \"{default}\"")
            }
            (Reason::Isolation, _) => out.write_str(
                "the address belongs to another client; clients are kept apart unless a rule \
                 allows the address by name, or `accounts.isolate_clients` is false",
            ),
            (Reason::MappedAddress, _) => out.write_str(
                "an IPv4-mapped IPv6 address never passes; the address to use is the IPv4 one",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_says_what_decided() {
        let rules: Vec<AclRule> = ["deny 10.0.0.0/8 22/tcp", "allow 10.0.0.0/8"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let ask = |rules: &[AclRule], defaults, address: &str, port, other| {
            let address = address.parse().unwrap();
            explain(rules, defaults, address, port, Some(Protocol::Tcp), other).to_string()
        };
        let open = Defaults::default();
        let closed = Defaults { without_rules: Action::Deny, ..open };
        type Question<'a> = (&'a [AclRule], Defaults, &'a str, u16, bool);
        // ((rules, defaults, address, port, of another peer), answer)
        let table: &[(Question<'_>, &str)] = &[
            ((&rules, open, "10.1.1.1", 22, false), "denied: rule 1, `deny 10.0.0.0/8 22/tcp`, "),
            ((&rules, open, "10.1.1.1", 23, false), "allowed: rule 2, `allow 10.0.0.0/8`, "),
            ((&rules, open, "11.1.1.1", 23, false), "denied: no rule matches"),
            (
                (&[], open, "11.1.1.1", 23, false),
                "allowed: there are no rules, and `accounts.without_rules`",
            ),
            ((&[], closed, "11.1.1.1", 23, false), "denied: there are no rules"),
            ((&[], open, "11.1.1.1", 23, true), "denied: the address belongs to another client"),
            ((&[], open, "::ffff:1.2.3.4", 23, false), "denied: an IPv4-mapped IPv6 address"),
        ];
        for ((rules, defaults, address, port, other), answer) in table {
            let found = ask(rules, *defaults, address, Some(*port), *other);
            assert!(found.starts_with(answer), "{found}");
        }
        let unknown = explain(&rules, open, "10.1.1.1".parse().unwrap(), None, None, false);
        assert!(!unknown.is_allowed(), "it may be a fragment to port 22");
    }
}
