//! Thousands of seeds, and the proof that a broken rule is seen.

mod edges;
mod seeds;
mod suspended;
