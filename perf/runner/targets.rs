//! What Corelane has to reach, by ratio to what else was measured in the same run, and whether it
//! did.

use serde::Serialize;

use super::plan::{Contender, Links, Metric};
use super::results::{Report, number};

/// A bound on the figure of one workload.
#[derive(Clone, Copy, Debug)]
struct Target {
    links: Links,
    metric: Metric,
    bound: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// At least this share of another contender's median.
    AtLeast(f64, Contender),
    /// At most this share of another contender's median.
    AtMostShare(f64, Contender),
    /// At most this much.
    AtMost(f64),
    /// None in any round.
    Never,
}

const fn target(links: Links, metric: Metric, bound: Bound) -> Target {
    Target { links, metric, bound }
}

const TARGETS: [Target; 23] = {
    use Bound::{AtLeast, AtMost, AtMostShare, Never};
    use Contender::{Ceiling, Veth};
    use Links::{Cut, Whole};
    [
        target(Whole, Metric::Tcp1Up, AtLeast(0.70, Ceiling)),
        target(Whole, Metric::Tcp1Down, AtLeast(0.70, Ceiling)),
        target(Whole, Metric::Tcp4Up, AtLeast(0.70, Ceiling)),
        target(Whole, Metric::Tcp4Down, AtLeast(0.70, Ceiling)),
        target(Whole, Metric::Tcp1UpCpu, AtMostShare(1.8, Ceiling)),
        target(Whole, Metric::Tcp1DownCpu, AtMostShare(1.8, Ceiling)),
        target(Cut, Metric::Tcp1Up, AtLeast(0.70, Ceiling)),
        target(Cut, Metric::Tcp1Down, AtLeast(0.70, Ceiling)),
        target(Cut, Metric::Tcp4Up, AtLeast(0.70, Ceiling)),
        target(Cut, Metric::Tcp4Down, AtLeast(0.70, Ceiling)),
        target(Whole, Metric::UdpGso, AtLeast(0.65, Ceiling)),
        target(Whole, Metric::UdpGsoReordered, Never),
        target(Whole, Metric::Udp64, AtLeast(0.80, Veth)),
        target(Whole, Metric::Udp64Reordered, Never),
        target(Whole, Metric::Udp1300, AtLeast(0.70, Veth)),
        target(Whole, Metric::Udp1300Reordered, Never),
        target(Whole, Metric::RttIdle, AtMost(60.0)),
        target(Whole, Metric::RttIdle, AtMostShare(0.5, Ceiling)),
        target(Whole, Metric::RttChain, AtMost(60.0)),
        target(Whole, Metric::RttChain, AtMostShare(0.5, Ceiling)),
        target(Whole, Metric::RttLoaded, AtMost(800.0)),
        target(Whole, Metric::FirstPing, AtMost(10.0)),
        target(Whole, Metric::ServerMemory, AtMost(16.0)),
    ]
};

/// How one target went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) links: Links,
    pub(crate) metric: Metric,
    /// What was to be reached, in words.
    pub(crate) to_reach: String,
    /// What each Corelane that was measured came to.
    pub(crate) outcomes: Vec<Outcome>,
}

/// What one contender came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) contender: Contender,
    /// The ratio or the figure that the bound is on; absent if a part of it was not measured.
    pub(crate) value: Option<f64>,
    pub(crate) reached: Option<bool>,
}

/// How every target went whose link was measured.
pub(crate) fn verdicts(report: &Report<'_>) -> Vec<Verdict> {
    let is_measured = |target: &&Target| report.plan.links.contains(&target.links);
    TARGETS.iter().filter(is_measured).map(|target| target.verdict(report)).collect()
}

impl Target {
    fn verdict(&self, report: &Report<'_>) -> Verdict {
        let corelane = [Contender::CorelaneOneWorker, Contender::CorelaneTwoWorkers];
        let measured = corelane.into_iter().filter(|one| report.plan.contenders.contains(one));
        let outcomes = measured.map(|contender| {
            let value = self.value(report, contender);
            Outcome { contender, value, reached: value.map(|value| self.bound.allows(value)) }
        });
        let outcomes = outcomes.collect();
        let to_reach = self.bound.describe(self.metric.title_and_unit().1);
        Verdict { links: self.links, metric: self.metric, to_reach, outcomes }
    }

