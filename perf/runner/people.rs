//! A server where people log in, as the measurements set it up.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use corelane::login::pki::PkiDirectory;

/// The configuration of a server at `address`, which is `inner` inside the tunnel and keeps its
/// files where `file` says.
pub(crate) fn server_config(
    address: SocketAddr,
    inner: Ipv4Addr,
    pki: &PkiDirectory,
    file: impl Fn(&str) -> PathBuf,
) -> String {
    format!(
        "[server]\nlisten = [\"{address}\"]\nprivate_key_file = {:?}\n\
         [tun]\naddresses = [\"{inner}/16\"]\n\
         [login]\nlisten = [\"{address}\"]\ncertificate_file = {:?}\nkey_file = {:?}\n\
         [accounts]\nserver_name = \"vpn\"\n\
         database = {:?}\nspool_file = {:?}\nsocket = {:?}\n",
        file("server.key"),
        pki.server_certificate(),
        pki.server_key(),
        file("accounts.db"),
        file("spool"),
        file("accounts.sock"),
    )
}

/// Writes what its owner alone may read.
pub(crate) fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
    fs::write(path, secret)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
}
