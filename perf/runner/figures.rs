//! Figures with what they are to reach, as a table and as JSON.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::Failure;
use super::machine::Machine;

/// One measured thing.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What it should reach, if anything.
    pub(crate) bound: Option<Bound>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// All figures of a run, and where they were taken.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    pub(crate) machine: Machine,
    pub(crate) figures: Vec<Figure>,
}

impl Figure {
    fn is_met(&self) -> bool {
        match self.bound {
            Some(Bound::AtMost(most)) => self.value <= most,
            Some(Bound::AtLeast(least)) => self.value >= least,
            None => true,
        }
    }

    fn row(&self) -> String {
        let bound = match self.bound {
            Some(Bound::AtMost(most)) => format!("at most {most:.2}"),
            Some(Bound::AtLeast(least)) => format!("at least {least:.0}"),
            None => String::new(),
        };
        format!("| {} | {:.2} {} | {bound} |\n", self.what, self.value, self.unit)
    }
}

impl Report {
    /// Prints the table, and leaves it and the figures in `directory` as `name.md` and `name.json`.
    /// Returns whether every figure is within its bound.
    pub(crate) fn publish(&self, directory: &Path, name: &str) -> Result<bool, Failure> {
        let table = self.markdown();
        fs::create_dir_all(directory)?;
        fs::write(directory.join(format!("{name}.json")), serde_json::to_vec_pretty(self)?)?;
        fs::write(directory.join(format!("{name}.md")), &table)?;
        println!("{table}");
        Ok(self.figures.iter().all(Figure::is_met))
    }

    fn markdown(&self) -> String {
        let Machine { cpu, cores, kernel, taken_at, load_before, .. } = &self.machine;
        let mut table = format!(
            "{cpu}, {cores} CPUs, Linux {kernel}, {taken_at}, load before {load_before:.2}\n\n\
             | what | measured | to reach |\n| --- | --- | --- |\n"
        );
        table.extend(self.figures.iter().map(Figure::row));
        table
    }
}

/// Runs the measurement `name`, which returns whether every figure is within its bound. Only
/// optimised programs are measured.
pub(crate) fn conclude(name: &str, run: impl FnOnce() -> Result<bool, Failure>) -> ExitCode {
    if cfg!(debug_assertions) {
        eprintln!("{name}: figures of unoptimised programs mean nothing: add --release");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => eprintln!("{name}: a figure is out of its bound"),
        Err(failure) => eprintln!("{name}: {failure}"),
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::{Bound, Figure};

    #[test]
    fn a_bound_is_met_up_to_itself() {
        let figure = |value, bound| Figure { what: String::new(), value, unit: "", bound };
        for (value, bound, met) in [
            (2.0, Some(Bound::AtMost(2.0)), true),
            (2.1, Some(Bound::AtMost(2.0)), false),
            (2.0, Some(Bound::AtLeast(2.0)), true),
            (1.9, Some(Bound::AtLeast(2.0)), false),
            (1.9, None, true),
        ] {
            assert_eq!(figure(value, bound).is_met(), met);
        }
    }
}
