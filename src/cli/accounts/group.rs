//! `corelane group`.

use clap::Subcommand;

use crate::accounts::names::Name;
use crate::accounts::operations::{GroupView, Operation, Outcome};
use crate::cli::CliError;
use crate::cli::accounts::limits::{self, LimitArgs};
use crate::cli::accounts::{CommonArgs, done_text, join, strange, table};

#[derive(Subcommand, Debug)]
pub(crate) enum GroupCommand {
    /// Make a group
    Add {
        /// Its name
        name: Name,
        #[command(flatten)]
        limits: Box<LimitArgs>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List groups
    Ls {
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Show a group
    Show {
        /// Its name
        name: Name,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Change what the members of a group may do; it holds at once for those who are online
    Set {
        /// Its name
        name: Name,
        #[command(flatten)]
        limits: Box<LimitArgs>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Remove a group; its members stay
    Rm {
        /// Its name
        name: Name,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) fn run(command: GroupCommand) -> Result<(), CliError> {
    match command {
        GroupCommand::Add { name, limits, common } => {
            let what = format!("group {name} is added");
            let operation = Operation::GroupAdd { name, limits: limits.changes() };
            common.run(operation, |outcome| done_text(&what, outcome))
        }
        GroupCommand::Ls { common } => common.run(Operation::GroupList {}, groups_text),
        GroupCommand::Show { name, common } => {
            common.run(Operation::GroupShow { name }, |outcome| match outcome {
                Outcome::Group(group) => group_text(group),
                other => strange(other),
            })
        }
        GroupCommand::Set { name, limits, common } => {
            let what = format!("group {name} is changed");
            let operation = Operation::GroupSet { name, limits: limits.changes() };
            common.run(operation, |outcome| done_text(&what, outcome))
        }
        GroupCommand::Rm { name, common } => {
            let what = format!("group {name} is removed");
            common.run(Operation::GroupRemove { name }, |outcome| done_text(&what, outcome))
        }
    }
}

fn groups_text(outcome: &Outcome) -> String {
    let Outcome::Groups(groups) = outcome else { return strange(outcome) };
    let row = |group: &GroupView| {
        [
            group.name.to_string(),
            group.members.len().to_string(),
            limits::text(&group.bounds),
            group.acl.len().to_string(),
        ]
    };
    let rows: Vec<_> = groups.iter().map(row).collect();
    table::render(["NAME", "MEMBERS", "LIMITS", "RULES"], &rows)
}

fn group_text(group: &GroupView) -> String {
    table::list(&[
        ("name", group.name.to_string()),
        ("members", join(&group.members)),
        ("limits", limits::text(&group.bounds)),
        ("rules", join(&group.acl)),
    ])
}
