//! `corelane session`.

use clap::Subcommand;

use crate::accounts::model::Id;
use crate::accounts::names::Name;
use crate::accounts::operations::{Operation, Outcome, SessionView};
use crate::cli::accounts::{CommonArgs, done_text, join, name_or_gone, or_dash, strange, table};
use crate::cli::{CliError, units};

#[derive(Subcommand, Debug)]
pub(crate) enum SessionCommand {
    /// List sessions, newest first
    Ls {
        /// Whose; all users' if it is left out
        user: Option<Name>,
        /// Those that have ended, too
        #[arg(long)]
        ended: bool,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: u32,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Show a session that lasts
    Show {
        /// Its number
        session: i64,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// End a session, or all of a user's; who is still allowed in may log in again
    Kick {
        /// Its number
        #[arg(required_unless_present = "user")]
        session: Option<i64>,
        /// All sessions of this user
        #[arg(long, conflicts_with = "session")]
        user: Option<Name>,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) fn run(command: SessionCommand) -> Result<(), CliError> {
    match command {
        SessionCommand::Ls { user, ended, limit, common } => {
            common.run(Operation::SessionList { user, ended, limit }, sessions_text)
        }
        SessionCommand::Show { session, common } => {
            let operation = Operation::SessionShow { session: Id(session) };
            common.run(operation, |outcome| match outcome {
                Outcome::Session(session) => session_text(session),
                other => strange(other),
            })
        }
        SessionCommand::Kick { session, user, common } => {
            let (operation, what) = match (session, user) {
                (_, Some(user)) => {
                    let what = format!("{user} is kicked");
                    (Operation::SessionKickUser { user }, what)
                }
                (session, None) => {
                    let session = Id(session.unwrap_or_default());
                    (Operation::SessionKick { session }, format!("session {} is kicked", session.0))
                }
            };
            common.run(operation, |outcome| done_text(&what, outcome))
        }
    }
}

fn sessions_text(outcome: &Outcome) -> String {
    let Outcome::Sessions(sessions) = outcome else { return strange(outcome) };
    let row = |session: &SessionView| {
        [
            session.id.0.to_string(),
            name_or_gone(session.user.as_ref()),
            name_or_gone(session.device.as_ref()),
            session.server.to_string(),
            session.from.to_string(),
            session.started.clone(),
            or_dash(session.ended.as_ref()),
            units::bytes(session.received_bytes),
            units::bytes(session.sent_bytes),
        ]
    };
    let rows: Vec<_> = sessions.iter().map(row).collect();
    let headings =
        ["SESSION", "USER", "DEVICE", "SERVER", "FROM", "STARTED", "ENDED", "RECEIVED", "SENT"];
    table::render(headings, &rows)
}

fn session_text(session: &SessionView) -> String {
    table::list(&[
        ("session", session.id.0.to_string()),
        ("user", name_or_gone(session.user.as_ref())),
        ("device", name_or_gone(session.device.as_ref())),
        ("server", session.server.to_string()),
        ("from", session.from.to_string()),
        ("addresses", join(&session.addresses)),
        ("started", session.started.clone()),
        ("received", units::bytes(session.received_bytes)),
        ("sent", units::bytes(session.sent_bytes)),
    ])
}
