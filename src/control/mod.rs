//! The control thread.
pub mod engine;
