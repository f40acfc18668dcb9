//! The daemon: opens what is privileged, gives up the privileges, starts the workers and runs the
//! control thread, which is the thread that called.

mod accounts;
mod accounts_socket;
mod agreement;
mod carriage;
mod client_host;
mod client_state;
mod desk;
mod early_stop;
mod error;
mod kill_switch;
mod lease;
mod logins;
mod name_servers;
mod notify;
mod pool;
pub mod profile;
mod proxy;
mod proxy_client;
mod randomness;
mod reload;
mod resolve;
mod serve;
mod steward;
mod tunnel;
mod up;

pub use accounts::open_accounts;
pub use client_state::StateError;
pub use error::DaemonError;
pub use lease::BadLease;
pub use proxy::proxy;
pub use proxy_client::{FarGateway, FarGatewayError, proxy_client};
pub use serve::serve;
pub use steward::{Answers, LoginError, ProofError};
pub use up::up;
