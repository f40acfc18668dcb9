//! `corelane completion` and `corelane man`: files made from the definition of the command line.

use std::path::Path;

use clap::CommandFactory;

use crate::cli::{Cli, CliError, output};
use crate::exit::ExitCode;

/// Prints the completion script of a shell.
pub(crate) fn completion(shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "corelane", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

/// Writes one manual page per command into `directory`.
pub(crate) fn man(directory: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .map_err(|error| {
            let message = format!("cannot write manual pages to {}: {error}", directory.display());
            CliError::new(ExitCode::of_io_error(&error), message)
        })
}
