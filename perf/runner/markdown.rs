//! The report for people.

use std::fmt::Write;

use super::plan::{Contender, Group, Links, Metric};
use super::results::{FailureNote, Figure, Report, number};

/// The report as markdown.
pub(crate) fn render(report: &Report<'_>) -> String {
    let mut text = head(report);
    if report.targets.iter().any(|verdict| !verdict.outcomes.is_empty()) {
        text.push_str(&targets(report));
    }
    for &links in &report.plan.links {
        let _ = write!(text, "\n## {}\n", links.title());
        for group in &Metric::GROUPS {
            text.push_str(&table(report, links, group));
        }
    }
    if !report.plan.absent.is_empty() || !report.failures.is_empty() {
        text.push_str("\n## Not measured\n\n");
    }
    // Writing to a string cannot fail.
    for absent in &report.plan.absent {
        let (title, programs) = (absent.contender.title(), absent.programs.join(", "));
        let install = &absent.install;
        let _ = writeln!(text, "- {title}: {programs} not installed; `{install}` does that");
    }
    for note in report.failures {
        text.push_str(&failure_line(note));
    }
    text
}

fn head(report: &Report<'_>) -> String {
    let (machine, plan) = (report.machine, report.plan);
    let versions: Vec<_> =
        machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "# Measurements\n\n{}, {} CPUs, Linux {}, {}, load before {:.2}. {}.\n\n\
         Rounds: {}. {} s per throughput test, up to {} tries of {} ms per search.\n\n\
         Each cell: median (min–max) · ratio to plain veth · ratio to the ceiling program. \
         `–`: a plain link has no processes, nothing is compared with itself, and where every \
         try lost too much, which counts as a rate of 0, there is none to count in.\n",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.taken_at,
        machine.load_before,
        versions.join(", "),
        plan.rounds,
        plan.effort.seconds,
        plan.effort.tries,
        plan.effort.try_ms,
    )
}

fn targets(report: &Report<'_>) -> String {
    let first = report.targets.first();
    let contenders: Vec<_> = first.iter().flat_map(|one| &one.outcomes).collect();
    let mut text = "\n## Targets\n\n| workload | link | to reach |".to_owned();
    for outcome in &contenders {
        let _ = write!(text, " {} |", outcome.contender.title());
    }
    let _ = writeln!(text, "\n| --- | --- | --- |{}", " --- |".repeat(contenders.len()));
    for verdict in &report.targets {
        let (title, links) = (full_title(verdict.metric), verdict.links.name());
        let _ = write!(text, "| {title} | {links} | {} |", verdict.to_reach);
        for outcome in &verdict.outcomes {
            let _ = write!(text, " {} |", outcome.describe());
        }
        text.push('\n');
    }
    text
}

/// What a metric is called where it stands alone.
fn full_title(metric: Metric) -> String {
    let (title, _) = metric.title_and_unit();
    match metric {
        Metric::UdpGsoReordered => format!("UDP in trains, {title}"),
        Metric::Udp1300Reordered => format!("UDP 1300 B, {title}"),
        Metric::Udp64Reordered => format!("UDP 64 B, {title}"),
        _ => title.to_owned(),
    }
}

/// One group of figures over one kind of link; nothing if nobody has any of them.
fn table(report: &Report<'_>, links: Links, group: &Group) -> String {
    let contenders = &report.plan.contenders;
    let has_figures = |metric: &&Metric| {
        contenders.iter().any(|&contender| report.figure(links, contender, **metric).is_some())
    };
    let metrics: Vec<_> = group.metrics.iter().filter(has_figures).copied().collect();
    if metrics.is_empty() {
        return String::new();
    }
    let mut text = format!("\n### {}\n\n| |", group.title);
    for metric in &metrics {
        let _ = write!(text, " {} |", metric.title_and_unit().0);
    }
    let _ = writeln!(text, "\n| --- |{}", " --- |".repeat(metrics.len()));
    for &contender in contenders {
        let _ = write!(text, "| {} |", contender.title());
        for &metric in &metrics {
            let _ = write!(text, " {} |", cell(report, links, contender, metric));
        }
        text.push('\n');
    }
    text
}

fn cell(report: &Report<'_>, links: Links, contender: Contender, metric: Metric) -> String {
    match report.figure(links, contender, metric) {
        Some(figure) => figure_cell(figure, metric),
        None if contender == Contender::Veth && metric.needs_processes() => "–".to_owned(),
        None if has_no_try(report, links, contender, metric) => "–".to_owned(),
        None => "failed".to_owned(),
    }
}

