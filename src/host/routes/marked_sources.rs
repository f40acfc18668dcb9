//! The kernel parameter by which a packet's mark counts when its source is validated, so that a
//! firewall which marks the tunnel's incoming packets (conntrack marks) makes strict reverse path
//! filtering work.
//!
//! What it was before is kept by a route in a table that nobody asks, to addresses that nobody has:
//! so that is known after a crash, too, and to whichever tunnel of a host is the last.

use ipnet::{IpNet, Ipv4Net};

use super::{METRIC_REFUSE, ROUTE_PROTOCOL, TABLE_BASE, TABLES, tolerate};
use crate::host::netlink::{Family, Netlink, NetlinkError, Route};
use crate::host::sysctl;

pub(super) const SOURCE_VALID_MARK: &str = "ipv4/conf/all/src_valid_mark";
/// The number behind those of the tables of tunnels.
const TABLE_MEMORY: u32 = TABLE_BASE + TABLES;
/// Of the reserved addresses (RFC 1112 section 4).
const NOWHERE: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(255, 255, 255, 254), 31);

/// The route that says that the parameter was off before.
fn memory() -> Route {
    Route::unreachable(IpNet::V4(NOWHERE), METRIC_REFUSE, ROUTE_PROTOCOL).in_table(TABLE_MEMORY)
}

/// Switches it on, if it is off.
pub(super) fn accept(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    match sysctl::read(SOURCE_VALID_MARK) {
        Ok(before) if before == "0" => {}
        Ok(_) => return Ok(()),
        Err(error) => {
            log::warn!("net.ipv4.conf.all.src_valid_mark is not there: {error}");
            return Ok(());
        }
    }
    tolerate(netlink.add_route(&memory()), NetlinkError::is_exists)?;
    if let Err(error) = sysctl::write(SOURCE_VALID_MARK, "1") {
        log::warn!(
            "net.ipv4.conf.all.src_valid_mark could not be set: {error}; \
             in a container start it with --sysctl net.ipv4.conf.all.src_valid_mark=1"
        );
        tolerate(netlink.delete_route(&memory()), NetlinkError::is_not_found)?;
    }
    Ok(())
}

/// Switches it off, if it was off before a tunnel came, of which there is none any more.
pub(super) fn forget(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    let routes = netlink.routes_of_protocol(Family::V4, ROUTE_PROTOCOL)?;
    if !routes.iter().any(|route| route.table == TABLE_MEMORY) {
        return Ok(());
    }
    if let Err(error) = sysctl::write(SOURCE_VALID_MARK, "0") {
        log::warn!("net.ipv4.conf.all.src_valid_mark could not be set back to 0: {error}");
    }
    tolerate(netlink.delete_route(&memory()), NetlinkError::is_not_found)
}
