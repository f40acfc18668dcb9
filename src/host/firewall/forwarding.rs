//! Switching the host's forwarding on, and back to what it was.
//!
//! Linux tells hosts from routers by `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding`
//! (networking/ip-sysctl.rst in the kernel's documentation). To write either changes others, too:
//! those of every interface, whether redirects are accepted and, for IPv6, whether routers are
//! listened to: a router forgets its default route and takes no further one, unless
//! `accept_ra` of the interface is 2. So that is set first.
//!
//! What parameters were before is kept in a table of the packet filter, as comments: so it is there
//! after a crash, in the network namespace that it is about, and gone after a boot, as the
//! parameters are. All servers of a host share it; the last one to stop puts back what it says.

use std::io;

use serde_json::Value;

use super::{FirewallError, nft, put_table, remove_table};
use crate::host::sysctl;

/// The table that says what was before.
pub(super) const TABLE: &str = "corelane-sysctls";
const IPV4: &str = "ipv4/ip_forward";
const IPV4_REDIRECTS: &str = "ipv4/conf/all/accept_redirects";
const IPV6: &str = "ipv6/conf/all/forwarding";

/// A kernel parameter, by its path below `/proc/sys/net`, and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parameter {
    name: String,
    value: String,
}

impl Parameter {
    fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    fn write(&self) -> Result<(), FirewallError> {
        let Self { name, value } = self;
        log::info!("setting net.{} to {value}", super::dotted(name));
        sysctl::write(name, value).map_err(|source| FirewallError::Sysctl {
            name: name.clone(),
            value: value.clone(),
            source,
        })
    }

    /// Sets it back, where it still exists and says what this program made it say.
    fn write_back(&self) {
        let is_ours = match self.name.ends_with("/accept_ra") {
            true => is(&self.name, "2"),
            false => !is(&self.name, &self.value),
        };
        if is_ours && let Err(error) = self.write() {
            log::warn!("{error}");
        }
    }
}

fn is(name: &str, value: &str) -> bool {
    sysctl::read(name).is_ok_and(|present| present == value)
}

/// Forwarding that is on.
#[derive(Debug)]
pub(super) struct Forwarding {
    tun: String,
    has_ipv6: bool,
    /// What parameters were, in the order in which they are to be set back.
    before: Vec<Parameter>,
}

impl Forwarding {
    /// Switches forwarding on, for IPv4 and, if `has_ipv6`, for IPv6. `tun` is a device that takes
    /// no advice of routers and goes with this program, so it does not matter.
    pub(super) fn switch_on(tun: &str, has_ipv6: bool) -> Result<Self, FirewallError> {
        let mut forwarding = Self { tun: tun.to_owned(), has_ipv6, before: recall()? };
        forwarding.before = merge(forwarding.before.clone(), forwarding.about_to_change());
        memorise(&forwarding.before)?;
        forwarding.switch()?;
        Ok(forwarding)
    }

    /// Puts back what somebody else has changed meanwhile. Returns how much that was.
    pub(super) fn restore(&mut self) -> Result<usize, FirewallError> {
        let known = recall()?;
        let forgotten = self.before.iter().filter(|it| !known.contains(it)).count();
        if forgotten > 0 {
            // Another server may have noted more since.
            memorise(&merge(self.before.clone(), known))?;
        }
        Ok(forgotten + self.switch()?)
    }

    /// What parameters say that will say something else.
    fn about_to_change(&self) -> Vec<Parameter> {
        let mut about_to_change = Vec::new();
        if is(IPV4, "0") {
            about_to_change.push(Parameter::new(IPV4, "0"));
            about_to_change.extend(self.interfaces_with("ipv4", "forwarding", "1"));
            if let Ok(value) = sysctl::read(IPV4_REDIRECTS) {
                about_to_change.push(Parameter::new(IPV4_REDIRECTS, value));
            }
        }
        if self.has_ipv6 && is(IPV6, "0") {
            about_to_change.push(Parameter::new(IPV6, "0"));
            about_to_change.extend(self.interfaces_with("ipv6", "forwarding", "1"));
            about_to_change.extend(self.interfaces_with("ipv6", "accept_ra", "1"));
        }
        about_to_change
    }

    /// Switches on what is off. Returns how much that was.
    fn switch(&self) -> Result<usize, FirewallError> {
        let mut wanted = Vec::new();
        if is(IPV4, "0") {
            wanted.push(Parameter::new(IPV4, "1"));
        }
        if self.has_ipv6 && is(IPV6, "0") {
            let listening = self.interfaces_with("ipv6", "accept_ra", "1");
            wanted.extend(listening.into_iter().map(|it| Parameter::new(it.name, "2")));
            wanted.push(Parameter::new(IPV6, "1"));
        }
        for parameter in &wanted {
            parameter.write()?;
        }
        Ok(wanted.len())
    }

    /// The parameters of interfaces, and of those to come, that have this value.
    fn interfaces_with(&self, family: &str, parameter: &str, value: &str) -> Vec<Parameter> {
        let interfaces = sysctl::list(&format!("{family}/conf")).unwrap_or_default();
        let is_meant = |it: &String| *it != "all" && *it != self.tun && !it.contains(['"', '\\']);
        let names = interfaces.into_iter().filter(is_meant);
        let names = names.map(|it| format!("{family}/conf/{it}/{parameter}"));
        names.filter(|name| is(name, value)).map(|name| Parameter::new(name, value)).collect()
    }
}

/// Sets back what was changed, and forgets it. For when no server of this host needs it any more.
pub(super) fn switch_back() -> Result<(), FirewallError> {
    let before = recall()?;
    if before.is_empty() {
        return Ok(());
    }
    before.iter().for_each(Parameter::write_back);
    remove_table(TABLE)
}

/// What the table says.
fn recall() -> Result<Vec<Parameter>, FirewallError> {
    if nft::table(TABLE)?.is_none() {
        return Ok(Vec::new());
    }
    let objects = nft::json(&["list", "set", "inet", TABLE, "before"])?;
    let elements = objects.iter().filter_map(|it| it.pointer("/set/elem")?.as_array()).flatten();
    let number = |element: &&Value| element.pointer("/elem/val").and_then(Value::as_u64);
    let mut elements: Vec<_> = elements.collect();
    elements.sort_by_key(number);
    let parameter = |element: &Value| {
        let (name, value) = element.pointer("/elem/comment")?.as_str()?.rsplit_once('=')?;
        Some(Parameter::new(name, value))
    };
    let parameters = elements.into_iter().map(parameter).collect::<Option<Vec<_>>>();
    parameters.ok_or_else(|| FirewallError::Answer(io::Error::other(format!("table {TABLE}"))))
}

/// Adds those of `others` that `parameters` does not have.
fn merge(mut parameters: Vec<Parameter>, others: Vec<Parameter>) -> Vec<Parameter> {
    for other in others {
        if !parameters.iter().any(|known| known.name == other.name) {
            parameters.push(other);
        }
    }
    parameters
}

/// Notes what is about to change, before it does.
fn memorise(before: &[Parameter]) -> Result<(), FirewallError> {
    if before.is_empty() {
        return Ok(());
    }
    let comments = before.iter().map(|it| format!("{}={}", it.name, it.value));
    let elements: Vec<_> =
        (1..).zip(comments).map(|(number, it)| format!("{number} comment \"{it}\"")).collect();
    let elements = elements.join(", ");
    put_table(TABLE, &format!("set before {{\ntype mark\nelements = {{ {elements} }}\n}}\n"))
}
