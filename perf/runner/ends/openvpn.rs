//! OpenVPN between two peers, over UDP and TUN, with TLS certificates that each knows of the other
//! and AES-256-GCM. The rest is as it comes: an inner MTU of 1500, which the link carries in
//! fragments.

use std::net::Ipv4Addr;
use std::process::Command;

use corelane::lab::addresses;

use super::certificate::Certificate;
use super::{Ends, INNER_CLIENT, INNER_SERVER, PORT, Setting, TUN};
use crate::runner::Failure;

pub(super) fn ends(setting: &Setting<'_>) -> Result<Ends, Failure> {
    let program = setting.programs.path("openvpn")?;
    let certificate = |role| Certificate::generate(setting.programs, setting.directory, role);
    let (server_certificate, client_certificate) = (certificate("server")?, certificate("client")?);
    let mut server = setting.lab.server.command(&program)?;
    server.args(["--tls-server", "--dh", "none", "--port", &PORT.to_string()]);
    server.args(["--local", &addresses::SERVER_V4.to_string()]);
    add_shared(&mut server, (INNER_SERVER, INNER_CLIENT), &server_certificate, &client_certificate);
    let mut client = setting.lab.client.command(&program)?;
    client.args(["--tls-client", "--nobind"]);
    client.args(["--remote", &addresses::SERVER_V4.to_string(), &PORT.to_string()]);
    add_shared(&mut client, (INNER_CLIENT, INNER_SERVER), &client_certificate, &server_certificate);
    Ok(Ends { server: server.into(), client: client.into() })
}

fn add_shared(
    command: &mut Command,
    (near, far): (Ipv4Addr, Ipv4Addr),
    own: &Certificate,
    other: &Certificate,
) {
    command.args(["--proto", "udp", "--dev", TUN, "--dev-type", "tun", "--verb", "1"]);
    command.args(["--ifconfig", &near.to_string(), &far.to_string()]);
    command.args(["--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM"]);
    command.arg("--cert").arg(&own.certificate).arg("--key").arg(&own.key);
    command.args(["--peer-fingerprint", &other.fingerprint]);
}
