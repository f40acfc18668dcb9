//! What came out: kept while it comes in, then summed up.

use std::collections::BTreeMap;

use corelane::bench::statistics::median;
use serde::Serialize;

use super::machine::Machine;
use super::plan::{Contender, Links, Metric, Workload};
use super::programs::Absent;
use super::targets::{self, Verdict};
use super::workload::{Effort, Sample};

/// The schema number of `results.json`. Keys are added, never renamed or removed, within one
/// number.
const SCHEMA: u32 = 1;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<(Links, Metric, Contender), Vec<f64>>,
    failures: Vec<FailureNote>,
}

/// Something that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailureNote {
    pub(crate) round: u32,
    pub(crate) links: Links,
    pub(crate) contender: Contender,
    /// Absent if the contender did not even start.
    pub(crate) workload: Option<Workload>,
    pub(crate) reason: String,
}

/// What was to be measured, for the record.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    #[serde(flatten)]
    pub(crate) effort: Effort,
    pub(crate) links: Vec<Links>,
    /// Those that are installed.
    pub(crate) contenders: Vec<Contender>,
    pub(crate) workloads: Vec<Workload>,
    /// Those that would have been measured, but are not installed.
    pub(crate) absent: Vec<Absent>,
}

/// The whole report, as `results.json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    schema: u32,
    pub(crate) machine: &'a Machine,
    pub(crate) plan: &'a Plan,
    pub(crate) figures: Vec<Figure>,
    pub(crate) targets: Vec<Verdict>,
    pub(crate) failures: &'a [FailureNote],
}

/// One figure of one contender.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    links: Links,
    contender: Contender,
    metric: Metric,
    unit: &'static str,
    /// One per round.
    samples: Vec<f64>,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The median over that of the plain link, where both have the figure.
    pub(crate) ratio_to_veth: Option<f64>,
    /// The median over that of the ceiling program.
    pub(crate) ratio_to_ceiling: Option<f64>,
}

impl Results {
    pub(crate) fn add(&mut self, links: Links, contender: Contender, samples: &[Sample]) {
        for &(metric, value) in samples {
            self.samples.entry((links, metric, contender)).or_default().push(value);
        }
    }

    pub(crate) fn add_failure(&mut self, failure: FailureNote) {
        self.failures.push(failure);
    }

    pub(crate) fn failures(&self) -> &[FailureNote] {
        &self.failures
    }

    /// The report of all this.
    pub(crate) fn report<'a>(&'a self, machine: &'a Machine, plan: &'a Plan) -> Report<'a> {
        let figures = self.samples.iter().filter_map(|(&(links, metric, contender), samples)| {
            let middle = median(samples)?;
            let ratio_to = |other: Contender| {
                let divisor = median(self.samples.get(&(links, metric, other))?)?;
                let is_useful = other != contender && divisor > 0.0 && metric.has_ratio();
                is_useful.then(|| middle / divisor)
            };
            Some(Figure {
                links,
                contender,
                metric,
                unit: metric.title_and_unit().1,
                samples: samples.clone(),
                median: middle,
                min: samples.iter().copied().fold(f64::INFINITY, f64::min),
                max: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                ratio_to_veth: ratio_to(Contender::Veth),
                ratio_to_ceiling: ratio_to(Contender::Ceiling),
            })
        });
        let (figures, targets) = (figures.collect(), Vec::new());
        let failures = &self.failures;
        let mut report = Report { schema: SCHEMA, machine, plan, figures, targets, failures };
        report.targets = targets::verdicts(&report);
        report
    }
}

impl Report<'_> {
    /// The figure of `contender`, if it has one.
    pub(crate) fn figure(
        &self,
        links: Links,
        contender: Contender,
        metric: Metric,
    ) -> Option<&Figure> {
        let key = (links, contender, metric);
        self.figures.iter().find(|one| (one.links, one.contender, one.metric) == key)
    }

    /// As JSON, for programs.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// Three significant digits, or whole.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        below_10 if below_10 < 9.995 => 2,
        below_100 if below_100 < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

