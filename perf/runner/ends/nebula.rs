//! Nebula, two hosts that know each other's certificate authority; no lighthouse. AES-256-GCM,
//! which is its default.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use corelane::lab::addresses;
use serde_json::{Value, json};

use super::{Ends, INNER_CLIENT, INNER_SERVER, PORT, Setting, TUN, outer_server, with_prefix};
use super::{read, write_private};
use crate::runner::Failure;
use crate::runner::process::output_of;

/// Its own default is 1300 bytes, which the datagrams of 1300 bytes do not fit into.
const MTU: u32 = 1420;

pub(super) fn ends(setting: &Setting<'_>) -> Result<Ends, Failure> {
    let (program, directory) = (setting.programs.path("nebula")?, setting.directory);
    let nebula_cert = setting.programs.path("nebula-cert")?;
    let mut authority = Command::new(&nebula_cert);
    authority.args(["ca", "-name", "perf"]);
    authority.arg("-out-crt").arg(directory.join("ca.crt"));
    authority.arg("-out-key").arg(directory.join("ca.key"));
    output_of("nebula-cert ca", authority, "")?;
    for (role, address) in [("server", INNER_SERVER), ("client", INNER_CLIENT)] {
        output_of("nebula-cert sign", sign(&nebula_cert, directory, role, address), "")?;
    }
    let server_settings = json!({ "host": addresses::SERVER_V4, "port": PORT });
    let server_file = configure(directory, "server", &json!({}), &server_settings)?;
    let known = json!({ INNER_SERVER.to_string(): [outer_server()] });
    let client_settings = json!({ "host": Ipv4Addr::UNSPECIFIED, "port": 0 });
    let client_file = configure(directory, "client", &known, &client_settings)?;
    let mut server = setting.lab.server.command(&program)?;
    server.arg("-config").arg(server_file);
    let mut client = setting.lab.client.command(&program)?;
    client.arg("-config").arg(client_file);
    Ok(Ends { server: server.into(), client: client.into() })
}

fn sign(nebula_cert: &Path, directory: &Path, role: &str, address: Ipv4Addr) -> Command {
    let mut command = Command::new(nebula_cert);
    command.args(["sign", "-name", role, "-ip", &with_prefix(address)]);
    command.arg("-ca-crt").arg(directory.join("ca.crt"));
    command.arg("-ca-key").arg(directory.join("ca.key"));
    command.arg("-out-crt").arg(directory.join(format!("{role}.crt")));
    command.arg("-out-key").arg(directory.join(format!("{role}.key")));
    command
}

/// Writes the configuration of one host: YAML, of which JSON is a part. Keys and certificates stand
/// in it.
fn configure(
    directory: &Path,
    role: &str,
    known: &Value,
    listen: &Value,
) -> Result<PathBuf, Failure> {
    let anything = json!([{ "port": "any", "proto": "any", "host": "any" }]);
    let configuration = json!({
        "pki": {
            "ca": read(&directory.join("ca.crt"))?,
            "cert": read(&directory.join(format!("{role}.crt")))?,
            "key": read(&directory.join(format!("{role}.key")))?,
        },
        "static_host_map": known,
        "lighthouse": { "am_lighthouse": false, "hosts": [] },
        "listen": listen,
        "punchy": { "punch": false },
        "tun": { "dev": TUN, "mtu": MTU },
        "logging": { "level": "warning" },
        "firewall": { "outbound": anything, "inbound": anything },
    });
    Ok(write_private(directory.join(format!("{role}.yml")), &configuration.to_string())?)
}
