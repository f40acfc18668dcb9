//! What is compared, and under which load.

use std::time::Duration;

use corelane::accounts::operations::LimitChanges;
use corelane::bench::{Direction, TestSpec};
use corelane::policy::acl::{AclRule, BadRule};
use corelane::policy::bounds::Bounds;
use serde::Serialize;

/// Rules that the user has; the last one allows what is measured.
pub(crate) const RULES: usize = 50;
/// Far above what a tunnel carries, so that a rate limit counts and never delays.
const RATE_BPS: u64 = 400_000_000_000;
/// A quota that nobody uses up.
const QUOTA_BYTES: u64 = 1 << 60;
/// Payload of the small datagrams, in bytes.
const SMALL: u32 = 64;

/// Whether there is a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Setup {
    /// Peers that know each other's keys from their configuration.
    Without,
    /// A client that has logged in: rules, rate limits, quotas, isolation, usage.
    With,
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Workload {
    Tcp1Up,
    Tcp1Down,
    Tcp4Up,
    Tcp4Down,
    UdpUp,
    UdpDown,
}

impl Workload {
    pub(crate) const ALL: [Self; 6] =
        [Self::Tcp1Up, Self::Tcp1Down, Self::Tcp4Up, Self::Tcp4Down, Self::UdpUp, Self::UdpDown];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Tcp1Up => "TCP 1 stream up",
            Self::Tcp1Down => "TCP 1 stream down",
            Self::Tcp4Up => "TCP 4 streams up",
            Self::Tcp4Down => "TCP 4 streams down",
            Self::UdpUp => "UDP 64 B up, flat out",
            Self::UdpDown => "UDP 64 B down, flat out",
        }
    }

    /// What its rate is given in, and how many bits per second that is.
    pub(crate) const fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Tcp1Up | Self::Tcp1Down | Self::Tcp4Up | Self::Tcp4Down => ("Gbit/s", 1e9),
            Self::UdpUp | Self::UdpDown => ("kpps", SMALL as f64 * 8e3),
        }
    }

    pub(crate) fn test(self, seconds: u32) -> TestSpec {
        let lasts = Duration::from_secs(seconds.into());
        let (streams, test) = match self {
            Self::Tcp1Up | Self::Tcp1Down => (1, TestSpec::tcp(lasts)),
            Self::Tcp4Up | Self::Tcp4Down => (4, TestSpec::tcp(lasts)),
            Self::UdpUp | Self::UdpDown => (1, TestSpec { length: SMALL, ..TestSpec::udp(lasts) }),
        };
        let direction = match self {
            Self::Tcp1Up | Self::Tcp4Up | Self::UdpUp => Direction::Forward,
            Self::Tcp1Down | Self::Tcp4Down | Self::UdpDown => Direction::Reverse,
        };
        TestSpec { streams, direction, ..test }
    }
}

/// What the user may do: [`RULES`] rules, of which only the last is about what is measured between
/// the client and `far_end`. Half of those before it are about other networks; half about the same
/// address, and differ by port and protocol.
pub(crate) fn limits(far_end: &str) -> Result<LimitChanges, BadRule> {
    let denied = (1..RULES).map(|number| match number % 4 {
        0 | 2 => format!("deny 10.{}.0.0/16", 100 + number),
        1 => format!("deny {far_end} {number}/tcp"),
        _ => format!("deny {far_end} {number}-{}/udp", number + 8),
    });
    let rules = denied.chain([format!("allow {far_end}")]);
    let acl = rules.map(|rule| rule.parse()).collect::<Result<Vec<AclRule>, _>>()?;
    let set = Bounds {
        up_bps: Some(RATE_BPS),
        down_bps: Some(RATE_BPS),
        day_bytes: Some(QUOTA_BYTES),
        month_bytes: Some(QUOTA_BYTES),
        ..Bounds::default()
    };
    Ok(LimitChanges { set, acl: Some(acl), ..LimitChanges::default() })
}

#[cfg(test)]
mod tests {
    use super::{RULES, Workload, limits};
    use corelane::policy::acl::Action;

    #[test]
    fn the_last_of_the_rules_is_the_one_that_allows() {
        let rules = limits("10.77.0.1").unwrap().acl.unwrap();
        assert_eq!(rules.len(), RULES);
        let allowing = rules.iter().position(|rule| rule.action == Action::Allow);
        assert_eq!(allowing, Some(RULES - 1));
    }

    #[test]
    fn every_test_is_allowed() {
        for workload in Workload::ALL {
            workload.test(2).validate().unwrap();
        }
    }
}
