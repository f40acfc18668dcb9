//! The configuration file of a server with many peers.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use corelane::handshake::keys::{PrivateKey, PublicKey};

use super::population::{Failure, prefixes};

/// Writes a server's configuration and key into `directory`. The peers own `prefixes_each` host
/// addresses apiece, inside the network of the tunnel; nobody has the private keys to their public
/// ones.
pub(crate) fn write_server(
    directory: &Path,
    peers: usize,
    prefixes_each: usize,
) -> Result<PathBuf, Failure> {
    let key_file = directory.join("server.key");
    fs::write(&key_file, PrivateKey::generate(&mut rand::rng()).to_base64())?;
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600))?;
    let mut text = format!(
        "[server]\nlisten = [\"127.0.0.1:20443\"]\nprivate_key_file = \"{}\"\n\n\
         [tun]\nname = \"corelane0\"\naddresses = [\"10.255.255.254/8\"]\n",
        key_file.display(),
    );
    for peer in 0..peers {
        // Keys of small numbers may be of low order, which a configuration refuses.
        let mut key = [9; 32];
        key[..8].copy_from_slice(&(peer as u64).to_le_bytes());
        let owned: Vec<_> =
            prefixes(peer, prefixes_each).iter().map(|prefix| format!("\"{prefix}\"")).collect();
        let (key, owned) = (PublicKey(key), owned.join(", "));
        write!(text, "\n[[peer]]\nname = \"device-{peer}\"\npublic_key = \"{key}\"\n")?;
        writeln!(text, "allowed_ips = [{owned}]")?;
    }
    let file = directory.join("server.toml");
    fs::write(&file, text)?;
    Ok(file)
}
