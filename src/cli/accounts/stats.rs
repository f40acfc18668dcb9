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
    if by == StatsBy::Destination {
        return destinations_text(usage);
    }
    let row = |line: &UsageView| {
        let about = if by == StatsBy::User { &line.user } else { &line.day };
        let about = or_dash(about.as_ref());
        [about, units::bytes(line.received_bytes), units::bytes(line.sent_bytes)]
    };
    let heading = if by == StatsBy::User { "USER" } else { "DAY" };
    let rows: Vec<_> = usage.iter().map(row).collect();
    table::render([heading, "RECEIVED", "SENT"], &rows)
}

fn destinations_text(usage: &[UsageView]) -> String {
    let row = |line: &UsageView| {
        let connections = line.connections.map(units::count);
        let (received, sent) = (units::bytes(line.received_bytes), units::bytes(line.sent_bytes));
        [or_dash(line.destination.as_ref()), or_dash(connections.as_ref()), received, sent]
    };
    let rows: Vec<_> = usage.iter().map(row).collect();
    table::render(["DESTINATION", "CONNECTIONS", "RECEIVED", "SENT"], &rows)
}
