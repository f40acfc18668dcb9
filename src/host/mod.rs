//! What the program asks of the host's network configuration, and how it gives it back.
//!
//! - [`netlink`]: a synchronous rtnetlink client (links, addresses, routes, rules).
//! - [`link`]: brings the TUN device up.
//! - [`routes`]: the client's routes and policy rules, installed, reconciled, removed and, after a
//!   crash, repaired.
//! - [`upkeep`]: puts back what the TUN device loses while the daemon runs.
//! - [`monitor`]: hears that another program changes any of this.
//! - [`resolver`]: the name servers of a client's host.
//! - [`firewall`]: tables of the packet filter and the forwarding of a server.
//! - [`privileges`]: which capabilities the process keeps.
//!
//! Everything here runs before the workers start or on the control thread; nothing is on the
//! packet path.

pub mod firewall;
pub mod link;
pub mod monitor;
pub mod netlink;
pub mod privileges;
pub mod resolver;
pub mod routes;
pub mod upkeep;

mod program;
mod sysctl;
