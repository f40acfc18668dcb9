//! Invites that were accepted: each becomes a directory with a configuration of its own, by which
//! the client comes up from then on.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::HostPort;
use crate::daemon::StateError;
use crate::daemon::client_state::{make_private_directory, read_secret, write_private};
use crate::login::invite::Invite;

/// The configuration in the directory of a profile.
const CONFIG: &str = "client.toml";
/// The token of the invite, which the device's own follows at the first login.
const INVITE_TOKEN: &str = "invite.token";

/// Why an invite cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Its servers are no servers.
    #[error("the invite names {0:?}, which is no server: ask for another")]
    BadServer(String),
    /// The directory cannot be made or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is none of that name.
    #[error(
        "there is no {}: accept an invite by `corelane up INVITE`, or name a file by `-c FILE`{}",
        .path.display(),
        others(.known)
    )]
    Unknown {
        /// The configuration that is not there.
        path: PathBuf,
        /// Those that are.
        known: Vec<String>,
    },
}

fn others(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!("; there are: {}", known.join(", ")) }
}

/// Accepts an invite: makes a directory for it in `root`, unless that was done before, and returns
/// the path of its configuration. A later invite for the same user at the same server takes the
/// place of an earlier one; the device stays the same.
///
/// # Errors
/// See [`ProfileError`].
pub fn accept(invite: &Invite, root: &Path) -> Result<PathBuf, ProfileError> {
    let parse = |server: &String| {
        server.parse::<HostPort>().map_err(|_| ProfileError::BadServer(server.clone()))
    };
    let servers = invite.servers.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let host = servers.first().map_or("", HostPort::host);
    let directory = root.join(format!("{}@{host}", invite.user));
    make_private_directory(&directory)?;
    let (config, token) = (directory.join(CONFIG), directory.join(INVITE_TOKEN));
    let is_known = token.exists()
        && read_secret(&token).is_ok_and(|known| known.expose() == invite.token.expose());
    if !is_known || !config.exists() {
        write_private(&config, &text(invite, &servers, &directory))?;
        write_private(&token, invite.token.expose())?;
    }
    Ok(config)
}

/// The configuration of the profile of that name.
///
/// # Errors
/// There is none.
pub fn find(name: &str, root: &Path) -> Result<PathBuf, ProfileError> {
    let path = root.join(name).join(CONFIG);
    // A name is no path to somewhere else.
    if !name.contains('/') && path.exists() {
        return Ok(path);
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let known = entries.filter(|entry| entry.path().join(CONFIG).exists());
    let known = known.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    Err(ProfileError::Unknown { path, known })
}

fn text(invite: &Invite, servers: &[HostPort], directory: &Path) -> String {
    let quoted = |text: String| toml::Value::String(text).to_string();
    let servers: Vec<String> = servers.iter().map(|it| quoted(it.to_string())).collect();
    let pin = invite.pin.map(|pin| format!("ca_pin = \"{pin}\"\n")).unwrap_or_default();
    let path = |path: PathBuf| quoted(path.display().to_string());
    format!(
        "# Made from an invite; `corelane up {name}` uses it.\n\n[login]\nservers = [{servers}]\n\
         {pin}user = {user}\ntoken_file = {token}\nstate_directory = {state}\n",
        name = directory.file_name().unwrap_or_default().display(),
        servers = servers.join(", "),
        user = quoted(invite.user.to_string()),
        token = path(directory.join(INVITE_TOKEN)),
        state = path(directory.to_owned()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use tempfile::TempDir;

    use super::*;
    use crate::accounts::secret::Secret;
    use crate::config::{FarSide, Source};

    fn invite(token: &str) -> Invite {
        Invite {
            servers: vec!["vpn.example.org:20443".to_owned(), "[2001:db8::1]:1".to_owned()],
            pin: Some("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".parse().unwrap()),
            user: "alice".parse().unwrap(),
            token: Secret::new(token.to_owned()),
            expires_unix_s: 0,
        }
    }

    #[test]
    fn an_invite_becomes_a_configuration_that_says_the_same() {
        let root = TempDir::new().unwrap();
        let path = accept(&invite("first"), root.path()).unwrap();
        let loaded = Source { file: Some(path.clone()), ..Source::default() }.load_up().unwrap();
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        let FarSide::Login(login) = loaded.config.far_side else { panic!("no login") };
        let servers: Vec<String> = login.servers.iter().map(HostPort::to_string).collect();
        assert_eq!(servers, ["vpn.example.org:20443", "[2001:db8::1]:1"]);
        assert_eq!(login.ca_pin, invite("").pin);
        assert_eq!(login.user.unwrap().as_str(), "alice");
        assert_eq!(read_secret(&login.token_file.unwrap()).unwrap().expose(), "first");
        let name = "alice@vpn.example.org";
        assert_eq!(login.state_directory, root.path().join(name));
        assert_eq!(find(name, root.path()).unwrap(), path);
        for file in [path.parent().unwrap(), &path] {
            assert_eq!(fs::metadata(file).unwrap().mode() & 0o077, 0, "{}", file.display());
        }
    }

    #[test]
    fn what_was_changed_stays_until_another_invite_comes() {
        let root = TempDir::new().unwrap();
        let path = accept(&invite("first"), root.path()).unwrap();
        let changed = format!("{}[log]\nlevel = \"debug\"\n", fs::read_to_string(&path).unwrap());
        fs::write(&path, &changed).unwrap();
        accept(&invite("first"), root.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), changed);
        accept(&invite("second"), root.path()).unwrap();
        assert_ne!(fs::read_to_string(&path).unwrap(), changed);
    }

    #[test]
    fn what_is_no_profile_is_not_found_and_the_others_are_named() {
        let root = TempDir::new().unwrap();
        accept(&invite("first"), root.path()).unwrap();
        for name in ["bob@vpn.example.org", "", "../x", "alice@vpn.example.org/../x"] {
            let error = find(name, root.path()).unwrap_err().to_string();
            assert!(error.contains("there are: alice@vpn.example.org"), "{name}: {error}");
        }
        let odd = Invite { servers: vec!["../../etc:1".to_owned()], ..invite("first") };
        assert!(matches!(accept(&odd, root.path()), Err(ProfileError::BadServer(_))));
    }
}
