//! `corelane stats`.

use clap::Args;

use crate::accounts::names::Name;
use crate::accounts::operations::{Operation, Outcome, StatsBy, UsageView};
use crate::cli::accounts::limits::Span;
use crate::cli::accounts::{CommonArgs, or_dash, strange, table};
use crate::cli::{CliError, units};

#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Only this user
    #[arg(long, value_name = "NAME")]
    user: Option<Name>,
    /// How far to look back; whole days (UTC) are counted
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: Span,
    /// What a line is about
    #[arg(long, value_enum, default_value = "user")]
    by: StatsBy,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) fn run(args: StatsArgs) -> Result<(), CliError> {
    let StatsArgs { user, since, by, common } = args;
    let operation = Operation::Stats { user, since_s: since.0.as_secs(), by };
    common.run(operation, |outcome| usage_text(outcome, by))
}

fn usage_text(outcome: &Outcome, by: StatsBy) -> String {
    let Outcome::Usage(usage) = outcome else { return strange(outcome) };
    let row = |line: &UsageView| {
        let about = match by {
            StatsBy::User => or_dash(line.user.as_ref()),
            StatsBy::Day => or_dash(line.day.as_ref()),
        };
        [about, units::bytes(line.received_bytes), units::bytes(line.sent_bytes)]
    };
    let heading = match by {
        StatsBy::User => "USER",
        StatsBy::Day => "DAY",
    };
    let rows: Vec<_> = usage.iter().map(row).collect();
    table::render([heading, "RECEIVED", "SENT"], &rows)
}
