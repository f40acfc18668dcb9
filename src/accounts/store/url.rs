//! Where the database is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;
use tokio_postgres::config::{Host, SslMode};

/// Where the database is: the path of an SQLite file, plain or as `sqlite:/path`, or the address of
/// a PostgreSQL database, `postgres://user@host/database`.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file, which is made when it does not exist.
    Sqlite(PathBuf),
    /// A PostgreSQL database. It may contain a password, so it is neither shown nor logged.
    Postgres(Box<tokio_postgres::Config>),
}

/// Why a text is not the place of a database.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadDatabaseUrl {
    /// It names nothing.
    #[error("an empty text names no database; give the path of a file, or `postgres://...`")]
    Empty,
    /// It has a scheme that is unknown.
    #[error("`{0}:` is not supported; give the path of a file, or `postgres://user@host/database`")]
    Scheme(String),
    /// PostgreSQL's parser does not understand it.
    #[error(
        "that is not the address of a PostgreSQL database ({0}); one is \
         `postgres://user@host:5432/database`, or with a Unix socket \
         `postgres://user@%2Frun%2Fpostgresql/database`"
    )]
    Postgres(String),
    /// It demands TLS.
    #[error(
        "`sslmode=require` cannot be met: TLS to PostgreSQL is not supported; use a Unix socket, a \
         network that nobody else is on, or a tunnel, and leave `sslmode` out"
    )]
    Tls,
    /// It does not say where the server is.
    #[error("the address of a PostgreSQL database must name a host or the folder of a socket")]
    Host,
}

impl DatabaseUrl {
    /// Whether several servers may use it at once.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    fn postgres(text: &str) -> Result<Self, BadDatabaseUrl> {
        let config = text.parse::<tokio_postgres::Config>();
        let config = config.map_err(|error| {
            // Its own words never repeat the address, and so no password.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            BadDatabaseUrl::Postgres(cause.unwrap_or_else(|| error.to_string()))
        })?;
        if !matches!(config.get_ssl_mode(), SslMode::Disable | SslMode::Prefer) {
            return Err(BadDatabaseUrl::Tls);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(BadDatabaseUrl::Host);
        }
        Ok(Self::Postgres(Box::new(config)))
    }
}

impl FromStr for DatabaseUrl {
    type Err = BadDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, BadDatabaseUrl> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Self::postgres(text);
        }
        let path = match text.split_once(':') {
            Some(("sqlite", path)) => path.strip_prefix("//").unwrap_or(path),
            Some((scheme, _)) if !scheme.contains('/') => {
                return Err(BadDatabaseUrl::Scheme(scheme.to_owned()));
            }
            _ => text,
        };
        if path.is_empty() { Err(BadDatabaseUrl::Empty) } else { Ok(Self::Sqlite(path.into())) }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(out, "{}", path.display()),
            Self::Postgres(config) => {
                let host = match config.get_hosts().first() {
                    Some(Host::Tcp(name)) => name.clone(),
                    Some(Host::Unix(folder)) => folder.display().to_string(),
                    None => {
                        config.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default()
                    }
                };
                let database =
                    config.get_dbname().or_else(|| config.get_user()).unwrap_or("postgres");
                write!(out, "the PostgreSQL database `{database}` at {host}")
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_truth_table() {
        for (text, path) in [
            ("/var/lib/corelane/accounts.db", "/var/lib/corelane/accounts.db"),
            ("sqlite:/x/y.db", "/x/y.db"),
            ("sqlite:///x/y.db", "/x/y.db"),
            ("sqlite:relative.db", "relative.db"),
            ("relative.db", "relative.db"),
            ("/with:colon", "/with:colon"),
        ] {
            assert_eq!(text.parse(), Ok(DatabaseUrl::Sqlite(path.into())), "{text}");
        }
        for (text, error) in [
            ("", BadDatabaseUrl::Empty),
            ("sqlite:", BadDatabaseUrl::Empty),
            ("mysql://h/d", BadDatabaseUrl::Scheme("mysql".to_owned())),
            ("postgres://h/d?sslmode=require", BadDatabaseUrl::Tls),
            ("postgres:///d", BadDatabaseUrl::Host),
        ] {
            assert_eq!(text.parse::<DatabaseUrl>(), Err(error), "{text}");
        }
        assert!(matches!(
            "postgres://h:port/d".parse::<DatabaseUrl>(),
            Err(BadDatabaseUrl::Postgres(_))
        ));
    }

    #[test]
    fn a_password_in_the_address_is_not_shown() {
        for text in [
            "postgres://u:hunter2@db.example/corelane",
            "postgres://u:hunter2@%2Frun%2Fpostgresql/corelane",
        ] {
            let place = text.parse::<DatabaseUrl>().unwrap();
            let shown = format!("{place} {place:?}");
            assert!(!shown.contains("hunter2") && shown.contains("corelane"), "{shown}");
        }
        let error = "postgres://u:hunter2@db:0x/d".parse::<DatabaseUrl>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
