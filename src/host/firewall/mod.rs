//! What the program has in the packet filter (nftables): tables of its own, put in place, kept as
//! they are and removed each as a whole. Nothing of anybody else's is touched.
//!
//! - [`kill_switch`]: a client that lets nothing out but through its tunnel.
//! - [`nat`]: a server that passes its clients' packets on to the world.
//!
//! The names of the tables are derived from the name of the TUN device, so the kernel's state alone
//! says what is whose, after a crash, too.

mod forwarding;
pub mod kill_switch;
pub mod nat;
mod nft;
#[cfg(test)]
mod tests;

use std::io;

use ipnet::IpNet;
use ring::digest::{SHA256, digest};

use super::program::ProgramError;

/// Why the packet filter is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` did not do what it was asked for.
    #[error("the packet filter cannot be set up: {0}")]
    Program(#[source] ProgramError),
    /// The kernel does not let this process change the packet filter.
    #[error(
        "the packet filter cannot be set up: this needs CAP_NET_ADMIN (run as root, or \
         `setcap cap_net_admin+ep` the program)"
    )]
    Forbidden,
    /// `nft` answered something that makes no sense.
    #[error("the packet filter cannot be read: unexpected answer of `nft -j`: {0}")]
    Answer(#[source] io::Error),
    /// A kernel parameter could not be set.
    #[error("net.{} cannot be set to {value}: {source}{}", dotted(.name), in_container(.source))]
    Sysctl {
        /// Its path below `/proc/sys/net`.
        name: String,
        /// What it should be.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The name of the TUN device has a meaning of its own in `nft`.
    #[error("the packet filter cannot be told of a TUN device called {0:?}: choose another name")]
    Device(String),
}

fn dotted(name: &str) -> String {
    name.replace('.', "\0").replace('/', ".").replace('\0', "/")
}

fn in_container(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EROFS) => " (in a container, start it with `--sysctl`)",
        _ => "",
    }
}

/// A table that is in place, as a whole.
#[derive(Debug)]
struct Table {
    name: String,
    body: String,
    /// How `nft` shows it.
    shown: String,
}

impl Table {
    /// Puts a table in place, instead of one of the same name if there is one; there is no moment
    /// without. `body` is what stands between its braces.
    fn install(name: String, body: String) -> Result<Self, FirewallError> {
        let mut table = Self { name, body, shown: String::new() };
        table.put()?;
        Ok(table)
    }

    fn put(&mut self) -> Result<(), FirewallError> {
        put_table(&self.name, &self.body)?;
        self.shown = nft::table(&self.name)?.unwrap_or_default();
        Ok(())
    }

    /// Puts it in place again if somebody removed or changed it. Returns whether it was so.
    fn restore(&mut self) -> Result<bool, FirewallError> {
        let is_whole = nft::table(&self.name)?.is_some_and(|shown| shown == self.shown);
        if !is_whole {
            self.put()?;
        }
        Ok(!is_whole)
    }
}

/// Replaces what there is of a table by what `body` says, in one step.
fn put_table(name: &str, body: &str) -> Result<(), FirewallError> {
    // The first line makes one for the second line to delete.
    let script =
        format!("table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n{body}}}\n");
    nft::apply(&script)
}

/// Removes the table of this name; one that is not there is no matter.
fn remove_table(name: &str) -> Result<(), FirewallError> {
    nft::apply(&format!("table inet {name}\ndelete table inet {name}\n"))
}

/// The names of all tables of both families.
fn tables() -> Result<Vec<String>, FirewallError> {
    let objects = nft::json(&["list", "tables", "inet"])?;
    let name =
        |object: &serde_json::Value| object.pointer("/table/name")?.as_str().map(str::to_owned);
    Ok(objects.iter().filter_map(name).collect())
}

/// Those of `prefixes` that are `wanted` as an anonymous set; `None` if there are none. No two
/// elements of a set may overlap, so what lies next to each other becomes one.
fn address_set(prefixes: &[IpNet], wanted: impl Fn(&IpNet) -> bool) -> Option<String> {
    let prefixes = prefixes.iter().filter(|prefix| wanted(prefix)).map(IpNet::trunc).collect();
    let elements: Vec<_> = IpNet::aggregate(&prefixes).iter().map(IpNet::to_string).collect();
    (!elements.is_empty()).then(|| format!("{{ {} }}", elements.join(", ")))
}

/// The name of a table of the tunnel with this TUN device. `nft` takes letters, digits, `_`, `-`
/// and dots; a name with anything else is told from others by its hash.
fn table_name(purpose: &str, tun: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "_-.".contains(it);
    let plain: String = tun.chars().filter(|it| is_plain(*it)).collect();
    if plain == tun {
        return format!("{purpose}_{tun}");
    }
    let hash = digest(&SHA256, tun.as_bytes());
    let hash: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{purpose}_{plain}_{hash}")
}

/// The name of a TUN device as it stands in a rule.
fn quoted_device(tun: &str) -> Result<String, FirewallError> {
    match tun.chars().all(|it| it.is_ascii_graphic() && !"\"\\*".contains(it)) {
        true => Ok(format!("\"{tun}\"")),
        false => Err(FirewallError::Device(tun.to_owned())),
    }
}
