//! What came out: kept while it comes in, then summed up.

use std::collections::BTreeMap;
use std::fmt::Write;

use corelane::bench::statistics::median;
use serde::Serialize;

use super::machine::Machine;
use super::plan::{Carrier, Plan, Variant, Workload};

/// Keys are added, never renamed or removed, within one number.
const SCHEMA: u32 = 1;

/// What one test came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) gbit_s: f64,
    pub(crate) cpu_s_per_gb: Option<f64>,
    pub(crate) busiest_server_worker: Option<f64>,
    pub(crate) busiest_client_worker: Option<f64>,
    pub(crate) cpus_busy: f64,
    pub(crate) late: f64,
    pub(crate) lost_percent: Option<f64>,
}

/// Everything that was measured, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) samples: BTreeMap<(Workload, Variant), Vec<Sample>>,
    pub(crate) failures: Vec<String>,
}

/// The whole report, as `cores.json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    schema: u32,
    machine: &'a Machine,
    plan: &'a Plan,
    figures: Vec<Figure>,
    failures: &'a [String],
}

/// What a variant came to with a workload.
#[derive(Debug, Serialize)]
struct Figure {
    workload: Workload,
    #[serde(flatten)]
    variant: Variant,
    streams: u16,
    gbit_s: Span,
    ratio_to_one_worker: Option<f64>,
    ratio_to_veth: Option<f64>,
    ratio_to_ceiling: Option<f64>,
    cpu_s_per_gb: Option<Span>,
    busiest_server_worker: Option<Span>,
    busiest_client_worker: Option<Span>,
    cpus_busy: Span,
    late: Span,
    lost_percent: Option<Span>,
}

/// One figure over all rounds.
#[derive(Debug, Default, Serialize)]
struct Span {
    median: f64,
    min: f64,
    max: f64,
    samples: Vec<f64>,
}

impl Span {
    fn of(samples: &[Sample], value: impl Fn(&Sample) -> Option<f64>) -> Option<Self> {
        let samples: Vec<_> = samples.iter().filter_map(value).collect();
        Some(Self {
            median: median(&samples)?,
            min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            max: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            samples,
        })
    }
}

impl Results {
    /// The report of all this.
    pub(crate) fn report<'a>(&'a self, machine: &'a Machine, plan: &'a Plan) -> Report<'a> {
        let figures =
            self.samples.keys().map(|&(workload, variant)| self.figure(workload, variant));
        Report {
            schema: SCHEMA,
            machine,
            plan,
            figures: figures.collect(),
            failures: &self.failures,
        }
    }

    fn figure(&self, workload: Workload, variant: Variant) -> Figure {
        let samples = self.samples.get(&(workload, variant)).map_or(&[][..], Vec::as_slice);
        let span = |value: fn(&Sample) -> Option<f64>| Span::of(samples, value);
        let gbit_s = span(|one| Some(one.gbit_s)).unwrap_or_default();
        let ratio_to = |other: Variant| {
            let others = self.samples.get(&(workload, other)).filter(|_| other != variant)?;
            let divisor = Span::of(others, |one| Some(one.gbit_s))?.median;
            (divisor > 0.0).then(|| gbit_s.median / divisor)
        };
        Figure {
            workload,
            variant,
            streams: variant.streams(),
            ratio_to_one_worker: ratio_to(Variant { workers: 1, ..variant }),
            ratio_to_veth: ratio_to(Variant { carrier: Carrier::Veth, ..variant }),
            ratio_to_ceiling: ratio_to(Variant { carrier: Carrier::Ceiling, ..variant }),
            gbit_s,
            cpu_s_per_gb: span(|one| one.cpu_s_per_gb),
            busiest_server_worker: span(|one| one.busiest_server_worker),
            busiest_client_worker: span(|one| one.busiest_client_worker),
            cpus_busy: span(|one| Some(one.cpus_busy)).unwrap_or_default(),
            late: span(|one| Some(one.late)).unwrap_or_default(),
            lost_percent: span(|one| one.lost_percent),
        }
    }
}

