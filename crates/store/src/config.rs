//! How the services reach PostgreSQL.

use std::{path::PathBuf, time::Duration};

use riacho_domain::SecretUrl;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, tls};

/// The section `database` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// URL of PostgreSQL for the services, `postgres://user:password@host:port/database?sslmode=require`.
    /// A Unix socket is given as `postgres:///database?host=/directory`. With `sslmode=require` the
    /// server's certificate is verified.
    pub url: SecretUrl,
    /// URL with the login that owns the tables, for `riacho migrate`; `url` when it is not set.
    pub migrate_url: Option<SecretUrl>,
    /// URL with the login of the janitor, which may work as `riacho_janitor`; `url` when it is not set.
    pub janitor_url: Option<SecretUrl>,
    /// URL of a read replica that answers searches; they go to `url` when it is not set.
    pub read_url: Option<SecretUrl>,
    /// Connections that one process opens at most to each URL.
    pub pool_size: usize,
    /// A statement that takes longer is cancelled, and counts as an outage of the database.
    pub statement_timeout_ms: u64,
    /// A transaction in which the server waits longer for the next statement is rolled back: that of a process which was cut
    /// off or stands still would keep its locks, and hold up all others. At least 1.
    pub idle_transaction_timeout_ms: u64,
    /// Time to open a connection.
    pub connect_timeout_ms: u64,
    /// Time to wait for a free connection of the pool.
    pub acquire_timeout_ms: u64,
    /// PEM file with the authorities that may sign the server's certificate, instead of the public ones.
    pub tls_ca_file: Option<PathBuf>,
    /// Up to this many vectors in a space a tenant's search compares all of them; a tenant with more has an index of its own.
    pub exact_search_rows: u32,
    /// The most memory in MiB that PostgreSQL takes to build a tenant's index, which takes as much as it needs: about 1.1 MiB for a
    /// thousand vectors of 256 values. With less than it needs a build takes many times as long. In a container its shared memory
    /// has to be as large.
    pub index_memory_mb: u32,
    /// Hours after its release at which a document that is still not ready fails.
    pub deadline_hours: u32,
    /// Called with the server's process id of each new connection; for a server on this machine.
    #[serde(skip)]
    pub on_backend: Option<fn(i32)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: SecretUrl::from("postgres:///riacho?host=/var/run/postgresql"),
            migrate_url: None,
            janitor_url: None,
            read_url: None,
            pool_size: 16,
            statement_timeout_ms: 60_000,
            idle_transaction_timeout_ms: 10_000,
            connect_timeout_ms: 5_000,
            acquire_timeout_ms: 10_000,
            tls_ca_file: None,
            exact_search_rows: 20_000,
            index_memory_mb: 2_048,
            deadline_hours: 72,
            on_backend: None,
        }
    }
}

impl Config {
    /// A configuration for one URL with defaults for the rest.
    #[must_use]
    pub fn for_url(url: &str) -> Self {
        Self { url: SecretUrl::from(url), ..Self::default() }
    }

    /// Checks URLs and authorities without connecting; an error comes with the key it is about.
    ///
    /// # Errors
    /// A URL that cannot be read, or a file of authorities that cannot be used.
    pub fn check(&self) -> Result<(), (&'static str, Error)> {
        let urls = [
            ("database.url", Some(&self.url)),
            ("database.migrate_url", self.migrate_url.as_ref()),
            ("database.janitor_url", self.janitor_url.as_ref()),
            ("database.read_url", self.read_url.as_ref()),
        ];
        for (key, url) in urls {
            if let Some(url) = url {
                tls::parse_url(url.expose(), self).map_err(|error| (key, error))?;
            }
        }
        let longest = u64::from(i32::MAX.unsigned_abs());
        for (key, value) in [
            ("database.statement_timeout_ms", self.statement_timeout_ms),
            ("database.idle_transaction_timeout_ms", self.idle_transaction_timeout_ms),
        ] {
            if !(1..=longest).contains(&value) {
                return Err((key, Error::Setup(format!("must be 1 to {longest}"))));
            }
        }
        let authorities = tls::connector(self.tls_ca_file.as_deref());
        authorities.map(drop).map_err(|error| ("database.tls_ca_file", error))
    }

    pub(crate) fn owner_url(&self) -> &SecretUrl {
        self.migrate_url.as_ref().unwrap_or(&self.url)
    }

    pub(crate) fn janitor_url(&self) -> &SecretUrl {
        self.janitor_url.as_ref().unwrap_or(&self.url)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn passwords_do_not_show() {
        let config = Config::for_url("postgres://me:hunter2@host/db");
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hunter2"));
    }
}
