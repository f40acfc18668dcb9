//! The commands that administer accounts: one file for each group of them.
//!
//! Each makes an [`Operation`] of its flags, has it done, and shows what came of it: by the running
//! server through its accounts socket, or, when that is stopped, on its database.

mod acl;
mod audit;
mod certificates;
mod db;
mod device;
mod group;
mod invite;
mod limits;
mod reach;
mod session;
mod stats;
mod table;
mod token;
mod user;

pub(super) use certificates::AuthorityAccounts;
pub(super) use reach::ReachArgs;

use clap::{Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::accounts::names::Name;
use crate::accounts::operations::{Done, Operation, Outcome};
use crate::cli::{CliError, output};

/// A command about accounts.
#[derive(Subcommand, Debug)]
pub(crate) enum AccountsCommand {
    /// Make, show, change and remove users
    User {
        #[command(subcommand)]
        command: user::UserCommand,
    },
    /// Make, show, change and remove groups of users
    Group {
        #[command(subcommand)]
        command: group::GroupCommand,
    },
    /// Show and remove the devices of users
    Device {
        #[command(subcommand)]
        command: device::DeviceCommand,
    },
    /// Show and end sessions
    Session {
        #[command(subcommand)]
        command: session::SessionCommand,
    },
    /// Make, show and revoke tokens
    Token {
        #[command(subcommand)]
        command: token::TokenCommand,
    },
    /// Invite a user: one line that a client logs in with, once
    Invite(invite::InviteArgs),
    /// Show what was moved
    Stats(stats::StatsArgs),
    /// Ask which rule decides
    Acl {
        #[command(subcommand)]
        command: acl::AclCommand,
    },
    /// Show who did what, and which logins were refused
    Audit(audit::AuditArgs),
    /// Care for the database
    Db {
        #[command(subcommand)]
        command: db::DbCommand,
    },
}

/// Flags that all of these commands have.
#[derive(Args, Debug)]
pub(crate) struct CommonArgs {
    /// JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

impl CommonArgs {
    /// Has an operation done and shows its outcome: as JSON, or as `text` puts it.
    fn run(
        &self,
        operation: Operation,
        text: impl FnOnce(&Outcome) -> String,
    ) -> Result<(), CliError> {
        let outcome = self.reach.execute(operation)?;
        self.show(&outcome, text)
    }

    fn show(
        &self,
        outcome: &Outcome,
        text: impl FnOnce(&Outcome) -> String,
    ) -> Result<(), CliError> {
        // It may hold a password or a token.
        let text = Zeroizing::new(if self.json { json_of(outcome)? } else { text(outcome) });
        output::print(&text)
    }
}

/// What an outcome holds, without the word that says what it is.
fn json_of(outcome: &Outcome) -> Result<String, CliError> {
    let json = serde_json::to_value(outcome).map_err(CliError::failure)?;
    line_of(&json.get("value").cloned().unwrap_or_default())
}

/// A line of JSON.
fn line_of(value: &impl Serialize) -> Result<String, CliError> {
    let mut line = serde_json::to_string_pretty(value).map_err(CliError::failure)?;
    line.push('\n');
    Ok(line)
}

pub(crate) fn run(command: AccountsCommand) -> Result<(), CliError> {
    match command {
        AccountsCommand::User { command } => user::run(command),
        AccountsCommand::Group { command } => group::run(command),
        AccountsCommand::Device { command } => device::run(command),
        AccountsCommand::Session { command } => session::run(command),
        AccountsCommand::Token { command } => token::run(command),
        AccountsCommand::Invite(args) => invite::run(&args),
        AccountsCommand::Stats(args) => stats::run(args),
        AccountsCommand::Acl { command } => acl::run(command),
        AccountsCommand::Audit(args) => audit::run(args),
        AccountsCommand::Db { command } => db::run(command),
    }
}

/// What became of a change, in a line: `what`, and how long it took to close every path.
fn done_text(what: &str, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(done) => format!("{what}{}\n", consequences(done)),
        other => strange(other),
    }
}

fn consequences(done: &Done) -> String {
    let mut text = String::new();
    let sessions = (done.sessions_ended, "session");
    let ended: Vec<_> = [sessions, (done.proxy_logins_ended, "proxy login")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
        .collect();
    let ended = ended.join(" and ");
    match done.closed_ms {
        _ if ended.is_empty() => {}
        Some(ms) => text.push_str(&format!("; {ended} ended, every path closed in {ms:.1} ms")),
        None => text.push_str(&format!(
            "; {ended} ended, but the server did not confirm that every path is closed (its log \
             may say why)"
        )),
    }
    if !done.stored {
        text.push_str(
            "; the database is away, or its disk is full (`corelane status` says which): it is in \
             force, and stored when that is over if the server runs until then",
        );
    }
    text
}

/// For an answer to another question, which a server of another version may give.
fn strange(outcome: &Outcome) -> String {
    format!("the server answered something else: {}\n", serde_json::json!(outcome)["outcome"])
}

fn join(names: impl IntoIterator<Item = impl ToString>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| name.to_string()).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn name_or_gone(name: Option<&Name>) -> String {
    name.map_or_else(|| "(gone)".to_owned(), ToString::to_string)
}