/// Whether there is no order to speak of, because no rate kept to the bound.
fn has_no_try(report: &Report<'_>, links: Links, contender: Contender, metric: Metric) -> bool {
    let rate = match metric {
        Metric::Udp1300Reordered => Metric::Udp1300,
        Metric::Udp64Reordered => Metric::Udp64,
        _ => return false,
    };
    report.figure(links, contender, rate).is_some()
}

fn figure_cell(figure: &Figure, metric: Metric) -> String {
    let (middle, min, max) = (number(figure.median), number(figure.min), number(figure.max));
    let mut text = format!("{middle} ({min}–{max})");
    if !metric.has_ratio() {
        return text;
    }
    let to_veth = (!metric.needs_processes()).then_some(figure.ratio_to_veth);
    for ratio in to_veth.into_iter().chain([figure.ratio_to_ceiling]) {
        match ratio {
            Some(ratio) => {
                let _ = write!(text, " · {}", number(ratio));
            }
            None => text.push_str(" · –"),
        }
    }
    text
}

fn failure_line(note: &FailureNote) -> String {
    let workload = note.workload.map_or_else(|| "start".to_owned(), |w| w.to_string());
    let (links, contender) = (note.links.name(), note.contender.title());
    let reason = note.reason.replace('\n', " ");
    format!("- round {}, link {links}, {contender}, {workload}: {reason}\n", note.round)
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::runner::plan::{Contender, Links, Metric};
    use crate::runner::programs::Absent;
    use crate::runner::results::FailureNote;
    use crate::runner::results::testing::{machine, plan, results};

    #[test]
    fn the_tables_have_medians_spans_and_ratios() {
        let (machine, plan) = (machine(), plan());
        let text = render(&results().report(&machine, &plan));
        for row in [
            "| plain veth | 22.0 (20.0–24.0) · – · 2.00 |\n",
            "| ceiling | 11.0 (10.0–12.0) · 0.50 · – |\n",
            "| Corelane, 1 worker | 6.00 (5.00–7.00) · 0.27 · 0.55 |\n",
            "| plain veth | – |\n",
            "| Corelane, 1 worker | 0.80 (0.80–0.80) · 1.60 |\n",
            "| TCP 1 stream up | whole | ≥ 0.70 × ceiling | 0.55, **missed** |\n",
        ] {
            assert!(text.contains(row), "{text}");
        }
        assert!(text.contains("2 CPUs, Linux 6.1") && text.contains("iperf3 3.12"), "{text}");
        assert!(!text.contains("Not measured") && !text.contains("UDP, 64 B"), "{text}");
    }

    #[test]
    fn what_failed_or_is_not_there_is_said() {
        let (machine, mut plan, mut results) = (machine(), plan(), results());
        results.add(Links::Whole, Contender::Ceiling, &[(Metric::Tcp1Down, 1.0)]);
        results.add(Links::Whole, Contender::Ceiling, &[(Metric::Udp64, 0.0)]);
        results.add(Links::Whole, Contender::Veth, &[(Metric::Udp64, 300.0)]);
        results.add(Links::Whole, Contender::Veth, &[(Metric::Udp64Reordered, 2.0)]);
        results.add_failure(FailureNote {
            round: 2,
            links: Links::Whole,
            contender: Contender::CorelaneOneWorker,
            workload: None,
            reason: "the server ended\nwith 1".to_owned(),
        });
        plan.absent.push(Absent {
            contender: Contender::Quincy,
            programs: vec!["quincy-server", "quincy-client"],
            install: "perf/install-contenders quincy".to_owned(),
        });
        let text = render(&results.report(&machine, &plan));
        for line in [
            "- round 2, link whole, Corelane, 1 worker, start: the server ended with 1\n",
            "- Quincy: quincy-server, quincy-client not installed; \
             `perf/install-contenders quincy` does that\n",
            "| Corelane, 1 worker | 6.00 (5.00–7.00) · 0.27 · 0.55 | failed |\n",
            "| plain veth | 300 (300–300) · – · – | 2.00 (2.00–2.00) |\n",
            "| ceiling | 0 (0–0) · 0 · – | – |\n",
            "| Corelane, 1 worker | failed | failed |\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
