//! Programs that look after the name servers of a host.

use std::path::Path;

use super::DnsRequest;
use crate::host::netlink::Netlink;
use crate::host::program::{Program, ProgramError};
use crate::limits::DNS_PROGRAM_WITHIN;

/// The program that tells systemd-resolved (resolvectl(1)).
#[derive(Clone, Debug)]
pub(super) struct Resolvectl(Program);

impl Resolvectl {
    pub(super) fn find() -> Result<Self, ProgramError> {
        let mending = "install systemd-resolved, or choose another `mode` in [dns]";
        let program = Program::find("resolvectl", DNS_PROGRAM_WITHIN);
        program.map(Self).ok_or(ProgramError::Missing { name: "resolvectl", mending })
    }

    /// A domain with `~` in front says whose name servers to ask and is not searched; `~.` is all.
    pub(super) fn install(&self, tun: &str, request: &DnsRequest) -> Result<(), ProgramError> {
        let servers: Vec<String> = request.servers.iter().map(ToString::to_string).collect();
        let is_for_all = request.split.is_empty() && !servers.is_empty();
        let mut domains = request.search.clone();
        domains.extend(request.split.iter().map(|domain| format!("~{domain}")));
        if is_for_all {
            domains.push("~.".to_owned());
        }
        self.tell("dns", tun, &servers)?;
        self.tell("domain", tun, &domains)?;
        self.tell("default-route", tun, &[if is_for_all { "yes" } else { "no" }.to_owned()])
    }

    /// resolved forgets what it knows of a device with the device itself, which may be gone first.
    pub(super) fn remove(&self, tun: &str) -> Result<(), ProgramError> {
        let reverted = self.tell("revert", tun, &[]);
        let link = Netlink::open().and_then(|mut netlink| netlink.link(tun));
        if link.is_err_and(|error| error.is_not_found()) {
            return Ok(());
        }
        reverted
    }

    /// An empty word takes away what there is, except with what takes no words at all.
    fn tell(&self, verb: &str, tun: &str, words: &[String]) -> Result<(), ProgramError> {
        let mut arguments = vec![verb, tun];
        arguments.extend(words.iter().map(String::as_str));
        if words.is_empty() && verb != "revert" {
            arguments.push("");
        }
        self.0.run(&arguments, "").map(drop)
    }
}

/// The program of Debian or of openresolv (resolvconf(8)).
#[derive(Clone, Debug)]
pub(super) struct Resolvconf(Program);

impl Resolvconf {
    pub(super) fn find() -> Result<Self, ProgramError> {
        let mending = "install openresolv, or choose another `mode` in [dns]";
        let missing = ProgramError::Missing { name: "resolvconf", mending };
        // That of systemd-resolved tells resolved, which the file does not lead to.
        let is_itself = |it: &Program| {
            std::fs::canonicalize(it.path()).is_ok_and(|path| !path.ends_with("resolvectl"))
        };
        Program::find("resolvconf", DNS_PROGRAM_WITHIN).filter(is_itself).map(Self).ok_or(missing)
    }

    /// Of several interfaces those of this one come first, alone if they are for everything; else
    /// they are for their own domains where a local name server can tell domains apart.
    pub(super) fn install(&self, tun: &str, request: &DnsRequest) -> Result<(), ProgramError> {
        let mut text = String::new();
        for server in &request.servers {
            text += &format!("nameserver {server}\n");
        }
        let domains: Vec<&str> =
            request.search.iter().chain(&request.split).map(String::as_str).collect();
        if !domains.is_empty() {
            text += &format!("search {}\n", domains.join(" "));
        }
        let whose = if request.split.is_empty() { "-x" } else { "-p" };
        self.0.run(&["-a", &record(tun), "-m", "0", whose], &text).map(drop)
    }

    pub(super) fn remove(&self, tun: &str) -> Result<(), ProgramError> {
        self.0.run(&["-d", &record(tun), "-f"], "").map(drop)
    }

    /// Takes away what a run that was killed has left, of which there is a file.
    pub(super) fn remove_leftovers(tun: &str) -> Result<(), ProgramError> {
        const DIRECTORIES: [&str; 3] =
            ["/run/resolvconf/interface", "/run/resolvconf/interfaces", "/run/resolvconf/keys"];
        let name = record(tun);
        if !DIRECTORIES.iter().any(|directory| Path::new(directory).join(&name).exists()) {
            return Ok(());
        }
        log::info!("resolvconf has name servers of a run that was killed, which are taken away");
        Self::find()?.remove(tun)
    }
}

/// What the name servers of a tunnel are called. Debian's program sorts by these names, and puts
/// those of tunnels first.
fn record(tun: &str) -> String {
    match Path::new("/etc/resolvconf/interface-order").exists() {
        true => format!("tun.{tun}"),
        false => tun.to_owned(),
    }
}
