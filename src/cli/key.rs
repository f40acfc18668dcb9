//! `corelane key`: keys by stdin and stdout, never by an argument that `ps` would show.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use clap::Subcommand;
use zeroize::Zeroizing;

use crate::cli::{CliError, output};
use crate::handshake::keys::{PresharedKey, PrivateKey};

/// Bytes of stdin that are read at most: a key and generous white space.
const INPUT_LEN_MAX: u64 = 256;

#[derive(Subcommand, Debug)]
pub(crate) enum KeyCommand {
    /// Print a new private key; keep it in a file of mode 0600
    #[command(after_help = "Example: (umask 077; corelane key generate > private.key)")]
    Generate,
    /// Read a private key on stdin, print its public key
    #[command(after_help = "Example: corelane key public < private.key")]
    Public,
    /// Print a new pre-shared key; both ends keep a copy in a file of mode 0600
    #[command(after_help = "Example: (umask 077; corelane key preshared > laptop.psk)")]
    Preshared,
}

pub(crate) fn run(command: &KeyCommand) -> Result<(), CliError> {
    let mut rng = rand::rng();
    match command {
        KeyCommand::Generate => print_secret(&PrivateKey::generate(&mut rng).to_base64()),
        KeyCommand::Preshared => print_secret(&PresharedKey::generate(&mut rng).to_base64()),
        KeyCommand::Public => {
            let public = read_private_key()?.public();
            output::print(&format!("{public}\n"))
        }
    }
}

fn print_secret(key: &str) -> Result<(), CliError> {
    if stdout_is_exposed_file() {
        output::warn(
            "corelane: warning: others can read the file this key goes to: `chmod 600` it, or \
             set `umask 077` first\n",
        );
    }
    output::print(&Zeroizing::new(format!("{key}\n")))
}

fn stdout_is_exposed_file() -> bool {
    std::fs::metadata("/proc/self/fd/1")
        .is_ok_and(|stdout| stdout.is_file() && stdout.mode() & 0o077 != 0)
}

fn read_private_key() -> Result<PrivateKey, CliError> {
    let mut text = Zeroizing::new(String::with_capacity(INPUT_LEN_MAX as usize));
    io::stdin().lock().take(INPUT_LEN_MAX).read_to_string(&mut text).map_err(|error| {
        CliError::failure(format_args!("cannot read a private key from stdin: {error}"))
    })?;
    text.trim().parse().map_err(|error| {
        CliError::failure(format_args!(
            "stdin is not a private key: {error} (`corelane key public < private.key`)"
        ))
    })
}
