//! Leadership by lease, on the database's clock. Every task is right with two leaders, too; a lease
//! only keeps them from doing everything twice.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use crate::{
    Error, Store,
    transaction::{Param, Scope},
};

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is about.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// Grows with each new holder.
    pub token: i64,
    /// When it ends unless it is renewed, on the database's clock.
    pub expires_at: DateTime<Utc>,
}

impl Lease {
    fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            name: row.try_get("name")?,
            holder: row.try_get("holder")?,
            token: row.try_get("token")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}

impl Store {
    /// Takes a lease that is free or has ended. None: somebody holds it.
    pub async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, Error> {
        let seconds = ttl.as_secs_f64();
        let rows = self.single(Scope::all("acquire_lease"), ACQUIRE, &[&name, &holder, &seconds]).await?;
        rows.first().map(Lease::read).transpose()
    }

    /// Extends a lease. None: it ended, or somebody else has it.
    pub async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<Option<Lease>, Error> {
        let seconds = ttl.as_secs_f64();
        let params: [Param<'_>; 4] = [&lease.name, &lease.holder, &lease.token, &seconds];
        let rows = self.single(Scope::all("renew_lease"), RENEW, &params).await?;
        rows.first().map(Lease::read).transpose()
    }

    /// Gives a lease back. False: it was no longer held.
    pub async fn release_lease(&self, lease: &Lease) -> Result<bool, Error> {
        let params: [Param<'_>; 3] = [&lease.name, &lease.holder, &lease.token];
        let rows = self.single(Scope::all("release_lease"), RELEASE, &params).await?;
        Ok(!rows.is_empty())
    }
}

const ACQUIRE: &str = "-- store::leases::acquire_lease
INSERT INTO leases AS l (name, holder, token, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, token = l.token + 1, expires_at = clock_timestamp() + make_interval(secs => $3)
WHERE l.expires_at <= clock_timestamp()
RETURNING l.name, l.holder, l.token, l.expires_at";

const RENEW: &str = "-- store::leases::renew_lease
UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => $4)
WHERE name = $1 AND holder = $2 AND token = $3 AND expires_at > clock_timestamp()
RETURNING name, holder, token, expires_at";

const RELEASE: &str = "-- store::leases::release_lease
UPDATE leases SET expires_at = clock_timestamp()
WHERE name = $1 AND holder = $2 AND token = $3 AND expires_at > clock_timestamp()
RETURNING name";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[ACQUIRE, RENEW, RELEASE];
