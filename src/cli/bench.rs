//! `corelane bench`: the traffic generator on its own.

use crate::cli::CliError;

/// Arguments of `corelane bench`.
#[derive(clap::Args, Debug)]
pub struct BenchArgs {}

/// Runs `corelane bench`.
///
/// # Errors
/// The traffic generator failed.
pub fn run(_args: BenchArgs) -> Result<(), CliError> {
    Err(CliError::failure("the traffic generator is not part of this build"))
}
