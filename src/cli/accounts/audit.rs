//! `corelane audit`.

use clap::Args;

use crate::accounts::names::Name;
use crate::accounts::operations::{AuditView, Operation, Outcome};
use crate::cli::CliError;
use crate::cli::accounts::limits::Span;
use crate::cli::accounts::{CommonArgs, or_dash, strange, table};

#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// Only what this user did, and what was done to it
    #[arg(long, value_name = "NAME")]
    user: Option<Name>,
    /// How far to look back
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: Span,
    /// How many entries at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u32,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) fn run(args: AuditArgs) -> Result<(), CliError> {
    let AuditArgs { user, since, limit, common } = args;
    let operation = Operation::Audit { user, since_s: since.0.as_secs(), limit };
    common.run(operation, audit_text)
}

fn audit_text(outcome: &Outcome) -> String {
    let Outcome::Audit(entries) = outcome else { return strange(outcome) };
    let row = |entry: &AuditView| {
        [
            entry.at.clone(),
            entry.actor.clone(),
            entry.action.clone(),
            entry.subject.clone(),
            or_dash(entry.from),
            entry.outcome.clone(),
            entry.detail.clone(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    table::render(["AT", "WHO", "WHAT", "TO", "FROM", "OUTCOME", "DETAIL"], &rows)
}
