//! What came out: medians, ratios to the fastest peer, and what was to be reached.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use corelane::bench::statistics::median;
use serde::Serialize;

use super::Failure;
use super::contenders::{Contender, Protocol};
use super::machine::Machine;

/// Keys are added, never renamed or removed, within one number.
const SCHEMA: u32 = 1;
/// With fewer CPUs, load and proxy share them, and the proxy's share of a direct connection tells
/// how many there are.
const CPUS_FOR_SHARE: usize = 8;

/// What is told of each contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    Down,
    DownPerCpu,
    Up,
    UpPerCpu,
    DownFromLines,
    UpFromLines,
    Connections,
    ConnectionCpu,
    RoundTripP50,
    RoundTripP99,
    Idle,
    Requests,
    RequestCpu,
}

impl Metric {
    const ALL: [Self; 13] = [
        Self::Down,
        Self::DownPerCpu,
        Self::Up,
        Self::UpPerCpu,
        Self::DownFromLines,
        Self::UpFromLines,
        Self::Connections,
        Self::ConnectionCpu,
        Self::RoundTripP50,
        Self::RoundTripP99,
        Self::Idle,
        Self::Requests,
        Self::RequestCpu,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Down => "bulk down, Gbit/s",
            Self::DownPerCpu => "bulk down, GB per CPU second",
            Self::Up => "bulk up, Gbit/s",
            Self::UpPerCpu => "bulk up, GB per CPU second",
            Self::DownFromLines => "down from lines of 1 Gbit/s, Gbit/s",
            Self::UpFromLines => "up from lines of 1 Gbit/s, Gbit/s",
            Self::Connections => "new connections per second",
            Self::ConnectionCpu => "CPU µs per connection",
            Self::RoundTripP50 => "round trip at 1,000/s, p50, µs",
            Self::RoundTripP99 => "round trip at 1,000/s, p99, µs",
            Self::Idle => "KiB per idle connection",
            Self::Requests => "requests per second",
            Self::RequestCpu => "CPU µs per request",
        }
    }

    /// Whether more is better.
    const fn is_rate(self) -> bool {
        matches!(
            self,
            Self::Down
                | Self::DownPerCpu
                | Self::Up
                | Self::UpPerCpu
                | Self::DownFromLines
                | Self::UpFromLines
                | Self::Connections
                | Self::Requests
        )
    }
}

/// Everything that was measured, one sample a round.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<(Protocol, Metric, Contender), Vec<f64>>,
    /// What could not be measured, and why.
    failures: Vec<String>,
}

/// One row of a table.
#[derive(Debug, Serialize)]
struct Figure {
    protocol: Protocol,
    metric: Metric,
    contender: Contender,
    median: f64,
    min: f64,
    max: f64,
    /// How many times as good as the best peer's median it is.
    times_best_peer: Option<f64>,
    samples: Vec<f64>,
}

/// Something to reach.
#[derive(Debug, Serialize)]
struct Target {
    what: String,
    /// `None` where it was not measured.
    value: Option<f64>,
    to_reach: String,
    /// `None` where this machine cannot tell.
    is_met: Option<bool>,
}

/// The whole report, as `proxy.json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    machine: Machine,
    rounds: u32,
    seconds: f64,
    streams: usize,
    idle_connections: usize,
    figures: Vec<Figure>,
    targets: Vec<Target>,
    failures: Vec<String>,
}

/// How it was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) streams: usize,
    pub(crate) idle_connections: usize,
}

impl Results {
    pub(crate) fn add(
        &mut self,
        protocol: Protocol,
        metric: Metric,
        contender: Contender,
        value: f64,
    ) {
        self.samples.entry((protocol, metric, contender)).or_default().push(value);
    }

    /// Notes a failure, each once.
    pub(crate) fn fail(&mut self, failure: String) {
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }

    fn median(&self, protocol: Protocol, metric: Metric, contender: Contender) -> Option<f64> {
        median(self.samples.get(&(protocol, metric, contender))?)
    }

    fn best_peer(&self, protocol: Protocol, metric: Metric) -> Option<f64> {
        let peers = self.samples.keys().filter(|(its_protocol, its_metric, contender)| {
            (*its_protocol, *its_metric) == (protocol, metric) && contender.is_peer()
        });
        let medians = peers.filter_map(|(.., contender)| self.median(protocol, metric, *contender));
        medians.reduce(if metric.is_rate() { f64::max } else { f64::min })
    }

    /// How many times as good as the best peer.
    fn times_best_peer(
        &self,
        protocol: Protocol,
        metric: Metric,
        contender: Contender,
    ) -> Option<f64> {
        let (own, best) =
            (self.median(protocol, metric, contender)?, self.best_peer(protocol, metric)?);
        Some(if metric.is_rate() { own / best } else { best / own })
    }

