//! The daemon: opens what is privileged, gives up the privileges, starts the workers and runs the
//! control thread, which is the thread that called.

mod error;
mod kill_switch;
mod notify;
mod pool;
mod randomness;
mod reload;
mod resolve;
mod serve;
mod tunnel;
mod up;

pub use error::DaemonError;
pub use serve::serve;
pub use up::up;
