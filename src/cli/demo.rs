//! `corelane demo`: a server and a client at work between two network namespaces.

use crate::cli::CliError;

/// Arguments of `corelane demo`.
#[derive(clap::Args, Debug)]
pub struct DemoArgs {}

/// Runs `corelane demo`.
///
/// # Errors
/// The demonstration failed.
pub fn run(_args: DemoArgs) -> Result<(), CliError> {
    Err(CliError::failure("the demonstration is not part of this build"))
}
