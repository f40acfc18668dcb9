//! The kill switch: a client's host lets nothing out but through the tunnel.
//!
//! ```text
//! table inet corelane-kill-switch_corelane0 {
//!     chain output {
//!         type filter hook output priority filter; policy drop;
//!         oifname { "corelane0", "lo" } accept
//!         meta mark 0x000000c1 accept                              the tunnel's own packets
//!         udp sport 68 udp dport 67 accept                         DHCP
//!         ip6 daddr { ff02::1:2, fe80::/10 } udp sport 546 udp dport 547 accept
//!         ip6 hoplimit 255 icmpv6 type { nd-router-solicit, .. } accept
//!         icmpv6 type { mld-listener-report, .. } accept
//!         ip daddr { 192.168.1.0/24 } accept                       what the configuration allows
//!         counter reject with icmpx admin-prohibited
//!     }
//!     chain forward { .. }                                         the same for other hosts
//! }
//! ```
//!
//! It does not depend on whether the tunnel is up, nor on any route: whatever a DHCP server or a
//! router makes this host believe about the way, a packet that would leave by another interface
//! without the mark is refused. It is there before anything else is done and stays when the daemon
//! is killed, fails or crashes: only a clean stop takes it away, or [`KillSwitch::take_away`].

use ipnet::IpNet;

use super::{FirewallError, Table, address_set, nft, quoted_device, remove_table, table_name};
use crate::host::netlink::Family;

/// What the names of kill switches begin with.
const PURPOSE: &str = "corelane-kill-switch";
/// What IPv6 does not work without on a link (RFC 4861, RFC 9777), and what asks for addresses (RFC
/// 2131, RFC 9915).
const HOUSEKEEPING: &str = "\
udp sport 68 udp dport 67 accept
ip6 daddr { ff02::1:2, fe80::/10 } udp sport 546 udp dport 547 accept
ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept
icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept
";
const REFUSE: &str = "counter reject with icmpx admin-prohibited\n";

/// What a client lets out beside what goes through its tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Openings<'a> {
    /// The mark of the tunnel's own packets.
    pub mark: u32,
    /// Destinations outside, such as the local network.
    pub allow: &'a [IpNet],
}

/// A kill switch that is in place. Dropping it leaves it there.
///
/// Works on the network namespace of the thread that calls it, with `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct KillSwitch(Table);

impl KillSwitch {
    /// Shuts the host, but for the device `tun`, be it there or not. One that an earlier run has
    /// left is replaced without a moment in between.
    ///
    /// # Errors
    /// [`FirewallError`]; nothing has changed then.
    pub fn install(tun: &str, openings: Openings<'_>) -> Result<Self, FirewallError> {
        Table::install(table_name(PURPOSE, tun), body(tun, openings)?).map(Self)
    }

    /// Puts it back if somebody else has removed or changed it. Returns how much that was.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn restore(&mut self) -> Result<usize, FirewallError> {
        self.0.restore().map(usize::from)
    }

    /// The tables of the packet filter that make it up.
    pub fn tables(&self) -> Vec<String> {
        vec![self.0.name.clone()]
    }

    /// Opens the host.
    ///
    /// # Errors
    /// [`FirewallError`]; it stays shut.
    pub fn remove(&self) -> Result<(), FirewallError> {
        remove_table(&self.0.name)
    }

    /// Opens the host that an earlier run of the tunnel with the device `tun`, or of any tunnel,
    /// has left shut. Returns the names of the tables that are gone.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn take_away(tun: Option<&str>) -> Result<Vec<String>, FirewallError> {
        let mut tables = Self::present()?;
        if let Some(tun) = tun {
            let own = table_name(PURPOSE, tun);
            tables.retain(|name| *name == own);
        }
        for name in &tables {
            remove_table(name)?;
        }
        Ok(tables)
    }

    /// The names of the tables of all kill switches that this host has.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn present() -> Result<Vec<String>, FirewallError> {
        if !nft::is_installed() {
            return Ok(Vec::new());
        }
        let prefix = table_name(PURPOSE, "");
        Ok(super::tables()?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
    }
}

fn body(tun: &str, openings: Openings<'_>) -> Result<String, FirewallError> {
    let tun = quoted_device(tun)?;
    let mut allowed = String::new();
    for (family, keyword) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        if let Some(set) = address_set(openings.allow, |prefix| Family::of(prefix) == family) {
            allowed += &format!("{keyword} daddr {set} accept\n");
        }
    }
    let hook = |hook: &str| format!("type filter hook {hook} priority filter; policy drop;\n");
    let (output, forward) = (hook("output"), hook("forward"));
    let mark = openings.mark;
    Ok(format!(
        "chain output {{\n{output}oifname {{ \"lo\", {tun} }} accept\nmeta mark {mark} accept\n\
         {HOUSEKEEPING}{allowed}{REFUSE}}}\n\
         chain forward {{\n{forward}oifname {tun} accept\n\
         iifname {tun} ct state established,related accept\n{allowed}{REFUSE}}}\n"
    ))
}
