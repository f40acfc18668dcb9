//! Sessions on the packet path: who sends on which lane, lane keys, counters, replay windows.
//!
//! Pure state, owned by one worker each: nothing here is shared, locked or allocated once made.

#[doc(hidden)]
pub mod fuzz;
pub mod keys;
pub mod lane;
pub mod lanes;
pub mod replay;