/// Results to try reports on.
#[cfg(test)]
pub(crate) mod testing {
    use super::{Plan, Results};
    use crate::runner::machine::Machine;
    use crate::runner::plan::{Contender, Links, Metric, Workload};
    use crate::runner::workload::Effort;

    pub(crate) fn machine() -> Machine {
        Machine {
            cpu: "CPU <2>".to_owned(),
            cores: 2,
            kernel: "6.1".to_owned(),
            taken_at: "2020-01-01T00:00:00Z".to_owned(),
            load_before: 0.25,
            versions: [("iperf3", "3.12".to_owned())].into(),
        }
    }

    pub(crate) fn plan() -> Plan {
        Plan {
            rounds: 3,
            effort: Effort { seconds: 1, tries: 8, try_ms: 500 },
            links: vec![Links::Whole],
            contenders: vec![Contender::Veth, Contender::Ceiling, Contender::CorelaneOneWorker],
            workloads: vec![Workload::Tcp1Up],
            absent: Vec::new(),
        }
    }

    pub(crate) fn results() -> Results {
        let mut results = Results::default();
        for (contender, values) in [
            (Contender::CorelaneOneWorker, [6.0, 5.0, 7.0]),
            (Contender::Veth, [20.0, 24.0, 22.0]),
            (Contender::Ceiling, [10.0, 12.0, 11.0]),
        ] {
            for value in values {
                results.add(Links::Whole, contender, &[(Metric::Tcp1Up, value)]);
            }
        }
        for (contender, value) in [(Contender::Ceiling, 0.5), (Contender::CorelaneOneWorker, 0.8)] {
            results.add(Links::Whole, contender, &[(Metric::Tcp1UpCpu, value)]);
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::number;
    use super::testing::{machine, plan, results};
    use crate::runner::plan::{Contender, Links, Metric};

    #[test]
    fn the_json_has_a_schema_number_every_sample_and_ratios() {
        let (machine, plan) = (machine(), plan());
        let text = results().report(&machine, &plan).to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["schema"], &json["plan"]["seconds"]), (&1.into(), &1.into()));
        assert_eq!(json["machine"]["versions"]["iperf3"], "3.12");
        let figures = json["figures"].as_array().unwrap();
        let figure = figures.iter().find(|f| f["contender"] == "corelane1").unwrap();
        assert_eq!(figure["metric"], "tcp1_up");
        assert_eq!(figure["samples"], serde_json::json!([6.0, 5.0, 7.0]));
        assert_eq!(figure["ratio_to_ceiling"], 6.0 / 11.0);
        assert_eq!(figure["ratio_to_veth"], 6.0 / 22.0);
    }

    #[test]
    fn a_figure_has_median_and_span_and_accidents_have_no_ratio() {
        let (machine, plan, mut results) = (machine(), plan(), results());
        for contender in [Contender::Veth, Contender::CorelaneOneWorker] {
            results.add(Links::Whole, contender, &[(Metric::Udp64Reordered, 4.0)]);
        }
        let report = results.report(&machine, &plan);
        let one = Contender::CorelaneOneWorker;
        let figure = report.figure(Links::Whole, one, Metric::Tcp1Up).unwrap();
        assert_eq!((figure.median, figure.min, figure.max), (6.0, 5.0, 7.0));
        let figure = report.figure(Links::Whole, one, Metric::Udp64Reordered).unwrap();
        assert_eq!(figure.ratio_to_veth, None);
        assert_eq!(report.figure(Links::Cut, one, Metric::Tcp1Up), None);
    }

    #[test]
    fn three_significant_digits() {
        for (value, text) in
            [(0.0, "0"), (0.456, "0.46"), (9.996, "10.0"), (99.96, "100"), (12_345.6, "12346")]
        {
            assert_eq!(number(value), text);
        }
    }
}
