//! Two servers as administrators make them, and a client that may log in to either.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use totp_rs::Totp;

use crate::accounts::credentials::password;
use crate::accounts::secret::Secret;
use crate::demo::directory::PrivateDirectory;
use crate::demo::site::{DaemonFiles, write_private};
use crate::demo::{DemoError, DemoOptions};
use crate::lab::addresses::{ROUTER_CLIENT_SIDE_V4, SERVER_V4};
use crate::sys::clock;

/// UDP port of the tunnel, and TCP port of logins.
pub(super) const PORT: u16 = 20443;
/// Who logs in.
pub(super) const USER: &str = "alice";

/// A server: what it is called, and where clients reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) address: Ipv4Addr,
}

/// The server that is used as long as it answers.
pub(super) const FIRST: Place = Place { name: "first", address: SERVER_V4 };
/// The one that stands in for it; it runs on the router.
pub(super) const SECOND: Place = Place { name: "second", address: ROUTER_CLIENT_SIDE_V4 };

/// The files of all, in a directory that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Site {
    directory: PrivateDirectory,
    program: PathBuf,
    logs: PathBuf,
    password: Secret,
}

impl Site {
    /// Makes both servers, with a user each, and the client's configuration.
    pub(super) fn create(options: &DemoOptions) -> Result<Self, DemoError> {
        let directory = PrivateDirectory::create()?;
        let logs = options.keep_logs.as_deref().unwrap_or_else(|| directory.path()).to_owned();
        fs::create_dir_all(&logs)
            .map_err(DemoError::io(format!("make the directory {}", logs.display())))?;
        let password = password::generate(&mut rand::rng());
        let site = Self { directory, program: options.program.clone(), logs, password };
        let authorities = [FIRST, SECOND].map(|place| site.make_server(place, options));
        let mut bundle = String::new();
        for authority in authorities {
            let path = authority?;
            let text = fs::read_to_string(&path);
            bundle += &text.map_err(DemoError::io(format!("read {}", path.display())))?;
        }
        site.make_client(&bundle, options)?;
        Ok(site)
    }

    /// `corelane init vpn`, then what a demo wants otherwise. Returns the file of its authority.
    fn make_server(&self, place: Place, options: &DemoOptions) -> Result<PathBuf, DemoError> {
        let directory = self.path(place.name);
        let (address, port) = (place.address.to_string(), PORT.to_string());
        let text = directory.to_string_lossy().into_owned();
        let ports = ["--port", &port, "--login-port", &port, "--nat", "off"];
        let init = ["init", "vpn", "--address", &address, "--dir", &text];
        self.run(&[&init[..], &ports[..]].concat(), None)?;
        let files = self.server_files(place);
        let config = fs::read_to_string(&files.config)
            .map_err(DemoError::io(format!("read {}", files.config.display())))?;
        let accounts = format!("[accounts]\nserver_name = {}\n", quoted(place.name));
        let config = config.replacen("[accounts]\n", &accounts, 1) + &common(&files, options);
        fs::write(&files.config, config)
            .map_err(DemoError::io(format!("write {}", files.config.display())))?;
        let secret = format!("{}\n", self.password.expose());
        self.administer(place, &["user", "add", USER, "--password-stdin"], Some(&secret))?;
        Ok(directory.join("pki/ca.crt"))
    }

    fn make_client(&self, authorities: &str, options: &DemoOptions) -> Result<(), DemoError> {
        let authority = self.path("authorities.crt");
        write_private(&authority, authorities)?;
        let files = self.client_files();
        let at = |place: Place| quoted(SocketAddr::from((place.address, PORT)).to_string());
        let config = format!(
            "[login]\nservers = [{}]\nbackup_servers = [{}]\nca_file = {}\nuser = {}\n\
             device_name = \"laptop\"\nstate_directory = {}\n{}",
            at(FIRST),
            at(SECOND),
            quoted(&authority),
            quoted(USER),
            quoted(self.path("state")),
            common(&files, options),
        );
        write_private(&files.config, &config)
    }

    /// Lets the user's password at `place` need a code as well, and returns the code of now.
    pub(super) fn demand_codes(&self, place: Place) -> Result<Secret, DemoError> {
        #[derive(Deserialize)]
        struct Answer {
            address: Secret,
        }
        let failed = |error: String| {
            DemoError::io("read the secret of an authenticator")(io::Error::other(error))
        };
        let json = self.administer(place, &["user", "totp", USER, "--json"], None)?;
        let answer: Answer =
            serde_json::from_str(&json).map_err(|error| failed(error.to_string()))?;
        let totp =
            Totp::from_url(answer.address.expose()).map_err(|error| failed(error.to_string()))?;
        Ok(Secret::new(totp.generate(clock::unix_time().as_secs()).to_string()))
    }

    /// What somebody would type to log in.
    pub(super) fn typed(&self, code: &Secret) -> Secret {
        Secret::new(format!("{}\n{}\n", self.password.expose(), code.expose()))
    }

    /// Runs a command of an administrator of `place`.
    pub(super) fn administer(
        &self,
        place: Place,
        arguments: &[&str],
        secret: Option<&str>,
    ) -> Result<String, DemoError> {
        let config = self.server_files(place).config;
        let config = config.to_string_lossy();
        self.run(&[arguments, &["-c", &config]].concat(), secret)
    }

    fn run(&self, arguments: &[&str], secret: Option<&str>) -> Result<String, DemoError> {
        let failed = || DemoError::io(format!("run `corelane {}`", arguments.join(" ")));
        let input = if secret.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed())?;
        if let (Some(secret), Some(mut input)) = (secret, child.stdin.take()) {
            input.write_all(secret.as_bytes()).map_err(failed())?;
        }
        let output = child.wait_with_output().map_err(failed())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let (command, output_text) = (arguments.join(" "), text(&output.stderr));
        Err(DemoError::Command { command, status: output.status, output: output_text })
    }

    pub(super) fn server_files(&self, place: Place) -> DaemonFiles {
        self.files(place.name, self.path(place.name).join("server.toml"))
    }

    pub(super) fn client_files(&self) -> DaemonFiles {
        self.files("client", self.path("client.toml"))
    }

    fn files(&self, name: &str, config: PathBuf) -> DaemonFiles {
        let status_socket = self.path(&format!("{name}.sock"));
        DaemonFiles { config, status_socket, log: self.logs.join(format!("{name}.log")) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// What every daemon of a demo has in its configuration.
fn common(files: &DaemonFiles, options: &DemoOptions) -> String {
    let mut text = format!("\n[status]\nsocket = {}\n", quoted(&files.status_socket));
    if let Some(workers) = options.workers {
        text += &format!("\n[workers]\ncount = {workers}\n");
    }
    text
}

/// A text as TOML has it.
fn quoted(text: impl AsRef<Path>) -> toml::Value {
    toml::Value::from(text.as_ref().to_string_lossy().into_owned())
}
