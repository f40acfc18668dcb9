//! The machine that the figures are of.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use corelane::sys::affinity;
use serde::Serialize;

/// What a reader must know to judge the figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// The processor, as the kernel calls it.
    pub(crate) cpu: String,
    /// CPUs that the measurement could use.
    pub(crate) cores: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// When the measurement began, UTC, RFC 3339.
    pub(crate) taken_at: String,
    /// Runnable threads, averaged over the minute before: above 0.2 or so, others were at work.
    pub(crate) load_before: f64,
    /// The versions of the programs, by name.
    pub(crate) versions: BTreeMap<&'static str, String>,
}

impl Machine {
    /// This machine at `unix_time`, with programs of these versions.
    pub(crate) fn describe(unix_time: Duration, versions: BTreeMap<&'static str, String>) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            cpu: cpu_model(&read("/proc/cpuinfo")),
            cores: affinity::allowed_cpus().map_or(0, |cpus| cpus.len()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            taken_at: rfc3339(unix_time),
            load_before: load.split(' ').next().and_then(|one| one.parse().ok()).unwrap_or(0.0),
            versions,
        }
    }
}

fn cpu_model(cpuinfo: &str) -> String {
    let model = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "model name" | "Processor").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// A time since 1970 as RFC 3339 writes it.
fn rfc3339(unix_time: Duration) -> String {
    let (days, seconds) = (unix_time.as_secs() / 86_400, unix_time.as_secs() % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date that lies `days` after 1970-01-01: counted in 400-year eras of years that begin in
/// March, so that the leap day comes last.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let since_era_0 = days + 719_468;
    let (era, day_of_era) = (since_era_0 / 146_097, since_era_0 % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = (months_since_march + 2) % 12 + 1;
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{cpu_model, rfc3339};
    use std::time::Duration;

    #[test]
    fn times_as_rfc_3339_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_processor_is_named_or_at_least_its_architecture() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: A  B\n"), "A  B");
        assert_eq!(cpu_model(""), std::env::consts::ARCH);
    }
}
