//! The report as a picture: a panel per figure, a bar per contender.

use std::fmt::Write;

use super::plan::{Contender, Links, Metric};
use super::results::{Report, number};

/// What is worth a panel, in reading order, and whether less of it is better.
const PANELS: [(Metric, bool); 12] = [
    (Metric::Tcp1Up, false),
    (Metric::Tcp1Down, false),
    (Metric::Tcp4Up, false),
    (Metric::Tcp4Down, false),
    (Metric::Tcp1UpCpu, true),
    (Metric::UdpGso, false),
    (Metric::Udp1300, false),
    (Metric::Udp64, false),
    (Metric::RttIdle, true),
    (Metric::RttLoaded, true),
    (Metric::FirstPing, true),
    (Metric::ServerMemory, true),
];

const COLUMNS: usize = 3;
/// Measures in pixels.
const MARGIN: f64 = 24.0;
const HEAD: f64 = 64.0;
const PANEL_WIDTH: f64 = 390.0;
const PANEL_HEAD: f64 = 44.0;
const PANEL_GAP: f64 = 26.0;
const ROW: f64 = 20.0;
const BAR: f64 = 13.0;
/// From the left edge of a panel to where bars begin: room for the longest name.
const NAMES: f64 = 132.0;
/// To the right of the longest bar: room for its figure.
const FIGURES: f64 = 64.0;
const BAR_LEN_MAX: f64 = PANEL_WIDTH - NAMES - FIGURES;

/// The picture of one kind of link, as SVG.
pub(crate) fn render(report: &Report<'_>, links: Links) -> String {
    let contenders = &report.plan.contenders;
    let has_figures = |metric| {
        contenders.iter().any(|&contender| report.figure(links, contender, metric).is_some())
    };
    let panels: Vec<_> = PANELS.into_iter().filter(|&(metric, _)| has_figures(metric)).collect();
    let panel_height = PANEL_HEAD + ROW * contenders.len() as f64;
    let rows = panels.len().div_ceil(COLUMNS) as f64;
    let columns = COLUMNS as f64;
    let width = 2.0 * MARGIN + columns * PANEL_WIDTH + (columns - 1.0) * PANEL_GAP;
    let height = HEAD + rows * (panel_height + PANEL_GAP) + MARGIN;
    // Writing to a string cannot fail, here and below.
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"
    );
    let (machine, rounds) = (report.machine, report.plan.rounds);
    let plural = if rounds == 1 { "" } else { "s" };
    let subtitle = format!(
        "{}, {} CPUs, Linux {}, {}. Bars: medians of {rounds} round{plural}; lines: min to max.",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.taken_at.split('T').next().unwrap_or_default(),
    );
    text(&mut svg, (MARGIN, 30.0), "font-size=\"17\" font-weight=\"bold\"", links.title());
    text(&mut svg, (MARGIN, 50.0), "fill=\"#52606d\"", &subtitle);
    for (number, &(metric, less_is_better)) in panels.iter().enumerate() {
        let (row, column) = ((number / COLUMNS) as f64, (number % COLUMNS) as f64);
        let left = MARGIN + column * (PANEL_WIDTH + PANEL_GAP);
        let top = HEAD + row * (panel_height + PANEL_GAP);
        panel(&mut svg, report, (links, metric, less_is_better), (left, top));
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(
    svg: &mut String,
    report: &Report<'_>,
    (links, metric, less_is_better): (Links, Metric, bool),
    (left, top): (f64, f64),
) {
    let (title, unit) = metric.title_and_unit();
    text(svg, (left, top + 18.0), "font-size=\"13\" font-weight=\"bold\"", title);
    let better = if less_is_better { "less" } else { "more" };
    let unit = format!("{unit}, {better} is better");
    text(svg, (left, top + 34.0), "fill=\"#52606d\" font-size=\"11\"", &unit);
    let contenders = &report.plan.contenders;
    let figures = contenders.iter().filter_map(|&one| report.figure(links, one, metric));
    let longest = figures.map(|figure| figure.max).fold(f64::MIN_POSITIVE, f64::max);
    let length = |value: f64| value.max(0.0) / longest * BAR_LEN_MAX;
    for (number_of_row, &contender) in contenders.iter().enumerate() {
        let y = top + PANEL_HEAD + ROW * number_of_row as f64;
        let middle = y + BAR / 2.0;
        let bars = left + NAMES;
        let name_at = (bars - 8.0, middle + 4.0);
        text(svg, name_at, "text-anchor=\"end\"", contender.title());
        let Some(figure) = report.figure(links, contender, metric) else {
            let is_plain = contender == Contender::Veth && metric.needs_processes();
            let word = if is_plain { "–" } else { "failed" };
            text(svg, (bars + 4.0, middle + 4.0), "fill=\"#9aa5b1\"", word);
            continue;
        };
        let (bar, fill) = (length(figure.median), color(contender));
        let _ = writeln!(
            svg,
            "<rect x=\"{bars:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{BAR}\" \
             fill=\"{fill}\"/>"
        );
        let (from, to) = (bars + length(figure.min), bars + length(figure.max));
        let _ = writeln!(
            svg,
            "<path d=\"M{from:.1} {middle:.1}H{to:.1}\" stroke=\"#1f2933\" stroke-width=\"1.5\"/>"
        );
        text(svg, (to.max(bars + bar) + 6.0, middle + 4.0), "", &number(figure.median));
    }
}

/// Corelane stands out; what nobody can install is grey.
const fn color(contender: Contender) -> &'static str {
    match contender {
        Contender::Veth | Contender::Ceiling => "#b8c2cc",
        Contender::CorelaneOneWorker => "#e8833a",
        Contender::CorelaneTwoWorkers => "#c65d12",
        _ => "#7fa3d1",
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), attributes: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::{BAR_LEN_MAX, render};
    use crate::runner::plan::{Contender, Links, Metric};
    use crate::runner::results::testing::{machine, plan, results};

    #[test]
    fn bars_are_as_long_as_medians_and_the_longest_span_fits() {
        let (machine, plan) = (machine(), plan());
        let svg = render(&results().report(&machine, &plan), Links::Whole);
        // Medians 22, 11 and 6 where 24 is the most.
        for median in [22.0, 11.0, 6.0] {
            let width = format!("width=\"{:.1}\" height=\"13\"", median / 24.0 * BAR_LEN_MAX);
            assert!(svg.contains(&width), "{width} in {svg}");
        }
        assert!(svg.contains(">22.0</text>") && svg.contains("CPU &lt;2&gt;"), "{svg}");
        assert!(svg.contains("CPU time, TCP 1 up") && !svg.contains("RTT"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn who_has_no_figure_is_named_all_the_same() {
        let (machine, plan, mut results) = (machine(), plan(), results());
        results.add(Links::Cut, Contender::Ceiling, &[(Metric::FirstPing, 3.0)]);
        let svg = render(&results.report(&machine, &plan), Links::Cut);
        assert!(svg.contains(">plain veth</text>") && svg.contains(">–</text>"), "{svg}");
        assert!(svg.contains(">Corelane, 1 worker</text>") && svg.contains(">failed<"), "{svg}");
    }
}
