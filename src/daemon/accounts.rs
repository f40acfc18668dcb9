//! The accounts of a daemon: how they are opened, how it stands with them, and those of a gateway
//! without a tunnel.

use std::time::Instant;

use crate::accounts::credentials::demand::LoginPolicy;
use crate::accounts::service::{Accounts, AccountsOptions};
use crate::accounts::store::DatabaseUrl;
use crate::config::{AccountsConfig, DatabasePlace};
use crate::daemon::accounts_socket::AccountsSocket;
use crate::daemon::client_state::read_secret;
use crate::daemon::{DaemonError, StateError};
use crate::policy::{Defaults, SharedPolicies};
use crate::proxy::access::AccessOptions;
use crate::sys::clock;
use crate::telemetry::status::AccountsStatus;

/// What the configuration says of accounts; of inner addresses and keys it says nothing.
pub(super) fn options(config: &AccountsConfig) -> Result<AccountsOptions, DaemonError> {
    let (spool, name) = (config.spool_file.clone(), config.server_name.clone());
    Ok(AccountsOptions {
        policy: LoginPolicy::new(config.require.clone()),
        policy_defaults: Defaults {
            without_rules: config.without_rules,
            isolate: config.isolate_clients,
        },
        audit_log: config.audit_log_file.clone(),
        retention: config.retention,
        ..AccountsOptions::new(url_of(&config.database)?, spool, name)
    })
}

fn url_of(database: &DatabasePlace) -> Result<DatabaseUrl, DaemonError> {
    match database {
        DatabasePlace::Url(url) => Ok(url.clone()),
        DatabasePlace::File(file) => {
            let text = read_secret(file).map_err(StateError::Token)?;
            text.expose().parse().map_err(DaemonError::DatabaseUrl)
        }
    }
}

/// Opens the accounts of a server that is stopped, to administer them.
///
/// # Errors
/// The server runs, or the database cannot be used.
pub fn open_accounts(config: &AccountsConfig) -> Result<Accounts, DaemonError> {
    let options = options(config)?;
    Ok(Accounts::open(AccountsOptions { hashers: 1, ..options })?)
}

/// How it stands with accounts.
pub(super) fn status(accounts: &Accounts) -> AccountsStatus {
    let journal = accounts.journal_status();
    let away_for = |since: Instant| clock::now().saturating_duration_since(since);
    AccountsStatus {
        sessions: accounts.session_count(),
        waiting_batches: journal.pending_batches,
        waiting_bytes: journal.pending_bytes,
        refused_batches: journal.refused_batches,
        rejected_batches: journal.rejected_batches,
        spool_full: journal.is_full,
        unkept_revocations: journal.owed_batches,
        database_away: journal.away,
        database_away_s: journal.away_since.map(|since| away_for(since).as_secs_f64()),
    }
}

/// The accounts of a gateway without a tunnel, and where administrators reach them.
pub(super) struct Members {
    _socket: AccountsSocket,
    accounts: Accounts,
    defaults: Defaults,
}

impl Members {
    /// Opens both.
    pub(super) fn open(config: &AccountsConfig) -> Result<Self, DaemonError> {
        let options = options(config)?;
        let defaults = options.policy_defaults;
        let accounts = Accounts::open(options)?;
        let socket = AccountsSocket::open(&config.socket, accounts.clone())?;
        Ok(Self { _socket: socket, accounts, defaults })
    }

    /// By which the gateway knows its clients.
    pub(super) fn access(&self) -> AccessOptions {
        AccessOptions {
            accounts: self.accounts.clone(),
            policies: SharedPolicies::default(),
            defaults: self.defaults,
            pools: Vec::new(),
        }
    }

    /// How it stands with them.
    pub(super) fn status(&self) -> AccountsStatus {
        status(&self.accounts)
    }
}
