//! What came out: kept while it comes in, then written as JSON and as a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use corelane::bench::statistics::median;
use serde::Serialize;

use super::machine::Machine;
use super::plan::{Contender, Links, Metric, Workload};
use super::workload::Sample;

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
    pub(crate) seconds: u32,
    pub(crate) links: Vec<Links>,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) workloads: Vec<Workload>,
}

/// The whole report, as `results.json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    schema: u32,
    machine: &'a Machine,
    plan: &'a Plan,
    figures: Vec<Figure>,
    failures: &'a [FailureNote],
}

/// One figure of one contender.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Figure {
    links: Links,
    contender: Contender,
    metric: Metric,
    unit: &'static str,
    /// One per round.
    samples: Vec<f64>,
    median: f64,
    min: f64,
    max: f64,
    /// The median over that of the plain link, where both have the figure.
    ratio_to_veth: Option<f64>,
    /// The median over that of the ceiling program.
    ratio_to_ceiling: Option<f64>,
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
                (other != contender && divisor > 0.0).then(|| middle / divisor)
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
        let figures = figures.collect();
        Report { schema: SCHEMA, machine, plan, figures, failures: &self.failures }
    }
}

impl Report<'_> {
    /// As JSON, for programs.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// As markdown, for people.
    pub(crate) fn to_markdown(&self) -> String {
        let (machine, plan) = (self.machine, self.plan);
        let mut text = format!(
            "# Measurements\n\n{}, {} CPUs, Linux {}, {}, load before {:.2}. \
             {} rounds of {} s per throughput test.\n\n\
             Each cell: median (min–max) · ratio to plain veth · ratio to the ceiling program.\n",
            machine.cpu,
            machine.cores,
            machine.kernel,
            machine.taken_at,
            machine.load_before,
            plan.rounds,
            plan.seconds
        );
        for &links in &plan.links {
            text.push_str(&self.table(links));
        }
        if !self.failures.is_empty() {
            text.push_str("\n## Not measured\n\n");
        }
        for note in self.failures {
            let workload = note.workload.map_or_else(|| "start".to_owned(), |w| w.to_string());
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "- round {}, {:?} link, {}, {workload}: {}",
                note.round,
                note.links,
                note.contender.title(),
                note.reason.replace('\n', " ")
            );
        }
        text
    }

    fn table(&self, links: Links) -> String {
        let contenders = &self.plan.contenders;
        let mut text = format!("\n## {}\n\n| | unit |", links.title());
        for contender in contenders {
            let _ = write!(text, " {} |", contender.title());
        }
        let _ = writeln!(text, "\n| --- | --- |{}", " --- |".repeat(contenders.len()));
        let mut metrics: Vec<_> =
            self.figures.iter().filter(|f| f.links == links).map(|f| f.metric).collect();
        metrics.dedup();
        for metric in metrics {
            let (title, unit) = metric.title_and_unit();
            let _ = write!(text, "| {title} | {unit} |");
            for &contender in contenders {
                let key = (links, metric, contender);
                let figure = self.figures.iter().find(|f| (f.links, f.metric, f.contender) == key);
                let _ = write!(text, " {} |", figure.map_or_else(|| "–".to_owned(), cell));
            }
            text.push('\n');
        }
        text
    }
}

fn cell(figure: &Figure) -> String {
    let (middle, min, max) = (number(figure.median), number(figure.min), number(figure.max));
    let mut text = format!("{middle} ({min}–{max})");
    for ratio in [figure.ratio_to_veth, figure.ratio_to_ceiling] {
        match ratio {
            Some(ratio) => {
                let _ = write!(text, " · {ratio:.2}");
            }
            None => text.push_str(" · –"),
        }
    }
    text
}

/// Three significant digits, or whole.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        below_10 if below_10 < 9.995 => 2,
        below_100 if below_100 < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::{FailureNote, Plan, Results, number};
    use crate::runner::machine::Machine;
    use crate::runner::plan::{Contender, Links, Metric, Workload};

    fn machine() -> Machine {
        Machine {
            cpu: "CPU".to_owned(),
            cores: 2,
            kernel: "6.1".to_owned(),
            taken_at: "2020-01-01T00:00:00Z".to_owned(),
            load_before: 0.25,
        }
    }

    fn plan() -> Plan {
        Plan {
            rounds: 3,
            seconds: 1,
            links: vec![Links::Whole],
            contenders: vec![Contender::Veth, Contender::Ceiling, Contender::CorelaneOneWorker],
            workloads: vec![Workload::Tcp1Up],
        }
    }

    fn results() -> Results {
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
        results.add(Links::Whole, Contender::Ceiling, &[(Metric::Tcp1UpCpu, 0.5)]);
        results
    }

    #[test]
    fn the_table_has_medians_spans_and_ratios() {
        let text = results().report(&machine(), &plan()).to_markdown();
        let row = "| TCP 1 stream up | Gbit/s | 22.0 (20.0–24.0) · – · 2.00 | \
            11.0 (10.0–12.0) · 0.50 · – | 6.00 (5.00–7.00) · 0.27 · 0.55 |";
        assert!(text.contains(row), "{text}");
        let row =
            "| both tunnel processes, TCP 1 up | CPU s/GB | – | 0.50 (0.50–0.50) · – · – | – |";
        assert!(text.contains(row), "{text}");
        assert!(!text.contains("Not measured"), "{text}");
    }

    #[test]
    fn the_json_has_a_schema_number_and_every_sample() {
        let text = results().report(&machine(), &plan()).to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["schema"], 1);
        let figures = json["figures"].as_array().unwrap();
        let figure = figures.iter().find(|f| f["contender"] == "corelane1").unwrap();
        assert_eq!(figure["metric"], "tcp1_up");
        assert_eq!(figure["samples"], serde_json::json!([6.0, 5.0, 7.0]));
        assert_eq!(figure["ratio_to_ceiling"], 6.0 / 11.0);
    }

    #[test]
    fn what_failed_is_said() {
        let mut results = results();
        results.add_failure(FailureNote {
            round: 2,
            links: Links::Whole,
            contender: Contender::CorelaneOneWorker,
            workload: None,
            reason: "the server ended\nwith 1".to_owned(),
        });
        let text = results.report(&machine(), &plan()).to_markdown();
        let line = "- round 2, Whole link, Corelane, 1 worker, start: the server ended with 1\n";
        assert!(text.contains(line), "{text}");
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
