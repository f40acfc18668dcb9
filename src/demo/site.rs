//! The files of a demo: keys, configurations, status sockets, logs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::directory::PrivateDirectory;
use super::{DemoError, DemoOptions};
use crate::handshake::keys::{PrivateKey, PublicKey};
use crate::lab::addresses::SERVER_V4;

/// Addresses inside the tunnel: a private range (RFC 1918) and a unique local one (RFC 4193).
pub(super) const SERVER_INNER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(super) const SERVER_INNER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub(super) const CLIENT_INNER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(super) const CLIENT_INNER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
/// The server's UDP port.
const PORT: u16 = 20443;
/// The TUN devices of both hosts.
const TUN_NAME: &str = "corelane0";

/// One daemon's files.
#[derive(Clone, Debug)]
pub(super) struct DaemonFiles {
    pub(super) config: PathBuf,
    pub(super) status_socket: PathBuf,
    pub(super) log: PathBuf,
}

/// The directory and what lies in it.
#[derive(Debug)]
pub(super) struct Site {
    directory: PrivateDirectory,
    pub(super) server: DaemonFiles,
    pub(super) client: DaemonFiles,
}

impl Site {
    /// Makes the directory, with fresh keys and configurations.
    pub(super) fn create(options: &DemoOptions) -> Result<Self, DemoError> {
        let directory = PrivateDirectory::create()?;
        let logs = options.keep_logs.as_deref().unwrap_or_else(|| directory.path()).to_owned();
        let files = |name: &str| DaemonFiles {
            config: directory.path().join(format!("{name}.toml")),
            status_socket: directory.path().join(format!("{name}.sock")),
            log: logs.join(format!("{name}.log")),
        };
        let (server, client) = (files("server"), files("client"));
        let site = Self { server, client, directory };
        fs::create_dir_all(&logs)
            .map_err(DemoError::io(format!("make the directory {}", logs.display())))?;
        site.write(options)?;
        Ok(site)
    }

    fn write(&self, options: &DemoOptions) -> Result<(), DemoError> {
        let (server_key_file, server_key) = self.write_key("server.key")?;
        let (client_key_file, client_key) = self.write_key("client.key")?;
        let listen = SocketAddr::from((SERVER_V4, PORT)).to_string();
        let server = Config {
            server: Some(ServerTable {
                listen: [listen.clone()],
                private_key_file: server_key_file,
            }),
            peer: Some([PeerTable {
                name: "client",
                public_key: client_key.to_string(),
                allowed_ips: [format!("{CLIENT_INNER_V4}/32"), format!("{CLIENT_INNER_V6}/128")],
            }]),
            ..Config::common(options, &self.server, SERVER_INNER_V4, SERVER_INNER_V6)
        };
        let client = Config {
            client: Some(ClientTable {
                server: listen,
                server_key: server_key.to_string(),
                private_key_file: client_key_file,
            }),
            ..Config::common(options, &self.client, CLIENT_INNER_V4, CLIENT_INNER_V6)
        };
        for (config, files) in [(server, &self.server), (client, &self.client)] {
            let text = toml::to_string(&config)
                .map_err(|error| DemoError::io("write a configuration")(io::Error::other(error)))?;
            write_private(&files.config, &text)?;
        }
        Ok(())
    }

    fn write_key(&self, name: &str) -> Result<(PathBuf, PublicKey), DemoError> {
        let key = PrivateKey::generate(&mut rand::rng());
        let path = self.directory.path().join(name);
        write_private(&path, &key.to_base64())?;
        Ok((path, key.public()))
    }
}

/// Writes a file that only this user can read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{text}"))
        .map_err(DemoError::io(format!("write {}", path.display())))
}

/// A configuration file of either role.
#[derive(Default, Serialize)]
struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<ClientTable>,
    tun: TunTable,
    workers: WorkersTable,
    status: StatusTable,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<[PeerTable; 1]>,
}

#[derive(Serialize)]
struct ServerTable {
    listen: [String; 1],
    private_key_file: PathBuf,
}

#[derive(Serialize)]
struct ClientTable {
    server: String,
    server_key: String,
    private_key_file: PathBuf,
}

#[derive(Default, Serialize)]
struct TunTable {
    name: &'static str,
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
}

#[derive(Default, Serialize)]
struct WorkersTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u16>,
}

#[derive(Default, Serialize)]
struct StatusTable {
    socket: PathBuf,
}

#[derive(Serialize)]
struct PeerTable {
    name: &'static str,
    public_key: String,
    allowed_ips: [String; 2],
}

impl Config {
    fn common(options: &DemoOptions, files: &DaemonFiles, v4: Ipv4Addr, v6: Ipv6Addr) -> Self {
        Self {
            tun: TunTable {
                name: TUN_NAME,
                addresses: vec![format!("{v4}/24"), format!("{v6}/64")],
                mtu: options.mtu,
            },
            workers: WorkersTable { count: options.workers },
            status: StatusTable { socket: files.status_socket.clone() },
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::Site;
    use crate::config::Source;
    use crate::demo::DemoOptions;

    fn source(file: &std::path::Path) -> Source {
        Source { file: Some(file.to_owned()), overrides: Vec::new(), peers: Vec::new() }
    }

    #[test]
    fn the_configurations_are_accepted_and_everything_is_private_and_removed() {
        let logs = tempfile::tempdir().unwrap();
        let options = DemoOptions {
            duration: Duration::from_secs(1),
            workers: Some(2),
            mtu: Some(1300),
            keep_logs: Some(logs.path().join("deep").join("er")),
            program: "corelane".into(),
        };
        let site = Site::create(&options).unwrap();
        let server = source(&site.server.config).load_serve().unwrap();
        let client = source(&site.client.config).load_up().unwrap();
        assert!(server.warnings.is_empty() && client.warnings.is_empty());
        assert_eq!((server.config.workers.count, server.config.tun.mtu), (Some(2), 1300));
        assert_eq!(client.config.status_socket, site.client.status_socket);
        assert_eq!(server.config.peers.len(), 1);
        assert!(options.keep_logs.unwrap().is_dir());
        assert_eq!(fs::metadata(site.directory.path()).unwrap().mode() & 0o777, 0o700);
        let mut entries = 0;
        for entry in fs::read_dir(site.directory.path()).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
            entries += 1;
        }
        assert_eq!(entries, 4);
        let directory = site.directory.path().to_owned();
        drop(site);
        assert!(!directory.exists());
    }
}
