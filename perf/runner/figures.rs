//! Figures with what they are to reach, as a table and as JSON.

use serde::Serialize;

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
    pub(crate) fn is_met(&self) -> bool {
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
    /// Whether every figure is within its bound.
    pub(crate) fn is_met(&self) -> bool {
        self.figures.iter().all(Figure::is_met)
    }

    pub(crate) fn markdown(&self) -> String {
        let Machine { cpu, cores, kernel, taken_at, load_before, .. } = &self.machine;
        let mut table = format!(
            "{cpu}, {cores} CPUs, Linux {kernel}, {taken_at}, load before {load_before:.2}\n\n\
             | what | measured | to reach |\n| --- | --- | --- |\n"
        );
        table.extend(self.figures.iter().map(Figure::row));
        table
    }
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
