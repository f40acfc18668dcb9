//! Flags for bounds and rules, and how people write figures.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::accounts::operations::{BoundName, LimitChanges};
use crate::cli::units;
use crate::policy::acl::AclRule;
use crate::policy::bounds::Bounds;

/// What a user or a group may do.
#[derive(Args, Debug)]
pub(crate) struct LimitArgs {
    /// Bits per second from the devices, such as `100M`; `none` takes the bound away
    #[arg(long, value_name = "RATE", value_parser = bound(rate))]
    up: Option<Bound>,
    /// Bits per second to the devices
    #[arg(long, value_name = "RATE", value_parser = bound(rate))]
    down: Option<Bound>,
    /// Devices online at once
    #[arg(long, value_name = "N", value_parser = bound(number))]
    sessions: Option<Bound>,
    /// Devices registered
    #[arg(long, value_name = "N", value_parser = bound(number))]
    devices: Option<Bound>,
    /// Bytes in a day (UTC), both ways, such as `20G` or `20GiB`
    #[arg(long, value_name = "BYTES", value_parser = bound(bytes))]
    day_bytes: Option<Bound>,
    /// Bytes in a month (UTC), both ways
    #[arg(long, value_name = "BYTES", value_parser = bound(bytes))]
    month_bytes: Option<Bound>,
    /// Connections by the proxy at once, in place of what its configuration says
    #[arg(long, value_name = "N", value_parser = connections)]
    connections: Option<Bound>,
    /// Connections by the proxy opened each second, likewise
    #[arg(long, value_name = "N", value_parser = connections)]
    connections_per_s: Option<Bound>,
    /// A rule, such as `allow 10.0.0.0/8 443/tcp`; those that are given replace all that were
    #[arg(long = "rule", value_name = "RULE")]
    rules: Vec<AclRule>,
    /// Take all rules away
    #[arg(long, conflicts_with = "rules")]
    no_rules: bool,
}

/// A figure, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    None,
    To(u64),
}

impl LimitArgs {
    pub(super) fn changes(&self) -> LimitChanges {
        let given = |bound: Option<Bound>| match bound {
            Some(Bound::To(figure)) => Some(figure),
            _ => None,
        };
        let count = |bound: Option<Bound>| given(bound).and_then(|count| u32::try_from(count).ok());
        let flags = [
            (self.up, BoundName::Up),
            (self.down, BoundName::Down),
            (self.sessions, BoundName::Sessions),
            (self.devices, BoundName::Devices),
            (self.day_bytes, BoundName::Day),
            (self.month_bytes, BoundName::Month),
            (self.connections, BoundName::Connections),
            (self.connections_per_s, BoundName::ConnectionsPerS),
        ];
        let unset = flags.into_iter().filter(|(bound, _)| *bound == Some(Bound::None));
        let has_rules = self.no_rules || !self.rules.is_empty();
        LimitChanges {
            set: Bounds {
                up_bps: given(self.up),
                down_bps: given(self.down),
                sessions_max: count(self.sessions),
                devices_max: count(self.devices),
                day_bytes: given(self.day_bytes),
                month_bytes: given(self.month_bytes),
                connections_max: count(self.connections),
                connections_per_s: count(self.connections_per_s),
            },
            unset: unset.map(|(_, name)| name).collect::<BTreeSet<_>>(),
            acl: has_rules.then(|| self.rules.clone()),
        }
    }
}

/// `none`, or what `figure` reads.
fn bound(
    figure: fn(&str) -> Option<u64>,
) -> impl Fn(&str) -> Result<Bound, String> + Clone + Send + Sync + 'static {
    move |text| match text {
        "none" => Ok(Bound::None),
        _ => figure(text)
            .map(Bound::To)
            .ok_or_else(|| "expected a figure such as 5, 100M or 20GiB, or `none`".to_owned()),
    }
}

/// `none`, or a number of connections. 0 is none at all here and no bound in `[[proxy]]`, so that
/// who writes it may mean either.
fn connections(text: &str) -> Result<Bound, String> {
    match bound(number)(text)? {
        Bound::To(0) => {
            Err("expected 1 or more, or `none` for no bound of its own; a rule such as \
                             `allow 10.0.0.0/8` bounds where somebody may go"
                .to_owned())
        }
        bound => Ok(bound),
    }
}

