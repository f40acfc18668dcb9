//! The programs that speak WireGuard: each makes a device and is told the rest over a socket, in
//! the language of wireguard.com/xplatform.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use corelane::host::netlink::{Netlink, NetlinkError};
use corelane::lab::Host;
use ipnet::IpNet;

use super::own::KeyPair;
use super::{
    End, Ends, INNER_CLIENT, INNER_PREFIX_LEN, INNER_SERVER, PORT, Setting, Setup, outer_server,
};
use crate::runner::Failure;

/// Where these programs put their sockets. Network namespaces share it, so devices need names that
/// nobody else has.
const SOCKETS: &str = "/var/run/wireguard";
/// What `wg-quick` sets on a link of 1500 bytes.
const MTU: u32 = 1420;
/// How long a running program may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// wireguard-go, in the foreground.
pub(super) fn wireguard_go(setting: &Setting<'_>) -> Result<Ends, Failure> {
    ends(setting, "wireguard-go", "wg", |command, device| {
        command.args(["--foreground", device]).env("LOG_LEVEL", "error");
    })
}

/// boringtun, in the foreground, with as many threads as it starts by itself. It has to stay root
/// here, or nobody could set it up in a user namespace.
pub(super) fn boringtun(setting: &Setting<'_>) -> Result<Ends, Failure> {
    ends(setting, "boringtun-cli", "bt", |command, device| {
        command.args(["--foreground", "--disable-drop-privileges", device]);
    })
}

fn ends(
    setting: &Setting<'_>,
    program: &'static str,
    prefix: &str,
    arguments: impl Fn(&mut Command, &str),
) -> Result<Ends, Failure> {
    let path = setting.programs.path(program)?;
    let server_keys = KeyPair::generate(setting.programs)?;
    let client_keys = KeyPair::generate(setting.programs)?;
    let end = |host: &Host, role, address, configuration| -> Result<End, Failure> {
        let device = device_name(prefix, role);
        let mut command = host.command(&path)?;
        arguments(&mut command, &device);
        let socket = Path::new(SOCKETS).join(format!("{device}.sock"));
        let setup = WireguardSetup { device, socket, address, configuration };
        Ok(End { command, setup: Some(Box::new(setup)) })
    };
    let (private, public) = (hex(&server_keys.private)?, hex(&server_keys.public)?);
    let server = format!(
        "set=1\nprivate_key={private}\nlisten_port={PORT}\n\
         public_key={}\nallowed_ip={INNER_CLIENT}/32\n\n",
        hex(&client_keys.public)?
    );
    let client = format!(
        "set=1\nprivate_key={}\n\
         public_key={public}\nendpoint={}\nallowed_ip={INNER_SERVER}/32\n\n",
        hex(&client_keys.private)?,
        outer_server()
    );
    Ok(Ends {
        server: end(&setting.lab.server, 's', INNER_SERVER, server)?,
        client: end(&setting.lab.client, 'c', INNER_CLIENT, client)?,
    })
}

/// A name of at most 15 bytes (`IFNAMSIZ`) that no other process and no other bed uses.
fn device_name(prefix: &str, role: char) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{role}{:x}-{number:x}", std::process::id())
}

/// A key as the configuration socket wants it.
fn hex(base64: &str) -> Result<String, Failure> {
    let bytes = BASE64_STANDARD.decode(base64)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Keys, peer, address and MTU of a running end.
struct WireguardSetup {
    device: String,
    socket: PathBuf,
    address: Ipv4Addr,
    configuration: String,
}

impl Setup for WireguardSetup {
    fn try_apply(&self, host: &Host) -> Result<bool, Failure> {
        let Ok(mut socket) = UnixStream::connect(&self.socket) else { return Ok(false) };
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.write_all(self.configuration.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer)?;
        check(&answer)?;
        let address = IpNet::new_assert(self.address.into(), INNER_PREFIX_LEN);
        let configured = host.run(|| -> Result<(), NetlinkError> {
            let mut netlink = Netlink::open()?;
            let index = netlink.link_index(&self.device)?;
            netlink.set_mtu(index, MTU)?;
            netlink.add_address(index, address)?;
            netlink.set_up(index)
        })?;
        configured?;
        Ok(true)
    }
}

impl Drop for WireguardSetup {
    fn drop(&mut self) {
        // A killed program leaves its socket. The directory goes if nobody else has one there.
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_dir(SOCKETS);
    }
}

/// Fails unless the first line of an answer says that all is well.
fn check(answer: &str) -> Result<(), Failure> {
    match answer.trim_end().strip_prefix("errno=") {
        Some("0") => Ok(()),
        Some(errno) => Err(format!("the configuration was refused with errno {errno}").into()),
        None => Err(format!("the configuration was answered with {answer:?}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{check, device_name, hex};

    #[test]
    fn device_names_are_short_and_never_the_same() {
        let (one, other) = (device_name("wg", 's'), device_name("wg", 's'));
        assert_ne!(one, other);
        assert!(one.len() <= 15 && one.starts_with("wgs"), "{one}");
    }

    #[test]
    fn keys_are_written_in_hexadecimal() {
        assert_eq!(hex("AAH+/w==").unwrap(), "0001feff");
        assert!(hex("no key").is_err());
    }

    #[test]
    fn a_refused_configuration_is_an_error() {
        check("errno=0\n").unwrap();
        for (answer, reason) in [("errno=22\n", "errno 22"), ("", "\"\"")] {
            let error = check(answer).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
