//! PostgreSQL, with an answer awaited for a bounded time whatever becomes of the server.
//!
//! The driver is asynchronous. Each connection has a runtime of its own that lives on the thread
//! which asks, and only while it asks.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, Statement};

use crate::accounts::store::error::StoreError;
use crate::accounts::store::value::{Row, Value};
use crate::limits::{STORE_ANSWER_WITHIN, STORE_CONNECT_WITHIN, STORE_LOCK_WITHIN};

/// A connection.
pub(super) struct Postgres {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    client: Client,
    statements: HashMap<String, Statement>,
    notified: Arc<Notify>,
}

impl Postgres {
    /// Connects.
    pub(super) fn connect(config: &Config) -> Result<Self, StoreError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| StoreError::Away { cause: format!("no event loop: {error}") })?;
        let mut config = config.clone();
        config.application_name("corelane");
        config.connect_timeout(STORE_CONNECT_WITHIN);
        config.tcp_user_timeout(STORE_ANSWER_WITHIN);
        let connected = bounded(&runtime, STORE_CONNECT_WITHIN, config.connect(NoTls));
        let (client, mut connection) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                // A name may still be looked up on a thread that nothing can hurry.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let notified = Arc::new(Notify::new());
        let notify = Arc::clone(&notified);
        runtime.spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(_) = message {
                    notify.notify_one();
                }
            }
            // The client tells that the connection is closed; a listener should not wait for that.
            notify.notify_one();
        });
        let statements = HashMap::new();
        let mut postgres = Self { runtime: Some(runtime), client, statements, notified };
        postgres.run(&format!(
            "SET statement_timeout = {}; SET lock_timeout = {}; \
             SET idle_in_transaction_session_timeout = {}; SET client_encoding = 'UTF8'",
            STORE_ANSWER_WITHIN.as_millis() / 2,
            STORE_LOCK_WITHIN.as_millis(),
            2 * STORE_ANSWER_WITHIN.as_millis(),
        ))?;
        Ok(postgres)
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
        let runtime = self.runtime.as_ref();
        let runtime = runtime.ok_or_else(|| StoreError::Away { cause: "closed".to_owned() })?;
        bounded(runtime, STORE_ANSWER_WITHIN, answer)
    }

    fn prepared(&mut self, statement: &str) -> Result<Statement, StoreError> {
        if let Some(prepared) = self.statements.get(statement) {
            return Ok(prepared.clone());
        }
        let prepared = self.wait(self.client.prepare(statement))?;
        self.statements.insert(statement.to_owned(), prepared.clone());
        Ok(prepared)
    }

    pub(super) fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64, StoreError> {
        let prepared = self.prepared(statement)?;
        self.wait(self.client.execute(&prepared, &references(values)))
    }

    pub(super) fn query(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>, StoreError> {
        let prepared = self.prepared(statement)?;
        let rows = self.wait(self.client.query(&prepared, &references(values)))?;
        rows.iter().map(row).collect()
    }

    pub(super) fn run(&mut self, statements: &str) -> Result<(), StoreError> {
        self.wait(self.client.batch_execute(statements))
    }

    /// Waits until another connection notifies or this one is lost; `false` if the time is over
    /// first.
    pub(super) fn await_notification(&mut self, within: Duration) -> bool {
        let notified = self.notified.notified();
        self.runtime.as_ref().is_none_or(|runtime| {
            runtime.block_on(async { timeout(within, notified).await }).is_ok()
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn bounded<T>(
    runtime: &Runtime,
    within: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    // The timer must be made inside of the runtime.
    match runtime.block_on(async { timeout(within, answer).await }) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(of_postgres(&error)),
        Err(_) => Err(StoreError::Away {
            cause: format!("PostgreSQL has not answered for {} s", within.as_secs()),
        }),
    }
}

fn references(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

fn row(row: &tokio_postgres::Row) -> Result<Row, StoreError> {
    let column = |(index, column): (usize, &tokio_postgres::Column)| {
        let value = match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(index).map(Value::optional),
            Type::BYTEA => row
                .try_get::<_, Option<Vec<u8>>>(index)
                .map(|bytes| bytes.map_or(Value::Null, Value::Bytes)),
            _ => row
                .try_get::<_, Option<String>>(index)
                .map(|text| text.map_or(Value::Null, Value::Text)),
        };
        value.map_err(|error| StoreError::Damaged {
            what: format!(
                "column `{}` is of another type than it should be: {error}",
                column.name()
            ),
        })
    };
    let columns = row.columns().iter().enumerate().map(column);
    Ok(Row::new(columns.collect::<Result<_, _>>()?))
}

fn of_postgres(error: &Error) -> StoreError {
    let Some(database_error) = error.as_db_error() else {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        return StoreError::Away { cause: format!("PostgreSQL: {error}{cause}") };
    };
    let words = database_error.message();
    let detail = database_error.detail().map_or_else(String::new, |text| format!(" ({text})"));
    // The first two characters are the class of an error (PostgreSQL manual, appendix A).
    let code = database_error.code().code();
    match code.get(..2) {
        Some("22" | "23") => StoreError::Refused { reason: format!("{words}{detail}") },
        _ if matches!(code, "XX001" | "XX002") => {
            StoreError::Damaged { what: format!("{words}{detail}") }
        }
        _ => {
            let advice = match code {
                "3D000" => "; make the database with `createdb`",
                "28P01" | "28000" => "; look at the user and the password in the address",
                "42501" => "; its user must own the database, or the schema `corelane` in it",
                "53300" => "; raise `max_connections` in postgresql.conf",
                _ => "",
            };
            StoreError::Away { cause: format!("PostgreSQL: {words}{detail}{advice}") }
        }
    }
}
