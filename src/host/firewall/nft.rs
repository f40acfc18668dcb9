//! Asking `nft` (nft(8)), which gets a script on its standard input: the kernel takes all of it or
//! nothing, between two packets.

use std::io;

use super::FirewallError;
use crate::host::program::{Program, ProgramError};
use crate::limits::FIREWALL_WITHIN;

const MENDING: &str = "install nftables (Debian: `apt install nftables`)";

/// Whether it is installed. Where it is not, it cannot have made anything either.
pub(super) fn is_installed() -> bool {
    Program::find("nft", FIREWALL_WITHIN).is_some()
}

fn nft(arguments: &[&str], script: &str) -> Result<String, ProgramError> {
    let program = Program::find("nft", FIREWALL_WITHIN);
    let program = program.ok_or(ProgramError::Missing { name: "nft", mending: MENDING })?;
    program.run(arguments, script)
}

/// Has all of a script done, or nothing.
pub(super) fn apply(script: &str) -> Result<(), FirewallError> {
    nft(&["-f", "-"], script).map_err(explain)?;
    Ok(())
}

/// What there is of a table, without what changes with every packet; `None` if there is none.
pub(super) fn table(name: &str) -> Result<Option<String>, FirewallError> {
    match nft(&["-s", "list", "table", "inet", name], "") {
        Ok(text) => Ok(Some(text)),
        Err(ProgramError::Failed { said, .. }) if said.contains("No such file or directory") => {
            Ok(None)
        }
        Err(error) => Err(explain(error)),
    }
}

/// What a command says in JSON (libnftables-json(5)).
pub(super) fn json(command: &[&str]) -> Result<Vec<serde_json::Value>, FirewallError> {
    let arguments: Vec<&str> = std::iter::once("-j").chain(command.iter().copied()).collect();
    let text = nft(&arguments, "").map_err(explain)?;
    let mut answer: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| FirewallError::Answer(io::Error::from(error)))?;
    match answer.get_mut("nftables").map(serde_json::Value::take) {
        Some(serde_json::Value::Array(objects)) => Ok(objects),
        _ => Err(FirewallError::Answer(io::Error::other("no list of objects"))),
    }
}

fn explain(error: ProgramError) -> FirewallError {
    match error {
        ProgramError::Failed { said, .. } if said.contains("Operation not permitted") => {
            FirewallError::Forbidden
        }
        error => FirewallError::Program(error),
    }
}
