//! Sessions on the packet path: who sends on which lane, lane keys, counters, replay windows.
//!
//! Pure state, owned by one worker each: nothing here is shared or locked, and nothing allocated
//! once a lane is in use: its first packet makes its key, its 64th its replay window.

#[doc(hidden)]
pub mod fuzz;
pub mod keys;
pub mod lane;
pub mod lanes;
pub mod replay;
