//! `corelane token`.

use clap::{Subcommand, ValueEnum};

use crate::accounts::model::{Id, TokenScope};
use crate::accounts::names::Name;
use crate::accounts::operations::{Operation, Outcome, TokenView};
use crate::cli::CliError;
use crate::cli::accounts::limits::Span;
use crate::cli::accounts::{
    CommonArgs, consequences, done_text, name_or_gone, or_dash, strange, table,
};
use crate::exit::ExitCode;

/// What a token may be used for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Scope {
    /// Logging in to the tunnel
    Tunnel,
    /// Use of the proxy gateway
    Proxy,
}

#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// Make a token, and show it once
    Create {
        /// Whom it stands for
        user: Name,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
        /// What it may be used for [default: tunnel; proxy for a gateway without one]
        #[arg(long, value_enum)]
        scope: Option<Scope>,
        /// After how long it ceases to be good [default: never]
        #[arg(long, value_name = "TIME")]
        expires: Option<Span>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List tokens, of one user or of all
    Ls {
        /// Whose
        user: Option<Name>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Make a token worthless, and end the sessions that were opened with it
    Revoke {
        /// Its number
        token: i64,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) fn run(command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::Create { user, label, scope, expires, common } => {
            let scope = match (scope, common.reach.is_gateway()?) {
                (Some(Scope::Tunnel), true) => {
                    let message = "this is the file of a gateway without a tunnel: a token for the \
                                   tunnel is good for nothing there (`--scope proxy`)";
                    return Err(CliError::new(ExitCode::Usage, message));
                }
                (Some(scope), _) => scope,
                (None, true) => Scope::Proxy,
                (None, false) => Scope::Tunnel,
            };
            let operation = Operation::TokenCreate {
                user,
                label,
                scope: match scope {
                    Scope::Tunnel => TokenScope::Tunnel,
                    Scope::Proxy => TokenScope::Proxy,
                },
                expires_s: expires.map(|Span(expires)| expires.as_secs()),
            };
            common.run(operation, |outcome| match outcome {
                Outcome::Token(made) => format!(
                    "token {} of {} is made{}, expires {}\n{}\n",
                    made.id.0,
                    made.user,
                    consequences(&made.done),
                    made.expires.as_deref().unwrap_or("never"),
                    made.token.expose()
                ),
                other => strange(other),
            })
        }
        TokenCommand::Ls { user, common } => common.run(Operation::TokenList { user }, tokens_text),
        TokenCommand::Revoke { token, common } => {
            let operation = Operation::TokenRevoke { token: Id(token) };
            let what = format!("token {token} is revoked");
            common.run(operation, |outcome| done_text(&what, outcome))
        }
    }
}

fn tokens_text(outcome: &Outcome) -> String {
    let Outcome::Tokens(tokens) = outcome else { return strange(outcome) };
    let row = |token: &TokenView| {
        let scope = serde_json::json!(token.scope);
        [
            token.id.0.to_string(),
            name_or_gone(token.user.as_ref()),
            scope.as_str().unwrap_or_default().to_owned(),
            token.label.clone(),
            or_dash(token.expires.as_ref()),
            or_dash(token.last_used.as_ref()),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    table::render(["TOKEN", "USER", "SCOPE", "LABEL", "EXPIRES", "LAST USED"], &rows)
}
