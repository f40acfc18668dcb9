//! What came out: pairs of rates, and what policy leaves of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use corelane::bench::statistics::median;
use serde::Serialize;

use super::Failure;
use super::machine::Machine;
use super::plan::{RULES, Setup, Workload};

/// Keys are added, never renamed or removed, within one number.
const SCHEMA: u32 = 1;
/// What policy must leave of a rate.
const KEPT_MIN_PERCENT: f64 = 95.0;

/// What one test came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Payload bits per second that arrived.
    pub(crate) bits_per_second: f64,
    /// CPU time of both tunnel processes, per 10^9 bytes of payload that arrived.
    pub(crate) cpu_s_per_gb: f64,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<(Workload, Setup), Vec<Sample>>,
}

impl Results {
    pub(crate) fn add(&mut self, workload: Workload, setup: Setup, sample: Sample) {
        self.samples.entry((workload, setup)).or_default().push(sample);
    }

    fn of(&self, workload: Workload, setup: Setup) -> &[Sample] {
        self.samples.get(&(workload, setup)).map_or(&[], Vec::as_slice)
    }
}

/// The whole report, as `policy.json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    machine: Machine,
    rounds: u32,
    seconds: u32,
    rules: usize,
    kept_min_percent: f64,
    figures: Vec<Figure>,
}

/// What a workload came to.
#[derive(Debug, Serialize)]
struct Figure {
    workload: Workload,
    #[serde(skip)]
    title: &'static str,
    unit: &'static str,
    without: f64,
    with: f64,
    /// Median, least and most over the rounds of what the tunnel with policy carried of what the
    /// other one did just before or after.
    kept_percent: [f64; 3],
    cpu_s_per_gb_without: f64,
    cpu_s_per_gb_with: f64,
    samples_without: Vec<Sample>,
    samples_with: Vec<Sample>,
}

impl Figure {
    /// `None` if nothing was measured.
    fn new(workload: Workload, results: &Results) -> Option<Self> {
        let (unit, bits) = workload.unit();
        let [without, with] =
            [Setup::Without, Setup::With].map(|setup| results.of(workload, setup));
        let middle = |samples: &[Sample], value: fn(&Sample) -> f64| {
            median(&samples.iter().map(value).collect::<Vec<_>>())
        };
        let rate = |sample: &Sample| sample.bits_per_second;
        let pairs = without.iter().zip(with);
        let kept: Vec<_> =
            pairs.map(|(without, with)| 100.0 * rate(with) / rate(without)).collect();
        let least = kept.iter().copied().fold(f64::INFINITY, f64::min);
        let most = kept.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self {
            workload,
            title: workload.title(),
            unit,
            without: middle(without, rate)? / bits,
            with: middle(with, rate)? / bits,
            kept_percent: [median(&kept)?, least, most],
            cpu_s_per_gb_without: middle(without, |sample| sample.cpu_s_per_gb)?,
            cpu_s_per_gb_with: middle(with, |sample| sample.cpu_s_per_gb)?,
            samples_without: without.to_vec(),
            samples_with: with.to_vec(),
        })
    }

    fn is_enough(&self) -> bool {
        self.kept_percent[0] >= KEPT_MIN_PERCENT
    }
}

impl Report {
    pub(crate) fn new(machine: Machine, rounds: u32, seconds: u32, results: &Results) -> Self {
        let figures = Workload::ALL.into_iter().filter_map(|it| Figure::new(it, results));
        Self {
            schema: SCHEMA,
            machine,
            rounds,
            seconds,
            rules: RULES,
            kept_min_percent: KEPT_MIN_PERCENT,
            figures: figures.collect(),
        }
    }

    /// Prints the report and leaves it in `directory`. Returns whether enough is kept everywhere.
    pub(crate) fn publish(&self, directory: &Path) -> Result<bool, Failure> {
        let text = self.markdown();
        fs::create_dir_all(directory)?;
        fs::write(directory.join("policy.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(directory.join("policy.md"), &text)?;
        println!("{text}");
        Ok(self.figures.iter().all(Figure::is_enough))
    }

    fn markdown(&self) -> String {
        let Machine { cpu, cores, kernel, taken_at, load_before, .. } = &self.machine;
        let mut text = format!(
            "# What policy costs\n\n{cpu}, {cores} CPUs, Linux {kernel}, {taken_at}, load before \
             {load_before:.2}. Rounds: {}. {} s per test. Medians (min–max). With policy: login, \
             {} rules of which the last matches, rate limits and quotas far above reach, \
             isolation, usage.\n\n\
             | workload | without | with policy | kept, % | to reach | CPU s/GB, without | with |\n\
             |{}\n",
            self.rounds,
            self.seconds,
            self.rules,
            " --- |".repeat(7),
        );
        for figure in &self.figures {
            let Figure { title, unit, without, with, .. } = figure;
            let [kept, least, most] = figure.kept_percent;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {title} | {without:.2} {unit} | {with:.2} {unit} | {kept:.1} \
                 ({least:.1}–{most:.1}) | at least {KEPT_MIN_PERCENT:.0} | {:.3} | {:.3} |",
                figure.cpu_s_per_gb_without, figure.cpu_s_per_gb_with,
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Results, Sample};
    use crate::machine::Machine;
    use crate::plan::{Setup, Workload};
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn report(with: [f64; 3]) -> Report {
        let mut results = Results::default();
        for (setup, rates) in [(Setup::Without, [2e9, 1e9, 4e9]), (Setup::With, with)] {
            for bits_per_second in rates {
                let sample = Sample { bits_per_second, cpu_s_per_gb: 1.5 };
                results.add(Workload::Tcp1Up, setup, sample);
            }
        }
        Report::new(Machine::describe(Duration::ZERO, BTreeMap::new()), 3, 2, &results)
    }

    #[test]
    fn what_is_kept_is_told_by_pairs() {
        // By medians alone, 1.5 of 2 would be kept.
        let text = report([1.96e9, 0.96e9, 1.5e9]).markdown();
        let row = "| TCP 1 stream up | 2.00 Gbit/s | 1.50 Gbit/s | 96.0 (37.5–98.0) | at least 95 \
                   | 1.500 | 1.500 |\n";
        assert!(text.ends_with(row), "{text}");
    }

    #[test]
    fn too_little_is_told_by_the_outcome() {
        let directory = tempfile::tempdir().unwrap();
        assert!(report([2e9, 1e9, 1e9]).publish(directory.path()).unwrap());
        assert!(!report([1.8e9, 0.9e9, 4e9]).publish(directory.path()).unwrap());
        let text = std::fs::read(directory.path().join("policy.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&json["schema"], &json["rules"]), (&1.into(), &50.into()));
        assert_eq!(json["figures"][0]["kept_percent"][0], 90.0);
    }
}