    fn figures(&self) -> Vec<Figure> {
        let of = |(key, samples): (&(Protocol, Metric, Contender), &Vec<f64>)| {
            let (protocol, metric, contender) = *key;
            let is_proxy = contender != Contender::Direct;
            Some(Figure {
                protocol,
                metric,
                contender,
                median: median(samples)?,
                min: samples.iter().copied().fold(f64::INFINITY, f64::min),
                max: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                times_best_peer: is_proxy
                    .then(|| self.times_best_peer(protocol, metric, contender))
                    .flatten(),
                samples: samples.clone(),
            })
        };
        self.samples.iter().filter_map(of).collect()
    }

    fn targets(&self, protocol: Protocol, cpus: usize) -> Vec<Target> {
        let own = |metric| self.median(protocol, metric, Contender::Corelane);
        let direct = |metric| self.median(protocol, metric, Contender::Direct);
        let times = |metric| self.times_best_peer(protocol, metric, Contender::Corelane);
        let share = |metric| Some(own(metric)? / direct(metric)?);
        let at_least = |what: &str, value: Option<f64>, least: f64| Target {
            what: format!("{}: {what}", protocol.title()),
            value,
            to_reach: format!("at least {least}"),
            is_met: Some(value.is_some_and(|value| value >= least)),
        };
        let at_most = |what: &str, value: Option<f64>, most: f64| Target {
            to_reach: format!("at most {most}"),
            is_met: Some(value.is_some_and(|value| value <= most)),
            ..at_least(what, value, most)
        };
        let share_of_direct = |what: &str, metric| Target {
            to_reach: format!("at least 0.9, told from {CPUS_FOR_SHARE} CPUs on"),
            is_met: (cpus >= CPUS_FOR_SHARE)
                .then(|| share(metric).is_some_and(|share| share >= 0.9)),
            ..at_least(what, share(metric), 0.9)
        };
        let added = |metric| Some(own(metric)? - direct(metric)?);
        if protocol == Protocol::Forward {
            let squid = self.median(protocol, Metric::Requests, Contender::Squid);
            let times_squid = own(Metric::Requests).zip(squid).map(|(own, squid)| own / squid);
            return vec![at_least("requests per second, × squid", times_squid, 2.0)];
        }
        if protocol == Protocol::Tls {
            let plain = |metric| self.median(Protocol::Socks5, metric, Contender::Corelane);
            let of_plain = |metric| Some(own(metric)? / plain(metric)?);
            return vec![
                at_least("down per CPU second, of plain", of_plain(Metric::DownPerCpu), 0.7),
                at_least("up per CPU second, of plain", of_plain(Metric::UpPerCpu), 0.7),
            ];
        }
        vec![
            at_least("down per CPU second, × best peer", times(Metric::DownPerCpu), 1.5),
            at_least("up per CPU second, × best peer", times(Metric::UpPerCpu), 1.5),
            share_of_direct("down, share of direct", Metric::Down),
            share_of_direct("up, share of direct", Metric::Up),
            at_least("down from lines, share of direct", share(Metric::DownFromLines), 0.9),
            at_least("up from lines, share of direct", share(Metric::UpFromLines), 0.9),
            at_least("new connections, × best peer", times(Metric::Connections), 2.0),
            at_most("p99 added at 1,000 requests/s, µs", added(Metric::RoundTripP99), 200.0),
            at_most("KiB per idle connection", own(Metric::Idle), 8.0),
        ]
    }
}

impl Report {
    pub(crate) fn new(machine: Machine, effort: Effort, results: Results) -> Self {
        let cpus = machine.cores;
        let targets = Protocol::ALL.into_iter().flat_map(|it| results.targets(it, cpus)).collect();
        Self {
            schema: SCHEMA,
            machine,
            rounds: effort.rounds,
            seconds: effort.seconds,
            streams: effort.streams,
            idle_connections: effort.idle_connections,
            figures: results.figures(),
            targets,
            failures: results.failures,
        }
    }

