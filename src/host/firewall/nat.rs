//! What lets a server's clients out to the world: forwarding, masquerade and forward rules.
//!
//! ```text
//! table inet corelane_corelane0 {
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         iifname "corelane0" ip saddr { 10.77.0.0/24 } accept
//!         iifname "corelane0" ip6 saddr { fd77::/64 } accept
//!         iifname != "corelane0" oifname "corelane0" ct state established,related accept
//!         iifname != "corelane0" oifname "corelane0" drop
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         iifname "corelane0" oifname != "corelane0" ip saddr { 10.77.0.0/24 } masquerade
//!         iifname "corelane0" oifname != "corelane0" ip6 saddr { fd77::/64 } masquerade
//!     }
//! }
//! ```
//!
//! Packets get the server's own address if they come from a network of the tunnel; with IPv6 only
//! if that is a unique local one (RFC 4193), since others are routed to the server by whoever gave
//! them out. To clients pass answers alone.

use ipnet::{IpNet, Ipv6Net};
use serde_json::Value;

use super::forwarding::{self, Forwarding};
use super::{
    FirewallError, Table, address_set, nft, quoted_device, remove_table, table_name, tables,
};
use crate::host::netlink::Family;

/// What the names of tables that let clients out begin with.
const PURPOSE: &str = "corelane";

/// The clients of a tunnel are let out. Dropping it undoes that, as far as the kernel lets it;
/// [`Nat::remove`] does the same and says what went wrong.
///
/// Works on the network namespace of the thread that calls it, with `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct Nat {
    table: Table,
    forwarding: Forwarding,
    is_removed: bool,
}

impl Nat {
    /// Lets packets out that come through the device `tun` from `networks`, as if they were the
    /// host's own. What a run that was killed has left behind is taken over.
    ///
    /// # Errors
    /// [`FirewallError`]; nothing has changed then.
    pub fn install(tun: &str, networks: &[IpNet]) -> Result<Self, FirewallError> {
        let table = Table::install(table_name(PURPOSE, tun), body(tun, networks)?)?;
        let has_ipv6 = networks.iter().any(|network| Family::of(network) == Family::V6);
        let forwarding = Forwarding::switch_on(tun, has_ipv6);
        let forwarding = forwarding.inspect_err(|_| clear(&table.name))?;
        warn_of_others(tun, &table.name);
        Ok(Self { table, forwarding, is_removed: false })
    }

    /// Puts back what somebody else has removed or changed. Returns how much that was.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn restore(&mut self) -> Result<usize, FirewallError> {
        Ok(usize::from(self.table.restore()?) + self.forwarding.restore()?)
    }

    /// The tables of the packet filter that make it up.
    pub fn tables(&self) -> Vec<String> {
        vec![self.table.name.clone(), forwarding::TABLE.to_owned()]
    }

    /// Undoes what a run of the tunnel with the device `tun` that was killed has left behind.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn remove_leftovers(tun: &str) -> Result<(), FirewallError> {
        if !nft::is_installed() {
            return Ok(());
        }
        let own = table_name(PURPOSE, tun);
        let tables = tables()?;
        if tables.contains(&own) {
            log::info!("an earlier run left the table {own} of the packet filter behind");
            remove(&own)?;
        } else if tables.iter().any(|name| name == forwarding::TABLE) {
            switch_back_unless_needed(&tables)?;
        }
        Ok(())
    }

    /// Undoes everything.
    ///
    /// # Errors
    /// [`FirewallError`]; the next start mends what is left.
    pub fn remove(mut self) -> Result<(), FirewallError> {
        remove(&self.table.name)?;
        self.is_removed = true;
        Ok(())
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        if !self.is_removed {
            clear(&self.table.name);
        }
    }
}

fn clear(table: &str) {
    if let Err(error) = remove(table) {
        log::error!("the host goes on forwarding for clients, the next start mends that: {error}");
    }
}

fn remove(table: &str) -> Result<(), FirewallError> {
    remove_table(table)?;
    switch_back_unless_needed(&tables()?)
}

/// Another server of this host may rely on what was switched on.
fn switch_back_unless_needed(tables: &[String]) -> Result<(), FirewallError> {
    let prefix = table_name(PURPOSE, "");
    match tables.iter().any(|name| name.starts_with(&prefix)) {
        true => Ok(()),
        false => forwarding::switch_back(),
    }
}

fn body(tun: &str, networks: &[IpNet]) -> Result<String, FirewallError> {
    let tun = quoted_device(tun)?;
    let (mut forward, mut postrouting) = (String::new(), String::new());
    for (family, keyword) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let is_inside = |network: &IpNet| Family::of(network) == family;
        if let Some(set) = address_set(networks, is_inside) {
            forward += &format!("iifname {tun} {keyword} saddr {set} accept\n");
        }
        if let Some(set) = address_set(networks, |it| is_inside(it) && is_translated(it)) {
            postrouting +=
                &format!("iifname {tun} oifname != {tun} {keyword} saddr {set} masquerade\n");
        }
    }
    let incoming = format!("iifname != {tun} oifname {tun}");
    Ok(format!(
        "chain forward {{\ntype filter hook forward priority filter; policy accept;\n{forward}\
         {incoming} ct state established,related accept\n{incoming} drop\n}}\n\
         chain postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\n\
         {postrouting}}}\n"
    ))
}

/// Whether packets from a network need another source to be answered.
fn is_translated(network: &IpNet) -> bool {
    const UNIQUE_LOCAL: Ipv6Net =
        Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);
    match network {
        IpNet::V4(_) => true,
        IpNet::V6(network) => UNIQUE_LOCAL.contains(network),
    }
}

/// What one table lets pass another may still drop: that is the administrator's to decide.
fn warn_of_others(tun: &str, own: &str) {
    let chains = match nft::json(&["list", "chains"]) {
        Ok(objects) => objects,
        Err(error) => return log::debug!("other tables of the filter: {error}"),
    };
    for chain in chains.iter().filter_map(|object| object.get("chain")) {
        let text = |key: &str| chain.get(key).and_then(Value::as_str).unwrap_or_default();
        let (family, table, name) = (text("family"), text("table"), text("name"));
        if text("hook") != "forward" || text("policy") != "drop" || table == own {
            continue;
        }
        let insert = format!("nft insert rule {family} {table} {name}");
        log::warn!(
            "the chain {name} of the table {family} {table} drops what it does not know, perhaps \
             what clients send and get, too: `{insert} iifname {tun} accept; {insert} \
             oifname {tun} ct state established,related accept` lets that pass"
        );
    }
}
