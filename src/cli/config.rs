//! `corelane config`: check a file, show what is in force.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::cli::settings::{ConfigFile, SetArgs};
use crate::cli::{CliError, output};
use crate::config::{self, Role, Source};

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Report everything that is wrong with a file, key files included
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Print the configuration in force, with the origin of each value; never a secret
    Show {
        /// Defaults filled in
        #[arg(long, required = true)]
        effective: bool,
        #[command(flatten)]
        file: ConfigFile,
        /// Whose defaults to show, where the file does not tell
        #[arg(long)]
        role: Option<RoleArg>,
        #[command(flatten)]
        set: SetArgs,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum RoleArg {
    Server,
    Client,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Server => Self::Server,
            RoleArg::Client => Self::Client,
        }
    }
}

pub(crate) fn run(command: ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Check { file } => {
            let (command, report) = config::check_file(&file)?;
            output::warn(&report.to_string());
            output::print(&format!("{}: ok for `{}`\n", file.display(), command))
        }
        ConfigCommand::Show { effective: _, file, role, set } => {
            let source =
                Source { file: file.config, overrides: set.overrides(), peers: Vec::new() };
            output::print(&source.show_effective(role.map(Role::from))?)
        }
    }
}