/// Bits per second in decimal units: `100M`, `1.5Gbit/s`.
fn rate(text: &str) -> Option<u64> {
    let text = text.trim_end_matches("/s").trim_end_matches("bit");
    scaled(text, &[("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)])
}

/// Bytes in binary or decimal units: `20GiB`, `20G`, `20GB`.
fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("PiB", 50)];
    let binary = units.map(|(unit, bits)| (unit, (1u64 << bits) as f64));
    let text = match scaled(text, &binary) {
        Some(value) => return Some(value),
        None => text.trim_end_matches('B'),
    };
    scaled(text, &[("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15)])
}

fn number(text: &str) -> Option<u64> {
    text.parse::<u32>().ok().map(u64::from).filter(|_| !text.starts_with('+'))
}

/// A number with one of `units` behind it, or none.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<u64> {
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (digits, factor) = unit.unwrap_or((text, 1.0));
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value = digits.trim().parse::<f64>().ok().filter(|_| is_plain)? * factor;
    // Every whole number up to here has a floating-point number of its own.
    (value.is_finite() && (0.0..9e15).contains(&value)).then_some(value.round() as u64)
}

/// The longest span of time: a hundred years.
const SPAN_MAX_S: u64 = 100 * 365 * 86_400;

/// A span of time: `90s`, `15m`, `24h`, `7d`, `2w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];
        let found = units.iter().find_map(|(unit, s)| Some((text.strip_suffix(unit)?, *s)));
        let seconds = found.and_then(|(digits, s)| {
            let count = digits.parse::<u32>().ok().filter(|_| !digits.starts_with('+'))?;
            Some(u64::from(count) * s)
        });
        let seconds = seconds.filter(|seconds| (1..=SPAN_MAX_S).contains(seconds));
        let error = || {
            "expected a span of time from 1s to a hundred years, such as 90s, 15m, 24h, 7d or 2w"
                .to_owned()
        };
        seconds.map(|seconds| Self(Duration::from_secs(seconds))).ok_or_else(error)
    }
}

/// Bounds as people read them, one a line.
pub(super) fn text(bounds: &Bounds) -> String {
    let rate = |rate: Option<u64>| rate.map(|rate| units::bit_rate(rate as f64));
    let size = |size: Option<u64>| size.map(units::bytes);
    let entries = [
        ("up", rate(bounds.up_bps)),
        ("down", rate(bounds.down_bps)),
        ("sessions", bounds.sessions_max.map(|count| count.to_string())),
        ("devices", bounds.devices_max.map(|count| count.to_string())),
        ("a day", size(bounds.day_bytes)),
        ("a month", size(bounds.month_bytes)),
        ("connections", bounds.connections_max.map(|count| count.to_string())),
        ("connections each second", bounds.connections_per_s.map(|count| count.to_string())),
    ];
    let set = entries.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    super::join(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_truth_table() {
        for (text, value) in [("0", 0), ("100M", 100_000_000), ("1.5Gbit/s", 1_500_000_000)] {
            assert_eq!(rate(text), Some(value), "{text}");
        }
        for (text, value) in [("20GiB", 20 << 30), ("20G", 20_000_000_000), ("1kB", 1000)] {
            assert_eq!(bytes(text), Some(value), "{text}");
        }
        for text in ["", "M", "-1", "+1", "1e3", "inf", "NaN", "99999999T", "1 2", "1X"] {
            assert_eq!((rate(text), bytes(text)), (None, None), "{text}");
        }
        assert_eq!(bound(number)("none"), Ok(Bound::None));
        assert!(bound(number)("-1").is_err());
        assert_eq!(bound(number)("0"), Ok(Bound::To(0)));
        assert_eq!(connections("none"), Ok(Bound::None));
        assert_eq!(connections("1"), Ok(Bound::To(1)));
        assert!(connections("0").unwrap_err().contains("`none`"));
    }

    #[test]
    fn spans_truth_table() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("2w", 1_209_600)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))));
        }
        for text in ["", "h", "1", "+1h", "-1h", "1.5h", "99999999999d", "0s", "36501d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