    fn value(&self, report: &Report<'_>, contender: Contender) -> Option<f64> {
        let figure = report.figure(self.links, contender, self.metric)?;
        match self.bound {
            Bound::AtLeast(_, base) | Bound::AtMostShare(_, base) => {
                let base = report.figure(self.links, base, self.metric)?.median;
                (base > 0.0).then(|| figure.median / base)
            }
            Bound::AtMost(_) => Some(figure.median),
            Bound::Never => Some(figure.max),
        }
    }
}

impl Bound {
    fn allows(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound, _) => value >= bound,
            Self::AtMostShare(bound, _) | Self::AtMost(bound) => value <= bound,
            Self::Never => value <= 0.0,
        }
    }

    fn describe(self, unit: &str) -> String {
        match self {
            Self::AtLeast(share, base) => format!("≥ {share:.2} × {}", base.title()),
            Self::AtMostShare(share, base) => format!("≤ {share:.1} × {}", base.title()),
            Self::AtMost(bound) => format!("≤ {bound:.0} {unit}"),
            Self::Never => "none".to_owned(),
        }
    }
}

impl Outcome {
    /// For people.
    pub(crate) fn describe(&self) -> String {
        match (self.value, self.reached) {
            (Some(value), Some(true)) => format!("{}, reached", number(value)),
            (Some(value), _) => format!("{}, **missed**", number(value)),
            (None, _) => "not measured".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TARGETS, verdicts};
    use crate::runner::plan::{Contender, Links, Metric};
    use crate::runner::results::testing::{machine, plan, results};

    #[test]
    fn ratios_and_figures_are_held_against_their_bounds() {
        let (machine, plan, mut results) = (machine(), plan(), results());
        let one = Contender::CorelaneOneWorker;
        for (metric, values) in [
            (Metric::RttIdle, [59.0, 60.0, 61.0]),
            (Metric::RttLoaded, [800.5, 801.0, 100.0]),
            (Metric::Udp64Reordered, [0.0, 0.0, 1.0]),
            (Metric::Udp1300Reordered, [0.0, 0.0, 0.0]),
        ] {
            for value in values {
                results.add(Links::Whole, one, &[(metric, value)]);
            }
        }
        let report = results.report(&machine, &plan);
        let verdicts = verdicts(&report);
        let outcome = |metric, to_reach: &str| {
            let found =
                verdicts.iter().find(|one| one.metric == metric && one.to_reach == to_reach);
            let [outcome] = &found.unwrap().outcomes[..] else { panic!("{verdicts:?}") };
            assert_eq!(outcome.contender, one);
            outcome.describe()
        };
        assert_eq!(outcome(Metric::Tcp1Up, "≥ 0.70 × ceiling"), "0.55, **missed**");
        assert_eq!(outcome(Metric::Tcp1UpCpu, "≤ 1.8 × ceiling"), "1.60, reached");
        assert_eq!(outcome(Metric::RttIdle, "≤ 60 µs"), "60.0, reached");
        assert_eq!(outcome(Metric::RttIdle, "≤ 0.5 × ceiling"), "not measured");
        assert_eq!(outcome(Metric::RttLoaded, "≤ 800 µs"), "800, **missed**");
        assert_eq!(outcome(Metric::Udp64Reordered, "none"), "1.00, **missed**");
        assert_eq!(outcome(Metric::Udp1300Reordered, "none"), "0, reached");
    }

    #[test]
    fn links_that_were_not_measured_have_no_targets() {
        let (machine, mut plan, results) = (machine(), plan(), results());
        let whole = results.report(&machine, &plan).targets.len();
        assert!(whole > 10 && whole < TARGETS.len());
        plan.links = vec![Links::Whole, Links::Cut];
        assert_eq!(results.report(&machine, &plan).targets.len(), TARGETS.len());
    }
}
