//! What goes into a statement and comes out of a row, the same for either database.

use std::error::Error;
use std::str::FromStr;

use rusqlite::types::{ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::accounts::model::{Id, UnixMs};
use crate::accounts::names::Name;
use crate::accounts::store::error::StoreError;

/// One value. The schema has no other types than these.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing.
    Null,
    /// A number, a time, or 0 and 1 for no and yes.
    Integer(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Value {
    /// Text as either database takes it: PostgreSQL has no NUL in a text.
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.replace('\0', "\u{fffd}"))
    }

    /// A count of bytes; columns end at `i64::MAX`, which is 9 exabytes.
    pub(super) fn count(count: u64) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Something that is looked at as a whole, as JSON.
    pub(super) fn json(value: &impl Serialize) -> Result<Self, StoreError> {
        serde_json::to_string(value).map(Self::Text).map_err(|error| StoreError::Refused {
            reason: format!("a value cannot be written as JSON: {error}"),
        })
    }

    /// `value`, or nothing.
    pub(super) fn optional<T: Into<Self>>(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Integer(i64::from(value))
    }
}

impl From<Id> for Value {
    fn from(value: Id) -> Self {
        Self::Integer(value.0)
    }
}

impl From<UnixMs> for Value {
    fn from(value: UnixMs) -> Self {
        Self::Integer(value.0)
    }
}

impl From<&Name> for Value {
    fn from(value: &Name) -> Self {
        Self::text(value.as_str())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::text(value)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
            Self::Bytes(value) => ValueRef::Blob(value),
        }))
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(value) if *kind == Type::INT8 => value.to_sql(kind, out),
            Self::Text(value) if *kind == Type::TEXT => value.to_sql(kind, out),
            Self::Bytes(value) if *kind == Type::BYTEA => value.to_sql(kind, out),
            other => Err(format!("{other:?} where the statement takes {kind}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A row, whose columns are taken from left to right.
#[derive(Debug)]
pub(super) struct Row {
    columns: std::vec::IntoIter<Value>,
}

impl Row {
    pub(super) fn new(columns: Vec<Value>) -> Self {
        Self { columns: columns.into_iter() }
    }

    /// All that is left of it.
    pub(super) fn into_values(self) -> Vec<Value> {
        self.columns.collect()
    }

    fn unexpected(found: Option<&Value>, wanted: &str) -> StoreError {
        StoreError::Damaged { what: format!("a column has {found:?} where {wanted} belongs") }
    }

    pub(super) fn integer(&mut self) -> Result<i64, StoreError> {
        self.optional_integer()?.ok_or_else(|| Self::unexpected(None, "a number"))
    }

    pub(super) fn optional_integer(&mut self) -> Result<Option<i64>, StoreError> {
        match self.columns.next() {
            Some(Value::Integer(value)) => Ok(Some(value)),
            Some(Value::Null) => Ok(None),
            other => Err(Self::unexpected(other.as_ref(), "a number")),
        }
    }

    /// A count of bytes; there are no negative ones.
    pub(super) fn count(&mut self) -> Result<u64, StoreError> {
        Ok(u64::try_from(self.integer()?).unwrap_or(0))
    }

    pub(super) fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.integer()? != 0)
    }

    pub(super) fn id(&mut self) -> Result<Id, StoreError> {
        self.integer().map(Id)
    }

    pub(super) fn optional_id(&mut self) -> Result<Option<Id>, StoreError> {
        Ok(self.optional_integer()?.map(Id))
    }

    /// Days since 1970.
    pub(super) fn day(&mut self) -> Result<i32, StoreError> {
        let day = self.integer()?;
        i32::try_from(day).map_err(|_| Self::unexpected(Some(&Value::Integer(day)), "a day"))
    }

    pub(super) fn time(&mut self) -> Result<UnixMs, StoreError> {
        self.integer().map(UnixMs)
    }

    pub(super) fn optional_time(&mut self) -> Result<Option<UnixMs>, StoreError> {
        Ok(self.optional_integer()?.map(UnixMs))
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(|| Self::unexpected(None, "a text"))
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.columns.next() {
            Some(Value::Text(value)) => Ok(Some(value)),
            Some(Value::Null) => Ok(None),
            other => Err(Self::unexpected(other.as_ref(), "a text")),
        }
    }

    /// A text that stands for something: a name, an address.
    pub(super) fn parsed<T: FromStr>(&mut self) -> Result<T, StoreError> {
        let text = self.text()?;
        text.parse().map_err(|_| Self::unexpected(Some(&Value::Text(text)), "another text"))
    }

    pub(super) fn optional_parsed<T: FromStr>(&mut self) -> Result<Option<T>, StoreError> {
        let Some(text) = self.optional_text()? else { return Ok(None) };
        let parsed = text.parse().ok();
        parsed.map_or_else(
            || Err(Self::unexpected(Some(&Value::Text(text)), "another text")),
            |parsed| Ok(Some(parsed)),
        )
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        let text = self.text()?;
        serde_json::from_str(&text).map_err(|error| StoreError::Damaged {
            what: format!("a column has {text:?}: {error}"),
        })
    }

    /// A choice, by the word that serde has for it.
    pub(super) fn word<T: DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        self.optional_word()?.ok_or_else(|| Self::unexpected(None, "a word"))
    }

    pub(super) fn optional_word<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StoreError> {
        let Some(text) = self.optional_text()? else { return Ok(None) };
        let word = serde_json::Value::String(text.clone());
        serde_json::from_value(word)
            .map(Some)
            .map_err(|_| Self::unexpected(Some(&Value::Text(text)), "another word"))
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        self.optional_bytes()?.ok_or_else(|| Self::unexpected(None, "bytes"))
    }

    pub(super) fn optional_bytes(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.columns.next() {
            Some(Value::Bytes(value)) => Ok(Some(value)),
            Some(Value::Null) => Ok(None),
            other => Err(Self::unexpected(other.as_ref(), "bytes")),
        }
    }

    /// Exactly 32 bytes: a key or a hash.
    pub(super) fn digest(&mut self) -> Result<[u8; 32], StoreError> {
        let bytes = self.bytes()?;
        let len = bytes.len();
        bytes.try_into().map_err(|_| StoreError::Damaged {
            what: format!("a column has {len} bytes where 32 belong"),
        })
    }
}