impl Report<'_> {
    /// The report for people.
    pub(crate) fn markdown(&self) -> String {
        let Machine { cpu, cores, kernel, taken_at, load_before, .. } = self.machine;
        let Plan { rounds, seconds, reference_seconds, .. } = self.plan;
        let mut text = format!(
            "# Throughput by workers\n\n{cpu}, {cores} CPUs, Linux {kernel}, {taken_at}, load \
             before {load_before:.2}. Rounds: {rounds}. {seconds} s per test, \
             {reference_seconds:.1} s for what there is to compare with. Medians (min–max).\n"
        );
        // Writing to a string cannot fail.
        for workload in Workload::ALL {
            let _ = write!(
                text,
                "\n## {}\n\n| workers | streams | carried by | Gbit/s | × 1 worker | ÷ veth | \
                 ÷ ceiling | CPU s/GB | busiest worker, server | client | CPUs busy | late | \
                 lost % |\n|{}\n",
                workload.title(),
                " --- |".repeat(13),
            );
            for figure in self.figures.iter().filter(|figure| figure.workload == workload) {
                text.push_str(&figure.row());
            }
        }
        if !self.failures.is_empty() {
            let _ = write!(text, "\n## Not measured\n\n- {}\n", self.failures.join("\n- "));
        }
        text
    }
}

impl Figure {
    fn row(&self) -> String {
        let Span { median, min, max, .. } = &self.gbit_s;
        let middle = |span: &Option<Span>| span.as_ref().map(|span| span.median);
        let mut text = format!(
            "| {} | {} | {} | {median:.2} ({min:.2}–{max:.2}) |",
            self.variant.workers,
            self.streams,
            self.variant.carrier.title(),
        );
        for (value, digits) in [
            (self.ratio_to_one_worker, 2),
            (self.ratio_to_veth, 2),
            (self.ratio_to_ceiling, 2),
            (middle(&self.cpu_s_per_gb), 2),
            (middle(&self.busiest_server_worker), 2),
            (middle(&self.busiest_client_worker), 2),
            (Some(self.cpus_busy.median), 1),
            (Some(self.late.median), 0),
            (middle(&self.lost_percent), 1),
        ] {
            let _ = match value {
                Some(value) => write!(text, " {value:.digits$} |"),
                None => write!(text, " – |"),
            };
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::{Results, Sample};
    use crate::machine::Machine;
    use crate::plan::{Carrier, Pin, Plan, Variant, Workload};
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn rows_have_medians_spans_and_ratios_and_failures_are_told() {
        let mut results = Results::default();
        for (workers, carrier, rates) in [
            (1, Carrier::Veth, [40.0, 44.0, 42.0]),
            (1, Carrier::Pinned, [5.0, 6.0, 4.0]),
            (2, Carrier::Veth, [50.0, 50.0, 50.0]),
            (2, Carrier::Ceiling, [20.0, 20.0, 20.0]),
            (2, Carrier::Pinned, [8.0, 10.0, 12.0]),
        ] {
            let busy = (carrier == Carrier::Pinned).then_some(0.5);
            let sample =
                |gbit_s| Sample { gbit_s, busiest_server_worker: busy, ..Sample::default() };
            let key = (Workload::TcpUp, Variant { workers, carrier });
            results.samples.insert(key, rates.map(sample).to_vec());
        }
        results.failures.push("the server ended".to_owned());
        let machine = Machine::describe(Duration::ZERO, BTreeMap::new());
        let plan = Plan::new(3, 2.0, &[1, 2], &[Pin::Yes]);
        let report = results.report(&machine, &plan);
        let text = report.markdown();
        for line in [
            "| 1 | 4 | plain veth | 42.00 (40.00–44.00) | – | – | – | – | – | – | 0.0 | 0 | – |\n",
            "| 2 | 8 | Corelane, pinned | 10.00 (8.00–12.00) | 2.00 | 0.20 | 0.50 | – | 0.50 | – |",
            "\n- the server ended\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["schema"], &json["plan"]["rounds"]), (&1.into(), &3.into()));
        let figure = &json["figures"][4];
        assert_eq!((&figure["carrier"], &figure["workers"]), (&"pinned".into(), &2.into()));
        assert_eq!(figure["gbit_s"]["samples"], serde_json::json!([8.0, 10.0, 12.0]));
    }
}
