//! `corelane db`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::accounts::operations::Operation;
use crate::cli::CliError;
use crate::cli::accounts::{CommonArgs, done_text};

#[derive(Subcommand, Debug)]
pub(crate) enum DbCommand {
    /// Write all that is stored to a new SQLite file, while the server goes on
    Backup {
        /// The file; none may be there
        file: PathBuf,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) fn run(command: DbCommand) -> Result<(), CliError> {
    let DbCommand::Backup { file, common } = command;
    // The server has another working directory.
    let path = std::path::absolute(&file).unwrap_or(file);
    let what = format!("backed up to {}", path.display());
    common.run(Operation::Backup { path }, |outcome| done_text(&what, outcome))
}
