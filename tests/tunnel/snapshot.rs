//! What of a host's network a daemon may have changed.

use std::collections::BTreeSet;

use corelane::lab::{Host, wait_until};

use crate::harness::PATIENCE;
use crate::tools::run;

/// The commands whose output says it.
const QUESTIONS: [&str; 11] = [
    "ip -oneline -4 address",
    "ip -oneline -6 address",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip -4 rule",
    "ip -6 rule",
    "nft list ruleset",
    "sysctl net.ipv4.conf.all.src_valid_mark",
    "sysctl net.ipv4.ip_forward",
    "grep -r --include=forwarding --include=accept_ra --include=accept_redirects . \
     /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf",
    // All hosts have the name servers of the machine that they are on.
    "cat /etc/resolv.conf",
];

/// The state of a host's network: addresses, routes, rules, firewall, forwarding, name servers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeSet<String>);

impl Snapshot {
    pub(crate) fn take(host: &Host) -> Self {
        let answer = |question: &str| {
            let lines = run(host, question);
            let lines = lines.lines().map(str::trim_end).filter(|line| !line.is_empty());
            lines.map(|line| format!("{question}: {line}")).collect::<Vec<_>>()
        };
        Self(QUESTIONS.into_iter().flat_map(answer).collect())
    }

    /// Panics unless the host is, or soon becomes, as it was when this was taken.
    #[track_caller]
    pub(crate) fn assert_restored(&self, host: &Host) {
        let restored = || (Self::take(host) == *self).then_some(());
        if wait_until(PATIENCE / 10, "the host to be as before", restored).is_err() {
            let now = Self::take(host);
            let surplus: Vec<_> = now.0.difference(&self.0).collect();
            let missing: Vec<_> = self.0.difference(&now.0).collect();
            panic!("the {} is not as before: + {surplus:#?} - {missing:#?}", host.name());
        }
    }
}
