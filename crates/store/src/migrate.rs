//! Migrations: forward only, checksummed, one process at a time. Only `riacho migrate` and
//! `riacho up` run them; a service merely checks the version.

use refinery::{Migration, Runner};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::{Config, Error, Store, error::chain, tls};

/// The files of schemas/postgres: (`V<number>__<name>`, SQL).
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// The advisory lock of schema changes ("riacho", as a number).
const LOCK: i64 = 0x7269_6163_686f;

const HISTORY: &str = "schema_history";

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The migrations that were applied now.
    pub applied: Vec<String>,
    /// The version that the schema is at.
    pub at: i32,
}

/// Brings the schema to the version of this build. Run again it does nothing.
pub async fn migrate(config: &Config) -> Result<Report, Error> {
    let mut owner = Owner::connect(config).await?;
    let result = run(&mut owner.client).await;
    owner.close().await;
    result
}

async fn run(client: &mut Client) -> Result<Report, Error> {
    let mut runner = Runner::new(&migrations()?).set_abort_divergent(true).set_abort_missing(true);
    runner.set_migration_table_name(HISTORY);
    let report = runner.run_async(client).await.map_err(failed)?;
    client.batch_execute(GRANT_HISTORY).await?;
    let applied = report.applied_migrations().iter().map(ToString::to_string).collect();
    Ok(Report { applied, at: newest() })
}

/// A connection of the login that owns the tables.
pub(crate) struct Owner {
    pub(crate) client: Client,
    /// Ends with this value: a statement that nobody waits for any more must not hold its connection.
    connection: JoinSet<()>,
}

impl Owner {
    /// Changes of the schema are made by one process at a time.
    pub(crate) async fn connect(config: &Config) -> Result<Self, Error> {
        let owner = Self::connect_beside(config).await?;
        // The lock goes with the connection.
        owner.client.execute(TAKE_LOCK, &[&LOCK]).await?;
        Ok(owner)
    }

    /// Without the lock, for what takes long beside changes of the schema. A build of an index that waited for it, or that others
    /// waited for with the lock, would never end: it waits itself for every older snapshot, and so for those who wait.
    pub(crate) async fn connect_beside(config: &Config) -> Result<Self, Error> {
        let parsed = tls::parse_url(config.owner_url().expose(), config)?;
        let connector = tls::connector(config.tls_ca_file.as_deref())?;
        let (client, connection) = parsed.connect(connector).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = chain(&error), "the connection of the schema's owner broke");
            }
        });
        Ok(Self { client, connection: tasks })
    }

    /// Ends the connection and waits until it has ended: a database that is connected to cannot be
    /// copied or dropped.
    pub(crate) async fn close(mut self) {
        drop(self.client);
        // It ends because its client is gone; a panic in it has nothing to tell any more.
        let _ = self.connection.join_next().await;
    }
}

impl Store {
    /// Refuses a schema that is older, newer or other than the one this build works with.
    pub async fn check_version(&self) -> Result<(), Error> {
        let client = self.client().await?;
        let rows = client.query(READ_HISTORY, &[]).await.map_err(|error| match error.code() {
            Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE) => {
                Error::SchemaVersion("the database has no schema of Riacho; run `riacho migrate`".into())
            }
            _ => Error::from(error),
        })?;
        let mut applied = Vec::with_capacity(rows.len());
        for row in rows {
            applied.push((row.try_get::<_, i32>(0)?, row.try_get::<_, String>(1)?));
        }
        compare(&applied, &expected()?)
    }
}

fn compare(applied: &[(i32, String)], expected: &[(i32, String)]) -> Result<(), Error> {
    let (at, newest) = (applied.last().map_or(0, |m| m.0), expected.last().map_or(0, |m| m.0));
    let message = if at < newest {
        format!("the schema is at version {at}, this build needs {newest}; run `riacho migrate`")
    } else if at > newest {
        format!("the schema is at version {at}, this build knows only {newest}; run a newer build")
    } else if let Some(pair) = applied.iter().zip(expected).find(|(a, e)| a != e) {
        format!(
            "migration {} is not the one that this build has; run the build that made this database",
            pair.0.0
        )
    } else {
        return Ok(());
    };
    Err(Error::SchemaVersion(message))
}

fn migrations() -> Result<Vec<Migration>, Error> {
    FILES.iter().map(|(name, sql)| Migration::unapplied(name, sql).map_err(failed)).collect()
}

fn expected() -> Result<Vec<(i32, String)>, Error> {
    let mut versions: Vec<_> =
        migrations()?.iter().map(|m| (m.version(), m.checksum().to_string())).collect();
    versions.sort();
    Ok(versions)
}

fn newest() -> i32 {
    expected().ok().and_then(|versions| versions.last().map(|m| m.0)).unwrap_or(0)
}

#[allow(clippy::needless_pass_by_value)] // a function for map_err
fn failed(error: refinery::Error) -> Error {
    use refinery::error::Kind;
    match error.kind() {
        Kind::DivergentVersion(..) | Kind::MissingVersion(..) | Kind::RepeatedVersion(..) => {
            Error::SchemaVersion(format!("{error}; migrations never change once they have run"))
        }
        _ => Error::Setup(format!("the migration failed: {}", chain(&error))),
    }
}

const TAKE_LOCK: &str = "-- store::migrate::connect
SELECT pg_advisory_lock($1)";

const GRANT_HISTORY: &str = "-- store::migrate::migrate
GRANT SELECT ON schema_history TO riacho_service, riacho_janitor";

const READ_HISTORY: &str = "-- store::migrate::check_version
SELECT version, checksum FROM schema_history ORDER BY version";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[TAKE_LOCK, READ_HISTORY];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn history(entries: &[(i32, &str)]) -> Vec<(i32, String)> {
        entries.iter().map(|(v, c)| (*v, (*c).to_owned())).collect()
    }

    #[test]
    fn another_schema_version_is_refused_with_what_to_run() {
        let expected = history(&[(1, "a"), (2, "b")]);
        let refused =
            |applied: &[(i32, &str)]| compare(&history(applied), &expected).unwrap_err().to_string();
        assert!(compare(&expected, &expected).is_ok());
        assert!(refused(&[(1, "a")]).contains("riacho migrate"));
        assert!(refused(&[(1, "a"), (2, "b"), (3, "c")]).contains("newer build"));
        assert!(refused(&[(1, "a"), (2, "x")]).contains("migration 2"));
    }

    #[test]
    fn the_files_are_numbered_without_gaps() {
        let versions: Vec<i32> = expected().unwrap().iter().map(|m| m.0).collect();
        assert_eq!(versions, (1..=i32::try_from(FILES.len()).unwrap()).collect::<Vec<_>>());
    }
}
