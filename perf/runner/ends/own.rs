//! Corelane itself, by its command line.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use corelane::limits::PIN_CPUS_MIN;
use corelane::sys::affinity;

use super::{
    Ends, INNER_CLIENT, INNER_SERVER, Setting, TUN, outer_server, with_prefix, write_private,
};
use crate::runner::Failure;
use crate::runner::process::output_of;
use crate::runner::programs::{CORELANE, Programs};

pub(super) fn ends(setting: &Setting<'_>, workers: usize) -> Result<Ends, Failure> {
    let (program, directory) = (setting.programs.path(CORELANE)?, setting.directory);
    let server_keys = KeyPair::generate(setting.programs)?;
    let client_keys = KeyPair::generate(setting.programs)?;
    write_private(directory.join("server.key"), &server_keys.private)?;
    write_private(directory.join("client.key"), &client_keys.private)?;
    // Both ends share this machine's CPUs: where workers are pinned, they take them from opposite
    // sides, so that single workers do not share one.
    let mut cpus = affinity::allowed_cpus()?;
    if cpus.len() < PIN_CPUS_MIN {
        cpus.clear();
    }
    let mut server = setting.lab.server.command(&program)?;
    server.arg("serve").args(["--listen", &outer_server()]);
    server.args(["--peer", &format!("{}={INNER_CLIENT}/32", client_keys.public)]);
    add_shared(&mut server, directory, ("server", INNER_SERVER), cpus.get(..workers), workers);
    cpus.reverse();
    let mut client = setting.lab.client.command(&program)?;
    client.args(["up", "--server", &outer_server(), "--server-key", &server_keys.public]);
    add_shared(&mut client, directory, ("client", INNER_CLIENT), cpus.get(..workers), workers);
    Ok(Ends { server: server.into(), client: client.into() })
}

fn add_shared(
    command: &mut Command,
    directory: &Path,
    (role, address): (&str, Ipv4Addr),
    cpus: Option<&[usize]>,
    workers: usize,
) {
    command.args(["--tun", TUN, "--address", &with_prefix(address)]);
    command.args(["--workers", &workers.to_string()]);
    if let Some(cpus) = cpus {
        let list: Vec<_> = cpus.iter().map(usize::to_string).collect();
        command.args(["--cpus", &list.join(",")]);
    }
    command.arg("--private-key-file").arg(directory.join(format!("{role}.key")));
    command.arg("--status-socket").arg(directory.join(format!("{role}.sock")));
    command.args(["--log-level", "warn"]);
}

/// An X25519 key pair in base64, as Corelane and WireGuard write it.
pub(super) struct KeyPair {
    pub(super) private: String,
    pub(super) public: String,
}

impl KeyPair {
    pub(super) fn generate(programs: &Programs) -> Result<Self, Failure> {
        let key = |name: &str, input: &str| -> Result<String, Failure> {
            let mut command = Command::new(programs.path(CORELANE)?);
            command.args(["key", name]);
            Ok(output_of(&format!("corelane key {name}"), command, input)?.trim().to_owned())
        };
        let private = key("generate", "")?;
        Ok(Self { public: key("public", &private)?, private })
    }
}
