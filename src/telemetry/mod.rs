//! What the program counts about itself, and how it says so.

pub mod counters;
pub mod drops;
pub mod line_budget;
pub mod logging;
pub mod status;