    /// Prints the report and leaves it in `directory`. Returns whether everything that can be told
    /// is reached.
    pub(crate) fn publish(&self, directory: &Path) -> Result<bool, Failure> {
        let text = self.markdown();
        fs::create_dir_all(directory)?;
        fs::write(directory.join("proxy.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(directory.join("proxy.md"), &text)?;
        println!("{text}");
        Ok(self.targets.iter().all(|target| target.is_met != Some(false)))
    }

    fn markdown(&self) -> String {
        let Machine { cpu, cores, kernel, taken_at, load_before, .. } = &self.machine;
        let mut text = format!(
            "# Proxies\n\n{cpu}, {cores} CPUs, Linux {kernel}, {taken_at}, load before \
             {load_before:.2}. Rounds: {}. {} s per test, {} streams, {} idle connections. \
             Median (min–max) · times as good as the best peer.\n",
            self.rounds, self.seconds, self.streams, self.idle_connections,
        );
        for protocol in Protocol::ALL {
            text += &self.table(protocol);
        }
        text += "\n| target | measured | to reach | |\n| --- | --- | --- | --- |\n";
        for Target { what, value, to_reach, is_met } in &self.targets {
            let value = value.map_or_else(|| "not measured".into(), |value| format!("{value:.2}"));
            let met = match is_met {
                Some(true) => "yes",
                Some(false) => "no",
                None => "",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {what} | {value} | {to_reach} | {met} |");
        }
        for failure in &self.failures {
            let _ = write!(text, "\n- {failure}");
        }
        text
    }

    fn table(&self, protocol: Protocol) -> String {
        let of_protocol = || self.figures.iter().filter(|figure| figure.protocol == protocol);
        let mut contenders: Vec<_> = of_protocol().map(|figure| figure.contender).collect();
        contenders.sort_unstable();
        contenders.dedup();
        let mut text = format!("\n## {}\n\n| |", protocol.title());
        text.extend(contenders.iter().map(|contender| format!(" {} |", contender.title())));
        text += "\n| --- |";
        text += &" --- |".repeat(contenders.len());
        text.push('\n');
        for metric in Metric::ALL {
            if !of_protocol().any(|figure| figure.metric == metric) {
                continue;
            }
            text += &format!("| {} |", metric.title());
            for contender in &contenders {
                let found = of_protocol()
                    .find(|figure| (figure.metric, figure.contender) == (metric, *contender));
                text += &found.map_or_else(|| " |".into(), |figure| format!(" {} |", cell(figure)));
            }
            text.push('\n');
        }
        text
    }
}

fn cell(figure: &Figure) -> String {
    let digits = if figure.median < 100.0 { 2 } else { 0 };
    let Figure { median, min, max, .. } = figure;
    let mut text = format!("{median:.digits$} ({min:.digits$}–{max:.digits$})");
    if let Some(times) = figure.times_best_peer {
        text += &format!(" · {times:.2}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Contender, Effort, Metric, Protocol, Report, Results};
    use crate::machine::Machine;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn report(idle: f64) -> Report {
        let mut results = Results::default();
        let rates = [
            (Contender::Direct, 10.0),
            (Contender::Corelane, 6.0),
            (Contender::Microsocks, 2.0),
            (Contender::Dante, 3.0),
        ];
        for (contender, rate) in [(Contender::Corelane, 300.0), (Contender::Squid, 100.0)] {
            results.add(Protocol::Forward, Metric::Requests, contender, rate);
        }
        for metric in [Metric::DownPerCpu, Metric::UpPerCpu] {
            results.add(Protocol::Tls, metric, Contender::Corelane, 4.5);
        }
        for protocol in [Protocol::Socks5, Protocol::Connect] {
            for (contender, rate) in rates {
                for metric in [Metric::DownPerCpu, Metric::UpPerCpu, Metric::Connections] {
                    for sample in [rate - 1.0, rate, rate + 5.0] {
                        results.add(protocol, metric, contender, sample);
                    }
                }
                for metric in [Metric::Down, Metric::Up] {
                    results.add(protocol, metric, contender, rate);
                }
                for (contender, rate) in [(Contender::Direct, 4.0), (Contender::Corelane, 3.8)] {
                    results.add(protocol, Metric::DownFromLines, contender, rate);
                    results.add(protocol, Metric::UpFromLines, contender, rate);
                }
                results.add(protocol, Metric::RoundTripP99, contender, 100.0 - rate);
                results.add(protocol, Metric::Idle, contender, idle);
            }
        }
        results.fail("squid: it is too late".into());
        results.fail("squid: it is too late".into());
        let mut machine = Machine::describe(Duration::ZERO, BTreeMap::new());
        machine.cores = 2;
        let effort = Effort { rounds: 3, seconds: 1.0, streams: 4, idle_connections: 10 };
        Report::new(machine, effort, results)
    }

    #[test]
    fn the_best_peer_is_the_measure() {
        let text = report(4.0).markdown();
        let row = "| bulk down, GB per CPU second | 10.00 (9.00–15.00) | 6.00 (5.00–11.00) · 2.00 \
                   | 2.00 (1.00–7.00) · 0.67 | 3.00 (2.00–8.00) · 1.00 |\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| SOCKS5: p99 added at 1,000 requests/s, µs | 4.00 |"), "{text}");
        assert!(text.contains("requests per second, × squid | 3.00 | at least 2 | yes"), "{text}");
        assert!(text.contains("| CONNECT: up from lines, share of direct | 0.95 |"), "{text}");
        let row = "SOCKS5 inside TLS: up per CPU second, of plain | 0.75 | at least 0.7 | yes";
        assert!(text.contains(row), "{text}");
        assert_eq!(text.matches("KiB per idle connection |").count(), 4, "{text}");
        assert_eq!(text.matches("it is too late").count(), 1, "{text}");
    }

    #[test]
    fn what_is_missed_is_told_by_the_outcome() {
        let directory = tempfile::tempdir().unwrap();
        // The share of direct, 0.6, cannot be told on two CPUs.
        assert!(report(8.0).publish(directory.path()).unwrap());
        assert!(!report(8.1).publish(directory.path()).unwrap());
        let text = std::fs::read(directory.path().join("proxy.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (&json["schema"], &json["failures"][0]),
            (&1.into(), &"squid: it is too late".into())
        );
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        let mut results = Results::default();
        results.add(Protocol::Socks5, Metric::Idle, Contender::Corelane, 1.0);
        assert!(
            results.targets(Protocol::Connect, 2).iter().all(|target| target.is_met != Some(true))
        );
    }
}
